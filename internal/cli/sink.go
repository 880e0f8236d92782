package cli

import "os"

// sink collects output and writes it in large blocks. A delivery is acked when all of it is written; what cannot be written is given
// back.
type sink struct {
	out  *os.File
	buf  []byte
	held []delivery
	most int // deliveries that may be held
	err  error
}

// writeSize is the size of a block: as much as a pipe takes.
const writeSize = 64 << 10

func newSink(out *os.File, slots int) *sink {
	// A quarter of the slots: the others are for who sends meanwhile.
	return &sink{out: out, buf: make([]byte, 0, 2*writeSize), most: max(slots/4, 1)}
}

// add prints b and then end. After an error, which hold and flush return, it does nothing.
func (s *sink) add(b []byte, end string) {
	if len(b) >= writeSize { // in place, without a copy
		s.spill()
		s.write(b)
	} else {
		s.buf = append(s.buf, b...)
	}
	s.buf = append(s.buf, end...)
	if len(s.buf) >= writeSize {
		s.spill()
	}
}

// hold takes over a delivery all of which was added.
func (s *sink) hold(d delivery) error {
	s.held = append(s.held, d)
	if len(s.buf) == 0 || len(s.held) >= s.most || s.err != nil {
		return s.flush()
	}
	return nil
}

func (s *sink) spill() {
	s.write(s.buf)
	s.buf = s.buf[:0]
}

func (s *sink) write(b []byte) {
	if s.err == nil && len(b) > 0 {
		_, s.err = s.out.Write(b)
	}
}

// flush writes what was collected, and acks it. After an error, which it returns again, it gives back what it holds.
func (s *sink) flush() error {
	s.spill()
	for _, d := range s.held {
		if s.err != nil {
			d.Nack() // ErrLost: a repair took it, which gave it back as well
			continue
		}
		d.Ack() // ErrLost: another consumer has it too: at least once
	}
	clear(s.held)
	s.held = s.held[:0]
	return s.err
}
