package daemon

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/cgroup"
	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/sys"
)

// Groups with `cgroup = true` have a cgroup of their own below the daemon's. What there is, is in the kernel, so a next daemon finds it; what is wrong with
// it is the reason of the start that fails.

// cgroupTree is what is delegated to the daemon. It is looked for when the first group needs it.
func (d *Daemon) cgroupTree() (*cgroup.Tree, error) {
	if d.cgroups == nil {
		t, err := cgroup.Open(d.conf.Region.Name, letsIn)
		if err != nil {
			return nil, err
		}
		d.cgroups = t
	}
	return d.cgroups, nil
}

// letsIn asks systemd whether it runs what a next daemon needs when this one has ended.
func letsIn(unit string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", "show", "-P", "ExecStopPost", unit)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it is of the unit, and a stop leaves nothing of that
	runtime.LockOSThread()                                             // of Pdeathsig
	defer runtime.UnlockOSThread()
	out, err := cmd.Output() // ECHILD if it was reaped as an orphan: what it printed counts
	switch {
	case strings.Contains(string(out), " let-in"):
		return nil
	case err != nil && len(out) == 0 && !errors.Is(err, syscall.ECHILD):
		return fmt.Errorf("systemctl show %s: %w", unit, err)
	}
	return fmt.Errorf("%s runs nothing that lets it in", unit)
}

// cgroupOf makes the cgroup of a group as it is to be, and returns its directory; "" for a group that has none.
func (d *Daemon) cgroupOf(conf *config.Group) (dir string, err error) {
	if !conf.Cgroup {
		return "", nil
	}
	t, err := d.cgroupTree()
	if err != nil {
		return "", err
	}
	limits := conf.CgroupLimits
	if g := d.groupNamed(conf.Name); g != nil && g.conf.Cgroup { // it may have others than when this instance was prepared
		limits = g.conf.CgroupLimits
	}
	return t.Set(conf.Name, limits)
}

// mayHaveCgroup says why a group could not have the cgroup that its configuration asks for.
func (d *Daemon) mayHaveCgroup(conf *config.Group) error {
	if !conf.Cgroup {
		return nil
	}
	t, err := d.cgroupTree()
	if err != nil {
		return err
	}
	return t.Check(conf.CgroupLimits)
}

// setCgroups makes the cgroups of all groups as they are to be: after an adoption, before which whoever started this daemon took the limits away, and after
// a reload.
func (d *Daemon) setCgroups() {
	if t, err := cgroup.Open(d.conf.Region.Name, letsIn); err == nil && d.cgroups == nil && len(t.Groups()) > 0 { // of a daemon whose configuration was another
		d.cgroups = t
	}
	for _, g := range d.living() {
		if g.removed || !d.inCgroup(g) {
			continue
		}
		if _, err := d.cgroupOf(g.conf); err != nil {
			d.log.Error("a group's cgroup is not as the configuration says", "group", g.conf.Name, "error", err)
		}
	}
}

// inCgroup reports whether a group has, or is about to have, a process in a cgroup of its own.
func (d *Daemon) inCgroup(g *group) bool {
	return g.conf.Cgroup && slices.ContainsFunc(g.instances, func(w *worker) bool { return w.proc != nil || !w.gone() && d.desired(w).Run })
}

// dropCgroups removes the cgroups of groups that are stopped, or have none any more, once they are empty.
func (d *Daemon) dropCgroups() {
	if d.cgroups == nil {
		return
	}
	for _, name := range d.cgroups.Groups() {
		if g := d.groupNamed(name); (g == nil || !d.inCgroup(g)) && d.cgroups.Remove(name) {
			d.log.Info("cgroup removed", "group", name)
		}
	}
}

// outOfMemory is what the end of a worker is told with if the kernel ended it for want of memory.
func (d *Daemon) outOfMemory(w *worker, e sys.ExitInfo) string {
	if e.Code == 0 && e.Signal == 0 || !w.conf.Cgroup || d.cgroups == nil || !d.cgroups.Killed(w.conf.Name) {
		return ""
	}
	limit := "no memory_max"
	if n, ok := w.group.conf.CgroupLimits["memory_max"]; ok && n >= 0 {
		limit = "memory_max = " + config.FormatSize(n)
	}
	return fmt.Sprintf("; out of memory: the kernel's OOM killer, in the cgroup of its group (%s)", limit)
}
