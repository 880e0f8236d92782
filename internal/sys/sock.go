package sys

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// MaxRights is the most descriptors that one packet carries (SCM_MAX_FD).
const MaxRights = 253

// PeerCred returns who connected the socket, as of then (SO_PEERCRED). A pid of 0: the
// peer is in another pid namespace.
func PeerCred(c *net.UnixConn) (pid int, uid, gid uint32, err error) {
	var u *unix.Ucred
	err = connControl(c, "getsockopt SO_PEERCRED", func(fd int) (err error) {
		u, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		return err
	})
	if err != nil {
		return 0, 0, 0, err
	}
	return int(u.Pid), u.Uid, u.Gid, nil
}

// PeerPidfd returns a pidfd of the process that connected the socket (SO_PEERPIDFD,
// Linux 6.5), which no reuse of the pid can mislead. ErrNoSys where the kernel has none.
// ESRCH, EINVAL or ENODATA (by kernel version) if the peer has ended and been reaped.
func PeerPidfd(c *net.UnixConn) (*os.File, error) {
	var pidfd int
	err := connControl(c, "getsockopt SO_PEERPIDFD", func(fd int) (err error) {
		pidfd, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		return err
	})
	if errnoIs(err, unix.ENOPROTOOPT) {
		return nil, ErrNoSys
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(pidfd), "pidfd"), nil
}

// ListenUnix listens at a path with a socket of type "unixpacket". On an error there is no file at the path that was not there before.
// The close of the listener removes it. What net.ListenUnix does beside that can fail and then leaves the file, or panics
// (getsockname).
func ListenUnix(path string) (*net.UnixListener, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fail("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // the listener has a descriptor of its own
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, fail("bind", err)
	}
	l, err := listener(f, fd)
	if err != nil {
		os.Remove(path)
		return nil, err
	}
	l.SetUnlinkOnClose(true)
	return l, nil
}

// backlog is as many connections as the kernel lets wait (net.core.somaxconn): it takes the lesser.
const backlog = 1<<16 - 1

func listener(f *os.File, fd int) (*net.UnixListener, error) {
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, fail("listen", err)
	}
	l, err := net.FileListener(f)
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err // beside it there is only the path
	}
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

// Retire closes a listener whose place another one takes: it refuses who comes from now on, and returns who is connected and was not accepted yet.
func Retire(l *net.UnixListener) (waiting []*net.UnixConn) {
	defer l.Close()
	l.SetUnlinkOnClose(false) // the name may be the other one's
	rc, err := l.SyscallConn()
	if err != nil {
		return nil
	}
	rc.Control(func(fd uintptr) {
		unix.Shutdown(int(fd), unix.SHUT_RD)
		for {
			n, _, err := unix.Accept4(int(fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
				continue
			}
			if err != nil {
				return
			}
			f := os.NewFile(uintptr(n), "connection")
			c, err := net.FileConn(f)
			f.Close() // the connection has a descriptor of its own
			if err == nil {
				waiting = append(waiting, c.(*net.UnixConn))
			}
		}
	})
	return waiting
}

func connControl(c *net.UnixConn, call string, fn func(fd int) error) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return fail(call, err)
	}
	var inner error
	if err := rc.Control(func(fd uintptr) {
		inner = retry(func() error { return fn(int(fd)) })
	}); err != nil {
		return fail(call, err)
	}
	return fail(call, inner)
}

// Rights makes the control message (SCM_RIGHTS) that carries descriptors in
// UnixConn.WriteMsgUnix, at most MaxRights of them. The sender keeps its own. Without
// descriptors it is nil.
func Rights(fds ...int) []byte {
	if len(fds) == 0 {
		return nil
	}
	return unix.UnixRights(fds...)
}

// RightsSpace is the size in bytes of the buffer that receives n descriptors. In a
// smaller one the kernel drops what does not fit and sets MSG_CTRUNC.
func RightsSpace(n int) int {
	return unix.CmsgSpace(4 * n)
}

// RightsTruncated tells from the flags of ReadMsgUnix whether descriptors were dropped
// for want of space, or because this process has no free descriptor numbers.
func RightsTruncated(flags int) bool { return flags&unix.MSG_CTRUNC != 0 }

// ParseRights takes the descriptors out of the control messages that ReadMsgUnix
// received, in the order of sending, close-on-exec, and owned by the caller. On an error
// all of them are closed. Other kinds of control message are passed over.
func ParseRights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fail("control message", err)
	}
	var fds []int
	for i := range msgs {
		if msgs[i].Header.Level != unix.SOL_SOCKET || msgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		some, perr := unix.ParseUnixRights(&msgs[i])
		if perr != nil {
			err = fail("control message", perr)
			continue
		}
		fds = append(fds, some...)
	}
	for _, fd := range fds {
		if e := SetCloexec(fd); e != nil && err == nil { // net asks for it already; a raw recvmsg may not
			err = e
		}
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, err
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), "received")
	}
	return files, nil
}

// SendDatagram sends one packet with descriptors to the datagram socket at path (a
// leading @ means the abstract namespace), as NOTIFY_SOCKET wants it: net cannot send
// descriptors on a connected one. It blocks while the receiver's queue is full.
func SendDatagram(path string, payload []byte, fs ...*os.File) error {
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail("socket", err)
	}
	defer unix.Close(sock)
	fds := make([]int, 0, len(fs))
	// Hold every file open, one inside the other, while the innermost sends.
	var hold func(i int) error
	hold = func(i int) error {
		if i == len(fs) {
			return unix.Sendmsg(sock, payload, Rights(fds...), &unix.SockaddrUnix{Name: path}, unix.MSG_NOSIGNAL)
		}
		return control(fs[i], "sendmsg", func(fd int) error {
			fds = append(fds[:i], fd)
			return hold(i + 1)
		})
	}
	if err := retry(func() error { return hold(0) }); err != nil {
		return &os.PathError{Op: "sendmsg", Path: path, Err: err}
	}
	return nil
}

// Flock takes the exclusive lock of the open file behind f, without waiting; false if
// somebody holds it. It is let go when the last descriptor of that open file is closed,
// in whatever process: the kernel does it for a dead one.
func Flock(f *os.File) (bool, error) {
	err := control(f, "flock", func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errnoIs(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}
