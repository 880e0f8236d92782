//go:build !race

#include "textflag.h"

// func StoreRelease(p *atomic.Uint64, v uint64)
TEXT ·StoreRelease(SB), NOSPLIT, $0-16
	MOVD p+0(FP), R0
	MOVD v+8(FP), R1
	STLR R1, (R0)
	RET

// func StoreRelease4(p0 *atomic.Uint64, v0 uint64, p1 *atomic.Uint64, v1 uint64, p2 *atomic.Uint64, v2 uint64, p3 *atomic.Uint64, v3 uint64)
TEXT ·StoreRelease4(SB), NOSPLIT, $0-64
	MOVD p0+0(FP), R0
	MOVD v0+8(FP), R1
	STLR R1, (R0)
	MOVD p1+16(FP), R0
	MOVD v1+24(FP), R1
	STLR R1, (R0)
	MOVD p2+32(FP), R0
	MOVD v2+40(FP), R1
	STLR R1, (R0)
	MOVD p3+48(FP), R0
	MOVD v3+56(FP), R1
	STLR R1, (R0)
	RET
