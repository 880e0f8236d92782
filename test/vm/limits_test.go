// Package vm tests what shmd does with control groups under a kernel that gives it all of cgroup v2: in a small virtual machine, whatever this machine has.
//
// TestMain boots it: a kernel of Debian's and an initramfs of this machine's own files, with systemd, D-Bus, and shmd as `make install` installs it; the
// processor is emulated. The tests run inside, as root. image_test.go is what is in it, boot_test.go how it comes up and ends, and this file what is promised.
package vm

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

const limited = `
[worker.eater]
command = ["/init"]
env = { SHMD_VM = "eat" }
backoff_min = "10ms"
cgroup = true
cgroup_limits = { memory_max = "64MiB" }

[worker.forker]
command = ["/init"]
env = { SHMD_VM = "fork" }
cgroup = true
cgroup_limits = { pids_max = 30 }

[worker.spinner]
command = ["/init"]
env = { SHMD_VM = "spin" }
cgroup = true
cgroup_limits = { cpu_max = 20 }

[worker.plain]
builtin = "idle"
`

// expectPlaces: the daemon and who has no cgroup are in the daemon's own, the others in their group's, and nobody in the unit's.
func (s service) expectPlaces() {
	s.t.Helper()
	if got := read(s.t, base, "cgroup.procs"); got != "" {
		s.t.Errorf("in the unit's own cgroup are %q", got)
	}
	if got := strings.Fields(read(s.t, base, "cgroup.subtree_control")); len(got) < 3 {
		s.t.Errorf("the unit passes on %v", got)
	}
	var pid int
	fmt.Sscan(s.show("MainPID"), &pid)
	if got := s.place(pid); got != "/shmd:default" {
		s.t.Errorf("the daemon is in %q", got)
	}
	for name, w := range s.workers() {
		want := "/shmd:default"
		if w.Group != "plain" {
			want += ":" + w.Group
		}
		if got := s.place(w.Pid); got != want {
			s.t.Errorf("%s is in %q, want %q", name, got, want)
		}
	}
}

// expectLimits: of memory, of processes, and of CPU time, as the kernel shows them.
func (s service) expectLimits(memory, pids, cpu string) {
	s.t.Helper()
	for file, want := range map[string]string{"eater/memory.max": memory, "forker/pids.max": pids, "spinner/cpu.max": cpu} {
		if got := read(s.t, cgroupOf(file)); got != want {
			s.t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
}

// expectSame: no worker has another process than before.
func (s service) expectSame(before map[string]worker) {
	s.t.Helper()
	for name, w := range s.workers() {
		if w.Pid != before[name].Pid || w.State != "ready" {
			s.t.Errorf("%+v, before %+v", w, before[name])
		}
	}
}

// expectMemoryLimit: the eater is killed by the kernel, alone, and that is told.
func (s service) expectMemoryLimit(limit string) {
	s.t.Helper()
	want := fmt.Sprintf("; out of memory: the kernel's OOM killer, in the cgroup of its group (memory_max = %s); starts again", limit)
	was, told := s.workers(), strings.Count(run(s.t, "shmctl", "events"), want)
	killed := number(s.t, "eater", "memory.events", "oom_kill")
	run(s.t, "shmctl", "kill", "-s", "USR1", "eater.0")
	s.restarted("eater.0", was["eater.0"])
	if got := number(s.t, "eater", "memory.events", "oom_kill"); got != killed+1 {
		s.t.Errorf("oom_kill: %d, want %d", got, killed+1)
	}
	out := run(s.t, "shmctl", "events")
	if strings.Count(out, want) != told+1 {
		s.t.Errorf("the events do not say once more %q:\n%s", want, out)
	}
	for name, w := range s.workers() {
		if name != "eater.0" && w.Pid != was[name].Pid {
			s.t.Errorf("%s was restarted too: %+v", name, w)
		}
	}
}

// expectPidsLimit: the forker has fewer children than it wants.
func (s service) expectPidsLimit() {
	s.t.Helper()
	run(s.t, "shmctl", "restart", "forker")
	denied, since := number(s.t, "forker", "pids.events", "max"), time.Now()
	run(s.t, "shmctl", "kill", "-s", "USR1", "forker.0")
	s.said("forker.0", "fork failed: fork/exec /usr/bin/sleep: resource temporarily unavailable", since)
	if got := number(s.t, "forker", "pids.events", "max"); got <= denied {
		s.t.Errorf("pids.events: max %d, as before", got)
	}
	if got, max := read(s.t, cgroupOf("forker"), "pids.current"), read(s.t, cgroupOf("forker"), "pids.max"); len(got) > len(max) || len(got) == len(max) && got > max {
		s.t.Errorf("%s processes, and pids.max is %s", got, max)
	}
}

// expectCPULimit: the spinner has no more than percent of a processor, and is held back for that.
func (s service) expectCPULimit(percent int64) {
	s.t.Helper()
	throttled := number(s.t, "spinner", "cpu.stat", "nr_throttled")
	used, since := number(s.t, "spinner", "cpu.stat", "usage_usec"), time.Now()
	poll(s.t, "the spinner was throttled 10 times", func() (string, bool) {
		n := number(s.t, "spinner", "cpu.stat", "nr_throttled")
		return fmt.Sprint(n - throttled), n >= throttled+10
	})
	used = number(s.t, "spinner", "cpu.stat", "usage_usec") - used
	elapsed := time.Since(since).Microseconds()
	if got := used * 100 / elapsed; got > percent*3/2 || got < percent/4 {
		s.t.Errorf("the spinner had %d %% of a processor, and its limit is %d %%", got, percent)
	}
}

// Each limit does what it is there for, and only to its group.
func TestLimitsAct(t *testing.T) {
	dropIn(t, delegate(t))
	configure(t, limited)
	if out, code := try("shmd", "check", "-c", "/etc/shmd/default.toml"); code != 0 {
		t.Errorf("shmd check: %s", out)
	}
	s := start(t)
	s.waitReady()
	s.expectPlaces()
	s.expectMemoryLimit("64MiB")
	s.expectPidsLimit()
	s.expectCPULimit(20)

	// Who is killed by somebody else was not out of memory.
	was := s.workers()["eater.0"]
	run(t, "setpriv", "bash", "-c", fmt.Sprintf("kill -KILL %d", was.Pid))
	s.restarted("eater.0", was)
	if out := strings.TrimSpace(run(t, "shmctl", "events")); strings.Count(out, "out of memory") != 1 {
		t.Errorf("one was out of memory, and the events say:\n%s", out)
	}
}

// Limits outlive the daemon, its successor by an upgrade, and a reload, which may change them.
func TestLimitsLast(t *testing.T) {
	dropIn(t, delegate(t))
	configure(t, limited)
	s := start(t)
	s.waitReady()
	before := s.workers()
	run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
	for _, step := range []struct { // of the next daemon, at which it is killed too
		name string
		done func(pid int) bool
	}{
		{"it has been started", func(int) bool { return true }},
		{"it is in a cgroup of its own", func(pid int) bool {
			return strings.Contains(seen(fmt.Sprintf("/proc/%d/cgroup", pid)), "/shmd:default\n")
		}},
		{"it passes a controller on", func(int) bool { return seen(base+"/cgroup.subtree_control") != "" }},
		{"it has set a limit", func(int) bool { return seen(cgroupOf("eater")+"/memory.max") == "67108864\n" }},
		{"it has set all limits", func(int) bool { return seen(cgroupOf("spinner")+"/cpu.max") == "20000 100000\n" }},
	} {
		s.killAt(step.name, step.done)
	}
	poll(t, "another daemon is up", func() (string, bool) {
		now := s.show("ActiveState")
		return now, now == "active"
	})
	s.waitReady()
	s.expectSame(before)
	s.expectPlaces()
	s.expectLimits("67108864", "30", "20000 100000")
	s.expectMemoryLimit("64MiB")
	s.expectCPULimit(20)

	before = s.workers()
	run(t, "shmctl", "upgrade")
	s.expectSame(before)
	s.expectPlaces()
	s.expectLimits("67108864", "30", "20000 100000")
	s.expectMemoryLimit("64MiB")

	// Others hold at once, and take no new process.
	before = s.workers()
	configure(t, strings.NewReplacer("64MiB", "32MiB", "pids_max = 30", "pids_max = 40", "cpu_max = 20", "cpu_max = 10").Replace(limited))
	run(t, "shmctl", "reload")
	s.expectSame(before)
	s.expectLimits("33554432", "40", "10000 100000")
	s.expectMemoryLimit("32MiB")
	s.expectPidsLimit()
	s.expectCPULimit(10)

	// Without its key a limit is the kernel's own again.
	before = s.workers()
	configure(t, strings.NewReplacer(`memory_max = "64MiB"`, "", "pids_max = 30", "", "cpu_max = 20", "").Replace(limited))
	run(t, "shmctl", "reload")
	s.expectSame(before)
	s.expectLimits("max", "max", "max 100000")
	since := time.Now()
	run(t, "shmctl", "kill", "-s", "USR1", "eater.0")
	s.said("eater.0", "ate 256 MiB", since)
	s.expectSame(before)
}

// A group that is stopped leaves an empty cgroup, which goes; its limits are there again when it is started.
func TestStoppedGroupLeavesNothing(t *testing.T) {
	dropIn(t, delegate(t))
	configure(t, limited)
	s := start(t)
	s.waitReady()
	s.expectPidsLimit() // with children
	run(t, "shmctl", "stop", "forker", "eater")
	for _, group := range []string{"forker", "eater"} {
		poll(t, "the cgroup of "+group+" is gone", func() (string, bool) {
			_, err := os.Stat(cgroupOf(group))
			return fmt.Sprint(err), os.IsNotExist(err)
		})
	}
	run(t, "shmctl", "reload") // makes none for who is stopped
	if _, err := os.Stat(cgroupOf("eater")); err == nil {
		t.Error("a reload made the cgroup of a group that is stopped")
	}
	run(t, "shmctl", "start", "forker", "eater")
	s.waitReady()
	s.expectPlaces()
	s.expectLimits("67108864", "30", "20000 100000")
	s.expectPidsLimit()
	s.expectMemoryLimit("64MiB")
}

// A limit that leaves a worker no room to start is the reason of its end, and not the end of anything else.
func TestLimitThatIsTooSmall(t *testing.T) {
	dropIn(t, delegate(t))
	configure(t, `
[worker.thin]
command = ["/init"]
env = { SHMD_VM = "eat" }
restart = "never"
cgroup = true
cgroup_limits = { memory_max = "64KiB" }

[worker.plain]
builtin = "idle"
`)
	s := start(t, "--no-block")
	poll(t, "thin.0 has ended", func() (string, bool) {
		w := s.workers()["thin.0"]
		return fmt.Sprintf("%+v", w), w.State == "exited" && strings.Contains(w.Reason, "out of memory: the kernel's OOM killer, in the cgroup of its group (memory_max = 64KiB)")
	})
	s.restarted("plain.0", worker{})
}

// Without delegation each start says what is missing.
func TestWithoutDelegation(t *testing.T) {
	for _, c := range []struct{ name, dropIn, group, want string }{
		{"shipped", "[Service]\n", "eater.0", "is not delegated"},
		{"read-only", "[Service]\nDelegate=yes\n", "eater.0", "ProtectControlGroups=no"},
		{"no way back", "[Service]\nDelegate=yes\nProtectControlGroups=no\n", "eater.0", "ExecStopPost=shmd let-in"},
		{"one controller", strings.Replace(delegate(t), "Delegate=yes", "Delegate=pids", 1), "spinner.0", `cpu_max needs the controller "cpu"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dropIn(t, c.dropIn)
			configure(t, strings.ReplaceAll(limited, "cgroup = true", "cgroup = true\nrestart = \"never\""))
			s := start(t, "--no-block")
			poll(t, c.group+" has failed", func() (string, bool) {
				out, _ := try("shmctl", "ps", "-o", "json")
				return out, strings.Contains(out, strings.ReplaceAll(c.want, `"`, `\"`))
			})
			s.restarted("plain.0", worker{})
		})
	}
}

// A channel that does not fit into what the unit may have is refused, by the daemon in its own cgroup below it: the kernel would kill somebody.
func TestChannelBeyondTheUnit(t *testing.T) {
	dropIn(t, delegate(t)+"MemoryMax=96M\n")
	configure(t, limited)
	s := start(t)
	s.waitReady()
	before := s.workers()
	configure(t, limited+"[channel.large]\nkind = \"queue\"\nslots = 1024\nslot_size = \"128KiB\"\n")
	if out, code := try("shmctl", "reload"); code == 0 || !strings.Contains(out, base+"/memory.max") {
		t.Errorf("a channel of 128 MiB in a unit with 96: exit code %d\n%s", code, out)
	}
	s.expectSame(before)
	s.expectPlaces()
	for line := range strings.Lines(read(t, base, "memory.events")) {
		if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(f[0], "oom") && f[1] != "0" {
			t.Errorf("memory.events of the unit: %s", line)
		}
	}
}
