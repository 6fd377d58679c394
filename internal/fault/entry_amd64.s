#include "textflag.h"

// The Go functions are called by the register ABI (ABIInternal: arguments in AX and BX, with room for them at 0(SP);
// result in AX; X15 zero), through variables that hold them. A plain CALL would go through an ABI0 wrapper, which the
// compiler instruments under -race whatever the function says: that moves SP from the signal stack to another, and a
// break signal that arrives just then overwrites the signal frame in use. R14 should be g by that ABI; functions that
// are nosplit and allocate nothing do not look at it.

// faultEntry is the handler of SIGSEGV and SIGBUS, entered by the kernel on the thread's signal stack with
//	DI signal number, SI *siginfo, DX *ucontext, 0(SP) the restorer that calls rt_sigreturn.
// It calls onFault(info, context). When the thread can go on, it returns: rt_sigreturn loads every register from
// the context, so nothing needs to be preserved, and the access is retried. Otherwise it jumps to the handler that was
// installed before, which finds DI, SI, DX and SP as the kernel has left them.
// Frame: 0 and 8 room for the arguments, 16 DI, 24 SI, 32 DX.
TEXT ·faultEntry(SB),NOSPLIT|TOPFRAME|NOFRAME,$0
	NOP	SP	// disable vet stack checking
	ADJSP	$40
	MOVQ	DI, 16(SP)
	MOVQ	SI, 24(SP)
	MOVQ	DX, 32(SP)
	MOVQ	SI, AX
	MOVQ	DX, BX
	PXOR	X15, X15
	MOVQ	·faultFunction(SB), DX
	MOVQ	(DX), CX
	CALL	CX
	MOVQ	16(SP), DI
	MOVQ	24(SP), SI
	MOVQ	32(SP), DX
	ADJSP	$-40
	TESTB	AX, AX
	JEQ	chain
	RET
chain:
	MOVQ	·goFaultHandler(SB), AX
	JMP	AX

// breakEntry is the handler of the break signal, entered like faultEntry. It calls onBreak() and returns.
TEXT ·breakEntry(SB),NOSPLIT|TOPFRAME|NOFRAME,$0
	PXOR	X15, X15
	MOVQ	·breakFunction(SB), DX
	MOVQ	(DX), CX
	CALL	CX
	RET
