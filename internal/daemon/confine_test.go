package daemon_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
)

// What a group's configuration says of limits, priority and CPUs its processes have, under another user too.
func TestResources(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test must run as root")
	}
	t.Parallel()
	const say = `echo "$(ulimit -n) $(ulimit -Hc) $(ulimit -v), nice $(nice), cpus $(sed -n 's/^Cpus_allowed_list:\t//p' /proc/$$/status), oom $(cat /proc/$$/oom_score_adj)"; exec sleep 1000`
	keys := []string{`limits = { nofile = 123, core = "1MiB", as = "8GiB" }`, "nice = 5", `cpus = "0"`, "oom_score_adj = 77"}
	d := testregion.Launch(t, named+shell("own", say, keys...)+shell("other", say, append(keys, `user = "nobody"`)...)+idle("builtin", keys[1:]...)+
		idle("free")+shell("impossible", "true", `limits = { nofile = 1000000000000 }`, `restart = "never"`)+
		shell("few", "true", `limits = { nofile = 4 }`, `restart = "never"`))
	want := fmt.Sprintf("123 %d %d, nice 5, cpus 0, oom 77", 1<<20/512, 8<<30/1024) // dash counts core in blocks
	for _, name := range []string{"own", "other"} {
		d.WaitLog(fmt.Sprintf(`"worker":"%s.0"`, name), want)
	}
	w := awaitState(d, "builtin.0", protocol.StateReady)
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", w.Pid))
	if err != nil || len(tasks) < 2 {
		t.Fatal(tasks, err)
	}
	for _, task := range tasks { // each thread of it
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", w.Pid, task.Name()))
		if err == nil && !strings.Contains(string(b), "\nCpus_allowed_list:\t0\n") {
			t.Errorf("%s\n%s", task.Name(), b)
		}
	}
	if w := awaitState(d, "impossible.0", protocol.StateFailed); w.Reason != "cannot set limit nofile = 1000000000000: setrlimit: operation not permitted; to go above its own limit the daemon needs CAP_SYS_RESOURCE, or LimitNOFILE= in its unit" {
		t.Errorf("%+v", w)
	}
	if w := awaitState(d, "few.0", protocol.StateFailed); !strings.HasSuffix(w.Reason, "too many open files: its group's limit nofile = 4 is too low to start it") {
		t.Errorf("%+v", w)
	}
	d = testregion.LaunchAs(t, nobody, named+shell("w", "true", "nice = -5", `restart = "never"`))
	if w := awaitState(d, "w.0", protocol.StateFailed); w.Reason != "cannot set nice = -5: setpriority: permission denied; to go below its own value the daemon needs CAP_SYS_NICE" {
		t.Errorf("%+v", w)
	}
}

// A limit above the daemon's own, which it may not raise, is told with its place when the daemon starts, not when a worker does, and a reload refuses it.
func TestLimitAboveTheDaemons(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test must run as root")
	}
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &r); err != nil {
		t.Fatal(err)
	}
	if r.Max > 1<<30 { // unlimited; nothing here dumps so large a core
		r = syscall.Rlimit{Cur: min(r.Cur, 1<<30), Max: 1 << 30}
		if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &r); err != nil {
			t.Fatal(err)
		}
	}
	d := testregion.LaunchAs(t, nobody, named+idle("w", `limits = { core = "2GiB" }`, `restart = "never"`))
	const want = "limits.core in [worker.w]: the daemon's own hard limit is "
	d.WaitLog("workers of a group cannot be started with its limit", "shmd.toml:", want)
	awaitState(d, "w.0", protocol.StateFailed)
	if _, errs, code := d.Shmctl("reload", "--dry-run"); code != 1 || !strings.Contains(errs, want) || !strings.Contains(errs, "LimitCORE= in its unit") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
}
