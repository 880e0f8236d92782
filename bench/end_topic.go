package main

import (
	"context"
	"errors"

	"github.com/shmd/shmd/pkg/shm"
)

func init() {
	roles["topic-send"] = func(e *end) error { return e.publish(false) }
	roles["topic-batch-send"] = func(e *end) error { return e.publish(true) }
	roles["topic-receive"] = func(e *end) error { return e.subscribe(false) }
	roles["topic-batch-receive"] = func(e *end) error { return e.subscribe(true) }
	roles["topic-follow"] = topicFollow
}

// publish publishes copies, one at a time or in batches.
func (e *end) publish(batched bool) error {
	r, t, err := e.topic(true)
	if err != nil {
		return err
	}
	defer r.Close()
	p, err := t.Publisher()
	if err != nil {
		return err
	}
	defer p.Close()
	ctx, src := context.Background(), newSource(e.size)
	table := src.table() // a batch is a part of it: making a list for each would cost more stores than the messages
	var begin int64
	for i := 0; i < e.total(); {
		if begin == 0 && i >= e.warm {
			begin = cpuNs()
		}
		if !batched {
			if err := p.Publish(ctx, src.message(i)); err != nil {
				return err
			}
			i++
			continue
		}
		n := min(e.batch, e.total()-i)
		if _, err := p.PublishBatch(ctx, table[i&src.mask:][:n]); err != nil {
			return err
		}
		i += n
	}
	report(result{"cpu_ns": float64(cpuNs()-begin) / float64(e.count)})
	return nil
}

// subscribe receives in place, one at a time or in batches.
func (e *end) subscribe(batched bool) error {
	r, t, err := e.topic(false)
	if err != nil {
		return err
	}
	defer r.Close()
	s, err := t.Subscribe(shm.SubscribeOptions{})
	if err != nil {
		return err
	}
	defer s.Close()
	ctx := context.Background()
	e.ready()
	var begin, got uint64
	counted := 0
	read := func(b []byte) error {
		got += sum(b)
		return nil
	}
	for i := 0; i < e.total(); {
		if i >= e.warm && begin == 0 {
			begin, counted = ticks(), e.total()-i
		}
		if batched {
			n, err := s.ReceiveBatch(ctx, e.batch, read)
			if err != nil {
				return err
			}
			i += n
			continue
		}
		m, err := s.Receive(ctx)
		if err != nil {
			return err
		}
		got += sum(m.Bytes())
		if err := m.Done(); err != nil {
			return err
		}
		i++
	}
	return e.received(tally{begin, counted, got})
}

// topicFollow receives what it can of a topic that drops its oldest messages, until it is told to stop.
func topicFollow(e *end) error {
	r, t, err := e.topic(false)
	if err != nil {
		return err
	}
	defer r.Close()
	s, err := t.Subscribe(shm.SubscribeOptions{})
	if err != nil {
		return err
	}
	defer s.Close()
	ctx := e.stopped()
	e.ready()
	n, got := 0, uint64(0)
	for {
		m, err := s.Receive(ctx)
		var lost *shm.LostError
		switch {
		case errors.As(err, &lost):
			continue
		case errors.Is(err, context.Canceled):
			report(result{"followed": float64(n), "lost": float64(s.Lost()), "sum": float64(got)})
			return nil
		case err != nil:
			return err
		}
		v := sum(m.Bytes())
		if m.Done() == nil {
			n++
			got += v
		}
	}
}
