#include "textflag.h"

// func load32(p *uint32) uint32
// Acquire: x86 does not move later loads or stores before a load.
TEXT ·load32(SB),NOSPLIT|NOFRAME,$0-12
	MOVQ	p+0(FP), AX
	MOVL	(AX), CX
	MOVL	CX, ret+8(FP)
	RET

// func load64(p *uint64) uint64
TEXT ·load64(SB),NOSPLIT|NOFRAME,$0-16
	MOVQ	p+0(FP), AX
	MOVQ	(AX), CX
	MOVQ	CX, ret+8(FP)
	RET

// func store32(p *uint32, v uint32)
// Full barrier (XCHG), so that a load that follows is not done before it.
TEXT ·store32(SB),NOSPLIT|NOFRAME,$0-12
	MOVQ	p+0(FP), AX
	MOVL	v+8(FP), CX
	XCHGL	CX, (AX)
	RET

// func store64(p *uint64, v uint64)
TEXT ·store64(SB),NOSPLIT|NOFRAME,$0-16
	MOVQ	p+0(FP), AX
	MOVQ	v+8(FP), CX
	XCHGQ	CX, (AX)
	RET

// func add32(p *uint32, delta uint32) uint32
TEXT ·add32(SB),NOSPLIT|NOFRAME,$0-20
	MOVQ	p+0(FP), AX
	MOVL	delta+8(FP), CX
	MOVL	CX, DX
	LOCK
	XADDL	CX, (AX)
	ADDL	DX, CX
	MOVL	CX, ret+16(FP)
	RET

// func swap32(p *uint32, v uint32) uint32
TEXT ·swap32(SB),NOSPLIT|NOFRAME,$0-20
	MOVQ	p+0(FP), AX
	MOVL	v+8(FP), CX
	XCHGL	CX, (AX)
	MOVL	CX, ret+16(FP)
	RET

// func cas32(p *uint32, old, v uint32) bool
TEXT ·cas32(SB),NOSPLIT|NOFRAME,$0-17
	MOVQ	p+0(FP), DX
	MOVL	old+8(FP), AX
	MOVL	v+12(FP), CX
	LOCK
	CMPXCHGL	CX, (DX)
	SETEQ	ret+16(FP)
	RET

// func pause()
TEXT ·pause(SB),NOSPLIT|NOFRAME,$0-0
	PAUSE
	RET

// func systemCall(number, a1, a2, a3, a4, a5, a6 uintptr) uintptr
// The kernel clobbers RCX and R11.
TEXT ·systemCall(SB),NOSPLIT|NOFRAME,$0-64
	MOVQ	number+0(FP), AX
	MOVQ	a1+8(FP), DI
	MOVQ	a2+16(FP), SI
	MOVQ	a3+24(FP), DX
	MOVQ	a4+32(FP), R10
	MOVQ	a5+40(FP), R8
	MOVQ	a6+48(FP), R9
	SYSCALL
	MOVQ	AX, ret+56(FP)
	RET

// func faultEntryAddress() uintptr
TEXT ·faultEntryAddress(SB),NOSPLIT|NOFRAME,$0-8
	MOVQ	$·faultEntry(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

// func breakEntryAddress() uintptr
TEXT ·breakEntryAddress(SB),NOSPLIT|NOFRAME,$0-8
	MOVQ	$·breakEntry(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
