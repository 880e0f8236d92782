package sys

import "sync/atomic"

// FenceStores orders every store before it, plain ones too, before every store after it: C11's atomic_thread_fence(release) as far as
// stores go. It is the partner of FenceLoads where something is overwritten in place: first a word that says so, then the fence.
//
// The processor has no store pass another (TSO), and the compiler none an atomic operation: see StoreRelease.
func FenceStores() { order.Load() }

var order atomic.Uint32 // nobody writes it
