//go:build amd64 || arm64

package sys

// Goroutine returns a number that no other goroutine has which lives at the same time; it is never 0. A later one may have it again. It is the address of what
// the runtime keeps of the goroutine, which does not move; nothing is read there.
//
//go:noescape
func Goroutine() uint64
