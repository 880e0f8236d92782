package protocol

import "unsafe"

// heap returns n zero bytes on the heap, 64-byte aligned, so that the race detector sees what happens in them.
func heap(n int64) []byte {
	w := make([]uint64, n/8+9)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&w[0])), len(w)*8)
	skip := (64 - uintptr(unsafe.Pointer(&b[0]))%64) % 64
	return b[skip : skip+uintptr(n) : skip+uintptr(n)]
}
