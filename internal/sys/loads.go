//go:build amd64 || arm64

package sys

// FenceLoads orders every load before it, plain ones too, before every load and store after it: C11's atomic_thread_fence(acquire). An
// atomic load alone does not do that: it is an acquire, which keeps what follows behind it and lets earlier loads pass.
//
//go:noescape
func FenceLoads()
