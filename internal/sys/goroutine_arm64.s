#include "textflag.h"

// func Goroutine() uint64
TEXT ·Goroutine(SB), NOSPLIT, $0-8
	MOVD g, ret+0(FP)
	RET
