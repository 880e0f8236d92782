package sys

import (
	"math"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// closeToken marks the Epoll's own eventfd.
const closeToken = math.MaxUint64

// An Epoll waits on many files with one thread. It is level-triggered: what stays
// readable is reported again by every Wait.
type Epoll struct {
	ep   *os.File
	bell *os.File // eventfd, written once by Close and never read: it wakes every Wait

	mu      sync.Mutex
	closed  bool
	waiters sync.WaitGroup // Waits under way; no Add after closed
}

// NewEpoll makes an empty Epoll. Close it.
func NewEpoll() (*Epoll, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fail("epoll_create1", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(ep)
		return nil, fail("eventfd", err)
	}
	e := &Epoll{ep: os.NewFile(uintptr(ep), "epoll"), bell: os.NewFile(uintptr(bell), "eventfd")}
	if err := e.ctl(unix.EPOLL_CTL_ADD, e.bell, closeToken); err != nil {
		e.ep.Close()
		e.bell.Close()
		return nil, err
	}
	return e, nil
}

// Add watches f until Remove; Wait reports it as token (any number but the greatest
// uint64: EINVAL). EEXIST if it is watched already, EPERM for a file that is always
// readable. The kernel watches the open file, not the number: Remove f before it is
// closed, or a duplicate of it in any process keeps the watch alive. For a pidfd a
// dead process means readable.
func (e *Epoll) Add(f *os.File, token uint64) error {
	if token == closeToken {
		return fail("epoll_ctl", unix.EINVAL)
	}
	return e.ctl(unix.EPOLL_CTL_ADD, f, token)
}

// Remove ends the watch of f; ENOENT if there is none. A Wait that runs at the same
// time may still report it.
func (e *Epoll) Remove(f *os.File) error {
	return e.ctl(unix.EPOLL_CTL_DEL, f, 0)
}

func (e *Epoll) ctl(op int, f *os.File, token uint64) error {
	return control(e.ep, "epoll_ctl", func(ep int) error {
		return control(f, "epoll_ctl", func(fd int) error {
			// The token lies in the 64 bits that x/sys calls Fd and Pad.
			ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}
			return unix.EpollCtl(ep, op, fd, &ev)
		})
	})
}

// Wait returns the tokens of the files that can be read, have ended or are in error
// (at most 64 at a time), waiting at most timeout for the first (negative: without
// end; rounded up to a millisecond). After a timeout there are no tokens and the error is nil.
// ErrClosed after Close, also when the Wait was under way. It holds a thread.
func (e *Epoll) Wait(timeout time.Duration) ([]uint64, error) {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil, ErrClosed
	}
	e.waiters.Add(1)
	e.mu.Unlock()
	defer e.waiters.Done()

	var end int64
	if timeout >= 0 {
		end = MonotonicNs() + int64(timeout)
	}
	var evs [64]unix.EpollEvent
	var n int
	if err := control(e.ep, "epoll_wait", func(ep int) (err error) {
		ms := -1
		if timeout >= 0 {
			left := time.Duration(max(end-MonotonicNs(), 0))
			ms = int(min((left+time.Millisecond-1)/time.Millisecond, math.MaxInt32))
		}
		n, err = unix.EpollWait(ep, evs[:], ms)
		return err
	}); err != nil {
		return nil, err
	}
	var tokens []uint64
	for _, ev := range evs[:n] {
		token := uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
		if token == closeToken {
			return nil, ErrClosed
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// Close wakes every Wait and returns when they have ended. It closes none of the
// watched files. A second Close returns ErrClosed.
func (e *Epoll) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return ErrClosed
	}
	e.closed = true
	e.mu.Unlock()
	if _, err := e.bell.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return err // cannot happen: the counter is 0
	}
	e.waiters.Wait()
	err := e.ep.Close()
	if err2 := e.bell.Close(); err == nil {
		err = err2
	}
	return err
}
