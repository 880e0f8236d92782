package sys

import (
	"runtime"
	"sync"
	"testing"
)

// Each of many goroutines keeps its number, on whichever thread and stack it runs, and no two that live have the same.
func TestGoroutine(t *testing.T) {
	const n = 100
	var mu sync.Mutex
	seen := map[uint64]bool{}
	var all sync.WaitGroup
	ready := make(chan struct{})
	for range n {
		all.Go(func() {
			g := Goroutine()
			mu.Lock()
			if g == 0 || seen[g] {
				t.Errorf("number %#x", g)
			}
			seen[g] = true
			last := len(seen) == n
			mu.Unlock()
			if last {
				close(ready)
			}
			<-ready // all live until all have a number
			for range 100 {
				runtime.Gosched()
				if deep(100) != g {
					t.Error("a goroutine has two numbers")
				}
			}
		})
	}
	all.Wait()
}

// deep has the stack grow, and so move.
func deep(n int) uint64 {
	var room [256]byte
	if n == 0 {
		return Goroutine()
	}
	room[n] = 1
	return deep(n-1) + uint64(room[n]) - 1
}
