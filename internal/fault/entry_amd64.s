#include "textflag.h"

// segvEntry is the handler of SIGSEGV, entered by the kernel on the thread's signal stack with
//	DI signal number, SI *siginfo, DX *ucontext, 0(SP) the restorer that calls rt_sigreturn.
// It calls onFault(info, context). When that has resolved the fault, it returns: rt_sigreturn loads every register from
// the context, so nothing needs to be preserved, and the access is retried. Otherwise it jumps to the handler that was
// installed before, which finds DI, SI, DX and SP as the kernel has left them.
// Frame: 0 info, 8 context, 16 result, 24 DI, 32 SI, 40 DX.
TEXT ·segvEntry(SB),NOSPLIT|TOPFRAME|NOFRAME,$0
	NOP	SP	// disable vet stack checking
	ADJSP	$48
	MOVQ	DI, 24(SP)
	MOVQ	SI, 32(SP)
	MOVQ	DX, 40(SP)
	MOVQ	SI, 0(SP)
	MOVQ	DX, 8(SP)
	CALL	·onFault(SB)
	MOVBLZX	16(SP), AX
	MOVQ	24(SP), DI
	MOVQ	32(SP), SI
	MOVQ	40(SP), DX
	ADJSP	$-48
	TESTL	AX, AX
	JEQ	chain
	RET
chain:
	MOVQ	·goFaultHandler(SB), AX
	JMP	AX

// breakEntry is the handler of the break signal, entered like segvEntry. It calls onBreak() and returns.
TEXT ·breakEntry(SB),NOSPLIT|TOPFRAME|NOFRAME,$0
	CALL	·onBreak(SB)
	RET
