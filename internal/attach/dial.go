package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// SilentAfter is how long Dial waits for the daemon's answer to a ping. A daemon that works answers in well under a
// millisecond.
const SilentAfter = 100 * time.Millisecond

// maxPath is the longest path of a socket, in bytes: the kernel's sun_path without its final NUL.
const maxPath = 107

// Dial connects to the socket of a daemon and pings it. Errors: ErrNoDaemon, ErrDeadSocket, ErrPermission, ErrNotShmd,
// ErrSilent if no answer came within SilentAfter, *VersionError, ctx.Err().
func Dial(ctx context.Context, path string) (*Conn, error) {
	silent := fmt.Errorf("%s: %w within %v: it is stopped, hung or just starting; see its log (journalctl -u shmd), or stop it through the memory (shmctl stop)",
		path, ErrSilent, SilentAfter)
	soon, cancel := context.WithTimeoutCause(ctx, SilentAfter, silent)
	defer cancel()
	return dial(soon, path, silent)
}

// DialWait is Dial that waits for the answer as long as the context allows: for a client that can wait while a daemon
// starts under socket activation. There is no ErrSilent.
func DialWait(ctx context.Context, path string) (*Conn, error) {
	return dial(ctx, path, nil)
}

// dial returns silent if the listener's backlog is full (nil: waits).
func dial(ctx context.Context, path string, silent error) (*Conn, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("%s: the path of a socket has at most %d bytes, this one has %d: use a shorter runtime directory", path, maxPath, len(path))
	}
	nc, err := connect(ctx, path, silent)
	if err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			<-ctx.Done() // the dialer looks at the clock itself, and may see the deadline before the context does
		}
		var errno syscall.Errno
		if cause := context.Cause(ctx); cause != nil && !errors.As(err, &errno) { // what the kernel said is the better answer
			return nil, cause
		}
		return nil, dialError(path, err)
	}
	c := NewConn(nc)
	c.hello, err = c.Call(ctx, Request{Op: OpPing})
	if err != nil {
		c.Close()
		switch {
		case errors.Is(err, ErrBadPacket), errors.Is(err, ErrTooLarge):
			return nil, fmt.Errorf("%s: %w: %w", path, ErrNotShmd, err)
		case errors.Is(err, ErrSilent): // names the path already
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// connect waits while the backlog of the listener is full: a Unix socket answers EAGAIN then and has no event for it.
func connect(ctx context.Context, path string, silent error) (*net.UnixConn, error) {
	var d net.Dialer
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		nc, err := d.DialContext(ctx, "unixpacket", path)
		if err == nil {
			return nc.(*net.UnixConn), nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		if silent != nil {
			return nil, silent
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		case <-t.C:
		}
	}
}

func dialError(path string, err error) error {
	switch {
	case errors.Is(err, ErrSilent):
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s: %w: start one (shmd -c FILE, or systemctl start shmd), or name another region (-r) or socket (-s)", path, ErrNoDaemon)
	case errors.Is(err, syscall.ECONNREFUSED):
		if st, serr := os.Stat(path); serr == nil && st.Mode()&fs.ModeSocket == 0 {
			return fmt.Errorf("%s: %w: it is no socket at all", path, ErrNotShmd)
		}
		return fmt.Errorf("%s: %w; start a new one (systemctl start shmd, or shmd -c FILE), it takes the place over", path, ErrDeadSocket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: be root, the daemon's user, or a member of the group that owns the directory", path, ErrPermission)
	case errors.Is(err, syscall.EPROTOTYPE):
		return fmt.Errorf("%s: %w: its socket is of another type", path, ErrNotShmd)
	}
	return fmt.Errorf("%s: %w", path, err)
}
