package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const events = `{"Action":"output","Package":"m/test/crashpoint","Test":"TestKill","Output":"    tracer_test.go:301: send: 12 points, 1 failed; 3 of the points by SIGKILL; 0.5 s\n"}
{"Action":"output","Package":"m/test/crashpoint","Test":"TestKill","Output":"    tracer_test.go:301: receive: 30 points, 0 failed; 0 of the points by SIGKILL; 1.5 s\n"}
{"Action":"output","Package":"m/test/crashpoint","Test":"TestNaive","Output":"    naive_unsafe_test.go:153: control, send of a naive ring of 4 slots: killed at 7 points, 5 fail\n"}
{"Action":"output","Package":"m/test/crashpoint","Test":"TestMutants","Output":"    mutants_test.go:213: mutants: 2 of 2 found (3 are known); map[]\n"}
{"Action":"output","Package":"m/test/crashpoint","Test":"TestWake","Output":"    wake_test.go:187: beside send: at 4 points the wake-up is lost with the victim, and all are rescued by the repair\n"}
{"Action":"output","Package":"m/test/storm","Test":"TestStorm","Output":"    storm_test.go:265: 200 kills in 3s (map[]), 99 messages committed, 0 received more than once, 1 redeliveries; lost 0, torn 0, never sent 0, again after the ack 0\n"}
{"Action":"output","Package":"m/test/faults","Test":"TestStart","Output":"    faults_test.go:195: faults: start: 9 cases, 0 failed; 4 worked all the same\n"}
{"Action":"output","Package":"m/test/crashpoint","Test":"TestLogMutants","Output":"    mutants_test.go:213: mutants: 3 of 4 found (5 are known); map[]\n"}
{"Action":"output","Package":"m/test/crashpoint","Test":"TestLogWake","Output":"    log_test.go:187: beside write: at 5 points the wake-up is lost with the victim, and all are rescued by the next record\n"}
{"Action":"output","Package":"m/test/storm","Test":"TestLatestStorm","Output":"    latest_test.go:101: 20 kills in 1s (map[]), 99 versions, 1 slots given back; torn 0, older than before 0\n"}
{"Action":"output","Package":"m/test/storm","Test":"TestLatestStorm","Output":"    storm_test.go:328: 500 kills, 9 messages, 2s\n"}
{"Action":"fail","Package":"m/test/crashpoint","Test":"TestKill"}
`

const model = `run                                        expected   got                                states      s
2 producers, 1 death                       pass       pass                                 1234      5
NAIVE                                      fail       fail: lost                             56      1

2 runs, 0 not as expected; 1234 states of what is as it is; 6 s
`

func write(t *testing.T, events, model string) (string, error) {
	t.Helper()
	file := func(name, text string) string {
		p := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	r, err := read(file("tests", events), file("model", model), file("bench", "BenchmarkRepair-2   300   50.2 ms/max   3.4 ms/p50\n"))
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = r.write(&b)
	return b.String(), err
}

func TestPage(t *testing.T) {
	page, err := write(t, events, model)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"**Failed: TestKill.**",
		"| crashpoint TestKill | send | 12 | 1 | 3 | 0.5 |",
		"| **all** | | **42** | **1** | | |",
		"* send of a naive ring of 4 slots: killed at 7 points, 5 fail",
		"| crashpoint TestMutants | 2 | 2 | 3 |",
		"| crashpoint TestLogMutants | 3 | 4 | 5 |",
		"| **all** | **5** | **6** | **8** |",
		"* crashpoint TestLogWake: beside write: at 5 points",
		"* storm TestLatestStorm: 20 kills in 1s",
		"* crashpoint TestWake: beside send: at 4 points",
		"* storm TestStorm: 200 kills in 3s",
		"* faults TestStart: start: 9 cases, 0 failed; 4 worked",
		"| 2 producers, 1 death | pass | pass | 1234 | 5 |",
		"| NAIVE | fail | fail: lost | 56 | 1 |",
		"2 runs, 0 not as expected;",
		"BenchmarkRepair-2: 50.2 ms/max 3.4 ms/p50",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page, "500 kills") {
		t.Error("the page has a storm's progress")
	}
	if t.Failed() {
		t.Log(page)
	}
}

// A page of a run that did not do everything is none.
func TestNothingIsLeftOut(t *testing.T) {
	for _, word := range []string{"points, ", "mutants: ", "kills in", "faults: "} {
		if _, err := write(t, strings.ReplaceAll(events, word, ""), model); err == nil {
			t.Errorf("a page without %q", word)
		}
	}
	if _, err := write(t, events, strings.Replace(model, "2 runs", "", 1)); err == nil {
		t.Error("a page without the models' last line")
	}
}
