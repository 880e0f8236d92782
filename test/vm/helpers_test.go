package vm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long an event may take. It is long because nobody waits for it unless something is broken.
const patience = 60 * time.Second

const (
	unit = "shmd.service"
	base = "/sys/fs/cgroup/system.slice/" + unit
)

// prepare does what is to be done once for all tests: what a package does after it was unpacked.
func prepare() error {
	for _, args := range [][]string{{"systemd-sysusers"}, {"systemd-tmpfiles", "--create", "shmd.conf"}, {"systemctl", "daemon-reload"}} {
		if out, code := try(args[0], args[1:]...); code != 0 {
			return fmt.Errorf("%s: exit code %d\n%s", strings.Join(args, " "), code, out)
		}
	}
	return nil
}

// ---- workers: this program, as a command of the configuration

// work is a worker that does what a limit is there for: at once, or when it gets SIGUSR1.
func work(role string) error {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	switch role {
	case "eat":
		fmt.Println("hungry")
		<-asked
		var eaten [][]byte
		for len(eaten) < 256 {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			eaten = append(eaten, b)
		}
		fmt.Println("ate", len(eaten), "MiB")
		runtime.KeepAlive(eaten)
	case "fork":
		fmt.Println("childless")
		<-asked
		n := 0
		for ; n < 200; n++ {
			if err := exec.Command("sleep", "infinity").Start(); err != nil {
				fmt.Printf("fork failed: %v\n", err)
				break
			}
		}
		fmt.Println("has", n, "children")
	case "spin":
		for range 2 {
			go func() {
				for {
				}
			}()
		}
	default:
		return fmt.Errorf("no role %q", role)
	}
	select {}
}

// ---- commands and files

// try runs a command and returns its output, both streams, and its exit code.
func try(name string, args ...string) (string, int) {
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return err.Error(), 127
	}
	timer := time.AfterFunc(2*patience, func() { cmd.Process.Kill() })
	cmd.WaitDelay = patience / 10
	cmd.Wait()
	timer.Stop()
	return out.String(), cmd.ProcessState.ExitCode()
}

// run is try for what must succeed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, code := try(name, args...)
	if code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s", name, strings.Join(args, " "), code, out)
	}
	return out
}

func read(t testing.TB, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// number returns a value of a file like memory.events or cpu.stat of a group's cgroup.
func number(t testing.TB, group, file, key string) int64 {
	t.Helper()
	text := read(t, cgroupOf(group), file)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s of %s has no %q:\n%s", file, group, key, text)
	return 0
}

func cgroupOf(group string) string { return base + "/shmd:default:" + group }

// poll waits for what is told only to those who ask.
func poll(t testing.TB, what string, look func() (string, bool)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		got, ok := look()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v not so: %s. It is: %s", patience, what, got)
		}
		try("sleep", "0.1")
	}
}

// ---- the service

type service struct{ t testing.TB }

// delegate sets what the unit needs for cgroups of groups: the section of workers.conf about control groups.
func delegate(t testing.TB) string {
	t.Helper()
	_, section, ok := strings.Cut(read(t, "/usr/share/doc/shmd/examples/workers.conf"), "# --- Control groups")
	if !ok {
		t.Fatal("workers.conf has no section on control groups")
	}
	section, _, _ = strings.Cut(section, "\n\n")
	return "[Service]\n# " + section + "\n"
}

// dropIn changes the unit for the time of the test.
func dropIn(t testing.TB, text string) {
	t.Helper()
	dir := "/run/systemd/system/" + unit + ".d"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/test.conf", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.RemoveAll(dir)
		try("systemctl", "daemon-reload")
	})
	run(t, "systemctl", "daemon-reload")
}

// configure writes the configuration.
func configure(t testing.TB, text string) {
	t.Helper()
	if err := os.WriteFile("/etc/shmd/default.toml", []byte("[region]\nname = \"default\"\n"+text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// start starts the unit, and stops it when the test ends. Then nothing may be left of its cgroups.
func start(t testing.TB, options ...string) service {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := try("journalctl", "-u", unit, "-n", "60", "--no-pager", "-o", "short-precise")
			t.Logf("the last of the journal of %s:\n%s", unit, out)
		}
		run(t, "systemctl", "stop", unit)
		try("systemctl", "reset-failed", unit)
		if left, _ := filepath.Glob(base + "/*/"); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
	run(t, "systemctl", append(append([]string{"start"}, options...), unit)...)
	return service{t}
}

func (s service) show(property string) string {
	s.t.Helper()
	return strings.TrimSpace(run(s.t, "systemctl", "show", "-P", property, unit))
}

func (s service) waitReady() {
	s.t.Helper()
	run(s.t, "shmctl", "wait", "--for=ready", "--timeout=60s")
}

type worker struct {
	Name, Group, State, Reason string
	Pid, Restarts              int
}

func (s service) workers() map[string]worker {
	s.t.Helper()
	var ps struct{ Workers []worker }
	var out []byte
	poll(s.t, "there is a region", func() (string, bool) { // the daemon may be starting
		var err error
		out, err = exec.Command("shmctl", "ps", "-o", "json").Output()
		return fmt.Sprint(err), err == nil
	})
	if err := json.Unmarshal(out, &ps); err != nil {
		s.t.Fatalf("shmctl ps -o json: %v\n%s", err, out)
	}
	m := map[string]worker{}
	for _, w := range ps.Workers {
		m[w.Name] = w
	}
	return m
}

// killAt kills the daemon that systemd starts next, the moment that it is so far.
func (s service) killAt(what string, soFar func(pid int) bool) {
	s.t.Helper()
	deadline, pid := time.Now().Add(patience), 0
	for pid == 0 || !soFar(pid) { // what is waited for is over at once: nothing but looking is fast enough
		if time.Now().After(deadline) {
			s.t.Fatalf("after %v not so of the next daemon: %s", patience, what)
		}
		for _, p := range strings.Fields(seen(base + "/cgroup.procs")) { // it begins in the unit's own cgroup, where a dead one's guard may be as well
			if pid == 0 && seen("/proc/"+p+"/comm") == "shmd\n" {
				pid, _ = strconv.Atoi(p)
			}
		}
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.t.Fatalf("kill the daemon, pid %d: %v", pid, err)
	}
	s.t.Logf("killed: %s; pid %d, controllers %q, memory.max %q, cpu.max %q", what, pid, seen(base+"/cgroup.subtree_control"), seen(cgroupOf("eater")+"/memory.max"), seen(cgroupOf("spinner")+"/cpu.max"))
	for seen(fmt.Sprintf("/proc/%d/comm", pid)) != "" { // until systemd has collected it
		runtime.Gosched()
	}
}

// seen is what a file of the kernel's has, "" if it is not there.
func seen(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// restarted waits until a worker has another process than was, and is ready.
func (s service) restarted(name string, was worker) worker {
	s.t.Helper()
	var w worker
	poll(s.t, name+" is started again", func() (string, bool) {
		w = s.workers()[name]
		return fmt.Sprintf("%+v", w), w.State == "ready" && w.Pid != was.Pid
	})
	return w
}

// said waits for a line that a worker has written since.
func (s service) said(worker, text string, since time.Time) {
	s.t.Helper()
	poll(s.t, fmt.Sprintf("%s says %q", worker, text), func() (string, bool) {
		out, _ := try("journalctl", "-u", unit, "WORKER="+worker, "-o", "cat", "--no-pager", fmt.Sprintf("--since=@%d.%06d", since.Unix(), since.Nanosecond()/1000))
		return out, strings.Contains(out, text)
	})
}

// place is the cgroup of a process, below the unit's.
func (s service) place(pid int) string {
	s.t.Helper()
	_, path, _ := strings.Cut(read(s.t, fmt.Sprintf("/proc/%d/cgroup", pid)), "0::")
	below, ok := strings.CutPrefix("/sys/fs/cgroup"+path, base)
	if !ok {
		s.t.Fatalf("pid %d is not in the unit but in %s", pid, path)
	}
	return below
}
