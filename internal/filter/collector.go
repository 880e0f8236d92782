package filter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// collector reads lines from the filter and commits them.
type collector struct {
	*shim
	conn  syscall.RawConn
	buf   []byte
	whole [][]byte // space for the lines of the buffer
	used  int      // bytes of buf that are not done with
	long  bool     // what is being read is a line longer than a slot: its beginning was dropped
	drain bool     // the filter has ended: nothing more comes into the pipe
}

// firstBuffer is the collector's buffer to begin with; it grows up to a line as long as a slot.
const firstBuffer = 64 << 10

// collect runs until the filter closes its standard output, or has ended and what it wrote is read. ctx bounds the waiting for room
// in the channel once the worker was asked to quit. It leaves an unfinished line at the end to the caller, which knows how the
// filter ended. Errors: errExtra; those of sending and acking.
func (s *shim) collect(ctx context.Context) (rest []byte, err error) {
	c := &collector{shim: s, buf: make([]byte, firstBuffer)}
	if c.conn, err = s.stdout.SyscallConn(); err != nil {
		return nil, err
	}
	for {
		n, asked, err := c.read()
		if errors.Is(err, io.EOF) {
			return c.buf[:c.used], nil
		}
		if err != nil {
			return nil, err
		}
		c.used += n
		if err := c.lines(ctx, asked); err != nil {
			return nil, err
		}
	}
}

// read reads what there is, and waits for something. asked is how many messages were in flight at that moment. Errors: io.EOF.
func (c *collector) read() (n, asked int, err error) {
	for {
		rerr := c.conn.Read(func(fd uintptr) bool {
			c.inFlight.mu.Lock() // so that what is read answers what is in flight, or nothing
			defer c.inFlight.mu.Unlock()
			for {
				n, err = syscall.Read(int(fd), c.buf[c.used:])
				if err != syscall.EINTR {
					break
				}
			}
			asked = int(c.inFlight.next - c.inFlight.first)
			return err != syscall.EAGAIN || c.drain
		})
		switch {
		case errors.Is(rerr, os.ErrDeadlineExceeded): // the filter has ended
			c.drain = true
			c.stdout.SetReadDeadline(time.Time{})
			continue
		case rerr != nil:
			return 0, 0, fmt.Errorf("read from the filter: %w", rerr)
		case err == syscall.EAGAIN, err == nil && n == 0:
			return 0, asked, io.EOF
		case err != nil:
			return 0, 0, fmt.Errorf("read from the filter: %w", err)
		}
		return n, asked, nil
	}
}

// lines commits the whole lines of the buffer and keeps the rest.
func (c *collector) lines(ctx context.Context, asked int) error {
	p := c.buf[:c.used]
	if !c.o.Written && c.in != nil {
		count := bytes.Count(p, []byte{c.o.Delimiter})
		if len(p) > 0 && p[len(p)-1] != c.o.Delimiter {
			count++ // a line has begun
		}
		if count > asked {
			return errExtra
		}
	}
	whole := c.whole[:0]
	for {
		i := bytes.IndexByte(p, c.o.Delimiter)
		if i < 0 {
			break
		}
		line := p[:i]
		p = p[i+1:]
		if !c.long && len(line) <= c.out.SlotSize() {
			whole = append(whole, line)
			continue
		}
		c.long = false
		if err := c.answer(ctx, whole); err != nil {
			return err
		}
		whole = whole[:0]
		if err := c.tooLong(); err != nil {
			return err
		}
	}
	err := c.answer(ctx, whole)
	clear(whole)
	c.whole = whole
	notify(c.inFlight.left)
	if err != nil {
		return err
	}
	if c.long || len(p) > c.out.SlotSize() {
		c.long = true
		p = nil
	}
	if len(p) > len(c.buf)/2 && len(c.buf) <= c.out.SlotSize() { // it may become longer than the buffer
		grown := make([]byte, min(2*len(c.buf), c.out.SlotSize()+1))
		copy(grown, p)
		c.buf, c.used = grown, len(p)
		return nil
	}
	c.used = copy(c.buf, p)
	return nil
}

// answer commits lines, as many as fit into a slot at once, and then acks the messages that they answer.
func (s *shim) answer(ctx context.Context, lines [][]byte) error {
	for len(lines) > 0 {
		n, err := s.send(ctx, lines)
		if s.in != nil && !s.o.Written {
			for range n {
				m := s.inFlight.take()
				s.answered()
				if aerr := m.Ack(); aerr != nil && err == nil {
					err = fmt.Errorf("ack: %w", aerr)
				}
			}
		}
		if err != nil {
			return fmt.Errorf("commit a line to %q: %w", s.out.Name(), err)
		}
		lines = lines[n:]
	}
	return nil
}

// send commits lines, and returns how many it has committed, one at least without an error. Once the worker was asked to quit the
// library waits no more, so it looks again and again until ctx ends.
func (s *shim) send(ctx context.Context, lines [][]byte) (n int, err error) {
	s.sending.Store(true)
	defer s.sending.Store(false)
	if len(lines) > 1 {
		if n, err = s.out.SendBatch(ctx, lines[:min(len(lines), shm.MaxBatch)]); n > 0 && errors.Is(err, shm.ErrQuit) {
			err = nil
		}
	} else if err = s.out.Send(ctx, lines[0]); err == nil {
		n = 1
	}
	for errors.Is(err, shm.ErrQuit) {
		if err = s.out.TrySend(lines[0]); err == nil {
			return 1, nil
		}
		if !errors.Is(err, shm.ErrFull) {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(retry):
			err = shm.ErrQuit
		}
	}
	return n, err
}

// retry is how often send looks for room.
const retry = 2 * time.Millisecond

// tooLong is called for a line that no slot of the channel holds. The message that it answers is a dead letter: the filter would
// answer it the same again.
func (s *shim) tooLong() error {
	if s.o.Written || s.in == nil {
		s.complain("a line is longer than the %d bytes of a slot of %q: it was dropped; raise its slot_size", s.out.SlotSize(), s.out.Name())
		return nil
	}
	m := s.inFlight.take()
	s.answered()
	s.complain("the answer to the message at position %d of %q is longer than the %d bytes of a slot of %q: the message is a dead letter; raise slot_size of %q",
		m.Position(), s.in.Name(), s.out.SlotSize(), s.out.Name(), s.out.Name())
	return m.Reject(protocol.DeadReasonAnswer)
}
