package shm

import (
	"context"
	"errors"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// ErrNoLane: the channel is for any number of producers and consumers (it has not producers = 1 and consumers = 1), so it has no ends
// for one goroutine.
var ErrNoLane = errors.New("the channel has not producers = 1 and consumers = 1")

// ErrHeld: the process's end of the queue is held by a Producer or a Consumer.
var ErrHeld = protocol.ErrHeld

// Producer is the sending end of a queue with one producer and one consumer, for one goroutine at a time: it takes no lock. It ends with Close.
type Producer struct {
	q    *Queue
	p    *protocol.Producer
	open bool
}

// Producer takes the sending end; until Close the queue's own methods to send return ErrHeld. Errors: ErrNoLane, ErrHeld, ErrClosed,
// *protocol.EndError (another process has it).
func (q *Queue) Producer() (*Producer, error) {
	if q.lane == nil {
		return nil, ErrNoLane
	}
	if err := q.s.Lease(); err != nil { // until Close
		return nil, err
	}
	p, err := q.lane.Producer(q.r.id)
	if err != nil {
		q.s.Release()
		return nil, err
	}
	return &Producer{q, p, true}, nil
}

// Send is Queue.Send.
func (p *Producer) Send(ctx context.Context, b []byte) error {
	err := p.TrySend(b)
	if err == ErrFull {
		err = p.wait(ctx, b)
	}
	return err
}

// TrySend is Queue.TrySend.
func (p *Producer) TrySend(b []byte) error {
	if len(b) > p.q.q.SlotSize() || !p.open {
		return p.refuse(b)
	}
	return p.p.Send(b)
}

func (p *Producer) refuse(b []byte) error {
	if !p.open {
		return ErrClosed
	}
	return &TooLargeError{p.q.name, len(b), p.q.q.SlotSize()}
}

func (p *Producer) wait(ctx context.Context, b []byte) error {
	if err := p.q.s.Lease(); err != nil { // a Close meanwhile, which is a mistake, is to be no access to memory that is gone
		return err
	}
	defer p.q.s.Release()
	return p.q.r.await(ctx, p.q.q.Senders, &p.q.sending, func() error { return p.p.Send(b) })
}

// Close gives the end back to the queue. It is idempotent. Region.Close waits for it.
func (p *Producer) Close() error {
	if p.open {
		p.open = false
		p.p.Close()
		p.q.s.Release()
	}
	return nil
}

// Consumer is the receiving end of a queue with one producer and one consumer, for one goroutine at a time: it takes no lock. It ends with
// Close.
type Consumer struct {
	q    *Queue
	c    *protocol.Consumer
	open bool

	// A batch of which messages are still to be handed out.
	lease protocol.Lease // Open is 0: none
	frame protocol.Frame
}

// Consumer takes the receiving end; until Close the queue's own methods to receive return ErrHeld. Errors: ErrNoLane, ErrHeld, ErrClosed,
// *protocol.EndError (another process has it); leases are out.
func (q *Queue) Consumer() (*Consumer, error) {
	if q.lane == nil {
		return nil, ErrNoLane
	}
	if err := q.s.Lease(); err != nil { // until Close
		return nil, err
	}
	c, err := q.lane.Consumer(q.r.id)
	if err != nil {
		q.s.Release()
		return nil, err
	}
	return &Consumer{q: q, c: c, open: true}, nil
}

// ReceiveCopy is Queue.ReceiveCopy.
func (c *Consumer) ReceiveCopy(ctx context.Context, buf []byte) ([]byte, error) {
	out, err := c.TryReceiveCopy(buf)
	if err == ErrEmpty {
		return c.wait(ctx, buf)
	}
	return out, err
}

// TryReceiveCopy is ReceiveCopy that does not wait. Errors: ErrEmpty beside those of ReceiveCopy.
func (c *Consumer) TryReceiveCopy(buf []byte) ([]byte, error) {
	switch {
	case !c.open:
		return buf, ErrClosed
	case c.q.r.quit.Err() != nil:
		return buf, c.q.r.asked()
	case c.lease.Open() > 0:
		return c.next(buf)
	}
	out, l, err := c.c.Receive(buf)
	if err == nil && l.Open() > 0 {
		return c.begin(l, buf)
	}
	return out, err
}

// begin takes a batch.
func (c *Consumer) begin(l protocol.Lease, buf []byte) ([]byte, error) {
	f, err := c.q.q.Frame(l)
	if err != nil {
		c.q.lane.Ack(l)
		return buf, err
	}
	c.lease, c.frame = l, f
	return c.next(buf)
}

// next copies the next message of the batch and acks it.
func (c *Consumer) next(buf []byte) ([]byte, error) {
	i := c.frame.FirstOpen(0)
	b := c.frame.At(i)
	if err := c.c.AckMessage(&c.lease, &c.frame, i); err != nil {
		c.lease = protocol.Lease{}
		return buf, err
	}
	if b == nil {
		return buf, c.q.q.Damaged(c.lease, i)
	}
	return append(buf, b...), nil
}

// peeks is how often the line that the producer writes is looked at between two pauses.
const peeks = 16

// wait spins on one line of memory, and then sleeps.
func (c *Consumer) wait(ctx context.Context, buf []byte) (out []byte, err error) {
	q := c.q
	if err := q.s.Lease(); err != nil { // as in Producer.wait
		return buf, err
	}
	defer q.s.Release()
	if q.r.many && q.r.spinning.CompareAndSwap(false, true) {
		turns := q.receiving.turns()
		found := false
		for n := int32(0); n < turns && !found; n++ {
			for i := 0; i < peeks && !found; i++ {
				found = c.c.Ready()
			}
			if n%16 == 15 && !found { // what does not show in that line: a message that came back, the end
				if ctx.Err() != nil {
					break
				}
				if out, err = c.TryReceiveCopy(buf); err != ErrEmpty {
					q.r.spinning.Store(false)
					q.receiving.learn(true, turns)
					return out, err
				}
			}
			if !found {
				sys.Pause()
			}
		}
		q.r.spinning.Store(false)
		q.receiving.learn(found, turns)
		if found {
			return c.TryReceiveCopy(buf)
		}
	}
	err = q.r.awaitAsleep(ctx, q.q.Receivers, func() error {
		out, err = c.TryReceiveCopy(buf)
		return err
	})
	return out, err
}

// Close gives the end back to the queue; the rest of a batch is delivered again. It is idempotent. Region.Close waits for it.
func (c *Consumer) Close() error {
	if c.open {
		c.open = false
		c.c.Close()
		if c.lease.Open() > 0 {
			c.q.lane.Return(c.lease)
		}
		c.q.s.Release()
	}
	return nil
}
