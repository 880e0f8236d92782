package sys

// FenceStores orders every store before it, plain ones too, before every store after it: C11's atomic_thread_fence(release) as far as
// stores go. It is the partner of FenceLoads where something is overwritten in place: first a word that says so, then the fence.
//
//go:noescape
func FenceStores()
