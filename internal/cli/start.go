package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/unit"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) startCommand() *cobra.Command {
	var noWait bool
	c := a.verb(cobra.Command{
		Use:   "start [--no-wait] [NAME...]",
		Short: "start workers that do not run",
		Long: `start asks for the named workers and groups to run, or for all workers of the
region, and waits until they are ready. Workers that run already are left
alone; those that have failed or ended are started anew at once. What takes
longer than a moment is told on standard error, with what to do if a group
that has to be ready first (after) is stopped or has failed.

It writes desired state into the memory, and the daemon carries it out.
Without a daemon that answers, shmctl only writes it, and says that the next
daemon carries it out.`,
		Example: `  shmctl start parser.2
  shmctl start
  shmctl start --no-wait parser`,
		ValidArgsFunction: a.complete(workerNames),
	}, anyNames, func(ctx context.Context, names []string) error { return a.start(ctx, names, false, noWait) })
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until they are ready")
	return c
}

// start has workers started: those of names that do not run, or with restart all of names.
func (a *app) start(ctx context.Context, names []string, restart, noWait bool) error {
	s, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer s.Close()
	targets, err := control.Resolve(s.Roster, names)
	if err != nil {
		return err
	}
	if s.Command.RegionDesired() == protocol.DesiredStop {
		return fmt.Errorf("region %q is stopping, and starts no worker any more: when it has stopped, start it anew (%s)", s.name(), unit.Start(s.name()))
	}
	w := waiter{s: s, names: names, what: forReady, asked: map[int]protocol.Worker{}}
	var workers, groups []int
	kept := s.kept()
	for _, i := range targets.Workers {
		row, err := s.worker(i, kept)
		if err != nil {
			return err
		}
		runs := row.State == protocol.StateStarting || row.State == protocol.StateReady
		if runs && row.Desired == protocol.DesiredRun && !protocol.Flagged(s.Command.WorkerQuit(i)) && !restart {
			continue
		}
		workers = append(workers, i)
		// The group too, also for one worker of it: else the flag of an earlier stop of the group would stop it again.
		groups = append(groups, row.Group)
		w.asked[i] = row.Worker
	}
	slices.Sort(groups)
	groups = slices.DeleteFunc(slices.Compact(groups), func(g int) bool { return g < 0 || g >= s.Command.Groups() })

	began := sys.MonotonicNs()
	// The restart first: the daemon would restart what it had just started.
	s.Command.AskRestart(workers)
	s.Command.Start(workers, groups)

	pending := a.warnUnattended(s)
	if pending || noWait {
		list, err := s.workers(targets.Workers)
		if err != nil {
			return err
		}
		return a.printStarted(s, list, workers, nil, pending)
	}
	readyAt := map[int]int64{}
	t := newTeller(a, s)
	err = s.await(ctx, func() (bool, error) {
		done, err := w.check()
		if err == nil && !done {
			t.look(w.missing, w.groups())
		}
		for _, row := range w.list {
			if _, seen := readyAt[row.Index]; !seen && row.State == protocol.StateReady && changed(w.asked[row.Index], row.Worker) {
				readyAt[row.Index] = sys.MonotonicNs() - began
			}
		}
		if err == nil && !done && s.Command.RegionDesired() == protocol.DesiredStop {
			err = errors.New("the region was stopped meanwhile")
		}
		return done, err
	})
	if errors.Is(err, errNoDaemonWorks) {
		err = errors.New("the daemon died meanwhile: the next one carries this out")
	}
	if err != nil {
		return explain(err, w.missing)
	}
	return a.printStarted(s, w.list, workers, readyAt, false)
}

// printStarted tells of the workers that were told to start; JSON tells of all that were named. pending: no daemon is at work, and the next one does it.
func (a *app) printStarted(s *session, list []worker, asked []int, readyAt map[int]int64, pending bool) error {
	if a.json() {
		return a.printJSON(struct {
			workersJSON
			Pending bool `json:"pending"`
		}{s.workersJSON(list), pending})
	}
	if a.quiet || len(asked) == 0 {
		return nil
	}
	t := a.newTable("NAME", "PID", "STATE", "READY AFTER")
	for _, row := range list {
		if !slices.Contains(asked, row.Index) {
			continue
		}
		pid, after := "", ""
		if row.Pid > 0 {
			pid = fmt.Sprint(row.Pid)
		}
		if ns := readyAt[row.Index]; ns > 0 {
			after = took(time.Duration(ns))
		}
		t.add(row.Name, pid, stateCell(row.State), after)
	}
	return t.print()
}
