package sys

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

var (
	// ErrAgain: the futex word did not hold the expected value, so there was nothing
	// to wait for. Load it again.
	ErrAgain = errors.New("futex word has another value")

	// ErrTimedOut: the timeout passed first.
	ErrTimedOut = errors.New("timed out")

	// ErrClosed: the Hub or Epoll was closed, or the memory waited on is about to be
	// unmapped. It is os.ErrClosed, which closed files answer too.
	ErrClosed = os.ErrClosed

	// ErrNoSys: this kernel (or its seccomp filter) does not have the call. It wraps
	// errors.ErrUnsupported.
	ErrNoSys = fmt.Errorf("not offered by this kernel: %w", errors.ErrUnsupported)
)

// fail names the call that failed, unless that is done; nil stays nil.
func fail(call string, err error) error {
	if err == nil {
		return nil
	}
	if _, named := err.(*os.SyscallError); named {
		return err
	}
	return os.NewSyscallError(call, err)
}

// retry repeats fn as long as a signal interrupts it.
func retry(fn func() error) error {
	for {
		if err := fn(); err != syscall.EINTR {
			return err
		}
	}
}

// control runs fn on f's descriptor, with EINTR repeated and f held open meanwhile
// (os.ErrClosed if it is closed already), and names the call in what fn returns. It
// leaves the descriptor's blocking mode alone.
func control(f *os.File, call string, fn func(fd int) error) error {
	if f == nil {
		return fail(call, syscall.EBADF)
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return fail(call, err)
	}
	var inner error
	if err := rc.Control(func(fd uintptr) {
		inner = retry(func() error { return fn(int(fd)) })
	}); err != nil {
		// The poller's error for a closed file is not os.ErrClosed.
		return fail(call, ErrClosed)
	}
	return fail(call, inner)
}

// errnoIs tells whether err comes from exactly this errno.
func errnoIs(err error, e syscall.Errno) bool {
	var got syscall.Errno
	return errors.As(err, &got) && got == e
}
