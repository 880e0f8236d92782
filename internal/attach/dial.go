package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/unit"
)

// How long Dial waits for the daemon's answer to a ping. A daemon that works answers in well under a millisecond, if it gets a processor.
const (
	SilentAfter = 100 * time.Millisecond // of one whose process is stopped, or gone: it cannot answer
	BusyAfter   = time.Second            // of any other
)

// maxPath is the longest path of a socket, in bytes: the kernel's sun_path without its final NUL.
const maxPath = 107

// Dial connects to the socket of a daemon and pings it. Errors: ErrNoDaemon, ErrDeadSocket, ErrPermission, ErrNotShmd,
// *SilentError if no answer came within SilentAfter or BusyAfter, *VersionError, ctx.Err().
func Dial(ctx context.Context, path string) (*Conn, error) { return dial(ctx, path, true) }

// DialWait is Dial that waits for the answer as long as the context allows: for a client that can wait while a daemon
// starts under socket activation. There is no ErrSilent.
func DialWait(ctx context.Context, path string) (*Conn, error) {
	return dial(ctx, path, false)
}

// dial is Dial, if impatient, or DialWait.
func dial(ctx context.Context, path string, impatient bool) (*Conn, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("%s: the path of a socket has at most %d bytes, this one has %d: use a shorter runtime directory", path, maxPath, len(path))
	}
	nc, err := connect(ctx, path, impatient)
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
	if impatient {
		var cancel func()
		ctx, cancel = patience(ctx, path, nc)
		defer cancel()
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
		return nil, Ended(path, err)
	}
	return c, nil
}

// Ended names the socket in an error of a conversation that attaches; of ErrHungUp it makes ErrDeadSocket, too: the daemon died, or has stopped its region, meanwhile.
func Ended(path string, err error) error {
	if errors.Is(err, ErrHungUp) {
		return fmt.Errorf("%s: %w (%w): try again, the next one takes the place over; if none comes, start it (%s)", path, ErrDeadSocket, err, unit.Start(regionOf(path)))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// patience ends the context with a *SilentError when the daemon at the other end has had its time to answer.
func patience(ctx context.Context, path string, nc *net.UnixConn) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	pid, _, _, _ := sys.PeerCred(nc) // who listens: the daemon, or systemd with a socket unit. 0: of another pid namespace
	soon := time.AfterFunc(SilentAfter, func() {
		if cannotAnswer(pid) {
			cancel(&SilentError{path, SilentAfter})
		}
	})
	late := time.AfterFunc(BusyAfter, func() { cancel(&SilentError{path, BusyAfter}) })
	return ctx, func() {
		soon.Stop()
		late.Stop()
		cancel(nil)
	}
}

// cannotAnswer reports whether a process is known to be stopped or gone. Tests replace it.
var cannotAnswer = func(pid int) bool {
	if pid <= 0 {
		return false
	}
	state, err := sys.ProcState(pid)
	return errors.Is(err, fs.ErrNotExist) || err == nil && strings.IndexByte("TtZX", state) >= 0
}

// connect waits, unless it is impatient, while the backlog of the listener is full: a Unix socket answers EAGAIN then and has no event for it.
func connect(ctx context.Context, path string, impatient bool) (*net.UnixConn, error) {
	var d net.Dialer
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		nc, err := d.DialContext(ctx, "unixpacket", path)
		if err == nil {
			return nc.(*net.UnixConn), nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		if impatient {
			return nil, &SilentError{Path: path}
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
		return fmt.Errorf("%s: %w: start one (%s), or name another region (-r) or socket (-s)", path, ErrNoDaemon, unit.Start(regionOf(path)))
	case errors.Is(err, syscall.ECONNREFUSED):
		if st, serr := os.Stat(path); serr == nil && st.Mode()&fs.ModeSocket == 0 {
			return fmt.Errorf("%s: %w: it is no socket at all", path, ErrNotShmd)
		}
		return fmt.Errorf("%s: %w; start a new one (%s), it takes the place over", path, ErrDeadSocket, unit.Start(regionOf(path)))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: be root, the daemon's user, or a member of the group that owns the directory; what others may do, [access] in the configuration says", path, ErrPermission)
	case errors.Is(err, syscall.EPROTOTYPE):
		return fmt.Errorf("%s: %w: its socket is of another type", path, ErrNotShmd)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// regionOf returns the region that a socket is called after, "default" if it is called otherwise.
func regionOf(path string) string {
	if name, ok := strings.CutSuffix(filepath.Base(path), ".sock"); ok {
		return name
	}
	return "default"
}
