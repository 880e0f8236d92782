package shm

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// Case is something that Select waits for.
type Case struct {
	s    *region.Segment
	bell *protocol.Doorbell
	q    *Queue          // of CaseReceive
	try  func() error    // ErrEmpty or ErrFull: not yet
	how  Wait            // of the end
	slow *protocol.Topic // of CasePublish, where the configuration says evict_after; else nil
}

// CaseReceive takes a message and gives it to take, in the goroutine of Select. The message is to be ended as one from Receive.
func (q *Queue) CaseReceive(take func(*Message)) Case {
	return Case{s: q.s, bell: &q.q.Receivers, q: q, how: q.r.how(&q.receiving), try: func() error {
		m, err := q.TryReceive()
		if err == nil {
			if m.frame != nil && m.index != m.frame.first { // the rest of a batch: who was chosen for what has come must be another
				q.q.Receivers.PassOn()
			}
			take(m)
		}
		return err
	}}
}

// CaseSend sends a copy of p.
func (q *Queue) CaseSend(p []byte) Case {
	return Case{s: q.s, bell: &q.q.Senders, how: q.r.how(&q.sending), try: func() error { return q.TrySend(p) }}
}

// CasePublish publishes a copy of p. While Select waits for it, subscribers that do not move for the topic's evict_after are evicted, as
// when Publish waits.
func (t *Topic) CasePublish(p []byte) Case {
	return t.casePublish(func() error { return t.TryPublish(p) })
}

// CasePublish is Topic.CasePublish. The publishing end belongs to the goroutine of Select meanwhile.
func (p *Publisher) CasePublish(msg []byte) Case {
	return p.t.casePublish(func() error { return p.TryPublish(msg) })
}

func (t *Topic) casePublish(try func() error) Case {
	c := Case{s: t.s, bell: &t.t.Senders, how: t.r.how(&t.sending), try: try}
	if t.t.EvictAfter() > 0 {
		c.slow = t.t
	}
	return c
}

// CaseReceive takes a message and gives it to take, in the goroutine of Select. It is to be ended with Done before the subscription is
// used again.
func (s *Subscription) CaseReceive(take func(*TopicMessage)) Case {
	return Case{s: s.t.s, bell: &s.t.t.Receivers, how: s.t.r.how(&s.receiving), try: func() error {
		m, err := s.TryReceive()
		if err == nil {
			take(m)
		}
		return err
	}}
}

// CaseChange happens when the value's version is another than after: seen gets it.
func (l *Latest) CaseChange(after uint64, seen func(version uint64)) Case {
	return Case{s: l.s, bell: &l.l.Changes, how: l.r.how(&l.waiting), try: func() error {
		if err := l.r.asked(); err != nil {
			return err
		}
		v := l.l.Version()
		if v == after {
			return ErrEmpty
		}
		seen(v)
		return nil
	}}
}

// CaseAccept takes a request and gives it to take, in the goroutine of Select. It is to be ended as one from Accept.
func (c *Call) CaseAccept(take func(*Incoming)) Case {
	return Case{s: c.s, bell: &c.c.Servers, how: c.r.how(&c.serving), try: func() error {
		in, err := c.TryAccept()
		if err == nil {
			take(in)
		}
		return err
	}}
}

// Select waits until one of the cases can go on, lets it, and returns its index. If several can, it begins with another one each time, so
// that none starves. It waits as the ends of its cases do (SetWait): it spins if one of them spins, and sleeps at once if all of them do. A case that fails
// ends it too: the error is that case's. Other errors, with index -1: ctx.Err(), ErrQuit, ErrClosed.
func (r *Region) Select(ctx context.Context, cases ...Case) (int, error) {
	r.beat()
	for i := range cases {
		if cases[i].try == nil {
			return -1, fmt.Errorf("select: case %d is empty: make it by a method of a channel, as Queue.CaseReceive", i)
		}
		if err := cases[i].s.Lease(); err != nil {
			return -1, err
		}
		defer cases[i].s.Release()
	}
	first := int(r.turn.Add(1) % uint32(max(len(cases), 1)))
	try := func() (int, error) {
		for i := range cases {
			i = (first + i) % len(cases)
			if err := cases[i].try(); !again(err) {
				return i, err
			}
		}
		return -1, ErrEmpty
	}
	if i, err := try(); i >= 0 {
		return i, err
	}
	for i := range cases {
		if q := cases[i].q; q != nil { // another goroutine may open a batch
			q.frames.asleep.Add(1)
			defer q.frames.asleep.Add(-1)
		}
	}
	blockers := blockersOf(cases)
	how := howAll(cases)
	if how == WaitSpin {
		return r.selectSpinning(ctx, blockers, try)
	}
	if r.many && how == WaitAdaptive && r.spinning.CompareAndSwap(false, true) {
		if i, err := r.selectLooking(ctx, try); i >= 0 {
			return i, err
		}
	}
	words, values, tickets := make([]*atomic.Uint32, len(cases)), make([]uint32, len(cases)), make([]protocol.Ticket, len(cases))
	registered := false
	defer func() {
		for j := range cases {
			if registered { // what a case gave its message to panicked
				cases[j].bell.Unregister(tickets[j])
				cases[j].bell.PassOn()
			}
		}
	}()
	for slept := false; ; slept = true {
		for i := range cases {
			words[i], values[i] = cases[i].bell.Word(), cases[i].bell.Value()
			tickets[i] = cases[i].bell.Register() // S
		}
		registered = true
		i, err := try() // T
		if i < 0 {
			limited, cancel := blockers.limit(ctx)
			err = r.sleepAny(limited, words, values)
			cancel()
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil { // those in the way had their time
				err = nil
			}
			blockers.evict()
		}
		registered = false
		for j := range cases {
			cases[j].bell.Unregister(tickets[j])
			if slept && i >= 0 && j != i || err != nil && (slept || i < 0) {
				cases[j].bell.PassOn() // a wake may have been meant for this sleeper, which takes something else, or nothing
			}
		}
		if i >= 0 || err != nil {
			return i, err
		}
	}
}

// howAll returns how Select waits for cases: as the least patient of them.
func howAll(cases []Case) Wait {
	how := WaitBlock
	for i := range cases {
		switch cases[i].how {
		case WaitSpin:
			return WaitSpin
		case WaitAdaptive:
			how = WaitAdaptive
		}
	}
	return how
}

// selectLooking is what Select does before it sleeps. The caller has set spinning. The index is -1 if nothing came.
func (r *Region) selectLooking(ctx context.Context, try func() (int, error)) (i int, err error) {
	defer r.spinning.Store(false) // also if what a case gave its message to panics
	looks := r.selecting.begin()
	for i = -1; i < 0 && looks.more(ctx, r); {
		sys.Pause()
		i, err = try()
	}
	looks.end(i >= 0)
	return i, err
}

// selectSpinning is the waiting of Select if one of the ends spins.
func (r *Region) selectSpinning(ctx context.Context, blockers blockers, try func() (int, error)) (i int, err error) {
	for {
		limited, cancel := blockers.limit(ctx)
		end := r.keepLooking(limited, 1, func() bool {
			i, err = try()
			return i >= 0
		})
		cancel()
		switch {
		case end == nil:
			return i, err
		case !errors.Is(end, context.DeadlineExceeded) || ctx.Err() != nil:
			return -1, end
		}
		blockers.evict() // those in the way had their time
	}
}

// blockers are what CasePublish waits for, topic by topic: the subscribers in the way, and when their time ends.
type blockers []blocker

type blocker struct {
	t     *protocol.Topic
	since []protocol.Cursor
	until time.Time
}

func blockersOf(cases []Case) blockers {
	var all blockers
	for _, c := range cases {
		if c.slow != nil {
			all = append(all, blocker{c.slow, c.slow.Blocking(), time.Now().Add(c.slow.EvictAfter())})
		}
	}
	return all
}

// limit bounds a sleep by the first end of somebody's time.
func (all blockers) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if len(all) == 0 {
		return ctx, func() {}
	}
	first := all[0].until
	for _, b := range all[1:] {
		if b.until.Before(first) {
			first = b.until
		}
	}
	return context.WithDeadline(ctx, first)
}

// evict evicts those whose time has ended and who are where they were, and begins to watch those that are in the way now.
func (all blockers) evict() {
	for i := range all {
		if b := &all[i]; !time.Now().Before(b.until) {
			b.t.EvictStuck(b.since)
			b.since, b.until = b.t.Blocking(), time.Now().Add(b.t.EvictAfter())
		}
	}
}

// sleepAny is sleep on several words: until one differs from its value, or a waker chose one.
func (r *Region) sleepAny(ctx context.Context, words []*atomic.Uint32, values []uint32) error {
	if len(words) == 0 { // nothing but the end can come
		return r.WaitQuit(ctx)
	}
	first, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, len(words))
	for i := range words {
		go func() { done <- r.sleep(first, words[i], values[i]) }()
	}
	var err error
	for range words {
		if e := <-done; e != nil && err == nil && first.Err() == nil { // not only because another was first
			err = e
		}
		cancel()
	}
	switch {
	case r.asked() != nil:
		return r.asked()
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}
