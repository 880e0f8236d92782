package daemon

import (
	"fmt"
	"time"

	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/pkg/protocol"
)

// roll takes the next step of the rolling restart of a group, if one was asked for and has not ended. Where it stands is in the rows: an instance's turn is
// WorkerRow.Rolled, written before anything is done for it.
func (d *Daemon) roll(g *group) {
	asked, most := d.mem.command.GroupRollout(g.index)
	if asked != g.row.Rollout {
		g.row.Rollout, g.row.RolloutState, g.row.RolloutNote = asked, protocol.RolloutRunning, ""
		d.writeGroup(g)
		d.event(eventRollout, g.conf.Name, "begins", "max_unavailable", most)
		d.log.Info("rolling restart begins", "group", g.conf.Name, "max_unavailable", most)
	}
	for g.row.RolloutState == protocol.RolloutRunning {
		if d.mem.command.RolloutAborted(g.index, asked) {
			g.row.RolloutState, g.row.RolloutNote = protocol.RolloutStopped, supervise.RolloutAborted
			d.writeGroup(g)
			d.event(eventRollout, g.conf.Name, "stopped", "reason", g.row.RolloutNote)
			d.log.Warn("rolling restart ended by an operator: instances whose turn has not come are left as they are", "group", g.conf.Name)
			return
		}
		var workers []*worker
		var members []supervise.Member
		trial := time.Duration(0)
		for _, w := range g.instances {
			if !d.desired(w).Run {
				continue
			}
			workers = append(workers, w)
			rest := time.Duration(0) // of its trial
			if w.row.State == protocol.StateReady && w.row.Rolled == asked && g.onTrial() {
				rest = supervise.Trial - d.readyFor(w)
				trial = max(trial, rest)
				if on := rest > 0; on != w.row.Trial {
					w.row.Trial = on
					d.writeRow(w)
				}
			}
			members = append(members, supervise.Member{State: w.row.State, Granted: w.row.Rolled == asked, Carried: w.row.Restarted == d.desired(w).Restart, Tried: rest <= 0,
				Clean:   w.row.State == protocol.StateExited && w.row.Reason != supervise.Stopped && w.row.ExitCode == 0 && w.row.ExitSignal == 0,
				Stopped: w.row.State == protocol.StateExited && w.row.Reason == supervise.Stopped})
		}
		grant, done, failed := supervise.Rollout(members, most)
		switch {
		case failed >= 0:
			w := workers[failed]
			g.row.RolloutState, g.row.RolloutNote = protocol.RolloutStopped, fmt.Sprintf("%s did not come up: %s", w.row.Name, supervise.Lasting(w.row.Reason))
			d.writeGroup(g)
			d.event(eventRollout, g.conf.Name, "stopped", "worker", w.row.Name, "reason", w.row.Reason)
			d.log.Error("rolling restart given up: the other instances are left as they are", "group", g.conf.Name, "worker", w.row.Name, "reason", w.row.Reason)
		case done:
			g.row.RolloutState = protocol.RolloutDone
			d.writeGroup(g)
			d.event(eventRollout, g.conf.Name, "done")
			d.log.Info("rolling restart done", "group", g.conf.Name)
		}
		if len(grant) == 0 {
			if trial > 0 && g.row.RolloutState == protocol.RolloutRunning && !g.looking { // nothing else may happen when it is over
				g.looking = true
				time.AfterFunc(trial, func() {
					d.post(func() {
						g.looking = false
						if d.groups[g.index] == g {
							d.roll(g)
						}
					})
				})
			}
			return
		}
		for _, i := range grant {
			w := workers[i]
			w.row.Rolled = asked
			d.writeRow(w)
			d.reconcile(w)
		}
	}
}

// onTrial reports whether the group's instances count as ready as soon as their command runs. A filter's do: its shim says that it runs, not that it works.
func (g *group) onTrial() bool { return g.policy.ReadyAtExec || g.conf.Filter() }

// rolling reports whether a worker runs, or tries to, for a rolling restart that has not ended.
func (d *Daemon) rolling(w *worker) bool {
	asked, _ := d.mem.command.GroupRollout(w.group.index)
	return w.row.Rolled == asked && (w.group.row.Rollout != asked || w.group.row.RolloutState == protocol.RolloutRunning)
}

// readyFor is how long an instance that is ready has been so. After an adoption that begins anew.
func (d *Daemon) readyFor(w *worker) time.Duration {
	if w.readySince.IsZero() {
		w.readySince = time.Now()
	}
	return time.Since(w.readySince)
}
