package shm

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// A spinner decides how long a caller looks again before it sleeps. Looking again pays while the other end is busy on another
// CPU: a sleep and its wake-up cost 50 to 100 µs. Where it does not pay, on a machine with more work than CPUs, say, it takes the CPU
// from the one that is waited for; so once it has failed a few times in a row it is cut short, and tried in full once in a while.
type spinner struct {
	misses atomic.Int32 // times in a row that a full time of looking was not enough; at most fewMisses
	tries  atomic.Uint32
	wait   atomic.Uint32 // Wait of the end
}

const (
	spinTime   = 100_000 // ns. A time and not a number: a pause takes 14 ns on one processor and 60 on another
	fewLooks   = 8       // at least, and between two readings of the clock
	fewMisses  = 2
	probeEvery = 32 // tries
)

// looks is one time of looking: begin it, look as long as more says so, and end it.
type looks struct {
	s     *spinner
	full  bool
	n     uint32
	until int64 // ns; 0: the clock was not read yet
}

func (s *spinner) begin() looks {
	return looks{s: s, full: s.misses.Load() < fewMisses || s.tries.Add(1)%probeEvery == 0}
}

// more reports whether to look again.
func (k *looks) more(ctx context.Context, r *Region) bool {
	k.n++
	return k.n%fewLooks != 0 || k.goOn(ctx, r)
}

func (k *looks) goOn(ctx context.Context, r *Region) bool {
	if !k.full || ctx.Err() != nil || r.ending.Load() {
		return false
	}
	now := sys.MonotonicNs()
	if k.until == 0 {
		k.until = now + spinTime
	}
	return now < k.until
}

// end takes down whether looking was enough.
func (k *looks) end(found bool) {
	switch misses := k.s.misses.Load(); {
	case !k.full:
	case found && misses != 0: // a store costs more
		k.s.misses.Store(0)
	case !found && misses < fewMisses:
		k.s.misses.Store(misses + 1)
	}
}

// again reports whether err says that an operation may succeed later.
func again(err error) bool { return err == ErrFull || err == ErrEmpty }

// await calls try until it returns something other than ErrFull and ErrEmpty, or until ctx, the quit flag or the end of the region
// ends it: first it spins for a while, if nobody else in this process does, then it sleeps on the doorbell, unless the end waits in another way (Wait). The
// caller has tried once, and holds the segment's lease.
func (r *Region) await(ctx context.Context, bell *protocol.Doorbell, spin *spinner, try func() error) error {
	how := r.how(spin)
	if how == WaitSpin {
		return r.awaitSpinning(ctx, try)
	}
	if r.many && how == WaitAdaptive && r.spinning.CompareAndSwap(false, true) {
		looks := spin.begin()
		err := try()
		for again(err) && looks.more(ctx, r) {
			sys.Pause()
			err = try()
		}
		r.spinning.Store(false)
		looks.end(!again(err))
		if !again(err) {
			return err
		}
	}
	return r.awaitAsleep(ctx, bell, try)
}

// awaitAsleep is await without the spinning. Who was woken tries before it registers again.
func (r *Region) awaitAsleep(ctx context.Context, bell *protocol.Doorbell, try func() error) error {
	for {
		v := bell.Value()
		ticket := bell.Register()      // S
		if err := try(); !again(err) { // T
			bell.Unregister(ticket)
			return err
		}
		err := r.sleep(ctx, bell.Word(), v)
		bell.Unregister(ticket)
		if err != nil {
			// A wake may have been meant for this sleeper: pass it on, or another would sleep beside work.
			bell.PassOn()
			return err
		}
		if err := try(); !again(err) {
			if err != nil { // it did not take what it was woken for: ErrLeases, say
				bell.PassOn()
			}
			return err
		}
	}
}

// sleep waits until a word differs from v, ctx ends, or the process is asked to quit. While it sleeps the worker counts as asleep.
func (r *Region) sleep(ctx context.Context, word *atomic.Uint32, v uint32) error {
	r.lieDown()
	if r.naps.taken.CompareAndSwap(false, true) {
		woken := r.nap(ctx, word, v)
		r.naps.taken.Store(false)
		if woken {
			r.getUp()
			return nil
		}
	}
	return r.sleepLong(ctx, word, v)
}

// sleepLong is sleep after lieDown, and after a nap that was of no use. It is apart so that it costs a nap nothing.
func (r *Region) sleepLong(ctx context.Context, word *atomic.Uint32, v uint32) error {
	defer r.getUp()
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.quit, cancel)()
	err := r.hub.Wait(both, word, v)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case r.asked() != nil:
		return r.asked()
	}
	return err
}

// A nap is the first part of a sleep: one in which the goroutine keeps its processor (sys.FutexNap). It makes a wake-up several times as fast where the scheduler
// has nothing else to do with that processor, and is taken only if
//
//   - every other goroutine of the program can have a processor of its own meanwhile;
//   - no other goroutine naps: there is one nap at a time in a region;
//   - naps have paid: one whose time ran out is followed by sleeps without, up to 31 of them.
//
// A context that ends during a nap ends the sleep at the end of the nap, at most napTime late; a deadline and the quit flag end it at once, the flag too at
// most napTime late where there is one processor, which the goroutine that watches it has to wait for.
//
// What is done around a nap is done with cold caches, and is a good part of a wake-up where both ends share a CPU: the less it touches the better.
type naps struct {
	word  atomic.Pointer[atomic.Uint32] // of the last nap; it is stored only if it is another
	taken atomic.Bool                   // somebody naps, and owns the rest
	skip  uint8                         // sleeps without a nap to come
	after uint8                         // the next one that ran out is followed by so many
}

const (
	napTime  = 5 * time.Millisecond
	mostSkip = 31
	mostNaps = 3 // of one sleep, if it is interrupted
)

// end ends a nap, if there is one. Who sleeps on the same word in other processes looks again and sleeps on.
func (n *naps) end() {
	if word := n.word.Load(); n.taken.Load() && word != nil {
		sys.FutexWake(word, 1<<30)
	}
}

// spare reports whether all goroutines of the program can have a processor at once. Those of the library sleep in the kernel, and need one for a moment when
// they are woken.
func (r *Region) spare() bool {
	return runtime.NumGoroutine() <= int(r.procs+r.own.Load())
}

// nap sleeps for a while and reports whether word was woken or has another value than v. If not, the sleep has yet to begin. The caller has taken naps.
func (r *Region) nap(ctx context.Context, word *atomic.Uint32, v uint32) bool {
	n := &r.naps
	if n.skip > 0 {
		n.skip--
		return false
	}
	if !r.spare() {
		return false
	}
	if n.word.Load() != word {
		n.word.Store(word)
	}
	limit := napTime
	if at, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(at))
	}
	if limit <= 0 || ctx.Err() != nil {
		return false
	}
	if r.ending.Load() { // after taken and word: who ends the region and does not see them was here before
		return false
	}
	if err := sys.FutexNap(word, v, limit); err != nil {
		return n.goOn(err, word, v, limit)
	}
	n.after = 0
	return true
}

// goOn is what follows a nap that ended with err. It is apart for the same reason.
func (n *naps) goOn(err error, word *atomic.Uint32, v uint32, limit time.Duration) bool {
	for left := mostNaps - 1; ; left-- {
		switch {
		case err == sys.ErrTimedOut:
			n.after = min(2*n.after+1, mostSkip)
			n.skip = n.after
			runtime.Gosched() // it forgets timers that were stopped meanwhile, for which it would wake this process later
			return word.Load() != v
		case err == nil, word.Load() != v:
			n.after = 0
			return true
		}
		runtime.Gosched() // interrupted: the scheduler wants the processor, or thinks that somebody might
		if left == 0 {
			return word.Load() != v
		}
		err = sys.FutexNap(word, v, limit)
	}
}
