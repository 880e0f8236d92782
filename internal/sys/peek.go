package sys

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A Peeker reads what waits in a pipe and leaves it there. It is used by one goroutine at a time.
type Peeker struct{ r, w *os.File }

// NewPeeker makes a Peeker. Close it. An error of tee means that a system-call filter refuses that call, which is what a Peeker lives on.
func NewPeeker() (*Peeker, error) {
	r, w, err := Pipe()
	if err != nil {
		return nil, err
	}
	p := &Peeker{r, w}
	if err := p.try(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// try looks into an empty pipe.
func (p *Peeker) try() error {
	r, w, err := Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	_, err = p.Peek(r, make([]byte, 1))
	return err
}

// Peek reads into b from the beginning of what waits in f, a pipe's reading end. It never waits: 0 means that nothing is there, io.EOF that nothing will
// come any more either. It may give less than what waits, also if b has room: what it gives has a bound of its own. A pipe that nobody else reads gives at
// least as much the next time.
func (p *Peeker) Peek(f *os.File, b []byte) (n int, err error) {
	err = control(f, "tee", func(from int) error {
		return control(p.w, "tee", func(to int) error {
			m, err := unix.Tee(from, to, len(b), unix.SPLICE_F_NONBLOCK)
			n = int(m)
			return err
		})
	})
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, nil
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	if _, err = io.ReadFull(p.r, b[:n]); err != nil { // what is left in there would be taken for the next pipe's
		p.Close()
		if r, w, again := Pipe(); again == nil {
			p.r, p.w = r, w
		}
		return 0, err
	}
	return n, nil
}

// Close frees what a Peeker has.
func (p *Peeker) Close() error {
	p.w.Close()
	return p.r.Close()
}

// PipeSkip takes n bytes out of a pipe, which must be there, by way of b.
func PipeSkip(f *os.File, n int, b []byte) error {
	return control(f, "read", func(fd int) error {
		for n > 0 {
			k, err := unix.Read(fd, b[:min(n, len(b))])
			if err != nil {
				return err
			}
			if k == 0 {
				return io.ErrUnexpectedEOF
			}
			n -= k
		}
		return nil
	})
}

// PipeState tells how many bytes wait in a pipe, and whether nobody can write to it any more. If it is closed, there will be no more than the bytes.
func PipeState(f *os.File) (waiting int, closed bool, err error) {
	err = control(f, "ppoll", func(fd int) error {
		fds := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP comes unasked
		if _, err := unix.Ppoll(fds, &unix.Timespec{}, nil); err != nil {
			return err
		}
		closed = fds[0].Revents&unix.POLLHUP != 0
		return nil
	})
	if err == nil {
		waiting, err = PipePending(f)
	}
	return waiting, closed, err
}

// PipeFull reports whether a pipe has no room, so that whoever writes to it waits. Pages that are partly used make it so before its size in bytes is
// reached; only a writing end knows, so one is opened for a moment.
func PipeFull(f *os.File) (full bool, err error) {
	err = control(f, "open", func(fd int) error {
		w, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(w)
		fds := []unix.PollFd{{Fd: int32(w), Events: unix.POLLOUT}}
		if err := retry(func() error { _, err := unix.Ppoll(fds, &unix.Timespec{}, nil); return err }); err != nil {
			return err
		}
		full = fds[0].Revents&unix.POLLOUT == 0
		return nil
	})
	return full, err
}
