package bench

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmapSmall maps size bytes of a file in pages of 4 KiB, whatever the kernel could do: huge pages need addresses that are
// multiples of 2 MiB where offsets are.
func mmapSmall(f *os.File, size int, flags int) (mem []byte, unmap func() error, err error) {
	room, err := unix.MmapPtr(-1, 0, nil, uintptr(size+2*hugePage), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, nil, fmt.Errorf("mmap: %w", err)
	}
	unmap = func() error { return unix.MunmapPtr(room, uintptr(size+2*hugePage)) }
	at := unsafe.Add(room, hugePage-uintptr(room)%hugePage+pageSize)
	if _, err := unix.MmapPtr(int(f.Fd()), 0, at, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_FIXED); err != nil {
		unmap() // of memory that nobody has used
		return nil, nil, fmt.Errorf("mmap %s: %w", f.Name(), err)
	}
	return unsafe.Slice((*byte)(at), size), unmap, nil
}
