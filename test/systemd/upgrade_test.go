package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// quitter ends with a status of its own when it gets SIGUSR1.
const quitter = `
[worker.quitter]
command = ["/bin/sh", "-c", "trap 'exit 9' USR1; echo trapped; while :; do sleep 0.1; done"]
restart = "never"
`

// An upgrade under traffic: the same MainPID, the same workers, nothing lost, exit statuses known, and systemd sees a service that is up.
func TestUpgrade(t *testing.T) {
	const program = "/usr/local/bin/shmd-next"
	build := exec.Command("go", "build", "-ldflags", "-X github.com/shmd/shmd/internal/version.Version=v7.7.7", "-o", program, "./cmd/shmd")
	build.Dir, build.Env = repo(), append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dropIn(t, "shmd.service.d", "watchdog.conf", "[Service]\nWatchdogSec=2s\n")
	configure(t, "default", relays+quitter)
	s := start(t, unit, "default")
	s.waitReady()
	s.waitJournal("the trap is set", func(e entry) bool { return e.str("MESSAGE") == "trapped" && e.str("_PID") == s.show("MainPID") })
	before, main, invocation := s.workers(), s.show("MainPID"), s.invocation()
	traffic := pass(s, "numbers", "out")
	for i := range 6 {
		traffic.flows()
		var u struct {
			From, To string
			Pid      int
			PauseNs  int64 `json:"pause_ns"`
		}
		if i%3 == 2 { // the configuration alone, by the program that runs now
			run(t, "systemctl", "reload", unit)
			continue
		}
		s.shmctlJSON(&u, "-q", "upgrade", "--binary", program)
		if u.To != "v7.7.7" || fmt.Sprint(u.Pid) != main {
			t.Errorf("%+v", u)
		}
		t.Logf("%s -> %s, pause %v", u.From, u.To, time.Duration(u.PauseNs))
	}
	// A program that is refused changes nothing.
	if out, code := try("shmctl", "upgrade", "--binary", "/bin/true"); code != 1 || !strings.Contains(out, "self-check") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	traffic.end()
	s.expectSame(before)
	s.expectOneRegion()
	if now, n, state := s.show("MainPID"), s.show("NRestarts"), s.show("ActiveState"); now != main || n != "0" || state != "active" || s.invocation() != invocation {
		t.Errorf("MainPID %s then %s, %s restarts, %s", main, now, n, state)
	}
	kill(t, before["quitter.0"].Pid, syscall.SIGUSR1)
	s.poll("the exit status is known", func() (string, bool) {
		w := s.workers()["quitter.0"]
		return fmt.Sprintf("%+v", w), w.State == "exited" && strings.Contains(w.Reason, "exit code 9")
	})
	// The signs of life go on: with a watchdog of 2 s the daemon would be dead after an upgrade that lost it.
	ping := s.show("WatchdogTimestampMonotonic")
	s.poll("signs of life", func() (string, bool) { now := s.show("WatchdogTimestampMonotonic"); return now, now != ping })

	// Killed afterwards it is followed by the program of ExecStart=, from the fd store.
	was := s.invocation()
	delete(before, "quitter.0")
	run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
	s.waitStarted(was)
	s.expectSame(before)
}

// A daemon that is killed in the middle of an upgrade, at many places, is followed by one that adopts the region.
func TestKilledInUpgrade(t *testing.T) {
	configure(t, "default", relays)
	s := start(t, unit, "default")
	s.waitReady()
	before := s.workers()
	traffic := pass(s, "numbers", "out")
	for i := range 12 {
		traffic.flows()
		was, pid := s.invocation(), s.show("MainPID")
		began := time.Now()
		upgrade := exec.Command("shmctl", "-q", "upgrade")
		if err := upgrade.Start(); err != nil {
			t.Fatal(err)
		}
		for time.Since(began) < time.Duration(i)*5*time.Millisecond { // an upgrade takes some 40 ms: its self-check most of that
		}
		run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
		upgrade.Wait()
		s.waitStarted(was)
		s.waitReady()
		if s.show("MainPID") == pid {
			t.Fatal("it was not killed")
		}
	}
	traffic.end()
	s.expectSame(before)
	s.expectOneRegion()
}
