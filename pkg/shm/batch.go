package shm

import (
	"context"
	"iter"
	"sync/atomic"

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
	done atomic.Bool
}

// LoanBatch takes a slot to write a batch in place. It waits while the queue is full. Errors: as Send.
func (q *Queue) LoanBatch(ctx context.Context) (*BatchLoan, error) {
	b := &BatchLoan{q: q}
	if err := q.takeBatch(ctx, b); err != nil {
		return nil, err
	}
	return b, nil
}

func (q *Queue) takeBatch(ctx context.Context, b *BatchLoan) (err error) {
	if err := q.r.enter(q.s); err != nil {
		return err
	}
	if b.l, err = q.loan(ctx, true); err != nil {
		q.s.Release()
		return err
	}
	b.f = protocol.NewFrame(q.q.LoanBytes(b.l))
	return nil
}

// Next returns the place of one more message, of n bytes that the caller fills, or nil if the batch has no room for it: then commit it and
// take another. A batch has always room for one message of SlotSize - 8 bytes.
func (b *BatchLoan) Next(n int) []byte { return b.f.Next(n) }

// Len returns the number of messages.
func (b *BatchLoan) Len() int { return b.f.Len() }

// Commit publishes the messages; without any it is Abort. Errors: ErrLost.
func (b *BatchLoan) Commit() error {
	if b.done.Swap(true) {
		return ErrLost
	}
	defer b.q.s.Release()
	return b.q.commitFrame(b.l, &b.f)
}

// Abort gives the slot back. After Commit it does nothing and returns ErrLost, so it can be deferred.
func (b *BatchLoan) Abort() error {
	if b.done.Swap(true) {
		return ErrLost
	}
	defer b.q.s.Release()
	return b.q.abort(b.l)
}

// Batch is the messages of one slot that the caller reads in place. It is used by one goroutine at a time, and ends with Ack or Nack.
type Batch struct {
	q     *Queue
	l     protocol.Lease
	f     protocol.Frame
	from  int // the first message
	until int // behind the last
	done  atomic.Bool
}

// ReceiveBatch takes the messages of the next slot, be they a batch or one message, and waits for one. If the process dies before Ack, other
// consumers get all of them, from then on one at a time, so that the one that kills is found. Errors: as Receive.
func (q *Queue) ReceiveBatch(ctx context.Context) (*Batch, error) {
	b := &Batch{q: q}
	if err := q.receiveBatch(ctx, b, true); err != nil {
		return nil, err
	}
	return b, nil
}

// TryReceiveBatch is ReceiveBatch that does not wait. Errors: ErrEmpty beside those of Receive.
func (q *Queue) TryReceiveBatch() (*Batch, error) {
	b := &Batch{q: q}
	if err := q.receiveBatch(context.Background(), b, false); err != nil {
		return nil, err
	}
	return b, nil
}

func (q *Queue) receiveBatch(ctx context.Context, b *Batch, wait bool) (err error) {
	if err := q.r.enter(q.s); err != nil {
		return err
	}
	if b.l, err = q.lease(ctx, wait); err != nil {
		q.s.Release()
		return err
	}
	if b.f, err = q.q.Frame(b.l); err != nil {
		q.ack(b.l)
		q.s.Release()
		return err
	}
	b.from, b.until = b.f.FirstOpen(0), b.f.Len()
	if b.f.Single() || b.l.Deliveries() > 0 {
		b.until = b.from + 1
	}
	return nil
}

// Len returns the number of messages.
func (b *Batch) Len() int {
	if b.f.Open() == b.until-b.from {
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
		for i := b.from; i < b.until && yield(b.f.At(i)); i = b.f.FirstOpen(i + 1) {
		}
	}
}

// Deliveries returns how often the first message was delivered before without an ack.
func (b *Batch) Deliveries() int { return b.l.Deliveries() }

// Ack says that all messages are done. Errors: ErrLost.
func (b *Batch) Ack() error {
	if b.done.Swap(true) {
		return ErrLost
	}
	defer b.q.s.Release()
	if b.f.FirstOpen(b.until) == b.f.Len() {
		return b.q.ack(b.l)
	}
	if err := b.q.ackMessage(&b.l, &b.f, b.from); err != nil { // one of a batch that is delivered one at a time
		return err
	}
	return b.q.giveBack(b.l)
}

// Nack gives all messages back for another try, from then on one at a time. Errors: ErrLost; after Ack it does nothing, so it can be
// deferred.
func (b *Batch) Nack() error {
	if b.done.Swap(true) {
		return ErrLost
	}
	defer b.q.s.Release()
	return b.q.nack(b.l)
}
