package shm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// Topic is a channel of kind topic: each of its subscribers gets every message, all in one order. It is safe for concurrent use.
type Topic struct {
	r    *Region
	t    *protocol.Topic
	s    *region.Segment
	name string

	sending spinner

	mu  sync.Mutex
	pub *protocol.Publisher // of Publish and its like, made when it is needed
}

// Topic returns a channel of kind topic. Errors: ErrNoChannel, with the names of those that there are; *protocol.KindError.
func (r *Region) Topic(name string) (*Topic, error) {
	t, err := channelOf[*protocol.Topic](r, name, protocol.KindTopic)
	if err != nil {
		return nil, err
	}
	one, _ := r.topics.LoadOrStore(name, &Topic{r: r, t: t, s: r.segments[name], name: name}) // of publishers = 1 there is one for the process
	return one.(*Topic), nil
}

// Name returns the channel's name.
func (t *Topic) Name() string { return t.name }

// SlotSize returns the largest payload, in bytes.
func (t *Topic) SlotSize() int { return t.t.SlotSize() }

// Slots returns the number of slots.
func (t *Topic) Slots() int { return t.t.Slots() }

// Stat takes a snapshot of the topic: its subscribers, and how far they are.
func (t *Topic) Stat() (protocol.TopicStat, error) {
	if err := t.r.enter(t.s); err != nil {
		return protocol.TopicStat{}, err
	}
	defer t.s.Release()
	return t.t.Stat(), nil
}

// Evict ends the subscription in a row that Stat shows: publishers do not wait for it any more, and its subscriber gets ErrEvicted.
// Its event has the cause operator. Errors: ErrLost: there is none.
func (t *Topic) Evict(row int) error {
	if err := t.r.enter(t.s); err != nil {
		return err
	}
	defer t.s.Release()
	if err := t.t.Evict(row); err != nil {
		return fmt.Errorf("topic %q has no subscription in row %d: %w", t.name, row, err)
	}
	return nil
}

// Publish copies p into a slot and publishes it; when it returns nil the message is committed: no death can lose it. It waits while
// a subscriber lags a whole ring, unless the topic drops its oldest messages. Errors: *TooLargeError, ErrNotPublisher (the topic is for one
// publisher, and that is another one), ctx.Err(), ErrQuit (only when it would have to wait), ErrClosed.
//
// Who publishes much from one goroutine uses a Publisher, which takes no lock.
func (t *Topic) Publish(ctx context.Context, p []byte) error {
	return t.do(ctx, true, func(pub *protocol.Publisher) error { return pub.TryPublish(p) }, p)
}

// TryPublish is Publish that does not wait. Errors: ErrFull beside those of Publish.
func (t *Topic) TryPublish(p []byte) error {
	return t.do(context.Background(), false, func(pub *protocol.Publisher) error { return pub.TryPublish(p) }, p)
}

// PublishBatch publishes messages in their order, and waits as Publish does. It returns how many it published, all of them unless there is
// an error. Messages of other publishers may come between them.
func (t *Topic) PublishBatch(ctx context.Context, msgs [][]byte) (int, error) {
	done := 0
	err := t.do(ctx, true, func(pub *protocol.Publisher) error {
		n, err := pub.TryPublishBatch(msgs[done:])
		if done += n; err == nil && done < len(msgs) {
			return ErrFull
		}
		return err
	}, msgs...)
	return done, err
}

// Loan takes a slot to write a message in place. Until Commit nobody sees the message; if the process dies before, the slot is given up.
// A topic has one order for all: what others publish meanwhile waits for this loan's end, so be quick. Errors: as Publish.
func (t *Topic) Loan(ctx context.Context) (*Publication, error) {
	p := &Publication{t: t, end: t.locked}
	if err := t.r.enter(t.s); err != nil { // until it ends
		return nil, err
	}
	err := t.do(ctx, true, func(pub *protocol.Publisher) (err error) {
		p.p = pub
		p.l, err = pub.TryLoan()
		return err
	})
	if err != nil {
		t.s.Release()
		return nil, err
	}
	return p, nil
}

// do tries, under the topic's lock, and waits if it is to.
func (t *Topic) do(ctx context.Context, wait bool, try func(*protocol.Publisher) error, msgs ...[]byte) error {
	if err := t.fits(msgs); err != nil {
		return err
	}
	if err := t.r.enter(t.s); err != nil {
		return err
	}
	defer t.s.Release()
	attempt := func() error { return t.locked(try) }
	err := attempt()
	if !wait || !errors.Is(err, ErrFull) {
		return err
	}
	return t.wait(ctx, attempt)
}

// locked runs try with the topic's own publishing end.
func (t *Topic) locked(try func(*protocol.Publisher) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pub == nil {
		pub, err := t.t.Publisher(t.r.id)
		if err != nil {
			return err
		}
		t.pub = pub
	}
	err := try(t.pub)
	if errors.Is(err, protocol.ErrLoaned) { // another goroutine's
		return ErrFull
	}
	return err
}

func (t *Topic) fits(msgs [][]byte) error {
	limit := t.t.SlotSize()
	for _, p := range msgs {
		if len(p) > limit {
			return &TooLargeError{t.name, len(p), limit}
		}
	}
	return nil
}

// wait tries until there is room. Where the configuration says evict_after, it evicts the subscribers that did not move meanwhile: a
// publisher does it, since it knows that it waits; so it happens without a daemon too, and costs nothing where nobody waits.
func (t *Topic) wait(ctx context.Context, try func() error) error {
	if err := t.r.enter(t.s); err != nil { // a Close of the publishing end meanwhile, which is a mistake, is to be no access to memory that is gone
		return err
	}
	defer t.s.Release()
	after := t.t.EvictAfter()
	for {
		if after == 0 {
			return t.r.await(ctx, &t.t.Senders, &t.sending, try)
		}
		since := t.t.Blocking()
		limited, cancel := context.WithTimeout(ctx, after)
		err := t.r.await(limited, &t.t.Senders, &t.sending, try)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
		t.t.EvictStuck(since)
		if err := try(); !again(err) {
			return err
		}
	}
}

// Publication is a slot that the caller fills in place. It is used by one goroutine at a time, and ends with Commit or Abort.
type Publication struct {
	t    *Topic
	p    *protocol.Publisher
	l    protocol.TopicLoan
	end  func(func(*protocol.Publisher) error) error
	done bool
}

// Bytes returns the slot's payload, SlotSize bytes of undefined contents, valid until Commit or Abort.
func (p *Publication) Bytes() []byte { return p.p.LoanBytes(p.l) }

// Commit publishes the first n bytes. Errors: *TooLargeError (the loan goes on), ErrLost.
func (p *Publication) Commit(n int) error {
	if limit := p.t.t.SlotSize(); n < 0 || n > limit {
		return &TooLargeError{p.t.name, n, limit}
	}
	return p.finish(func(pub *protocol.Publisher) error { return pub.Commit(p.l, n) })
}

// Abort gives the slot back. After Commit it does nothing and returns ErrLost, so it can be deferred.
func (p *Publication) Abort() error {
	return p.finish(func(pub *protocol.Publisher) error { return pub.Abort(p.l) })
}

func (p *Publication) finish(how func(*protocol.Publisher) error) error {
	if p.done {
		return ErrLost
	}
	p.done = true
	defer p.t.s.Release()
	err := p.end(how)
	p.t.t.Senders.Ring(protocol.Everybody) // goroutines that found the one publisher's loan out
	return err
}

// Publisher is a publishing end for one goroutine at a time: it takes no lock, which makes it much faster than the methods of Topic of the
// same names. It ends with Close.
type Publisher struct {
	t      *Topic
	r      *Region // of t, as size is
	p      *protocol.Publisher
	size   int // SlotSize
	closed bool
}

// Publisher returns a publishing end. Of a topic with publishers = 1 a process has either one Publisher or uses the methods of Topic.
// Errors: ErrNotPublisher, ErrClosed.
func (t *Topic) Publisher() (*Publisher, error) {
	if err := t.r.enter(t.s); err != nil { // until its Close
		return nil, err
	}
	p, err := t.t.Publisher(t.r.id)
	if err != nil {
		t.s.Release()
		return nil, err
	}
	return &Publisher{t: t, r: t.r, p: p, size: t.t.SlotSize()}, nil
}

// Close ends the publishing end, after its loans. It is idempotent. Region.Close waits for it.
func (p *Publisher) Close() error {
	if !p.closed {
		p.closed = true
		p.p.Close()
		p.t.s.Release()
	}
	return nil
}

// Publish is Topic.Publish. Errors: protocol.ErrLoaned beside its: with publishers = 1 a loan ends before anything else is published.
func (p *Publisher) Publish(ctx context.Context, msg []byte) error {
	if len(msg) > p.size || p.closed || p.r.due() { // as in Producer.Send
		return p.publishLong(ctx, msg)
	}
	position, ok := p.p.Ready()
	if !ok {
		return p.publishLong(ctx, msg)
	}
	p.p.Put(position, msg)
	return nil
}

// publishLong is Publish when there is more to do than to publish, or less.
func (p *Publisher) publishLong(ctx context.Context, msg []byte) error {
	err := p.TryPublish(msg)
	if err == nil || !errors.Is(err, ErrFull) {
		return err
	}
	return p.t.wait(ctx, func() error { return p.p.TryPublish(msg) })
}

// TryPublish is Publish that does not wait. Errors: ErrFull beside those of Publish.
func (p *Publisher) TryPublish(msg []byte) error {
	if p.closed {
		return ErrClosed
	}
	if len(msg) > p.size {
		return &TooLargeError{p.t.name, len(msg), p.size}
	}
	p.r.beat()
	return p.p.TryPublish(msg)
}

// PublishBatch is Topic.PublishBatch.
func (p *Publisher) PublishBatch(ctx context.Context, msgs [][]byte) (int, error) {
	if p.closed {
		return 0, ErrClosed
	}
	p.t.r.beat()
	done, err := p.p.TryPublishBatch(msgs)
	if err == nil && done == len(msgs) {
		return done, nil
	}
	if err != nil && !errors.Is(err, ErrFull) {
		if err := p.t.fits(msgs); err != nil { // why, with the channel's name
			return 0, err
		}
		return done, err
	}
	return p.rest(ctx, msgs, done)
}

func (p *Publisher) rest(ctx context.Context, msgs [][]byte, done int) (int, error) {
	err := p.t.wait(ctx, func() error {
		n, err := p.p.TryPublishBatch(msgs[done:])
		if done += n; err == nil && done < len(msgs) {
			return ErrFull
		}
		return err
	})
	return done, err
}

// Loan is Topic.Loan.
func (p *Publisher) Loan(ctx context.Context) (*Publication, error) {
	if p.closed {
		return nil, ErrClosed
	}
	p.t.r.beat()
	l := &Publication{t: p.t, p: p.p, end: func(how func(*protocol.Publisher) error) error { return how(p.p) }}
	try := func() (err error) {
		l.l, err = p.p.TryLoan()
		return err
	}
	if err := try(); err != nil {
		if !errors.Is(err, ErrFull) {
			return nil, err
		}
		if err := p.t.wait(ctx, try); err != nil {
			return nil, err
		}
	}
	if err := p.t.s.Lease(); err != nil { // until it ends
		p.p.Abort(l.l)
		return nil, err
	}
	return l, nil
}

// From is where a subscription begins.
type From = protocol.From

const (
	FromNew    = protocol.FromNew    // with the first message that is published after Subscribe returned
	FromLast   = protocol.FromLast   // with the newest message that there is
	FromOldest = protocol.FromOldest // with the oldest that is kept: at least the last three quarters of the slots
)

// SubscribeOptions say how to subscribe. The zero value: from new.
type SubscribeOptions struct {
	From From
	Wait Wait // for messages; SetWait changes it
}

// Subscription is one subscriber of a topic: a cursor of its own. One goroutine at a time uses it; a process may have several. It
// ends with Close, or with the process.
type Subscription struct {
	t      *Topic
	s      *protocol.Subscriber
	m      TopicMessage
	open   bool // m is
	closed bool

	receiving spinner
	pace      pace
	rested    uint64 // the position at the last glance
}

// Subscribe takes one of the topic's cursors until Close. Errors: protocol.ErrCursors: all are taken; ErrClosed.
func (t *Topic) Subscribe(o SubscribeOptions) (*Subscription, error) {
	if err := t.r.enter(t.s); err != nil { // until its Close
		return nil, err
	}
	s, err := t.t.Subscribe(t.r.id, o.From)
	if err != nil {
		t.s.Release()
		return nil, err
	}
	sub := &Subscription{t: t, s: s}
	sub.SetWait(o.Wait)
	return sub, nil
}

// Close ends the subscription: publishers do not wait for it any more. It is idempotent. Region.Close waits for it.
func (s *Subscription) Close() error {
	if s.closed {
		return nil
	}
	s.closed, s.open = true, false
	defer s.t.s.Release()
	return s.s.Close()
}

// Lost returns how many messages were overwritten before this subscriber read them.
func (s *Subscription) Lost() uint64 { return s.s.Lost() }

// TopicMessage is a message that the caller reads in place, until Done. The next Receive uses it again.
type TopicMessage struct {
	s *Subscription
	b []byte
}

// Bytes returns the payload, valid until Done. It must not be written to. In a topic that drops its oldest messages, and after an
// eviction, it may be overwritten while it is read: what was read counts if Done returns nil.
func (m *TopicMessage) Bytes() []byte { return m.b }

// Position returns the position of the message: it is the same for all subscribers, and grows from message to message.
func (m *TopicMessage) Position() uint64 { return m.s.s.Position() }

// Done ends the message: publishers may use its slot. Errors: ErrLapped, ErrEvicted: it may have been overwritten while it was read, and
// does not count; ErrLost: it has ended.
func (m *TopicMessage) Done() error {
	if !m.s.open {
		return ErrLost
	}
	m.s.open = false
	if err := m.s.s.Done(); err != nil {
		return err
	}
	m.s.s.Flush()
	return nil
}

// Receive returns the next message, and waits for one. The message before must have ended. Errors: *LostError, once for each gap, and then it
// goes on; ErrEvicted; ctx.Err(), ErrQuit (also when messages are there), ErrClosed, *protocol.CorruptError.
func (s *Subscription) Receive(ctx context.Context) (*TopicMessage, error) {
	return s.receive(ctx, true)
}

// TryReceive is Receive that does not wait. Errors: ErrEmpty beside those of Receive.
func (s *Subscription) TryReceive() (*TopicMessage, error) {
	return s.receive(context.Background(), false)
}

func (s *Subscription) receive(ctx context.Context, wait bool) (*TopicMessage, error) {
	if s.open {
		return nil, ErrBusy
	}
	b, err := s.next(ctx, wait)
	if err != nil {
		return nil, err
	}
	s.m = TopicMessage{s, b}
	s.open = true
	return &s.m, nil
}

// next returns the next message in place.
func (s *Subscription) next(ctx context.Context, wait bool) ([]byte, error) {
	if s.closed {
		return nil, ErrClosed
	}
	s.t.r.beat()
	if err := s.t.r.asked(); err != nil {
		return nil, err
	}
	if wait && !s.s.Ready() {
		s.glance()
	}
	b, err := s.s.Next()
	if err == nil || !wait || !errors.Is(err, ErrEmpty) {
		return b, err
	}
	return s.wait(ctx)
}

// glance looks at one line of memory for a short while, as Consumer.glance does, if nobody else in this process looks.
func (s *Subscription) glance() {
	r := s.t.r
	if !r.many || r.how(&s.receiving) == WaitBlock || !r.spinning.CompareAndSwap(false, true) {
		return
	}
	at := s.s.Position()
	s.pace.rest(int(at-s.rested), s.t.t.Slots())
	s.rested = at
	found := false
	for i := 0; i < glances && !found; i++ {
		for j := 0; j < peeks && !found; j++ {
			found = s.s.Awaited()
		}
		if found {
			s.pace.found(i)
		} else {
			sys.Pause()
		}
	}
	r.spinning.Store(false)
}

func (s *Subscription) wait(ctx context.Context) (b []byte, err error) {
	if err := s.t.s.Lease(); err != nil { // as in Topic.wait
		return nil, err
	}
	defer s.t.s.Release()
	err = s.t.r.await(ctx, &s.t.t.Receivers, &s.receiving, func() error {
		b, err = s.s.Next()
		return err
	})
	return b, err
}

// ReceiveCopy appends the next message to buf and returns the extended buffer. It waits for a message. Errors: as Receive.
func (s *Subscription) ReceiveCopy(ctx context.Context, buf []byte) ([]byte, error) {
	if s.open {
		return buf, ErrBusy
	}
	for {
		b, err := s.next(ctx, true)
		if err != nil {
			return buf, err
		}
		out := append(buf, b...)
		switch err := s.s.Done(); {
		case err == nil:
			s.s.Flush()
			return out, nil
		case !errors.Is(err, ErrLapped): // if so, the next try tells how many are lost
			return buf, err
		}
	}
}

// ReceiveBatch calls fn with each of up to limit messages that are there, in place, and waits for the first. It returns how many are done.
// When fn returns an error, that message is not done, and ReceiveBatch returns the error. Other errors: as Receive; with ErrEvicted, and
// when a *LostError says that messages were lost, what fn saw last may have been overwritten meanwhile and is not counted.
func (s *Subscription) ReceiveBatch(ctx context.Context, limit int, fn func(p []byte) error) (int, error) {
	return s.receiveBatch(ctx, true, limit, fn)
}

// TryReceiveBatch is ReceiveBatch that does not wait. Errors: ErrEmpty beside those of ReceiveBatch.
func (s *Subscription) TryReceiveBatch(limit int, fn func(p []byte) error) (int, error) {
	return s.receiveBatch(context.Background(), false, limit, fn)
}

func (s *Subscription) receiveBatch(ctx context.Context, wait bool, limit int, fn func(p []byte) error) (int, error) {
	if s.open {
		return 0, ErrBusy
	}
	if limit <= 0 {
		return 0, nil
	}
	if _, err := s.next(ctx, wait); err != nil {
		return 0, err
	}
	defer s.s.Flush()
	often := max(1, min(64, s.t.t.Slots()/8))
	for n := 0; ; {
		done, err := s.s.Run(min(limit-n, often), fn)
		n += done
		if err != nil && !errors.Is(err, ErrLapped) {
			return n, err
		}
		if n == limit {
			return n, nil
		}
		s.s.Flush()
		if _, err := s.s.Next(); err != nil {
			if errors.Is(err, ErrEmpty) && n > 0 {
				err = nil
			}
			return n, err
		}
	}
}

// Messages returns the messages, one after the other, each ended by the loop unless it called Done. What was lost is an error
// among them (*LostError), and so are messages that were overwritten while the loop's body ran (ErrLapped). It ends when ctx does or the process is
// asked to quit, and after any other error; what was lost is told before. Who breaks out of the loop calls Done first, if it matters whether that message
// was whole.
func (s *Subscription) Messages(ctx context.Context) iter.Seq2[*TopicMessage, error] {
	return func(yield func(*TopicMessage, error) bool) {
		for ctx.Err() == nil { // Receive looks at it only when it waits
			m, err := s.Receive(ctx)
			if err == nil {
				more := yield(m, nil)
				if s.open {
					err = m.Done()
				}
				if !more {
					return
				}
				if err == nil {
					continue
				}
			}
			var gap *LostError
			lost := errors.As(err, &gap) // it is told once: also if ctx has ended since
			if m == nil && !lost && (ctx.Err() != nil || s.t.r.asked() != nil) {
				return
			}
			if !yield(nil, err) || !lost && !errors.Is(err, ErrLapped) {
				return
			}
		}
	}
}
