// Command genreliability writes docs/reliability.md from what the proofs printed: the events of `go test -json` of the packages under test/,
// the output of models/run.sh, and of the benchmark of a repair. scripts/reliability.sh runs them and calls it.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

func main() {
	tests := flag.String("tests", "", "`file` with the events of go test -json")
	model := flag.String("model", "", "`file` with the output of models/run.sh")
	bench := flag.String("bench", "", "`file` with the output of go test -bench Repair")
	header := flag.String("header", "", "a line about the run: commit, machine")
	flag.Parse()
	r, err := read(*tests, *model, *bench)
	if err != nil {
		fmt.Fprintln(os.Stderr, "genreliability:", err)
		os.Exit(1)
	}
	r.header = *header
	if err := r.write(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "genreliability:", err)
		os.Exit(1)
	}
}

// report is what the page says.
type report struct {
	header   string
	points   []points
	control  []string // of the naive ring
	mutants  []string // rows of the table
	found    [3]int   // of all mutants: found, hunted, known
	wakes    []string
	storms   []string
	faults   []string
	failed   []string // tests
	model    []string // rows of the table
	modelSum string
	repair   []string
}

// points is a row of the table of crash points.
type points struct {
	test, what                   string
	points, failed, killed, time string
}

var (
	pointsLine  = regexp.MustCompile(`_test\.go:\d+: (.*): (\d+) points, (\d+) failed; (\d+) of the points by SIGKILL; ([0-9.]+) s`)
	controlLine = regexp.MustCompile(`_test\.go:\d+: control, (.*)`)
	mutantsLine = regexp.MustCompile(`_test\.go:\d+: mutants: (\d+) of (\d+) found \((\d+) are known\)`)
	wakeLine    = regexp.MustCompile(`_test\.go:\d+: (.*at \d+ points the wake-up is lost with the victim, and all are rescued by .*)`)
	stormLine   = regexp.MustCompile(`_test\.go:\d+: (\d+ (?:kills in|kills:|faults in) .*)`)
	faultsLine  = regexp.MustCompile(`_test\.go:\d+: faults: (.*)`)
	modelRow    = regexp.MustCompile(`^(\S+(?: \S+)*?) {2,}(pass|fail) +(\S.*?) +([0-9]+) +([0-9]+)`)
	modelSum    = regexp.MustCompile(`^\d+ runs, \d+ not as expected; .*`)
	repairLine  = regexp.MustCompile(`^(BenchmarkRepair\S*)\s+\d+\s+(.*)`)
)

func read(tests, model, bench string) (*report, error) {
	r := &report{}
	err := lines(tests, func(line []byte) error {
		var e struct{ Action, Package, Test, Output string }
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("%s: %w", tests, err)
		}
		if e.Action == "fail" && e.Test != "" {
			r.failed = append(r.failed, e.Test)
		}
		pkg := e.Package[strings.LastIndexByte(e.Package, '/')+1:]
		name := pkg + " " + e.Test
		switch o := strings.TrimSpace(e.Output); {
		case pointsLine.MatchString(o):
			m := pointsLine.FindStringSubmatch(o)
			r.points = append(r.points, points{name, m[1], m[2], m[3], m[4], m[5]})
		case controlLine.MatchString(o):
			r.control = append(r.control, controlLine.FindStringSubmatch(o)[1])
		case mutantsLine.MatchString(o):
			m := mutantsLine.FindStringSubmatch(o)
			r.mutants = append(r.mutants, fmt.Sprintf("| %s | %s | %s | %s |", name, m[1], m[2], m[3]))
			for i, n := range m[1:] {
				var v int
				fmt.Sscan(n, &v)
				r.found[i] += v
			}
		case wakeLine.MatchString(o):
			r.wakes = append(r.wakes, name+": "+wakeLine.FindStringSubmatch(o)[1])
		case faultsLine.MatchString(o):
			r.faults = append(r.faults, name+": "+faultsLine.FindStringSubmatch(o)[1])
		case pkg == "storm" && stormLine.MatchString(o):
			r.storms = append(r.storms, name+": "+stormLine.FindStringSubmatch(o)[1])
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = lines(model, func(line []byte) error {
		if m := modelRow.FindStringSubmatch(string(line)); m != nil {
			r.model = append(r.model, fmt.Sprintf("| %s | %s | %s | %s | %s |", m[1], m[2], m[3], m[4], m[5]))
		} else if modelSum.Match(line) {
			r.modelSum = string(line)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = lines(bench, func(line []byte) error {
		if m := repairLine.FindSubmatch(line); m != nil {
			r.repair = append(r.repair, fmt.Sprintf("%s: %s", m[1], bytes.Join(bytes.Fields(m[2]), []byte(" "))))
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case len(r.points) == 0:
		return nil, fmt.Errorf("%s has no crash points", tests)
	case len(r.mutants) == 0:
		return nil, fmt.Errorf("%s has no mutants", tests)
	case len(r.storms) == 0:
		return nil, fmt.Errorf("%s has no storm", tests)
	case len(r.faults) == 0:
		return nil, fmt.Errorf("%s has no system calls that fail", tests)
	case r.modelSum == "":
		return nil, fmt.Errorf("%s has no last line of models/run.sh", model)
	}
	return r, nil
}

func lines(path string, each func([]byte) error) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		if err := each(s.Bytes()); err != nil {
			return err
		}
	}
	return s.Err()
}

func (r *report) write(w io.Writer) error {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	list := func(rows []string) {
		for _, row := range rows {
			p("* %s", row)
		}
		p("")
	}
	p("# What was proved, by a run\n")
	p("Generated by `make reliability` (`scripts/reliability.sh`); do not edit. docs/queue.md and its neighbours say why it should be so, this page what was tried. %s\n", r.header)
	if len(r.failed) > 0 {
		p("**Failed: %s.**\n", strings.Join(r.failed, ", "))
	}
	p("## Crash points\n")
	p("A process is stopped before each instruction of an operation, as if it were killed there (at some points it is, with SIGKILL). A repair runs, and then everything that was committed must")
	p("come, whole and once, and the ring must go round three times. Parked: the process stays stopped, and its peers go on. Pairs: one is parked, another is killed and")
	p("repaired, and the first goes on; of those of lanes, topics and logs a short run looks at the ones that a generator with a fixed seed picks. What is stepped is pkg/protocol, in")
	p("Go. In C there are no channels yet: what is stepped there (TestC…) is the worker of examples/c, from its attach to its end, and the log of clients/c.\n")
	p("| test | what | points | failed | by SIGKILL | s |\n|---|---|--:|--:|--:|--:|")
	total, failed := 0, 0
	for _, x := range r.points {
		p("| %s | %s | %s | %s | %s | %s |", x.test, x.what, x.points, x.failed, x.killed, x.time)
		var n, f int
		fmt.Sscan(x.points, &n)
		fmt.Sscan(x.failed, &f)
		total, failed = total+n, failed+f
	}
	p("| **all** | | **%d** | **%d** | | |\n", total, failed)
	if len(r.wakes) > 0 {
		p("Wake-ups that die with the waker:\n")
		list(r.wakes)
	}
	p("### The control\n\nThe same harness on a ring without owners in its words (Vyukov's), to show that it can fail:\n")
	list(r.control)
	p("### Mutants\n\nOne line of the code is broken on purpose, and the crash points must notice. Every change runs some of those that are known.\n")
	p("| test | found | of | known |\n|---|--:|--:|--:|")
	for _, row := range r.mutants {
		p("%s", row)
	}
	p("| **all** | **%d** | **%d** | **%d** |\n", r.found[0], r.found[1], r.found[2])
	p("## Storm\n\nProcesses are killed with SIGKILL while messages flow; a ledger outside knows every message.\n")
	list(r.storms)
	p("## System calls that fail\n\nOf a start of the real daemon, and of shmctl beside it, the N-th call of a kind is refused, or that one and all after it, for N after N. It must")
	p("work all the same or end with an error that says what failed, and leave nothing.\n")
	list(r.faults)
	p("## Models\n\nPromela models with crashes at every shared access and a repair that crashes too. A variant that is broken on purpose must fail.\n")
	p("| run | expected | got | states | s |\n|---|---|---|--:|--:|")
	for _, row := range r.model {
		p("%s", row)
	}
	p("\n%s\n", r.modelSum)
	if len(r.repair) > 0 {
		p("## From a kill to the next message\n")
		list(r.repair)
	}
	_, err := w.Write(bytes.TrimRight(b.Bytes(), "\n"))
	if err == nil {
		_, err = fmt.Fprintln(w)
	}
	return err
}
