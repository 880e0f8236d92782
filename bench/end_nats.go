//go:build !slim

package main

import (
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// NATS over 127.0.0.1. The server's packages run goroutines of their own in every program that holds them, so the ends of shmd are built without (tag
// slim).

func init() {
	roles["nats-server"] = natsServer
	roles["nats-trip-client"] = natsTripClient
	roles["nats-trip-server"] = natsTripServer
	roles["nats-send"] = natsSend
	roles["nats-receive"] = natsReceive
}

// natsServer is the broker, a process of its own; it prints its address and runs until standard input ends.
func natsServer(e *end) error {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, MaxPayload: 8 << 20})
	if err != nil {
		return err
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return fmt.Errorf("nats: the server is not ready after 10 s")
	}
	fmt.Println(s.ClientURL())
	e.wait()
	s.Shutdown()
	return nil
}

func (e *end) nats(subject string) (*nats.Conn, *nats.Subscription, error) {
	c, err := nats.Connect(e.addr)
	if err != nil {
		return nil, nil, err
	}
	if subject == "" {
		return c, nil, nil
	}
	s, err := c.SubscribeSync(e.id + "." + subject)
	if err != nil {
		return nil, nil, err
	}
	s.SetPendingLimits(-1, -1)
	return c, s, c.Flush()
}

const natsPatience = 30 * time.Second

func natsTripClient(e *end) error {
	c, in, err := e.nats("back")
	if err != nil {
		return err
	}
	defer c.Close()
	src, t := newSource(e.size), e.trips()
	for i := range e.total() {
		t.begin()
		if err := c.Publish(e.id+".there", src.message(i)); err != nil {
			return err
		}
		m, err := in.NextMsg(natsPatience)
		if err != nil {
			return err
		}
		got := sum(m.Data)
		t.end()
		if got != src.sum(i) {
			return errSum(got, src.sum(i))
		}
	}
	report(t.result())
	return nil
}

func natsTripServer(e *end) error {
	c, in, err := e.nats("there")
	if err != nil {
		return err
	}
	defer c.Close()
	e.ready()
	var before, after int64
	for i := range e.total() {
		if i == e.warm {
			before = sleeps()
		}
		m, err := in.NextMsg(natsPatience)
		if err != nil {
			return err
		}
		if i == e.total()-1 {
			after = sleeps()
		}
		if err := c.Publish(e.id+".back", m.Data); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return err
	}
	report(result{"sleeps_server": float64(after-before) / float64(e.count)})
	return nil
}

// natsSend publishes; the client library gathers messages, so this is a batched figure whatever the caller does. Every now and then it lets
// the server catch up, which would else drop a slow consumer.
func natsSend(e *end) error {
	c, _, err := e.nats("")
	if err != nil {
		return err
	}
	defer c.Close()
	src := newSource(e.size)
	each := max(1, min(4096, 4<<20/e.size))
	for i := range e.total() {
		if err := c.Publish(e.id+".there", src.message(i)); err != nil {
			return err
		}
		if i%each == each-1 {
			if err := c.Flush(); err != nil {
				return err
			}
		}
	}
	if err := c.Flush(); err != nil {
		return err
	}
	report(result{})
	return nil
}

func natsReceive(e *end) error {
	c, in, err := e.nats("there")
	if err != nil {
		return err
	}
	defer c.Close()
	e.ready()
	var begin, got uint64
	for i := range e.total() {
		if i == e.warm {
			begin = ticks()
		}
		m, err := in.NextMsg(natsPatience)
		if err != nil {
			return err
		}
		got += sum(m.Data)
	}
	return e.received(tally{begin, e.count, got})
}
