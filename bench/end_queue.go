package main

import (
	"context"
	"errors"
	"sync/atomic"
)

func init() {
	roles["queue-send"] = queueSend
	roles["queue-receive"] = queueReceive
	roles["queue-produce"] = queueProduce
	roles["queue-consume"] = queueConsume
	roles["queue-wait"] = queueWait
}

// queueSend sends copies, one at a time.
func queueSend(e *end) error {
	r, q, err := e.queue(true)
	if err != nil {
		return err
	}
	defer r.Close()
	ctx, src := context.Background(), newSource(e.size)
	var begin int64
	for i := range e.total() {
		if i == e.warm {
			begin = cpuNs()
		}
		if err := q.Send(ctx, src.message(i)); err != nil {
			return err
		}
	}
	report(result{"cpu_ns": float64(cpuNs()-begin) / float64(e.count)})
	return nil
}

// queueReceive receives in place, one at a time.
func queueReceive(e *end) error {
	r, q, err := e.queue(false)
	if err != nil {
		return err
	}
	defer r.Close()
	ctx := context.Background()
	e.ready()
	var begin, got uint64
	for i := range e.total() {
		if i == e.warm {
			begin = ticks()
		}
		m, err := q.Receive(ctx)
		if err != nil {
			return err
		}
		got += sum(m.Bytes())
		if err := m.Ack(); err != nil {
			return err
		}
	}
	return e.received(tally{begin, e.count, got})
}

// queueProduce is one of several producers: it sends from "go" to "stop".
func queueProduce(e *end) error {
	r, q, err := e.queue(true)
	if err != nil {
		return err
	}
	defer r.Close()
	src := newSource(e.size)
	e.ready()
	if err := e.wait(); err != nil {
		return err
	}
	ctx := e.stopped()
	var stop atomic.Bool
	context.AfterFunc(ctx, func() { stop.Store(true) })
	n := 0
	for ; !stop.Load(); n++ {
		if err := q.Send(ctx, src.message(n)); errors.Is(err, context.Canceled) {
			break
		} else if err != nil {
			return err
		}
	}
	report(result{"sent": float64(n)})
	return nil
}

// queueConsume is one of several consumers: it counts what it gets between "go" and "stop".
func queueConsume(e *end) error {
	r, q, err := e.queue(false)
	if err != nil {
		return err
	}
	defer r.Close()
	e.ready()
	if err := e.wait(); err != nil {
		return err
	}
	ctx := e.stopped()
	var n int
	var got uint64
	for {
		m, err := q.Receive(ctx)
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			return err
		}
		got += sum(m.Bytes())
		n++
		if err := m.Ack(); err != nil {
			return err
		}
	}
	report(result{"received": float64(n), "sum": float64(got)})
	return nil
}

// queueWait waits for a message that does not come.
func queueWait(e *end) error {
	r, q, err := e.queue(false)
	if err != nil {
		return err
	}
	defer r.Close()
	ctx := e.stopped()
	e.ready()
	if _, err := q.Receive(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	report(result{})
	return nil
}
