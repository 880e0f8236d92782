package shm

import (
	"context"
	"iter"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// Batches: up to MaxBatch messages share one slot, so that one claim, one wake-up and one ack serve all of them. How many fit depends on
// slot_size: each takes its own size, one batch 8 bytes, and messages of different sizes 4 bytes each. Consumers need not
// care: Receive hands out the messages of a batch one by one.

// MaxBatch is the most messages of a batch.
const MaxBatch = protocol.MaxFrame

// SendBatch copies msgs into as few slots as they fit into and publishes them slot by slot, in order. It returns how many were committed,
// all of them unless err is not nil. It waits while the queue is full. Errors: as Send, and for a message that is too large only
// those before it are sent.
func (q *Queue) SendBatch(ctx context.Context, msgs [][]byte) (int, error) {
	if q.lane != nil {
		return q.sendLaneBatch(ctx, msgs)
	}
	if err := q.r.enter(q.s); err != nil {
		return 0, err
	}
	defer q.s.Release()
	limit := q.q.SlotSize()
	for sent := 0; sent < len(msgs); {
		if n := len(msgs[sent]); n > limit {
			return sent, &TooLargeError{q.name, n, limit}
		}
		l, err := q.loan(ctx, true)
		if err != nil {
			return sent, err
		}
		f := protocol.NewFrame(q.q.LoanBytes(l))
		next := sent
		for ; next < len(msgs); next++ {
			place := f.Next(len(msgs[next]))
			if place == nil {
				break
			}
			copy(place, msgs[next])
		}
		if f.Len() > 0 {
			err = q.commitFrame(l, &f)
		} else { // one message that leaves no room for more
			err = q.commit(l, copy(q.q.LoanBytes(l), msgs[next]))
			next++
		}
		if err != nil {
			return sent, err
		}
		sent = next
	}
	return len(msgs), nil
}

// sendLaneBatch is SendBatch of a queue with one producer, which guards its memory itself: one lock for a slot.
func (q *Queue) sendLaneBatch(ctx context.Context, msgs [][]byte) (sent int, err error) {
	q.r.beat()
	for sent < len(msgs) {
		if n, limit := len(msgs[sent]), q.q.SlotSize(); n > limit {
			return sent, &TooLargeError{q.name, n, limit}
		}
		n, err := q.lane.SendBatch(q.r.id, msgs[sent:])
		if err == ErrFull {
			n, err = q.awaitLaneBatch(ctx, msgs[sent:])
		}
		if err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

func (q *Queue) awaitLaneBatch(ctx context.Context, msgs [][]byte) (n int, err error) {
	if err := q.r.enter(q.s); err != nil {
		return 0, err
	}
	defer q.s.Release()
	err = q.r.await(ctx, &q.q.Senders, &q.sending, func() error {
		n, err = q.lane.SendBatch(q.r.id, msgs)
		return err
	})
	return n, err
}

// BatchLoan is a slot that the caller fills with messages in place. It is used by one goroutine at a time, and ends with Commit or Abort.
type BatchLoan struct {
	q    *Queue
	l    protocol.Loan
	f    protocol.FrameWriter
	done bool
}

// LoanBatch takes a slot to write a batch in place. It waits while the queue is full. Errors: as Send.
func (q *Queue) LoanBatch(ctx context.Context) (*BatchLoan, error) {
	return q.loanBatch(ctx, new(BatchLoan)) // here, so that it need not be on the heap where the caller keeps it
}

func (q *Queue) loanBatch(ctx context.Context, b *BatchLoan) (_ *BatchLoan, err error) {
	if q.lane != nil { // which keeps its memory
		q.r.beat()
		if b.l, err = q.lane.LoanBatch(q.r.id, q.s); err == ErrFull {
			b.l, err = q.awaitLoanBatch(ctx)
		}
	} else if err = q.r.enter(q.s); err == nil {
		if b.l, err = q.loan(ctx, true); err != nil {
			q.s.Release()
		}
	}
	if err != nil {
		return nil, err
	}
	b.q, b.f = q, protocol.NewFrame(q.q.LoanBytes(b.l))
	return b, nil
}

func (q *Queue) awaitLoanBatch(ctx context.Context) (l protocol.Loan, err error) {
	if err := q.r.enter(q.s); err != nil {
		return l, err
	}
	defer q.s.Release()
	err = q.r.await(ctx, &q.q.Senders, &q.sending, func() error {
		l, err = q.lane.LoanBatch(q.r.id, q.s)
		return err
	})
	return l, err
}

// Next returns the place of one more message, of n bytes that the caller fills, or nil if the batch has no room for it: then commit it and
// take another. A batch has always room for one message of SlotSize - 8 bytes, and none after Commit and Abort.
func (b *BatchLoan) Next(n int) []byte { return b.f.Next(n) }

// Len returns the number of messages.
func (b *BatchLoan) Len() int { return b.f.Len() }

// Commit publishes the messages; without any it is Abort. Errors: ErrLost.
func (b *BatchLoan) Commit() error {
	if b.done {
		return ErrLost
	}
	b.done = true
	err := b.q.commitFrame(b.l, &b.f)
	b.end()
	return err
}

// Abort gives the slot back. After Commit it does nothing and returns ErrLost, so it can be deferred.
func (b *BatchLoan) Abort() error {
	if b.done {
		return ErrLost
	}
	b.done = true
	err := b.q.abort(b.l)
	b.end()
	return err
}

// end gives up the memory.
func (b *BatchLoan) end() {
	b.f.End()
	if b.q.lane != nil {
		b.q.lane.EndLoanBatch()
	} else {
		b.q.s.Release()
	}
}

// Batch is the messages of one slot that the caller reads in place. It is used by one goroutine at a time, and ends with Ack or Nack.
type Batch struct {
	q    *Queue
	l    protocol.Lease
	done bool

	// Messages of one size lie in run one after another, and none of them was acked before; then f is nil.
	run  []byte
	size int

	f     *protocol.Frame
	from  int // the first message
	until int // behind the last

	m *Message // one of a batch that Receive has begun, and then nothing of the above
}

// ReceiveBatch takes the messages of the next slot, be they a batch or one message, and waits for one. What Receive has left of a batch in this process comes
// first, one message at a time. If the process dies before Ack, other
// consumers get all of them, from then on one at a time, so that the one that kills is found. Errors: as Receive.
func (q *Queue) ReceiveBatch(ctx context.Context) (*Batch, error) {
	return q.receiveBatch(ctx, new(Batch), true) // here, so that it need not be on the heap where the caller keeps it
}

// TryReceiveBatch is ReceiveBatch that does not wait. Errors: ErrEmpty beside those of Receive.
func (q *Queue) TryReceiveBatch() (*Batch, error) {
	return q.receiveBatch(context.Background(), new(Batch), false)
}

func (q *Queue) receiveBatch(ctx context.Context, b *Batch, wait bool) (*Batch, error) {
	b.q = q
	for {
		if q.frames.some.Load() {
			if found, err := q.rest(b); found {
				return b, nil
			} else if err != nil {
				return nil, err
			}
		}
		if out, err := q.nextBatch(ctx, b, wait); err != errRest {
			return out, err
		}
	}
}

// rest makes a batch of one message of what Receive has left of one.
func (q *Queue) rest(b *Batch) (found bool, err error) {
	if err := q.r.enter(q.s); err != nil {
		return false, err
	}
	m := &Message{q: q}
	if err := q.r.asked(); err != nil || !q.frames.take(m) {
		q.s.Release()
		return false, err
	}
	b.m = m
	return true, nil
}

func (q *Queue) nextBatch(ctx context.Context, b *Batch, wait bool) (_ *Batch, err error) {
	if q.lane != nil { // which keeps its memory
		q.r.beat()
		if err := q.r.asked(); err != nil {
			return nil, err
		}
		b.l, b.run, b.until, err = q.lane.ReceiveBatch(q.r.id, q.s)
		if err == ErrEmpty && wait {
			err = q.awaitBatch(ctx, b)
		}
	} else if err = q.r.enter(q.s); err == nil {
		if b.l, err = q.lease(ctx, wait); err != nil {
			q.s.Release()
		} else {
			b.run, b.until = q.q.Run(b.l)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case b.until > 1:
		b.size = len(b.run) / b.until
	case b.until == 1:
		b.size = len(b.run)
	default:
		return q.openBatch(b)
	}
	return b, nil
}

func (q *Queue) awaitBatch(ctx context.Context, b *Batch) error {
	if err := q.r.enter(q.s); err != nil {
		return err
	}
	defer q.s.Release()
	if q.glance() {
		var err error
		if b.l, b.run, b.until, err = q.lane.ReceiveBatch(q.r.id, q.s); !again(err) {
			return err
		}
	}
	return q.awaitMessage(ctx, func() (err error) {
		b.l, b.run, b.until, err = q.lane.ReceiveBatch(q.r.id, q.s)
		return err
	})
}

// glance is Consumer.glance for whoever has none, if nobody else in this process looks.
func (q *Queue) glance() (found bool) {
	r := q.r
	if !r.many || r.how(&q.receiving) == WaitBlock || !r.spinning.CompareAndSwap(false, true) {
		return false
	}
	_, head := q.lane.Awaited()
	q.pace.rest(int(head-q.rested), q.q.Slots())
	q.rested = head
	for i := 0; i < glances && !found; i++ {
		for j := 0; j < peeks && !found; j++ {
			found, _ = q.lane.Awaited()
		}
		if found {
			q.pace.found(i)
		} else {
			sys.Pause()
		}
	}
	r.spinning.Store(false)
	return found
}

// openBatch is the part of receiveBatch for messages that are no run.
func (q *Queue) openBatch(b *Batch) (*Batch, error) {
	f, err := q.q.Frame(b.l)
	if err != nil {
		q.ack(b.l)
		b.end()
		return nil, err
	}
	b.f = &f
	b.from, b.until = f.FirstOpen(0), f.Len()
	if f.Single() || b.l.Deliveries() > 0 {
		b.until = b.from + 1
	}
	return b, nil
}

// end gives up the memory.
func (b *Batch) end() {
	if b.q.lane != nil {
		b.q.lane.EndBatch()
	} else {
		b.q.s.Release()
	}
}

// Len returns the number of messages.
func (b *Batch) Len() int {
	if b.m != nil {
		return 1
	}
	if b.f == nil || b.f.Open() == b.until-b.from {
		return b.until - b.from
	}
	n := 0
	for i := b.from; i < b.until; i = b.f.FirstOpen(i + 1) {
		n++
	}
	return n
}

// All returns the payloads in order, valid until Ack or Nack. They must not be written to. A message whose place in the slot is damaged
// is nil.
func (b *Batch) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if b.m != nil {
			yield(b.m.b)
			return
		}
		rest, size, f := b.run, b.size, b.f
		for i, until := b.from, b.until; i < until; {
			var m []byte
			if f == nil {
				m, rest = rest[:size:size], rest[size:]
				i++
			} else {
				m, i = f.At(i), f.FirstOpen(i+1)
			}
			if !yield(m) {
				return
			}
		}
	}
}

// Deliveries returns how often the first message was delivered before without an ack.
func (b *Batch) Deliveries() int {
	if b.m != nil {
		return b.m.Deliveries()
	}
	return b.l.Deliveries()
}

// Ack says that all messages are done. Errors: ErrLost.
func (b *Batch) Ack() error {
	switch {
	case b.m != nil:
		return b.m.Ack()
	case b.done:
		return ErrLost
	case b.f == nil && b.q.lane != nil:
		b.done = true
		return b.q.lane.AckBatch(b.l)
	}
	b.done = true
	err := b.ack()
	b.end()
	return err
}

func (b *Batch) ack() error {
	if b.f == nil || b.f.FirstOpen(b.until) == b.f.Len() {
		return b.q.ack(b.l)
	}
	if err := b.q.ackMessage(&b.l, b.f, b.from); err != nil { // one of a batch that is delivered one at a time
		return err
	}
	return b.q.giveBack(b.l)
}

// Nack gives all messages back for another try, from then on one at a time. Errors: ErrLost; after Ack it does nothing, so it can be
// deferred.
func (b *Batch) Nack() error {
	if b.m != nil {
		return b.m.Nack()
	}
	if b.done {
		return ErrLost
	}
	b.done = true
	err := b.q.nack(b.l)
	b.end()
	return err
}
