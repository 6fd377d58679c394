#include "textflag.h"

// None has a frame; all are leaves, so a fault in one unwinds as in memmove, and landing finds the arguments where they were.

// RETURN_NONE returns from TryFlush: no line has failed.
#define RETURN_NONE \
	MOVQ $0, failed+24(FP) \
	RET

// func Fence()
TEXT ·Fence(SB), NOSPLIT, $0-0
	SFENCE
	RET

// LINES runs FLUSH on the line at AX and on each one after it that begins before CX.
#define LINES(FLUSH, LOOP) \
LOOP:             \
	FLUSH (AX)    \
	ADDQ $64, AX  \
	CMPQ AX, CX   \
	JCS  LOOP

// WRITE_BACK does what How says in DX to [AX, AX+CX), CX > 0, and then RETURN, which ends the function. The best method has
// no jump in its way.
#define WRITE_BACK(RETURN) \
	ADDQ  AX, CX                 \
	ANDQ  $~63, AX               \
	TESTL $6, DX                 \
	JNE   evict                  \
	LINES(CLWB, clwb)            \
fence:                           \
	TESTL $1, DX                 \
	JEQ   done                   \
	SFENCE                       \
done:                            \
	RETURN                       \
evict:                           \
	TESTL $4, DX                 \
	JNE   ordered                \
	LINES(CLFLUSHOPT, unordered) \
	JMP   fence                  \
ordered:                         \
	LINES(CLFLUSH, clflush)      \
	JMP   fence

// func Flush(p *byte, n uintptr, how How)
TEXT ·Flush(SB), NOSPLIT, $0-20
	MOVQ p+0(FP), AX
	MOVQ n+8(FP), CX
	MOVL how+16(FP), DX
	WRITE_BACK(RET)

// func TryFlush(p *byte, n uintptr, how How) (failed uintptr)
TEXT ·TryFlush(SB), NOSPLIT, $0-32
	MOVQ p+0(FP), AX
	MOVQ n+8(FP), CX
	MOVL how+16(FP), DX
	WRITE_BACK(RETURN_NONE)

// landing is where a line of TryFlush that faults goes on: AX is its address. The result is at 32(SP).
TEXT ·landing(SB), NOSPLIT|NOFRAME, $0
	MOVQ AX, 32(SP)
	RET

// func addresses() (try, landing uintptr)
TEXT ·addresses(SB), NOSPLIT, $0-16
	MOVQ $·TryFlush(SB), AX
	MOVQ AX, try+0(FP)
	MOVQ $·landing(SB), AX
	MOVQ AX, landing+8(FP)
	RET
