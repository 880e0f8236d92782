package daemon

import (
	"fmt"

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
		var workers []*worker
		var members []supervise.Member
		for _, w := range g.instances {
			if !d.desired(w).Run {
				continue
			}
			workers = append(workers, w)
			members = append(members, supervise.Member{State: w.row.State, Granted: w.row.Rolled == asked, Carried: w.row.Restarted == d.desired(w).Restart,
				Clean:   w.row.State == protocol.StateExited && w.row.Reason != supervise.Stopped && w.row.ExitCode == 0 && w.row.ExitSignal == 0,
				Stopped: w.row.State == protocol.StateExited && w.row.Reason == supervise.Stopped})
		}
		grant, done, failed := supervise.Rollout(members, most)
		switch {
		case failed >= 0:
			w := workers[failed]
			g.row.RolloutState, g.row.RolloutNote = protocol.RolloutStopped, fmt.Sprintf("%s %v: %s", w.row.Name, w.row.State, w.row.Reason)
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
