package shm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// Queue is one end of a channel of kind queue: each message goes to exactly one of its consumers, at least once across a
// consumer's death. It is safe for concurrent use.
type Queue struct {
	r    *Region
	q    *protocol.Queue
	lane *protocol.Lane // nil: any number of producers and consumers
	s    *region.Segment
	name string

	sending, receiving spinner
	streak             atomic.Uint32 // messages that were found by looking while others slept

	// A lane's, of who has Region.spinning.
	pace   pace
	rested uint64 // the next position when it last rested

	frames frames // of which messages are still to be handed out one by one
}

// Name returns the channel's name.
func (q *Queue) Name() string { return q.name }

// SlotSize returns the largest payload, in bytes.
func (q *Queue) SlotSize() int { return q.q.SlotSize() }

// Slots returns the number of slots.
func (q *Queue) Slots() int { return q.q.Slots() }

// Stat takes a snapshot of the queue.
func (q *Queue) Stat() (protocol.QueueStat, error) {
	if err := q.r.enter(q.s); err != nil {
		return protocol.QueueStat{}, err
	}
	defer q.s.Release()
	return q.q.Stat(), nil
}

// Send copies p into a slot and publishes it; when it returns nil the message is committed: no death can lose it. It waits while
// the queue is full. Errors: *TooLargeError, ctx.Err(), ErrQuit (only when it would have to wait), ErrClosed.
func (q *Queue) Send(ctx context.Context, p []byte) error {
	return q.send(ctx, p, true)
}

// TrySend is Send that does not wait. Errors: ErrFull beside those of Send.
func (q *Queue) TrySend(p []byte) error {
	return q.send(context.Background(), p, false)
}

func (q *Queue) send(ctx context.Context, p []byte, wait bool) error {
	if limit := q.q.SlotSize(); len(p) > limit {
		return &TooLargeError{q.name, len(p), limit}
	}
	if q.lane != nil { // which guards its memory itself
		q.r.beat()
		err := q.lane.Send(q.r.id, p)
		if err == ErrFull && wait {
			err = q.awaitSend(ctx, p)
		}
		return err
	}
	if err := q.r.enter(q.s); err != nil {
		return err
	}
	defer q.s.Release()
	l, err := q.loan(ctx, wait)
	if err != nil {
		return err
	}
	copy(q.q.LoanBytes(l), p)
	return q.commit(l, len(p))
}

// Loan is a slot that the caller fills in place. It is used by one goroutine at a time, and ends with Commit or Abort.
type Loan struct {
	q    *Queue
	l    protocol.Loan
	done atomic.Bool
}

// Loan takes a slot to write a message in place. It waits while the queue is full. Until Commit nobody sees the message; if the process
// dies before, the slot is given back. Errors: as Send.
func (q *Queue) Loan(ctx context.Context) (*Loan, error) {
	l := &Loan{q: q}
	if err := q.takeLoan(ctx, l, true); err != nil {
		return nil, err
	}
	return l, nil
}

// TryLoan is Loan that does not wait. Errors: ErrFull beside those of Loan.
func (q *Queue) TryLoan() (*Loan, error) {
	l := &Loan{q: q}
	if err := q.takeLoan(context.Background(), l, false); err != nil {
		return nil, err
	}
	return l, nil
}

func (q *Queue) takeLoan(ctx context.Context, l *Loan, wait bool) (err error) {
	if err := q.r.enter(q.s); err != nil {
		return err
	}
	if l.l, err = q.loan(ctx, wait); err != nil {
		q.s.Release()
	}
	return err
}

// Bytes returns the slot's payload, SlotSize bytes of undefined contents, valid until Commit or Abort.
func (l *Loan) Bytes() []byte { return l.q.q.LoanBytes(l.l) }

// Commit publishes the first n bytes. Errors: *TooLargeError (the loan goes on), ErrLost.
func (l *Loan) Commit(n int) error {
	if limit := l.q.q.SlotSize(); n < 0 || n > limit {
		return &TooLargeError{l.q.name, n, limit}
	}
	if l.done.Swap(true) {
		return ErrLost
	}
	defer l.q.s.Release()
	return l.q.commit(l.l, n)
}

// Abort gives the slot back. After Commit it does nothing and returns ErrLost, so it can be deferred.
func (l *Loan) Abort() error {
	if l.done.Swap(true) {
		return ErrLost
	}
	defer l.q.s.Release()
	return l.q.abort(l.l)
}

// Message is a message that the caller reads in place. It is used by one goroutine at a time, and ends with Ack, Nack, Return or Reject.
type Message struct {
	q     *Queue
	l     protocol.Lease
	b     []byte
	frame *frame // nil: the lease is this message's alone
	index int    // within the frame
	done  atomic.Bool
}

// Receive takes the next message, and waits for one. If the process dies before Ack, another consumer gets the message.
// Errors: ctx.Err(), ErrQuit (also when messages are there: a worker that is asked to quit takes no more), ErrClosed,
// *protocol.CorruptError.
func (q *Queue) Receive(ctx context.Context) (*Message, error) {
	m := &Message{q: q} // here, so that it need not be on the heap where the caller keeps it
	if err := q.receive(ctx, m, true); err != nil {
		return nil, err
	}
	return m, nil
}

// TryReceive is Receive that does not wait. Errors: ErrEmpty beside those of Receive.
func (q *Queue) TryReceive() (*Message, error) {
	m := &Message{q: q}
	if err := q.receive(context.Background(), m, false); err != nil {
		return nil, err
	}
	return m, nil
}

func (q *Queue) receive(ctx context.Context, m *Message, wait bool) error {
	if err := q.r.enter(q.s); err != nil {
		return err
	}
	if err := q.r.asked(); err != nil { // before the rest of a batch, too
		q.s.Release()
		return err
	}
	l, err := protocol.Lease{}, errRest
	for err == errRest {
		if q.frames.take(m) {
			return m.check()
		}
		l, err = q.lease(ctx, wait)
	}
	if err != nil {
		q.s.Release()
		return err
	}
	f, err := q.q.Frame(l)
	switch {
	case err != nil:
		q.ack(l)
		q.s.Release()
		return err
	case f.Framed():
		q.frames.open(m, l, f)
		return m.check()
	default:
		m.l, m.b = l, f.At(0)
	}
	return nil
}

// check drops a message of a batch whose place is damaged.
func (m *Message) check() error {
	if m.b != nil {
		return nil
	}
	m.Ack()
	return m.q.q.Damaged(m.l, m.index)
}

// ReceiveCopy takes the next message, appends its payload to buf, acks it, and returns the extended buffer. A message that
// a dying process had copied is lost with the process's memory only after the ack. Errors: as Receive.
func (q *Queue) ReceiveCopy(ctx context.Context, buf []byte) ([]byte, error) {
	if q.lane != nil {
		return q.receiveLane(ctx, buf)
	}
	m := Message{q: q}
	if err := q.receive(ctx, &m, true); err != nil {
		return buf, err
	}
	buf = append(buf, m.b...)
	return buf, m.Ack()
}

// receiveLane is ReceiveCopy in one step.
func (q *Queue) receiveLane(ctx context.Context, buf []byte) ([]byte, error) {
	q.r.beat()
	if err := q.r.asked(); err != nil {
		return buf, err
	}
	if q.frames.some.Load() {
		return q.receiveRest(ctx, buf)
	}
	out, l, err := q.lane.ReceiveTo(q.r.id, buf) // which guards its memory itself
	switch {
	case err == ErrEmpty:
		return q.awaitReceiveTo(ctx, buf)
	case err != nil || l.Open() == 0:
		return out, err
	}
	return q.copyOfFrame(l, buf)
}

// receiveRest is ReceiveCopy of what Receive has left of a batch.
func (q *Queue) receiveRest(ctx context.Context, buf []byte) ([]byte, error) {
	m := Message{q: q}
	if err := q.receive(ctx, &m, true); err != nil {
		return buf, err
	}
	buf = append(buf, m.b...)
	return buf, m.Ack()
}

func (q *Queue) awaitReceiveTo(ctx context.Context, buf []byte) (out []byte, err error) {
	if err := q.r.enter(q.s); err != nil {
		return buf, err
	}
	defer q.s.Release()
	var l protocol.Lease
	err = q.awaitMessage(ctx, func() error {
		out, l, err = q.lane.ReceiveTo(q.r.id, buf)
		return err
	})
	switch {
	case err == errRest:
		return q.receiveRest(ctx, buf)
	case err != nil || l.Open() == 0:
		return out, err
	}
	return q.copyOfFrame(l, buf)
}

// copyOfFrame copies and acks the first message of a frame; the others are for the next calls.
func (q *Queue) copyOfFrame(l protocol.Lease, buf []byte) ([]byte, error) {
	if err := q.r.enter(q.s); err != nil {
		return buf, err // the lease ends with the region
	}
	m := Message{q: q}
	f, err := q.q.Frame(l)
	if err != nil {
		q.ack(l)
		q.s.Release()
		return buf, err
	}
	q.frames.open(&m, l, f)
	if err := m.check(); err != nil {
		return buf, err
	}
	buf = append(buf, m.b...)
	return buf, m.Ack()
}

// Messages returns the messages as they come, for range. It ends after ctx or the quit flag, silently, also while messages wait, and after any
// other error, which is the last thing that it yields. Each message is to be ended, as with Receive.
func (q *Queue) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for ctx.Err() == nil { // Receive looks at it only when it waits
			m, err := q.Receive(ctx)
			switch {
			case err == nil:
				if !yield(m, nil) {
					return
				}
			case ctx.Err() != nil, errors.Is(err, ErrQuit), errors.Is(err, ErrClosed):
				return
			default:
				yield(nil, err)
				return
			}
		}
	}
}

// Bytes returns the payload, valid until the message is ended. It must not be written to.
func (m *Message) Bytes() []byte { return m.b }

// Deliveries returns how often this message was delivered before without an ack. Of a batch the count is that of its first message that is not done, whichever was nacked; so it
// may be less for the others.
func (m *Message) Deliveries() int {
	if m.frame != nil && m.index != m.frame.first {
		return 0
	}
	return m.l.Deliveries()
}

// Position returns the position at which the message was sent: it identifies the message within its channel, together with Index.
func (m *Message) Position() uint64 { return m.q.q.Position(m.l) }

// Index returns the message's number within its batch, 0 if it was sent alone.
func (m *Message) Index() int { return m.index }

// Dead returns what the head of a dead letter says, and the payload of the original message. The channel must be a dead-letter
// channel (its name ends in ".dead"). Errors: that it is none, *protocol.CorruptError.
func (m *Message) Dead() (protocol.DeadInfo, []byte, error) {
	if !strings.HasSuffix(m.q.name, ".dead") {
		return protocol.DeadInfo{}, nil, fmt.Errorf("channel %q is no dead-letter channel: its messages have no head to read", m.q.name)
	}
	return m.q.q.ReadDead(m.l)
}

// Ack says that the message is done. Errors: ErrLost.
func (m *Message) Ack() error { return m.end(true) }

// Nack gives the message back for another try, by whoever comes first; after the channel's max_deliveries it is moved to the
// dead-letter channel. Messages of one batch come back when all of them that were received have ended. Errors: ErrLost; after Ack it
// does nothing, so it can be deferred.
func (m *Message) Nack() error { return m.end(false) }

// Return gives the message back as if it had not been delivered, for whoever comes first: its deliveries stay as they were. It is for who has not begun with it.
// Of a batch, those that were received come back when all of them have ended. A nack of another of them, or the death of the process, is a delivery of the batch's first message
// that is not done, also if that is the one that was returned. Errors: ErrLost, also for a message that has ended: then it does nothing.
func (m *Message) Return() error {
	if m.done.Swap(true) {
		return ErrLost
	}
	defer m.q.s.Release()
	if m.frame != nil {
		return m.q.frames.back(m)
	}
	return m.q.giveBack(m.l)
}

// Reject gives the message up: no consumer is to try it again, and it goes to the dead-letter channel with the reason, whatever
// max_deliveries says. Of a batch, one that is not acked and was sent before comes first: then the message comes once more.
// A reason is 1 to 63; those that [protocol.DeadReason] names are shmd's, and a program does well to count its own from 63 down.
// Errors: ErrNoDeadLetters and a reason out of range (the message is still the caller's), ErrLost.
func (m *Message) Reject(reason protocol.DeadReason) error {
	if most := protocol.DeadReason(1<<protocol.SlotPassedBits - 1); reason < 1 || reason > most {
		return fmt.Errorf("channel %q: dead reason %d is outside 1 to %d", m.q.name, uint32(reason), uint32(most))
	}
	if m.q.q.MaxDeliveries() == 0 {
		return ErrNoDeadLetters
	}
	if m.done.Swap(true) {
		return ErrLost
	}
	defer m.q.s.Release()
	if m.frame != nil {
		return m.q.frames.reject(m, reason)
	}
	return m.q.reject(m.l, reason)
}

// Suspect reports whether a lease of this message, or of the batch that it was sent in, ended by a nack or a death, and no message of it was rejected or became a dead letter since: it
// may be what ended its consumer.
func (m *Message) Suspect() bool {
	return m.l.Deliveries() > 0 || m.frame != nil && m.frame.f.Single()
}

func (m *Message) end(ack bool) error {
	if m.done.Swap(true) {
		return ErrLost
	}
	defer m.q.s.Release()
	switch {
	case m.frame != nil:
		return m.q.frames.end(m, ack)
	case ack:
		return m.q.ack(m.l)
	}
	return m.q.nack(m.l)
}

// loan claims a slot, waiting for one if wait is set. The caller holds the segment's lease.
func (q *Queue) loan(ctx context.Context, wait bool) (protocol.Loan, error) {
	l, err := q.tryLoan()
	if !wait || err != ErrFull {
		return l, err
	}
	return q.awaitLoan(ctx)
}

func (q *Queue) awaitSend(ctx context.Context, p []byte) error {
	if err := q.r.enter(q.s); err != nil {
		return err
	}
	defer q.s.Release()
	return q.r.await(ctx, &q.q.Senders, &q.sending, func() error { return q.lane.Send(q.r.id, p) })
}

// awaitLoan is apart so that its closure costs the usual case nothing.
func (q *Queue) awaitLoan(ctx context.Context) (l protocol.Loan, err error) {
	err = q.r.await(ctx, &q.q.Senders, &q.sending, func() error {
		l, err = q.tryLoan()
		return err
	})
	return l, err
}

// lease takes a message, waiting for one if wait is set. The caller holds the segment's lease.
func (q *Queue) lease(ctx context.Context, wait bool) (protocol.Lease, error) {
	if err := q.r.asked(); err != nil {
		return protocol.Lease{}, err
	}
	l, err := q.tryReceive()
	if !wait || err != ErrEmpty {
		return l, err
	}
	return q.awaitLease(ctx)
}

func (q *Queue) awaitLease(ctx context.Context) (l protocol.Lease, err error) {
	err = q.awaitMessage(ctx, func() error {
		l, err = q.tryReceive()
		return err
	})
	return l, err
}

// awaitMessage is await for a consumer. It returns errRest when another goroutine has opened a batch. Then it has not looked whether a message has come: if it was
// chosen for one, another must look. (A promise to look ends in Found.)
func (q *Queue) awaitMessage(ctx context.Context, receive func() error) error {
	err := q.awaitAny(ctx, receive)
	if err == errRest {
		q.q.Receivers.PassOn()
	}
	return err
}

func (q *Queue) awaitAny(ctx context.Context, receive func() error) error {
	q.frames.asleep.Add(1)
	defer q.frames.asleep.Add(-1)
	try := func() error {
		if q.frames.some.Load() {
			return errRest
		}
		return receive()
	}
	if q.lane != nil {
		return q.r.await(ctx, &q.q.Receivers, &q.receiving, try)
	}
	switch q.r.how(&q.receiving) {
	case WaitSpin:
		return q.r.awaitSpinning(ctx, try)
	case WaitBlock:
		return q.r.awaitAsleep(ctx, &q.q.Receivers, try)
	}
	err := q.look(ctx, try)
	if again(err) {
		err = q.r.awaitAsleep(ctx, &q.q.Receivers, try)
	}
	return err
}

// turn is how many messages one consumer finds by looking while others sleep: then it sleeps, and the next message is for another.
const turn = 1024

// look is the spinning of await for one of many consumers: one of them looks, and the others sleep. A producer that has to wake nobody as long as one
// looks makes no system call, and the one that looks is not disturbed by another that comes too late.
func (q *Queue) look(ctx context.Context, try func() error) error {
	r := q.r
	if !r.many || !r.spinning.CompareAndSwap(false, true) {
		return ErrEmpty
	}
	defer r.spinning.Store(false)
	how := q.q.Receivers.Look()
	if how == protocol.LookOther {
		return ErrEmpty
	}
	err := try()
	if how != protocol.LookPromised || q.streak.Add(1)%turn != 0 {
		looks := q.receiving.begin()
		for again(err) && looks.more(ctx, r) {
			sys.Pause()
			err = try()
		}
		looks.end(!again(err))
	}
	if how == protocol.LookPromised && !again(err) {
		q.q.Found()
	}
	return err // if it is ErrEmpty, who registers takes the promise back, and looks again
}
