package top

import (
	"fmt"
	"html"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/stat"
	"github.com/shmd/shmd/pkg/protocol"
)

// The picture of the view in README.md and docs/top.md is a frame of a small region at work.
func TestPicture(t *testing.T) {
	m := New(Options{Colored: true}, 100, 27)
	for i := range 60 {
		m.Take(pictured(i))
	}
	keys(t, m, "down", "down")
	got := svg(m.Frame(), 100)
	const file = "../../docs/top.svg"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || got != string(want) {
		t.Errorf("docs/top.svg is of another frame (%v); if that is meant: go test ./internal/top -update", err)
	}
}

// pictured is a region whose load comes and goes, t seconds after the first look.
func pictured(t int) Sample {
	now := taken.Add(time.Duration(t) * time.Second)
	wave := func(t, period, low, high int) uint64 { // sum of a triangle wave up to t
		var sum uint64
		for i := range t {
			k := i % period
			sum += uint64(low + (high-low)*min(k, period-k)*2/period)
		}
		return sum
	}
	s := &stat.Snapshot{Taken: now, Region: "default", Daemon: protocol.DaemonInfo{Pid: 812, State: protocol.DaemonStateRunning, Started: taken.Add(-75 * time.Hour)},
		Status: control.DaemonStatus{Pid: 812, Alive: true}}
	group := func(name string, n int, of func(i int, w *stat.Worker)) {
		g := stat.Group{Group: protocol.Group{Name: name, Count: n}}
		for i := range n {
			w := stat.Worker{Worker: protocol.Worker{Name: fmt.Sprintf("%s.%d", name, i), Group: len(s.Groups), State: protocol.StateReady, Pid: 820 + 10*len(s.Groups) + i, Since: taken.Add(-75 * time.Hour)}, Index: len(s.Workers)}
			of(i, &w)
			g.States[w.State]++
			for c, n := range w.RestartsBy {
				g.Restarts[c] += uint64(n)
			}
			s.Workers = append(s.Workers, w)
		}
		s.Groups = append(s.Groups, g)
	}
	group("parser", 4, func(i int, w *stat.Worker) {
		w.Metrics = []stat.Metric{counter("parsed", wave(t, 24, 20000+i*3000, 61000))}
		if i == 3 {
			w.Restarts, w.RestartsBy[protocol.CauseSignal], w.Since = 1, 1, taken.Add(-4*time.Minute)
		}
	})
	group("merger", 1, func(_ int, w *stat.Worker) { w.Metrics = []stat.Metric{counter("merged", wave(t, 24, 81000, 243000))} })
	group("enrich", 2, func(i int, w *stat.Worker) {
		if i == 1 {
			w.State, w.Pid, w.Since, w.Restarts, w.RestartsBy[protocol.CauseFailure], w.Reason = protocol.StateBackoff, 0, now, 5, 5, "exit code 1; starts again in 3.2s"
		}
	})
	s.Channels = []stat.Channel{
		{Name: "jobs", Kind: protocol.KindQueue, Slots: 1024, Summary: protocol.Summary{Depth: 320 + 300*(t%24)/24, Sent: wave(t, 24, 90000, 250000), Received: wave(t, 24, 81000, 243000), Dead: 2}},
		{Name: "jobs.dead", Kind: protocol.KindQueue, Slots: 1024, Summary: protocol.Summary{Depth: 2}},
		{Name: "results", Kind: protocol.KindQueue, Slots: 4096, Summary: protocol.Summary{Depth: 17, Sent: wave(t, 24, 81000, 243000), Received: wave(t, 24, 81000, 243000)}},
		{Name: "prices", Kind: protocol.KindTopic, Slots: 512, Summary: protocol.Summary{Depth: 40, Sent: wave(t, 9, 100, 1900), Received: wave(t, 9, 300, 5700)},
			Topic: &protocol.TopicStat{Subscribers: []protocol.Cursor{{Row: 0, Owner: 840, Phase: protocol.CursorPhaseOpen, Lag: 3}, {Row: 1, Owner: 841, Phase: protocol.CursorPhaseOpen, Lag: 40}}}},
		{Name: "config", Kind: protocol.KindLatest, Slots: 8, Summary: protocol.Summary{Depth: 1, Sent: uint64(t / 20)}},
	}
	s.Workers[5].Attachment, s.Workers[6].Attachment = 840, 841
	out := Sample{Snapshot: s}
	if t == 59 {
		for i, l := range []LogLine{{Worker: "parser.1", Text: "read 61000 lines of access.log"}, {Worker: "enrich.1", Text: "cannot reach the geo database: connection refused", Bad: true},
			{Text: `worker died worker=enrich.1 how="exit code 1"`, Bad: true}, {Worker: "merger.0", Text: "checkpoint 118 written in 12 ms"}} {
			l.Time = now.Add(time.Duration(i-4) * 700 * time.Millisecond)
			out.Log = append(out.Log, l)
		}
	}
	return out
}

var sgr = regexp.MustCompile("\x1b\\[([0-9]+)m(.*?)\x1b\\[0m")

// svg draws a frame as a terminal would.
func svg(frame string, columns int) string {
	const cell, height, margin = 8.4, 18, 12
	lines := strings.Split(frame, "\n")
	var b strings.Builder
	w, h := float64(columns)*cell+2*margin, len(lines)*height+2*margin
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%d\" viewBox=\"0 0 %.0f %d\" role=\"img\">\n<title>shmctl top</title>\n", w, h, w, h)
	b.WriteString("<style>text{font:14px 'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#d4d4d4;white-space:pre}.s1{font-weight:bold;fill:#fff}.s2{fill:#8a8a8a}.s31{fill:#f14c4c}.s32{fill:#4ec970}.s33{fill:#e5c349}.s7{fill:#1e1e1e}</style>\n")
	fmt.Fprintf(&b, "<rect width=\"%.0f\" height=\"%d\" rx=\"8\" fill=\"#1e1e1e\"/>\n", w, h)
	for i, l := range lines {
		y := margin + i*height + 13
		x := float64(margin)
		put := func(class, text string) {
			n := float64(ansi.StringWidth(text)) * cell
			if class == "s7" {
				fmt.Fprintf(&b, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"#c8c8c8\"/>\n", x, y-14, n, height)
			}
			if strings.TrimSpace(text) != "" {
				fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\" textLength=\"%.1f\" class=\"%s\" xml:space=\"preserve\">%s</text>\n", x, y, n, class, html.EscapeString(text))
			}
			x += n
		}
		for l != "" {
			at := sgr.FindStringSubmatchIndex(l)
			if at == nil {
				put("s0", l)
				break
			}
			if at[0] > 0 {
				put("s0", l[:at[0]])
			}
			put("s"+l[at[2]:at[3]], l[at[4]:at[5]])
			l = l[at[1]:]
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}
