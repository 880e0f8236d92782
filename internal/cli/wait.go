package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/pkg/protocol"
)

// What wait can wait for.
const (
	forReady  = "ready"
	forExited = "exited"
)

func (a *app) waitCommand() *cobra.Command {
	var what string
	c := a.verb(cobra.Command{
		Use:   "wait [--for=ready|exited] [NAME...]",
		Short: "wait until workers are ready, or have exited",
		Long: `wait returns when the named workers (parser.2) and all workers of the named
groups (parser) are ready, or, with --for=exited, have no process and none is
coming. Without a name it waits for all workers of the region; those that an
operator has stopped are not waited for to be ready.

With --for=ready it also waits for the region to appear, so that it can be
called right after the daemon was started, and for another daemon if the
region's is dead or, where no worker is named, stopping. It ends at once when
what it waits for cannot come: exit code 1 with the reason if a worker has
failed, 3 if it is stopped or done. It sleeps until the roster changes.`,
		Example: `  shmd -c web.toml & shmctl -r web wait --timeout=10s
  shmctl stop parser.0 && shmctl start --no-wait parser.0 && shmctl wait parser.0
  shmctl wait --for=exited job`,
		ValidArgsFunction: a.complete(workerNames),
	}, func(cmd *cobra.Command, names []string) error {
		if what != forReady && what != forExited {
			return usagef("--for=%s: there are ready and exited", what)
		}
		return anyNames(cmd, names)
	}, func(ctx context.Context, names []string) error { return a.wait(ctx, names, what) })
	c.Flags().StringVar(&what, "for", forReady, "`state` to wait for: ready or exited")
	c.RegisterFlagCompletionFunc("for", cobra.FixedCompletions([]string{forReady, forExited}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) wait(ctx context.Context, names []string, what string) error {
	last := "" // what was still missing
	for {
		s, err := a.openWait(ctx, what == forReady)
		if err != nil {
			return explain(err, last)
		}
		w := waiter{s: s, names: names, what: what}
		t := newTeller(a, s)
		err = s.await(ctx, func() (bool, error) {
			done, err := w.check()
			if what == forReady && len(names) == 0 && s.stops() { // all that is stopped is as it should be, and nothing gets ready any more
				return false, errStops
			}
			if err == nil && !done && what == forReady {
				t.look("", w.groups())
			}
			return done, err
		})
		last = w.missing
		if errors.Is(err, errNoDaemonWorks) || errors.Is(err, errStops) { // no state can change in this memory any more
			old := s.Roster.Daemon()
			s.Close()
			if errors.Is(err, errStops) {
				a.warn("region %q is stopping: waiting for it to be started again", a.region)
			} else {
				a.warn("the daemon (pid %d) is dead: waiting for another one", old.Pid)
			}
			if err := a.newDaemon(ctx, old); err != nil {
				return explain(err, "no daemon runs")
			}
			continue
		}
		defer s.Close()
		if err != nil {
			return explain(err, last)
		}
		if a.json() {
			return a.printJSON(s.workersJSON(w.list))
		}
		return nil
	}
}

// openWait opens the region, and if appear waits for it to be there.
func (a *app) openWait(ctx context.Context, appear bool) (*session, error) {
	if !appear {
		return a.open(ctx, false)
	}
	missing := ""
	began := time.Now()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, look) {
		s, err := a.openQuietly(ctx, false)
		switch {
		case err == nil && !s.comesUp():
			a.remark(s)
			return s, nil
		case err == nil:
			err = s.why
			s.Close()
		// A daemon that is just starting, or has died while it was, looks like each of these.
		// Where a user has no runtime directory yet, the system's is looked into, which may be closed: the user's may be about to be made.
		case errors.Is(err, attach.ErrPermission) && a.socketPath() != attach.ListenPath(a.region) && a.socket == "" && time.Since(began) < time.Second:
		case !errors.Is(err, control.ErrNoRegion) && !errors.Is(err, control.ErrDamaged) && !errors.Is(err, attach.ErrHungUp):
			return nil, explain(err, missing)
		}
		missing = plainCause(err)
		if err := a.nap(ctx, pause); err != nil {
			return nil, explain(err, missing)
		}
	}
}

// plainCause is an error as what was missing.
func plainCause(err error) string {
	text, _, _ := strings.Cut(err.Error(), "; ")
	return text
}

// newDaemon waits for a daemon that is not the old one.
func (a *app) newDaemon(ctx context.Context, old protocol.DaemonInfo) error {
	for {
		conn, err := attach.Dial(ctx, a.socketPath())
		if err == nil {
			pid := conn.Hello().Pid
			conn.Close()
			if pid != old.Pid {
				return nil
			}
		}
		if err := a.nap(ctx, look); err != nil {
			return err
		}
	}
}

// nap waits for what no event tells of.
func (a *app) nap(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// errNoDaemonWorks: nobody is left to bring about what was waited for.
var errNoDaemonWorks = errors.New("no daemon works")

// errStops: the region is stopping.
var errStops = errors.New("the region stops")

// stops reports whether a daemon that lives is stopping the region.
func (s *session) stops() bool {
	d := s.Daemon()
	state := s.Roster.Daemon().State
	return d.Alive && (state == protocol.DaemonStateStopping || state == protocol.DaemonStateStopped)
}

// waiter looks whether what is waited for has come.
type waiter struct {
	s     *session
	names []string
	what  string

	// asked, if set, are the rows of workers when they were told to start: what they say still, or say of the same process, is
	// no answer yet.
	asked map[int]protocol.Worker

	unstopped bool // those that an operator has stopped are not waited for

	scaled []scaling // groups that are to have so many instances

	list    []worker // as of the last check
	missing string   // what the last check still missed, "" for nothing
}

func (w *waiter) check() (done bool, err error) {
	targets, err := control.Resolve(w.s.Roster, w.names)
	if errors.Is(err, control.ErrNoSuchWorker) && w.what == forExited && w.list != nil { // its group was scaled down
		return true, nil
	}
	if err != nil {
		return false, err
	}
	alive := w.s.Daemon().Alive
	if !alive && w.what == forReady { // also if all are ready: nobody would start one again that ends
		return false, errNoDaemonWorks
	}
	if w.list, err = w.s.workers(targets.Workers); err != nil {
		if alive { // it may be in the middle of a change
			w.missing = err.Error()
			return false, nil
		}
		return false, err
	}
	var missing []string
	if m := w.s.notScaled(w.scaled, w.list); m != "" {
		if err := w.s.rescaled(w.scaled); err != nil {
			return false, err
		}
		missing = append(missing, m)
	} else if w.what == forReady {
		missing = append(missing, w.s.notThere(targets.Groups, w.list)...)
	}
	for _, row := range w.list {
		if w.leaving(row) {
			continue
		}
		m, err := w.look(row, alive)
		if err != nil {
			return false, err
		}
		if m != "" {
			missing = append(missing, m)
		}
	}
	if d := w.s.Roster.Daemon(); w.what == forReady && d.State == protocol.DaemonStateStarting {
		missing = append(missing, "the daemon is starting")
	}
	if len(missing) == 0 {
		w.missing = ""
		return true, nil
	}
	w.missing = strings.Join(missing[:min(len(missing), 5)], ", ")
	if n := len(missing) - 5; n > 0 {
		w.missing += fmt.Sprintf(" and %d more", n)
	}
	return false, nil
}

// groups are those of the workers that are waited for, as of the last check.
func (w *waiter) groups() (groups []int) {
	for _, row := range w.list {
		groups = append(groups, row.Group)
	}
	return groups
}

// leaving reports whether a worker is to go, as its group is scaled down.
func (w *waiter) leaving(row worker) bool {
	for _, sc := range w.scaled {
		if sc.index == row.Group && row.Instance >= sc.count {
			return true
		}
	}
	return false
}

// look returns what is missing of one worker, "" if nothing is. Errors: it will not come.
func (w *waiter) look(row worker, alive bool) (missing string, err error) {
	text := fmt.Sprintf("%s is %s", row.Name, stateCell(row.State).text)
	if row.State == protocol.StateWaiting && strings.HasPrefix(row.Reason, "waits ") {
		text = row.Name + " " + row.Reason
	} else if row.Reason != "" {
		text += fmt.Sprintf(" (%s)", row.Reason)
	}
	if w.what == forExited {
		switch {
		case row.State == protocol.StateExited, row.State == protocol.StateFailed:
			return "", nil
		case !alive && row.Pid == 0:
			return "", nil
		}
		return text, nil
	}
	named := len(w.names) > 0 && !w.unstopped
	if before, ok := w.asked[row.Index]; ok && !changed(before, row.Worker) {
		return text, nil
	}
	switch row.State {
	case protocol.StateReady:
		if row.Desired == protocol.DesiredRun {
			return "", nil
		}
		if !named {
			return "", nil // an operator wants it to stop
		}
		return "", fmt.Errorf("worker %q is being stopped: start it with shmctl start %s", row.Name, row.Name)
	case protocol.StateFailed:
		return "", fmt.Errorf("worker %q has failed: %s; see shmctl logs %s, then shmctl start %s", row.Name, row.Reason, row.Name, row.Name)
	case protocol.StateExited:
		switch {
		case row.Desired == protocol.DesiredStop && !named:
			return "", nil
		case row.Desired == protocol.DesiredStop:
			return "", fmt.Errorf("worker %q is %w: it was stopped; start it with shmctl start %s", row.Name, control.ErrNotRunning, row.Name)
		case row.Reason == "stopped": // and is wanted again: the daemon is about to start it
			return text, nil
		case row.ExitCode == 0 && row.ExitSignal == 0 && (!named || w.asked != nil):
			return "", nil // it has done its work
		}
		return "", fmt.Errorf("worker %q is %w: it ended (%s), and its restart policy leaves it so; start it with shmctl start %s",
			row.Name, control.ErrNotRunning, row.Reason, row.Name)
	}
	return text, nil
}

// changed reports whether a row tells of what came after before: of another process, or that there is none any more.
func changed(before, now protocol.Worker) bool {
	if before.Process() != 0 {
		return now.Process() != before.Process() || now.StartTicks != before.StartTicks
	}
	return now != before
}
