package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

func init() {
	roles["grow-channels"] = growChannels
	roles["grow-waiters"] = growWaiters
}

// growChannels attaches with e.peers channels, c0, c1, …, and sends itself messages over the one in the middle.
func growChannels(e *end) error {
	var names []string
	for i := range e.peers {
		names = append(names, fmt.Sprint("c", i))
	}
	begin := time.Now()
	r, err := e.attach(names, names)
	if err != nil {
		return err
	}
	defer r.Close()
	attached := time.Since(begin)
	q, err := r.Queue(names[len(names)/2])
	if err != nil {
		return err
	}
	ctx, src := context.Background(), newSource(e.size)
	t := e.trips()
	for i := range e.total() {
		if err := q.Send(ctx, src.message(i)); err != nil {
			return err
		}
		m, err := q.Receive(ctx)
		if err != nil {
			return err
		}
		got := sum(m.Bytes())
		if err := m.Ack(); err != nil {
			return err
		}
		t.end()
		if got != src.sum(i) {
			return errSum(got, src.sum(i))
		}
	}
	res := t.result()
	res["attach_ms"] = float64(attached.Microseconds()) / 1e3
	report(res)
	return nil
}

// growWaiters has e.peers goroutines wait for messages, and takes the time from a send to one of them having it.
func growWaiters(e *end) error {
	r, err := e.attach([]string{e.channel}, []string{e.channel})
	if err != nil {
		return err
	}
	defer r.Close()
	q, err := r.Queue(e.channel)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	src := newSource(e.size)
	type got struct {
		at  uint64
		err error
	}
	arrived := make(chan got, e.peers)
	for range e.peers {
		go func() {
			for {
				m, err := q.Receive(ctx)
				at := ticks()
				if ctx.Err() != nil {
					return
				}
				if err == nil {
					err = m.Ack()
				}
				arrived <- got{at, err}
			}
		}()
	}
	defer cancel()
	var times []float64
	for i := range e.total() {
		time.Sleep(e.pace) // the waiters sleep again
		begin := ticks()
		if err := q.Send(ctx, src.message(i)); err != nil {
			return err
		}
		g := <-arrived
		if g.err != nil {
			return g.err
		}
		if i >= e.warm {
			times = append(times, float64(g.at-begin)*e.tick)
		}
	}
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	res := result{"p50": median(times), "p99": slices.Max(times)}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "Threads:"); ok {
			var v float64
			fmt.Sscan(n, &v)
			res["threads"] = v
		}
	}
	report(res)
	return nil
}
