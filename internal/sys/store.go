//go:build (amd64 || arm64) && !race

package sys

import "sync/atomic"

// StoreRelease stores v: whoever loads v from *p sees everything that was written before it. Unlike p.Store it is no full barrier: a
// load that follows it may be done before the store is seen. p.Store costs an XCHG on amd64, which waits until
// every earlier store has left the processor; this is one MOV. It is in assembly, so that the compiler moves nothing past it.
//
//go:noescape
func StoreRelease(p *atomic.Uint64, v uint64)
