package region

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

func TestCloseWaitsForLeases(t *testing.T) {
	noLeaks(t)
	s := mustCreate(t, Options{Name: "leased", Size: 1})
	for range 2 {
		if err := s.Lease(); err != nil {
			t.Fatal(err)
		}
	}
	refused := make(chan struct{})
	s.OnClose(func() {
		if err := s.Lease(); !errors.Is(err, ErrClosed) || !errors.Is(err, os.ErrClosed) {
			t.Errorf("a hook could lease: %v", err)
		}
		close(refused)
	})
	done := make(chan error)
	for range 3 {
		go func() { done <- s.Close() }()
	}
	<-refused
	s.Bytes()[0] = 1 // still mapped
	s.Release()
	if n := Mapped(); n != 1 {
		t.Errorf("Mapped() = %d with a lease out", n)
	}
	select {
	case err := <-done:
		t.Fatalf("Close returned (%v) with a lease out", err)
	default:
	}
	s.Bytes()[0] = 2
	s.Release()
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("another Close: %v", err)
	}
	if err := s.Lease(); !errors.Is(err, ErrClosed) {
		t.Errorf("Lease after Close: %v", err)
	}
	if s.Bytes() != nil || s.Size() == 0 {
		t.Errorf("after Close: %d bytes, Size %d", len(s.Bytes()), s.Size())
	}
}

func TestOnClose(t *testing.T) {
	noLeaks(t)
	s := mustCreate(t, Options{Size: 1})
	var order []int
	for i := range 3 {
		s.OnClose(func() {
			s.Bytes()[0]++ // the memory is there
			order = append(order, i)
		})
	}
	s.Close()
	s.OnClose(func() { order = append(order, 3) })
	if !slices.Equal(order, []int{0, 1, 2, 3}) {
		t.Errorf("hooks ran as %v", order)
	}
}

func TestReleaseWithoutLease(t *testing.T) {
	noLeaks(t)
	for _, closed := range []bool{false, true} {
		s := mustCreate(t, Options{Name: "mine", Size: 1})
		if closed {
			s.Close()
		}
		func() {
			defer func() {
				if r := fmt.Sprint(recover()); r != `region: Release without a lease of "mine"` {
					t.Errorf("closed %v: recovered %v", closed, r)
				}
			}()
			s.Release()
		}()
		if !closed { // give back what the bug took, so that Close can end
			s.state.Add(1)
		}
	}
}

// TestCloseAgainstLeases has many users come and go while several close: whoever got a lease must be
// able to touch the memory (a fault would end the test binary), and nobody gets one after Close.
func TestCloseAgainstLeases(t *testing.T) {
	noLeaks(t)
	for range 100 {
		s, err := Create(Options{Size: 1})
		if err != nil {
			t.Fatal(err)
		}
		var users, closers sync.WaitGroup
		var closed atomic.Bool
		begun := make(chan struct{}, 4)
		for range 4 {
			users.Go(func() {
				for i := 0; ; i++ {
					was := closed.Load()
					if err := s.Lease(); err != nil {
						return
					}
					if was {
						t.Error("a lease was given after Close had returned")
					}
					_ = s.Bytes()[i%64]
					s.Release()
					if i == 10 {
						begun <- struct{}{}
					}
					if i%16 == 0 {
						runtime.Gosched() // there may be more users than processors
					}
				}
			})
		}
		<-begun
		for range 3 {
			closers.Go(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				closed.Store(true)
			})
		}
		closers.Wait()
		users.Wait()
	}
}

// TestPropertyLifetime compares a segment with its model: a count and a flag.
func TestPropertyLifetime(t *testing.T) {
	noLeaks(t)
	rapid.Check(t, func(t *rapid.T) {
		s, err := Create(Options{Size: 1})
		if err != nil {
			t.Fatal(err)
		}
		var (
			leases   int
			closing  bool
			hooks    int // registered
			hooksRun atomic.Int64
			closed   = make(chan error, 1)
		)
		begin := func() {
			refusing := make(chan struct{})
			s.OnClose(func() { close(refusing) })
			go func() { closed <- s.Close() }()
			<-refusing
			closing = true
		}
		t.Repeat(map[string]func(*rapid.T){
			"lease": func(t *rapid.T) {
				err := s.Lease()
				if (err != nil) != closing {
					t.Fatalf("Lease: %v, closing %v", err, closing)
				}
				if err == nil {
					leases++
				}
			},
			"release": func(t *rapid.T) {
				if leases == 0 {
					t.Skip("none is out")
				}
				s.Bytes()[0]++
				leases--
				s.Release()
			},
			"onclose": func(t *rapid.T) {
				hooks++
				s.OnClose(func() { hooksRun.Add(1) })
			},
			"close": func(t *rapid.T) {
				if closing {
					t.Skip("begun already")
				}
				begin()
			},
			"": func(t *rapid.T) {
				if closing && leases > 0 {
					select {
					case err := <-closed:
						t.Fatalf("Close returned %v with %d leases out", err, leases)
					default:
					}
				}
				if n := hooksRun.Load(); closing && n != int64(hooks) || !closing && n != 0 {
					t.Fatalf("%d of %d hooks have run, closing %v", n, hooks, closing)
				}
			},
		})
		if !closing {
			begin()
		}
		for range leases {
			s.Bytes()[0]++
			s.Release()
		}
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
	})
}

func TestGarbageCollectorIsABackstop(t *testing.T) {
	noLeaks(t)
	func() {
		s, err := Create(Options{Name: "dropped", Size: 1})
		if err != nil {
			t.Fatal(err)
		}
		s.OnClose(func() { s.Bytes()[0] = 1 }) // a hook that refers to its segment keeps it from nothing
		f, err := OpenFile("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		if Mapped() != 2 || f.Size() == 0 {
			t.Errorf("Mapped() = %d", Mapped())
		}
	}()
	for Mapped() > 0 { // go test's own time limit ends it
		runtime.GC()
		runtime.Gosched()
	}
}

func BenchmarkLease(b *testing.B) {
	s := mustCreate(b, Options{Size: 1})
	for b.Loop() {
		if s.Lease() == nil {
			s.Release()
		}
	}
}
