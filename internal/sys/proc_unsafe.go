package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// siginfo is siginfo_t as waitid fills it on 64-bit Linux.
type siginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	_                     [108]byte
}

var _ [128 - unsafe.Sizeof(siginfo{})]struct{}
var _ [unsafe.Sizeof(siginfo{}) - 128]struct{}

// peekChild returns the pid of a child that has ended and leaves it to be reaped; 0 if
// there is none.
func peekChild() int {
	var info siginfo
	for {
		_, _, e := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, 0, 0)
		switch e {
		case 0:
			return int(info.pid) // 0 if none has ended
		case unix.EINTR:
		default:
			return 0 // ECHILD
		}
	}
}

// StoppedChild takes one piece of news of a child that a signal has stopped, or made go on; ok is false if there is none. Of each child only the
// last is kept. SIGCHLD comes with it.
func StoppedChild() (pid int, stopped, ok bool) {
	var info siginfo
	for {
		_, _, e := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)),
			unix.WSTOPPED|unix.WCONTINUED|unix.WNOHANG|unix.WALL, 0, 0)
		switch e {
		case 0:
			return int(info.pid), info.code == cldStopped, info.pid != 0
		case unix.EINTR:
		default:
			return 0, false, false // ECHILD
		}
	}
}

const cldStopped = 5 // CLD_STOPPED, of asm-generic/siginfo.h
