#include "textflag.h"

// func load32(p *uint32) uint32
TEXT ·load32(SB),NOSPLIT|NOFRAME,$0-12
	MOVD	p+0(FP), R0
	LDARW	(R0), R1
	MOVW	R1, ret+8(FP)
	RET

// func load64(p *uint64) uint64
TEXT ·load64(SB),NOSPLIT|NOFRAME,$0-16
	MOVD	p+0(FP), R0
	LDAR	(R0), R1
	MOVD	R1, ret+8(FP)
	RET

// func store32(p *uint32, v uint32)
// A load-acquire that follows is not done before a store-release: STLR and LDAR are sequentially consistent.
TEXT ·store32(SB),NOSPLIT|NOFRAME,$0-12
	MOVD	p+0(FP), R0
	MOVW	v+8(FP), R1
	STLRW	R1, (R0)
	RET

// func store64(p *uint64, v uint64)
TEXT ·store64(SB),NOSPLIT|NOFRAME,$0-16
	MOVD	p+0(FP), R0
	MOVD	v+8(FP), R1
	STLR	R1, (R0)
	RET

// func add32(p *uint32, delta uint32) uint32
TEXT ·add32(SB),NOSPLIT|NOFRAME,$0-20
	MOVD	p+0(FP), R0
	MOVW	delta+8(FP), R1
again:
	LDAXRW	(R0), R2
	ADDW	R1, R2
	STLXRW	R2, (R0), R3
	CBNZ	R3, again
	MOVW	R2, ret+16(FP)
	DMB	$0xb	// ISH: as strong as x86's LOCK
	RET

// func swap32(p *uint32, v uint32) uint32
TEXT ·swap32(SB),NOSPLIT|NOFRAME,$0-20
	MOVD	p+0(FP), R0
	MOVW	v+8(FP), R1
again:
	LDAXRW	(R0), R2
	STLXRW	R1, (R0), R3
	CBNZ	R3, again
	MOVW	R2, ret+16(FP)
	DMB	$0xb
	RET

// func cas32(p *uint32, old, v uint32) bool
TEXT ·cas32(SB),NOSPLIT|NOFRAME,$0-17
	MOVD	p+0(FP), R0
	MOVW	old+8(FP), R1
	MOVW	v+12(FP), R2
again:
	LDAXRW	(R0), R3
	CMPW	R1, R3
	BNE	differs
	STLXRW	R2, (R0), R4
	CBNZ	R4, again
differs:
	CSET	EQ, R5
	MOVB	R5, ret+16(FP)
	DMB	$0xb
	RET

// func pause()
TEXT ·pause(SB),NOSPLIT|NOFRAME,$0-0
	YIELD
	RET

// func systemCall(number, a1, a2, a3, a4, a5, a6 uintptr) uintptr
TEXT ·systemCall(SB),NOSPLIT|NOFRAME,$0-64
	MOVD	number+0(FP), R8
	MOVD	a1+8(FP), R0
	MOVD	a2+16(FP), R1
	MOVD	a3+24(FP), R2
	MOVD	a4+32(FP), R3
	MOVD	a5+40(FP), R4
	MOVD	a6+48(FP), R5
	SVC
	MOVD	R0, ret+56(FP)
	RET

// func faultEntryAddress() uintptr
TEXT ·faultEntryAddress(SB),NOSPLIT|NOFRAME,$0-8
	MOVD	$·faultEntry(SB), R0
	MOVD	R0, ret+0(FP)
	RET

// func breakEntryAddress() uintptr
TEXT ·breakEntryAddress(SB),NOSPLIT|NOFRAME,$0-8
	MOVD	$·breakEntry(SB), R0
	MOVD	R0, ret+0(FP)
	RET
