package sys

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// eachHub runs a test on every way a hub can wait.
func eachHub(t *testing.T, fn func(t *testing.T, h *Hub)) {
	t.Helper()
	kinds := map[string]func() *Hub{"one word a thread": func() *Hub { return newHub(false, 0) }}
	if HaveFutexWaitv() {
		kinds["sleepers"] = func() *Hub { return newHub(true, hubSleepers) }
		kinds["batches"] = func() *Hub { return newHub(true, 0) }
	}
	for name, make := range kinds {
		t.Run(name, func(t *testing.T) {
			h := make()
			defer h.Close()
			fn(t, h)
		})
	}
}

// waiting counts the goroutines that are registered in Wait.
func (h *Hub) waiting() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.sleepers {
		if h.sleepers[i].addr != nil {
			n++
		}
	}
	for _, b := range h.batches {
		n += b.waiters
	}
	return n
}

// asleep counts the threads of batches that are in the kernel, or on the way to it.
func (h *Hub) asleep() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.batches {
		if b.armed && !b.rung {
			n++
		}
	}
	return n
}

func (h *Hub) batchCount() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.batches)
}

// start waits in a goroutine until the word has another value, as every user of Wait does:
// it may return for no reason.
func (h *Hub) start(ctx context.Context, w *atomic.Uint32, val uint32) <-chan error {
	done := make(chan error, 1)
	go func() {
		for {
			if err := h.Wait(ctx, w, val); err != nil || w.Load() != val {
				done <- err
				return
			}
		}
	}()
	return done
}

// bump changes the word, then wakes: the order that Wait asks for.
func bump(w *atomic.Uint32) {
	w.Add(1)
	FutexWake(w, math.MaxInt32)
}

func TestHubWaitAnswers(t *testing.T) {
	eachHub(t, func(t *testing.T, h *Hub) {
		var w atomic.Uint32
		if err := h.Wait(t.Context(), &w, 1); err != nil {
			t.Errorf("other value: %v", err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := h.Wait(ended, &w, 0); err != context.Canceled {
			t.Errorf("ended context: %v", err)
		}
		if n := h.batchCount(); n != 0 {
			t.Errorf("%d threads for nothing", n)
		}

		// Woken, many on one word, with a context that can end and one that cannot.
		for _, n := range []int{1, 2, 20} {
			var done []<-chan error
			for i := range n {
				ctx := context.Background()
				if i%2 == 0 {
					ctx = t.Context()
				}
				done = append(done, h.start(ctx, &w, w.Load()))
			}
			eventually(t, "all waiting", func() bool { return h.waiting() == n })
			bump(&w)
			for _, d := range done {
				if err := receive(t, d); err != nil {
					t.Errorf("woken: %v", err)
				}
			}
		}
		eventually(t, "threads ended", func() bool { return h.batchCount() == 0 })
	})
}

// A wake without a change is not promised to be seen, but is if it reaches a sleeper.
func TestHubWakeWithoutChange(t *testing.T) {
	eachHub(t, func(t *testing.T, h *Hub) {
		var w, other atomic.Uint32
		others := h.start(t.Context(), &other, 0)
		for range 20 {
			done := make(chan error, 1)
			go func() { done <- h.Wait(t.Context(), &w, 0) }()
			// Again and again, since a thread may sleep on it still for nobody.
			eventually(t, "answer", func() bool {
				FutexWake(&w, 1)
				return len(done) == 1
			})
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		bump(&other)
		receive(t, others)
	})
}

// A goroutine that joins with a newer value than the thread sleeps on makes it look again:
// the kernel compared the old one.
func TestHubNewerValue(t *testing.T) {
	eachHub(t, func(t *testing.T, h *Hub) {
		if len(h.sleepers) > 0 {
			return // nobody joins anybody
		}
		var w atomic.Uint32
		old := h.start(t.Context(), &w, 0)
		eventually(t, "asleep", func() bool { return h.asleep() == 1 })
		w.Store(1) // no wake
		newer := h.start(t.Context(), &w, 1)
		if err := receive(t, old); err != nil {
			t.Error(err)
		}
		bump(&w)
		if err := receive(t, newer); err != nil {
			t.Error(err)
		}
	})
}

func TestHubContext(t *testing.T) {
	eachHub(t, func(t *testing.T, h *Hub) {
		var w, other atomic.Uint32
		others := h.start(t.Context(), &other, 0) // keeps its thread all the while
		for range 50 {
			ctx, cancel := context.WithCancel(t.Context())
			one := h.start(ctx, &w, 0)
			two := h.start(t.Context(), &w, 0)
			eventually(t, "three waiting", func() bool { return h.waiting() == 3 })
			cancel()
			if err := receive(t, one); err != context.Canceled {
				t.Fatalf("cancelled: %v", err)
			}
			if n := h.waiting(); n != 2 {
				t.Fatalf("%d waiting after one of 3 was cancelled", n)
			}
			bump(&w)
			if err := receive(t, two); err != nil {
				t.Fatalf("the other: %v", err)
			}
			w.Store(0)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		if err := h.Wait(ctx, &w, 0); err != context.DeadlineExceeded {
			t.Errorf("deadline: %v", err)
		}
		bump(&other)
		if err := receive(t, others); err != nil {
			t.Error(err)
		}
		eventually(t, "threads ended", func() bool { return h.batchCount() == 0 })
	})
}

// The thread ends when the only waiter is cancelled, with nobody to wake it.
func TestHubThreadEndsAfterCancel(t *testing.T) {
	eachHub(t, func(t *testing.T, h *Hub) {
		var w atomic.Uint32
		for range 200 {
			ctx, cancel := context.WithCancel(t.Context())
			done := h.start(ctx, &w, 0)
			eventually(t, "waiting", func() bool { return h.waiting() == 1 })
			cancel()
			if err := receive(t, done); err != context.Canceled {
				t.Fatal(err)
			}
			eventually(t, "thread ended", func() bool { return h.batchCount() == 0 })
		}
	})
}

func TestHubManyWords(t *testing.T) {
	if !HaveFutexWaitv() {
		return
	}
	h := newHub(true, 0)
	defer h.Close()
	const n = 3*(MaxWaitv-1) + 5
	words := make([]atomic.Uint32, n)
	done := make([]<-chan error, n)
	for i := range words {
		done[i] = h.start(t.Context(), &words[i], 0)
	}
	eventually(t, "all waiting", func() bool { return h.waiting() == n })
	if got, want := h.batchCount(), 4; got != want {
		t.Errorf("%d words took %d threads, want %d", n, got, want)
	}
	for left, i := range rand.Perm(n) {
		bump(&words[i])
		if err := receive(t, done[i]); err != nil {
			t.Fatalf("word %d: %v", i, err)
		}
		if got := h.waiting(); got != n-left-1 {
			t.Fatalf("%d waiting, want %d", got, n-left-1)
		}
	}
	eventually(t, "threads ended", func() bool { return h.batchCount() == 0 })
}

// WaitLong leaves the sleepers' places free.
func TestHubWaitLong(t *testing.T) {
	eachHub(t, func(t *testing.T, h *Hub) {
		var w atomic.Uint32
		var stop atomic.Bool
		done := make(chan error, 10)
		for range cap(done) {
			go func() { done <- h.WaitLong(t.Context(), &w, 0, &stop) }()
		}
		eventually(t, "all waiting", func() bool { return h.waiting() == cap(done) })
		h.mu.Lock()
		for i := range h.sleepers {
			if h.sleepers[i].addr != nil {
				t.Error("WaitLong took a sleeper's place")
			}
		}
		h.mu.Unlock()
		bump(&w)
		for range cap(done) {
			if err := receive(t, done); err != nil {
				t.Error(err)
			}
		}
		stop.Store(true)
		if err := h.WaitLong(t.Context(), &w, w.Load(), &stop); err != ErrClosed {
			t.Errorf("stopped: %v", err)
		}
	})
}

// Words that nobody waits on any more make room, in the thread's set and in the memory.
func TestHubLetsWordsGo(t *testing.T) {
	if !HaveFutexWaitv() {
		return
	}
	h := newHub(true, 0)
	defer h.Close()
	held := make([]atomic.Uint32, MaxWaitv-2) // one place is left
	var done []<-chan error
	for i := range held {
		done = append(done, h.start(t.Context(), &held[i], 0))
	}
	eventually(t, "all waiting", func() bool { return h.waiting() == len(held) })
	for i := range 300 {
		var w atomic.Uint32
		d := h.start(t.Context(), &w, 0)
		eventually(t, "waiting", func() bool { return h.waiting() == len(held)+1 })
		if n := h.batchCount(); n != 1 {
			t.Fatalf("word %d: %d threads for %d words", i, n, MaxWaitv-1)
		}
		bump(&w)
		if err := receive(t, d); err != nil {
			t.Fatal(err)
		}
	}
	for i := range held[1:] {
		bump(&held[i+1])
		receive(t, done[i+1])
	}
	h.mu.Lock()
	n := len(h.words)
	h.mu.Unlock()
	if n > 1+4*hubStays { // some may have been left in one turn
		t.Errorf("%d words are kept while one is waited on", n)
	}
	bump(&held[0])
	receive(t, done[0])
}

// A word of which all goroutines were cancelled may still be slept on. The wake-up that
// reaches it belongs to the next sleeper, here one outside of the hub.
func TestHubPassesWakeupsOn(t *testing.T) {
	eachHub(t, func(t *testing.T, h *Hub) {
		var w, other atomic.Uint32
		others := h.start(t.Context(), &other, 0)
		for range 100 {
			w.Store(0)
			ctx, cancel := context.WithCancel(t.Context())
			gone := h.start(ctx, &w, 0)
			eventually(t, "waiting", func() bool { return h.waiting() == 2 })
			outside := make(chan error, 1)
			var up atomic.Bool
			go func() {
				up.Store(true)
				outside <- FutexWait(&w, 0, patience)
			}()
			eventually(t, "started", up.Load)
			cancel()
			if err := receive(t, gone); err != context.Canceled {
				t.Fatal(err)
			}
			// One wake only, after the change: whoever gets it, the sleeper must return.
			w.Add(1)
			FutexWake(&w, 1)
			if err := receive(t, outside); err != nil && err != ErrAgain {
				t.Fatalf("the wake-up was lost: %v", err)
			}
		}
		bump(&other)
		receive(t, others)
	})
}

func TestHubClose(t *testing.T) {
	eachHub(t, func(t *testing.T, h *Hub) {
		words := make([]atomic.Uint32, 10)
		var done []<-chan error
		for i := range 40 {
			done = append(done, h.start(t.Context(), &words[i%len(words)], 0))
		}
		eventually(t, "all waiting", func() bool { return h.waiting() == len(done) })
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(h.Close)
		}
		for _, d := range done {
			if err := receive(t, d); err != ErrClosed || !errors.Is(err, os.ErrClosed) {
				t.Errorf("Wait at Close: %v", err)
			}
		}
		wg.Wait()
		if n := h.batchCount(); n != 0 {
			t.Errorf("%d threads after Close", n)
		}
		if err := h.Wait(t.Context(), &words[0], 0); err != ErrClosed {
			t.Errorf("Wait after Close: %v", err)
		}
		h.Close()
	})
}

func TestHubForget(t *testing.T) {
	eachHub(t, func(t *testing.T, h *Hub) {
		f := tempMemfd(t, 1)
		kept := tempMap(t, f, 1, true)
		others := []<-chan error{h.start(t.Context(), Word(kept, 0), 0), h.start(t.Context(), Word(kept, 4), 0)}
		eventually(t, "the others", func() bool { return h.waiting() == 2 })
		for range 50 {
			b, err := Map(f, 0, PageSize(), true)
			if err != nil {
				t.Fatal(err)
			}
			var stop atomic.Bool
			var wg sync.WaitGroup
			answers := make(chan error, 20)
			for i := range cap(answers) {
				wg.Go(func() {
					for {
						// As the libraries do: again and again until they are told.
						if err := h.WaitUnless(t.Context(), Word(b, 64+4*(i%5)), 0, &stop); err != nil {
							answers <- err
							return
						}
					}
				})
			}
			eventually(t, "some waiting", func() bool { return h.waiting() > 2+rand.IntN(18) })
			stop.Store(true)
			h.Forget(b)
			wg.Wait()
			h.mu.Lock()
			for _, bt := range h.batches {
				for _, s := range bt.set {
					if bt.armed && wordIn(b, s.Addr) {
						t.Error("a thread still sleeps on forgotten memory")
					}
				}
			}
			h.mu.Unlock()
			if err := Unmap(b); err != nil {
				t.Fatal(err)
			}
			for range cap(answers) {
				if err := receive(t, answers); err != ErrClosed {
					t.Fatalf("forgotten: %v, want ErrClosed", err)
				}
			}
			if n := h.waiting(); n != 2 {
				t.Fatalf("%d waiting, want the others", n)
			}
		}
		bump(Word(kept, 0))
		bump(Word(kept, 4))
		for _, d := range others {
			if err := receive(t, d); err != nil {
				t.Errorf("the other mapping: %v", err)
			}
		}
	})
}

func TestHubReadOnlyMapping(t *testing.T) {
	eachHub(t, func(t *testing.T, h *Hub) {
		f := tempMemfd(t, 1)
		rw, ro := tempMap(t, f, 1, true), tempMap(t, f, 1, false)
		done := h.start(t.Context(), Word(ro, 16), 0)
		eventually(t, "waiting", func() bool { return h.waiting() == 1 })
		bump(Word(rw, 16))
		if err := receive(t, done); err != nil {
			t.Error(err)
		}
	})
}

// A word whose memory goes away fails its own waiters, not the process, nor the others.
func TestHubTruncatedFile(t *testing.T) {
	eachHub(t, func(t *testing.T, h *Hub) {
		if len(h.sleepers) > 0 {
			return // the waiter itself reads the word, under its own GuardFault
		}
		f, b := mapFile(t, 1)
		var fine atomic.Uint32
		lost := make(chan error, 1)
		go func() { lost <- h.Wait(t.Context(), Word(b, 0), 0) }() // not start, which reads the word
		rest := h.start(t.Context(), &fine, 0)
		eventually(t, "both asleep", func() bool { return h.waiting() == 2 && h.asleep() >= 1 })
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		// The futex of a page that is gone cannot be woken by its address.
		h.mu.Lock()
		for _, bt := range h.batches {
			h.kick(bt)
		}
		h.mu.Unlock()
		if err := receive(t, lost); !errors.Is(err, syscall.EFAULT) {
			t.Errorf("waiter on lost memory: %v, want EFAULT", err)
		}
		h.Forget(b)
		bump(&fine)
		if err := receive(t, rest); err != nil {
			t.Errorf("the other waiter: %v", err)
		}
	})
}

// Everything at once: counted events over few words, consumers that are cancelled at
// random, and no event lost.
func TestHubStorm(t *testing.T) {
	eachHub(t, func(t *testing.T, h *Hub) {
		const words, goroutines = 5, 64
		events := uint32(2000)
		if testing.Short() {
			events = 500
		}
		f := tempMemfd(t, 1)
		b := tempMap(t, f, 1, true)
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		var consumers, producers sync.WaitGroup
		for g := range goroutines {
			w := Word(b, 64*(g%words))
			consumers.Go(func() {
				for seen := w.Load(); seen < events; seen = w.Load() {
					c, stop := ctx, context.CancelFunc(func() {})
					if rand.IntN(4) == 0 {
						c, stop = context.WithTimeout(ctx, time.Duration(rand.IntN(200))*time.Microsecond)
					}
					err := h.Wait(c, w, seen)
					stop()
					if err != nil && ctx.Err() != nil {
						t.Errorf("word %d stuck at %d of %d: %v", g%words, w.Load(), events, err)
						return
					}
				}
			})
		}
		for i := range words {
			w := Word(b, 64*i)
			producers.Go(func() {
				for range events {
					bump(w)
				}
			})
		}
		producers.Wait()
		consumers.Wait()
		eventually(t, "threads ended", func() bool { return h.batchCount() == 0 })
	})
}

// The promise that hubs exist for: 1,000 waiting goroutines, few threads, no CPU.
func TestHubThreadsOfAThousandGoroutines(t *testing.T) {
	for name, env := range map[string][]string{
		"kernel's":       nil,
		"no futex_waitv": {NoWaitvEnv + "=1"},
	} {
		t.Run(name, func(t *testing.T) {
			var n int
			var cpu time.Duration
			out := runHelper(t, "thousand", env)
			if _, err := fmt.Sscanf(out, "threads %d cpu %d", &n, &cpu); err != nil {
				t.Fatalf("%q: %v", out, err)
			}
			t.Log(strings.TrimSpace(out))
			if n >= 20 {
				t.Errorf("1000 goroutines on 8 words: %d threads, want fewer than 20", n)
			}
			if cpu > 20*time.Millisecond {
				t.Errorf("asleep for 500 ms they used %v of CPU", cpu)
			}
		})
	}
}

func init() {
	helpers["thousand"] = func() {
		f, err := MemfdCreate("thousand")
		die(err)
		die(Allocate(f, int64(PageSize())))
		b, err := Map(f, 0, PageSize(), true)
		die(err)
		h := NewHub()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		const goroutines, words = 1000, 8
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() { die(h.Wait(ctx, Word(b, 64*(g%words)), 0)) })
		}
		// Until all wait, and the threads have come to rest.
		for h.waiting() < goroutines || h.asleep() < h.batchCount() {
			FutexWait(new(atomic.Uint32), 0, time.Millisecond)
		}
		before := cpuTime()
		FutexWait(new(atomic.Uint32), 0, 500*time.Millisecond) // a nap in the kernel
		used := cpuTime() - before
		fmt.Printf("threads %d cpu %d\n", threads(), used)
		for i := range words {
			bump(Word(b, 64*i))
		}
		wg.Wait()
		h.Close()
	}
}
