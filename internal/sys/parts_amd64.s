//go:build !race

#include "textflag.h"

// PUT copies CX bytes from AX to DI, which it moves behind them. The last sixteen or eight are copied first or again, so that there is no rest; nothing is read or written
// beyond.
#define PUT(L16, L8, LSMALL, LBYTE, LDONE) \
	CMPQ CX, $16           \
	JB   L8                \
	MOVOU -16(AX)(CX*1), X1 \
	LEAQ -16(DI)(CX*1), R9 \
L16:                       \
	MOVOU (AX), X0         \
	MOVOU X0, (DI)         \
	ADDQ $16, AX           \
	ADDQ $16, DI           \
	CMPQ DI, R9            \
	JB   L16               \
	MOVOU X1, (R9)         \
	LEAQ 16(R9), DI        \
	JMP  LDONE             \
L8:                        \
	CMPQ CX, $8            \
	JB   LSMALL            \
	MOVQ (AX), R8          \
	MOVQ -8(AX)(CX*1), R9  \
	MOVQ R8, (DI)          \
	MOVQ R9, -8(DI)(CX*1)  \
	ADDQ CX, DI            \
	JMP  LDONE             \
LSMALL:                    \
	TESTQ CX, CX           \
	JZ   LDONE             \
LBYTE:                     \
	MOVB (AX), R8          \
	MOVB R8, (DI)          \
	INCQ AX                \
	INCQ DI                \
	DECQ CX                \
	JNZ  LBYTE             \
LDONE:


// func PutParts(to unsafe.Pointer, parts *Parts, head *atomic.Uint64, end uint64, inside *atomic.Uint64)
TEXT ·PutParts(SB), NOSPLIT, $0-40
	MOVQ to+0(FP), DI
	MOVQ parts+8(FP), SI
	MOVQ 0(SI), AX
	MOVQ 8(SI), CX
	PUT(a16, a8, asmall, abyte, adone)
	MOVQ 16(SI), AX
	MOVQ 24(SI), CX
	PUT(b16, b8, bsmall, bbyte, bdone)
	MOVQ 40(SI), AX
	MOVQ 48(SI), CX
	PUT(c16, c8, csmall, cbyte, cdone)
	MOVQ head+16(FP), AX
	MOVQ end+24(FP), CX
	MOVQ CX, (AX) // TSO: every store is a release
	MOVQ inside+32(FP), AX
	MOVQ $0, (AX)
	RET
