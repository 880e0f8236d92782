// Command testjson reads the events of `go test -json` and prints what a person wants to see: one line a package,
// tests that take long while they run, and the whole output of what failed. scripts/test.sh uses it.
//
// The exit status is 1 if anything failed, 2 if the input could not be read.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// event is one line of go test -json; see `go doc test2json`, and `go help buildjson` for ImportPath.
type event struct {
	Time        time.Time
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	FailedBuild string // of a package's fail: the ImportPath that did not build
	Test        string
	Elapsed     float64 // seconds
	Output      string
}

// long is how many seconds a test may take before it is worth a line of its own.
const long = 5

func main() {
	counts := flag.String("counts", "", "`file` to write \"PASSED FAILED\" to")
	noSkip := flag.Bool("no-skip", false, "a skipped test has failed")
	flag.Parse()
	s := newSummary(os.Stdout, *noSkip)
	err := s.readAll(os.Stdin)
	if err == nil && *counts != "" {
		err = os.WriteFile(*counts, fmt.Appendf(nil, "%d %d\n", s.passed, s.failed), 0o644)
	}
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "testjson:", err)
		os.Exit(2)
	case s.failed > 0:
		os.Exit(1)
	}
}

// name names a test, or with an empty test a package.
type name struct{ pkg, test string }

// summary is what is known of a run so far.
type summary struct {
	out            io.Writer
	noSkip         bool
	passed, failed int // tests and subtests; a package that fails without a failed test is one
	skipped        int

	output  map[name]*strings.Builder // of what has not ended
	started map[name]time.Time        // of tests that run
	tests   map[string]int            // ended tests of a package
	bad     map[string]int            // failed tests of a package
	builds  map[string]*strings.Builder
}

func newSummary(out io.Writer, noSkip bool) *summary {
	return &summary{out: out, noSkip: noSkip, output: map[name]*strings.Builder{}, started: map[name]time.Time{},
		tests: map[string]int{}, bad: map[string]int{}, builds: map[string]*strings.Builder{}}
}

// readAll reads events until the end, and says every 30 s what runs.
func (s *summary) readAll(r io.Reader) error {
	lines := make(chan []byte)
	failed := make(chan error, 1)
	go func() {
		defer close(lines)
		in := bufio.NewScanner(r)
		in.Buffer(nil, 16<<20)
		for in.Scan() {
			lines <- slices.Clone(in.Bytes())
		}
		failed <- in.Err()
	}()
	alive := time.NewTicker(30 * time.Second)
	defer alive.Stop()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				s.unfinished()
				return <-failed
			}
			s.line(line)
		case now := <-alive.C:
			s.running(now)
		}
	}
}

// line takes one line of input. What is no event (a compiler that writes to stderr, say) is passed on.
func (s *summary) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil || e.Action == "" {
		fmt.Fprintf(s.out, "%s\n", line)
		return
	}
	n := name{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		buffer(s.builds, e.ImportPath).WriteString(e.Output)
	case "run":
		s.started[n] = e.Time
	case "output":
		buffer(s.output, n).WriteString(e.Output)
	case "pass", "fail", "skip":
		if e.Test != "" {
			s.testEnded(n, e)
		} else {
			s.packageEnded(e)
		}
		delete(s.output, n)
		delete(s.started, n)
	}
}

func (s *summary) testEnded(n name, e event) {
	s.tests[n.pkg]++
	switch {
	case e.Action == "skip" && s.noSkip:
		s.fail(n, "skipped, which fails here")
	case e.Action == "skip":
		s.skipped++
		fmt.Fprintf(s.out, "     skip %s %s\n", n.pkg, n.test)
	case e.Action == "fail":
		s.fail(n, "failed")
	default:
		s.passed++
		if e.Elapsed >= long && !strings.Contains(n.test, "/") {
			fmt.Fprintf(s.out, "     pass %s %s (%.1f s)\n", n.pkg, n.test, e.Elapsed)
		}
	}
}

// fail counts a failed test and prints what it said.
func (s *summary) fail(n name, why string) {
	s.failed++
	s.bad[n.pkg]++
	fmt.Fprintf(s.out, "FAIL %s %s: %s\n%s", n.pkg, n.test, why, indent(s.output[n]))
}

func (s *summary) packageEnded(e event) {
	switch {
	case e.Action == "skip" && s.tests[e.Package] == 0: // no test files
	case e.Action != "fail":
		fmt.Fprintf(s.out, "ok   %s: %d tests (%.1f s)\n", e.Package, s.tests[e.Package], e.Elapsed)
	case s.bad[e.Package] == 0: // it did not build, TestMain failed, it crashed outside of a test
		s.failed++
		fmt.Fprintf(s.out, "FAIL %s\n%s%s", e.Package, indent(s.builds[e.FailedBuild]), indent(s.output[name{e.Package, ""}]))
	default:
		fmt.Fprintf(s.out, "FAIL %s: %d of %d tests (%.1f s)\n%s", e.Package, s.bad[e.Package], s.tests[e.Package], e.Elapsed,
			indent(s.output[name{e.Package, ""}]))
	}
}

// running names the tests that have run for long, the longest first.
func (s *summary) running(now time.Time) {
	type test struct {
		name
		took time.Duration
	}
	var ts []test
	for n, t := range s.started {
		if took := now.Sub(t); took >= long*time.Second && !strings.Contains(n.test, "/") {
			ts = append(ts, test{n, took})
		}
	}
	slices.SortFunc(ts, func(a, b test) int { return cmp.Compare(b.took, a.took) })
	for _, t := range ts[:min(len(ts), 3)] {
		fmt.Fprintf(s.out, "     ...  %s %s (%d s so far)\n", t.pkg, t.test, int(t.took.Seconds()))
	}
}

// unfinished fails what had begun and never ended: go test itself was killed.
func (s *summary) unfinished() {
	for n := range s.started {
		s.fail(n, "never ended")
	}
}

func buffer[K comparable](m map[K]*strings.Builder, k K) *strings.Builder {
	if m[k] == nil {
		m[k] = &strings.Builder{}
	}
	return m[k]
}

func indent(b *strings.Builder) string {
	if b == nil {
		return ""
	}
	var out strings.Builder
	for line := range strings.Lines(b.String()) {
		out.WriteString("     " + strings.TrimSuffix(line, "\n") + "\n")
	}
	return out.String()
}
