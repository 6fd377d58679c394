#include "textflag.h"

// What each function orders is said at its declaration in methods_amd64.go.
// None has a frame; all are leaves, so a fault in one unwinds as in memmove.

// func cpuid(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	MOVL subleaf+4(FP), CX
	CPUID
	MOVL AX, eax+8(FP)
	MOVL BX, ebx+12(FP)
	MOVL CX, ecx+16(FP)
	MOVL DX, edx+20(FP)
	RET

// The copies take four lines at a time, then one at a time: all loads of a
// step, then all its stores, so that each line's write-combining buffer fills
// without other traffic between. CX counts the bytes left.

// func copyAVX512(dst, src *byte, n uintptr)
TEXT ·copyAVX512(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	SUBQ $256, CX
	JCS  rest

four:
	VMOVDQU64 0(SI), Z0
	VMOVDQU64 64(SI), Z1
	VMOVDQU64 128(SI), Z2
	VMOVDQU64 192(SI), Z3
	VMOVNTDQ  Z0, 0(DI)
	VMOVNTDQ  Z1, 64(DI)
	VMOVNTDQ  Z2, 128(DI)
	VMOVNTDQ  Z3, 192(DI)
	ADDQ      $256, SI
	ADDQ      $256, DI
	SUBQ      $256, CX
	JCC       four

rest:
	ADDQ $256, CX
	JEQ  done

one:
	VMOVDQU64 (SI), Z0
	VMOVNTDQ  Z0, (DI)
	ADDQ      $64, SI
	ADDQ      $64, DI
	SUBQ      $64, CX
	JNE       one

done:
	VZEROUPPER
	RET

// func zeroAVX512(dst *byte, n uintptr)
TEXT ·zeroAVX512(SB), NOSPLIT, $0-16
	MOVQ   dst+0(FP), DI
	MOVQ   n+8(FP), CX
	VPXORQ Z0, Z0, Z0

one:
	VMOVNTDQ Z0, (DI)
	ADDQ     $64, DI
	SUBQ     $64, CX
	JNE      one
	VZEROUPPER
	RET

// func copyAVX2(dst, src *byte, n uintptr)
TEXT ·copyAVX2(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	SUBQ $256, CX
	JCS  rest

four:
	VMOVDQU  0(SI), Y0
	VMOVDQU  32(SI), Y1
	VMOVDQU  64(SI), Y2
	VMOVDQU  96(SI), Y3
	VMOVDQU  128(SI), Y4
	VMOVDQU  160(SI), Y5
	VMOVDQU  192(SI), Y6
	VMOVDQU  224(SI), Y7
	VMOVNTDQ Y0, 0(DI)
	VMOVNTDQ Y1, 32(DI)
	VMOVNTDQ Y2, 64(DI)
	VMOVNTDQ Y3, 96(DI)
	VMOVNTDQ Y4, 128(DI)
	VMOVNTDQ Y5, 160(DI)
	VMOVNTDQ Y6, 192(DI)
	VMOVNTDQ Y7, 224(DI)
	ADDQ     $256, SI
	ADDQ     $256, DI
	SUBQ     $256, CX
	JCC      four

rest:
	ADDQ $256, CX
	JEQ  done

one:
	VMOVDQU  0(SI), Y0
	VMOVDQU  32(SI), Y1
	VMOVNTDQ Y0, 0(DI)
	VMOVNTDQ Y1, 32(DI)
	ADDQ     $64, SI
	ADDQ     $64, DI
	SUBQ     $64, CX
	JNE      one

done:
	VZEROUPPER
	RET

// func zeroAVX2(dst *byte, n uintptr)
TEXT ·zeroAVX2(SB), NOSPLIT, $0-16
	MOVQ  dst+0(FP), DI
	MOVQ  n+8(FP), CX
	VPXOR Y0, Y0, Y0

one:
	VMOVNTDQ Y0, 0(DI)
	VMOVNTDQ Y0, 32(DI)
	ADDQ     $64, DI
	SUBQ     $64, CX
	JNE      one
	VZEROUPPER
	RET

// func copySSE2(dst, src *byte, n uintptr)
TEXT ·copySSE2(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX

one:
	MOVOU  0(SI), X0
	MOVOU  16(SI), X1
	MOVOU  32(SI), X2
	MOVOU  48(SI), X3
	MOVNTO X0, 0(DI)
	MOVNTO X1, 16(DI)
	MOVNTO X2, 32(DI)
	MOVNTO X3, 48(DI)
	ADDQ   $64, SI
	ADDQ   $64, DI
	SUBQ   $64, CX
	JNE    one
	RET

// func zeroSSE2(dst *byte, n uintptr)
TEXT ·zeroSSE2(SB), NOSPLIT, $0-16
	MOVQ dst+0(FP), DI
	MOVQ n+8(FP), CX
	PXOR X0, X0

one:
	MOVNTO X0, 0(DI)
	MOVNTO X0, 16(DI)
	MOVNTO X0, 32(DI)
	MOVNTO X0, 48(DI)
	ADDQ   $64, DI
	SUBQ   $64, CX
	JNE    one
	RET

// func copyMOVNTI(dst, src *byte, n uintptr)
TEXT ·copyMOVNTI(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX

one:
	MOVQ    (SI), AX
	MOVNTIQ AX, (DI)
	ADDQ    $8, SI
	ADDQ    $8, DI
	SUBQ    $8, CX
	JNE     one
	RET

// func zeroMOVNTI(dst *byte, n uintptr)
TEXT ·zeroMOVNTI(SB), NOSPLIT, $0-16
	MOVQ dst+0(FP), DI
	MOVQ n+8(FP), CX
	XORL AX, AX

one:
	MOVNTIQ AX, (DI)
	ADDQ    $8, DI
	SUBQ    $8, CX
	JNE     one
	RET
