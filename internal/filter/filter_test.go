package filter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

func TestMain(m *testing.M) {
	code := m.Run()
	testregion.Cleanup()
	os.Exit(code)
}

// both are the keys of a filter from jobs to results.
const both = "stdin = \"jobs\"\nstdout = \"results\"\n"

// bench is a filter, or several, between two queues, under a real daemon.
type bench struct {
	t                   *testing.T
	d                   *testregion.Region
	jobs, results, dead *shm.Queue
	ctx                 context.Context
}

// start starts a daemon with the channels jobs and results, and a group f of filters with further keys.
func start(t *testing.T, command []string, keys string) *bench {
	t.Helper()
	return startWith(t, "", command, keys)
}

// startWith is start with further keys of the channel jobs.
func startWith(t *testing.T, channel string, command []string, keys string) *bench {
	t.Helper()
	var quoted []string
	for _, c := range command {
		quoted = append(quoted, fmt.Sprintf("%q", c))
	}
	toml := "[region]\nname = \"test\"\n[channel.jobs]\n" + channel + "\n[channel.results]\nslot_size = \"4KiB\"\n" +
		"[worker.f]\ncommand = [" + strings.Join(quoted, ", ") + "]\nbackoff_min = \"1ms\"\nbackoff_max = \"10ms\"\ncrash_limit = 0\n" + keys
	b := &bench{t: t, d: testregion.Launch(t, toml)}
	r := b.d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"results", "jobs.dead"}})
	for name, q := range map[string]**shm.Queue{"jobs": &b.jobs, "results": &b.results, "jobs.dead": &b.dead} {
		var err error
		if *q, err = r.Queue(name); err != nil {
			t.Fatal(err)
		}
	}
	var cancel context.CancelFunc
	b.ctx, cancel = context.WithTimeout(context.Background(), testregion.Limit)
	t.Cleanup(cancel)
	return b
}

func (b *bench) send(lines ...string) {
	b.t.Helper()
	for _, l := range lines {
		if err := b.jobs.Send(b.ctx, []byte(l)); err != nil {
			b.t.Fatal(err)
		}
	}
}

// receive takes the next result.
func (b *bench) receive() string {
	b.t.Helper()
	p, err := b.results.ReceiveCopy(b.ctx, nil)
	if err != nil {
		b.t.Fatalf("no result: %v; the daemon's log:\n%s", err, b.d.Log())
	}
	return string(p)
}

// want takes results and compares them.
func (b *bench) want(lines ...string) {
	b.t.Helper()
	for _, l := range lines {
		if got := b.receive(); got != l {
			b.t.Fatalf("result %q, want %q", got, l)
		}
	}
}

// worker waits until the row of f.0 pleases.
func (b *bench) worker(what string, ok func(protocol.Worker) bool) (w protocol.Worker) {
	b.t.Helper()
	b.d.WaitWorkers(what, func(ws []protocol.Worker) bool {
		w = ws[0]
		return ok(w)
	})
	return w
}

// running waits until f.0 is ready and its filter known.
func (b *bench) running() protocol.Worker {
	b.t.Helper()
	return b.worker("ready with a filter", func(w protocol.Worker) bool {
		return w.State == protocol.StateReady && w.ShimPid != 0 && w.Pid != w.ShimPid
	})
}

// quitSeen waits until f.0 has seen its quit flag: the daemon's log says that it was asked a moment before the flag is set.
func (b *bench) quitSeen() {
	b.t.Helper()
	l, err := control.Find(b.d.Name, b.d.Dir, uint32(os.Geteuid()))
	if err != nil {
		b.t.Fatal(err)
	}
	defer l.Close()
	for page := l.Groups[0].Page(0); page.QuitSeenNs.Load() == 0; {
		if b.ctx.Err() != nil {
			b.t.Fatalf("f.0 never saw its quit flag; the daemon's log:\n%s", b.d.Log())
		}
		runtime.Gosched()
	}
}

// settled waits until no message is in jobs.
func (b *bench) settled() {
	b.t.Helper()
	for {
		s, err := b.jobs.Stat()
		if err != nil {
			b.t.Fatal(err)
		}
		if s.Depth() == 0 {
			return
		}
		if b.ctx.Err() != nil {
			b.t.Fatalf("jobs is never empty: %+v; the daemon's log:\n%s", s, b.d.Log())
		}
	}
}

// script writes a file for a test.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

const upper = `
import sys
for line in sys.stdin:
    print(line.rstrip("\n").upper(), flush=True)
`

// The programs that people use as filters.
func TestPrograms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		command []string
		answer  func(i int) (line, want string)
	}{
		{"sed", []string{"sed", "-u", "s/a/A/"}, func(i int) (string, string) { return fmt.Sprint("a", i), fmt.Sprint("A", i) }},
		{"jq", []string{"jq", "-c", "--unbuffered", "{n: (.n * 2)}"}, func(i int) (string, string) {
			return fmt.Sprintf(`{"n": %d}`, i), fmt.Sprintf(`{"n":%d}`, 2*i)
		}},
		{"awk", []string{"awk", "-W", "interactive", "{ print $1 + 1; fflush() }"}, func(i int) (string, string) { return fmt.Sprint(i), fmt.Sprint(i + 1) }},
		{"python", []string{"python3", script(t, upper)}, func(i int) (string, string) { return fmt.Sprint("x", i), fmt.Sprint("X", i) }},
		{"cat", []string{"cat"}, func(i int) (string, string) { return fmt.Sprint(i), fmt.Sprint(i) }},
	} {
		for _, window := range []int{1, 16} {
			t.Run(fmt.Sprint(c.name, window), func(t *testing.T) {
				t.Parallel()
				b := start(t, c.command, both+fmt.Sprintf("filter_window = %d\n", window))
				const n = 300
				go func() {
					for i := range n {
						line, _ := c.answer(i)
						b.jobs.Send(b.ctx, []byte(line))
					}
				}()
				for i := range n {
					_, want := c.answer(i)
					b.want(want)
				}
				b.settled()
				if _, err := b.dead.TryReceive(); !errors.Is(err, shm.ErrEmpty) {
					t.Errorf("dead letters: %v", err)
				}
			})
		}
	}
}

// ended waits until a process has ended.
func ended(t *testing.T, pid int) {
	t.Helper()
	fd, err := sys.PidfdOpen(pid)
	if err != nil {
		return
	}
	defer fd.Close()
	if ready, err := sys.PollReadable([]*os.File{fd}, testregion.Limit); err != nil || !ready[0] {
		t.Fatalf("process %d has not ended: %v", pid, err)
	}
}
