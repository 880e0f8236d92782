//go:build (amd64 || arm64) && race

package sys

import "sync/atomic"

// StoreRelease is p.Store here, which the race detector understands.
func StoreRelease(p *atomic.Uint64, v uint64) { p.Store(v) }

// StoreRelease4 is four times p.Store here.
func StoreRelease4(p0 *atomic.Uint64, v0 uint64, p1 *atomic.Uint64, v1 uint64, p2 *atomic.Uint64, v2 uint64, p3 *atomic.Uint64, v3 uint64) {
	p0.Store(v0)
	p1.Store(v1)
	p2.Store(v2)
	p3.Store(v3)
}
