package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Peers in Go: Unix stream sockets, pipes, NATS over 127.0.0.1.

func init() {
	roles["unix-trip-client"] = func(e *end) error { return e.overUnix(streamTripClient) }
	roles["unix-trip-server"] = func(e *end) error { return e.overUnix(streamTripServer) }
	roles["unix-send"] = func(e *end) error { return e.overUnix(streamSend) }
	roles["unix-receive"] = func(e *end) error { return e.overUnix(streamReceive) }
	roles["pipe-trip-client"] = func(e *end) error { return e.overPipe(streamTripClient) }
	roles["pipe-trip-server"] = func(e *end) error { return e.overPipe(streamTripServer) }
	roles["pipe-send"] = func(e *end) error { return e.overPipe(streamSend) }
	roles["pipe-receive"] = func(e *end) error { return e.overPipe(streamReceive) }
	roles["nats-server"] = natsServer
	roles["nats-trip-client"] = natsTripClient
	roles["nats-trip-server"] = natsTripServer
	roles["nats-send"] = natsSend
	roles["nats-receive"] = natsReceive
}

// overUnix runs fn over a Unix stream socket. The first one of a measurement listens: servers and receivers.
func (e *end) overUnix(fn func(*end, io.ReadWriter) error) error {
	path := filepath.Join(e.dir, e.id+".sock")
	if e.listens() {
		l, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		defer l.Close()
		e.ready()
		c, err := l.Accept()
		if err != nil {
			return err
		}
		defer c.Close()
		return fn(e, c)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	return fn(e, c)
}

func (e *end) listens() bool {
	return strings.HasSuffix(e.role, "-server") || strings.HasSuffix(e.role, "-receive")
}

// overPipe runs fn over the pipes that the process inherited as descriptors 3 (to read) and 4 (to write).
func (e *end) overPipe(fn func(*end, io.ReadWriter) error) error {
	both := struct {
		io.Reader
		io.Writer
	}{os.NewFile(3, "in"), os.NewFile(4, "out")}
	if e.listens() {
		e.ready()
	}
	return fn(e, both)
}

func streamTripClient(e *end, c io.ReadWriter) error {
	src, t, b := newSource(e.size), e.trips(), make([]byte, e.size)
	for i := range e.total() {
		t.begin()
		if _, err := c.Write(src.message(i)); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		got := sum(b)
		t.end()
		if got != src.sum(i) {
			return errSum(got, src.sum(i))
		}
	}
	report(t.result())
	return nil
}

func streamTripServer(e *end, c io.ReadWriter) error {
	b := make([]byte, e.size)
	var before, after int64
	for i := range e.total() {
		if i == e.warm {
			before = sleeps()
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if i == e.total()-1 {
			after = sleeps()
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
	report(result{"sleeps_server": float64(after-before) / float64(e.count)})
	return nil
}

// streamSend writes each message by itself: it is receivable when Write returns.
func streamSend(e *end, c io.ReadWriter) error {
	src := newSource(e.size)
	for i := range e.total() {
		if _, err := c.Write(src.message(i)); err != nil {
			return err
		}
	}
	report(result{})
	return nil
}

func streamReceive(e *end, c io.ReadWriter) error {
	in, b := bufio.NewReaderSize(c, 64<<10), make([]byte, e.size)
	var begin, got uint64
	for i := range e.total() {
		if i == e.warm {
			begin = ticks()
		}
		if _, err := io.ReadFull(in, b); err != nil {
			return err
		}
		got += sum(b)
	}
	res := e.rate(begin, ticks(), e.count)
	if want := newSource(e.size).expected(e.total()); got != want {
		return errSum(got, want)
	}
	report(res)
	return nil
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
	res := e.rate(begin, ticks(), e.count)
	if want := newSource(e.size).expected(e.total()); got != want {
		return errSum(got, want)
	}
	report(res)
	return nil
}
