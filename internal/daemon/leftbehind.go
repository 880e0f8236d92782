package daemon

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
)

// endLeftBehind kills what workers left behind outside of their process groups: a stopped region leaves no process. As the subreaper the daemon is the parent of
// all of it, unless an earlier daemon started the worker.
func (d *Daemon) endLeftBehind() {
	deadline := time.Now().Add(2 * time.Second)
	d.endOwnLeftBehind(deadline)
	if d.adopted == nil {
		return
	}
	for _, p := range control.KillLeftBehind(d.mem.roster, deadline) {
		d.log.Warn(leftBehindKilled, "pid", p.Pid, "worker", p.Worker)
	}
}

const leftBehindKilled = "a process that a worker left behind is killed"

// endOwnLeftBehind is endLeftBehind for the children of this process.
func (d *Daemon) endOwnLeftBehind(deadline time.Time) {
	for time.Now().Before(deadline) {
		if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err == syscall.ECHILD { // as a rule
			return
		}
		sys.ReapOrphans(func(int) bool { return false })
		children := d.leftBehind()
		if len(children) == 0 {
			return
		}
		for _, pid := range children {
			d.log.Warn(leftBehindKilled, "pid", pid)
			pidfd, err := sys.PidfdOpen(pid)
			if err != nil {
				continue
			}
			syscall.Kill(pid, syscall.SIGKILL) // a child that nobody else reaps: the number is its own
			sys.PollReadable([]*os.File{pidfd}, time.Until(deadline))
			pidfd.Close()
		}
	}
}

// leftBehind returns the living children of the daemon that descend from workers: their environment names the region, or they hold its memory. Others may have been there before
// the daemon was, and be anybody's.
func (d *Daemon) leftBehind() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		after := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // state, parent
		if len(after) < 2 || after[0] == "Z" || after[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		descends := slices.Contains(strings.Split(string(environ), "\x00"), "SHMD_REGION="+d.conf.Region.Name)
		if !descends {
			descends, _ = control.Holds(pid, d.mem.roster) // the error: it has ended
		}
		if descends {
			pids = append(pids, pid)
		}
	}
	return pids
}
