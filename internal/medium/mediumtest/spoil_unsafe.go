// Package mediumtest makes blocks of a mapped medium bad, for tests.
package mediumtest

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

// Spoil makes pages bad: they are mapped beyond the end of a file, so that the kernel answers each access by SIGBUS, as it
// does for a block that the medium has lost. mem begins at a page, and lies in memory that is mapped from a file. What maps
// the pages anew makes them good again.
func Spoil(mem []byte) error {
	return spoil(unsafe.Pointer(unsafe.SliceData(mem)), uintptr(len(mem)))
}

func spoil(at unsafe.Pointer, n uintptr) error {
	fd, err := unix.MemfdCreate("pmemfs-bad-block", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	defer unix.Close(fd)
	_, err = unix.MmapPtr(fd, 0, at, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED)
	return os.NewSyscallError("mmap", err)
}

// SpoilFile spoils the page at an offset of a file, a multiple of 4096, wherever this process has mapped it.
func SpoilFile(path string, off int64) error {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	var found []uintptr
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var start, end uintptr
		var first int64
		var perms, dev, name string
		var ino uint64
		n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s %x %s %d %s", &start, &end, &perms, &first, &dev, &ino, &name)
		if n == 7 && name == path && !strings.HasPrefix(perms, "---") && first <= off && off < first+int64(end-start) {
			found = append(found, start+uintptr(off-first))
		}
	}
	if found == nil {
		return fmt.Errorf("%s is not mapped at %d", path, off)
	}
	for _, address := range found {
		// Memory that is mapped from a file is none that the garbage collector knows of.
		if err := spoil(*(*unsafe.Pointer)(unsafe.Pointer(&address)), pageSize); err != nil {
			return err
		}
	}
	return nil
}
