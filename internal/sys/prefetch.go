//go:build amd64 || arm64

package sys

// PrefetchLoads asks for every stride-th byte of b, from the first on, to be fetched into the cache of this CPU, for a read that is to come. It is a hint:
// it reads nothing, orders nothing and waits for nothing. Stride is at least 1.
//
//go:noescape
func PrefetchLoads(b []byte, stride int)

// PrefetchLine is PrefetchLoads of the line of one byte.
//
//go:noescape
func PrefetchLine(p *byte)

// PrefetchStores asks for lines from the one of p on to be fetched into the cache of this CPU and taken from others, for a write that is to come. It is a
// hint as PrefetchLoads is.
//
//go:noescape
func PrefetchStores(p *byte, lines int)
