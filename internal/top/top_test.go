package top

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/stat"
	"github.com/shmd/shmd/pkg/protocol"
)

var update = flag.Bool("update", false, "write the frames in testdata anew")

var taken = time.Date(2026, 3, 1, 14, 3, 22, 0, time.UTC)

func counter(name string, n uint64) stat.Metric {
	return stat.Metric{Metric: protocol.Metric{MetricDef: protocol.MetricDef{Kind: protocol.MetricKindCounter, Name: name}, Count: n}, Live: true}
}

// sampleAt is a small region with something of everything, t looks after the first.
func sampleAt(t int) Sample {
	n := uint64(t)
	now := taken.Add(time.Duration(t) * time.Second)
	s := &stat.Snapshot{Taken: now, Region: "default", Header: protocol.Header{Region: "default", Generation: 7},
		Daemon: protocol.DaemonInfo{Pid: 4200, State: protocol.DaemonStateRunning, Started: taken.Add(-26 * time.Hour)}, Status: control.DaemonStatus{Pid: 4200, Alive: true}}
	group := func(name string, workers ...stat.Worker) {
		g := stat.Group{Group: protocol.Group{Name: name, Count: len(workers)}}
		for i, w := range workers {
			w.Name, w.Worker.Group, w.Instance, w.Index = fmt.Sprintf("%s.%d", name, i), len(s.Groups), i, len(s.Workers)
			g.States[w.State]++
			for c, n := range w.RestartsBy {
				g.Restarts[c] += uint64(n)
			}
			if w.Stalled {
				g.Stalled++
			}
			s.Workers = append(s.Workers, w)
		}
		s.Groups = append(s.Groups, g)
	}
	ready := func(pid int, m ...stat.Metric) stat.Worker {
		return stat.Worker{Worker: protocol.Worker{State: protocol.StateReady, Pid: pid, Since: taken.Add(-time.Hour)}, Heartbeat: time.Second, Metrics: m}
	}
	stalled := ready(4501)
	stalled.Stalled, stalled.Reason = true, "has not answered for 12s: awk wants fflush()"
	subscriber := ready(4601)
	subscriber.Attachment = 9
	group("parser", ready(4400, counter("parsed", 1000*n)), ready(4401, counter("parsed", 250*n*n)),
		stat.Worker{Worker: protocol.Worker{State: protocol.StateBackoff, Since: now.Add(-3 * time.Second), Restarts: 3, RestartsBy: [protocol.NumCauses]uint32{protocol.CauseSignal: 3},
			Reason: "killed by signal 9 (killed); starts again in 400ms"}, Heartbeat: -1}, ready(4403))
	group("filter", stalled)
	group("a-group-of-a-very-long-name-ok", subscriber, stat.Worker{Worker: protocol.Worker{State: protocol.StateFailed, Since: taken.Add(-49 * time.Hour), Restarts: 123456,
		RestartsBy: [protocol.NumCauses]uint32{protocol.CauseFailure: 123456}, Reason: "ended 11 times within 10m0s, last: exit code 1\x1b[31m"}, Heartbeat: -1})
	group("done", stat.Worker{Worker: protocol.Worker{State: protocol.StateExited, Since: taken, Reason: "stopped", Cause: protocol.CauseOperator}, Desired: protocol.DesiredStop})
	s.Channels = []stat.Channel{
		{Name: "jobs", Kind: protocol.KindQueue, Slots: 1024, Summary: protocol.Summary{Depth: 312, Sent: 12000 * n, Received: 11000*n + n*n, Dead: 2},
			Oldest: &stat.Lease{Holder: "parser.3", AtLeast: 42 * time.Second}, Leases: 4},
		{Name: "jobs.dead", Kind: protocol.KindQueue, Slots: 1024, Summary: protocol.Summary{Depth: 1024}},
		{Name: "news", Kind: protocol.KindTopic, Slots: 64, Summary: protocol.Summary{Depth: 64, Sent: 3 * n, Lost: 1234567},
			Topic: &protocol.TopicStat{Slots: 64, Subscribers: []protocol.Cursor{{Row: 0, Owner: 9, Phase: protocol.CursorPhaseOpen, Lag: 2}, {Row: 3, Owner: 77, Phase: protocol.CursorPhaseOpen, Lag: 64, Lost: 5, Blocks: true}}}},
		{Name: "config", Kind: protocol.KindLatest, Slots: 8, Summary: protocol.Summary{Depth: 1}},
		{Name: "secret", Kind: protocol.KindCall, Err: errors.New("its memory is for root, the daemon's user, and who may produce or consume")},
	}
	out := Sample{Snapshot: s}
	if t == 0 {
		for i := range 30 {
			out.Log = append(out.Log, LogLine{Time: taken.Add(time.Duration(i-30) * time.Second), Worker: "parser.0", Text: fmt.Sprintf("line %d of the log", i)})
		}
		out.Log = append(out.Log, LogLine{Time: taken, Text: "worker died worker=parser.2 how=\"killed by signal 9\"", Bad: true})
	}
	return out
}

// seen is a model that has seen the region for a while.
func seen(o Options, w, h int) *Model {
	m := New(o, w, h)
	for t := range 40 {
		m.Take(sampleAt(t))
	}
	return m
}

// thousand is a region of 1,000 workers and 200 channels.
func thousand(t int) Sample {
	s := sampleAt(0)
	s.Snapshot.Taken = taken.Add(time.Duration(t) * time.Second)
	s.Snapshot.Groups, s.Snapshot.Workers, s.Snapshot.Channels = nil, nil, nil
	for g := range 10 {
		group := stat.Group{Group: protocol.Group{Name: fmt.Sprintf("group-%d", g), Count: 100}}
		for i := range 100 {
			w := stat.Worker{Worker: protocol.Worker{Name: fmt.Sprintf("group-%d.%d", g, i), Group: g, Instance: i, State: protocol.StateReady, Pid: 10000 + g*100 + i, Since: taken}, Index: g*100 + i,
				Metrics: []stat.Metric{counter("done", uint64(t*i))}}
			if g == 7 && i == 42 {
				w.State, w.Reason = protocol.StateFailed, "exit code 3"
			}
			group.States[w.State]++
			s.Snapshot.Workers = append(s.Snapshot.Workers, w)
		}
		s.Snapshot.Groups = append(s.Snapshot.Groups, group)
	}
	for c := range 200 {
		s.Snapshot.Channels = append(s.Snapshot.Channels, stat.Channel{Name: fmt.Sprintf("channel-%d", c), Kind: protocol.KindQueue, Slots: 1024, Summary: protocol.Summary{Depth: c * 5, Sent: uint64(t * c)}})
	}
	return s
}

func keys(t *testing.T, m *Model, names ...string) (do []Request) {
	t.Helper()
	for _, k := range names {
		q, quit := m.Key(k)
		if quit {
			t.Fatalf("%q quits", k)
		}
		if q != nil {
			do = append(do, *q)
		}
		whole(t, m)
	}
	return do
}

// whole draws a frame, and checks that it fills the screen and nothing more, and garbles no terminal.
func whole(t *testing.T, m *Model) string {
	t.Helper()
	f := m.Frame()
	lines := strings.Split(f, "\n")
	if len(lines) != m.height {
		t.Errorf("%d lines on a screen of %d:\n%s", len(lines), m.height, f)
	}
	for _, l := range lines {
		if n := ansi.StringWidth(l); n > m.width {
			t.Errorf("%d cells on a screen of %d: %q", n, m.width, l)
		}
	}
	if bare := regexp.MustCompile("\x1b\\[[0-9]+m").ReplaceAllString(f, ""); strings.ContainsAny(bare, "\x1b\r\x00\a") || !m.o.Colored && bare != f {
		t.Errorf("control characters in %q", f)
	}
	return f
}

func TestFrames(t *testing.T) {
	plain := Options{Interval: time.Second}
	for name, m := range map[string]*Model{
		"80x24":       seen(plain, 80, 24),
		"200x50":      seen(plain, 200, 50),
		"colored":     seen(Options{Colored: true}, 80, 24),
		"ascii":       seen(Options{ASCII: true}, 80, 24),
		"read-only":   seen(Options{ReadOnly: "you may look and not act"}, 80, 24),
		"tiny":        seen(plain, 20, 5),
		"help":        seen(Options{}, 80, 24),
		"confirm":     seen(plain, 80, 24),
		"problems":    seen(plain, 80, 24),
		"zoom":        seen(plain, 80, 24),
		"dead":        seen(plain, 80, 24),
		"nothing":     New(plain, 80, 24),
		"1000-80x24":  New(plain, 80, 24),
		"1000-200x50": New(plain, 200, 50),
	} {
		t.Run(name, func(t *testing.T) {
			switch name {
			case "help":
				keys(t, m, "?")
			case "confirm":
				keys(t, m, "down", "s")
			case "problems":
				keys(t, m, "p")
			case "zoom":
				keys(t, m, "tab", "z")
			case "dead":
				s := sampleAt(40)
				s.Snapshot.Status.Alive, s.Trouble = false, "no daemon: workers go on"
				m.Take(s)
			case "nothing":
				m.Take(Sample{Trouble: "waiting for the region"})
			}
			if strings.HasPrefix(name, "1000") {
				for i := range 30 {
					m.Take(thousand(i))
				}
				keys(t, m, "G", "k", "k", "tab", "pgdown", "pgdown")
			}
			got := whole(t, m) + "\n"
			if i := strings.IndexFunc(got, func(r rune) bool { return r > 0x7e }); name == "ascii" && i >= 0 {
				t.Errorf("not ASCII: %q", got[i:])
			}
			file := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the frame is\n%s\nand %s has\n%s\nif that is meant: go test ./internal/top -update", got, file, want)
			}
		})
	}
}

// Whatever the size of the screen and whatever is pressed, the frame fits.
func TestEverySizeAndKey(t *testing.T) {
	all := []string{"up", "down", "j", "k", "pgup", "pgdown", "home", "end", "tab", "shift+tab", "enter", "left", "right", "z", "p", "space", "?", "s", "n", "r", "y", "e", "+", "-", "x"}
	for _, size := range [][2]int{{1, 1}, {3, 2}, {10, 3}, {40, 10}, {79, 23}, {80, 24}, {300, 100}} {
		for _, first := range all {
			m := seen(Options{Colored: size[0]%2 == 0, ASCII: size[1]%2 == 0}, size[0], size[1])
			keys(t, m, first)
			for _, second := range all {
				keys(t, m, second)
				m.Take(sampleAt(41))
				whole(t, m)
			}
		}
	}
	empty := New(Options{}, 80, 24)
	empty.Take(Sample{Snapshot: &stat.Snapshot{}})
	keys(t, empty, all...)
	keys(t, New(Options{}, 80, 24), all...)
}

func TestRequests(t *testing.T) {
	m := seen(Options{}, 80, 40)
	for _, c := range []struct {
		keys string
		want []Request
		says string
	}{
		{"s y", []Request{{What: Stop, Name: "parser", Subject: "all 4 of parser"}}, "stop all 4 of parser …"},
		{"s n", nil, "all 4 of parser is left as it is"},
		{"down down s y", []Request{{What: Stop, Name: "parser.1", Subject: "parser.1"}}, ""},
		{"r y", []Request{{What: Restart, Name: "parser.1", Subject: "parser.1"}}, ""},
		{"r enter", nil, "parser.1 is left as it is"},
		{"+ y", []Request{{What: Scale, Name: "parser", Count: 5, Subject: "parser from 4 to 5"}}, ""},
		{"- y", []Request{{What: Scale, Name: "parser", Count: 3, Subject: "parser from 4 to 3"}}, ""},
		{"e", nil, "evict ends a subscriber of a topic: select one"},
		{"tab s", nil, "that is for workers and groups: select one (tab)"},
		{"e", nil, "evict ends a subscriber of a topic: select one"},
		{"down down down down e y", []Request{{What: Evict, Name: "news", Cursor: 3, Subject: "subscriber 3 of news"}}, ""},
		{"tab s", nil, "select a worker, a group or a subscriber first (tab)"},
	} {
		got := keys(t, m, strings.Fields(c.keys)...)
		if fmt.Sprint(got) != fmt.Sprint(c.want) || c.says != "" && m.message != c.says {
			t.Errorf("%s: asks for %+v and says %q", c.keys, got, m.message)
		}
	}
	m.Done(Request{What: Stop, Subject: "parser.1"}, errors.New("it is\nnot running"))
	if f := whole(t, m); !strings.HasSuffix(f, "stop parser.1: it is not running") {
		t.Errorf("the last line of\n%s", f)
	}
	m = seen(Options{ReadOnly: "you may look and not act"}, 80, 24)
	if got := keys(t, m, "s", "y"); got != nil {
		t.Errorf("who may not act asks for %v", got)
	}
	if _, quit := m.Key("q"); !quit {
		t.Error("q does not quit")
	}
	m = seen(Options{}, 80, 24)
	keys(t, m, "s")
	if _, quit := m.Key("ctrl+c"); !quit {
		t.Error("ctrl+c does not quit while there is a question")
	}
	keys(t, m, "esc", "down", "down", "down", "down", "down") // the filter, of which there is one
	if got := keys(t, m, "-", "y"); got != nil {
		t.Errorf("a group of one is scaled to none: %v", got)
	}
}

// What is selected stays selected when rows come and go, and a question is about what was selected when it was asked.
func TestSelectionStays(t *testing.T) {
	m := seen(Options{}, 80, 24)
	keys(t, m, "down", "down", "down") // parser.2
	s := sampleAt(41)
	s.Snapshot.Workers = s.Snapshot.Workers[1:] // parser.0 is gone
	m.Take(s)
	if r, _ := m.selected(workersPane); r.subject != "parser.2" {
		t.Errorf("%q is selected", r.subject)
	}
	keys(t, m, "s")
	m.Take(sampleAt(42))
	if got := keys(t, m, "y"); len(got) != 1 || got[0].Name != "parser.2" {
		t.Errorf("asks for %v", got)
	}
	keys(t, m, "left")
	if r, _ := m.selected(workersPane); r.subject != "parser" {
		t.Errorf("after folding %q is selected", r.subject)
	}
	before := len(m.rows[workersPane])
	keys(t, m, "right")
	if len(m.rows[workersPane]) != before+4 {
		t.Errorf("%d rows after unfolding, %d before", len(m.rows[workersPane]), before)
	}
}

// A frame of 1,000 workers costs about as much as one of ten: only what shows is drawn.
func BenchmarkFrame(b *testing.B) {
	for name, sample := range map[string]func(int) Sample{"11-workers": sampleAt, "1000-workers": thousand} {
		b.Run(name, func(b *testing.B) {
			m := New(Options{Colored: true}, 200, 50)
			for i := range 30 {
				m.Take(sample(i))
			}
			for b.Loop() {
				m.Frame()
			}
		})
	}
}

// BenchmarkTake is what a sample of 1,000 workers costs the model.
func BenchmarkTake(b *testing.B) {
	m := New(Options{}, 80, 24)
	a, z := thousand(1), thousand(2)
	for b.Loop() {
		m.Take(a)
		m.Take(z)
	}
}
