package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// What sub receives from, for the kinds of channels that it serves.

// message is a message in sub's hands, of whichever kind of channel.
type message interface {
	Bytes() []byte
	Position() uint64
	Index() int
	Deliveries() int
	Ack() error
	Nack() error
}

// delivery is what is received at once, and acked at once: a batch, or one message.
type delivery interface {
	All() iter.Seq[[]byte]
	Ack() error
	Nack() error
}

// consumer is the receiving end of a channel of whichever kind that sub serves. What there is not is shm.ErrEmpty, unless it is to wait.
type consumer interface {
	message(ctx context.Context, wait bool) (message, error)
	batch(ctx context.Context, wait bool) (delivery, error)
	slots() int
	last(m message) bool               // it is a dead letter when it is given back
	moving() bool                      // dead letters are on their way, and what was sent with one comes back behind it
	drained(ctx context.Context) error // waits until nothing comes any more; errors.ErrUnsupported if that cannot be known
	close()
}

type queueConsumer struct{ q *shm.Queue }

func (c queueConsumer) message(ctx context.Context, wait bool) (message, error) {
	if wait {
		return received[message](c.q.Receive(ctx))
	}
	return received[message](c.q.TryReceive())
}

func (c queueConsumer) batch(ctx context.Context, wait bool) (delivery, error) {
	if wait {
		return received[delivery](c.q.ReceiveBatch(ctx))
	}
	return received[delivery](c.q.TryReceiveBatch())
}

func (c queueConsumer) slots() int { return c.q.Slots() }

func (c queueConsumer) last(m message) bool {
	s, err := c.q.Stat()
	return err == nil && s.MaxDeliveries > 0 && m.Deliveries()+1 >= s.MaxDeliveries
}

func (c queueConsumer) moving() bool {
	s, err := c.q.Stat()
	return err == nil && s.Dead+s.Moving > 0
}

func (c queueConsumer) drained(ctx context.Context) error { return c.q.WaitDrained(ctx) }
func (c queueConsumer) close()                            {}

// deadConsumer is the consumer of a dead-letter channel: it gives what was sent, without the head that says where from and why.
type deadConsumer struct{ queueConsumer }

func (c deadConsumer) message(ctx context.Context, wait bool) (message, error) {
	m, err := c.queueConsumer.message(ctx, wait)
	if err != nil {
		return nil, err
	}
	if n := len(m.Bytes()); n < protocol.SizeofDeadLetter {
		at := positionName(m.Position(), m.Index())
		m.Nack()
		return nil, fmt.Errorf("the message at position %s of dead-letter channel %q has %d bytes, and a dead letter begins with %d: the channel is damaged; it was given back", at, c.q.Name(), n, protocol.SizeofDeadLetter)
	}
	return letter{m}, nil
}

// batch is one message: the daemon sends dead letters one by one.
func (c deadConsumer) batch(ctx context.Context, wait bool) (delivery, error) {
	m, err := c.message(ctx, wait)
	if err != nil {
		return nil, err
	}
	return one{m}, nil
}

type letter struct{ message }

func (l letter) Bytes() []byte { return l.message.Bytes()[protocol.SizeofDeadLetter:] }

// received keeps a nil pointer from becoming an interface that is not nil.
func received[I any, M any](m *M, err error) (I, error) {
	if err != nil {
		var none I
		return none, err
	}
	return any(m).(I), nil
}

// one is a message as a delivery.
type one struct{ message }

func (o one) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) { yield(o.Bytes()) }
}

func (a *app) consumer(r *shm.Region, o subOptions) (consumer, error) {
	switch kind := r.Kind(o.channel); kind {
	case protocol.KindQueue:
		if o.all || o.last || o.fresh {
			return nil, usagef("sub: channel %q is a queue: each message is taken once, and there is no history; --all, --last and --new are for topics", o.channel)
		}
		q, err := r.Queue(o.channel)
		if err != nil {
			return nil, err
		}
		st, err := q.Stat()
		if err != nil {
			return nil, err
		}
		if st.Flags&protocol.QueueFlagDeadLetter != 0 {
			return deadConsumer{queueConsumer{q}}, nil
		}
		return queueConsumer{q}, nil
	case protocol.KindTopic:
		switch {
		case o.group != "":
			return nil, usagef("sub: channel %q is a topic: every subscriber gets every message, and no group shares them; for one of many use a queue", o.channel)
		case o.ack == ackManual:
			return nil, usagef("sub: channel %q is a topic: nothing is acked or given back there", o.channel)
		}
		t, err := r.Topic(o.channel)
		if err != nil {
			return nil, err
		}
		from := shm.FromNew
		if o.all {
			from = shm.FromOldest
		} else if o.last {
			from = shm.FromLast
		}
		s, err := t.Subscribe(shm.SubscribeOptions{From: from})
		if err != nil {
			return nil, err
		}
		return &topicConsumer{s: s, most: t.Slots()}, nil
	case protocol.KindLatest:
		return nil, wrongKind("sub", o.channel, kind, "shmctl get prints its value, and watch each change")
	case protocol.KindCall:
		return nil, wrongKind("sub", o.channel, kind, "shmctl reply serves its requests")
	default:
		return nil, unknownKind("sub", r, o.channel)
	}
}

// topicConsumer is a subscriber of a topic. It copies each message, which may be overwritten while it is read, and has one in its hands at
// a time.
type topicConsumer struct {
	s    *shm.Subscription
	most int

	b        []byte
	position uint64

	copies topicBatch // of batch
	later  error      // that came behind the last batch
}

func (c *topicConsumer) message(ctx context.Context, wait bool) (message, error) {
	for {
		m, err := c.receive(ctx, wait)
		if err != nil {
			return nil, err
		}
		c.b, c.position = append(c.b[:0], m.Bytes()...), m.Position()
		if err := m.Done(); err == nil {
			return c, nil
		} else if !errors.Is(err, shm.ErrLapped) { // if so, the next one tells how many are lost
			return nil, err
		}
	}
}

func (c *topicConsumer) receive(ctx context.Context, wait bool) (*shm.TopicMessage, error) {
	if wait {
		return c.s.Receive(ctx)
	}
	return c.s.TryReceive()
}

// batch copies what is there: a cursor that moves once for many messages costs a fraction of one that moves with each.
func (c *topicConsumer) batch(ctx context.Context, wait bool) (delivery, error) {
	if err := c.later; err != nil {
		c.later = nil
		return nil, err
	}
	b := &topicBatch{buf: c.copies.buf[:0], ends: c.copies.ends[:0]}
	take := func(p []byte) error {
		b.buf = append(b.buf, p...)
		b.ends = append(b.ends, len(b.buf))
		return nil
	}
	var n int
	var err error
	if wait {
		n, err = c.s.ReceiveBatch(ctx, shm.MaxBatch, take)
	} else {
		n, err = c.s.TryReceiveBatch(shm.MaxBatch, take)
	}
	c.copies = *b
	switch b.ends = b.ends[:n]; { // what was overwritten while it was read is the last one, and not counted
	case n > 0:
		c.later = err
		return b, nil
	case err == nil, wait && errors.Is(err, shm.ErrEmpty): // what there was, was overwritten
		return b, nil
	}
	return nil, err
}

// topicBatch is copies of messages, one behind the other. It is used until the next one is received.
type topicBatch struct {
	buf  []byte
	ends []int
}

func (b *topicBatch) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		at := 0
		for _, end := range b.ends {
			if !yield(b.buf[at:end:end]) {
				return
			}
			at = end
		}
	}
}

func (*topicBatch) Ack() error  { return nil }
func (*topicBatch) Nack() error { return nil }

func (c *topicConsumer) slots() int                    { return c.most }
func (c *topicConsumer) last(message) bool             { return false }
func (c *topicConsumer) moving() bool                  { return false }
func (c *topicConsumer) drained(context.Context) error { return errors.ErrUnsupported }
func (c *topicConsumer) close()                        { c.s.Close() }
func (c *topicConsumer) Bytes() []byte                 { return c.b }
func (c *topicConsumer) Position() uint64              { return c.position }
func (c *topicConsumer) Index() int                    { return 0 }
func (c *topicConsumer) Deliveries() int               { return 0 }
func (c *topicConsumer) Ack() error                    { return nil }
func (c *topicConsumer) Nack() error                   { return nil }
