package sys

import (
	"bytes"
	"testing"
)

func TestCopy(t *testing.T) {
	from := make([]byte, 3000)
	for i := range from {
		from[i] = byte(i*7 + i>>8)
	}
	for _, n := range []int{0, 1, 255, 256, 257, 511, 512, 2047, 2900} {
		for _, at := range []int{0, 1, 48, 64} {
			to := make([]byte, 4000)
			if got := Copy(to[at:at+n], from[at:]); got != n {
				t.Fatalf("Copy of %d bytes returned %d", n, got)
			}
			want := make([]byte, len(to))
			copy(want[at:at+n], from[at:])
			if !bytes.Equal(to, want) {
				t.Errorf("%d bytes at %d came out wrong, or something beside them changed", n, at)
			}
		}
	}
	if n := Copy(make([]byte, 300), make([]byte, 10)); n != 10 {
		t.Errorf("Copy of 10 bytes into 300 returned %d", n)
	}
}
