//go:build !amd64 && !arm64

package fault

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// There are no signal entries here, so nothing of the client half runs; the server half does.

func load32(p *uint32) uint32             { return atomic.LoadUint32(p) }
func load64(p *uint64) uint64             { return atomic.LoadUint64(p) }
func store32(p *uint32, v uint32)         { atomic.StoreUint32(p, v) }
func store64(p *uint64, v uint64)         { atomic.StoreUint64(p, v) }
func add32(p *uint32, d uint32) uint32    { return atomic.AddUint32(p, d) }
func swap32(p *uint32, v uint32) uint32   { return atomic.SwapUint32(p, v) }
func cas32(p *uint32, old, v uint32) bool { return atomic.CompareAndSwapUint32(p, old, v) }
func pause()                              {}

func systemCall(number, a1, a2, a3, a4, a5, a6 uintptr) uintptr {
	r, _, errno := unix.RawSyscall6(number, a1, a2, a3, a4, a5, a6)
	if errno != 0 {
		return -uintptr(errno)
	}
	return r
}

func faultEntryAddress() uintptr { return 0 }
func breakEntryAddress() uintptr { return 0 }
