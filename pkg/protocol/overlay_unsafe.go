package protocol

import (
	"sync/atomic"
	"unsafe"
)

// overlayWords returns n 64-bit words of b from offset on, or nil if they do not lie in b or are not aligned.
func overlayWords(b []byte, offset int64, n int) []atomic.Uint64 {
	if offset < 0 || n <= 0 || offset > int64(len(b)) || int64(n) > (int64(len(b))-offset)/8 {
		return nil
	}
	p := unsafe.Pointer(&b[offset])
	if uintptr(p)%8 != 0 {
		return nil
	}
	return unsafe.Slice((*atomic.Uint64)(p), n)
}
