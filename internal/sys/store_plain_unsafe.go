//go:build amd64 && !race

package sys

import (
	"sync/atomic"
	"unsafe"
)

// StoreRelease stores v: whoever loads v from *p sees everything that was written before it. Unlike p.Store it is no full barrier: a load that follows it may be
// done before the store is seen. p.Store costs an XCHG on amd64, which waits until every earlier store has left the processor; this is one MOV.
//
// It takes two to keep what was written before it before it. The processor makes stores visible in their order (TSO). The compiler moves no access to memory past
// an atomic operation, which it takes to read and write all of it, be it a load that costs nothing; and an aligned word is stored by one instruction. The
// crash-point tests stop at each instruction of what uses it (test/crashpoint), and so see the order in which the compiler left the stores. It is not in assembly
// because a call stores its arguments, registers and return address to lines between those that matter: docs/speed.md, "Another processor".
func StoreRelease(p *atomic.Uint64, v uint64) {
	order.Load()
	*(*uint64)(unsafe.Pointer(p)) = v
}

// StoreRelease4 is four times StoreRelease, in this order.
func StoreRelease4(p0 *atomic.Uint64, v0 uint64, p1 *atomic.Uint64, v1 uint64, p2 *atomic.Uint64, v2 uint64, p3 *atomic.Uint64, v3 uint64) {
	StoreRelease(p0, v0)
	StoreRelease(p1, v1)
	StoreRelease(p2, v2)
	StoreRelease(p3, v3)
}
