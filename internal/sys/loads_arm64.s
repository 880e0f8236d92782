#include "textflag.h"

// func FenceLoads()
TEXT ·FenceLoads(SB), NOSPLIT, $0-0
	DMB $0x9 // ISHLD
	RET
