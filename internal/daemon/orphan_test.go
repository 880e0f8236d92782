package daemon_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
)

// brief is a region whose workers wait half a second for a next daemon.
const brief = "[region]\nname = \"test\"\norphan_timeout = \"500ms\"\n"

// filter is a group that runs cat as a filter.
const filter = "[channel.lines]\nkind = \"queue\"\nslots = 4\nslot_size = \"64B\"\n[worker.cat]\ncommand = [\"cat\"]\nstdin = \"lines\"\nack = \"written\"\n"

// When no daemon follows one that was killed, all workers end by themselves: builtins and what attaches through pkg/shm, filters with their shims, and
// commands that know nothing of shmd, also such as ignore SIGTERM.
func TestOrphansEnd(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, brief+jobs+filter+idle("w", "count = 2")+
		shell("ext", "exec sleep 1000")+shell("hard", "trap '' TERM; while :; do sleep 1; done", `stop_timeout = "100ms"`))
	var all []process
	for _, w := range d.WaitWorkers("as they were", everyone) {
		all = append(all, watch(t, w.Pid))
		if w.ShimPid != 0 {
			all = append(all, watch(t, w.ShimPid))
		}
	}
	guard := watch(t, guardOf(t, d))
	d.Kill()
	for _, p := range append(all, guard) {
		p.ended(t)
	}
	if left := holders(t, d); len(left) > 0 {
		t.Errorf("processes %v still hold the region", left)
	}
	if left, _ := filepath.Glob(filepath.Join(d.Dir, "*.lock")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A daemon that follows in time cancels it, with a guard of its own; so does one that only hangs. After the next death it is due again.
func TestOrphansWaitForTheNextDaemon(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, strings.Replace(brief, "500ms", "2s", 1)+idle("w", "count = 2")+shell("ext", "exec sleep 1000"))
	before := d.WaitWorkers("as they were", everyone)
	for range 3 {
		old := watch(t, guardOf(t, d))
		d.Kill()
		d.Again()
		old.ended(t)
		guardOf(t, d)
	}
	shmctl(t, d, "upgrade")
	guardOf(t, d)
	d.Cmd.Process.Signal(syscall.SIGSTOP)
	var all []*os.File
	for _, w := range before {
		all = append(all, watch(t, w.Pid).pidfd)
	}
	if ended, err := sys.PollReadable(all, 2300*time.Millisecond); err != nil || slices.Contains(ended, true) {
		t.Errorf("a daemon that hangs for longer than orphan_timeout is none that is dead: %v, %v", ended, err)
	}
	d.Cmd.Process.Signal(syscall.SIGCONT)
	for _, w := range d.WaitWorkers("as they were", everyone) {
		if old := byName(t, before, w.Name); w != old {
			t.Errorf("%+v became %+v", old, w)
		}
	}
	var last []process
	for _, w := range before {
		last = append(last, watch(t, w.Pid))
	}
	d.Kill()
	for _, p := range last {
		p.ended(t)
	}
}

// A region that is stopped, with or without a daemon, has no guard left.
func TestGuardEndsWithTheRegion(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+shell("ext", "exec sleep 1000"))
	guard := watch(t, guardOf(t, d))
	shmctl(t, d, "stop")
	if guard.alive() {
		t.Error("a guard is left by a daemon that ended in order")
	}
	d.Cmd.Wait()

	d = testregion.Start(t, named+shell("ext", "exec sleep 1000"))
	guard = watch(t, guardOf(t, d))
	d.Kill()
	shmctl(t, d, "stop")
	guard.ended(t)

}

// What waits where no worker holds it outlives the daemon: in a queue that only outsiders use, among the dead letters, in a channel that a reload
// has made. What a reload has removed is held no longer.
func TestGuardHoldsWhatNobodyHas(t *testing.T) {
	t.Parallel()
	const queue = "[channel.%s]\nkind = \"queue\"\nslots = 8\nslot_size = \"64B\"\nmax_deliveries = 1\n"
	d := testregion.Start(t, named+fmt.Sprintf(queue, "jobs")+fmt.Sprintf(queue, "old")+idle("w"))
	shmctl(t, d, "pub", "jobs", "bad")
	shmctl(t, d, "sub", "-q", "--ack=manual", "--timeout", "10s", "-n", "1", "jobs", "--", "false")
	shmctl(t, d, "pub", "jobs", "good")
	old := guardOf(t, d)
	conf := filepath.Join(d.Dir, "shmd.toml")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte(strings.Replace(string(text), "[channel.old]", "[channel.new]", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	shmctl(t, d, "reload")
	if now := guardOf(t, d); now == old {
		t.Error("the guard is that of before the reload")
	}
	shmctl(t, d, "pub", "new", "newer")
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", guardOf(t, d)))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", guardOf(t, d), e.Name())); strings.Contains(to, ":old") {
			t.Errorf("the guard holds %s, which the region has no more", to)
		}
	}
	d.Kill()
	d.Again()
	for channel, want := range map[string]string{"jobs": "good", "new": "newer"} {
		if got := shmctl(t, d, "sub", "--timeout", "10s", "-n", "1", channel); got != want+"\n" {
			t.Errorf("%s: %q, want %q", channel, got, want)
		}
	}
	if got := shmctl(t, d, "ch", "dead", "jobs"); !strings.Contains(got, "max-deliveries") {
		t.Errorf("the dead letter is gone: %s", got)
	}
}

// A guard that somebody kills is followed by another one, and none by a second.
func TestGuardIsFollowed(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w"))
	for range 2 {
		old := watch(t, guardOf(t, d))
		syscall.Kill(guardOf(t, d), syscall.SIGKILL)
		old.ended(t)
		d.WaitLog("the guard has ended", fmt.Sprintf(`"pid":%d`, old.pid))
		eventually(t, "another guard", func() bool { g := guards(d); return len(g) == 1 && g[0] != old.pid })
	}
	guard := watch(t, guardOf(t, d))
	shmctl(t, d, "stop")
	guard.ended(t)
	d.Cmd.Wait()
	if n := strings.Count(d.Log(), "the guard has ended"); n != 2 {
		t.Errorf("%d guards have ended by the log, want 2", n)
	}
}

// guards are the pids of a region's guards.
func guards(d *testregion.Region) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%s/cmdline", e.Name()))
		if strings.HasPrefix(string(args), "shmd\x00guard\x00"+d.Name+"\x00") {
			var pid int
			fmt.Sscan(e.Name(), &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// guardOf returns the one guard that a region has.
func guardOf(t *testing.T, d *testregion.Region) int {
	t.Helper()
	var pids []int
	eventually(t, "one guard", func() bool {
		pids = guards(d)
		return len(pids) == 1
	})
	return pids[0]
}

// A guard that cannot be started for want of descriptors is started when there are some again.
func TestGuardIsTriedAgain(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w"))
	guard := guardOf(t, d)
	limit := func(nofile string) {
		t.Helper()
		if out, err := exec.CommandContext(within(t), "prlimit", "--pid", fmt.Sprint(d.Cmd.Process.Pid), "--nofile="+nofile+":").CombinedOutput(); err != nil {
			t.Fatalf("prlimit: %v\n%s", err, out)
		}
	}
	limit("3") // the soft one
	syscall.Kill(guard, syscall.SIGKILL)
	d.WaitLog("the guard could not be started")
	limit("1024")
	if now := guardOf(t, d); now == guard {
		t.Error("the guard is the one that was killed")
	}
}

// bare closes all that it inherits and execs a command: then it holds nothing of the region.
const bare = "for i in 3 4 5 6 7 8 9; do eval \"exec $i>&-\"; done; "

// A worker that has closed what it inherited ends with the others, whoever ends them: the guard when no daemon follows; the daemon, or if that is dead, hangs, or dies in the middle
// of it, the guard, in a stop. So does one that ignores SIGTERM.
func TestBareWorkersEnd(t *testing.T) {
	t.Parallel()
	conf := named + idle("w") + shell("bare", bare+"exec sleep 1000") + shell("hard", bare+"trap '' TERM; exec sleep 1000", `stop_timeout = "100ms"`)
	begin := func(t *testing.T, conf string) (d *testregion.Region, all []process) {
		d = testregion.Start(t, conf)
		for _, w := range d.WaitWorkers("as they were", everyone) {
			all = append(all, watch(t, w.Pid))
			if w.Name != "w.0" {
				eventually(t, "a worker without memory of the region", func() bool { return !slices.Contains(holders(t, d), w.Pid) })
			}
		}
		return d, append(all, watch(t, guardOf(t, d)))
	}
	expect := func(t *testing.T, d *testregion.Region, all []process) {
		t.Helper()
		for _, p := range all {
			p.ended(t)
		}
		for _, kind := range []string{"*.lock", "*.sock"} {
			if left, _ := filepath.Glob(filepath.Join(d.Dir, kind)); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		}
	}
	t.Run("orphaned", func(t *testing.T) {
		t.Parallel()
		d, all := begin(t, strings.Replace(conf, named, brief, 1))
		d.Kill()
		expect(t, d, all)
	})
	for how, signal := range map[string]syscall.Signal{"dead": syscall.SIGKILL, "hung": syscall.SIGSTOP, "well": 0} {
		t.Run("stopped, daemon "+how, func(t *testing.T) {
			t.Parallel()
			d, all := begin(t, conf)
			switch signal {
			case syscall.SIGKILL:
				d.Kill()
			case syscall.SIGSTOP:
				d.Cmd.Process.Signal(signal)
			}
			out := shmctl(t, d, "stop")
			for worker, want := range map[string]string{"bare.0": "term", "hard.0": "kill"} {
				if !regexp.MustCompile(`(?m)^` + worker + ` .* ` + want + `$`).MatchString(out) {
					t.Errorf("%s: want %s\n%s", worker, want, out)
				}
			}
			if signal == syscall.SIGSTOP {
				d.Cmd.Wait()
			}
			if left, _ := filepath.Glob(filepath.Join(d.Dir, "*.sock")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			for _, p := range all[:len(all)-1] {
				if p.alive() {
					t.Errorf("pid %d runs after the stop", p.pid)
				}
			}
			expect(t, d, all)
		})
	}
	t.Run("daemon killed in the stop", func(t *testing.T) {
		t.Parallel()
		d, all := begin(t, strings.Replace(conf, `stop_timeout = "100ms"`, `stop_timeout = "1s"`, 1))
		d.Cmd.Process.Signal(syscall.SIGTERM)
		d.WaitLog("worker gets SIGTERM", `"hard.0"`)
		d.Kill()
		expect(t, d, all)
	})
}
