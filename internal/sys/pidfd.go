package sys

import (
	"fmt"
	"os"
	"strconv"
	"strings"
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

// PidfdSignalGroup sends sig to the process group that the process leads or led, even after it has ended (Linux 6.9). EINVAL where the
// kernel does not know it, ESRCH if nobody is left in it.
func PidfdSignalGroup(f *os.File, sig syscall.Signal) error {
	return control(f, "pidfd_send_signal", func(fd int) error {
		return unix.PidfdSendSignal(fd, sig, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP)
	})
}

// ExitOf returns how a process has ended that is no child of this one: from /proc while nobody has reaped it, then from its pidfd
// (Linux 6.15). It is false if the kernel tells neither. pid and ticks are the process that the pidfd is of.
func ExitOf(f *os.File, pid int, ticks uint64) (e ExitInfo, known bool) {
	for range 2 { // it may be reaped between the two
		if e, known = pidfdExit(f); known {
			return e, known
		}
		if stat, err := procStat(pid); err == nil && len(stat) > exitCodeField-stateField && stat[0] == "Z" && stat[startTicksField-stateField] == strconv.FormatUint(ticks, 10) {
			if code, err := strconv.Atoi(stat[exitCodeField-stateField]); err == nil {
				return exitInfo(unix.WaitStatus(code)), true
			}
		}
	}
	return pidfdExit(f)
}

func pidfdExit(f *os.File) (e ExitInfo, known bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	err := control(f, "PIDFD_GET_INFO", func(fd int) error { return unix.IoctlPidfdInfo(fd, &info) })
	if err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return ExitInfo{}, false
	}
	return exitInfo(unix.WaitStatus(info.Exit_code)), true
}

func exitInfo(ws unix.WaitStatus) ExitInfo {
	if ws.Signaled() {
		return ExitInfo{Signal: ws.Signal(), Core: ws.CoreDump()}
	}
	return ExitInfo{Code: ws.ExitStatus()}
}

// PidfdPid returns the pid of the process that a pidfd is of, as this pid namespace knows it: -1 once it was reaped.
func PidfdPid(f *os.File) (pid int, err error) {
	var fd int
	if err := control(f, "pidfd", func(n int) error { fd = n; return nil }); err != nil {
		return 0, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, fmt.Errorf("descriptor %d: %w: no pidfd", fd, os.ErrInvalid)
}
