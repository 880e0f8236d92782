package main

import (
	"context"
	"errors"

	"github.com/shmd/shmd/pkg/shm"
)

func init() {
	roles["call-trip-client"] = callTripClient
	roles["call-trip-server"] = callTripServer
}

func callTripClient(e *end) error {
	r, err := e.attach([]string{e.channel}, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	c, err := r.Call(e.channel)
	if err != nil {
		return err
	}
	ctx, src, t, buf := context.Background(), newSource(e.size), e.trips(), make([]byte, 0, e.size)
	for i := range e.total() {
		t.begin()
		reply, err := c.Do(ctx, src.message(i), buf)
		if err != nil {
			return err
		}
		got := sum(reply)
		t.end()
		if got != src.sum(i) {
			return errSum(got, src.sum(i))
		}
	}
	report(t.result())
	return nil
}

func callTripServer(e *end) error {
	r, err := e.attach(nil, []string{e.channel})
	if err != nil {
		return err
	}
	defer r.Close()
	c, err := r.Call(e.channel)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e.ready()
	var i int
	var before, after int64
	err = c.Serve(ctx, func(request []byte, reply *shm.Answer) error {
		switch i++; i {
		case e.warm:
			before = sleeps()
		case e.total():
			after = sleeps()
			cancel() // Serve answers this one
		}
		return reply.SetLen(copy(reply.Room(), request))
	})
	if !errors.Is(err, context.Canceled) {
		return err
	}
	report(result{"sleeps_server": float64(after-before) / float64(e.count)})
	return nil
}
