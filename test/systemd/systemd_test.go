// Package systemd tests shmd as a service: the shipped units under a real systemd, installed by `make install`.
//
// TestMain runs the tests inside ../with-systemd.sh, which boots a systemd in private namespaces; that needs root.
// This file is what is promised; helpers_test.go is how it is looked at.
package systemd

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	unit  = "shmd.service"
	units = "/usr/lib/systemd/system/"
)

// greeter writes a line to each of its outputs, never attaches, and so can be stopped by a signal only.
const greeter = `
[worker.greeter]
command = ["/bin/sh", "-c", "echo hello from $SHMD_WORKER; echo trouble >&2; exec sleep infinity"]
`

func TestShippedRegion(t *testing.T) {
	s := start(t, unit, "default")
	if got := s.show("ActiveState"); got != "active" {
		t.Errorf("ActiveState %q after systemctl start", got)
	}
	s.waitReady()
	s.poll("STATUS names the workers that are ready", func() (string, bool) {
		text := s.show("StatusText")
		return text, strings.Contains(text, "2 ready")
	})

	var status struct {
		Schema int    `json:"schema"`
		Region string `json:"region"`
	}
	s.shmctlJSON(&status, "status")
	if status.Schema != 1 || status.Region != "default" {
		t.Errorf("shmctl status -o json: %+v", status)
	}
	if got := s.workers(); len(got) != 2 || got["idle.0"].State != "ready" || got["idle.1"].State != "ready" {
		t.Errorf("shmctl ps -o json: %+v", got)
	}
	var channels struct {
		Channels []struct {
			Name, Kind string
			Slots      int
		} `json:"channels"`
	}
	s.shmctlJSON(&channels, "ch", "ls")
	if !slices.ContainsFunc(channels.Channels, func(c struct {
		Name, Kind string
		Slots      int
	}) bool {
		return c.Name == "jobs" && c.Kind == "queue" && c.Slots == 1024
	}) {
		t.Errorf("shmctl ch ls -o json: %+v", channels)
	}
	if uids := s.uids(); len(uids) != 1 || uids[0] != lookupUID(t, "shmd") {
		t.Errorf("processes of the unit run as uids %v, not as shmd alone", uids)
	}
}

func TestStrangerIsRefused(t *testing.T) {
	start(t, unit, "default")
	out, code := try("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "shmctl", "-s", "/run/shmd/default.sock", "ps")
	if code != 5 {
		t.Errorf("shmctl ps of a stranger: exit code %d, not 5:\n%s", code, out)
	}
}

func TestJournalHasFields(t *testing.T) {
	configure(t, "default", greeter)
	s := start(t, unit, "default")
	for message, priority := range map[string]string{"hello from greeter.0": "6", "trouble": ""} {
		e := s.waitJournal("a line of greeter.0", func(e entry) bool {
			return e.str("WORKER") == "greeter.0" && e.str("MESSAGE") == message && e.str("_PID") == s.show("MainPID")
		})
		if e.str("GROUP") != "greeter" || e.str("REGION") != "default" || e.str("_SYSTEMD_UNIT") != unit {
			t.Errorf("entry %q: GROUP %q, REGION %q, _SYSTEMD_UNIT %q", message, e.str("GROUP"), e.str("REGION"), e.str("_SYSTEMD_UNIT"))
		}
		if p := e.str("PRIORITY"); len(p) != 1 || p < "0" || p > "7" || priority != "" && p != priority {
			t.Errorf("entry %q: PRIORITY %q, want %q", message, p, priority)
		}
	}
	// The fields are native: journalctl matches them.
	out := run(t, "journalctl", "-u", unit, "-o", "json", "WORKER=greeter.0", "GROUP=greeter", "REGION=default")
	if !strings.Contains(out, "hello from greeter.0") {
		t.Errorf("journalctl WORKER=greeter.0 finds no line:\n%s", out)
	}
}

func TestKilledWorkerComesBack(t *testing.T) {
	s := start(t, unit, "default")
	s.waitReady()
	before := s.workers()["idle.1"]
	kill(t, before.Pid, syscall.SIGKILL)
	s.poll("idle.1 is ready again, restarted once", func() (string, bool) {
		w := s.workers()["idle.1"]
		return fmt.Sprintf("%+v", w), w.State == "ready" && w.Restarts == 1 && w.Pid != before.Pid
	})
	if other := s.workers()["idle.0"]; other.Restarts != 0 {
		t.Errorf("idle.0 was restarted too: %+v", other)
	}
	if n := s.show("NRestarts"); n != "0" {
		t.Errorf("the daemon was restarted %s times by a worker's death", n)
	}
}

func TestKilledDaemonComesBack(t *testing.T) {
	configure(t, "default", greeter) // a worker that knows nothing of quit flags is in the way as well
	s := start(t, unit, "default")
	s.waitReady()
	for range 3 {
		watch := watchRegions(t)
		before := s.invocation()
		run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
		s.waitStarted(before)
		s.waitReady()
		s.expectWorkers("greeter.0", "idle.0", "idle.1")
		watch()
		s.expectOneRegion()
	}
}

// Far more often than systemd's default start limit allows.
func TestDaemonKilledOftenComesBack(t *testing.T) {
	s := start(t, unit, "default")
	for range 12 {
		before := s.invocation()
		run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
		s.waitStarted(before)
	}
	s.waitReady()
	s.expectOneRegion()
}

func TestWatchdogRestartsHungDaemon(t *testing.T) {
	dropIn(t, "shmd.service.d", "watchdog.conf", "[Service]\nWatchdogSec=1s\n")
	s := start(t, unit, "default")
	s.waitReady()
	watch := watchRegions(t)
	before := s.invocation()
	run(t, "systemctl", "kill", "-s", "STOP", "--kill-whom=main", unit)
	e := s.waitJournal("the unit fails", func(e entry) bool {
		return e.str("MESSAGE_ID") == unitFailed && e.str("UNIT") == unit && e.str("INVOCATION_ID") == before
	})
	if e.str("UNIT_RESULT") != "watchdog" {
		t.Errorf("UNIT_RESULT %q, not watchdog", e.str("UNIT_RESULT"))
	}
	s.waitStarted(before)
	s.waitReady()
	watch()
	s.expectOneRegion()
}

func TestShmctlStop(t *testing.T) {
	configure(t, "default", greeter)
	s := start(t, unit, "default")
	s.waitReady()
	for range 2 { // and it can be started again
		invocation := s.invocation()
		var stop struct {
			Schema  int `json:"schema"`
			Workers []struct {
				Name   string
				How    string
				ExitNs int64 `json:"exit_ns"`
			} `json:"workers"`
		}
		s.shmctlJSON(&stop, "stop")
		s.expectNothingLeft() // when it returns, not some time later
		how := map[string]string{}
		for _, w := range stop.Workers {
			how[w.Name] = w.How
		}
		if how["idle.0"] != "flag" || how["idle.1"] != "flag" || how["greeter.0"] != "term" {
			t.Errorf("shmctl stop -o json: %+v", stop)
		}
		s.waitDeactivated(invocation)
		if state, n := s.show("ActiveState"), s.show("NRestarts"); state != "inactive" || n != "0" {
			t.Errorf("after shmctl stop the unit is %s, restarted %s times", state, n)
		}
		run(t, "systemctl", "start", unit)
		s.waitReady()
	}
}

func TestSystemctlStop(t *testing.T) {
	configure(t, "default", greeter)
	s := start(t, unit, "default")
	s.waitReady()
	for range 2 {
		run(t, "systemctl", "stop", unit)
		if state, result := s.show("ActiveState"), s.show("Result"); state != "inactive" || result != "success" {
			t.Errorf("after systemctl stop the unit is %s, result %s", state, result)
		}
		s.expectNothingLeft()
		run(t, "systemctl", "start", unit)
		s.waitReady()
		s.expectOneRegion()
	}
}

// A daemon that hangs does not keep shmctl from stopping the region, nor does systemd bring back what was stopped.
func TestShmctlStopWhileDaemonIsStopped(t *testing.T) {
	configure(t, "default", greeter)
	s := start(t, unit, "default")
	s.waitReady()
	invocation := s.invocation()
	run(t, "systemctl", "kill", "-s", "STOP", "--kill-whom=main", unit)
	run(t, "shmctl", "stop")
	s.waitDeactivated(invocation)
	if state, n := s.show("ActiveState"), s.show("NRestarts"); state != "inactive" || n != "0" {
		t.Errorf("after shmctl stop the unit is %s, restarted %s times", state, n)
	}
	s.expectNothingLeft()
}

func TestSystemctlStopWhileDaemonIsStopped(t *testing.T) {
	s := start(t, unit, "default")
	s.waitReady()
	run(t, "systemctl", "kill", "-s", "STOP", "--kill-whom=main", unit)
	run(t, "systemctl", "stop", unit)
	if state := s.show("ActiveState"); state == "active" || state == "activating" {
		t.Errorf("after systemctl stop the unit is %s", state)
	}
	s.expectNothingLeft()
}

func TestNamedRegion(t *testing.T) {
	write(t, "/etc/shmd/two.toml", "[region]\nname = \"two\"\n\n[worker.nap]\nbuiltin = \"idle\"\ncount = 3\n"+greeter)
	one := start(t, unit, "default")
	two := start(t, "shmd@two.service", "two")
	one.waitReady()
	two.waitReady()
	two.expectWorkers("greeter.0", "nap.0", "nap.1", "nap.2")
	two.waitJournal("a line of two's greeter", func(e entry) bool {
		return e.str("REGION") == "two" && e.str("MESSAGE") == "hello from greeter.0" && e.str("_SYSTEMD_UNIT") == "shmd@two.service"
	})
	if st, err := os.Stat("/var/lib/shmd/two"); err != nil || !st.IsDir() {
		t.Errorf("its state directory: %v", err)
	}

	run(t, "systemctl", "stop", "shmd@two.service")
	two.expectNothingLeft()
	one.expectWorkers("idle.0", "idle.1") // its socket and its memory are untouched
	one.expectOneRegion()

	run(t, "systemctl", "start", "shmd@two.service")
	two.waitReady()
	invocation := two.invocation()
	run(t, "shmctl", "-r", "two", "stop")
	two.waitDeactivated(invocation)
	two.expectNothingLeft()
	one.expectOneRegion()
}

// The daemon's exit code for a refused configuration is one that systemd does not answer with a restart.
func TestRefusedConfigurationIsNotRetried(t *testing.T) {
	write(t, "/etc/shmd/broken.toml", "[region]\nname = \"broken\"\nsize = 1\n")
	t.Cleanup(func() {
		try("systemctl", "stop", "shmd@broken.service")
		try("systemctl", "reset-failed", "shmd@broken.service")
	})
	s := service{t, "shmd@broken.service", "broken", time.Now()}
	if out, code := try("systemctl", "start", s.unit); code == 0 {
		t.Fatalf("started with a wrong configuration:\n%s", out)
	}
	if state, code, n := s.show("ActiveState"), s.show("ExecMainStatus"), s.show("NRestarts"); state != "failed" || code != "78" || n != "0" {
		t.Errorf("unit %s, exit code %s, %s restarts; want failed, 78, 0", state, code, n)
	}
	s.waitJournal("the reason, with file and line", func(e entry) bool {
		return strings.Contains(e.str("MESSAGE"), "/etc/shmd/broken.toml:3") && e.str("_SYSTEMD_UNIT") == s.unit
	})
}

// The socket of a service that somebody removes is made anew, by the daemon as it is confined, as it was.
func TestRemovedSocket(t *testing.T) {
	s := start(t, unit, "default")
	s.waitReady()
	const path = "/run/shmd/default.sock"
	before, err := os.Stat(path)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.waitJournal("the socket is made anew", func(e entry) bool { return strings.Contains(e.str("MESSAGE"), "it was made anew") })
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if was, is := before.Sys().(*syscall.Stat_t), after.Sys().(*syscall.Stat_t); is.Mode != was.Mode || is.Uid != was.Uid || is.Gid != was.Gid || is.Ino == was.Ino {
		t.Errorf("%+v became %+v", was, is)
	}
	if out := run(t, "shmctl", "status"); strings.Contains(out, "took the memory") {
		t.Error(out)
	}
}

func TestSocketActivation(t *testing.T) {
	s := service{t, unit, "default", time.Now()}
	run(t, "systemctl", "start", "shmd.socket")
	t.Cleanup(func() {
		run(t, "systemctl", "stop", "shmd.socket", unit)
		s.expectNothingLeft()
	})
	st, err := os.Stat("/run/shmd/default.sock")
	if err != nil {
		t.Fatal(err)
	}
	if owner := st.Sys().(*syscall.Stat_t).Uid; st.Mode().Perm() != 0o660 || owner != lookupUID(t, "shmd") {
		t.Errorf("socket %v of uid %d", st.Mode(), owner)
	}
	for range 2 { // after a stop, the next client starts it again
		if state := s.show("ActiveState"); state != "inactive" {
			t.Fatalf("unit %s before any client", state)
		}
		before := s.invocation()
		try("shmctl", "status") // wakes the daemon; may give up before it answers
		s.waitStarted(before)
		s.waitReady()
		s.expectWorkers("idle.0", "idle.1")
		run(t, "systemctl", "stop", unit)
		if _, err := os.Stat("/run/shmd/default.sock"); err != nil {
			t.Fatalf("the daemon took the socket unit's socket with it: %v", err)
		}
	}
	// What systemd made only systemd can make anew: the daemon tells of its loss.
	before := s.invocation()
	try("shmctl", "status")
	s.waitStarted(before)
	s.waitReady()
	if err := os.Remove("/run/shmd/default.sock"); err != nil {
		t.Fatal(err)
	}
	s.waitJournal("the loss of the socket", func(e entry) bool {
		return strings.Contains(e.str("MESSAGE"), "somebody has removed a file of this region")
	})
	if _, err := os.Stat("/run/shmd/default.sock"); !os.IsNotExist(err) {
		t.Errorf("the socket: %v", err)
	}
}

// What workers.conf opens is open, and no further: a worker of another user has none of the daemon's capabilities.
func TestWorkersDropIn(t *testing.T) {
	conf, err := os.ReadFile("/usr/share/doc/shmd/examples/workers.conf")
	if err != nil {
		t.Fatal(err)
	}
	dropIn(t, "shmd.service.d", "workers.conf", string(conf))
	run(t, "systemd-analyze", "verify", "--man=no", unit)
	configure(t, "default", `
[worker.other]
command = ["/bin/sh", "-c", "echo started; exec sleep infinity"]
user = "nobody"

[worker.pinned]
command = ["/bin/sh", "-c", "exec taskset -c 0 sleep infinity"]
`)
	s := start(t, unit, "default")
	s.waitReady()
	for _, name := range []string{"other.0", "pinned.0", "idle.0"} {
		w := s.workers()[name]
		s.poll(name+" has its command's identity", func() (string, bool) {
			status := procStatus(w.Pid)
			return fmt.Sprint(status), (name != "other.0" || strings.HasPrefix(status["Uid"], "65534")) &&
				(name != "pinned.0" || status["Cpus_allowed_list"] == "0")
		})
		status := procStatus(w.Pid)
		for _, set := range []string{"CapPrm", "CapEff", "CapAmb"} {
			if n, err := strconv.ParseUint(status[set], 16, 64); err != nil || n != 0 {
				t.Errorf("%s has capabilities: %s %s", name, set, status[set])
			}
		}
	}
	// The next daemon finds workers of other users too.
	watch := watchRegions(t)
	before := s.invocation()
	run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
	s.waitStarted(before)
	s.waitReady()
	watch()
	s.expectOneRegion()
	run(t, "shmctl", "stop")
	s.poll("the unit has ended", func() (string, bool) { state := s.show("ActiveState"); return state, state == "inactive" }) // with what it runs after the daemon
	s.expectNothingLeft()
}

// The score is at most 1.5, and the one that the unit's comment quotes.
func TestSecurityScore(t *testing.T) {
	for _, name := range []string{"shmd.service", "shmd@.service"} {
		out, code := try("systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", units+name)
		if code != 0 {
			t.Errorf("%s is above 1.5:\n%s", name, out)
		}
		real := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
		quoted := regexp.MustCompile(`\(systemd (\d+)\): overall exposure ([0-9.]+)`).FindStringSubmatch(read(t, units+name))
		if real == nil || quoted == nil {
			t.Fatalf("%s: no score in the comment or in\n%s", name, out)
		}
		t.Logf("%s: exposure %s", name, real[1])
		if strings.HasPrefix(run(t, "systemctl", "--version"), "systemd "+quoted[1]+" ") && real[1] != quoted[2] {
			t.Errorf("%s says %s, systemd-analyze %s", name, quoted[2], real[1])
		}
	}
}

func TestUnitsAreValid(t *testing.T) {
	if out, code := try("systemd-analyze", "verify", "shmd.service", "shmd@x.service", "shmd.socket"); code != 0 || out != "" {
		t.Errorf("systemd-analyze verify, exit code %d:\n%s", code, out) // it also looks for the man pages
	}
}

// shmd@.service is shmd.service, but for what names the region.
func TestTemplateIsTheSameUnit(t *testing.T) {
	settings := func(path string) []string {
		return slices.DeleteFunc(strings.Split(read(t, path), "\n"), func(l string) bool {
			return l == "" || strings.HasPrefix(l, "#") || strings.HasPrefix(l, "Description=")
		})
	}
	want := settings(units + "shmd.service")
	for i, line := range want {
		line = strings.Replace(line, "/etc/shmd/default.toml", "/etc/shmd/%i.toml", 1)
		line = strings.Replace(line, "shmd -r default", "shmd -r %i", 1)
		line = strings.Replace(line, "shmctl stop", "shmctl -r %i stop", 1)
		line = strings.Replace(line, "shmctl reload", "shmctl -r %i reload", 1)
		want[i] = strings.Replace(line, "StateDirectory=shmd", "StateDirectory=shmd/%i", 1)
	}
	if got := settings(units + "shmd@.service"); !slices.Equal(got, want) {
		t.Errorf("shmd@.service differs from shmd.service:\n%s\n\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A package builder's view: everything lies below DESTDIR, under PREFIX, and uninstall takes all of it.
func TestInstallElsewhere(t *testing.T) {
	root := t.TempDir()
	args := []string{"-C", repo(), "BIN=" + binDir(), "DESTDIR=" + root, "PREFIX=/opt/shmd"}
	run(t, "make", append(args, "install")...)
	for _, want := range []string{"opt/shmd/bin/shmd", "opt/shmd/bin/shmctl", "opt/shmd/share/man/man8/shmd.8",
		"opt/shmd/share/man/man1/shmctl.1", "opt/shmd/share/man/man1/shmctl-stop.1", "opt/shmd/lib/sysusers.d/shmd.conf",
		"opt/shmd/lib/tmpfiles.d/shmd.conf", "opt/shmd/share/bash-completion/completions/shmctl", "etc/shmd/default.toml"} {
		if st, err := os.Stat(filepath.Join(root, want)); err != nil || st.Size() == 0 {
			t.Errorf("%s: missing or empty (%v)", want, err)
		}
	}
	text := read(t, filepath.Join(root, "opt/shmd/lib/systemd/system/shmd.service"))
	if !strings.Contains(text, "ExecStart=/opt/shmd/bin/shmd ") || !strings.Contains(text, "ExecStop=-/opt/shmd/bin/shmctl ") || strings.Contains(text, "/usr/bin") {
		t.Errorf("the unit does not name the binaries under PREFIX:\n%s", text)
	}
	run(t, "make", append(args, "uninstall")...)
	filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("uninstall left %s", path)
		}
		return err
	})
}

// What the installed documentation links to is installed, too.
func TestDocumentationHasWhatItLinksTo(t *testing.T) {
	const root = "/usr/share/doc/shmd"
	link := regexp.MustCompile(`\]\(([^)#\s]+)|src="([^"]+)"`)
	pages, links := 0, 0
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		pages++
		for _, m := range link.FindAllStringSubmatch(read(t, path), -1) {
			to := m[1] + m[2]
			if strings.Contains(to, "://") {
				continue
			}
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), to)); err != nil {
				t.Errorf("%s links to %s: %v", path, to, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pages < 20 || links < 50 {
		t.Errorf("%d pages with %d links", pages, links)
	}
}
