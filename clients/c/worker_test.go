package c_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// A region is one group of two workers in files, mapped here.
type region struct {
	t     *testing.T
	files []*os.File
	mem   [3][]byte // roster, command, group
	group *protocol.GroupSegment

	damaged bool // on purpose
}

const instance = 1 // that the program is

func newRegion(t *testing.T, group protocol.GroupConfig) *region {
	r := &region{t: t}
	config := protocol.RosterConfig{Segments: 3, Groups: 1, Workers: 2, Attachments: 8, Dir: "/run/shmd"}
	r.files = []*os.File{
		segment(t, "roster", protocol.RosterSize(config), func(b []byte, h protocol.Header) error {
			s, err := protocol.FormatRoster(b, h, config)
			for i := range 2 {
				if err == nil {
					err = s.SetWorker(i, protocol.Worker{Name: fmt.Sprintf("c.%d", i), Instance: i, State: protocol.StateStarting, Since: time.Unix(1, 0)})
				}
			}
			return err
		}),
		segment(t, "command", protocol.CommandSize(1, 2), func(b []byte, h protocol.Header) error {
			_, err := protocol.FormatCommand(b, h, 1, 2)
			return err
		}),
		segment(t, "group", protocol.GroupSize(group), func(b []byte, h protocol.Header) error {
			_, err := protocol.FormatGroup(b, h, group)
			return err
		}),
	}
	for i, f := range r.files {
		info, err := f.Stat()
		if err == nil {
			r.mem[i], err = syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Munmap(r.mem[i]) })
	}
	var err error
	if r.group, err = protocol.OpenGroup(r.mem[2]); err != nil {
		t.Fatal(err)
	}
	return r
}

// run runs a program as the instance, after what the daemon does before it starts one.
func (r *region) run(program string, args ...string) (out string, code int) {
	r.t.Helper()
	r.group.Reset(instance)
	// Without address space randomisation: the thread sanitizer does not know all places where a newer kernel puts things.
	c := exec.Command("setarch", append([]string{"-R", program}, args...)...)
	c.Env = append(os.Environ(), "SHMD_FDS=roster,command,group", fmt.Sprintf("SHMD_WORKER=c.%d", instance))
	c.ExtraFiles = r.files
	var errs bytes.Buffer
	c.Stderr = &errs
	b, err := c.Output()
	if errs.Len() > 0 || err != nil && c.ProcessState.ExitCode() < 0 {
		r.t.Errorf("%s %v: %v\n%.3000s", filepath.Base(program), args, err, errs.String())
	}
	if list := protocol.Verify(r.mem[2], protocol.VerifyOptions{}); len(list) > 0 && !r.damaged {
		r.t.Errorf("%v: verify: %v", args, list)
	}
	return strings.TrimSpace(string(b)), c.ProcessState.ExitCode()
}

func rest(t *testing.T, c *protocol.InstanceCursor) (all []protocol.Record) {
	t.Helper()
	for {
		r, lost, ok, err := c.Next()
		if err != nil || lost != 0 {
			t.Fatalf("behind %d records: %d lost, %v", len(all), lost, err)
		}
		if !ok {
			return all
		}
		all = append(all, r)
	}
}

// programs are test_worker by flags, each compiled once.
var programs = map[string]string{}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, p := range programs {
		os.RemoveAll(filepath.Dir(p))
	}
	os.Exit(code)
}

// build compiles test_worker.c and returns the program.
func build(t *testing.T, flags ...string) string {
	t.Helper()
	depend(t, "*.h", "*.c")
	key := strings.Join(flags, " ")
	if programs[key] == "" {
		dir, err := os.MkdirTemp("", "shmd-c-")
		if err != nil {
			t.Fatal(err)
		}
		programs[key] = filepath.Join(dir, "test_worker")
		run(t, "gcc", append(append([]string{"-std=gnu11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I.", "-o", programs[key]}, flags...), "test_worker.c", "shmd.c", "-lpthread")...)
	}
	return programs[key]
}

var (
	plain     = []string{"-O2"}
	addresses = []string{"-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"}
	threads   = []string{"-g", "-O1", "-fsanitize=thread"}
)

// Go reads what C logs and counts, of every sort.
func TestWorker(t *testing.T) {
	for name, flags := range map[string][]string{"plain": plain, "addresses": addresses} {
		t.Run(name, func(t *testing.T) {
			r := newRegion(t, protocol.GroupConfig{Instances: 2, Metrics: 16, LogSize: protocol.MinInstanceLog})
			began := time.Now()
			if out, code := r.run(build(t, flags...), "say"); code != 0 {
				t.Fatalf("it ends with %d: %s", code, out)
			}
			x, ue := strings.Repeat("x", 5000), strings.Repeat("ü", 5000)
			room := (protocol.MinInstanceLog/8 - protocol.SizeofWorkerRecord) - 64
			want := []struct {
				level       int
				text, attrs string
			}{
				{7, "no fields", ""},
				{6, "fields", `"i":-1,"least":-9223372036854775808,"zero":0,"u":18446744073709551615,"f":1.5,"tenth":0.1,"third":0.33333333333333331,"nan":"NaN","inf":"-Inf","yes":true,"no":false,"null":null,` +
					`"s":"a\"\\\u000a\u0001\ufffdü\ufffd\ufffd\ufffd😀\ufffd\ufffd","k\"":""`},
				{4, "short", `"cut_bytes":5009`},
				{3, ue, ""},
				{3, x, ""},
				{6, "made", `"a":{"b":[1,2]}`},
				{6, "last", ""},
			}
			got := rest(t, r.group.Log(instance).Oldest())
			if len(got) != len(want) {
				t.Fatalf("%d records: %.300v", len(got), got)
			}
			for i, w := range want {
				g := got[i]
				text, source := g.Text, "/test_worker.c:"
				switch i {
				case 3, 4:
					if len(text) < room-40 || len(text) > room || !strings.HasPrefix(w.text, text) || !strings.HasPrefix(g.Attrs, `"cut_bytes":`) {
						t.Errorf("record %d has %d bytes of text, room for %d; %s", i, len(text), room, g.Attrs)
					}
				case 5:
					source = "f.py:7"
					if g.Time.UnixNano() != 1700000000000000001 {
						t.Errorf("record %d is of %v", i, g.Time)
					}
					g.Time = began
					fallthrough
				default:
					if text != w.text || g.Attrs != w.attrs {
						t.Errorf("record %d is %q, %s, not %q, %s", i, text, g.Attrs, w.text, w.attrs)
					}
				}
				if !json.Valid([]byte("{" + g.Attrs + "}")) {
					t.Errorf("record %d: %q is no JSON", i, g.Attrs)
				}
				if i != 5 && !strings.HasPrefix("/"+g.Source, source) && !strings.Contains(g.Source, source[1:]) {
					t.Errorf("record %d: source %q", i, g.Source)
				}
				if g.Level != w.level || g.Seq != uint64(i+1) || g.Time.Sub(began).Abs() > time.Minute {
					t.Errorf("record %d: level %d, number %d, %v", i, g.Level, g.Seq, g.Time)
				}
			}
			r.checkMetrics()
			page := r.group.Page(instance)
			if pid := page.AttachedPid.Load(); pid == 0 || int(pid) != got[0].Pid || page.Ready.Load() != 1 || page.ReadyNs.Load() == 0 || page.HeartbeatNs.Load() == 0 || page.Asleep.Load() != 0 || page.QuitSeenNs.Load() != 0 {
				t.Errorf("pid %d, ready %d since %d, heartbeat %d, asleep %d, quit seen %d", pid, page.Ready.Load(), page.ReadyNs.Load(), page.HeartbeatNs.Load(), page.Asleep.Load(), page.QuitSeenNs.Load())
			}
		})
	}
}

// checkMetrics checks what say counted, and that Go goes on with it.
func (r *region) checkMetrics() {
	t := r.t
	t.Helper()
	table := r.group.Metrics(instance)
	all := table.Read()
	if len(all) != 10 {
		t.Fatalf("%d metrics: %+v", len(all), all)
	}
	buckets, sum, n := make([]uint64, protocol.NumMetricBuckets), uint64(0), uint64(0)
	observe := func(v uint64) {
		buckets[protocol.MetricBucketOf(v)]++
		sum += v
		n++
	}
	for v := range uint64(40) {
		observe(v)
	}
	for e := 6; e < 64; e++ {
		observe(1 << e)
		observe(1<<e + 3<<(e-2))
	}
	pid := int(r.group.Page(instance).AttachedPid.Load())
	def := func(kind protocol.MetricKind, name, unit, help string) protocol.MetricDef {
		return protocol.MetricDef{Kind: kind, Name: name, Unit: unit, Help: help}
	}
	want := []protocol.Metric{
		{MetricDef: def(protocol.MetricKindCounter, "jobs", "", "jobs that are done"), Owner: pid, Count: 7},
		{MetricDef: def(protocol.MetricKindGauge, "load", "jobs", "jobs at a time"), Owner: pid, Gauge: 1.5},
		{MetricDef: def(protocol.MetricKindHistogram, "trip", "nanoseconds", "there and back"), Owner: pid, Count: n, Sum: sum, Buckets: buckets},
		{MetricDef: def(protocol.MetricKindCounter, "long", "", strings.Repeat("ü", 52)), Owner: pid},
	}
	for i, w := range want {
		if !reflect.DeepEqual(all[i], w) {
			t.Errorf("metric %d is %+v, not %+v", i, all[i], w)
		}
		c, err := table.Define(w.MetricDef, pid+1)
		if err != nil {
			t.Fatal(err)
		}
		c.Value.Add(1)
	}
	after := table.Read()
	if len(after) != len(all) || after[0].Count != 8 || after[1].Gauge != math.Float64frombits(1) || after[2].Sum != sum+1 {
		t.Errorf("Go did not go on with the metrics of C: %+v", after[:3])
	}
}

// C goes on with a log and with metrics of Go's, and Go with those of C, over many laps.
func TestWorkerAndGo(t *testing.T) {
	for name, flags := range map[string][]string{"plain": plain, "addresses": addresses} {
		t.Run(name, func(t *testing.T) {
			program := build(t, flags...)
			r := newRegion(t, protocol.GroupConfig{Instances: 2, Metrics: 16, LogSize: protocol.MinInstanceLog})
			log := r.group.Log(instance)
			seq := uint64(0)
			for round := range 40 {
				w := log.Resume(1)
				for i := range round % 7 {
					w.Write(&protocol.LogEntry{UnixNs: 1, Level: 6, Text: strings.Repeat("g", (round*211+i*97)%900), Source: "go:1"})
					seq++
				}
				n := 1 + round%23 // fewer than a lap: of what is lost nothing can be said
				c := log.From(log.Head())
				r.run(program, "many", fmt.Sprint(round), fmt.Sprint(n))
				got := rest(t, c)
				if len(got) != n {
					t.Fatalf("round %d: %d records, not %d", round, len(got), n)
				}
				for i, g := range got {
					var a struct {
						I   int
						Sum uint64
					}
					if err := json.Unmarshal([]byte("{"+g.Attrs+"}"), &a); err != nil {
						t.Fatal(err)
					}
					var sum uint64
					for k, c := range []byte(g.Text) {
						sum += uint64(c) * uint64(k+1)
					}
					if seq++; g.Seq != seq || a.I != i || strings.Contains(g.Attrs, "sum") && a.Sum != sum || !strings.Contains(g.Source, "test_worker.c:") {
						t.Fatalf("round %d: record %d of %d has number %d, not %d; %s; its sum is %d; %s", round, i, n, g.Seq, seq, g.Attrs, sum, g.Source)
					}
				}
			}
			counter, err := r.group.Metrics(instance).Define(protocol.MetricDef{Kind: protocol.MetricKindCounter, Name: "done"}, 1)
			if err != nil {
				t.Fatal(err)
			}
			counter.Value.Add(1000)
			r.run(program, "threads", "5")
			if n := counter.Value.Load(); n != 1020 {
				t.Errorf("the counter of Go is %d after C", n)
			}
		})
	}
}

// Threads log and count at once, also under the sanitizers.
func TestWorkerThreads(t *testing.T) {
	for name, flags := range map[string][]string{"plain": plain, "addresses": addresses, "threads": threads} {
		t.Run(name, func(t *testing.T) {
			r := newRegion(t, protocol.GroupConfig{Instances: 2, Metrics: 16, LogSize: 1 << 20})
			const each = 500
			if out, code := r.run(build(t, flags...), "threads", fmt.Sprint(each)); code != 0 {
				t.Fatalf("it ends with %d: %s", code, out)
			}
			next := map[int]int{}
			got := rest(t, r.group.Log(instance).Oldest())
			for n, g := range got {
				var a struct{ G, I int }
				if err := json.Unmarshal([]byte("{"+g.Attrs+"}"), &a); err != nil || g.Seq != uint64(n+1) || a.I != next[a.G] {
					t.Fatalf("record %d: %+v, %v", n, g, err)
				}
				next[a.G]++
			}
			all := r.group.Metrics(instance).Read()
			if len(got) != 4*each || len(all) != 3 || all[0].Count != 4*each || all[1].Gauge != 4*each || all[2].Count != 4*each || all[2].Sum != 4*each*(each-1)/2 {
				t.Errorf("%d records, %+v", len(got), all)
			}
		})
	}
}

// What cannot be attached to is refused, with the reason, and left as it was.
func TestWorkerRefused(t *testing.T) {
	program := build(t, addresses...)
	group := protocol.GroupConfig{Instances: 2, Metrics: 16, LogSize: protocol.MinInstanceLog}
	for _, c := range []struct {
		what, why string
		damage    func(r *region)
	}{
		{"nothing", "", func(*region) {}},
		{"not ready", "no segment of shmd, or not ready yet", func(r *region) { clear(r.mem[1][:8]) }},
		{"another version", "has layout 1.0 with incompatible features 0x80", func(r *region) { r.mem[2][24] = 0x80 }},
		{"another kind", "is of kind 3, not 2", func(r *region) { r.files[1] = r.files[2] }},
		{"no row", `the roster has no worker "c.1"`, func(r *region) {
			s, err := protocol.OpenRoster(r.mem[0])
			if err == nil {
				err = s.SetWorker(1, protocol.Worker{Name: "c.1", Instance: 1, State: protocol.StateGone, Since: time.Unix(1, 0)})
			}
			if err != nil {
				r.t.Fatal(err)
			}
		}},
		{"no instance", "instance 1, does not fit the command and group segments", func(r *region) { r.group.SetInstances(1) }},
		{"workers elsewhere", "the roster's table of workers does not lie in it", func(r *region) { r.mem[0][256+protocol.OffsetofRosterInfoWorkerOffset+5] = 1 }},
		{"pages elsewhere", "the page of instance 1 does not lie", func(r *region) { r.mem[2][256+protocol.OffsetofGroupInfoInstanceOffset+5] = 1 }},
		{"metrics elsewhere", "the metric table of instance 1 does not lie", func(r *region) { r.mem[2][256+protocol.OffsetofGroupInfoMetricOffset+5] = 1 }},
		{"log elsewhere", "the log of instance 1", func(r *region) { r.mem[2][256+protocol.OffsetofGroupInfoLogOffset+5] = 1 }},
		{"log of a strange size", "the log of instance 1", func(r *region) { r.mem[2][256+protocol.OffsetofGroupInfoLogSize]++ }},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := newRegion(t, group)
			c.damage(r)
			before := bytes.Clone(r.mem[2])
			cmd := exec.Command(program, "attach")
			cmd.Env = append(os.Environ(), "SHMD_FDS=roster,command,group", "SHMD_WORKER=c.1")
			cmd.ExtraFiles = r.files
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, _ := cmd.Output()
			code := cmd.ProcessState.ExitCode()
			if c.why == "" {
				if code != 0 {
					t.Errorf("it ends with %d: %s%s", code, out, errs.String())
				}
				return
			}
			if code != 3 || !strings.Contains(string(out), c.why) || !bytes.Equal(before, r.mem[2]) {
				t.Errorf("it ends with %d: %s%.2000s", code, out, errs.String())
			}
		})
	}
	r := newRegion(t, group)
	r.group.Page(instance).AttachedPid.Store(77)
	cmd := exec.Command(program, "attach")
	cmd.Env = append(os.Environ(), "SHMD_FDS=roster,command,group", "SHMD_WORKER=c.1")
	cmd.ExtraFiles = r.files
	if out, _ := cmd.Output(); !strings.Contains(string(out), `process 77 is already attached as "c.1"`) || r.group.Page(instance).AttachedPid.Load() != 77 {
		t.Errorf("a second process: %s", out)
	}
}

// A log whose writer has left it anyhow, or that an attacker made, is gone on with, and within its bounds.
func TestWorkerResumesAnything(t *testing.T) {
	program := build(t, addresses...)
	r := newRegion(t, protocol.GroupConfig{Instances: 2, Metrics: 16, LogSize: protocol.MinInstanceLog})
	log := r.group.Log(instance)
	w := log.Resume(1)
	for i := range 100 {
		w.Write(&protocol.LogEntry{UnixNs: 1, Level: 6, Text: strings.Repeat("g", i*37%400)})
	}
	good := bytes.Clone(r.mem[2])
	at := bytes.Index(good, []byte("gggggggg")) &^ 4095
	rnd := uint64(1)
	r.damaged = true
	for round := range 60 {
		copy(r.mem[2], good)
		for range 1 + round%8 { // anywhere in the log's head and ring
			rnd = rnd*6364136223846793005 + 1442695040888963407
			k := at + int(rnd>>33)%(protocol.MinInstanceLog/2)
			if round%2 == 0 {
				k = int(logOffset(r)) + int(rnd>>33)%16
			}
			r.mem[2][k] ^= byte(1 << (rnd >> 20 % 8))
		}
		c := log.From(0)
		if out, code := r.run(program, "many", "1", "3"); code != 0 {
			t.Fatalf("round %d: it ends with %d: %s", round, code, out)
		}
		var texts int
		for tries := 0; tries < 200; tries++ {
			rec, _, ok, err := c.Next()
			if err == nil && !ok {
				break
			}
			if err == nil && strings.Contains(rec.Source, "test_worker.c:") {
				texts++
			}
		}
		if texts != 3 {
			t.Errorf("round %d: %d of three records are read", round, texts)
		}
	}
}

// logOffset returns where the instance's WorkerLog lies.
func logOffset(r *region) int64 {
	parts := r.group.Parts(instance, instance+1)
	return parts[len(parts)-1].Offset
}
