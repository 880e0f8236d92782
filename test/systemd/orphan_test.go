package systemd

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
)

// shortLived has the shipped region's workers wait two seconds for a next daemon.
func shortLived(t testing.TB) {
	t.Helper()
	const path = "/etc/shmd/default.toml"
	shipped := read(t, path)
	if err := os.WriteFile(path, []byte(strings.Replace(shipped, "name = \"default\"\n", "name = \"default\"\norphan_timeout = \"2s\"\n", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(path, []byte(shipped), 0o644) })
}

// bare closes what it inherits: it holds nothing of the region, so in a stop without a daemon nobody but the guard may end it.
const bare = `
[worker.bare]
command = ["/bin/sh", "-c", "for i in 3 4 5 6 7 8 9; do eval \"exec $i>&-\"; done; exec sleep infinity"]
`

// A daemon that hangs does not keep systemctl stop from leaving nothing behind: ExecStop= goes through the memory.
func TestSystemctlStopOfHungDaemon(t *testing.T) {
	configure(t, "default", greeter+bare)
	s := start(t, unit, "default")
	s.waitReady()
	run(t, "systemctl", "kill", "-s", "STOP", "--kill-whom=main", unit)
	began := time.Now()
	run(t, "systemctl", "stop", unit)
	t.Logf("systemctl stop of a hung daemon: %v", time.Since(began).Round(time.Millisecond))
	s.expectNothingLeft()
	if state := s.show("ActiveState"); state != "inactive" && state != "failed" {
		t.Errorf("the unit is %s", state)
	}
}

// A stop that meets the moment between a daemon's death and its restart runs nothing of the unit: then the workers, and for those that know
// nothing of shmd the guard, end by themselves after orphan_timeout.
func TestSystemctlStopOfKilledDaemon(t *testing.T) {
	shortLived(t)
	dropIn(t, "shmd.service.d", "slow.conf", "[Service]\nRestartSec=10min\n")
	configure(t, "default", greeter+bare)
	s := start(t, unit, "default")
	s.waitReady()
	pids := s.pids()
	var all []*os.File
	for _, pid := range pids {
		f, err := sys.PidfdOpen(pid)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		all = append(all, f)
	}
	run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
	s.poll("the unit waits for its restart", func() (string, bool) { state := s.show("SubState"); return state, state == "auto-restart" })
	began := time.Now()
	run(t, "systemctl", "stop", unit)
	if state := s.show("ActiveState"); state != "inactive" && state != "failed" {
		t.Errorf("the unit is %s", state)
	}
	for len(all) > 0 {
		ended, err := sys.PollReadable(all, patience)
		if err != nil {
			t.Fatal(err)
		}
		var left []*os.File
		for i, f := range all {
			if !ended[i] {
				left = append(left, f)
			}
		}
		if len(left) == len(all) {
			t.Fatalf("of %d processes %d live %v after the stop", len(pids), len(left), patience)
		}
		all = left
	}
	t.Logf("%d processes had ended %v after the stop, with orphan_timeout = 2s", len(pids), time.Since(began).Round(time.Millisecond))
	s.poll("nothing is left", func() (string, bool) { left := s.pids(); return fmt.Sprint(left), len(left) == 0 })
	s.expectNothingLives()

	// And it can be started again, as a new region.
	run(t, "systemctl", "start", unit)
	s.waitReady()
	s.expectOneRegion()
}

// A daemon that comes only after orphan_timeout, when the workers have ended, goes on with what the fd store has: nobody has stopped the region.
func TestDaemonAfterOrphanTimeout(t *testing.T) {
	shortLived(t)
	dropIn(t, "shmd.service.d", "slow.conf", "[Service]\nRestartSec=6s\n")
	configure(t, "default", greeter+bare+"[worker.quits]\nbuiltin = \"idle\"\nrestart = \"on-failure\"\n")
	s := start(t, unit, "default")
	s.waitReady()
	s.shmctl("pub", "jobs", "kept")
	s.shmctl("stop", "idle.1") // this is what somebody wants
	before := s.workers()
	killed := s.invocation()
	run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
	s.poll("no process is left, and the unit waits for its restart", func() (string, bool) {
		state, pids := s.show("SubState"), s.pids()
		return fmt.Sprint(state, " ", pids), state == "auto-restart" && len(pids) == 0
	})
	s.waitStarted(killed)
	s.shmctl("wait", "--for=ready", "--timeout=60s", "idle.0", "greeter", "bare", "quits")
	now := s.workers()
	for name, w := range now {
		if name == "idle.1" && w.Pid != 0 || name != "idle.1" && (w.State != "ready" || w.Pid == before[name].Pid) {
			t.Errorf("%+v, before %+v", w, before[name])
		}
	}
	if out := s.shmctl("sub", "-n", "1", "jobs"); out != "kept\n" {
		t.Errorf("jobs has %q", out)
	}
	s.expectOneRegion()
}
