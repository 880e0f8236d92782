package cli

import (
	"context"
	"errors"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/shm"
)

// again calls try until it has done something.
func again(try func() error) error {
	for {
		err := try()
		if !errors.Is(err, shm.ErrFull) && !errors.Is(err, shm.ErrEmpty) {
			return err
		}
		sys.Pause()
	}
}

// benchQueue is both ends of a queue.
type benchQueue struct {
	q    *shm.Queue
	spin bool
}

func (b benchQueue) send(ctx context.Context, p []byte) error {
	if b.spin {
		return again(func() error { return b.q.TrySend(p) })
	}
	return b.q.Send(ctx, p)
}

func (b benchQueue) sendMany(ctx context.Context, msgs [][]byte) error {
	_, err := b.q.SendBatch(ctx, msgs)
	return err
}

func (b benchQueue) receive(ctx context.Context, buf []byte) ([]byte, error) {
	if !b.spin {
		return b.q.ReceiveCopy(ctx, buf)
	}
	var m *shm.Message
	err := again(func() (err error) { m, err = b.q.TryReceive(); return err })
	if err != nil {
		return nil, err
	}
	buf = append(buf, m.Bytes()...)
	return buf, m.Ack()
}

func (b benchQueue) each(ctx context.Context, buf []byte, fn func([]byte)) error {
	var m *shm.Batch
	var err error
	if b.spin {
		err = again(func() (err error) { m, err = b.q.TryReceiveBatch(); return err })
	} else {
		m, err = b.q.ReceiveBatch(ctx)
	}
	if err != nil {
		return err
	}
	for p := range m.All() {
		fn(append(buf, p...))
	}
	return m.Ack()
}

func (benchQueue) close() {}

// benchProducer and benchConsumer are the ends of a lane.
type benchProducer struct {
	*shm.Queue
	p    *shm.Producer
	spin bool
}

func (b benchProducer) send(ctx context.Context, p []byte) error {
	if b.spin {
		return again(func() error { return b.p.TrySend(p) })
	}
	return b.p.Send(ctx, p)
}

func (b benchProducer) sendMany(context.Context, [][]byte) error { return errors.ErrUnsupported }
func (b benchProducer) close()                                   { b.p.Close() }

type benchConsumer struct {
	*shm.Queue
	c    *shm.Consumer
	spin bool
}

func (b benchConsumer) receive(ctx context.Context, buf []byte) (out []byte, err error) {
	if b.spin {
		err = again(func() (err error) { out, err = b.c.TryReceiveCopy(buf); return err })
		return out, err
	}
	return b.c.ReceiveCopy(ctx, buf)
}

func (b benchConsumer) each(context.Context, []byte, func([]byte)) error {
	return errors.ErrUnsupported
}
func (b benchConsumer) close() { b.c.Close() }

// benchPublisher and benchSubscriber are the ends of a topic.
type benchPublisher struct {
	p    *shm.Publisher
	spin bool
}

func (b benchPublisher) send(ctx context.Context, p []byte) error {
	if b.spin {
		return again(func() error { return b.p.TryPublish(p) })
	}
	return b.p.Publish(ctx, p)
}

func (b benchPublisher) sendMany(ctx context.Context, msgs [][]byte) error {
	_, err := b.p.PublishBatch(ctx, msgs)
	return err
}

func (b benchPublisher) close() { b.p.Close() }

type benchSubscriber struct {
	s    *shm.Subscription
	spin bool
}

func (b benchSubscriber) receive(ctx context.Context, buf []byte) ([]byte, error) {
	if !b.spin {
		return b.s.ReceiveCopy(ctx, buf)
	}
	var m *shm.TopicMessage
	err := again(func() (err error) { m, err = b.s.TryReceive(); return err })
	if err != nil {
		return nil, err
	}
	buf = append(buf, m.Bytes()...)
	return buf, m.Done()
}

func (b benchSubscriber) each(ctx context.Context, buf []byte, fn func([]byte)) error {
	_, err := b.s.ReceiveBatch(ctx, shm.MaxBatch, func(p []byte) error { fn(append(buf, p...)); return nil })
	return err
}

func (b benchSubscriber) close() { b.s.Close() }
