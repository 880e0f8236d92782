package sys

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// PidfdOpen returns a descriptor of the process, which stays that process's own: it
// cannot come to mean another one that gets the same number. ESRCH if there is no such
// process. Unless pid is a child that only this program reaps, the number may have
// changed hands before the call: compare StartTicks afterwards.
func PidfdOpen(pid int) (*os.File, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.PidfdOpen(pid, 0)
		return err
	})
	if err != nil {
		return nil, fail("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// PidfdSignal sends sig (0: only checks that it could) to exactly that process. ESRCH
// if it has ended.
func PidfdSignal(f *os.File, sig syscall.Signal) error {
	return control(f, "pidfd_send_signal", func(fd int) error {
		return unix.PidfdSendSignal(fd, sig, nil, 0)
	})
}

// PidfdReadable tells whether the process has ended, all its threads with it, reaped
// or not. It does not wait.
func PidfdReadable(f *os.File) (bool, error) {
	ready, err := PollReadable([]*os.File{f}, 0)
	return err == nil && ready[0], err
}

// PollReadable waits until one of the files can be read, has ended or is in error, at
// most timeout (negative: without end), and tells which. After a timeout all are false
// and the error is nil. It holds a thread while it waits; a file that is closed
// meanwhile stays open underneath until it returns.
func PollReadable(fs []*os.File, timeout time.Duration) ([]bool, error) {
	ready := make([]bool, len(fs))
	fds := make([]unix.PollFd, len(fs))
	var end int64
	if timeout >= 0 {
		end = MonotonicNs() + int64(timeout)
	}
	poll := func() error {
		for {
			var ts *unix.Timespec
			if timeout >= 0 {
				t := unix.NsecToTimespec(max(end-MonotonicNs(), 0))
				ts = &t
			}
			n, err := unix.Ppoll(fds, ts, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return fail("ppoll", err)
			}
			for i := range fds {
				ready[i] = n > 0 && fds[i].Revents != 0
			}
			return nil
		}
	}
	// Hold all descriptors, one inside the other, while the innermost polls.
	var hold func(i int) error
	hold = func(i int) error {
		if i == len(fs) {
			return poll()
		}
		rc, err := fs[i].SyscallConn()
		if err != nil {
			return fail("ppoll", err)
		}
		var inner error
		if err := rc.Control(func(fd uintptr) {
			fds[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
			inner = hold(i + 1)
		}); err != nil {
			return fail("ppoll", ErrClosed)
		}
		return inner
	}
	if err := hold(0); err != nil {
		return nil, err
	}
	return ready, nil
}
