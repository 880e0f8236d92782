package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

func TestLifeOfAWorker(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w", "count = 2", "backoff_min = \"1ms\""))
	w := awaitState(d, "w.1", protocol.StateReady)
	if w.Pid == 0 || w.Attachment == 0 || w.StartTicks == 0 || w.Reason != "" || w.Group != 0 || w.Instance != 1 || w.Restarts != 0 {
		t.Errorf("ready: %+v", w)
	}
	p := watch(t, w.Pid)
	syscall.Kill(w.Pid, syscall.SIGKILL)
	p.ended(t)
	old := w
	w = await(d, "w.1", func(w protocol.Worker) bool { return w.State == protocol.StateReady && w.Pid != old.Pid })
	if w.Restarts != 1 || w.ExitSignal != int(syscall.SIGKILL) || w.Attachment == old.Attachment {
		t.Errorf("after SIGKILL: %+v", w)
	}
	shmctl(t, d, "stop", "w.1")
	w = awaitState(d, "w.1", protocol.StateExited)
	if w.Pid != 0 || w.Attachment != 0 || w.Reason != "stopped" || w.ExitCode != 0 || w.ExitSignal != 0 {
		t.Errorf("stopped: %+v", w)
	}
	shmctl(t, d, "start", "w.1")
	w = awaitState(d, "w.1", protocol.StateReady)
	if w.Pid == 0 || w.Reason != "" || w.Restarts != 1 {
		t.Errorf("started: %+v", w)
	}
	shmctl(t, d, "restart", "w.1")
	if again := awaitState(d, "w.1", protocol.StateReady); again.Pid == w.Pid || again.Restarts != 2 {
		t.Errorf("restarted: %+v", again)
	}
	if w := awaitState(d, "w.0", protocol.StateReady); w.Restarts != 0 {
		t.Errorf("its neighbour: %+v", w)
	}
}

// Each restart policy with each end, down to the state in which the worker rests.
func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, restart, script string
		state                 protocol.State
		restarts              uint64
		reason                string
	}{
		{"always-clean", "always", "exit 0", protocol.StateFailed, 2, "ended 3 times within 1h0m0s, last: exit code 0"},
		{"always-unclean", "always", "exit 3", protocol.StateFailed, 2, "ended 3 times within 1h0m0s, last: exit code 3"},
		{"failure-clean", "on-failure", "exit 0", protocol.StateExited, 0, "exit code 0"},
		{"failure-unclean", "on-failure", "exit 3", protocol.StateFailed, 2, "ended 3 times within 1h0m0s, last: exit code 3"},
		{"failure-killed", "on-failure", "kill -9 $$", protocol.StateFailed, 2, "ended 3 times within 1h0m0s, last: killed by signal 9 (killed)"},
		{"never-clean", "never", "exit 0", protocol.StateExited, 0, "exit code 0"},
		{"never-unclean", "never", "exit 3", protocol.StateExited, 0, "exit code 3"},
		{"never-killed", "never", "kill -15 $$", protocol.StateExited, 0, "killed by signal 15 (terminated)"},
	}
	toml := named
	for _, tt := range tests {
		toml += shell(tt.name, tt.script, fmt.Sprintf("restart = %q", tt.restart), "crash_limit = 2", "crash_window = \"1h\"", "backoff_min = \"1ms\"")
	}
	d := testregion.Launch(t, toml)
	for _, tt := range tests {
		w := awaitState(d, tt.name+".0", tt.state)
		if w.Reason != tt.reason || w.Restarts != tt.restarts || w.Pid != 0 {
			t.Errorf("%s: %+v", tt.name, w)
		}
	}
}

func TestBackoffGrowsUntilTheWorkerIsGivenUp(t *testing.T) {
	t.Parallel()
	flag := filepath.Join(t.TempDir(), "good")
	d := testregion.Launch(t, named+shell("w", "test -e "+flag+" && exec sleep 1000", "crash_limit = 5", "backoff_min = \"20ms\"", "backoff_max = \"70ms\"", "stop_timeout = \"1h\""))
	series := func(begin int) {
		t.Helper()
		w := awaitState(d, "w.0", protocol.StateFailed)
		if w.Reason != "ended 6 times within 10m0s, last: exit code 1" {
			t.Errorf("reason %q", w.Reason)
		}
		var starts, ends []record
		eventually(t, "six starts and ends are in the log", func() bool {
			starts = records(t, d, func(r record) bool { return r.Message == "worker started" })[begin:]
			ends = records(t, d, func(r record) bool { return r.Message == "worker died" })[begin:]
			return len(starts) == 6 && len(ends) == 6
		})
		for i, least := range []time.Duration{20, 40, 70, 70, 70} {
			least = least*time.Millisecond - time.Millisecond // the log has milliseconds
			if pause := starts[i+1].At.Sub(ends[i].At); pause < least {
				t.Errorf("restart %d came %v after the end; the backoff is %v at least", i+1, pause, least)
			}
		}
	}
	series(0)
	d.WaitLog("worker given up", "shmctl -r "+d.Name+" start w.0")
	shmctl(t, d, "start", "--no-wait", "w.0") // from a short delay on again
	await(d, "w.0", func(w protocol.Worker) bool { return w.State != protocol.StateFailed || w.Restarts > 5 })
	series(6)
	if err := os.WriteFile(flag, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	shmctl(t, d, "start", "w.0")
	awaitState(d, "w.0", protocol.StateReady)
}

// In backoff a worker says when it starts again; shmctl start does not wait for that, and shmctl stop ends it.
func TestBackoffCanBeCutShort(t *testing.T) {
	t.Parallel()
	d := testregion.Launch(t, named+shell("w", "exit 7", "crash_limit = 0", "backoff_min = \"1h\"", "backoff_max = \"2h\""))
	w := awaitState(d, "w.0", protocol.StateBackoff)
	if !strings.HasPrefix(w.Reason, "exit code 7; starts again in 1h") || w.ExitCode != 7 || w.Pid != 0 || w.Restarts != 0 {
		t.Errorf("%+v", w)
	}
	shmctl(t, d, "start", "--no-wait", "w.0")
	eventually(t, "it is started at once", func() bool {
		return len(records(t, d, func(r record) bool { return r.Message == "worker started" })) == 2
	})
	awaitState(d, "w.0", protocol.StateBackoff)
	shmctl(t, d, "stop", "w.0")
	if w := awaitState(d, "w.0", protocol.StateExited); w.Reason != "stopped" {
		t.Errorf("%+v", w)
	}
	shmctl(t, d, "start", "--no-wait", "w.0")
	awaitState(d, "w.0", protocol.StateBackoff)
}

// A worker that is not ready in time has failed, whatever it ends with.
func TestReadyTimeout(t *testing.T) {
	t.Parallel()
	keys := []string{"ready_timeout = \"300ms\"", "backoff_min = \"1ms\"", "crash_limit = 1", "stop_timeout = \"1h\""}
	d := testregion.Launch(t, named+
		shell("deaf", "exec sleep 1000", append(keys, "ready = \"call\"")...)+
		shell("once", "exec sleep 1000", append(keys, "ready = \"call\"", "restart = \"never\"")...)+
		group(t, "unready", "unready", append(keys, "ready_timeout = \"3s\"", "restart = \"never\"")[1:]...))
	for name, want := range map[string]string{
		"deaf.0":    "ended 2 times within 10m0s, last: not ready after 300ms; killed by signal 15 (terminated)",
		"once.0":    "not ready after 300ms; killed by signal 15 (terminated)",
		"unready.0": "not ready after 3s; exit code 0",
	} {
		if w := awaitState(d, name, protocol.StateFailed); w.Reason != want {
			t.Errorf("%s: reason %q, want %q", name, w.Reason, want)
		}
	}
	d.WaitLog("worker asked to quit", `"worker":"unready.0"`, "not ready after 3s")
}

func TestReadyWhenItSaysSo(t *testing.T) {
	t.Parallel()
	d := testregion.Launch(t, named+jobs+group(t, "late", "late", "consume = [\"jobs\"]")+shell("exec", "exec sleep 1000", "consume = [\"jobs\"]", "ready = \"exec\"")+
		idle("builtin", "ready = \"exec\""))
	awaitState(d, "exec.0", protocol.StateReady)
	awaitState(d, "builtin.0", protocol.StateReady)
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	if w := awaitState(d, "late.0", protocol.StateStarting); w.Pid == 0 {
		t.Errorf("%+v", w)
	}
	if err := q.Send(within(t), nil); err != nil {
		t.Fatal(err)
	}
	awaitState(d, "late.0", protocol.StateReady)
}

// What the launcher cannot do is the worker's reason, word for word.
func TestCommandsThatCannotRun(t *testing.T) {
	t.Parallel()
	dir := testregion.Dir(t)
	for name, text := range map[string]string{"plain": "", "orphan": "#!/no/such/interpreter\n", "nothing": "no program"} {
		mode := os.FileMode(0o755)
		if name == "plain" {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name, keys, reason string
		code               int
	}{
		{"no-path", `command = ["no-such-program"]`, `cannot run "no-such-program": executable file not found in $PATH; install it, or give its full path`, 127},
		{"no-file", `command = ["DIR/none"]`, `cannot run "DIR/none": no such file or directory; install it, or correct the path`, 127},
		{"no-bit", `command = ["DIR/plain"]`, `cannot run "DIR/plain": permission denied; the worker's user may not execute it`, 126},
		{"no-interpreter", `command = ["DIR/orphan"]`, `cannot run "DIR/orphan": no such file or directory; the interpreter in its first line, or its loader, is not there`, 126},
		{"no-program", `command = ["DIR/nothing"]`, `cannot run "DIR/nothing": exec format error; a script begins with #! and its interpreter`, 126},
		{"directory", `command = ["DIR"]`, `cannot run "DIR": is a directory; see "command" in the configuration`, 126},
		{"no-dir", "command = [\"true\"]\ndir = \"DIR/none\"", `working directory: chdir DIR/none: no such file or directory; see "dir" in the configuration`, 126},
		{"no-user", "command = [\"true\"]\nuser = \"no-such-user\"", "could not be started: user: unknown user no-such-user", 0},
		{"no-uid", "command = [\"true\"]\nuser = \"4123456789\"", "could not be started: user: unknown userid 4123456789", 0},
	}
	toml := named
	for _, tt := range tests {
		toml += fmt.Sprintf("[worker.%s]\nrestart = \"never\"\n%s\n", tt.name, strings.ReplaceAll(tt.keys, "DIR", dir))
	}
	toml += "[worker.again]\ncommand = [\"no-such-program\"]\ncrash_limit = 1\nbackoff_min = \"1ms\"\n"
	d := testregion.Launch(t, toml)
	for _, tt := range tests {
		w := awaitState(d, tt.name+".0", protocol.StateFailed)
		if want := strings.ReplaceAll(tt.reason, "DIR", dir); w.Reason != want || w.ExitCode != tt.code {
			t.Errorf("%s:\ngot  %q, exit code %d\nwant %q, %d", tt.name, w.Reason, w.ExitCode, want, tt.code)
		}
	}
	w := awaitState(d, "again.0", protocol.StateFailed)
	if want := "ended 2 times within 10m0s, last: " + tests[0].reason; w.Reason != want {
		t.Errorf("with restarts: %q, want %q", w.Reason, want)
	}
	d.WaitLog(`"stream":"stderr"`, "shmd launcher: working directory") // and its last words are in the log
}

// nobody is a user without rights.
const nobody = 65534

func TestUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test must run as root")
	}
	t.Parallel()
	closed := testregion.Dir(t)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	const say = `echo "I am $(id -u):$(id -g) $(id -G), $USER at $HOME"; exec sleep 1000`
	d := testregion.Launch(t, named+shell("name", say, "user = \"nobody\"")+shell("number", say, "user = \"65534\"", "env.HOME = \"/nowhere\"")+
		shell("closed", "true", "user = \"nobody\"", "restart = \"never\"", fmt.Sprintf("dir = %q", closed))+idle("builtin", "user = \"nobody\""))
	gid := strings.TrimSpace(func() string { // of nobody: it differs between distributions
		b, _ := os.ReadFile("/etc/passwd")
		for line := range strings.Lines(string(b)) {
			if f := strings.Split(line, ":"); f[0] == "nobody" {
				return f[3]
			}
		}
		return "?"
	}())
	d.WaitLog(`"worker":"name.0"`, fmt.Sprintf("I am %d:%s %s, nobody at ", nobody, gid, gid))
	d.WaitLog(`"worker":"number.0"`, fmt.Sprintf("I am %d:%s %s, nobody at /nowhere", nobody, gid, gid))
	if w := awaitState(d, "closed.0", protocol.StateFailed); w.Reason != "working directory: chdir "+closed+": permission denied; see \"dir\" in the configuration" {
		t.Errorf("%+v", w)
	}
	w := awaitState(d, "builtin.0", protocol.StateReady)
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.Pid)); err != nil || !strings.Contains(string(status), "\nUid:\t65534\t65534\t65534\t65534\n") {
		t.Errorf("%v\n%s", err, status)
	}

	d = testregion.LaunchAs(t, nobody, named+shell("w", "true", "user = \"root\"", "restart = \"never\""))
	const want = `cannot become user root: setgroups: operation not permitted; the daemon needs CAP_SETUID and CAP_SETGID for the key "user"`
	if w := awaitState(d, "w.0", protocol.StateFailed); w.Reason != want {
		t.Errorf("without privilege: %q", w.Reason)
	}
}
