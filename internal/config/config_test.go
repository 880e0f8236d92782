package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// complete sets every key to something that is not its default.
const complete = `
[region]
name = "prod"
log_size = "64KiB"
events_size = "128KiB"
max_attachments = 0
max_attachments_per_user = 7
orphan_timeout = "90s"
huge_pages = true
mlock = true
prefault = true
dont_dump = true
dumps = 0
dump_size = "1MiB"
dump_dir = "/srv/dumps"

[channel.results]
slots = 0x40
slot_size = 1_000

[channel.fast]
producers = 1
consumers = 1

[channel.lines]
slots = 8

[channel.jobs]
stall_after = "30s"
kind = "queue"
slots = 2
slot_size = "64B"
max_deliveries = 0
dead_slots = 4
max_leases = 1
allow_produce = ["alice", "1000"]
allow_consume = ["@ops", "*"]

[channel.service]
kind = "call"
on_server_death = "fail"
slot_size = "64B"

[channel.other]
kind = "call"
slots = 4

[channel.news]
kind = "topic"
overflow = "block"
publishers = 1
subscribers = 7
evict_after = "5s"

[worker.parser]
command = ["python3", "parse.py"]
count = 4
consume = ["jobs"]
produce = ["results"]
restart = "on-failure"
wait = "block"
stop_timeout = "1m30s"
ready = "call"
ready_timeout = "0s"
backoff_min = "1ms"
backoff_max = "1ms"
crash_limit = 0
crash_window = "2h"
watchdog = "5s"
on_crash = "reset-group"
after = ["a"]
limits = { nofile = 4096, core = "unlimited", memlock = "1MiB" }
nice = -5
cpus = "0-1"
oom_score_adj = 500
cgroup = true
cgroup_limits = { memory_max = "1GiB", pids_max = 100, cpu_max = "unlimited" }
metrics = 5
log_size = "32KiB"
log_rate = 100
log_burst = 7
env = { A = "1", "b.c" = "" }
dir = "/srv"
user = "nobody"

[worker.filter]
command = ["sed"]
stdin = "lines"
stdout = "results"
filter_window = 8
ack = "output"
delimiter = "nul"
stall_timeout = "1m"

[worker.a]
builtin = "wordcount"
ready = "exec"
consume = ["jobs"]
produce = ["results"]

[access]
observe = ["*"]
operate = ["@wheel"]

[metrics]
listen = "unix:/run/shmd/metrics.sock"
`

func TestComplete(t *testing.T) {
	got, err := Parse("dir/prod.toml", []byte(complete))
	if err != nil {
		t.Fatal(err)
	}
	parser := Group{
		Name: "parser", Command: []string{"python3", "parse.py"}, Count: 4,
		Consume: []string{"jobs"}, Produce: []string{"results"}, Restart: RestartOnFailure, Wait: WaitBlock, Ready: ReadyCall,
		FilterWindow: 1, Ack: AckOutput, Delimiter: DelimiterNewline, StallTimeout: 10 * time.Second,
		StopTimeout: 90 * time.Second, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond,
		CrashWindow: 2 * time.Hour, Metrics: 5, Watchdog: 5 * time.Second, OnCrash: OnCrashReset, After: []string{"a"}, Limits: Limits{"nofile": 4096, "core": Unlimited, "memlock": 1 << 20}, Nice: -5, CPUs: "0-1", OOMScoreAdj: 500, Cgroup: true, CgroupLimits: Limits{"memory_max": 1 << 30, "pids_max": 100, "cpu_max": Unlimited}, LogSize: 32 << 10, LogRate: 100, LogBurst: 7, Env: map[string]string{"A": "1", "b.c": ""}, Dir: "/srv", User: "nobody",
	}
	filter := defaultGroup("filter")
	filter.Command, filter.Stdin, filter.Stdout = []string{"sed"}, "lines", "results"
	filter.FilterWindow, filter.Ack, filter.Delimiter, filter.StallTimeout = 8, AckOutput, DelimiterNUL, time.Minute
	a := defaultGroup("a")
	a.Builtin, a.Ready, a.Consume, a.Produce = BuiltinWordcount, ReadyExec, []string{"jobs"}, []string{"results"}
	want := &Config{
		Path:   "dir/prod.toml",
		Region: Region{Name: "prod", MaxPerUser: 7, OrphanTimeout: 90 * time.Second, LogSize: 64 << 10, EventsSize: 128 << 10, HugePages: true, Mlock: true, Prefault: true, DontDump: true, DumpSize: 1 << 20, DumpDir: "/srv/dumps"},
		Channels: []Channel{
			{Name: "results", Kind: KindQueue, Slots: 64, SlotSize: 1000, MaxDeliveries: 5, DeadSlots: 64},
			{Name: "fast", Kind: KindQueue, Slots: 1024, SlotSize: 4096, MaxDeliveries: 5, DeadSlots: 1024, Producers: 1, Consumers: 1},
			{Name: "lines", Kind: KindQueue, Slots: 8, SlotSize: 4 << 10, MaxDeliveries: 5, DeadSlots: 8},
			{Name: "jobs", Kind: KindQueue, Slots: 2, SlotSize: 64, DeadSlots: 4, MaxLeases: 1, StallAfter: 30 * time.Second, AllowProduce: []string{"alice", "1000"}, AllowConsume: []string{"@ops", "*"}},
			{Name: "service", Kind: KindCall, Slots: 64, SlotSize: 64, MaxDeliveries: 5, OnServerDeath: OnServerDeathFail},
			{Name: "other", Kind: KindCall, Slots: 4, SlotSize: 4 << 10, MaxDeliveries: 5, OnServerDeath: OnServerDeathRetry},
			{Name: "news", Kind: KindTopic, Slots: 1024, SlotSize: 4096, Overflow: OverflowBlock, Publishers: 1, Subscribers: 7, EvictAfter: 5 * time.Second},
		},
		Groups:  []Group{parser, filter, a},
		Metrics: Metrics{Listen: "unix:/run/shmd/metrics.sock"},
		Access:  Access{Observe: []string{"*"}, Operate: []string{"@wheel"}},
		src:     got.src,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, name := range tableNames { // complete is what it says
		for _, k := range keyNames(tables[name].typ) {
			if k != "builtin" && k != "sparse" && !strings.Contains(complete, k+" = ") {
				t.Errorf("the test sets no %s.%s", name, k)
			}
		}
	}
}

// The file's order and TOML's other ways of writing make no difference.
func TestSpellings(t *testing.T) {
	for _, text := range []string{
		"channel.q.sparse = true\nworker.w = { builtin = 'idle', count = 3, env.A = '1' }\n",
		"[channel]\nq.sparse = true\n[worker]\n[worker.w.env]\nA = \"1\"\n[worker.w]\ncount = 3\nbuiltin = \"idle\"\n",
		"[worker.w]\r\nbuiltin = '''idle'''\r\ncount = +3\r\nenv.A = \"\\u0031\"\r\n[channel.\"q\"] # c\r\nsparse = true\r\n",
		"channel = { q = { sparse = true } }\n[ worker . w ]\nbuiltin = \"\"\"\nidle\"\"\"\ncount = 0b11\nenv = { A = '1', }\n",
	} {
		c, err := Parse("x", []byte(text))
		if err != nil {
			if strings.Contains(text, ", }") { // TOML 1.1; refused by a parser of 1.0
				continue
			}
			t.Errorf("%q: %v", text, err)
			continue
		}
		if len(c.Channels) != 1 || c.Channels[0].Name != "q" || !c.Channels[0].Sparse {
			t.Errorf("%q: channels %+v", text, c.Channels)
		}
		if len(c.Groups) != 1 || c.Groups[0].Name != "w" || c.Groups[0].Builtin != "idle" || c.Groups[0].Count != 3 || c.Groups[0].Env["A"] != "1" {
			t.Errorf("%q: groups %+v", text, c.Groups)
		}
	}
}

// A file without a table may be one that somebody is still writing, and a reload of it would end every worker.
func TestFileWithoutTables(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing"} {
		if c, err := Parse("x", []byte(text)); err == nil || err.Error() != "x:1:1: nothing stands here: an editor, or who copies it, may not be done; a region without channels and workers is written as [region]" {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
}

func TestEmptyTablesAreARegionOfDefaults(t *testing.T) {
	for _, text := range []string{"[region]", "[region]\n[channel]\n[worker]\n[access]"} {
		c, err := Parse("x", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if c.Region != (Region{Name: "default", LogSize: 1 << 20, EventsSize: 1 << 20, MaxAttachments: 1024, OrphanTimeout: time.Minute, Dumps: 3, DumpSize: 64 << 20}) || len(c.Channels)+len(c.Groups) > 0 {
			t.Errorf("%q: %+v", text, c)
		}
	}
}

func TestDefaultsOfChannelAndGroup(t *testing.T) {
	c, err := Parse("x", []byte("[channel.a]\n[channel.b]\nslots = 4096\n[channel.c]\nslots = 16\n[worker.w]\nbuiltin = \"idle\""))
	if err != nil {
		t.Fatal(err)
	}
	want := []Channel{
		{Name: "a", Kind: "queue", Slots: 1024, SlotSize: 4096, MaxDeliveries: 5, DeadSlots: 1024},
		{Name: "b", Kind: "queue", Slots: 4096, SlotSize: 4096, MaxDeliveries: 5, DeadSlots: 1024},
		{Name: "c", Kind: "queue", Slots: 16, SlotSize: 4096, MaxDeliveries: 5, DeadSlots: 16},
	}
	if !reflect.DeepEqual(c.Channels, want) {
		t.Errorf("got %+v", c.Channels)
	}
	w := Group{Name: "w", Builtin: "idle", Count: 1, Restart: "always", Wait: "adaptive", StopTimeout: 5 * time.Second, ReadyTimeout: 30 * time.Second,
		BackoffMin: 100 * time.Millisecond, BackoffMax: 30 * time.Second, CrashLimit: 10, CrashWindow: 10 * time.Minute, Metrics: 48, LogSize: 64 << 10, LogBurst: 1000,
		FilterWindow: 1, Ack: "output", Delimiter: "newline", StallTimeout: 10 * time.Second, OnCrash: OnCrashRepair}
	if !reflect.DeepEqual(c.Groups, []Group{w}) {
		t.Errorf("got %+v", c.Groups)
	}
}

func TestDefault(t *testing.T) {
	c := Default()
	if c.Path != "" || c.Region.Name != "default" {
		t.Errorf("path %q, region %q", c.Path, c.Region.Name)
	}
	if len(c.Channels) != 1 || c.Channels[0].Name != "jobs" || len(c.Groups) != 1 || c.Groups[0].Builtin != BuiltinIdle || c.Groups[0].Count != 2 {
		t.Errorf("channels %+v, groups %+v", c.Channels, c.Groups)
	}
	if problems := c.Check(); len(problems) > 0 {
		t.Error(Errors(problems).Detail())
	}
}

// What the tutorial has commented out is right as well.
func TestDefaultExamplesParse(t *testing.T) {
	text := string(DefaultTOML)
	for _, head := range []string{"# [worker.parser]", "# [access]"} {
		from := strings.Index(text, head)
		if from < 0 {
			t.Fatalf("no %s", head)
		}
		for line := range strings.Lines(text[from:]) {
			bare, ok := strings.CutPrefix(line, "# ")
			if !ok {
				break
			}
			text = strings.Replace(text, line, bare, 1)
		}
	}
	c, err := Parse("default.toml", []byte(text+"[channel.results]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Groups) != 2 || len(c.Access.Operate) != 1 {
		t.Errorf("%+v", c)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "shmd.toml")
	if err := os.WriteFile(p, DefaultTOML, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(p)
	if err != nil || c.Path != p {
		t.Fatalf("%v, %v", c, err)
	}
	_, err = Load(filepath.Join(dir, "none.toml"))
	if want := "cannot read the configuration: open " + dir + "/none.toml: no such file or directory; write it, or start the daemon with another one (-c FILE), or with none, which is the embedded default"; !errors.Is(err, fs.ErrNotExist) || err.Error() != want {
		t.Errorf("got %v", err)
	}
	_, err = Load(dir)
	if want := "cannot read the configuration: read " + dir + ": is a directory; give the path of a configuration file with -c"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	_, err = Load("/dev/zero")
	if want := "cannot read the configuration: read /dev/zero: neither a file nor a pipe; give the path of a configuration file with -c"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	_, err = Load("-")
	if want := "cannot read the configuration: open -: no such file or directory; standard input is /dev/stdin"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	huge := filepath.Join(dir, "huge.toml")
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 1<<40); err != nil {
		t.Fatal(err)
	}
	_, err = Load(huge)
	if want := huge + ":1:1: more than 256KiB: this is no configuration; give the path of one"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	var e Error
	if !errors.As(err, &e) || e.Line != 1 {
		t.Errorf("errors.As finds %+v", e)
	}
}

// A pipe gives a configuration, and nobody waits for one for ever.
func TestLoadPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() { wrote <- os.WriteFile(pipe, DefaultTOML, 0) }() // waits for a reader; Load may be there before it or after
	if c, err := Load(pipe); err != nil || c.Path != pipe {
		t.Errorf("%v, %v", c, err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}

	defer func(d time.Duration) { pipePatience = d }(pipePatience)
	pipePatience = 50 * time.Millisecond
	_, err := Load(pipe)
	if want := "cannot read the configuration: read " + pipe + ": nobody has written into this pipe within 50ms; give the path of a configuration file with -c"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	writer, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	if _, err := writer.WriteString("[region]\n"); err != nil {
		t.Fatal(err)
	}
	_, err = Load(pipe)
	if want := "cannot read the configuration: read " + pipe + ": who writes into this pipe has not ended within 50ms; give the path of a configuration file with -c"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestFindDefault(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(a, "web.toml"), 0o700); err != nil {
		t.Fatal(err)
	}
	web := filepath.Join(b, "web.toml")
	if err := os.WriteFile(web, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := FindDefault("web", a, b); got != web {
		t.Errorf("got %q", got)
	}
	for _, region := range []string{"none", "../web", "", "web.toml"} {
		if got := FindDefault(region, a, b); got != "" {
			t.Errorf("%q: got %q", region, got)
		}
	}
	if got := FindDefault("no-such-region"); got != "" {
		t.Errorf("got %q", got)
	}
}

// A Config keeps no hold of the caller's bytes.
func TestParseCopies(t *testing.T) {
	data := []byte(complete)
	c, err := Parse("x", data)
	if err != nil {
		t.Fatal(err)
	}
	clear(data)
	if c.Region.Name != "prod" || c.Groups[0].Env["A"] != "1" || string(c.src.data) != complete {
		t.Errorf("%+v", c)
	}
}

// When a worker counts as ready without saying so.
func TestReadyAtExec(t *testing.T) {
	for keys, want := range map[string]bool{
		`command = ["x"]`:                                      true,
		`command = ["x"]; consume = ["q"]`:                     false,
		`command = ["x"]; produce = ["q"]`:                     false,
		`builtin = "idle"`:                                     false,
		`command = ["x"]; ready = "call"`:                      false,
		`command = ["x"]; consume = ["q"]; ready = "exec"`:     true,
		`builtin = "idle"; ready = "exec"`:                     true,
		`builtin = "idle"; ready = "call"; ready_timeout="0s"`: false,
	} {
		c, err := Parse("x", []byte("[channel.q]\n[worker.w]\n"+strings.ReplaceAll(keys, "; ", "\n")))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Groups[0].ReadyAtExec(); got != want {
			t.Errorf("%s: %v", keys, got)
		}
	}
}
