//go:build linux

#include "textflag.h"

// What each function orders is said at its declaration in methods_arm64.go.
// None has a frame; all are leaves, so a fault in one unwinds as in memmove.

// LOAD_LINE loads the line at R1 into R4 to R11 and moves R1 on.
#define LOAD_LINE \
	LDP 0(R1), (R4, R5)    \
	LDP 16(R1), (R6, R7)   \
	LDP 32(R1), (R8, R9)   \
	LDP 48(R1), (R10, R11) \
	ADD $64, R1

// The assembler does not know STNP.
#define STNP_R4_R5   WORD $0xa8001404 // stnp x4, x5, [x0]
#define STNP_R6_R7   WORD $0xa8011c06 // stnp x6, x7, [x0, #16]
#define STNP_R8_R9   WORD $0xa8022408 // stnp x8, x9, [x0, #32]
#define STNP_R10_R11 WORD $0xa8032c0a // stnp x10, x11, [x0, #48]
#define STNP_ZERO_0  WORD $0xa8007c1f // stnp xzr, xzr, [x0]
#define STNP_ZERO_16 WORD $0xa8017c1f // stnp xzr, xzr, [x0, #16]
#define STNP_ZERO_32 WORD $0xa8027c1f // stnp xzr, xzr, [x0, #32]
#define STNP_ZERO_48 WORD $0xa8037c1f // stnp xzr, xzr, [x0, #48]

// func copySTNP(dst, src *byte, n uintptr)
TEXT ·copySTNP(SB), NOSPLIT, $0-24
	MOVD dst+0(FP), R0
	MOVD src+8(FP), R1
	MOVD n+16(FP), R2

one:
	LOAD_LINE
	STNP_R4_R5
	STNP_R6_R7
	STNP_R8_R9
	STNP_R10_R11
	ADD  $64, R0
	SUBS $64, R2, R2
	BNE  one
	RET

// func zeroSTNP(dst *byte, n uintptr)
TEXT ·zeroSTNP(SB), NOSPLIT, $0-16
	MOVD dst+0(FP), R0
	MOVD n+8(FP), R2

one:
	STNP_ZERO_0
	STNP_ZERO_16
	STNP_ZERO_32
	STNP_ZERO_48
	ADD  $64, R0
	SUBS $64, R2, R2
	BNE  one
	RET

// func copySTP(dst, src *byte, n uintptr)
TEXT ·copySTP(SB), NOSPLIT, $0-24
	MOVD dst+0(FP), R0
	MOVD src+8(FP), R1
	MOVD n+16(FP), R2

one:
	LOAD_LINE
	STP  (R4, R5), 0(R0)
	STP  (R6, R7), 16(R0)
	STP  (R8, R9), 32(R0)
	STP  (R10, R11), 48(R0)
	ADD  $64, R0
	SUBS $64, R2, R2
	BNE  one
	RET

// func zeroSTP(dst *byte, n uintptr)
TEXT ·zeroSTP(SB), NOSPLIT, $0-16
	MOVD dst+0(FP), R0
	MOVD n+8(FP), R2

one:
	STP  (ZR, ZR), 0(R0)
	STP  (ZR, ZR), 16(R0)
	STP  (ZR, ZR), 32(R0)
	STP  (ZR, ZR), 48(R0)
	ADD  $64, R0
	SUBS $64, R2, R2
	BNE  one
	RET
