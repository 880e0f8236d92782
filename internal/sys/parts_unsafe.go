//go:build !amd64 || race

package sys

import (
	"sync/atomic"
	"unsafe"
)

// PutParts copies the parts to a place that has room for them, one behind the other, then stores end to head and 0 to inside, both with release.
func PutParts(to unsafe.Pointer, parts *Parts, head *atomic.Uint64, end uint64, inside *atomic.Uint64) {
	b := unsafe.Slice((*byte)(to), len(parts.A)+len(parts.B)+len(parts.C))
	copy(b, parts.A)
	copy(b[len(parts.A):], parts.B)
	copy(b[len(parts.A)+len(parts.B):], parts.C)
	StoreRelease(head, end)
	StoreRelease(inside, 0)
}

// StorePlain stores v, and orders nothing; here it is a release.
func StorePlain(p *atomic.Uint64, v uint64) { StoreRelease(p, v) }
