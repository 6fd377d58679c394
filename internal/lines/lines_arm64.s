//go:build linux

#include "textflag.h"

// None has a frame; all are leaves, so a fault in one unwinds as in memmove, and landing finds the arguments where they were.

// func cacheType() uint64
TEXT ·cacheType(SB), NOSPLIT, $0-8
	MRS  CTR_EL0, R0
	MOVD R0, ret+0(FP)
	RET

#define ISH $11
#define SY  $15

// func Fence()
TEXT ·Fence(SB), NOSPLIT, $0-0
	DSB SY
	RET

// LINES cleans the line at R0 and each one after it, R2 bytes apart, that begins before R1.
#define LINES(POINT, LOOP) \
LOOP:                       \
	DC   POINT, R0          \
	ADD  R2, R0, R0         \
	CMP  R1, R0             \
	BLO  LOOP

// WRITE_BACK cleans [R0, R0+R1), R1 > 0, as How says in R4.
//
// The DMB: a clean is ordered with this CPU's stores to the line anyway, but
// the goroutine may have stored on another CPU, or be flushing what others
// stored. The DSB: it waits for this CPU's cleans alone, and nothing in a
// goroutine's way to another CPU does, so Fence would come too late there. It
// is all that ThenFence asks for, too.
#define WRITE_BACK \
	ADD  R0, R1, R1         \
	MOVD ·lineStep(SB), R2  \
	SUB  $1, R2, R3         \
	BIC  R3, R0, R0         \
	DMB  ISH                \
	TBNZ $1, R4, coherency  \
	LINES(CVAP, persistence) \
	B    done               \
coherency:                  \
	LINES(CVAC, clean)      \
done:                       \
	DSB  SY

// func Flush(p *byte, n uintptr, how How)
TEXT ·Flush(SB), NOSPLIT, $0-20
	MOVD  p+0(FP), R0
	MOVD  n+8(FP), R1
	MOVWU how+16(FP), R4
	WRITE_BACK
	RET

// func TryFlush(p *byte, n uintptr, how How) (failed uintptr)
TEXT ·TryFlush(SB), NOSPLIT, $0-32
	MOVD  p+0(FP), R0
	MOVD  n+8(FP), R1
	MOVWU how+16(FP), R4
	WRITE_BACK
	MOVD  ZR, failed+24(FP)
	RET

// landing is where a line of TryFlush that faults goes on: R0 is its address. The result is at 32(RSP).
TEXT ·landing(SB), NOSPLIT|NOFRAME, $0
	MOVD R0, 32(RSP)
	RET

// func addresses() (try, landing uintptr)
TEXT ·addresses(SB), NOSPLIT, $0-16
	MOVD $·TryFlush(SB), R0
	MOVD R0, try+0(FP)
	MOVD $·landing(SB), R0
	MOVD R0, landing+8(FP)
	RET
