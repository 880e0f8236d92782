package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func start(t *testing.T) *lab {
	l, err := newLab()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

func TestMet(t *testing.T) {
	for _, c := range []struct {
		target string
		ratio  float64
		want   bool
	}{
		{"<= 1.3", 1.3, true}, {"<= 1.3", 1.31, false}, {">= 0.35", 0.35, true}, {">= 0.35", 0.34, false},
	} {
		if got, err := met(c.target, c.ratio); err != nil || got != c.want {
			t.Errorf("met(%q, %g) = %v, %v", c.target, c.ratio, got, err)
		}
	}
	for _, bad := range []string{"", "0.35", "== 1", ">= x"} {
		if _, err := met(bad, 1); err == nil {
			t.Errorf("met takes %q", bad)
		}
	}
	for _, c := range contests() {
		for _, r := range c.rows {
			if _, err := met(r.target, 1); err != nil {
				t.Errorf("%s: %v", r.measure, err)
			}
			for _, key := range r.needs {
				found := false
				for _, e := range c.entries {
					found = found || e.key == key
				}
				if !found {
					t.Errorf("%s: %s needs %q, which is not measured", c.name, r.measure, key)
				}
			}
		}
	}
}

// Ratios are taken within a round and a placement, never across.
func TestCompute(t *testing.T) {
	c := &contest{rows: []rowSpec{ratio("m", "ns", "p50", "a", "b", "", "<= 2")}}
	r := func(a, b float64) map[string]result { return map[string]result{"a": {"p50": a}, "b": {"p50": b}} }
	rows, err := c.compute([]round{
		{"near": r(100, 100)}, {"near": r(300, 100)}, {"near": r(1000, 500)}, // 1, 3, 2
		{"far": r(900, 300)},
		{"near": {"a": {"p50": 1}}, "far": {"b": {"p50": 1000}}}, // the distance changed between the two
		{"siblings": r(1, 1)},
		{"far": r(900, 300)},
	}, 2)
	if err != nil {
		t.Fatal(err)
	}
	want := []row{
		{"m", 300, "ns", "b", 100, 2, "<= 2", true, "near", 3, 1},
		{"m", 900, "ns", "b", 300, 3, "<= 2", false, "far", 2, 0},
	}
	if len(rows) != 2 || rows[0] != want[0] || rows[1] != want[1] {
		t.Errorf("got  %+v\nwant %+v", rows, want)
	}
}

func TestSum(t *testing.T) {
	for _, size := range []int{8, 16, 64, 120, 128, 136, 4096, 64 << 10} {
		s := newSource(size)
		var want uint64
		for w := range size / 8 {
			want += 2654435761 + uint64(w)
		}
		if got := sum(s.message(0)); got != want {
			t.Errorf("%d bytes: the sum is %d, not %d", size, got, want)
		}
	}
	b := make([]byte, 300<<10)
	put(b, bytes.Repeat([]byte("x"), len(b)))
	if !bytes.Equal(b, bytes.Repeat([]byte("x"), len(b))) {
		t.Error("put does not copy everything")
	}
}

// A probe beside itself is as fast as itself, and copying eight times as much takes longer, not shorter.
func TestProbeBesideItself(t *testing.T) {
	l := start(t)
	if err := l.compile(t.Context(), "gcc", "probe", "c/probe.c"); err != nil {
		t.Fatal(err)
	}
	p := params{size: 8 << 10}.with(100, 1000)
	large := p
	large.size *= 8
	n := &contest{
		name: "copy", apart: true, where: "any",
		entries: []entry{c("one", "copy", p), c("two", "copy", p), c("large", "copy", large)},
		rows:    []rowSpec{ratio("same", "ns", "p50", "one", "two", "", "<= 1"), ratio("eight", "ns", "p50", "large", "one", "", "<= 8")},
	}
	rounds, err := n.run(t.Context(), l, 7, map[string]string{}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := n.compute(rounds, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].Runs != 7 {
		t.Fatalf("%+v", rows)
	}
	if same := rows[0]; math.Abs(same.Ratio-1) > max(same.Spread, 0.1) {
		t.Errorf("a probe beside itself: %+v", same)
	}
	if eight := rows[1]; eight.Ratio < 2 {
		t.Errorf("eight times as much: %+v", eight)
	}
}

// A contest in its short form through everything: daemon, ends, probes, JSON, page, pictures.
func TestQuick(t *testing.T) {
	l := start(t)
	var chosen []*contest
	for _, c := range contests() {
		if regexp.MustCompile("spinning, 8 B|1:1, 64 B").MatchString(c.name) {
			c.entries = ownOnly(c.entries)
			c.apart, c.where = true, "near" // the distance may change here as it likes
			chosen = append(chosen, c)
		}
	}
	doc, err := measure(t.Context(), l, chosen, nil, options{rounds: 1, quick: true})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := doc.write(dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := valid(text); err != nil {
		t.Errorf("bench.json: %v\n%s", err, text)
	}
	page, err := os.ReadFile(filepath.Join(dir, "bench.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range doc.Rows {
		if !strings.Contains(string(page), "| "+r.Measure+" |") {
			t.Errorf("bench.md has no row %q", r.Measure)
		}
	}
	pictures, _ := filepath.Glob(filepath.Join(dir, "*.svg"))
	for _, p := range pictures {
		if err := wellFormed(p); err != nil {
			t.Errorf("%s: %v", filepath.Base(p), err)
		}
		if !strings.Contains(string(page), "("+filepath.Base(p)+")") {
			t.Errorf("bench.md does not show %s", filepath.Base(p))
		}
	}
	if len(pictures) == 0 {
		t.Error("no pictures")
	}
}

// The page of the repository is what its bench.json says, and each measure there that misses its target has a limit that docs/speed.md explains.
func TestPage(t *testing.T) {
	doc, err := readDocument("../docs")
	if err != nil {
		t.Fatal(err)
	}
	if page, err := os.ReadFile("../docs/bench.md"); err != nil || string(page) != doc.page() {
		t.Errorf("docs/bench.md is not what docs/bench.json says (%v): cd bench && go run . -page -w ../docs", err)
	}
	speed, err := os.ReadFile("../docs/speed.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range limits {
		if !strings.Contains(string(speed), "\n## "+l.section+"\n") {
			t.Errorf("docs/speed.md has no section %q", l.section)
		}
	}
	for _, m := range doc.missed() {
		if m.Why == "" {
			t.Errorf("%s, beside %s: it misses its target, and no limit is known", m.Measure, m.Reference)
		}
	}
}

// Several producers and consumers: what is sent is received, by all of them together.
func TestCrowd(t *testing.T) {
	l := start(t)
	if err := l.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	ns, err := l.ping(t.Context())
	if err != nil || ns <= 0 {
		t.Fatalf("ping: %g ns, %v", ns, err)
	}
	if err := l.startRegion(many().channels); err != nil {
		t.Fatal(err)
	}
	r, err := l.crowd(t.Context(), params{size: 64, busy: true}, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	if r["sent"] == 0 || r["sent"] != r["received"] || r["least"] > r["mean"] || r["most"] < r["mean"] || r["mean"]*3 != r["received"] {
		t.Errorf("%v", r)
	}
}

// ownOnly leaves the peers out: they need not be installed.
func ownOnly(all []entry) (own []entry) {
	for _, e := range all {
		if e.absent != nil {
			e.absent = func(context.Context, *lab) string { return "not in this test" }
		}
		own = append(own, e)
	}
	return own
}

// valid checks what the rows of bench.json promise to whoever reads them.
func valid(text []byte) error {
	var doc struct {
		Machine, Commit string
		Rows            []map[string]any
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return err
	}
	if doc.Machine == "" || doc.Commit == "" || len(doc.Rows) == 0 {
		return errors.New("machine, commit or rows are missing")
	}
	for i, r := range doc.Rows {
		for _, key := range []string{"measure", "unit", "reference", "target", "placement"} {
			if s, ok := r[key].(string); !ok || s == "" {
				return fmt.Errorf("row %d: %s is %v", i, key, r[key])
			}
		}
		for _, key := range []string{"value", "reference_value", "ratio", "runs", "spread"} {
			if _, ok := r[key].(float64); !ok {
				return fmt.Errorf("row %d: %s is %v", i, key, r[key])
			}
		}
		ok, err := met(r["target"].(string), r["ratio"].(float64))
		if err != nil || ok != r["met"] {
			return fmt.Errorf("row %d: met is %v: %w", i, r["met"], err)
		}
		if r["runs"].(float64) < 1 || r["value"].(float64) <= 0 || r["reference_value"].(float64) <= 0 {
			return fmt.Errorf("row %d measured nothing: %v", i, r)
		}
		if len(r) != 11 {
			return fmt.Errorf("row %d has %d fields", i, len(r))
		}
	}
	return nil
}

func wellFormed(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for d := xml.NewDecoder(f); ; {
		if _, err := d.Token(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// An end whose payloads arrive wrong says so.
func TestWrongPayload(t *testing.T) {
	e, err := newEnd([]string{"unix-receive", "size=64", "warm=1", "count=3"})
	if err != nil {
		t.Fatal(err)
	}
	src := newSource(64)
	var all []byte
	for i := range 4 {
		all = append(all, src.message(i)...)
	}
	all[70]++
	if err := streamReceive(e, readOnly{bytes.NewReader(all)}); err == nil || !strings.Contains(err.Error(), "wrong") {
		t.Errorf("one byte differs: %v", err)
	}
}

type readOnly struct{ io.Reader }

func (readOnly) Write([]byte) (int, error) { return 0, errors.New("read only") }
