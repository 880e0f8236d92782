package daemon_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// nextVersion is the version of the program that next builds.
const nextVersion = "v9.8.7-next"

// next builds a shmd of another version, once. It is in a directory of the test's binaries, which testregion.Cleanup removes.
var next = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp(testregion.Cache(), "next-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "shmd")
	out, err := exec.Command("go", "build", "-ldflags", "-X github.com/shmd/shmd/internal/version.Version="+nextVersion, "-o", path, "github.com/shmd/shmd/cmd/shmd").CombinedOutput()
	if err != nil {
		return "", &os.PathError{Op: "build", Path: string(out), Err: err}
	}
	return path, nil
})

func nextProgram(t *testing.T) string {
	t.Helper()
	testregion.Binaries(t)
	path, err := next()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// compile builds a program of one file.
func compile(t *testing.T, source string) string {
	t.Helper()
	dir := testregion.Dir(t)
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path+".go", []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", path, path+".go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// holders are the processes that hold memory of the region.
func holders(t *testing.T, d *testregion.Region) []int {
	t.Helper()
	all, err := control.FindAll(d.Name, d.Dir, uint32(os.Geteuid()))
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, l := range all {
		pids = append(pids, l.Pids()...)
		l.Close()
	}
	return pids
}

type upgraded struct {
	Region, From, To string
	Pid              int
	PauseNs          int64 `json:"pause_ns"`
}

// Another program takes the daemon's place: same pid, same workers, same connections, and their exit status is known.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	program := nextProgram(t)
	fifo := filepath.Join(testregion.Dir(t), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	d := testregion.Start(t, named+jobs+idle("w", "count = 3")+idle("calm")+
		shell("ext", "while read -r line; do case $line in end) exit 7;; part) printf 'first half, ';; *) echo \"said $line\";; esac; done <'"+fifo+"'", `restart = "never"`))
	say, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer say.Close()
	shmctl(t, d, "stop", "calm")
	awaitState(d, "calm.0", protocol.StateExited)
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Name: "feeder"})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	before := d.WaitWorkers("as they were", everyone)
	say.WriteString("this\npart\n")
	d.WaitLog("said this")

	for i, from := range []string{"devel", nextVersion} { // and from the new one to itself
		var u upgraded
		text := shmctl(t, d, "upgrade", "--binary", program, "-o", "json")
		if err := json.Unmarshal([]byte(text), &u); err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		if u.From != from || u.To != nextVersion || u.Pid != d.Cmd.Process.Pid || u.Region != d.Name || u.PauseNs <= 0 {
			t.Errorf("upgrade %d: %s", i, text)
		}
		t.Logf("pause: %d us", u.PauseNs/1000)
		for _, w := range d.WaitWorkers("as they were", everyone) {
			if old := byName(t, before, w.Name); w != old {
				t.Errorf("%+v became %+v", old, w)
			}
		}
		if err := q.Send(within(t), []byte("and after")); err != nil {
			t.Errorf("an outsider sends: %v", err)
		}
	}
	if exe, err := os.Readlink("/proc/" + strconv.Itoa(d.Cmd.Process.Pid) + "/exe"); err != nil || exe != program {
		t.Errorf("the daemon runs %s, %v", exe, err)
	}
	if comm, err := os.ReadFile("/proc/" + strconv.Itoa(d.Cmd.Process.Pid) + "/comm"); err != nil || string(comm) != "shmd\n" {
		t.Errorf("its name is %q, %v", comm, err)
	}
	say.WriteString("that\n") // the line whose first half an earlier program read
	d.WaitLog("first half, said that", `"worker":"ext.0"`)
	if err := r.Close(); err != nil { // over the connection that was handed over
		t.Error(err)
	}
	d.WaitLog("outsider gone", `"name":"feeder"`, `"how":"detached"`)
	say.WriteString("end\n")
	if w := awaitState(d, "ext.0", protocol.StateExited); w.ExitCode != 7 || !strings.Contains(w.Reason, "exit code 7") {
		t.Errorf("%+v", w)
	}
	shmctl(t, d, "start", "calm")
	awaitState(d, "calm.0", protocol.StateReady)
	if strings.Contains(d.Log(), "cannot read a worker's output") {
		t.Error(d.Log())
	}
}

// What cannot take over is refused with the reason, and the daemon goes on as it was.
func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	program := nextProgram(t)
	d := testregion.Start(t, named+jobs+idle("w", "count = 2")+shell("ext", "while read -r line; do echo \"said $line\"; done <\"$FIFO\"", `env.FIFO = "/dev/zero"`))
	before := d.WaitWorkers("as they were", everyone)
	dir := testregion.Dir(t)
	put := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	conf := filepath.Join(d.Dir, "shmd.toml")
	was, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	// pretends prints as its self-check what it is told, and can then not be executed.
	pretends := func(stdout, stderr string) string {
		return compile(t, "package main\nimport \"os\"\nfunc main() { os.Stdout.WriteString(`"+stdout+"`); os.Stderr.WriteString(`"+stderr+"`); exe, _ := os.Executable(); os.Chmod(exe, 0o600) }")
	}
	for _, c := range []struct{ name, binary, conf, reason string }{
		{"no such file", filepath.Join(dir, "none"), "", "no such file"},
		{"a directory", dir, "", "no regular file"},
		{"not executable", put("plain", "x", 0o644), "", "not executable"},
		{"for others to write", put("open", "x", 0o757), "", "can be written by others (mode 0757)"},
		{"no shmd", "/bin/true", "", "did not pass its self-check"},
		{"no program", put("script", "#!/bin/sh\n", 0o755), "", "no ELF program"},
		{"says why", pretends("", "shmd: not today"), "", "did not pass its self-check: it said: not today"},
		{"passes and cannot be executed", pretends(`{"schema":1,"version":"v0","layout":"1.0"}`, ""), "", "permission denied"},
		{"wrong configuration", program, string(was) + "\n[worker.x]\nbuiltin = \"nap\"\n", `the configuration has 1 problem`},
		{"unfit configuration", program, strings.Replace(string(was), "slots = 16", "slots = 8", 1), `its channel "jobs" has slots = 16 and slot_size = 64, in the configuration 8 and 64`},
	} {
		if c.conf != "" {
			if err := os.WriteFile(conf, []byte(c.conf), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_, errs, code := d.Shmctl("upgrade", "--binary", c.binary)
		if code != 1 || !strings.Contains(errs, c.reason) || !strings.Contains(errs, "goes on as it was") {
			t.Errorf("%s: exit code %d\n%s", c.name, code, errs)
		}
		if err := os.WriteFile(conf, was, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, w := range d.WaitWorkers("as they were", everyone) {
			if old := byName(t, before, w.Name); w != old {
				t.Errorf("%s: %+v became %+v", c.name, old, w)
			}
		}
	}
	if os.Geteuid() == 0 {
		foreign := put("foreign", "x", 0o755)
		if err := os.Chown(foreign, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if _, errs, code := d.Shmctl("upgrade", "--binary", foreign); code != 1 || !strings.Contains(errs, "belongs to user 12345") {
			t.Errorf("another user's program: exit code %d\n%s", code, errs)
		}
	}
	shmctl(t, d, "restart", "w.1") // a worker that is started now inherits nothing of it
	pid := byName(t, d.WaitReady(), "w.1").Pid
	fds, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if link, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/fd/" + fd.Name()); strings.Contains(link, "handover") || strings.HasSuffix(link, ".lock") {
			t.Errorf("worker holds %s", link)
		}
	}
	var u upgraded
	d.JSON(&u, "upgrade", "--binary", program)
	if u.To != nextVersion {
		t.Errorf("%+v", u)
	}
}

// A daemon that is killed at any time of an upgrade is followed by one that adopts the region.
func TestKilledInUpgrade(t *testing.T) {
	t.Parallel()
	program := nextProgram(t)
	d := testregion.Start(t, named+jobs+idle("w", "count = 4"))
	before := d.WaitWorkers("as they were", everyone)
	hung := compile(t, "package main\nimport (\"os\"; \"os/signal\")\nfunc main() { c := make(chan os.Signal); signal.Notify(c); for range c { } }")
	for _, c := range []struct {
		point, binary string
		reached       func(pid int) bool
	}{
		{"the self-check runs", hung, func(pid int) bool {
			return slices.ContainsFunc(children(pid), func(child int) bool {
				args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child))
				return strings.Contains(string(args), "--self-check")
			})
		}},
		{"the self-check is passed", program, func(int) bool { return strings.Contains(d.Log(), "upgrade begins") }},
		{"the new program runs", program, func(pid int) bool {
			exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
			return exe == program
		}},
	} {
		cmd := exec.Command(filepath.Join(testregion.Binaries(t), "shmctl"), "-r", d.Name, "-s", d.Socket, "upgrade", "--binary", c.binary)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, c.point, func() bool { return c.reached(d.Cmd.Process.Pid) })
		d.Kill()
		d.Again()
		cmd.Wait()
		d.WaitLog("region adopted", `"living":4`)
		for _, w := range d.WaitWorkers("as they were", everyone) {
			if old := byName(t, before, w.Name); w != old {
				t.Errorf("%s: %+v became %+v", c.point, old, w)
			}
		}
		for _, pid := range holders(t, d) {
			if args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(args), "--self-check") {
				t.Errorf("%s: the candidate lives on with the memory", c.point)
			}
		}
	}
}

// A program that hangs is told of while it is waited for. One that hangs in its self-check is given up; after that it has the daemon's process, so status says
// what to do, and that helps.
func TestUpgradeToOneThatHangs(t *testing.T) {
	t.Parallel()
	const source = "package main\nimport (\"os\"; \"os/signal\")\nfunc main() { if os.Args[len(os.Args)-1] == \"--self-check\" { %s }; c := make(chan os.Signal); signal.Notify(c); for range c { } }"
	d := testregion.Start(t, named+jobs+idle("w", "count = 2"))
	before := d.WaitWorkers("as they were", everyone)
	_, errs, code := d.Shmctl("upgrade", "--binary", compile(t, fmt.Sprintf(source, "")))
	if code != 1 || !strings.Contains(errs, "the new program has not said yet whether it can take over") || !strings.Contains(errs, "goes on as it was") || !strings.Contains(errs, "no answer within 10s") {
		t.Errorf("hangs in its self-check: exit code %d\n%s", code, errs)
	}
	pid := d.Cmd.Process.Pid
	cmd := exec.Command(filepath.Join(testregion.Binaries(t), "shmctl"), "-r", d.Name, "-s", d.Socket, "upgrade", "--binary",
		compile(t, fmt.Sprintf(source, "os.Stdout.WriteString(`{\"schema\":1,\"version\":\"v0\",\"layout\":\"1.0\"}`); return")))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(testregion.Limit, func() { cmd.Process.Kill() }).Stop()
	lines := bufio.NewScanner(stderr)
	for _, want := range []string{"(pid " + strconv.Itoa(pid) + "), and is not ready yet", "does not get ready. Workers go on; if it hangs, kill -9 " + strconv.Itoa(pid)} {
		for lines.Scan() && !strings.Contains(lines.Text(), want) {
		}
		if !strings.Contains(lines.Text(), want) {
			t.Fatalf("no line %q", want)
		}
	}
	status, _, _ := d.Shmctl("status")
	if row := "shmd       does not answer: workers go on, and nobody repairs or restarts what dies  if it hangs, kill -9 " + strconv.Itoa(pid) + ": the next daemon takes the region over"; !strings.Contains(status, row) {
		t.Errorf("no row %q in\n%s", row, status)
	}
	d.Kill()
	d.Again()
	for lines.Scan() {
		errs += lines.Text() + "\n"
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(errs, "ended in the middle of the upgrade; the next one") {
		t.Errorf("%v\n%s", err, errs)
	}
	d.WaitLog("region adopted", `"living":2`)
	for _, w := range d.WaitWorkers("as they were", everyone) {
		if old := byName(t, before, w.Name); w != old {
			t.Errorf("%+v became %+v", old, w)
		}
	}
}

// Only root and the daemon's user may.
func TestUpgradeIsNotForOthers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("needs root to be somebody else")
		return
	}
	d := testregion.Start(t, named+"[access]\noperate = [\"*\"]\n"+idle("w"))
	cmd := exec.Command(filepath.Join(testregion.Binaries(t), "shmctl"), "-r", d.Name, "-s", d.Socket, "upgrade")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 5 || !strings.Contains(string(out), "user 65534 may not replace the daemon's program") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A region that stops does not wait for the program that was asked whether it could take over.
func TestStopBesideASelfCheck(t *testing.T) {
	t.Parallel()
	program := binary(t)
	d := testregion.Start(t, named+idle("w"), "DAEMON_TEST_ROLE=hangs")
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Shmctl("upgrade", "--binary", program)
	}()
	eventually(t, "the program runs", func() bool {
		return slices.ContainsFunc(children(d.Cmd.Process.Pid), func(pid int) bool {
			args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			return strings.Contains(string(args), "--self-check")
		})
	})
	var report struct {
		Daemon struct {
			How    string
			ExitNs int64 `json:"exit_ns"`
		}
	}
	if err := json.Unmarshal([]byte(shmctl(t, d, "stop", "-o", "json")), &report); err != nil || report.Daemon.How != "exit" || report.Daemon.ExitNs > int64(6*time.Second) {
		t.Errorf("%+v, %v", report, err)
	}
	<-done
}
