package daemon_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
)

// What a worker inherits: its descriptors and their names, what the configuration adds, and nothing that is the daemon's own.
func TestWhatWorkersInherit(t *testing.T) {
	t.Parallel()
	d := testregion.Launch(t, named+jobs+"[channel.results]\nslots = 2\n"+
		shell("w", `for v in $(env); do echo "env $v"; done; for i in $(ls /proc/$$/fd); do echo "fd $i $(readlink /proc/$$/fd/$i)"; done; echo "dir $(pwd)"; echo end`,
			"count = 2", "restart = \"never\"", "consume = [\"jobs\"]", "produce = [\"results\", \"jobs\"]", "dir = \"/usr\"", "wait = \"spin\"", "env = { ADDED = \"1\", LANG = \"changed\" }"),
		"LANG=C", "KEPT=yes", "NOTIFY_SOCKET=/nowhere", "WATCHDOG_USEC=1000000000", "WATCHDOG_PID=1", "SHMD_FDS=roster", "SHMD_WORKER=x.1", "SHMD_REGION=x", "SHMD_WAIT=block")
	awaitState(d, "w.1", protocol.StateExited)
	d.WaitLog(`"@message":"end"`, `"worker":"w.1"`)
	env := map[string]string{}
	var fds []string
	for _, r := range records(t, d, func(r record) bool { return r.Worker == "w.1" && r.Stream == "stdout" }) {
		kind, rest, _ := strings.Cut(r.Message, " ")
		switch kind {
		case "env":
			k, v, _ := strings.Cut(rest, "=")
			env[k] = v
		case "fd":
			if _, to, _ := strings.Cut(rest, " "); to != "" { // else the shell closed it between looking for it and looking at it
				fds = append(fds, rest)
			}
		case "dir":
			if rest != "/usr" {
				t.Errorf("working directory %q", rest)
			}
		}
	}
	for k, want := range map[string]string{
		"SHMD_FDS": "roster,command,group,jobs,results,log", "SHMD_WORKER": "w.1", "SHMD_REGION": d.Name, "SHMD_WAIT": "spin", "ADDED": "1", "LANG": "changed", "KEPT": "yes",
		"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "", "WATCHDOG_PID": "", "SHMD_LAUNCH": "",
	} {
		if got := env[k]; got != want {
			t.Errorf("%s=%q, want %q", k, got, want)
		}
	}
	var want []string
	for i, what := range []string{"/dev/null", "pipe:", "pipe:", "roster", "command", "group/w", "jobs", "results", "log"} {
		if i > 2 {
			what = fmt.Sprintf("/memfd:shmd:%s:%s (deleted)", d.Name, what)
		}
		want = append(want, fmt.Sprintf("%d %s", i, what))
	}
	for i, fd := range fds {
		if i >= len(want) { // the shell's own
			if strings.Contains(fd, "memfd") {
				t.Errorf("descriptor %s", fd)
			}
		} else if !strings.HasPrefix(fd, want[i]) {
			t.Errorf("descriptor %s, want %s", fd, want[i])
		}
	}
	if len(fds) < len(want) {
		t.Errorf("descriptors %q", fds)
	}
}

// The configuration that shmd finds without -c, what check says of one, and what a start with a wrong one.
func TestConfigurations(t *testing.T) {
	t.Parallel()
	dir := testregion.Dir(t)
	for name, text := range map[string]string{
		"one/default.toml": "[region]\nname = \"found\"\n" + idle("w"),
		"two/default.toml": "[region]\nname = \"other\"\n" + idle("w"),
		"bad.toml":         "[region]\nname = \"bad\"\n[worker.w]\nbuiltin = \"idle\"\ncoutn = 2\n",
		"missing.toml":     "[worker.w]\ncommand = [\"no-such-program\"]\nuser = \"root\"\n",
		"numeric.toml":     "[worker.w]\ncommand = [\"true\"]\nuser = \"0\"\n",
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const excerpt = ":5:1: unknown key \"coutn\" in [worker.w]; did you mean \"count\"?\n3| [worker.w]\n4| builtin = \"idle\"\n5| coutn = 2\n | ~~~~~\n"
	const stranger = ":2:1: name in [region]: the region is \"other\", and \"web\" is to run, which the unit's reload and stop look for; " +
		"write name = \"web\", or call the file other.toml and start shmd@other.service\n1| [region]\n2| name = \"other\"\n | ~~~~\n3| [worker.w]\n"
	for _, tt := range []struct {
		name, dirs   string
		args         []string
		stdout, errs string
		code         int
	}{
		{"the embedded one", "", []string{"check"}, "the embedded configuration is fine: region \"default\", 1 channel, 1 worker group\n", "", 0},
		{"found", "@D/none:@D/one:@D/two", []string{"check"}, "@D/one/default.toml is fine: region \"found\", 0 channels, 1 worker group\n", "", 0},
		{"not found", "@D", []string{"check"}, "the embedded configuration is fine: region \"default\", 1 channel, 1 worker group\n", "", 0},
		{"-c is stronger", "@D/one", []string{"check", "-c", "@D/two/default.toml"}, "@D/two/default.toml is fine: region \"other\", 0 channels, 1 worker group\n", "", 0},
		{"the region that is wanted", "", []string{"check", "-r", "other", "-c", "@D/two/default.toml"}, "@D/two/default.toml is fine: region \"other\", 0 channels, 1 worker group\n", "", 0},
		{"check, another region", "", []string{"check", "-r", "web", "-c", "@D/two/default.toml"}, "@D/two/default.toml" + stranger, "shmd: the configuration has 1 problem\n", 1},
		{"start, another region", "", []string{"-r", "web", "-c", "@D/two/default.toml"}, "", "@D/two/default.toml" + stranger + "shmd: the configuration has 1 problem\n", 78},
		{"a uid", "", []string{"check", "-c", "@D/numeric.toml"}, "@D/numeric.toml is fine: region \"default\", 0 channels, 1 worker group\n", "", 0},
		{"check, wrong", "", []string{"check", "-c", "@D/bad.toml"}, "@D/bad.toml" + excerpt, "shmd: the configuration has 1 problem\n", 1},
		{"start, wrong", "", []string{"-c", "@D/bad.toml"}, "", "@D/bad.toml" + excerpt + "shmd: the configuration has 1 problem\n", 78},
		{"check, missing program", "", []string{"check", "-c", "@D/missing.toml"},
			"@D/missing.toml:2:1: command in [worker.w]: no program \"no-such-program\" in PATH (/usr/bin:/bin); install it, or give its full path\n" +
				"1| [worker.w]\n2| command = [\"no-such-program\"]\n | ~~~~~~~\n3| user = \"root\"\n", "shmd: the configuration has 1 problem\n", 1},
		{"no file", "", []string{"check", "-c", "@D/none.toml"}, "", "shmd: cannot read the configuration: open @D/none.toml: no such file or directory; write it, or start the daemon with another one (-c FILE), or with none, which is the embedded default\n", 1},
		{"a directory", "", []string{"-c", "@D"}, "", "shmd: cannot read the configuration: read @D: is a directory; give the path of a configuration file with -c\n", 78},
		{"an argument", "", []string{"start"}, "", "shmd: unexpected argument \"start\"\nTry \"shmd --help\".\n", 2},
		{"a flag", "", []string{"--frobnicate"}, "", "shmd: unknown flag: --frobnicate\nTry \"shmd --help\".\n", 2},
		{"a level", "", []string{"--log-level", "loud"}, "", "shmd: log level \"loud\": there are trace, debug, info, warn, error\nTry \"shmd --help\".\n", 2},
	} {
		in := func(s string) string { return strings.ReplaceAll(s, "@D", dir) }
		args := make([]string, len(tt.args))
		for i, a := range tt.args {
			args[i] = in(a)
		}
		out, errs, code := shmd(t, []string{"CONFIGURATION_DIRECTORY=" + in(tt.dirs), "PATH=/usr/bin:/bin", "RUNTIME_DIRECTORY=" + dir}, args...)
		if out != in(tt.stdout) || errs != in(tt.errs) || code != tt.code {
			t.Errorf("%s: exit code %d, want %d\nstdout\n%swant\n%sstderr\n%swant\n%s", tt.name, code, tt.code, out, in(tt.stdout), errs, in(tt.errs))
		}
	}
}

// A start that cannot be says why, ends with 1, and leaves nothing.
func TestStartsThatFail(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test must run as root")
	}
	t.Parallel()
	const ch = "[channel.a]\nslots = 4\n"
	for i, tt := range []struct {
		name, conf string
		dir        func(dir string) string // the runtime directory, below one of the test's
		env        []string
		uid        uint32
		want       []string // pieces of the error, in their order
	}{
		{"huge pages", "huge_pages = true\n[channel.a]\nslots = 1048576\nslot_size = \"1MiB\"\n", nil, nil, 0, []string{`create region "NAME": create segment: "shmd:NAME:`, ` needs `, " huge pages of ", " are free: reserve ", "or turn huge pages off for it ("}},
		{"memory", "[channel.a]\nslots = 32768\nslot_size = \"1GiB\"\n", nil, nil, 0, []string{`create region "NAME": create segment: "shmd:NAME:a" needs `, " TiB, but ", " allows only ", ": raise that limit, or ask for less\n"}},
		{"a directory that is a file", ch, func(dir string) string {
			os.WriteFile(dir+"/file", nil, 0o644)
			return dir + "/file/run"
		}, nil, 0, []string{"runtime directory: mkdir @D/file: not a directory; set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR to a directory of yours\n"}},
		{"a directory of another user", ch, func(dir string) string { return dir }, nil, nobody, []string{`lock of region "NAME": open @D/NAME.lock: permission denied; set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR to a directory of yours` + "\n"}},
		{"a directory in one of another user", ch, func(dir string) string { return dir + "/run" }, nil, nobody, []string{"runtime directory: mkdir @D/run: permission denied; set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR to a directory of yours\n"}},
		{"a long path", ch, func(dir string) string { return dir + "/" + strings.Repeat("x", 100) }, nil, 0, []string{"attach socket: @D/", ".sock: the path of a socket has at most 107 bytes, this one has ", ": use a shorter runtime directory\n"}},
		{"locked memory", "mlock = true\n" + ch, nil, nil, nobody, []string{`create region "NAME": create segment: `, "RLIMIT_MEMLOCK (ulimit -l; LimitMEMLOCK= in the unit) allows only "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := testregion.Dir(t)
			name := fmt.Sprintf("fails-%d-%d", os.Getpid(), i)
			conf := filepath.Join(testregion.Dir(t), "shmd.toml")
			if err := os.WriteFile(conf, []byte("[region]\nname = \""+name+"\"\n"+tt.conf+idle("w")), 0o644); err != nil {
				t.Fatal(err)
			}
			runtime := dir
			if tt.dir != nil {
				runtime = tt.dir(dir)
			} else if err := os.Chown(dir, int(tt.uid), int(tt.uid)); err != nil {
				t.Fatal(err)
			}
			args := []string{"-c", conf}
			bin := filepath.Join(testregion.Binaries(t), "shmd")
			cmd := exec.CommandContext(within(t), "prlimit", append([]string{"--memlock=65536", "setpriv", "--reuid", fmt.Sprint(tt.uid), "--regid", fmt.Sprint(tt.uid), "--clear-groups", bin}, args...)...)
			cmd.Env = append(append(os.Environ(), "RUNTIME_DIRECTORY="+runtime), tt.env...)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit code %d", code)
			}
			_, rest, ok := strings.Cut(string(out), "\nshmd: ")
			if !ok {
				t.Fatalf("it said\n%s", out)
			}
			for _, piece := range tt.want {
				piece = strings.NewReplacer("NAME", name, "@D", dir).Replace(piece)
				_, after, ok := strings.Cut(rest, piece)
				if !ok {
					t.Errorf("it said\n%swithout\n%s", out, piece)
				}
				rest = after
			}
			if tt.dir == nil {
				if left := files(t, dir); left != nil {
					t.Errorf("it left %v", left)
				}
			}
			maps, _ := filepath.Glob("/proc/[0-9]*/fd/*")
			for _, p := range maps {
				if l, err := os.Readlink(p); err == nil && strings.Contains(l, "shmd:"+name+":") {
					t.Errorf("%s is still %s", p, l)
				}
			}
		})
	}
}

// Options of the memory that work here.
func TestMemoryOptions(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, strings.TrimSuffix(named, "\n")+"\nmlock = true\nprefault = true\ndont_dump = true\nlog_size = \"64KiB\"\n"+jobs+"[channel.big]\nslots = 1024\nslot_size = \"64MiB\"\nsparse = true\n"+idle("w"))
	d.WaitLog("region created", `"channels":4`)
	before := locked(t, d.Cmd.Process.Pid)
	d.Kill()
	d.Again()
	d.WaitLog("region adopted")
	if after := locked(t, d.Cmd.Process.Pid); before == "0 kB" || after != before {
		t.Errorf("%s were locked into memory, and after the adoption %s", before, after)
	}
}

// locked is how much memory of a process cannot be swapped out.
func locked(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmLck:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}
