package shm

import (
	"context"
	"fmt"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// The heartbeat of a worker, for the daemon's watchdog ("watchdog" in the configuration; docs/supervision.md). The daemon asks for one by changing a
// word of the instance's page (Ask), and every call of the library answers it: so a call costs one load while nobody asks, and no clock is read.
//
// A worker that sleeps in the library counts as asleep, and is not expected to answer. The daemon then asks with ringBit and does not look again
// until the worker has woken up and rung. That ring is not lost:
//
//	daemon:  Ask = n | ringBit [A], Asleep > 0? [B] then no more looks
//	worker:  Asleep - 1 [C], Ask answered? [D]
//
// If B still saw it asleep, C came after it, and so D, in the one order of all atomics, sees A.

// ringBit of Ask: who answers rings the group's doorbell.
const ringBit = 1

// listen maps the group segment a second time, read-only and until the process ends: every call reads Ask, some of them without a lease of any
// segment, and also after Close.
func (r *Region) listen() error {
	f, err := r.segments["group"].Dup()
	if err != nil {
		return err
	}
	if r.asking, err = region.Open(f, region.OpenOptions{MinSize: protocol.SizeofSegmentHeader}); err != nil {
		return fmt.Errorf("segment %q: %w", "group", err)
	}
	g, err := protocol.OpenGroup(r.asking.Bytes())
	if err != nil {
		return fmt.Errorf("segment %q: %w", "group", err)
	}
	if r.instance >= g.Instances() { // it was changed meanwhile
		return fmt.Errorf("segment %q: %w", "group", protocol.ErrTooShort)
	}
	r.ask = &g.Page(r.instance).Ask
	return nil
}

// Beat tells that the worker is alive: one clock reading and one or two stores. Every other call here does so by itself when the daemon asks, and
// so does the wake-up from a call that waits; a worker that computes for longer than its group's watchdog without any calls Beat now and then.
// For an outsider, and after Close, it does nothing. Any number of goroutines may call it.
func (r *Region) Beat() {
	if r.page == nil || r.segments["group"].Lease() != nil {
		return
	}
	defer r.segments["group"].Release()
	ask := r.ask.Load()
	r.page.HeartbeatNs.Store(uint64(sys.MonotonicNs()))
	if ask == r.answered.Swap(ask) { // another goroutine was faster, or nobody asked
		return
	}
	r.page.Answered.Store(ask)
	if ask&ringBit != 0 {
		r.group.Ring()
	}
}

// beat answers the daemon if it has asked. Of an outsider it asks nothing.
func (r *Region) beat() {
	if r.due() {
		r.Beat()
	}
}

// due reports whether the daemon has asked, and was not answered.
func (r *Region) due() bool { return r.ask != nil && r.ask.Load() != r.answered.Load() } // D

// enter takes a lease of a segment for a call, and answers the daemon if it has asked.
func (r *Region) enter(s *region.Segment) error {
	r.beat()
	return s.Lease()
}

// lieDown says that a goroutine of the worker is about to sleep in the library, getUp that it does not any more.
func (r *Region) lieDown() {
	if r.page != nil {
		r.page.Asleep.Add(1)
	}
}

func (r *Region) getUp() {
	if r.page != nil {
		r.page.Asleep.Add(^uint32(0)) // C
		r.beat()
	}
}

// WaitQuit waits until the process is asked to quit, as a worker does that has nothing else to wait for; it counts as asleep meanwhile. It
// returns ErrQuit then. Errors: ctx.Err(), ErrClosed.
func (r *Region) WaitQuit(ctx context.Context) error {
	if r.page != nil {
		s := r.segments["group"]
		if err := s.Lease(); err != nil {
			return err
		}
		defer s.Release()
	}
	r.lieDown()
	defer r.getUp()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.quit.Done():
		return r.asked()
	}
}
