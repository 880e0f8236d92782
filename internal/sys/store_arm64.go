//go:build !race

package sys

import "sync/atomic"

// StoreRelease stores v: whoever loads v from *p sees everything that was written before it. Unlike p.Store it is no full barrier: a
// load that follows it may be done before the store is seen. It is in assembly, so that the compiler moves nothing past it.
//
//go:noescape
func StoreRelease(p *atomic.Uint64, v uint64)

// StoreRelease4 is four times StoreRelease, in this order, and one call.
//
//go:noescape
func StoreRelease4(p0 *atomic.Uint64, v0 uint64, p1 *atomic.Uint64, v1 uint64, p2 *atomic.Uint64, v2 uint64, p3 *atomic.Uint64, v3 uint64)
