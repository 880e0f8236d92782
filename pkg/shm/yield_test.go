package shm_test

import (
	"testing"

	"github.com/shmd/shmd/pkg/shm"
)

func TestYieldsAsLongAsTheyPay(t *testing.T) {
	const vain, good, slow = 300, 5_000, 3_000_000
	often := make([]int64, 30)
	for i := range often {
		often[i] = vain
	}
	for _, c := range []struct {
		what string
		took []int64
		want int
	}{
		{"somebody ran", []int64{good}, 0},
		{"nobody ran", []int64{vain}, 1},
		{"nobody ran, twice", []int64{vain, vain}, 3},
		{"nobody ran, often", often, 1023},
		{"somebody ran, after some in vain", []int64{vain, vain, good}, 0},
		{"somebody used a whole slice", []int64{slow}, 1023},
		{"somebody ran, after one who used a slice", []int64{slow, good}, 0},
	} {
		if got := shm.Unyielded(c.took...); got != c.want {
			t.Errorf("%s: %d times without a yield, want %d", c.what, got, c.want)
		}
	}
}

// Who said how to wait gets that: block sleeps at once, and spin has nothing to yield for.
func TestOnlyAdaptiveYields(t *testing.T) {
	for w, want := range map[shm.Wait]bool{shm.WaitUsual: true, shm.WaitAdaptive: true, shm.WaitBlock: false, shm.WaitSpin: false} {
		if got := shm.Yields(w); got != want {
			t.Errorf("%v: yields: %v, want %v", w, got, want)
		}
	}
}
