//go:build amd64 || arm64

package sys

// PrefetchLoads asks for every stride-th byte of b, from the first on, to be fetched into the cache of this CPU, for a read that is to come. It is a hint:
// it reads nothing, orders nothing and waits for nothing. Stride is at least 1.
//
//go:noescape
func PrefetchLoads(b []byte, stride int)
