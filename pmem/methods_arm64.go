//go:build linux

package pmem

import (
	"golang.org/x/sys/cpu"

	"github.com/pmemfs/pmemfs/internal/lines"
)

// streamPiece is the most that one call of a stream method is given, in bytes.
// Its lines are cleaned afterwards, so it must fit well into a first-level cache.
const streamPiece = 16 << 10

func flushMethods() []flushMethod {
	return []flushMethod{
		{"cvap", cpu.ARM64.HasDCPOP, lines.CVAP},
		{"cvac", true, lines.CVAC},
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
