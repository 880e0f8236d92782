#include "textflag.h"

// func PrefetchLoads(b []byte, stride int)
TEXT ·PrefetchLoads(SB), NOSPLIT, $0-32
	MOVQ b_base+0(FP), SI
	MOVQ b_len+8(FP), CX
	MOVQ stride+24(FP), DX
	JMP  test
loop:
	PREFETCHT0 (SI)
	ADDQ DX, SI
	SUBQ DX, CX
test:
	TESTQ CX, CX
	JGT  loop
	RET
