package systemd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const root = "/sys/fs/cgroup"

// control takes the section of workers.conf about control groups.
func control(t testing.TB) string {
	t.Helper()
	conf := read(t, "/usr/share/doc/shmd/examples/workers.conf")
	_, section, ok := strings.Cut(conf, "# --- Control groups")
	if !ok {
		t.Fatal("workers.conf has no section on control groups")
	}
	section, _, _ = strings.Cut(section, "\n\n")
	return "[Service]\n# " + section + "\n"
}

// hugetlb has systemd's cgroups pass on the one controller that systemd does not know, and so leaves alone, and that cgroup v2 has wherever these tests run: a
// stand-in for memory, cpu and pids.
func hugetlb(t testing.TB) {
	t.Helper()
	for _, dir := range []string{root, root + "/system.slice"} {
		if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+hugetlb"), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// cgroupOf is the cgroup of a process in the unit, relative to that.
func (s service) cgroupOf(pid int) string {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/system.slice/"+s.unit); ok {
			return path
		}
	}
	s.t.Fatalf("pid %d is not in the unit: %s", pid, b)
	return ""
}

const capped = `
[worker.capped]
builtin = "idle"
count = 2
cgroup = true
cgroup_limits = { hugetlb_max = "4MiB" }

[worker.plain]
command = ["/bin/sh", "-c", "sleep infinity & wait"]
cgroup = true
`

// expectPlaces: each where it is to be, with its limits.
func (s service) expectPlaces(max string) {
	s.t.Helper()
	base := root + "/system.slice/" + s.unit
	for name, w := range s.workers() {
		want := "/shmd:default"
		if w.Group != "idle" {
			want += ":" + w.Group
		}
		if got := s.cgroupOf(w.Pid); got != want {
			s.t.Errorf("%s is in %q, want %q", name, got, want)
		}
	}
	for file, want := range map[string]string{"cgroup.procs": "", "cgroup.subtree_control": "hugetlb", "shmd:default:capped/hugetlb.2MB.max": max, "shmd:default:plain/hugetlb.2MB.max": "max"} {
		if got := strings.TrimSpace(read(s.t, filepath.Join(base, file))); got != want {
			s.t.Errorf("%s has %q, want %q", file, got, want)
		}
	}
}

// Groups have cgroups of their own with limits, and keep them through kills of the daemon and of workers, an upgrade, a scale and a reload; nothing is left of
// them.
func TestCgroups(t *testing.T) {
	hugetlb(t)
	dropIn(t, "shmd.service.d", "cgroups.conf", control(t))
	configure(t, "default", capped)
	if out, code := try("shmd", "check", "-c", "/etc/shmd/default.toml"); code != 0 {
		t.Errorf("shmd check: %s", out)
	}
	s := start(t, unit, "default")
	s.waitReady()
	s.expectPlaces("4194304")
	before := s.workers()

	for range 3 { // the daemon is killed, and the workers live on in their cgroups
		was := s.invocation()
		run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
		s.waitStarted(was)
		s.waitReady()
		s.expectSame(before)
		s.expectPlaces("4194304")
	}
	s.expectOneRegion()
	s.shmctl("upgrade")
	s.expectSame(before)
	s.expectPlaces("4194304")
	if out := s.shmctl("status"); !strings.Contains(out, "shmd:default:capped") {
		t.Errorf("status does not name the cgroup:\n%s", out)
	}

	kill(t, before["capped.1"].Pid, syscall.SIGKILL)
	s.poll("capped.1 is back", func() (string, bool) {
		w := s.workers()["capped.1"]
		return fmt.Sprint(w), w.State == "ready" && w.Pid != before["capped.1"].Pid
	})
	s.shmctl("scale", "capped=4")
	s.waitReady()
	s.expectPlaces("4194304")

	// Another limit takes no new process, none at all takes the limit away, and one that the unit has not is refused.
	before = s.workers()
	shipped := read(t, "/etc/shmd/default.toml")
	reload := func(from, to string) (string, int) {
		if err := os.WriteFile("/etc/shmd/default.toml", []byte(strings.ReplaceAll(shipped, from, to)), 0o644); err != nil {
			t.Fatal(err)
		}
		return try("shmctl", "reload")
	}
	if out, code := reload(`"4MiB"`, `"6MiB"`); code != 0 {
		t.Errorf("reload: %s", out)
	}
	s.expectSame(before)
	s.expectPlaces("6291456")
	if out, code := reload(`hugetlb_max = "4MiB"`, `pids_max = 100`); code == 0 || !strings.Contains(out, `pids_max needs the controller "pids"`) {
		t.Errorf("reload with a controller that is not there: exit code %d\n%s", code, out)
	}
	s.expectPlaces("6291456")
	if out, code := reload(`hugetlb_max = "4MiB"`, ``); code != 0 {
		t.Errorf("reload: %s", out)
	}
	s.expectSame(before)
	s.expectPlaces("max")

	// Without the key the instances are restarted outside of it, and it is gone then.
	if out, code := reload("cgroup = true\ncgroup_limits = { hugetlb_max = \"4MiB\" }", ``); code != 0 {
		t.Errorf("reload: %s", out)
	}
	s.poll("the cgroup is gone", func() (string, bool) {
		_, err := os.Stat(root + "/system.slice/" + unit + "/shmd:default:capped")
		return "it is there", os.IsNotExist(err)
	})
	s.waitReady()
	if got := s.cgroupOf(s.workers()["capped.0"].Pid); got != "/shmd:default" {
		t.Errorf("capped.0 is in %q", got)
	}
	run(t, "systemctl", "stop", unit)
	s.expectNothingLeft()
	if left, _ := filepath.Glob(root + "/system.slice/" + unit + "/shmd*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Without the settings each start says what is missing: nothing is delegated, or the daemon could not come back.
func TestCgroupsThatAreNotDelegated(t *testing.T) {
	hugetlb(t)
	for _, c := range []struct{ dropIn, group, want string }{
		{"", "plain.0", "is not delegated"},
		{"[Service]\nDelegate=yes\n", "plain.0", "ProtectControlGroups=no"},
		{"[Service]\nDelegate=yes\nProtectControlGroups=no\n", "capped.0", "ExecStopPost=shmd let-in"},
	} {
		t.Run(c.want, func(t *testing.T) {
			if c.dropIn != "" {
				dropIn(t, "shmd.service.d", "cgroups.conf", c.dropIn)
			}
			configure(t, "default", strings.ReplaceAll(capped, "cgroup = true", "cgroup = true\nrestart = \"never\""))
			if out, code := try("shmd", "check", "-c", "/etc/shmd/default.toml"); strings.Contains(c.want, "ExecStopPost") == (code != 0) {
				t.Errorf("shmd check: exit code %d: %s", code, out)
			}
			run(t, "systemctl", "start", "--no-block", unit)
			s := service{t: t, unit: unit, region: "default"}
			t.Cleanup(func() {
				run(t, "systemctl", "stop", unit)
				try("systemctl", "reset-failed", unit)
				s.expectNothingLeft()
			})
			s.poll(c.group+" has failed", func() (string, bool) {
				out, _ := try("shmctl", "ps", "-o", "json")
				return out, strings.Contains(out, c.want)
			})
			if out, _ := try("shmctl", "doctor"); !strings.Contains(out, "Delegate=yes") && !strings.Contains(out, "let-in") {
				t.Errorf("doctor does not say what to set:\n%s", out)
			}
		})
	}
}
