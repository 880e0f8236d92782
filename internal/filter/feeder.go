package filter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

const (
	mostBatch = 64 << 10 // bytes that are written at once, unless one message is longer
	mostLeft  = 1024     // messages of ack = "written" that are leased and not written yet
)

// feeder leases messages and writes them to the filter as lines.
type feeder struct {
	*shim
	buf   []byte
	ends  []int        // where each message ends in buf
	limit int          // of messages in flight, for now
	held  *shm.Message // comes back from an earlier filter: it waits until none is in flight
}

// feed runs until ctx ends, the worker is asked to quit, or the filter reads no more; then it closes the filter's standard input.
// It leaves no message that is not in flight. Errors: errDeaf; those of receiving and writing.
func (s *shim) feed(ctx context.Context) error {
	f := &feeder{shim: s, limit: s.most()}
	err := f.run(ctx)
	if ferr := f.flush(); err == nil {
		err = ferr
	}
	if f.held != nil {
		f.held.Return() // no filter has seen it
	}
	s.stdin.Close()
	if errors.Is(err, shm.ErrQuit) || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

func (f *feeder) run(ctx context.Context) error {
	for {
		if f.full() {
			if err := f.flush(); err != nil {
				return err
			}
			if err := f.inFlight.room(ctx, f.limit); err != nil {
				return err
			}
		}
		m, err := f.next(ctx)
		if errors.Is(err, shm.ErrEmpty) {
			if err := f.flush(); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := f.put(m); err != nil {
			return err
		}
	}
}

// full reports whether the next message has to wait.
func (f *feeder) full() bool { return len(f.buf) >= mostBatch || f.inFlight.len() >= f.limit }

// next takes a message, and waits for one if nothing waits to be written. Errors: those of Receive and TryReceive.
func (f *feeder) next(ctx context.Context) (*shm.Message, error) {
	switch {
	case f.held != nil:
		m := f.held
		f.held = nil
		return m, nil
	case len(f.buf) == 0:
		return f.in.Receive(ctx)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return f.in.TryReceive()
}

// put takes a message into the batch.
func (f *feeder) put(m *shm.Message) error {
	p := m.Bytes()
	if i := bytes.IndexByte(p, f.o.Delimiter); i >= 0 {
		position := m.Position()
		if err := m.Reject(protocol.DeadReasonDelimiter); err != nil {
			m.Nack()
			return fmt.Errorf("message at position %d holds the delimiter: %w", position, err)
		}
		f.complain("the message at position %d of %q holds the delimiter %q at byte %d: it is a dead letter", position, f.in.Name(), f.o.Delimiter, i)
		return nil
	}
	if !f.o.Written {
		// What came back may be what ended a filter: alone, it harms nothing else.
		if m.Suspect() && f.inFlight.len() > 0 {
			f.held, f.limit = m, 1
			return nil
		}
		if f.limit = f.most(); m.Suspect() {
			f.limit = 1
		}
	}
	if err := f.inFlight.add(m, time.Now(), f.quiet); err != nil {
		m.Return() // no filter has seen it
		return err
	}
	if len(p) > mostBatch { // not copied
		if err := f.flush(); err != nil {
			return err
		}
		if _, err := f.write(p); err != nil {
			return err
		}
		p = nil
	}
	f.buf = append(append(f.buf, p...), f.o.Delimiter)
	f.ends = append(f.ends, len(f.buf))
	return nil
}

// flush writes the batch. With ack = "written" it acks what was written, also when it could not write all.
func (f *feeder) flush() error {
	if len(f.buf) == 0 {
		return nil
	}
	n, err := f.write(f.buf)
	if f.o.Written {
		for _, end := range f.ends {
			if end > n {
				break
			}
			if aerr := f.inFlight.take().Ack(); err == nil {
				err = aerr
			}
			f.answered()
		}
	}
	f.buf, f.ends = f.buf[:0], f.ends[:0]
	return err
}

// write hands bytes to the filter. Errors: errDeaf; os.ErrClosed when the shim is about to end.
func (f *feeder) write(p []byte) (int, error) {
	n, err := f.stdin.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		err = errDeaf
	}
	return n, err
}

// quiet finds a filter that has written a line that no message asked for. It is asked while none is in flight.
func (s *shim) quiet() error {
	if s.stdout == nil || s.o.Written {
		return nil
	}
	n, err := sys.PipePending(s.stdout)
	if err == nil && n > 0 {
		err = errExtra
	}
	return err
}
