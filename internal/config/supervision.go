package config

import (
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/cgroup"
	"github.com/shmd/shmd/internal/sys"
)

// minWatchdog is the least watchdog: a process that is not scheduled for so long is not hung.
const minWatchdog = 100 * time.Millisecond

// minStall is the least stall_after: the daemon looks twice in it.
const minStall = 100 * time.Millisecond

// supervision checks what a group says of its supervision, beyond starts and stops.
func (v *validator) supervision(at path, g *Group) {
	watchdog := at.key("watchdog")
	switch {
	case g.Watchdog == 0:
	case g.Filter():
		v.fail(watchdog, "a filter has no heartbeat; remove it: one that does not answer is reported after stall_timeout")
	case v.duration(watchdog, g.Watchdog, minWatchdog) && g.ReadyAtExec() && g.Ready == "" && len(g.Command) > 0:
		v.fail(watchdog, "a command without channels perhaps never attaches, and then has no heartbeat; remove it, or add ready = %q if it is one that does", ReadyCall)
	}
	onCrash := at.key("on_crash")
	v.oneOf(onCrash, g.OnCrash, OnCrashRepair, OnCrashReset)
	if g.OnCrash == OnCrashReset && g.Restart == RestartNever {
		v.fail(onCrash, "with restart = %q nothing is started again, so no group is reset; remove one of the two", RestartNever)
	}
	v.after(at.key("after"), g)
	v.resources(at, g)
}

// Limits are resource limits by name.
type Limits map[string]int64

// Unlimited is the value of a limit that is none.
const Unlimited = -1

// limitNames are the limits that there are, as sys.LimitNamed knows them.
var limitNames = []string{"nofile", "memlock", "nproc", "core", "as", "data", "stack", "fsize"}

// resources checks what a group's processes may take of the machine.
func (v *validator) resources(at path, g *Group) {
	for _, name := range slices.Sorted(maps.Keys(g.Limits)) {
		n, why := g.Limits[name], ""
		switch guess := nearest(name, limitNames); {
		case slices.Contains(limitNames, name) && (n >= 0 || n == Unlimited):
		case slices.Contains(limitNames, name):
			why = "it is below 0; write \"unlimited\" for none"
		case guess != "":
			why = fmt.Sprintf("there is no such limit; did you mean %q?", guess)
		default:
			why = "there is no such limit; there are " + quoted(limitNames)
		}
		if why != "" {
			v.errs = append(v.errs, v.c.src.problem(at.key("limits").key(name), "limits.%s in %s: %s", bare(name), at.table(), why))
		}
	}
	v.cgroup(at, g)
	v.between(at.key("nice"), g.Nice, -20, 19)
	v.between(at.key("oom_score_adj"), g.OOMScoreAdj, -1000, 1000)
	if _, err := parseCPUs(g.CPUs); err != nil {
		v.fail(at.key("cpus"), "%v", err)
	}
}

// limitsOnHost refuses more open files than the kernel lets any process have, root too, and limits above those of this process where it may not raise them.
func (v *validator) limitsOnHost(g *Group, s system) {
	for _, name := range slices.Sorted(maps.Keys(g.Limits)) {
		n := g.Limits[name]
		over := func(most uint64) bool { return n == Unlimited && most != sys.Unlimited || n >= 0 && uint64(n) > most }
		fail := func(format string, args ...any) {
			v.errs = append(v.errs, v.c.src.problem(path{"worker", g.Name, "limits", name}, "limits.%s in [worker.%s]: %s", name, bare(g.Name), fmt.Sprintf(format, args...)))
		}
		if name == "nofile" && s.nrOpen != nil {
			if most, err := s.nrOpen(); err == nil && over(uint64(most)) {
				fail("the kernel lets no process have more than %d; use that at most, or raise it (sysctl fs.nr_open=N)", most)
				continue
			}
		}
		if s.hard == nil || !slices.Contains(limitNames, name) {
			continue
		}
		most, raise, err := s.hard(name)
		if lateLimit(name) && raise { // of whoever the worker is by then
			raise = s.self.uid == 0 && (g.User == "" || g.User == "root" || g.User == "0")
		}
		if err != nil || raise || !over(most) {
			continue
		}
		have := FormatSize(int64(min(most, math.MaxInt64)))
		if name == "nofile" || name == "nproc" {
			have = strconv.FormatUint(most, 10)
		}
		fail("the daemon's own hard limit is %s, and it may not raise it; use that at most, or raise the daemon's (Limit%s= in its unit, ulimit -H in a shell)", have, strings.ToUpper(name))
	}
}

// lateLimit reports whether a limit is set when the worker has its user already, as the launcher does.
func lateLimit(name string) bool { return name == "as" || name == "data" || name == "stack" }

// hardLimit is the hard limit of a name of this process, and whether it may raise it.
func hardLimit(name string) (most uint64, raise bool, err error) {
	kind, ok := sys.LimitNamed(name)
	if !ok {
		return 0, false, fmt.Errorf("there is no limit %q", name)
	}
	_, most, err = sys.Getrlimit(kind)
	return most, sys.MayRaiseLimits(), err
}

// nrOpen is the most open files that a process may be allowed.
func nrOpen() (int64, error) {
	b, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// cgroup checks what a group says of its cgroup.
func (v *validator) cgroup(at path, g *Group) {
	limits := at.key("cgroup_limits")
	if len(g.CgroupLimits) > 0 && !g.Cgroup {
		v.fail(limits, "the limits are those of a cgroup of the group's own; add cgroup = true, or remove them")
	}
	for _, name := range slices.Sorted(maps.Keys(g.CgroupLimits)) {
		why := ""
		switch guess := nearest(name, cgroup.Names()); {
		case slices.Contains(cgroup.Names(), name):
			why = cgroup.Invalid(name, g.CgroupLimits[name])
		case guess != "":
			why = fmt.Sprintf("there is no such limit; did you mean %q?", guess)
		default:
			why = "there is no such limit; there are " + quoted(cgroup.Names())
		}
		if why != "" {
			v.errs = append(v.errs, v.c.src.problem(limits.key(name), "cgroup_limits.%s in %s: %s", bare(name), at.table(), why))
		}
	}
}

// cgroupsOnHost refuses limits whose controllers cgroup v2 has not on this machine, and cgroups where the region's unit may have none.
func (v *validator) cgroupsOnHost(s system) {
	asked := false
	for i := range v.c.Groups {
		g := &v.c.Groups[i]
		if !g.Cgroup || s.controllers == nil {
			continue
		}
		at := path{"worker", g.Name, "cgroup"}
		have, err := s.controllers()
		if err != nil {
			v.fail(at, "%v", err)
			return
		}
		for _, name := range slices.Sorted(maps.Keys(g.CgroupLimits)) {
			if c := cgroup.Controller(name); !slices.Contains(have, c) {
				v.fail(path{"worker", g.Name, "cgroup_limits"}, "%s needs the controller %q, which cgroup v2 has not on this machine (it has: %s); see /proc/cgroups, and boot with systemd.unified_cgroup_hierarchy=1 if it is in cgroup v1",
					name, c, quoted(have))
			}
		}
		if unit, ok := s.delegates(v.c.Region.Name); !asked && unit != "" && !ok {
			v.fail(at, "%s may have no cgroups of its own; set Delegate=yes and ProtectControlGroups=no (systemctl edit %s); see workers.conf", unit, unit)
		}
		asked = true
	}
}

// MaxCPU is the highest number of a CPU.
const MaxCPU = 1023

// CPUList returns the numbers of the CPUs that the group is bound to, ascending, each once; none: it is not.
func (g *Group) CPUList() []int {
	list, _ := parseCPUs(g.CPUs) // it was validated
	return list
}

// parseCPUs reads a list of CPUs as taskset and systemd write it: "0-3,6".
func parseCPUs(text string) ([]int, error) {
	if text == "" {
		return nil, nil
	}
	var list []int
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		first, err := strconv.Atoi(from)
		last := first
		if isRange && err == nil {
			last, err = strconv.Atoi(to)
		}
		if err != nil || first < 0 || last < first || last > MaxCPU {
			return nil, fmt.Errorf("%q is no list of CPUs; write numbers from 0 to %d and ranges, as in \"0-3,6\"", text, MaxCPU)
		}
		for n := first; n <= last; n++ {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// after checks that the groups that a group comes after are there, and that none of them comes after it.
func (v *validator) after(p path, g *Group) {
	var known []string
	for _, o := range v.c.Groups {
		known = append(known, o.Name)
	}
	for i, name := range g.After {
		switch {
		case slices.Contains(g.After[:i], name):
			v.fail(p, "%q is there twice; remove one", name)
		case name == g.Name:
			v.fail(p, "the group cannot come after itself; remove %q", name)
		case slices.Contains(known, name):
		default:
			v.unknown(p, "worker group", path{"worker", name}, known)
		}
	}
	if circle := v.circle(g); circle != nil && g.Name == slices.Min(circle) { // once, whoever of them comes first
		v.fail(p, "the groups come after each other in a circle, so none could start: %s; remove one of these", strings.Join(append(circle, g.Name), " after "))
	}
}

// circle follows what comes before a group, and returns the way on which it comes back to it: nil if it does not.
func (v *validator) circle(g *Group) []string {
	seen := map[string]bool{}
	var way []string
	var walk func(*Group) bool
	walk = func(at *Group) bool {
		way = append(way, at.Name)
		for _, name := range at.After {
			if name == g.Name && at != g {
				return true
			}
			if i := slices.IndexFunc(v.c.Groups, func(o Group) bool { return o.Name == name }); i >= 0 && !seen[name] && name != g.Name {
				seen[name] = true
				if walk(&v.c.Groups[i]) {
					return true
				}
			}
		}
		way = way[:len(way)-1]
		return false
	}
	if walk(g) {
		return way
	}
	return nil
}

// Rank is how many groups stand before a group at most on any way through after: groups are stopped in descending order of it.
func (c *Config) Rank(g *Group) int {
	rank := 0
	for _, name := range g.After {
		for i := range c.Groups {
			if o := &c.Groups[i]; o.Name == name && o != g {
				rank = max(rank, c.Rank(o)+1)
			}
		}
	}
	return rank
}

// onlineCPUs are the CPUs that work.
func onlineCPUs() ([]int, error) {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, err
	}
	return parseCPUs(strings.TrimSpace(string(b)))
}

// cpusOnHost refuses CPUs that are not there: the kernel would leave them out without a word.
func (v *validator) cpusOnHost(g *Group, s system) {
	if g.CPUs == "" || s.cpus == nil {
		return
	}
	have, err := s.cpus()
	if err != nil {
		return // nobody can tell
	}
	for _, n := range g.CPUList() {
		if !slices.Contains(have, n) {
			v.fail(path{"worker", g.Name, "cpus"}, "there is no CPU %d; use some of %d to %d", n, have[0], have[len(have)-1])
			return
		}
	}
}
