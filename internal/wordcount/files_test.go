package wordcount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// tree writes files (names ending in / are directories) and returns their directory.
func tree(t *testing.T, contents map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range contents {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func decodeJobs(t interface{ Fatal(...any) }, p *Plan) (jobs []Job) {
	for _, msg := range p.Jobs {
		job, err := DecodeJob(msg)
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, job)
	}
	return jobs
}

// runPlan counts all jobs in this process and merges them.
func runPlan(t *testing.T, p *Plan, limit int) *Merger {
	t.Helper()
	c := newFiles(limit)
	defer c.clear()
	m := NewMerger(p.Run, len(p.Jobs))
	var words Counter
	for _, job := range decodeJobs(t, p) {
		read, errs := c.count(job.Ranges, &words)
		for _, msg := range parts(300, Attempt{Run: job.Run, ID: 1, Job: job.ID, Bytes: read}, errs, &words) {
			if _, err := m.Accept(msg); err != nil {
				t.Fatal(err)
			}
		}
		if len(c.byPath) > limit || c.order.Len() != len(c.byPath) {
			t.Fatalf("%d files are mapped, %d listed, limit %d", len(c.byPath), c.order.Len(), limit)
		}
	}
	if m.Left() != 0 {
		t.Fatalf("%d jobs are left", m.Left())
	}
	return m
}

// TestPlan: the ranges of a plan cover each file once, in jobs that keep both limits.
func TestPlan(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		slot := rapid.IntRange(minSlot, 3*minSlot).Draw(rt, "slot")
		p := &Plan{Run: 3}
		b := packer{plan: p, slot: slot}
		want := map[string]int64{}
		for i := range rapid.IntRange(0, 60).Draw(rt, "files") {
			name := fmt.Sprintf("/%s/%d", strings.Repeat("d", rapid.IntRange(1, 4000).Draw(rt, "length")), i)
			size := rapid.OneOf(rapid.Int64Range(0, 5000), rapid.Int64Range(0, 3*JobBytes), rapid.Just(int64(JobBytes)), rapid.Just(int64(0))).Draw(rt, "size")
			want[name] = size
			b.add(name, size)
		}
		b.flush()
		got := map[string]int64{}
		for i, job := range decodeJobs(rt, p) {
			var text int64
			for _, r := range job.Ranges {
				if r.Offset != got[r.Path] || r.Len == 0 && want[r.Path] != 0 {
					rt.Fatalf("job %d: range %d+%d after %d bytes of the file", i, r.Offset, r.Len, got[r.Path])
				}
				got[r.Path] += r.Len
				text += r.Len
			}
			if job.ID != uint32(i) || job.Run != 3 || text > JobBytes || len(p.Jobs[i]) > slot || len(job.Ranges) == 0 {
				rt.Fatalf("job %d: id %d, %d bytes of text, message of %d, slot of %d", i, job.ID, text, len(p.Jobs[i]), slot)
			}
		}
		if !maps.Equal(got, want) {
			rt.Fatalf("covered %v, want %v", got, want)
		}
	})
}

func TestNewPlan(t *testing.T) {
	dir := tree(t, map[string]string{"a": "one", "empty": "", "sub/b\nnewline": "two two", "sub/\xff\xfe": "three", "sub/deep/": ""})
	for _, link := range [][2]string{{"a", "link"}, {"sub", "dirlink"}, {"nowhere", "dangling"}} {
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	check := func(root string) {
		t.Helper()
		p, err := NewPlan(t.Context(), root, 8192)
		if err != nil {
			t.Fatal(err)
		}
		if p.Files != 4 || p.Bytes != 15 || len(p.Errors) != 0 || len(p.Jobs) != 1 {
			t.Fatalf("%d files, %d bytes, errors %v, %d jobs", p.Files, p.Bytes, p.Errors, len(p.Jobs))
		}
		if got := fmt.Sprint(runPlan(t, p, 100).Words.Top(0)); got != "[{two 2} {one 1} {three 1}]" {
			t.Error(got)
		}
	}
	check(dir)
	t.Chdir(filepath.Dir(dir))
	check(filepath.Base(dir)) // relative
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Symlink(dir, root); err != nil {
		t.Fatal(err)
	}
	check(root) // a link

	if _, err := NewPlan(t.Context(), filepath.Join(dir, "missing"), 8192); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing root: %v", err)
	}
	if _, err := NewPlan(t.Context(), dir, minSlot-1); err == nil || !strings.Contains(err.Error(), "slot_size") {
		t.Errorf("small slots: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewPlan(ctx, dir, 8192); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	empty, err := NewPlan(t.Context(), t.TempDir(), 8192)
	if err != nil || len(empty.Jobs) != 0 || runPlan(t, empty, 1).Words.Words() != 0 {
		t.Errorf("empty root: %+v, %v", empty, err)
	}
}

// TestLargeFiles: words across the cuts, and one that is longer than several chunks.
func TestLargeFiles(t *testing.T) {
	words := strings.Repeat("Wordwordword-abc ", 3*JobBytes/17)
	run := strings.Repeat("X", 2*JobBytes+JobBytes/2)
	text := words + run + words
	dir := tree(t, map[string]string{"large": text, "small": "abc", "binary": "\x00\x01" + run})
	p, err := NewPlan(t.Context(), dir, 1<<14)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Jobs) < 10 {
		t.Fatalf("only %d jobs", len(p.Jobs))
	}
	want := plainCount([]byte(text))
	want["abc"]++
	want[strings.ToLower(run)]++
	for _, limit := range []int{1, 2, 100} {
		m := runPlan(t, p, limit)
		if got := table(&m.Words); !maps.Equal(got, want) {
			t.Errorf("limit %d: the counts differ", limit)
		}
		if m.Bytes != uint64(p.Bytes) || len(m.Errors) != 0 {
			t.Errorf("limit %d: %d of %d bytes, errors %v", limit, m.Bytes, p.Bytes, m.Errors)
		}
	}
}

// TestBadFiles: what happens to files between the plan and the count is an error of
// the file, and the rest of the job is counted.
func TestBadFiles(t *testing.T) {
	good := strings.Repeat("good ", 1000)
	dir := tree(t, map[string]string{"a": good, "gone": "bad", "shorter": "bad bad", "fifo": "bad", "z": good})
	p, err := NewPlan(t.Context(), dir, 1<<14)
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []error{
		os.Remove(filepath.Join(dir, "gone")),
		os.Truncate(filepath.Join(dir, "shorter"), 3),
		os.Remove(filepath.Join(dir, "fifo")),
		os.Mkdir(filepath.Join(dir, "fifo"), 0o755),
	} {
		if do != nil {
			t.Fatal(do)
		}
	}
	m := runPlan(t, p, 100)
	if got := fmt.Sprint(m.Words.Top(0), m.Bytes, len(m.Errors)); got != "[{good 2000}] 10000 3" {
		t.Errorf("%s: %v", got, m.Errors)
	}
	for _, e := range m.Errors {
		if !filepath.IsAbs(e.Path) || e.Text == "" {
			t.Errorf("error %+v", e)
		}
	}
}

// TestTruncatedWhileMapped: a file that is mapped and shrinks then, before and while it is counted.
func TestTruncatedWhileMapped(t *testing.T) {
	bad := bytes.Repeat([]byte("bad "), 1<<16)
	dir := tree(t, map[string]string{"a": "good", "bad": string(bad), "z": "good good"})
	p, err := NewPlan(t.Context(), dir, 1<<14)
	if err != nil {
		t.Fatal(err)
	}
	job := decodeJobs(t, p)[0]
	c := newFiles(10)
	defer c.clear()
	var words Counter
	if read, errs := c.count(job.Ranges, &words); len(errs) != 0 || read != uint64(p.Bytes) {
		t.Fatal(read, errs)
	}
	if err := os.Truncate(filepath.Join(dir, "bad"), 4096); err != nil {
		t.Fatal(err)
	}
	read, errs := c.count(job.Ranges, &words)
	if got := fmt.Sprint(words.Top(0), read, len(errs)); got != "[{good 3}] 13 1" {
		t.Errorf("%s: %v", got, errs)
	}
	if len(errs) == 1 && !strings.Contains(errs[0].Text, "shorter while it was read: 4096 bytes") {
		t.Error(errs)
	}
}

// TestTruncatedInTheMiddle has the kernel itself meet the end of the file.
func TestTruncatedInTheMiddle(t *testing.T) {
	bad := bytes.Repeat([]byte("bad "), 1<<16)
	dir := tree(t, map[string]string{"bad": string(bad)})
	path := filepath.Join(dir, "bad")
	c := newFiles(10)
	defer c.clear()
	f, err := c.open(path)
	if err != nil {
		t.Fatal(err)
	}
	var words Counter
	err = f.View(func(text []byte) error {
		words.Count(text, 0, 100)
		if err := os.Truncate(path, 8192); err != nil {
			t.Fatal(err)
		}
		words.Count(text, 100, len(text))
		t.Error("the count went on past the end")
		return nil
	})
	if got := fileError(path, err).Text; !strings.Contains(got, "shorter while it was read: 8192 bytes") {
		t.Errorf("got %v", err)
	}
	words.Reset()
	words.Count([]byte("good good"), 0, 9)
	if got := fmt.Sprint(words.Top(0)); got != "[{good 2}]" {
		t.Errorf("after the fault: %s", got)
	}
}
