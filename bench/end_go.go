package main

import (
	"bufio"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Peers in Go: Unix stream sockets and pipes.

func init() {
	roles["unix-trip-client"] = func(e *end) error { return e.overUnix(streamTripClient) }
	roles["unix-trip-server"] = func(e *end) error { return e.overUnix(streamTripServer) }
	roles["unix-send"] = func(e *end) error { return e.overUnix(streamSend) }
	roles["unix-receive"] = func(e *end) error { return e.overUnix(streamReceive) }
	roles["pipe-trip-client"] = func(e *end) error { return e.overPipe(streamTripClient) }
	roles["pipe-trip-server"] = func(e *end) error { return e.overPipe(streamTripServer) }
	roles["pipe-send"] = func(e *end) error { return e.overPipe(streamSend) }
	roles["pipe-receive"] = func(e *end) error { return e.overPipe(streamReceive) }
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
	return e.received(tally{begin, e.count, got})
}
