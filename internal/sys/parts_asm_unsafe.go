//go:build amd64 && !race

package sys

import (
	"sync/atomic"
	"unsafe"
)

// PutParts copies the parts to a place that has room for them, one behind the other, then stores end to head and 0 to inside, both with release. It is one
// call for what would be five: for parts of some ten bytes a call costs as much as the copying.
//
//go:noescape
func PutParts(to unsafe.Pointer, parts *Parts, head *atomic.Uint64, end uint64, inside *atomic.Uint64)

// StorePlain stores v as a variable is stored, so that another thread may see it late, and nothing of what was written before. The compiler leaves it before an
// atomic operation that follows: those it takes to read and write all memory.
func StorePlain(p *atomic.Uint64, v uint64) { *(*uint64)(unsafe.Pointer(p)) = v }
