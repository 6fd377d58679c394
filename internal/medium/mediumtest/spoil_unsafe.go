// Package mediumtest makes blocks of a mapped medium bad, for tests.
package mediumtest

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Spoil makes pages bad: they are mapped beyond the end of a file, so that the kernel answers each access by SIGBUS, as it
// does for a block that the medium has lost. mem begins at a page, and lies in memory that is mapped from a file. What maps
// the pages anew makes them good again.
func Spoil(mem []byte) error {
	fd, err := unix.MemfdCreate("pmemfs-bad-block", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	defer unix.Close(fd)
	at := unsafe.Pointer(unsafe.SliceData(mem))
	_, err = unix.MmapPtr(fd, 0, at, uintptr(len(mem)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED)
	return os.NewSyscallError("mmap", err)
}
