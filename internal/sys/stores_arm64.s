#include "textflag.h"

// func FenceStores()
TEXT ·FenceStores(SB), NOSPLIT, $0-0
	DMB $0xa // ISHST
	RET
