//go:build !race

#include "textflag.h"

// func StoreRelease(p *atomic.Uint64, v uint64)
TEXT ·StoreRelease(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), AX
	MOVQ v+8(FP), BX
	MOVQ BX, 0(AX) // TSO: every store is a release
	RET

// func StoreRelease4(p0 *atomic.Uint64, v0 uint64, p1 *atomic.Uint64, v1 uint64, p2 *atomic.Uint64, v2 uint64, p3 *atomic.Uint64, v3 uint64)
TEXT ·StoreRelease4(SB), NOSPLIT, $0-64
	MOVQ p0+0(FP), AX
	MOVQ v0+8(FP), BX
	MOVQ BX, 0(AX)
	MOVQ p1+16(FP), AX
	MOVQ v1+24(FP), BX
	MOVQ BX, 0(AX)
	MOVQ p2+32(FP), AX
	MOVQ v2+40(FP), BX
	MOVQ BX, 0(AX)
	MOVQ p3+48(FP), AX
	MOVQ v3+56(FP), BX
	MOVQ BX, 0(AX)
	RET
