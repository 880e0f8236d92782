//go:build amd64 || arm64

package sys

// Pause tells the processor that this is a spin loop (PAUSE on amd64, YIELD on arm64),
// so that it saves power and lets the other hardware thread run. It takes between a
// nanosecond and some fifty, depending on the processor. It does not yield to the
// scheduler: bound the loop around it.
//
//go:noescape
func Pause()
