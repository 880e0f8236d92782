package sys

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestGather(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for size, gather := range map[int]func([]byte, [][]byte) int{8: Gather8, 64: Gather64} {
		for n := range 70 {
			for odd := -1; odd < n; odd++ { // the first message of another size
				msgs := make([][]byte, n)
				for i := range msgs {
					m := make([]byte, size)
					if i == odd || odd >= 0 && i > odd && r.IntN(2) == 0 {
						m = make([]byte, r.IntN(2)*2*size)
					}
					for j := range m {
						m[j] = byte(r.Uint32())
					}
					msgs[i] = m
				}
				want := n
				if odd >= 0 {
					want = odd
				}
				const guard = 16
				at := r.IntN(16)
				place := bytes.Repeat([]byte{0xa5}, at+n*size+guard)
				if got := gather(place[at:at+n*size:at+n*size], msgs); got != want {
					t.Fatalf("%d messages of %d bytes, number %d is of another size: copied %d", n, size, odd, got)
				}
				if all := bytes.Join(msgs[:want], nil); !bytes.Equal(place[at:][:len(all)], all) {
					t.Fatalf("%d messages of %d bytes, number %d is of another size: other bytes", n, size, odd)
				}
				for i, b := range place {
					if (i < at || i >= at+want*size) && b != 0xa5 {
						t.Fatalf("%d messages of %d bytes, number %d is of another size: byte %d was written", n, size, odd, i-at)
					}
				}
			}
		}
	}
}

func TestGatherHasRoom(t *testing.T) {
	for size, gather := range map[int]func([]byte, [][]byte) int{8: Gather8, 64: Gather64} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("two messages of %d bytes into room for less", size)
				}
			}()
			gather(make([]byte, 2*size-1), [][]byte{make([]byte, size), make([]byte, size)})
		}()
	}
}
