package cli

import (
	"context"
	"errors"

	"github.com/shmd/shmd/pkg/shm"
)

// benchQueue is both ends of a queue.
type benchQueue struct {
	q *shm.Queue
}

func (b benchQueue) send(ctx context.Context, p []byte) error { return b.q.Send(ctx, p) }

func (b benchQueue) sendMany(ctx context.Context, msgs [][]byte) error {
	_, err := b.q.SendBatch(ctx, msgs)
	return err
}

func (b benchQueue) receive(ctx context.Context, buf []byte) ([]byte, error) {
	return b.q.ReceiveCopy(ctx, buf)
}

func (b benchQueue) each(ctx context.Context, buf []byte, fn func([]byte)) error {
	m, err := b.q.ReceiveBatch(ctx)
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
	p *shm.Producer
}

func (b benchProducer) send(ctx context.Context, p []byte) error { return b.p.Send(ctx, p) }

func (b benchProducer) sendMany(context.Context, [][]byte) error { return errors.ErrUnsupported }
func (b benchProducer) close()                                   { b.p.Close() }

type benchConsumer struct {
	*shm.Queue
	c *shm.Consumer
}

func (b benchConsumer) receive(ctx context.Context, buf []byte) ([]byte, error) {
	return b.c.ReceiveCopy(ctx, buf)
}

func (b benchConsumer) each(context.Context, []byte, func([]byte)) error {
	return errors.ErrUnsupported
}
func (b benchConsumer) close() { b.c.Close() }

// benchPublisher and benchSubscriber are the ends of a topic.
type benchPublisher struct {
	p *shm.Publisher
}

func (b benchPublisher) send(ctx context.Context, p []byte) error { return b.p.Publish(ctx, p) }

func (b benchPublisher) sendMany(ctx context.Context, msgs [][]byte) error {
	_, err := b.p.PublishBatch(ctx, msgs)
	return err
}

func (b benchPublisher) close() { b.p.Close() }

type benchSubscriber struct {
	s *shm.Subscription
}

func (b benchSubscriber) receive(ctx context.Context, buf []byte) ([]byte, error) {
	return b.s.ReceiveCopy(ctx, buf)
}

func (b benchSubscriber) each(ctx context.Context, buf []byte, fn func([]byte)) error {
	_, err := b.s.ReceiveBatch(ctx, shm.MaxBatch, func(p []byte) error { fn(append(buf, p...)); return nil })
	return err
}

func (b benchSubscriber) close() { b.s.Close() }
