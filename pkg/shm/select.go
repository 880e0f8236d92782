package shm

import (
	"context"
	"runtime"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// Case is something that Select waits for.
type Case struct {
	s    *region.Segment
	bell protocol.Doorbell
	try  func() error // ErrEmpty or ErrFull: not yet
}

// CaseReceive takes a message and gives it to take, in the goroutine of Select. The message is to be ended as one from Receive.
func (q *Queue) CaseReceive(take func(*Message)) Case {
	return Case{q.s, q.q.Receivers, func() error {
		m, err := q.TryReceive()
		if err == nil {
			take(m)
		}
		return err
	}}
}

// CaseSend sends a copy of p.
func (q *Queue) CaseSend(p []byte) Case {
	return Case{q.s, q.q.Senders, func() error { return q.TrySend(p) }}
}

// CaseReceive takes a message and gives it to take, in the goroutine of Select. It is to be ended with Done before the subscription is
// used again.
func (s *Subscription) CaseReceive(take func(*TopicMessage)) Case {
	return Case{s.t.s, s.t.t.Receivers, func() error {
		m, err := s.TryReceive()
		if err == nil {
			take(m)
		}
		return err
	}}
}

// CaseChange happens when the value's version is another than after: seen gets it.
func (l *Latest) CaseChange(after uint64, seen func(version uint64)) Case {
	return Case{l.s, l.l.Changes, func() error {
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
	return Case{c.s, c.c.Servers, func() error {
		in, err := c.TryAccept()
		if err == nil {
			take(in)
		}
		return err
	}}
}

// Select waits until one of the cases can go on, lets it, and returns its index. If several can, it begins with another one each time, so
// that none starves. A case that fails ends it too: the error is that case's. Other errors, with index -1: ctx.Err(), ErrQuit,
// ErrClosed.
func (r *Region) Select(ctx context.Context, cases ...Case) (int, error) {
	for i := range cases {
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
	if runtime.GOMAXPROCS(0) > 1 && r.spinning.CompareAndSwap(false, true) {
		i, err := -1, error(nil)
		turns := r.selecting.turns()
		for n := int32(0); i < 0 && n < turns && ctx.Err() == nil && r.asked() == nil; n++ {
			sys.Pause()
			i, err = try()
		}
		r.spinning.Store(false)
		r.selecting.learn(i >= 0, turns)
		if i >= 0 {
			return i, err
		}
	}
	words, values, tickets := make([]*atomic.Uint32, len(cases)), make([]uint32, len(cases)), make([]protocol.Ticket, len(cases))
	for slept := false; ; slept = true {
		for i := range cases {
			words[i], values[i] = cases[i].bell.Word(), cases[i].bell.Value()
			tickets[i] = cases[i].bell.Register() // S
		}
		i, err := try() // T
		if i < 0 {
			err = r.sleepAny(ctx, words, values)
		}
		for j := range cases {
			cases[j].bell.Unregister(tickets[j])
			if slept && i >= 0 && j != i || err != nil && i < 0 {
				cases[j].bell.PassOn() // a wake may have been meant for this sleeper, which takes something else, or nothing
			}
		}
		if i >= 0 || err != nil {
			return i, err
		}
	}
}

// sleepAny is sleep on several words: until one differs from its value, or a waker chose one.
func (r *Region) sleepAny(ctx context.Context, words []*atomic.Uint32, values []uint32) error {
	if len(words) == 0 { // nothing but the end can come
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.quit.Done():
			return r.asked()
		}
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
