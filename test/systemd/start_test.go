package systemd

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/sys"
)

// never is a group that does not get ready.
const never = `
[worker.never]
command = ["/bin/sh", "-c", "exit 1"]
ready = "call"
backoff_min = "1h"
backoff_max = "1h"
crash_limit = 0
`

// silent says nothing at all.
const silent = `
[worker.silent]
command = ["sleep", "infinity"]
ready = "call"
ready_timeout = "0s"
`

// A group that does not get ready is named, and the start does not wait for it; neither does that of a daemon that follows one that was killed. Time that a start may take is no
// reason to end a region.
func TestGroupThatNeverGetsReady(t *testing.T) {
	dropIn(t, "shmd.service.d", "start.conf", "[Service]\nTimeoutStartSec=3s\n")
	configure(t, "default", never)
	s := start(t, unit, "default")
	named := func() (string, bool) {
		text := s.show("StatusText")
		return text, strings.Contains(text, "2 ready, 1 backoff; never ready so far, see shmctl ps: never (never.0: exit code 1)")
	}
	s.poll("STATUS= names it", named)

	// One that is added to a region that runs, and then says nothing: the next daemon knows nothing else of it.
	const path = "/etc/shmd/default.toml"
	if err := os.WriteFile(path, []byte(read(t, path)+silent), 0o644); err != nil {
		t.Fatal(err)
	}
	s.shmctl("reload", "--no-wait")
	s.poll("it has a process", func() (string, bool) {
		w := s.workers()["silent.0"]
		return w.State, w.State == "starting" && w.Pid > 0
	})
	before := s.workers()
	killed := s.invocation()
	run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
	s.waitStarted(killed) // "Started": READY=1
	for _, name := range []string{"idle.0", "idle.1", "silent.0"} {
		if now := s.workers()[name]; now.Pid != before[name].Pid {
			t.Errorf("%s is another process after the daemon's death: pid %d, then %d", name, before[name].Pid, now.Pid)
		}
	}
	if n := s.show("NRestarts"); n != "1" {
		t.Errorf("the unit was restarted %s times by one kill", n)
	}
}

// A first start in which a group has shown nothing yet goes on beyond a short TimeoutStartSec=, and whatever is in the region stays.
func TestStartLongerThanTimeoutStart(t *testing.T) {
	dropIn(t, "shmd.service.d", "start.conf", "[Service]\nTimeoutStartSec=1s\n")
	configure(t, "default", `
[worker.slow]
command = ["/bin/sh", "-c", "trap : TERM; sleep 4; exit 1"]
ready = "call"
backoff_min = "1h"
backoff_max = "1h"
crash_limit = 0
`)
	s := start(t, unit, "default")
	if n, result := s.show("NRestarts"), s.show("Result"); n != "0" || result != "success" {
		t.Errorf("restarted %s times, result %s", n, result)
	}
	if w := s.workers()["slow.0"]; w.State != "backoff" || w.Restarts != 0 {
		t.Errorf("when the start returned: %+v", w)
	}
}

// killedIn kills the daemon when what a command begins has come to the group stayer, and returns what became of the command.
func killedIn(s service, command ...string) (out string, code int) {
	s.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		out, code = try(command[0], command[1:]...)
	}()
	s.poll("it stops", func() (string, bool) {
		w := s.workers()["stayer.0"]
		return w.State, w.State == "stopping"
	})
	run(s.t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", s.unit)
	<-done
	return out, code
}

// What somebody stops before the daemon has said READY=1 stays down: an exit with 0 before that is a failure to systemd, which restarts it.
func TestStopBeforeReady(t *testing.T) {
	const stayer = "\n[worker.stayer]\ncommand = [\"/bin/sh\", \"-c\", \"trap 'sleep 3; exit 0' TERM; while :; do sleep 0.1; done\"]\nstop_timeout = \"20s\"\n"
	stays := func(t *testing.T, s service) {
		t.Helper()
		s.poll("the unit is down", func() (string, bool) {
			state, sub := s.show("ActiveState"), s.show("SubState")
			return state + ", " + sub, state == "inactive" && sub == "dead"
		})
		if result := s.show("Result"); result != "success" {
			t.Errorf("result %s", result)
		}
		s.expectNothingLeft()
	}
	t.Run("a group is not ready yet", func(t *testing.T) {
		configure(t, "default", silent)
		s := startWith(t, unit, "default", "--no-block")
		s.poll("it has a process", func() (string, bool) {
			out, code := try("shmctl", "ps", "-o", "json")
			return out, code == 0 && s.workers()["silent.0"].Pid > 0
		})
		if state := s.show("ActiveState"); state != "activating" {
			t.Fatalf("the unit is %s", state)
		}
		s.shmctl("stop")
		stays(t, s)
	})
	t.Run("between a daemon and the next", func(t *testing.T) {
		dropIn(t, "shmd.service.d", "slow.conf", "[Service]\nRestartSec=2s\n")
		configure(t, "default", greeter)
		s := start(t, unit, "default")
		s.waitReady()
		run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
		s.shmctl("stop")
		stays(t, s)
	})
	t.Run("the daemon dies in the stop, with the socket unit", func(t *testing.T) {
		run(t, "systemctl", "start", "shmd.socket")
		t.Cleanup(func() { run(t, "systemctl", "stop", "shmd.socket") })
		configure(t, "default", stayer)
		s := start(t, unit, "default")
		s.waitReady()
		killedIn(s, "systemctl", "stop", unit)
		if state := s.show("ActiveState"); state != "inactive" && state != "failed" { // a unit that was to start again would be so by now
			t.Errorf("the unit is %s", state)
		}
		if jobs := run(t, "systemctl", "list-jobs", "--no-legend"); strings.Contains(jobs, unit) {
			t.Errorf("jobs: %s", jobs)
		}
		s.expectNothingLeft()
	})
	// ExecStop= itself connects, and nobody accepts that any more.
	t.Run("the daemon dies as the stop begins, with the socket unit", func(t *testing.T) {
		run(t, "systemctl", "start", "shmd.socket")
		t.Cleanup(func() { run(t, "systemctl", "stop", "shmd.socket") })
		configure(t, "default", stayer)
		for range 3 {
			s := start(t, unit, "default")
			s.waitReady()
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				try("systemctl", "stop", unit)
			}()
			s.poll("ExecStop= runs", func() (string, bool) { pid := s.show("ControlPID"); return pid, pid != "0" })
			run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
			<-stopped
			s.poll("the unit is down", func() (string, bool) {
				state := s.show("ActiveState")
				return state, state == "inactive" || state == "failed"
			})
			s.expectNothingLeft()
		}
	})
	// Who restarts it wants it to run, whatever happens to the daemon in the stop.
	t.Run("the daemon dies in the stop of a restart", func(t *testing.T) {
		configure(t, "default", stayer)
		s := start(t, unit, "default")
		s.waitReady()
		old := s.workers()["stayer.0"].Pid
		if out, code := killedIn(s, "systemctl", "restart", unit); code != 0 {
			t.Errorf("systemctl restart: exit code %d, %s", code, out)
		}
		if state := s.show("ActiveState"); state != "active" {
			t.Fatalf("the unit is %s", state)
		}
		s.waitReady()
		if now := s.workers()["stayer.0"].Pid; now == 0 || now == old {
			t.Errorf("stayer.0 is process %d, and was %d", now, old)
		}
		s.expectOneRegion()
	})
	t.Run("the daemon dies in the stop", func(t *testing.T) {
		configure(t, "default", stayer)
		s := start(t, unit, "default")
		s.waitReady()
		if out, code := killedIn(s, "shmctl", "stop"); code != 0 {
			t.Errorf("shmctl stop: exit code %d, %s", code, out)
		}
		stays(t, s)
	})
	// It has removed its socket, and empties the fd store, says that it has stopped, or is on the way to its exit.
	t.Run("the daemon dies at the end of the stop", func(t *testing.T) {
		for looks := range 24 {
			s := start(t, unit, "default")
			s.waitReady()
			pid, err := strconv.Atoi(s.show("MainPID"))
			if err != nil {
				t.Fatal(err)
			}
			daemon, err := sys.PidfdOpen(pid)
			if err != nil {
				t.Fatal(err)
			}
			killed := make(chan struct{})
			go func() {
				defer close(killed)
				for left := 100 * looks; left >= 0; {
					if _, err := os.Lstat("/run/shmd/default.sock"); err != nil {
						left--
					}
				}
				sys.PidfdSignal(daemon, syscall.SIGKILL) // it may have ended
				daemon.Close()
			}()
			out, code := try("shmctl", "stop")
			if <-killed; code != 0 {
				t.Errorf("shmctl stop: exit code %d, %s", code, out)
			}
			stays(t, s)
		}
	})
}
