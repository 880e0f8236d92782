package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/shmd/shmd/internal/wordcount"
)

func TestParse(t *testing.T) {
	c, err := parse([]string{"DIR", "-o", "json", "--kill=3"}, io.Discard)
	if err != nil || c.dir != "DIR" || c.output != "json" || c.kill != 3 || c.region != "wordcount" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := parse(nil, io.Discard); err != nil || filepath.Base(c.dir) != "src" || c.kill != 1 || c.top != 10 {
		t.Errorf("defaults: %+v, %v", c, err)
	}
	for args, want := range map[string]string{
		"-o yaml d":    "give table or json",
		"--kill=-1 d":  "0 or more",
		"--kill x d":   "--help",
		"--nonsense d": "--nonsense",
		"a b":          "one directory, not 2",
	} {
		if _, err := parse(strings.Fields(args), io.Discard); !errors.As(err, new(errUsage)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want a usage error with %q", args, err, want)
		}
	}
	var help bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, nil, &help, io.Discard); !errors.Is(err, pflag.ErrHelp) || !strings.Contains(help.String(), "--kill N") {
		t.Errorf("%v, help:\n%s", err, &help)
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"cannot read the directory to count": {"--check", filepath.Join(dir, "missing")},
		"no such file or directory; give":    {"--single", filepath.Join(dir, "missing")},
		"run.sh":                             {"--socket", filepath.Join(dir, "no.sock"), dir},
	} {
		if err := run(t.Context(), args, nil, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v; want %q in it", args, err, name)
		}
	}
}

// TestSmaps: other files, names that begin like the directory, a newline and a space in the name.
func TestSmaps(t *testing.T) {
	const sample = `00400000-00401000 r-xp 00000000 08:01 17                                 /usr/bin/x
Size:                  4 kB
Rss:                   4 kB
Pss:                   1 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0000003000 r--s 00000000 08:01 18                         /d\012r/a file
Size:                 12 kB
Rss:                  12 kB
Pss:                   6 kB
Pss_Dirty:             6 kB
7f0000004000-7f0000005000 r--s 00000000 08:01 19                         /d\012r/b (deleted)
Rss:                   4 kB
Pss:                   4 kB
7f0000006000-7f0000007000 r--s 00000000 08:01 20                         /d\012rr/c
Rss:                   4 kB
Pss:                   4 kB
7f0000008000-7f0000009000 rw-p 00000000 00:00 0 
Rss:                   4 kB
Pss:                   4 kB
7f0000008000-7f0000009000 rw-p 00000000 00:00 0                          [stack]
Rss:                   4 kB
`
	for root, want := range map[string][2]int64{"/d\nr": {16 << 10, 10 << 10}, "/": {24 << 10, 15 << 10}, "/usr/bin/x": {4 << 10, 1 << 10}} {
		rss, pss, err := sumSmaps(strings.NewReader(sample), root)
		if err != nil || rss != want[0] || pss != want[1] {
			t.Errorf("%q: %d, %d, %v; want %v", root, rss, pss, err, want)
		}
	}
	if _, _, err := sumSmaps(strings.NewReader("0-1 r 0 0 0 /a\nRss: many kB\n"), "/a"); err == nil {
		t.Error("no error for a line that is no number")
	}
}

func TestReport(t *testing.T) {
	text := []byte("b b a <&>")
	m := wordcount.NewMerger(1, 0)
	m.Words.Count(text, 0, len(text))
	m.Bytes, m.Redelivered, m.Duplicates = 9, 2, 1
	m.Errors = []wordcount.FileError{{Path: "/d/\xff", Text: "gone"}}
	p := &wordcount.Plan{Root: "/d", Files: 2, Bytes: 9, Errors: []wordcount.FileError{{Path: "/d/closed", Text: "permission denied"}}}
	rep := newReport(p, m, time.Second/2, 10)
	rep.Kills, rep.Memory = 3, &memory{Processes: 6, Text: 9, Pages: 4096, Rss: 8192, Pss: 4096}

	path := filepath.Join(t.TempDir(), "report")
	if err := rep.write(path); err != nil {
		t.Fatal(err)
	}
	stop := `{"schema":1,"workers":[{"name":"counter.0","exit_ns":1500000},{"exit_ns":2500000},{"exit_ns":null}]}`
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--finish", path, "-o", "json", "d"}, strings.NewReader(stop), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	want := `{"schema":1,"words":3,"distinct":2,"top":[["b",2],["a",1]],"dir":"/d","files":2,"bytes":9,` +
		`"errors":[{"path":"/d/closed","error":"permission denied"},{"path":"\"/d/\\xff\"","error":"gone"}],` +
		`"seconds":0.5,"mb_per_s":0.000018,"redelivered":2,"duplicates":1,"kills":3,` +
		`"memory":{"processes":6,"text_bytes":9,"text_pages_bytes":4096,"rss_bytes":8192,"pss_bytes":4096},"stop_ns":2500000}` + "\n"
	if out.String() != want {
		t.Errorf("got  %swant %s", &out, want)
	}
	out.Reset()
	if err := run(t.Context(), []string{"--finish", path, "d"}, strings.NewReader(stop), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"words            3\n", "distinct words   2\n", "workers killed   3\n", "2 jobs, 1 results", "stop             2.5ms from", "top 2:\n  b  2\n", `"/d/closed": permission denied`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	for _, stop := range []string{"", `{"workers":[]}`, `{"workers":[{"exit_ns":null}]}`} {
		if _, err := readReport(path, strings.NewReader(stop)); err == nil {
			t.Errorf("stop %q: no error", stop)
		}
	}
}

// TestSingle is the count without a region; "top" is a list, also of nothing.
func TestSingle(t *testing.T) {
	for text, want := range map[string]string{"x Y x": `"words":3,"distinct":2,"top":[["x",2],["y",1]]`, "": `"words":0,"distinct":0,"top":[]`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := run(t.Context(), []string{"--single", "-o", "json", dir}, nil, &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		if !json.Valid(out.Bytes()) || !strings.Contains(out.String(), want) || !strings.Contains(out.String(), `"wc":{"seconds":`) {
			t.Errorf("got %s, want %s", &out, want)
		}
	}
}

func TestProgressLines(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, 1e6)
	for _, n := range []int64{0, 99_999, 100_000, 150_000, 410_000, 1e6} {
		p.set(n)
	}
	p.end()
	if got := strings.ReplaceAll(out.String(), "wordcount: ", ""); got != "10% of 1.0 MB\n40% of 1.0 MB\n100% of 1.0 MB\n" {
		t.Errorf("got %q", got)
	}
	newProgress(&out, 0).set(0) // nothing to divide by
}

// TestBarEnds: the bar must not wait for bytes that never come.
func TestBarEnds(t *testing.T) {
	for _, upTo := range []int64{0, 500, 1000} {
		b := newBar(io.Discard, 1000)
		b.set(upTo)
		b.end()
	}
	newBar(io.Discard, 0).end()
}

func TestCause(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the reason"))
	if err := cause(ctx, context.Canceled); err.Error() != "the reason" {
		t.Error(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := cause(ctx, context.Canceled); err.Error() != "interrupted" {
		t.Error(err)
	}
}
