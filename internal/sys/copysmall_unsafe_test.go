package sys

import (
	"bytes"
	"testing"
	"unsafe"
)

// Every size, at every place of a word: all bytes, and nothing beside them.
func TestCopySmall(t *testing.T) {
	from := make([]byte, 8+Small)
	for i := range from {
		from[i] = byte(i + 1)
	}
	for n := range Small + 1 {
		for a := range 8 {
			place := make([]byte, 8+Small+8)
			b := (a + n) % 8
			CopySmall(unsafe.Pointer(&place[a]), unsafe.Pointer(&from[b]), n)
			if want := append(append(make([]byte, a), from[b:b+n]...), make([]byte, len(place)-a-n)...); !bytes.Equal(place, want) {
				t.Fatalf("%d bytes from %d to %d: %x", n, b, a, place)
			}
		}
	}
}
