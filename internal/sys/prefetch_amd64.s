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

// func PrefetchLine(p *byte)
TEXT ·PrefetchLine(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), SI
	PREFETCHT0 (SI)
	RET

// func PrefetchStores(p *byte, lines int)
TEXT ·PrefetchStores(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), SI
	MOVQ lines+8(FP), CX
loop:
	BYTE $0x0f; BYTE $0x0d; BYTE $0x0e // PREFETCHW (SI)
	ADDQ $64, SI
	DECQ CX
	JGT  loop
	RET

// func vendor() uint32
TEXT ·vendor(SB), NOSPLIT, $0-4
	XORL AX, AX
	CPUID
	MOVL BX, ret+0(FP)
	RET
