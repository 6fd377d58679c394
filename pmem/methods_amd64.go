package pmem

import (
	"fmt"

	"golang.org/x/sys/cpu"

	"github.com/pmemfs/pmemfs/internal/lines"
)

// streamPiece is the most that one call of a stream method is given, in bytes:
// some 20 to 50 µs during which the goroutine cannot be preempted.
const streamPiece = 256 << 10

// CPUID bits that golang.org/x/sys/cpu does not report.
const (
	leafFeatures         = 1
	leafExtendedFeatures = 7

	edxCLFLUSH    = 1 << 19 // leaf 1
	ebxCLFLUSHOPT = 1 << 23 // leaf 7
	ebxCLWB       = 1 << 24 // leaf 7
)

func flushMethods() []flushMethod {
	var extended uint32
	if maxLeaf, _, _, _ := cpuid(0, 0); maxLeaf >= leafExtendedFeatures {
		_, extended, _, _ = cpuid(leafExtendedFeatures, 0)
	}
	return []flushMethod{
		{"clwb", extended&ebxCLWB != 0, lines.CLWB},
		{"clflushopt", extended&ebxCLFLUSHOPT != 0, lines.CLFLUSHOPT},
		{"clflush", true, lines.CLFLUSH}, // platformError checks it
	}
}

func streamMethods() []streamMethod {
	// HasAVX2 and HasAVX512F include the operating system's part: XGETBV says
	// that it saves the registers.
	return []streamMethod{
		{"avx512", cpu.X86.HasAVX512F, false, copyAVX512, zeroAVX512, copyMOVNTI, zeroMOVNTI},
		{"avx2", cpu.X86.HasAVX2, false, copyAVX2, zeroAVX2, copyMOVNTI, zeroMOVNTI},
		{"sse2", true, false, copySSE2, zeroSSE2, copyMOVNTI, zeroMOVNTI}, // part of amd64
	}
}

// platformError says why no method persists, whatever is chosen.
func platformError() error {
	_, ebx, _, edx := cpuid(leafFeatures, 0)
	if edx&edxCLFLUSH == 0 {
		return fmt.Errorf("pmem: this CPU has no CLFLUSH instruction")
	}
	// Bits 15 to 8 give the size that CLFLUSH works on in units of 8 bytes.
	if size := (ebx >> 8 & 0xff) * 8; size != LineSize {
		return fmt.Errorf("pmem: this CPU flushes %d bytes at a time, not %d", size, LineSize)
	}
	return nil
}

// cpuid executes CPUID with the given EAX and ECX.
//
//go:noescape
func cpuid(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)

// copyAVX512 copies n bytes by 64-byte streaming stores. They are weakly
// ordered: nothing but a fence or a locked instruction orders them.
//
//go:noescape
func copyAVX512(dst, src *byte, n uintptr)

// zeroAVX512 stores n zero bytes as copyAVX512 does.
//
//go:noescape
func zeroAVX512(dst *byte, n uintptr)

// copyAVX2 copies n bytes by 32-byte streaming stores, ordered as copyAVX512's.
//
//go:noescape
func copyAVX2(dst, src *byte, n uintptr)

// zeroAVX2 stores n zero bytes as copyAVX2 does.
//
//go:noescape
func zeroAVX2(dst *byte, n uintptr)

// copySSE2 copies n bytes by 16-byte streaming stores, ordered as copyAVX512's.
//
//go:noescape
func copySSE2(dst, src *byte, n uintptr)

// zeroSSE2 stores n zero bytes as copySSE2 does.
//
//go:noescape
func zeroSSE2(dst *byte, n uintptr)

// copyMOVNTI copies n bytes by 8-byte streaming stores, ordered as copyAVX512's.
//
//go:noescape
func copyMOVNTI(dst, src *byte, n uintptr)

// zeroMOVNTI stores n zero bytes as copyMOVNTI does.
//
//go:noescape
func zeroMOVNTI(dst *byte, n uintptr)
