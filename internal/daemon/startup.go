package daemon

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/internal/unit"
	"github.com/shmd/shmd/pkg/protocol"
)

// When systemd is told READY=1. A start that takes longer than TimeoutStartSec= is ended by SIGTERM, which is how a region is stopped, so the start
// must never take that long:
//
//   - A daemon that has adopted a region is ready at once: what it took over is as it was.
//   - A new region is ready when each group is settled: an instance of it has been ready, or it is late, which means that none is to be expected soon.
//   - A region that is stopped before that is ready when its stop begins: see sayReady.
//   - startLimit after the first start of a worker it is ready whatever there is, and what is not settled is late.
//
// Groups that are late are named in the log and in STATUS=, and go on as they would have: READY=1 changes nothing for them.

// startLimit is for how long a new region waits for its groups before it says READY=1.
const startLimit = time.Minute

// prepareLimit is how long systemd is asked to wait at least for what comes before the first worker: the death of the daemon before, the adoption of
// its region, or memory that is filled. It is the unit's own TimeoutStartSec=; a drop-in with a shorter one does not end the daemon in the middle.
const prepareLimit = 5 * time.Minute

// lateAtLimit is why a group is late that has shown nothing by then.
var lateAtLimit = fmt.Sprintf("not ready after %v", startLimit)

// mayTake asks systemd to wait for so long from now on, if it would have waited for less.
func (d *Daemon) mayTake(long time.Duration) {
	d.systemd.notify(control.MayTake(long))
}

// startProgress is how far the start of a group has come.
type startProgress struct {
	name  string
	ready bool     // an instance has been ready
	late  string   // why none is to be expected soon; "": one is
	after []string // groups that come first
}

// judgeStart says which groups are late, and whether all others are ready. Of those that are late because another one is, the reason names that one.
func judgeStart(groups []startProgress) (late []startProgress, settled bool) {
	isLate := map[string]bool{}
	for again := true; again; { // once for each link of a chain
		again = false
		for _, g := range groups {
			if g.ready || isLate[g.name] {
				continue
			}
			if i := slices.IndexFunc(g.after, func(name string) bool { return isLate[name] }); g.late == "" && i >= 0 {
				g.late = "waits for group " + g.after[i]
			}
			if g.late != "" {
				isLate[g.name], again = true, true
				late = append(late, g)
			}
		}
	}
	return late, !slices.ContainsFunc(groups, func(g startProgress) bool { return !g.ready && !isLate[g.name] })
}

// noteStart takes down what a change of an instance's state says about the start of its group.
func (g *group) noteStart(w *worker, c supervise.Change) {
	switch {
	case c.To == protocol.StateReady, c.To == protocol.StateExited && c.Cause == supervise.CauseExit && w.row.ExitCode == 0 && w.row.ExitSignal == 0:
		g.ready, g.late = true, "" // what has done its work was ready
	case c.To == protocol.StateBackoff, c.To == protocol.StateFailed, c.To == protocol.StateExited,
		c.To == protocol.StateStopping && (c.Cause == supervise.CauseNotReady || c.Cause == supervise.CauseReset):
		if !g.ready {
			g.late = w.row.Name + ": " + supervise.Lasting(c.Reason)
		}
	}
}

// startOver looks whether systemd need not wait any more, tells of groups that have become late, and returns what STATUS= says of those that are.
func (d *Daemon) startOver() (over bool, status string) {
	var all []startProgress
	for _, g := range d.living() {
		if !g.removed {
			all = append(all, startProgress{g.conf.Name, g.ready, g.late, g.conf.After})
		}
	}
	late, settled := judgeStart(all)
	var said []string
	shmctl := unit.Shmctl(d.conf.Region.Name)
	for _, l := range late {
		i := slices.IndexFunc(d.groups, func(g *group) bool { return g != nil && !g.removed && g.conf.Name == l.name })
		g := d.groups[i]
		if g.stopped() { // somebody wants it so
			continue
		}
		if len(said) < 3 {
			said = append(said, fmt.Sprintf("%s (%s)", l.name, l.late))
		} else if len(said) == 3 {
			said = append(said, "…")
		}
		if !g.told {
			g.told = true
			d.log.Warn("no instance of a group is ready: the start does not wait for it, and goes on trying", "group", l.name, "why", l.late, "next", shmctl+"ps "+l.name+"; "+shmctl+"logs "+l.name)
		}
	}
	if len(said) > 0 {
		status = "; never ready so far, see " + shmctl + "ps: " + strings.Join(said, ", ")
	}
	return settled || d.adopted != nil, status
}

// stopped reports whether all instances of a group were stopped.
func (g *group) stopped() bool {
	return !slices.ContainsFunc(g.instances, func(w *worker) bool {
		return w.row.State != protocol.StateExited || w.row.Reason != supervise.Stopped
	})
}

// limitStart makes the start end at startLimit.
func (d *Daemon) limitStart() {
	if d.adopted != nil {
		return
	}
	d.mayTake(2 * startLimit)
	time.AfterFunc(startLimit, func() {
		d.post(func() {
			for _, g := range d.living() {
				if !d.ready && !g.ready && g.late == "" {
					g.late = lateAtLimit
				}
			}
			d.reportStatus()
		})
	})
}
