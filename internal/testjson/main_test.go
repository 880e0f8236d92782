package main

import (
	"strings"
	"testing"
)

// What a run looks like: one test passes, one with a subtest fails, one is skipped; a package does not build;
// a package's TestMain fails; go prints something that is no event.
const run = `{"Action":"start","Package":"a"}
{"Action":"run","Package":"a","Test":"TestGood"}
{"Action":"output","Package":"a","Test":"TestGood","Output":"quiet\n"}
{"Action":"pass","Package":"a","Test":"TestGood","Elapsed":6.5}
{"Action":"run","Package":"a","Test":"TestBad"}
{"Action":"run","Package":"a","Test":"TestBad/sub"}
{"Action":"output","Package":"a","Test":"TestBad/sub","Output":"the reason\n"}
{"Action":"fail","Package":"a","Test":"TestBad/sub","Elapsed":0.1}
{"Action":"fail","Package":"a","Test":"TestBad","Elapsed":0.1}
{"Action":"run","Package":"a","Test":"TestSkip"}
{"Action":"output","Package":"a","Test":"TestSkip","Output":"no kernel for it\n"}
{"Action":"skip","Package":"a","Test":"TestSkip"}
{"Action":"output","Package":"a","Output":"FAIL\n"}
{"Action":"fail","Package":"a","Elapsed":7}
{"ImportPath":"b [b.test]","Action":"build-output","Output":"b.go:3: undefined: x\n"}
{"ImportPath":"b [b.test]","Action":"build-fail"}
{"Action":"fail","Package":"b","FailedBuild":"b [b.test]"}
{"Action":"output","Package":"c","Output":"leaked goroutine\n"}
{"Action":"fail","Package":"c"}
{"Action":"skip","Package":"none"}
go: downloading something
`

func summarize(t *testing.T, input string, noSkip bool) (*summary, string) {
	t.Helper()
	var out strings.Builder
	s := newSummary(&out, noSkip)
	if err := s.readAll(strings.NewReader(input)); err != nil {
		t.Fatal(err)
	}
	return s, out.String()
}

func TestCountsAndOutput(t *testing.T) {
	s, out := summarize(t, run, false)
	if s.passed != 1 || s.failed != 4 || s.skipped != 1 {
		t.Errorf("%d passed, %d failed, %d skipped; want 1, 4, 1", s.passed, s.failed, s.skipped)
	}
	for _, want := range []string{"the reason", "b.go:3: undefined: x", "leaked goroutine", "go: downloading something",
		"FAIL a: 2 of 4 tests", "pass a TestGood (6.5 s)", "skip a TestSkip"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	for _, not := range []string{"quiet", "none"} {
		if strings.Contains(out, not) {
			t.Errorf("%q in:\n%s", not, out)
		}
	}
}

func TestSkipsFailWhereTheyMust(t *testing.T) {
	s, out := summarize(t, run, true)
	if s.passed != 1 || s.failed != 5 {
		t.Errorf("%d passed, %d failed; want 1, 5", s.passed, s.failed)
	}
	if !strings.Contains(out, "no kernel for it") {
		t.Errorf("no reason of the skip in:\n%s", out)
	}
}

func TestKilledRunFails(t *testing.T) {
	cut := run[:strings.Index(run, `{"Action":"pass","Package":"a","Test":"TestGood"`)]
	s, out := summarize(t, cut, false)
	if s.failed != 1 || !strings.Contains(out, "never ended") {
		t.Errorf("%d failed:\n%s", s.failed, out)
	}
}
