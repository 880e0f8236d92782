//go:build (amd64 || arm64) && race

package sys

import "sync/atomic"

// StoreRelease is p.Store here, which the race detector understands.
func StoreRelease(p *atomic.Uint64, v uint64) { p.Store(v) }
