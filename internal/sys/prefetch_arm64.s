#include "textflag.h"

// func PrefetchLoads(b []byte, stride int)
TEXT ·PrefetchLoads(SB), NOSPLIT, $0-32
	MOVD b_base+0(FP), R0
	MOVD b_len+8(FP), R1
	MOVD stride+24(FP), R2
	B    test
loop:
	PRFM (R0), PLDL1KEEP
	ADD  R2, R0
	SUB  R2, R1
test:
	CMP  $0, R1
	BGT  loop
	RET

// func PrefetchLine(p *byte)
TEXT ·PrefetchLine(SB), NOSPLIT, $0-8
	MOVD p+0(FP), R0
	PRFM (R0), PLDL1KEEP
	RET

// func PrefetchStores(p *byte, lines int)
TEXT ·PrefetchStores(SB), NOSPLIT, $0-16
	MOVD p+0(FP), R0
	MOVD lines+8(FP), R1
loop:
	PRFM (R0), PSTL1KEEP
	ADD  $64, R0
	SUBS $1, R1
	BGT  loop
	RET
