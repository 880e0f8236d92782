package foreign

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
)

// clients are the workers of testdata, which log, count and give heartbeats through a client library: `stream` logs and counts without end, `asleep` sleeps in the
// library, `computes` does nothing but give heartbeats, `hangs` gives none.
func clients(t *testing.T) map[string][]string {
	root := must(filepath.Abs("../.."))
	c := t.TempDir() + "/worker"
	out, err := exec.Command("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", root+"/clients/c", "-o", c, "testdata/worker.c", root+"/clients/c/shmd.c", "-lpthread").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return map[string][]string{"c": {c}, "python": {"python3", must(filepath.Abs("testdata/worker.py"))}}
}

// library builds the C library that clients/python loads, and returns the variable that names it.
func library(t *testing.T) string {
	t.Helper()
	so := t.TempDir() + "/libshmd.so"
	build := exec.Command("python3", "-m", "shmd.build", "-o", so)
	build.Env = append(os.Environ(), "PYTHONPATH="+must(filepath.Abs("../../clients/python")))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("shmd.build: %v\n%s", err, out)
	}
	return "SHMD_LIBRARY=" + so
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func quote(command []string, more ...string) string {
	b, _ := json.Marshal(append(command[:len(command):len(command)], more...))
	return string(b)
}

type clientRecord struct {
	Lost                        uint64
	Level, Stream, Text, Source string
	Pid                         int
	Attrs                       struct {
		N, Square     int
		Mode, Umlaut  string
		Ready         bool
		Half          float64
		CutBytes      int `json:"cut_bytes"`
		Logger, Error string
	}
}

// recordsOf returns what shmctl logs shows of what a worker logged.
func recordsOf(d *testregion.Region, worker string) (all []clientRecord) {
	out, errs, code := d.Shmctl("logs", worker, "-n", "1000000", "-o", "json")
	if code != 0 {
		panic(errs)
	}
	for line := range strings.Lines(out) {
		var r clientRecord
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			panic(fmt.Sprintf("%v: %s", err, line))
		}
		if r.Stream == "log" || r.Lost != 0 {
			all = append(all, r)
		}
	}
	return all
}

type clientStat struct {
	Workers []struct {
		Name     string
		Restarts int
		By       map[string]int `json:"restarts_by_cause"`
		Metrics  []struct {
			Name, Kind, Unit, Help string
			Count                  uint64
			Value                  float64
			Live                   bool
		}
	}
}

// worker returns the row of a worker in the table.
func worker(ws []protocol.Worker, name string) protocol.Worker {
	for _, w := range ws {
		if w.Name == name {
			return w
		}
	}
	return protocol.Worker{}
}

// Workers in other languages log, count and give heartbeats; the one that hangs is ended by the watchdog, and no other. Killed with SIGKILL in the middle of
// records, again and again, they leave whole ones, without gaps, and counters that do not go back; and the daemon's death costs none.
func TestClients(t *testing.T) {
	for language, command := range clients(t) {
		t.Run(language, func(t *testing.T) {
			toml := "[region]\nname = \"test\"\nlog_size = \"64MiB\"\n"
			for _, mode := range []string{"stream", "asleep", "computes", "hangs"} {
				toml += fmt.Sprintf("[worker.%s]\ncommand = %s\nready = \"call\"\nrestart = \"always\"\nwatchdog = \"2s\"\nstop_timeout = \"500ms\"\ncrash_limit = 0\nbackoff_min = \"10ms\"\nbackoff_max = \"50ms\"\nlog_size = \"4MiB\"\n", mode, quote(command, mode))
			}
			env := []string{library(t), "PYTHONPATH=" + must(filepath.Abs("../../clients/python"))}
			d := testregion.Start(t, toml, env...)
			ws := d.WaitWorkers("hung", func(ws []protocol.Worker) bool { return worker(ws, "hangs.0").Restarts > 0 })
			if w := worker(ws, "hangs.0"); uint64(w.RestartsBy[protocol.CauseWatchdog]) != w.Restarts {
				t.Errorf("hangs.0 was started again for another reason: %+v", w)
			}
			for _, name := range []string{"stream.0", "asleep.0", "computes.0"} {
				if w := worker(ws, name); w.State != protocol.StateReady || w.Restarts != 0 {
					t.Errorf("%s: %+v", name, w)
				}
			}
			first := recordsOf(d, "hangs.0")[0]
			if a := first.Attrs; first.Text != "begins" || first.Level != "warning" || a.Mode != "hangs" || !a.Ready || a.Half != 0.5 || a.Umlaut != "ü" || !strings.Contains(first.Source, "worker.") {
				t.Errorf("the first record is %+v", first)
			}

			const kills = 10
			before, loads := 0, 0.0
			count := func() (records int) {
				var s clientStat
				d.JSON(&s, "stat", "stream.0")
				for _, m := range s.Workers[0].Metrics {
					switch m.Name {
					case "records":
						records = int(m.Count)
						if m.Unit != "" || m.Help != "records that were logged" {
							t.Errorf("%+v", m)
						}
					case "load":
						if m.Unit != "percent" || m.Value != 0 && m.Value != 12.5 || m.Value != 0 && !m.Live {
							t.Errorf("%+v", m)
						}
						loads += m.Value
					}
				}
				return records
			}
			for k := range kills {
				w := worker(d.WaitWorkers("again", func(ws []protocol.Worker) bool {
					w := worker(ws, "stream.0")
					return w.State == protocol.StateReady && int(w.Restarts) == k
				}), "stream.0")
				for n := before; n < before+10+k*7; {
					next := count()
					if next < n {
						t.Fatalf("the counter went back from %d to %d", n, next)
					}
					n = next
				}
				if before = count(); before == 0 {
					t.Fatal("it counts nothing")
				}
				if err := syscall.Kill(w.Pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			d.WaitWorkers("again", func(ws []protocol.Worker) bool {
				w := worker(ws, "stream.0")
				return w.State == protocol.StateReady && int(w.Restarts) == kills
			})
			// The daemon dies: the worker goes on, and is seen; the next daemon takes it over.
			d.Kill()
			for n := count(); count() < n+100; {
			}
			d.Again(env...)
			d.WaitWorkers("adopted", func(ws []protocol.Worker) bool {
				w := worker(ws, "stream.0")
				return w.State == protocol.StateReady && int(w.Restarts) == kills
			})
			d.Shmctl("stop", "stream")
			next, pids := map[int]int{}, 0
			for _, r := range recordsOf(d, "stream.0") {
				n := r.Attrs.N
				switch {
				case r.Lost != 0:
					t.Errorf("%d records were lost", r.Lost)
				case r.Text == "begins":
					pids++
				case strings.HasPrefix(r.Text, "record "):
					if r.Text != fmt.Sprintf("record %d %s", n, strings.Repeat(string(rune('a'+n%26)), n%300)) || r.Attrs.Square != n*n || r.Level != "info" || n != next[r.Pid] {
						t.Fatalf("%+v; number %d of process %d was to come", r, next[r.Pid], r.Pid)
					}
					next[r.Pid]++
				}
			}
			records := 0
			for _, n := range next {
				records += n
			}
			if c := count(); c > records || c < records-kills-1 || pids != kills+1 {
				t.Errorf("%d records of %d processes, and the counter is %d", records, pids, c)
			}
			if loads == 0 {
				t.Error("the gauge was always 0")
			}
			if _, errs, code := d.Shmctl("verify"); code != 0 {
				t.Errorf("verify: %s", errs)
			}
			t.Logf("%d records of %d processes", records, pids)
		})
	}
}
