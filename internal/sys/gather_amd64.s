//go:build !race

#include "textflag.h"

// func gather8(to *byte, msgs *[]byte, n int) int
TEXT ·gather8(SB), NOSPLIT, $0-32
	MOVQ to+0(FP), DI
	MOVQ msgs+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ CX, AX
two:
	SUBQ $2, CX
	JLT  one
	CMPQ 8(SI), $8
	JNE  back
	CMPQ 32(SI), $8
	JNE  first
	MOVQ (SI), R8
	MOVQ 24(SI), R9
	MOVQ (R8), X0
	MOVHPS (R9), X0
	MOVOU X0, (DI)
	ADDQ $48, SI
	ADDQ $16, DI
	JMP  two
first: // the first of two has the size
	INCQ CX // one of both is left
	MOVQ (SI), R8
	MOVQ (R8), R9
	MOVQ R9, (DI)
	SUBQ CX, AX
	MOVQ AX, ret+24(FP)
	RET
one: // CX is -1: one is left, or -2
	CMPQ CX, $-1
	JNE  done
	CMPQ 8(SI), $8
	JNE  last
	MOVQ (SI), R8
	MOVQ (R8), R9
	MOVQ R9, (DI)
done:
	MOVQ AX, ret+24(FP)
	RET
last:
	DECQ AX
	MOVQ AX, ret+24(FP)
	RET
back: // both of two are left
	ADDQ $2, CX
	SUBQ CX, AX
	MOVQ AX, ret+24(FP)
	RET

// func gather64(to *byte, msgs *[]byte, n int) int
TEXT ·gather64(SB), NOSPLIT, $0-32
	MOVQ to+0(FP), DI
	MOVQ msgs+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ CX, AX
next:
	CMPQ 8(SI), $64
	JNE  end
	MOVQ (SI), R8
	VMOVDQU64 (R8), Z16 // see copyBlocks
	VMOVDQU64 Z16, (DI)
	ADDQ $24, SI
	ADDQ $64, DI
	DECQ CX
	JNE  next
end:
	SUBQ CX, AX
	MOVQ AX, ret+24(FP)
	RET
