package cli

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/control"
)

func (a *app) stopCommand() *cobra.Command {
	return a.verb(cobra.Command{
		Use:   "stop [NAME...]",
		Short: "stop workers, or the region with its daemon",
		Long: `stop flips the quit flag of the named workers and groups in the memory, wakes
them, and waits for their end. A worker that does not obey gets SIGTERM after
its group's stop_timeout, and SIGKILL after the same time again; one that
never attached, and so cannot see the flag, gets SIGTERM at once. The daemon
sends the signals, or shmctl itself if no daemon answers. What was stopped
stays stopped, whatever its restart policy, until shmctl start, or until a new
daemon starts the region afresh.

Without a name it stops the region: all workers, then the daemon. A daemon
that is hung or stopped by a signal gets signals too, SIGKILL in the end, once
its last worker has ended.

For each worker it tells the time from flag to acknowledgement (the worker saw
the flag) and to exit, and how it ended: flag, term or kill. Exit code 3: a
named worker is not running, and none was to come.`,
		Example: `  shmctl stop parser.2
  shmctl stop parser merger
  shmctl stop
  shmctl stop -o json | jq '[.workers[].ack_ns] | max'`,
		ValidArgsFunction: a.complete(workerNames),
	}, anyNames, a.stop)
}

func (a *app) stop(ctx context.Context, names []string) error {
	all := len(names) == 0
	s, err := a.open(ctx, true)
	if all && errors.Is(err, control.ErrNoRegion) && errors.Is(err, attach.ErrHungUp) {
		return a.printStop(a.region, control.Report{}) // it was there a moment ago, and has just stopped
	}
	if err != nil {
		return err
	}
	defer s.Close()
	o := control.StopOptions{Names: names, DaemonAnswers: s.answers()}
	if all {
		o.Socket = a.socketPath()
		control.AskForTime(s.Roster)
		o.Lock = filepath.Join(filepath.Dir(o.Socket), s.name()+".lock")
	}
	report, err := control.Stop(ctx, s.Set, o)
	for _, w := range report.Warnings {
		a.warn("%s", w)
	}
	if err != nil && len(report.Workers) == 0 && report.Daemon == nil {
		return err
	}
	if printed := a.printStop(s.name(), report); err == nil {
		err = printed
	}
	return err
}

func (a *app) printStop(region string, r control.Report) error {
	if a.json() {
		if r.Workers == nil {
			r.Workers = []control.WorkerReport{}
		}
		return a.printJSON(struct {
			Schema  int                    `json:"schema"`
			Region  string                 `json:"region"`
			Workers []control.WorkerReport `json:"workers"`
			Daemon  *control.DaemonReport  `json:"daemon,omitempty"`
		}{schema, region, r.Workers, r.Daemon})
	}
	if len(r.Workers) == 0 && r.Daemon == nil {
		return nil
	}
	t := a.newTable("NAME", "PID", "ACK", "EXIT", "HOW")
	row := func(name string, pid int, ack, exit int64, how string) {
		c := cell{text: how}
		switch how {
		case control.HowTerm:
			c.color = yellow
		case control.HowKill:
			c.color = red
		case "":
			c = cell{"runs on", red}
		}
		times := [2]string{}
		for i, ns := range []int64{ack, exit} {
			if ns > 0 {
				times[i] = took(time.Duration(ns))
			}
		}
		t.add(name, pid, times[0], times[1], c)
	}
	for _, w := range r.Workers {
		row(w.Name, w.Pid, w.AckNs, w.ExitNs, w.How)
	}
	if d := r.Daemon; d != nil {
		row("shmd", d.Pid, 0, d.ExitNs, d.How)
	}
	return t.print()
}
