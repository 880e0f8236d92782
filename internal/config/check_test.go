package config

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lab is a system of known users and any amount of memory.
func lab() system {
	s := host()
	s.path = "/usr/bin:/bin"
	s.user = func(name string) (identity, error) {
		if name != "other" {
			return identity{}, fmt.Errorf("user: unknown user %s", name)
		}
		return identity{name: "user other", uid: s.self.uid + 4711, gids: nil}, nil
	}
	s.hasUser = func(name string) error {
		if name != "alice" {
			return fmt.Errorf("user: unknown user %s", name)
		}
		return nil
	}
	s.hasGroup = func(name string) error {
		if name != "ops" {
			return fmt.Errorf("group: unknown group %s", name)
		}
		return nil
	}
	s.hard = nil
	s.memory = func() (int64, string, error) { return math.MaxInt64, "lab", nil }
	s.hugePages = func() (int, int64, error) { return math.MaxInt32, 2 << 20, nil }
	s.nofile = func() (uint64, error) { return math.MaxUint64, nil }
	s.store = func(string) (string, int, bool) { return "", 0, false }
	return s
}

func checked(t *testing.T, s system, text string) string {
	t.Helper()
	c, err := Parse("shmd.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return Errors(c.check(s)).Error()
}

func write(t *testing.T, p, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p, mode); err != nil {
		t.Fatal(err)
	}
}

func TestCheckCommands(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/good", "#!/bin/sh\n", 0o755)
	write(t, dir+"/plain", "x", 0o644)
	write(t, dir+"/private", "x", 0o700)
	write(t, dir+"/orphan", "#! /no/such/python3 -u\n", 0o755)
	write(t, dir+"/dos", "#!/bin/sh\r\n", 0o755)
	write(t, dir+"/empty", "#!\n", 0o755)
	if err := os.Mkdir(dir+"/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/bin/good", "#!/bin/sh\n", 0o755)
	write(t, dir+"/bin/plain", "x", 0o644)
	if err := os.Mkdir(dir+"/closed", 0o700); err != nil {
		t.Fatal(err)
	}

	for _, tt := range []struct{ keys, want string }{
		{`command = ["sh", "-c", "true"]`, ""},
		{`command = ["/bin/sh"]`, ""},
		{`command = ["DIR/good"]`, ""},
		{`command = ["./good"]; dir = "DIR"`, ""},
		{`command = ["bin/good"]; dir = "DIR"`, ""},
		{`command = ["good"]; env.PATH = "/no/such:DIR/bin"`, ""},
		{`command = ["good"]; env.PATH = "bin"; dir = "DIR"`, ""},
		{`command = ["sh"]; user = "other"`, ""},
		{`builtin = "idle"; user = "other"`, ""},

		{`command = ["no-such-program"]`, `2:1: command in [worker.w]: no program "no-such-program" in PATH (/usr/bin:/bin); install it, or give its full path`},
		{`command = ["sh"]; env.PATH = ""`, `2:1: command in [worker.w]: "sh" cannot be looked up, PATH is empty; give its full path`},
		{`command = ["plain"]; env.PATH = "DIR/bin:/no/such"`, `2:1: command in [worker.w]: DIR/bin/plain is not executable (-rw-r--r--); chmod +x it`},
		{`command = ["DIR/none"]`, `2:1: command in [worker.w]: no program DIR/none; install it, or correct the path`},
		{`command = ["./none"]; dir = "DIR"`, `2:1: command in [worker.w]: no program DIR/none; install it, or correct the path`},
		{`command = ["DIR/plain"]`, `2:1: command in [worker.w]: DIR/plain is not executable (-rw-r--r--); chmod +x it`},
		{`command = ["DIR/private"]; user = "other"`, `2:1: command in [worker.w]: user other may not execute DIR/private (-rwx------); chmod or chown it`},
		{`command = ["DIR"]`, `2:1: command in [worker.w]: DIR is a directory; give a program`},
		{`command = ["/dev/null"]`, `2:1: command in [worker.w]: /dev/null is no regular file; give a program`},
		{`command = ["DIR/orphan"]`, `2:1: command in [worker.w]: the interpreter of DIR/orphan, /no/such/python3, is not there; install it, or correct the first line`},
		{`command = ["DIR/dos"]`, `2:1: command in [worker.w]: the lines of DIR/dos end in CR LF, so its interpreter is not found; convert it to Unix lines`},
		{`command = ["DIR/empty"]`, `2:1: command in [worker.w]: the first line of DIR/empty names no interpreter after #!; correct it`},

		{`builtin = "idle"; user = "nobody-here"`, `3:1: user in [worker.w]: user: unknown user nobody-here; create it (useradd --system NAME), or name another`},
		{`builtin = "idle"; dir = "DIR/none"`, `3:1: dir in [worker.w]: no directory DIR/none; create it`},
		{`builtin = "idle"; dir = "DIR/good"`, `3:1: dir in [worker.w]: DIR/good is a file; give a directory`},
		{`builtin = "idle"; dir = "DIR/closed"; user = "other"`, `3:1: dir in [worker.w]: user other may not enter DIR/closed (-rwx------); chmod or chown it`},
	} {
		text := "[worker.w]\n" + strings.ReplaceAll(strings.ReplaceAll(tt.keys, "; ", "\n"), "DIR", dir)
		want := strings.ReplaceAll(tt.want, "DIR", dir)
		if want != "" {
			want = "shmd.toml:" + want
		}
		if got := checked(t, lab(), text); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
}

// A program below a directory that the group's user may not enter.
func TestCheckReach(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/good", "#!/bin/sh\n", 0o755)
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := checked(t, lab(), fmt.Sprintf("[worker.w]\ncommand = [%q]\nuser = \"other\"", dir+"/good"))
	if want := "shmd.toml:2:1: command in [worker.w]: user other may not enter " + real + " (-rwx------); chmod or chown it"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestCheckPeople(t *testing.T) {
	got := checked(t, lab(), `
[access]
observe = ["*", "alice", "@ops", "1000", "@1000"]
operate = ["bob"]
[channel.c]
allow_produce = ["@alice"]
allow_consume = ["ops"]
`)
	want := `shmd.toml:4:1: operate in [access]: user: unknown user bob; create it, or remove "bob"
shmd.toml:6:1: allow_produce in [channel.c]: group: unknown group alice; create it, or remove "@alice"
shmd.toml:7:1: allow_consume in [channel.c]: user: unknown user ops; create it, or remove "ops"`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestCheckMemory(t *testing.T) {
	const text = `
[channel.small]
[channel.big]
slot_size = "1MiB"
slots = 16384
[channel.roomy]
sparse = true
slots = 1048576
slot_size = "1MiB"
`
	s := lab()
	s.memory = func() (int64, string, error) { return 20 << 30, "/proc/meminfo MemAvailable", nil }
	if got := checked(t, s, text); got != "" {
		t.Errorf("got %s", got)
	}
	s.memory = func() (int64, string, error) { return 12<<30 + 5, "/sys/fs/cgroup/x/memory.max", nil }
	want := "shmd.toml:5:1: slots in [channel.big]: the region needs more than 17GiB of memory, 17GiB of it for big, and 12GiB are left (/sys/fs/cgroup/x/memory.max); use fewer or smaller slots, or sparse = true"
	if got := checked(t, s, text); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	const groups = "[worker.few]\nbuiltin = \"idle\"\n[worker.many]\nbuiltin = \"idle\"\ncount = 240\nlog_size = \"64MiB\"\n"
	want = "shmd.toml:6:1: log_size in [worker.many]: the region needs more than 15GiB of memory, 15GiB of it for many, and 12GiB are left (/sys/fs/cgroup/x/memory.max); use a smaller log_size, or fewer instances"
	for _, text := range []string{groups, groups + "[channel.small]\n"} {
		if got := checked(t, s, text); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	c, err := Parse("shmd.toml", []byte(groups))
	if err != nil {
		t.Fatal(err)
	}
	if got := Errors(c.checkMemory([]string{"[worker.many]"}, s)).Error(); got != strings.Replace(want, "the region", "what is new", 1) {
		t.Errorf("a new group alone: got  %s", got)
	}
	if got := c.checkMemory([]string{"[worker.few]"}, s); len(got) > 0 {
		t.Errorf("a small one: %v", got)
	}
	s.memory = func() (int64, string, error) { return 0, "", errors.New("no /proc") }
	if got := checked(t, s, "[channel.a]"); got != "shmd.toml:1:10: slots in [channel.a]: cannot tell how much memory is left: no /proc" {
		t.Errorf("got %s", got)
	}
	if got := checked(t, s, "[worker.a]\nbuiltin = \"idle\""); got != "" { // nothing that grows
		t.Errorf("got %s", got)
	}
}

func TestCheckHugePages(t *testing.T) {
	const text = "[region]\nhuge_pages = true\n[channel.a]\nslots = 1024\nslot_size = \"16KiB\""
	for _, tt := range []struct {
		n    int
		size int64
		err  error
		want string
	}{
		{100, 2 << 20, nil, ""},
		{8, 2 << 20, nil, "shmd.toml:2:1: huge_pages in [region]: the channels need more than 16 huge pages of 2MiB and 8 are free; reserve them (sysctl vm.nr_hugepages=N), or remove the key"},
		{0, 0, nil, "shmd.toml:2:1: huge_pages in [region]: this kernel has no huge pages; remove the key"},
		{0, 0, errors.New("no /proc"), "shmd.toml:2:1: huge_pages in [region]: cannot tell how many huge pages are free: no /proc"},
	} {
		s := lab()
		s.hugePages = func() (int, int64, error) { return tt.n, tt.size, tt.err }
		if got := checked(t, s, text); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

// A Config that was made by hand is checked as one from a file is.
func TestCheckByHand(t *testing.T) {
	c := &Config{Region: defaultRegion(), Channels: []Channel{defaultChannel("log")}, Groups: []Group{defaultGroup("w"), defaultGroup("w")}}
	c.Channels[0].DeadSlots = 2
	c.Groups[0].Builtin, c.Groups[0].Consume = BuiltinIdle, []string{"lgo"}
	c.Groups[1].Command, c.Groups[1].Dir = []string{"sh"}, "/no/such"
	got := Errors(c.check(lab())).Error()
	want := `configuration: [channel.log]: "log" is the name of a segment of the region; call the channel otherwise, as in "logs"
configuration: consume in [worker.w]: unknown channel "lgo"; did you mean "log"?
configuration: [worker.w]: the name is taken by another group; choose another
configuration: dir in [worker.w]: no directory /no/such; create it`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The real lookups, on what every system has.
func TestCheckHost(t *testing.T) {
	c, err := Parse("shmd.toml", []byte(`
[worker.a]
command = ["sh"]
user = "root"
[worker.b]
command = ["/bin/sh"]
user = "0"
[worker.c]
builtin = "idle"
user = "no-such-user"
[access]
observe = ["root", "@root", "12345678", "@no-such-group"]
`))
	if err != nil {
		t.Fatal(err)
	}
	got := Errors(c.Check()).Error()
	want := `shmd.toml:10:1: user in [worker.c]: user: unknown user no-such-user; create it (useradd --system NAME), or name another
shmd.toml:12:1: observe in [access]: group: unknown group no-such-group; create it, or remove "@no-such-group"`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestCheckDescriptors(t *testing.T) {
	const text = "[region]\nname = \"x\"\nmax_attachments = 100\n[channel.c]\nkind = \"queue\"\nslots = 2\nslot_size = \"64B\"\n[channel.l]\nkind = \"latest\"\nslots = 4\nslot_size = \"64B\"\n[worker.w]\nbuiltin = \"idle\"\ncount = 10\n"
	// Segments: roster, command, log, one group, c, c.dead, l. Stored: 7 + 3*10 + 100 and the configuration. Open: 64 + 2*7 + 4*10 + 2*100.
	const stored, open = 138, 318
	s := lab()
	s.nofile = func() (uint64, error) { return open, nil }
	room := stored
	s.store = func(region string) (string, int, bool) { return "shmd@" + region + ".service", room, true }
	if got := checked(t, s, text); got != "" {
		t.Errorf("what suffices: %s", got)
	}
	room = stored - 1
	if got := checked(t, s, text); !strings.Contains(got, "138 descriptors lie in the fd store of shmd@x.service, which has room for 137; raise FileDescriptorStoreMax=") {
		t.Errorf("too small a store: %s", got)
	}
	room = stored
	s.nofile = func() (uint64, error) { return open - 1, nil }
	if got := checked(t, s, text); !strings.Contains(got, "the daemon needs 318 open files, and may have 317; raise the limit (LimitNOFILE= in the unit") {
		t.Errorf("too few descriptors: %s", got)
	}
	s = lab()
	s.store = func(string) (string, int, bool) { return "shmd.service", 1 << 20, true }
	if got := checked(t, s, strings.Replace(text, "= 100", "= 32000", 1)); !strings.Contains(got, "which can hand over 21000; lower max_attachments") {
		t.Errorf("more than can be handed over: %s", got)
	}
}
