#include "textflag.h"

// func copyBlocks(to, from *byte, n int)
TEXT ·copyBlocks(SB), NOSPLIT, $0-24
	MOVQ to+0(FP), DI
	MOVQ from+8(FP), SI
	MOVQ n+16(FP), CX
loop:
	VMOVDQU64 (SI), Z16 // the upper sixteen: they cost older instructions nothing, and need no VZEROUPPER
	VMOVDQU64 64(SI), Z17
	VMOVDQU64 128(SI), Z18
	VMOVDQU64 192(SI), Z19
	VMOVDQU64 Z16, (DI)
	VMOVDQU64 Z17, 64(DI)
	VMOVDQU64 Z18, 128(DI)
	VMOVDQU64 Z19, 192(DI)
	ADDQ $256, SI
	ADDQ $256, DI
	SUBQ $256, CX
	JNE  loop
	RET
