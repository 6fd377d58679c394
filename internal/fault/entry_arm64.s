#include "textflag.h"

// The Go functions are called by the register ABI (ABIInternal: arguments in R0 and R1, with room for them at 8(RSP);
// result in R0; g in R28), through variables that hold them. A plain CALL would go through an ABI0 wrapper, which the
// compiler instruments under -race whatever the function says: that moves RSP from the signal stack to another, and a
// break signal that arrives just then overwrites the signal frame in use.

// faultEntry is the handler of SIGSEGV and SIGBUS, entered by the kernel on the thread's signal stack with
//	R0 signal number, R1 *siginfo, R2 *ucontext, LR the code that calls rt_sigreturn.
// It calls onFault(info, context). When the thread can go on, it returns: rt_sigreturn loads every register from
// the context, and the access is retried. Otherwise it jumps to the handler that was installed before, which finds R0,
// R1, R2, LR and RSP as the kernel has left them, and g (R28) too: nothing below touches it.
// Frame: 0 LR, 8 and 16 room for the arguments, 24 R0, 32 R1, 40 R2, 48 R29.
TEXT ·faultEntry(SB),NOSPLIT|TOPFRAME|NOFRAME,$0
	SUB	$64, RSP
	MOVD	LR, 0(RSP)
	MOVD	R0, 24(RSP)
	MOVD	R1, 32(RSP)
	MOVD	R2, 40(RSP)
	MOVD	R29, 48(RSP)
	MOVD	R1, R0
	MOVD	R2, R1
	MOVD	·faultFunction(SB), R26
	MOVD	(R26), R3
	CALL	(R3)
	MOVD	R0, R3
	MOVD	0(RSP), LR
	MOVD	24(RSP), R0
	MOVD	32(RSP), R1
	MOVD	40(RSP), R2
	MOVD	48(RSP), R29
	ADD	$64, RSP
	TBZ	$0, R3, chain
	RET
chain:
	MOVD	·goFaultHandler(SB), R3
	B	(R3)

// breakEntry is the handler of the break signal, entered like faultEntry. It calls onBreak() and returns.
TEXT ·breakEntry(SB),NOSPLIT|TOPFRAME|NOFRAME,$0
	SUB	$16, RSP
	MOVD	LR, 0(RSP)
	MOVD	·breakFunction(SB), R26
	MOVD	(R26), R3
	CALL	(R3)
	MOVD	0(RSP), LR
	ADD	$16, RSP
	RET
