package protocol

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/shmd/shmd/internal/sys"
)

func newEndLock(t testing.TB) *endLock {
	if err := sys.RegisterFence(); err != nil {
		t.Fatal(err)
	}
	return &endLock{}
}

// seated locks until the goroutine has the seat.
func seated(t testing.TB, l *endLock) {
	t.Helper()
	for range mostStreak + 1 {
		l.Lock()
		l.Unlock()
	}
	if s := l.seat.Load(); s == nil || s.g != sys.Goroutine() {
		t.Fatal("no seat after as many locks as any needs")
	}
}

// Nobody is inside beside another, however often the seat changes hands. Without the fence in lock, or the wait after it, this test fails or hangs; that the second look at
// the seat is needed is shown by models/seat.pml: a goroutine would have to be stopped just there.
func TestEndLockExcludes(t *testing.T) {
	l := newEndLock(t)
	const enough = 5000 // visits
	var count uint64    // plain: the race detector looks too
	var who atomic.Uint64
	inside := func(me uint64) {
		sys.StoreRelease(&who, me) // no locked instruction, which would be a fence
		count++
		for range 5 {
			if who.Load() != me {
				t.Error("two are inside")
			}
		}
	}
	var others sync.WaitGroup
	var visits atomic.Uint64
	others.Go(func() { // a visitor that takes the seat away again and again
		for spins := 0; visits.Load() < enough; {
			if l.seat.Load() == nil {
				if spins++; spins%1000 == 0 {
					runtime.Gosched()
				}
				continue
			}
			l.Lock()
			inside(2)
			l.need = 0 // the seat is given again soon
			l.Unlock()
			visits.Add(1)
		}
	})
	rounds := uint64(0)
	for ; visits.Load() < enough; rounds++ {
		l.Lock()
		inside(1)
		l.Unlock()
		if rounds%1000 == 0 {
			runtime.Gosched() // there may be one processor
		}
	}
	others.Wait()
	if count != rounds+enough {
		t.Errorf("%d times inside, and counted %d", rounds+enough, count)
	}
}

// Who comes while the one that has the seat is inside sleeps until that one leaves.
func TestEndLockWaits(t *testing.T) {
	l := newEndLock(t)
	seated(t, l)
	l.Lock()
	if l.inside == nil {
		t.Fatal("who has the seat holds mu")
	}
	s := l.seat.Load()
	var in atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Lock()
		in.Store(true)
		l.Unlock()
	}()
	for !s.revoked.Load() || l.seat.Load() != nil {
		runtime.Gosched()
	}
	for range 1000 {
		runtime.Gosched()
	}
	if in.Load() {
		t.Error("two are inside")
	}
	l.Unlock()
	<-done
	if !in.Load() {
		t.Error("who waited did not get in")
	}
	l.Lock() // by mu now
	if l.inside != nil {
		t.Error("the seat was taken away and is used")
	}
	l.Unlock()
}

// A seat that is taken away again and again is given ever more seldom; one goroutine that comes in between others gets none.
func TestEndLockSeat(t *testing.T) {
	l := newEndLock(t)
	visit := func() {
		done := make(chan struct{})
		go func() { defer close(done); l.Lock(); l.Unlock() }()
		<-done
	}
	for range 10 * leastStreak {
		l.Lock()
		l.Unlock()
		visit()
	}
	if l.seat.Load() != nil {
		t.Error("a seat beside another that comes as often")
	}
	for n := range 20 {
		seated(t, l)
		visit()
		if want := min(leastStreak<<(n+1), mostStreak); l.need != want {
			t.Errorf("after %d times: %d locks for a seat, not %d", n+1, l.need, want)
		}
		if l.seat.Load() != nil {
			t.Error("it was not taken away")
		}
	}
}

func BenchmarkEndLock(b *testing.B) {
	l := newEndLock(b)
	seated(b, l)
	for b.Loop() {
		l.Lock()
		l.Unlock()
	}
}
