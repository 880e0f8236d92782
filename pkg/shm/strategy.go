package shm

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// Wait is how an end of a channel waits for its peer. Options.Wait says it for all ends of a process, SetWait for one. Contexts, the quit flag and Close end a
// wait of each kind.
type Wait uint8

const (
	// WaitUsual is the zero value: of an end what Options.Wait says; there what $SHMD_WAIT says, and without it WaitAdaptive.
	WaitUsual Wait = iota
	// WaitAdaptive looks for some 100 µs, as long as that pays, and then sleeps in the kernel; where the process has one CPU it does not look, but lets
	// others run first when it has sent something. It suits every program that is not one of the following.
	WaitAdaptive
	// WaitBlock sleeps at once: for ends whose messages come seldom, and where processes share a CPU that others need.
	WaitBlock
	// WaitSpin never sleeps. It has the least and the steadiest latency, and takes a whole CPU for each goroutine that waits: give the process CPUs
	// of its own (cpus in the configuration), and GOMAXPROCS above the number of such goroutines. Beside a peer on the same CPU it is far slower than the others.
	// The goroutine answers the daemon's watchdog while it waits.
	WaitSpin
)

// waitNames are the names in the configuration, in flags and in $SHMD_WAIT.
var waitNames = [...]string{WaitUsual: "", WaitAdaptive: "adaptive", WaitBlock: "block", WaitSpin: "spin"}

// WaitEnv names the environment variable that says how the ends of a process wait: "adaptive", "block" or "spin". The daemon sets it for a worker whose
// configuration has the key wait.
const WaitEnv = "SHMD_WAIT"

// ParseWait returns the Wait of a name: "adaptive", "block" or "spin"; "" is WaitUsual.
func ParseWait(name string) (Wait, error) {
	for w, n := range waitNames {
		if n == name {
			return Wait(w), nil
		}
	}
	return WaitUsual, fmt.Errorf("%.40q is no way to wait: there are adaptive, block and spin", name)
}

// String returns the name, "usual" for WaitUsual.
func (w Wait) String() string {
	switch {
	case w == WaitUsual:
		return "usual"
	case int(w) < len(waitNames):
		return waitNames[w]
	}
	return fmt.Sprintf("Wait(%d)", uint8(w))
}

// waitOf returns how the ends of a process wait that attaches with o.
func (o Options) waitOf() (Wait, error) {
	w := o.Wait
	if w == WaitUsual {
		var err error
		if w, err = ParseWait(os.Getenv(WaitEnv)); err != nil {
			return w, fmt.Errorf("$%s: %w", WaitEnv, err)
		}
	}
	switch {
	case w == WaitUsual:
		return WaitAdaptive, nil
	case int(w) >= len(waitNames):
		return w, fmt.Errorf("Options.Wait: %v is none of the constants", w)
	}
	return w, nil
}

// how returns how an end waits.
func (r *Region) how(s *spinner) Wait {
	if w := Wait(s.wait.Load()); w != WaitUsual {
		return w
	}
	return r.wait
}

// SetWait says how the queue's ends wait in this process: Send and its like for room, Receive and its like for messages. It holds for calls that begin
// later, and for all goroutines.
func (q *Queue) SetWait(w Wait) {
	q.sending.set(w)
	q.receiving.set(w)
}

// SetWait says how this end waits for room, from the next call on; it is Queue.SetWait for the sending end alone.
func (p *Producer) SetWait(w Wait) { p.q.sending.set(w) }

// SetWait says how this end waits for messages, from the next call on; it is Queue.SetWait for the receiving end alone.
func (c *Consumer) SetWait(w Wait) { c.q.receiving.set(w) }

// SetWait says how Publish and its like wait for room, those of the topic's Publishers too, from the next call on.
func (t *Topic) SetWait(w Wait) { t.sending.set(w) }

// SetWait says how the subscriber waits for messages, from the next call on.
func (s *Subscription) SetWait(w Wait) { s.receiving.set(w) }

// SetWait says how Wait and Values wait for a change, from the next call on and for all goroutines of the process.
func (l *Latest) SetWait(w Wait) { l.waiting.set(w) }

// SetWait says how callers wait for a free slot and for answers, and servers for requests, from the next call on and for all goroutines of the process.
func (c *Call) SetWait(w Wait) {
	c.calling.set(w)
	c.serving.set(w)
	c.waiting.set(w)
}

// set stores how the end waits; what is none of the constants is WaitUsual.
func (s *spinner) set(w Wait) {
	if int(w) >= len(waitNames) {
		w = WaitUsual
	}
	s.wait.Store(uint32(w))
}

// Of a goroutine that spins without end: how often it looks whether it is to end, and lets others have its processor.
const (
	looksToEnd   = 16
	looksToYield = 1024 // some 50 µs
)

// keepLooking is WaitSpin: it calls look until it returns true, ctx ends or the process is asked to quit. It looks once at least, and pauses times a pause between
// looks. What the goroutines that end it need, timers and those that watch the quit flag, they get on this processor too: it is the only one, perhaps.
func (r *Region) keepLooking(ctx context.Context, pauses int32, look func() bool) error {
	for n := 1; !look(); n++ {
		if n%looksToEnd == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := r.asked(); err != nil {
				return err
			}
			r.beat()
			if n%looksToYield == 0 {
				runtime.Gosched()
			}
		}
		for range pauses {
			sys.Pause()
		}
	}
	return nil
}

// awaitSpinning is await of an end that spins.
func (r *Region) awaitSpinning(ctx context.Context, try func() error) (err error) {
	end := r.keepLooking(ctx, 1, func() bool {
		err = try()
		return !again(err)
	})
	if end != nil {
		return end
	}
	return err
}

// changed waits without a sleep until word is another than v, for who counts as a sleeper all the same, because that makes others do something.
func (r *Region) changed(ctx context.Context, word *atomic.Uint32, v uint32) error {
	return r.keepLooking(ctx, 1, func() bool { return word.Load() != v })
}
