package sys

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// Dekker's test with one side that stores with release only: without FenceAll both sides may miss the other's store.
func TestFenceAllOrdersTheOtherSide(t *testing.T) {
	if err := RegisterFence(); err != nil {
		t.Fatal(err)
	}
	missed, weak := dekker(20_000, FenceAll), dekker(20_000, func() {})
	t.Logf("both missed the other's store: %d times with FenceAll, %d without", missed, weak)
	if missed != 0 {
		t.Errorf("both sides missed the other's store %d times", missed)
	}
}

// dekker counts the rounds in which neither side saw the other's store. The sides meet without the scheduler's help where they can:
// only then do their instructions overlap.
func dekker(rounds uint64, fence func()) (missed int) {
	var words [4]struct {
		atomic.Uint64
		_ [120]byte
	}
	a, b, here, there := &words[0].Uint64, &words[1].Uint64, &words[2].Uint64, &words[3].Uint64
	meet := func(mine, other *atomic.Uint64, n uint64) {
		mine.Store(n)
		for spins := 0; other.Load() < n; spins++ {
			if spins > 1000 {
				runtime.Gosched()
			}
		}
	}
	saw := make([]bool, rounds)
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := uint64(1); n <= rounds; n++ {
			meet(here, there, 2*n)
			StoreRelease(b, n)
			saw[n-1] = a.Load() == n
			meet(here, there, 2*n+1)
		}
	})
	for n := uint64(1); n <= rounds; n++ {
		meet(there, here, 2*n)
		a.Store(n)
		fence()
		mine := b.Load() == n
		meet(there, here, 2*n+1)
		if !mine && !saw[n-1] {
			missed++
		}
	}
	wg.Wait()
	return missed
}
