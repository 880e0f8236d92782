package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/sys"
)

func TestSupervisionIsRefused(t *testing.T) {
	const w = "[worker.w]\nbuiltin = \"idle\"\n"
	for text, want := range map[string]string{
		w + `watchdog = "10ms"`: `watchdog in [worker.w]: 10ms is out of range; use 100ms to 24h`,
		"[channel.q]\n[worker.w]\ncommand = [\"sed\"]\nstdin = \"q\"\nack = \"written\"\nwatchdog = \"5s\"": "a filter has no heartbeat",
		"[worker.w]\ncommand = [\"true\"]\nwatchdog = \"5s\"":                                               `add ready = "call"`,
		w + `limits = { nofiles = 1 }`:                                                                      `limits.nofiles in [worker.w]: there is no such limit; did you mean "nofile"?`,
		w + `limits = { core = -2 }`:                                                                        `it is below 0; write "unlimited" for none`,
		w + `limits = { core = -1 }`:                                                                        `limits.core in [worker.w]: it is below 0; write "unlimited" for none`,
		w + `limits = { core = true }`:                                                                      `must be an integer, a size such as "64MiB", or "unlimited"`,
		w + `limits = 3`:                                                                                    `must be a table of limits`,
		"[channel.q]\nstall_after = \"1ms\"":                                                                `stall_after in [channel.q]: 1ms is out of range; use 100ms to 24h`,
		w + `cgroup_limits = { pids_max = 3 }`:                                                              `add cgroup = true, or remove them`,
		w + "cgroup = true\ncgroup_limits = { pid_max = 3 }":                                                `cgroup_limits.pid_max in [worker.w]: there is no such limit; did you mean "pids_max"?`,
		w + "cgroup = true\ncgroup_limits = { cpu_weight = \"unlimited\" }":                                 `it cannot be unlimited; use 1 to 10000`,
		w + "cgroup = true\ncgroup_limits = { cpu_max = 0 }":                                                `0 is out of range; use 1 to 1000000`,
		w + "cgroup = true\ncgroup_limits = { memory_max = -3 }":                                            `it is below 0; write "unlimited" for none`,
		w + `nice = 20`:            `20 is out of range; use -20 to 19`,
		w + `cpus = "3-1"`:         `"3-1" is no list of CPUs`,
		w + `oom_score_adj = 1001`: `1001 is out of range`,
		w + `on_crash = "reset"`:   `unknown on_crash "reset"`,
		w + "wait = \"spin\"":      `the group has no channels to wait at`,
		w + "wait = \"busy\"":      `there are "adaptive", "block", "spin"`,
		w + "on_crash = \"reset-group\"\nrestart = \"never\"": `with restart = "never" nothing is started again`,
		w + `after = ["w"]`: "the group cannot come after itself",
		w + `after = ["v", "v"]` + "\n[worker.v]\nbuiltin = \"idle\"": `"v" is there twice`,
		w + `after = ["dbb"]` + "\n[worker.db]\nbuiltin = \"idle\"":   `unknown worker group "dbb"; did you mean "db"?`,
		w + "after = [\"b\"]\n[worker.a]\nbuiltin = \"idle\"\nafter = [\"w\"]\n[worker.b]\nbuiltin = \"idle\"\nafter = [\"c\", \"a\"]\n[worker.c]\nbuiltin = \"idle\"": "a after w after b after a",
	} {
		_, err := Parse("x.toml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v\nwant %s", text, err, want)
		} else if n := strings.Count(err.Error(), "\n"); n > 0 {
			t.Errorf("%s\nmore than that is refused: %v", text, err)
		}
	}
}

func TestRank(t *testing.T) {
	c, err := Parse("x.toml", []byte("[worker.web]\nbuiltin = \"idle\"\nafter = [\"api\", \"db\"]\n[worker.api]\nbuiltin = \"idle\"\nafter = [\"db\"]\n[worker.db]\nbuiltin = \"idle\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{2, 1, 0} {
		if got := c.Rank(&c.Groups[i]); got != want {
			t.Errorf("%s: %d, want %d", c.Groups[i].Name, got, want)
		}
	}
}

// Limits whose controller the machine has not, and units that may have no cgroups.
func TestCgroupsThatAreNotThere(t *testing.T) {
	const text = "[worker.w]\nbuiltin = \"idle\"\ncgroup = true\ncgroup_limits = { pids_max = 3, memory_max = \"1GiB\" }\n"
	c, err := Parse("x.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	none := func(string) (string, bool) { return "", false }
	for _, tt := range []struct {
		s    system
		want string
	}{
		{system{controllers: func() ([]string, error) { return []string{"cpu", "memory", "pids"}, nil }, delegates: none}, ""},
		{system{controllers: func() ([]string, error) { return []string{"cpu", "pids"}, nil }, delegates: none},
			`x.toml:4:1: cgroup_limits in [worker.w]: memory_max needs the controller "memory", which cgroup v2 has not on this machine (it has: "cpu", "pids")`},
		{system{controllers: func() ([]string, error) { return nil, errors.New("no cgroup v2") }, delegates: none}, "x.toml:3:1: cgroup in [worker.w]: no cgroup v2"},
		{system{controllers: func() ([]string, error) { return []string{"memory", "pids"}, nil }, delegates: func(string) (string, bool) { return "shmd.service", false }},
			"x.toml:3:1: cgroup in [worker.w]: shmd.service may have no cgroups of its own; set Delegate=yes"},
		{system{controllers: func() ([]string, error) { return []string{"memory", "pids"}, nil }, delegates: func(string) (string, bool) { return "shmd.service", true }}, ""},
	} {
		v := validator{c: c}
		v.cgroupsOnHost(tt.s)
		if got := v.errs.Error(); tt.want == "" && len(v.errs) > 0 || !strings.Contains(got, tt.want) {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

// More open files than the kernel lets even root have.
func TestFilesThatNobodyMayOpen(t *testing.T) {
	for limit, want := range map[string]string{
		"1048576":       "",
		"1048577":       "x.toml:3:12: limits.nofile in [worker.w]: the kernel lets no process have more than 1048576",
		"\"unlimited\"": "limits.nofile in [worker.w]: the kernel lets no process have more than 1048576",
	} {
		c, err := Parse("x.toml", []byte("[worker.w]\nbuiltin = \"idle\"\nlimits = { nofile = "+limit+" }\n"))
		if err != nil {
			t.Fatal(err)
		}
		s := lab()
		s.nrOpen = func() (int64, error) { return 1 << 20, nil }
		if got := Errors(c.check(s)).Error(); want == "" && got != Errors(nil).Error() || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", limit, got, want)
		}
	}
}

// Limits above those of the daemon, which may raise them or not, and not for a worker that is another user by then.
func TestLimitsAboveTheDaemons(t *testing.T) {
	const next = ", and it may not raise it; use that at most, or raise the daemon's (Limit"
	for _, c := range []struct {
		limits string
		raise  bool
		want   string
	}{
		{"nofile = 4096, core = \"8MiB\"", false, ""},
		{"nofile = 4097", false, "x.toml:3:12: limits.nofile in [worker.w]: the daemon's own hard limit is 4096" + next + "NOFILE= in its unit, ulimit -H in a shell)"},
		{"nofile = 4097", true, ""},
		{"memlock = \"9MiB\"", false, "limits.memlock in [worker.w]: the daemon's own hard limit is 8MiB" + next + "MEMLOCK= "},
		{"memlock = \"unlimited\"", false, "limits.memlock in [worker.w]: the daemon's own hard limit is 8MiB"},
		{"fsize = \"unlimited\"", false, ""},
		{"stack = \"9MiB\"", true, "limits.stack in [worker.w]: the daemon's own hard limit is 8MiB"},
	} {
		conf, err := Parse("x.toml", []byte("[worker.w]\nbuiltin = \"idle\"\nlimits = { "+c.limits+" }\nuser = \"daemon\"\n"))
		if err != nil {
			t.Fatal(err)
		}
		v := validator{c: conf}
		v.limitsOnHost(&conf.Groups[0], system{hard: func(name string) (uint64, bool, error) {
			return map[string]uint64{"nofile": 4096, "fsize": sys.Unlimited}[name] + map[string]uint64{"memlock": 8 << 20, "core": 8 << 20, "stack": 8 << 20}[name], c.raise, nil
		}})
		if got := v.errs.Error(); c.want == "" && len(v.errs) > 0 || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.limits, got, c.want)
		}
	}
}

func TestCPUsThatAreNotThere(t *testing.T) {
	c, err := Parse("x.toml", []byte("[worker.w]\nbuiltin = \"idle\"\ncpus = \"0-1,5\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, have := range [][]int{{0, 1, 2, 5}, {0, 1}} {
		v := validator{c: c}
		v.cpusOnHost(&c.Groups[0], system{cpus: func() ([]int, error) { return have, nil }})
		if got := v.errs.Error(); len(have) == 4 && len(v.errs) > 0 || len(have) == 2 && !strings.Contains(got, "x.toml:3:1: cpus in [worker.w]: there is no CPU 5; use some of 0 to 1") {
			t.Errorf("with %v: %s", have, got)
		}
	}
}
