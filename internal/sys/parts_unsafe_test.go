package sys

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"
)

// Parts of every size up to some vectors, at every place of a word: as they are, and nothing beside them.
func TestPutParts(t *testing.T) {
	const text = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmnopqrstuvwxyz"
	guard := bytes.Repeat([]byte{0xEE}, 400)
	to := make([]byte, len(guard))
	for a := range 70 {
		for b := range 40 {
			for _, c := range []int{0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 70} {
				at := 16 + a%8
				copy(to, guard)
				var head, inside atomic.Uint64
				inside.Store(1)
				p := Parts{text[:a], []byte(strings.ToUpper(text[:b])), text[3 : 3+c]}
				PutParts(unsafe.Pointer(&to[at]), &p, &head, 77, &inside)
				want := string(guard[:at]) + p.A + string(p.B) + p.C
				want += string(guard[len(want):])
				if string(to) != want || head.Load() != 77 || inside.Load() != 0 {
					t.Fatalf("%d, %d and %d bytes: %q, head %d, inside %d", a, b, c, to, head.Load(), inside.Load())
				}
			}
		}
	}
}
