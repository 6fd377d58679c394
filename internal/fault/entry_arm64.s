#include "textflag.h"

// segvEntry is the handler of SIGSEGV, entered by the kernel on the thread's signal stack with
//	R0 signal number, R1 *siginfo, R2 *ucontext, LR the code that calls rt_sigreturn.
// It calls onFault(info, context). When that has resolved the fault, it returns: rt_sigreturn loads every register from
// the context, and the access is retried. Otherwise it jumps to the handler that was installed before, which finds R0,
// R1, R2, LR and RSP as the kernel has left them, and g (R28) too: nothing below touches it.
// Frame: 0 LR, 8 info, 16 context, 24 result, 32 R0, 40 R1, 48 R2, 56 R29.
TEXT ·segvEntry(SB),NOSPLIT|TOPFRAME|NOFRAME,$0
	SUB	$64, RSP
	MOVD	LR, 0(RSP)
	MOVD	R0, 32(RSP)
	MOVD	R1, 40(RSP)
	MOVD	R2, 48(RSP)
	MOVD	R29, 56(RSP)
	MOVD	R1, 8(RSP)
	MOVD	R2, 16(RSP)
	CALL	·onFault(SB)
	MOVBU	24(RSP), R3
	MOVD	0(RSP), LR
	MOVD	32(RSP), R0
	MOVD	40(RSP), R1
	MOVD	48(RSP), R2
	MOVD	56(RSP), R29
	ADD	$64, RSP
	CBZ	R3, chain
	RET
chain:
	MOVD	·goFaultHandler(SB), R3
	B	(R3)

// breakEntry is the handler of the break signal, entered like segvEntry. It calls onBreak() and returns.
TEXT ·breakEntry(SB),NOSPLIT|TOPFRAME|NOFRAME,$0
	SUB	$16, RSP
	MOVD	LR, 0(RSP)
	CALL	·onBreak(SB)
	MOVD	0(RSP), LR
	ADD	$16, RSP
	RET
