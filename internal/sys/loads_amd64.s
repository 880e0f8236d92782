#include "textflag.h"

// func FenceLoads()
TEXT ·FenceLoads(SB), NOSPLIT, $0-0
	RET // TSO: no load passes an earlier load. What is left is the compiler, which moves nothing past a call
