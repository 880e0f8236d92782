package sys

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFutexWaitAnswers(t *testing.T) {
	var w atomic.Uint32
	w.Store(5)
	if err := FutexWait(&w, 4, -1); err != ErrAgain {
		t.Errorf("other value: %v, want ErrAgain", err)
	}
	if err := FutexWait(&w, 5, 0); err != ErrTimedOut {
		t.Errorf("timeout 0: %v, want ErrTimedOut", err)
	}
	const d = 20 * time.Millisecond
	start := time.Now()
	if err := FutexWait(&w, 5, d); err != ErrTimedOut || time.Since(start) < d {
		t.Errorf("timeout %v: %v after %v", d, err, time.Since(start))
	}
	for _, timeout := range []time.Duration{-1, patience, math.MaxInt64} {
		done := make(chan error, 1)
		go func() { done <- FutexWait(&w, 5, timeout) }()
		wakeSleeper(t, &w)
		if err := receive(t, done); err != nil {
			t.Errorf("woken with timeout %v: %v", timeout, err)
		}
	}
	if n := FutexWake(&w, 1); n != 0 {
		t.Errorf("woke %d without sleepers", n)
	}
}

func TestFutexNap(t *testing.T) {
	var w atomic.Uint32
	w.Store(5)
	if err := FutexNap(&w, 4, patience); err != ErrAgain {
		t.Errorf("other value: %v, want ErrAgain", err)
	}
	const d = 5 * time.Millisecond
	start := time.Now()
	// A signal of the runtime's may end it first.
	if err := FutexNap(&w, 5, d); err != ErrAgain && (err != ErrTimedOut || time.Since(start) < d) {
		t.Errorf("for %v: %v after %v", d, err, time.Since(start))
	}
	woken := false
	eventually(t, "a nap woken", func() bool {
		done := make(chan error, 1)
		go func() { done <- FutexNap(&w, 5, d) }()
		for woken = false; !woken; {
			select {
			case err := <-done:
				return err == nil
			default:
				woken = FutexWake(&w, 1) == 1
			}
		}
		return receive(t, done) == nil
	})
}

// TestFutexNapStopsTheWorld: a nap keeps a processor from the runtime, and must not keep the runtime from it.
func TestFutexNapStopsTheWorld(t *testing.T) {
	var w atomic.Uint32
	begun, done := make(chan bool), make(chan error, 1)
	go func() {
		close(begun)
		done <- FutexNap(&w, 0, patience)
	}()
	<-begun
	runtime.GC()
	eventually(t, "the nap is over", func() bool {
		FutexWake(&w, 1) // if it began after the interruption
		select {
		case err := <-done:
			return err == ErrAgain || err == nil
		default:
			return false
		}
	})
}

func TestFutexWakeCounts(t *testing.T) {
	var w atomic.Uint32
	const sleepers = 5
	done := make(chan error, sleepers)
	for range sleepers {
		go func() { done <- FutexWait(&w, 0, -1) }()
	}
	for _, n := range []int{0, -1} {
		if got := FutexWake(&w, n); got != 0 {
			t.Errorf("FutexWake(%d) woke %d", n, got)
		}
	}
	woken := 0
	eventually(t, "two woken", func() bool {
		woken += FutexWake(&w, 2-woken)
		return woken == 2
	})
	receive(t, done)
	receive(t, done)
	select {
	case err := <-done:
		t.Errorf("a third came: %v", err)
	default:
	}
	eventually(t, "all woken", func() bool {
		woken += FutexWake(&w, math.MaxInt)
		return woken == sleepers
	})
	for range sleepers - 2 {
		receive(t, done)
	}
}

func TestFutexBadAddress(t *testing.T) {
	b, err := Map(tempMemfd(t, 1), 0, PageSize(), true)
	if err != nil {
		t.Fatal(err)
	}
	w := Word(b, 0)
	Unmap(b)
	if err := FutexWait(w, 0, -1); !errors.Is(err, syscall.EFAULT) {
		t.Errorf("unmapped: %v, want EFAULT", err)
	}
	if n := FutexWake(w, 1); n != 0 {
		t.Errorf("unmapped: woke %d", n)
	}
}

// A waiter needs to read only, and a wake through another mapping reaches it.
func TestFutexOnReadOnlyMapping(t *testing.T) {
	f := tempMemfd(t, 1)
	rw, ro := tempMap(t, f, 1, true), tempMap(t, f, 1, false)
	done := make(chan error, 1)
	go func() { done <- FutexWait(Word(ro, 64), 0, -1) }()
	wakeSleeper(t, Word(rw, 64))
	if err := receive(t, done); err != nil {
		t.Errorf("woken on a read-only mapping: %v", err)
	}
	go func() { done <- FutexWait(Word(rw, 64), 0, -1) }()
	wakeSleeper(t, Word(ro, 64))
	if err := receive(t, done); err != nil {
		t.Errorf("woken from a read-only mapping: %v", err)
	}
	if !HaveFutexWaitv() {
		return
	}
	go func() {
		_, err := FutexWaitv([]FutexWord{{Word(ro, 64), 0}, {Word(ro, 128), 0}}, -1)
		done <- err
	}()
	wakeSleeper(t, Word(rw, 128))
	if err := receive(t, done); err != nil {
		t.Errorf("futex_waitv woken on a read-only mapping: %v", err)
	}
}

// Signals interrupt a timed wait in the kernel; it must neither end early nor start anew.
func TestFutexWaitEINTR(t *testing.T) {
	waits := map[string]func(w *atomic.Uint32, d time.Duration) error{
		"futex": func(w *atomic.Uint32, d time.Duration) error { return FutexWait(w, 0, d) },
	}
	if HaveFutexWaitv() {
		waits["futex_waitv"] = func(w *atomic.Uint32, d time.Duration) error {
			_, err := FutexWaitv([]FutexWord{{w, 0}}, d)
			return err
		}
	}
	for name, wait := range waits {
		t.Run(name, func(t *testing.T) {
			const d = 100 * time.Millisecond
			var w atomic.Uint32
			tid := make(chan int)
			done := make(chan error)
			go func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				tid <- unix.Gettid()
				start := time.Now()
				err := wait(&w, d)
				if took := time.Since(start); took < d || took > d+patience/2 {
					err = fmt.Errorf("%w after %v, want %v", err, took, d)
				}
				done <- err
			}()
			to := receive(t, tid)
			signals := 0
			for {
				select {
				case err := <-done:
					if err != ErrTimedOut {
						t.Error(err)
					}
					if signals < 10 {
						t.Errorf("only %d signals", signals)
					}
					return
				default:
					// SIGURG is what Go itself preempts with; its handler ignores ours.
					if err := unix.Tgkill(os.Getpid(), to, unix.SIGURG); err != nil {
						t.Fatal(err)
					}
					signals++
					runtime.Gosched()
				}
			}
		})
	}
}

func TestFutexWaitv(t *testing.T) {
	if !HaveFutexWaitv() {
		if _, err := FutexWaitv(nil, 0); !errors.Is(err, ErrNoSys) {
			t.Errorf("%v, want ErrNoSys", err)
		}
		return
	}
	ws := make([]atomic.Uint32, MaxWaitv+1)
	words := make([]FutexWord, len(ws))
	for i := range ws {
		words[i].Addr = &ws[i]
	}
	if _, err := FutexWaitv(words, 0); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("%d words: %v, want EINVAL", len(words), err)
	}
	words = words[:MaxWaitv]
	if i, err := FutexWaitv(words, 0); err != ErrTimedOut || i != -1 {
		t.Errorf("timeout 0: %d, %v", i, err)
	}
	ws[77].Store(1)
	if _, err := FutexWaitv(words, -1); err != ErrAgain {
		t.Errorf("other value: %v, want ErrAgain", err)
	}
	ws[77].Store(0)
	type answer struct {
		i   int
		err error
	}
	for _, n := range []int{1, 2, 5, MaxWaitv} {
		for _, i := range []int{0, n / 2, n - 1} {
			done := make(chan answer, 1)
			go func() {
				i, err := FutexWaitv(words[:n], patience)
				done <- answer{i, err}
			}()
			wakeSleeper(t, &ws[i])
			if a := receive(t, done); a != (answer{i, nil}) {
				t.Errorf("%d words, woke %d: %+v", n, i, a)
			}
		}
	}
}

// Words on a goroutine's stack: the stack moves when it grows, the words must not.
func TestFutexWaitvWordOnGrowingStack(t *testing.T) {
	if !HaveFutexWaitv() {
		return
	}
	done := make(chan error, 1)
	at := make(chan *atomic.Uint32)
	go func() {
		var w atomic.Uint32
		at <- &w
		grow(1000)
		_, err := FutexWaitv([]FutexWord{{&w, 0}}, patience)
		done <- err
	}()
	wakeSleeper(t, receive(t, at))
	if err := receive(t, done); err != nil {
		t.Error(err)
	}
}

//go:noinline
func grow(n int) byte {
	var frame [256]byte
	if n > 0 {
		frame[n%256] = grow(n - 1)
	}
	return frame[7]
}

func TestNoWaitvEnvironment(t *testing.T) {
	if got := runHelper(t, "waitv", []string{NoWaitvEnv + "=1"}); got != "false not offered by this kernel: unsupported operation\n" {
		t.Errorf("with %s=1: %q", NoWaitvEnv, got)
	}
}

func init() {
	helpers["waitv"] = func() {
		_, err := FutexWaitv(nil, 0)
		fmt.Println(HaveFutexWaitv(), err)
	}
}

// A race: two processes hand a ball to and fro, each asleep unless it is its turn, with a
// wake only if the other says that it sleeps. One lost wake-up and both sleep for ever.
type racePage struct {
	ball, asleep [2]*atomic.Uint32
	stop         *atomic.Uint32
}

func newRacePage(b []byte) racePage {
	return racePage{
		ball:   [2]*atomic.Uint32{Word(b, 0), Word(b, 64)},
		asleep: [2]*atomic.Uint32{Word(b, 128), Word(b, 192)},
		stop:   Word(b, 256),
	}
}

// throw gives the ball to the other side.
func (p racePage) throw(side int) {
	to := 1 - side
	p.ball[to].Add(1)
	if p.asleep[to].Load() != 0 {
		FutexWake(p.ball[to], 1)
	}
}

// catch waits until ball number n has come.
func (p racePage) catch(side int, n uint32, wait func(*atomic.Uint32, uint32) error) error {
	ball, asleep := p.ball[side], p.asleep[side]
	for ball.Load() != n {
		asleep.Add(1)
		err := error(nil)
		if now := ball.Load(); now != n {
			err = wait(ball, now)
		}
		asleep.Add(^uint32(0))
		if err != nil && err != ErrAgain {
			return fmt.Errorf("side %d, ball %d, word %d: %w", side, n, ball.Load(), err)
		}
		if p.stop.Load() != 0 {
			return nil
		}
	}
	return nil
}

// raceWaits are the ways to wait; each gives up after patience.
func raceWaits(ctx context.Context) (map[string]func(*atomic.Uint32, uint32) error, func()) {
	direct, batch, old := NewHub(), newHub(HaveFutexWaitv(), 0), newHub(false, 0)
	on := func(h *Hub) func(*atomic.Uint32, uint32) error {
		return func(w *atomic.Uint32, val uint32) error { return h.Wait(ctx, w, val) }
	}
	return map[string]func(*atomic.Uint32, uint32) error{
			"futex":               func(w *atomic.Uint32, val uint32) error { return FutexWait(w, val, patience) },
			"hub, sleeper":        on(direct),
			"hub, batch":          on(batch),
			"hub, no futex_waitv": on(old),
		}, func() {
			direct.Close()
			batch.Close()
			old.Close()
		}
}

func TestNoLostWakeupBetweenProcesses(t *testing.T) {
	rounds := uint32(100_000)
	bound := 3 * time.Second
	if testing.Short() {
		bound = time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	waits, closeHubs := raceWaits(ctx)
	defer closeHubs()
	for name, wait := range waits {
		t.Run(name, func(t *testing.T) {
			f := tempMemfd(t, 1)
			p := newRacePage(tempMap(t, f, 1, true))
			cmd := helper(t, "race", []string{"SHMD_SYS_TEST_WAIT=" + name}, f)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			end := time.Now().Add(bound)
			n := uint32(0)
			for n < rounds && (n%1000 != 0 || time.Now().Before(end)) {
				n++
				p.throw(0)
				if err := p.catch(0, n, wait); err != nil {
					t.Fatal(err)
				}
			}
			p.stop.Store(1)
			p.throw(0)
			if err := cmd.Wait(); err != nil {
				t.Errorf("other side: %v", err)
			}
			t.Logf("%d rounds, %v each", n, (bound-time.Until(end))/time.Duration(n))
			if n < 1000 {
				t.Errorf("only %d rounds", n)
			}
		})
	}
}

func init() {
	helpers["race"] = func() {
		b, err := Map(os.NewFile(3, "race"), 0, PageSize(), true)
		die(err)
		p := newRacePage(b)
		ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
		defer cancel()
		waits, _ := raceWaits(ctx)
		wait := waits[os.Getenv("SHMD_SYS_TEST_WAIT")]
		for n := uint32(1); p.stop.Load() == 0; n++ {
			die(p.catch(1, n, wait))
			p.throw(1)
		}
	}
}

func BenchmarkFutexWakeNobody(b *testing.B) {
	var w atomic.Uint32
	for b.Loop() {
		FutexWake(&w, 1)
	}
}

// BenchmarkPingPong is a round trip between two goroutines, by way of waiting.
func BenchmarkPingPong(b *testing.B) {
	waits, closeHubs := raceWaits(context.Background())
	defer closeHubs()
	for name, wait := range waits {
		b.Run(strings.ReplaceAll(name, " ", ""), func(b *testing.B) {
			p := newRacePage(make([]byte, 4096))
			var wg sync.WaitGroup
			wg.Go(func() {
				for n := uint32(1); p.stop.Load() == 0; n++ {
					p.catch(1, n, wait)
					p.throw(1)
				}
			})
			b.ReportAllocs()
			n := uint32(0)
			for b.Loop() {
				n++
				p.throw(0)
				p.catch(0, n, wait)
			}
			p.stop.Store(1)
			p.throw(0)
			wg.Wait()
		})
	}
}
