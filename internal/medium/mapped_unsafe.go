package medium

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// address is where the area begins.
func (a *mapped) address() uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(a.mem))) }

// remap maps a block of the area anew, in its place: the kernel keeps what it has noted of a bad page with the mapping.
func (a *mapped) remap(off int64) error {
	_, err := unix.MmapPtr(int(a.file.Fd()), a.base+off, unsafe.Pointer(&a.mem[off]), pageSize, a.prot(), a.flags|unix.MAP_FIXED)
	return err
}
