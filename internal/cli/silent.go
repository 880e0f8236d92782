package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shmd/shmd/internal/attach"
)

// What takes the daemon's own hands waits for it, and says why it waits.

const (
	tellAfter   = time.Second      // so long a daemon may take before that is told
	silentAtAll = 10 * time.Second // so long it is waited for without --timeout, as shm.Attach does
)

// silence says why the daemon does not answer; stopped: by a signal, or a debugger.
func (a *app) silence() (why string, stopped bool) {
	s, err := a.throughProcesses()
	if err != nil {
		return "the daemon does not answer", false // and nobody here may see why
	}
	defer s.Close()
	switch d := s.Daemon(); {
	case d.Alive && d.Stopped:
		return fmt.Sprintf("the daemon (pid %d) is stopped by a signal, and answers when it goes on (kill -CONT %d)", d.Pid, d.Pid), true
	case d.Alive:
		return fmt.Sprintf("the daemon (pid %d) does not answer", d.Pid), false
	default:
		return fmt.Sprintf("the daemon (pid %d) is dead, and the next one does not answer", d.Pid), false
	}
}

// tellSilence says why the daemon does not answer if done is not called within a time; busy: it may be at work on the answer, so that
// only a stopped one is told of.
func (a *app) tellSilence(within time.Duration, busy bool) (done func()) {
	t := time.AfterFunc(within, func() {
		if why, stopped := a.silence(); stopped || !busy {
			a.warn("%s", why)
		}
	})
	return func() { t.Stop() }
}

// dialDaemon connects to the daemon, and waits for its answer until ctx ends, or, without --timeout, for silentAtAll. Why it waits is told after a
// moment. Errors: those of attach.Dial; with --timeout, what unanswered says.
func (a *app) dialDaemon(ctx context.Context) (*attach.Conn, error) {
	conn, err := attach.Dial(ctx, a.socketPath())
	if err == nil {
		return a.expectRegion(conn)
	}
	if !errors.Is(err, attach.ErrSilent) {
		return nil, a.unanswered(ctx, err)
	}
	if why, stopped := a.silence(); stopped {
		a.warn("%s", why)
	} else {
		defer a.tellSilence(tellAfter, false)()
	}
	wait := ctx
	if a.timeout == 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeoutCause(ctx, silentAtAll, fmt.Errorf("%s: %w within %v", a.socketPath(), attach.ErrSilent, silentAtAll))
		defer cancel()
	}
	conn, err = attach.DialWait(wait, a.socketPath())
	if err != nil {
		return nil, a.unanswered(ctx, err)
	}
	return a.expectRegion(conn)
}

// unanswered adds to an error of a daemon that has not answered why it did not.
func (a *app) unanswered(ctx context.Context, err error) error {
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		why, _ := a.silence()
		return explain(context.Cause(ctx), why)
	case errors.Is(err, attach.ErrSilent):
		why, _ := a.silence()
		return fmt.Errorf("%w: %s", err, why)
	}
	return err
}
