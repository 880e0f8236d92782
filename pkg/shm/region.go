package shm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// Name returns the region's name.
func (r *Region) Name() string { return r.name }

// Worker returns the worker's name, GROUP.INSTANCE, or "" for an outsider.
func (r *Region) Worker() string { return r.worker }

// AttachmentID returns the id that stamps this process's slots.
func (r *Region) AttachmentID() uint16 { return r.id }

// Quit returns a context that ends when the process is asked to quit, with cause ErrQuit, or when the region is closed, with
// cause ErrClosed. Every call here that blocks ends by itself then.
func (r *Region) Quit() context.Context { return r.quit }

// Ready tells the daemon that the worker is ready. For an outsider it does nothing.
func (r *Region) Ready() error {
	if r.page == nil {
		return nil
	}
	s := r.segments["group"]
	if err := s.Lease(); err != nil {
		return fmt.Errorf("ready: %w", err)
	}
	defer s.Release()
	r.page.ReadyNs.Store(uint64(sys.MonotonicNs()))
	r.page.Ready.Store(1)
	r.group.Ring()
	return nil
}

// Workers returns the instances in the worker table of the roster.
func (r *Region) Workers() ([]protocol.Worker, error) {
	s := r.segments["roster"]
	if err := s.Lease(); err != nil {
		return nil, fmt.Errorf("workers: %w", err)
	}
	defer s.Release()
	r.change.Store(r.roster.ChangeWord().Load()) // before the table is read: a change while it is read ends WaitChange
	workers, err := r.roster.Workers()
	return slices.DeleteFunc(workers, func(w protocol.Worker) bool { return w.State == protocol.StateGone }), err
}

// WaitChange waits until the roster changes after the last call of Workers: a worker changed its state, a process attached or
// detached. Errors: ctx.Err(), ErrQuit, ErrClosed.
func (r *Region) WaitChange(ctx context.Context) error {
	s := r.segments["roster"]
	if err := s.Lease(); err != nil {
		return err
	}
	defer s.Release()
	return r.sleep(ctx, r.roster.ChangeWord(), r.change.Load())
}

// Channels returns the names of the channels that this process holds, sorted.
func (r *Region) Channels() []string {
	var names []string
	for name := range r.channels {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Kind returns the kind of a channel, or 0 if this process does not hold it.
func (r *Region) Kind(name string) protocol.Kind {
	if c := r.channels[name]; c != nil {
		return c.Header().Kind
	}
	return 0
}

// Queue returns a channel of kind queue. Errors: ErrNoChannel, with the names of those that there are; *protocol.KindError.
func (r *Region) Queue(name string) (*Queue, error) {
	q, err := channelOf[*protocol.Queue](r, name, protocol.KindQueue)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if have := r.queues[name]; have != nil { // one for the process: its ends, and batches that are half handed out, are in it
		return have, nil
	}
	out := &Queue{r: r, q: q, s: r.segments[name], name: name}
	if q.Flags()&protocol.QueueFlagLane != 0 {
		if out.lane, err = protocol.NewLane(q); err != nil {
			return nil, err
		}
		if r.closed { // it guards its memory itself
			out.lane.Close()
		}
	}
	r.queues[name] = out
	return out, nil
}

// methods are those of Region that open a kind of channel.
var methods = map[protocol.Kind]string{protocol.KindQueue: "Queue", protocol.KindTopic: "Topic", protocol.KindLatest: "Latest", protocol.KindCall: "Call"}

// channelOf returns the channel if it is of the kind.
func channelOf[C protocol.Channel](r *Region, name string, kind protocol.Kind) (C, error) {
	c, ok := r.channels[name].(C)
	switch {
	case r.broken[name] != nil:
		return c, r.broken[name]
	case ok:
		return c, nil
	case r.channels[name] != nil:
		have := r.Kind(name)
		return c, fmt.Errorf("%w: open it with Region.%s", &protocol.KindError{Segment: name, Have: have, Want: kind}, methods[have])
	}
	where := "consume and produce in the configuration"
	if r.index < 0 {
		where = "Options.Produce and Options.Consume of Attach"
	}
	return c, fmt.Errorf("%w: %q; this process holds: %s (see %s)", ErrNoChannel, name, cmp.Or(strings.Join(r.Channels(), ", "), "none"), where)
}

// quitAsked reports whether any of the quit flags that concern this process is set.
func (r *Region) quitAsked() bool {
	if protocol.Flagged(r.command.RegionQuit()) {
		return true
	}
	return r.index >= 0 && (protocol.Flagged(r.command.WorkerQuit(r.index)) || protocol.Flagged(r.command.GroupQuit(r.groupRow)))
}

// watchQuit ends the quit context when a flag is set. One word is enough to sleep on: a stop of the group or of the
// region rings each instance's word too, and an outsider obeys the region's only.
func (r *Region) watchQuit() {
	word := r.command.RegionQuit()
	if r.index >= 0 {
		word = r.command.WorkerQuit(r.index)
	}
	r.own.Add(1)
	r.watching.Go(func() {
		defer r.own.Add(-1)
		for {
			v := word.Load()
			if r.quitAsked() {
				if r.page != nil {
					r.page.QuitSeenNs.Store(uint64(sys.MonotonicNs()))
				}
				r.endQuit(ErrQuit)
				return
			}
			if r.hub.Wait(r.quit, word, v) != nil {
				return
			}
		}
	})
}

// asked returns why a blocking call must end now, or nil.
func (r *Region) asked() error {
	if !r.ending.Load() {
		return nil
	}
	return r.why()
}

// why is asked once quit has ended or is about to. It is apart so that asked costs no call.
func (r *Region) why() error {
	<-r.quit.Done() // it is told a moment later
	return context.Cause(r.quit)
}

// Close ends the attachment: it wakes everything that blocks (ErrClosed), waits until every Loan and Message has ended and every Producer, Consumer,
// Publisher and Subscription is closed, and then unmaps. It is idempotent. A worker that closes and goes on living counts as attached still; it cannot attach again.
func (r *Region) Close() error {
	r.once.Do(func() {
		r.endQuit(ErrClosed)
		r.watching.Wait()
		r.mu.Lock()
		r.closed = true
		for _, q := range r.queues {
			q.frames.giveBack(q)
			if q.lane != nil {
				q.lane.Close()
			}
		}
		r.mu.Unlock()
		var errs []error
		counting := r.metrics.end()
		group := r.segments["group"]
		for _, s := range r.segments {
			if s != group {
				errs = append(errs, s.Close())
			}
		}
		// The group segment last: who sleeps with a lease of another segment writes into it when it wakes up (getUp).
		if group != nil && !counting { // whoever counts goes on as if nothing had happened
			errs = append(errs, group.Close())
		}
		r.hub.Close()
		if r.log != nil {
			errs = append(errs, r.log.Close())
		}
		if r.conn != nil { // after the last touch of the memory: the daemon gives the id away
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			r.conn.Detach(ctx) // an answer is of no use: the daemon sees the end of the process too
			cancel()
			errs = append(errs, r.conn.Close())
		}
		r.close = errors.Join(errs...)
	})
	return r.close
}
