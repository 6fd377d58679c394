//go:build linux

package pmem

import "golang.org/x/sys/cpu"

// streamPiece is the most that one call of a stream method is given, in bytes.
// Its lines are cleaned afterwards, so it must fit well into a first-level cache.
const streamPiece = 16 << 10

// lineStep is how far apart, in bytes, the flush methods clean: the smallest
// data cache line of this system (CTR_EL0.DminLine, log2 of 4-byte words), but
// at most LineSize. Read by assembly; never changed.
//
//lint:ignore U1000 the linter does not see assembly
var lineStep = min(uintptr(4)<<(cacheType()>>16&15), LineSize)

func flushMethods() []flushMethod {
	return []flushMethod{
		{"cvap", cpu.ARM64.HasDCPOP, flushCVAP},
		{"cvac", true, flushCVAC},
	}
}

func streamMethods() []streamMethod {
	return []streamMethod{
		{"stnp", true, true, copySTNP, zeroSTNP, nil, nil},
		{"stp", true, true, copySTP, zeroSTP, nil, nil},
	}
}

// platformError says why no method persists. Linux lets user space execute
// DC CVAC and CVAP, so there is nothing that can be missing.
func platformError() error { return nil }

// cacheType returns CTR_EL0, the cache type register.
//
//go:noescape
func cacheType() uint64

// fence executes DSB SY: earlier loads, stores and cache maintenance of this
// CPU are complete before anything later starts.
//
//go:noescape
func fence()

// flushCVAP cleans the lines of [p, p+n) to the point of persistence and waits
// for it (DSB SY). It comes after all stores that this CPU has made or seen
// (DMB ISH).
//
//go:noescape
func flushCVAP(p *byte, n uintptr)

// flushCVAC is flushCVAP to the point of coherency: memory, on systems where
// no cache lies behind that point.
//
//go:noescape
func flushCVAC(p *byte, n uintptr)

// copySTNP copies n bytes by pairs of 8-byte stores with the hint that they
// need not be cached. Ordered as ordinary stores; the caller flushes them.
//
//go:noescape
func copySTNP(dst, src *byte, n uintptr)

// zeroSTNP stores n zero bytes as copySTNP does.
//
//go:noescape
func zeroSTNP(dst *byte, n uintptr)

// copySTP copies n bytes by pairs of 8-byte stores. Ordered as ordinary
// stores; the caller flushes them.
//
//go:noescape
func copySTP(dst, src *byte, n uintptr)

// zeroSTP stores n zero bytes as copySTP does.
//
//go:noescape
func zeroSTP(dst *byte, n uintptr)
