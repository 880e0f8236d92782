package daemon_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

func init() {
	// log makes records of each message: as many as it says before the colon. "0:TEXT" logs TEXT and dies at once.
	roles["log"] = func() error {
		var log *slog.Logger
		n := 0
		return consume(func(r *shm.Region, m *shm.Message) error {
			if log == nil {
				log = slog.New(r.Log())
			}
			count, text, _ := strings.Cut(string(m.Bytes()), ":")
			if err := m.Ack(); err != nil {
				return err
			}
			times, err := strconv.Atoi(count)
			if err != nil {
				return err
			}
			for range max(times, 1) {
				n++
				log.Warn(text, "n", n, slog.Group("g", "pid", os.Getpid()))
			}
			if times == 0 {
				return syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
			return nil
		}, true)
	}
}

// logged is a record of a worker's log, as shmctl logs prints it.
type logged struct {
	Seq                           uint64
	Level, Stream, Worker, Source string
	Group, Text                   string
	Pid                           int
	Lost                          uint64
	Attrs                         struct {
		N int
		G struct{ Pid int }
	}
}

func logsOf(t *testing.T, d *testregion.Region, args ...string) (all []logged) {
	t.Helper()
	out, _, code := d.Shmctl(append([]string{"logs", "-o", "json"}, args...)...)
	if code != 0 {
		t.Fatalf("shmctl logs: exit code %d", code)
	}
	for line := range strings.Lines(out) {
		var r logged
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if r.Stream == "log" || r.Lost > 0 {
			all = append(all, r)
		}
	}
	return all
}

// sender attaches to the channel jobs, and sends to it.
func sender(t *testing.T, d *testregion.Region) (q *shm.Queue, send func(text string)) {
	t.Helper()
	q, err := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}}).Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	return q, func(text string) {
		t.Helper()
		if err := q.Send(within(t), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}

// What a worker logs comes to the daemon's log and to shmctl logs, once and in order; what it logged before it was killed too; and what was logged while there
// was no daemon, which shmctl logs shows meanwhile from the worker's own ring.
func TestWorkersLog(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+group(t, "talk", "log", "consume = [\"jobs\"]", "log_size = \"256KiB\""))
	_, send := sender(t, d)
	pid := awaitState(d, "talk.0", protocol.StateReady).Pid
	send("3:hello")
	line := d.WaitLog(`"@message":"hello"`, `"n":3`, `"worker":"talk.0"`, `"stream":"log"`)
	for _, want := range []string{`"@level":"warn"`, `"group":"talk"`, fmt.Sprintf(`"pid":%d`, pid), fmt.Sprintf(`"g.pid":%d`, pid), `"source":"daemon/log_test.go:`} {
		if !strings.Contains(line, want) {
			t.Errorf("the daemon's log has no %s: %s", want, line)
		}
	}
	send("0:last words")
	d.WaitLog(`"@message":"last words"`, `"n":4`)
	d.WaitLog(`"@message":"worker died"`, `"worker":"talk.0"`)
	d.WaitWorkers("talk.0 runs again", func(ws []protocol.Worker) bool { return ws[0].State == protocol.StateReady && ws[0].Pid != pid })
	send("2:of the next")
	d.WaitLog(`"@message":"of the next"`, `"n":2`)

	check := func(when string, want ...string) {
		t.Helper()
		got := logsOf(t, d, "talk")
		var have []string
		for i, r := range got {
			have = append(have, fmt.Sprintf("%s %d", r.Text, r.Attrs.N))
			if r.Level != "warning" || r.Group != "talk" || r.Worker != "talk.0" || r.Pid == 0 || r.Attrs.G.Pid != r.Pid || r.Lost != 0 || i > 0 && r.Seq != 0 && r.Seq <= got[i-1].Seq {
				t.Errorf("%s: %+v", when, r)
			}
		}
		if strings.Join(have, ", ") != strings.Join(want, ", ") {
			t.Errorf("%s: %q, want %q", when, have, want)
		}
	}
	before := []string{"hello 1", "hello 2", "hello 3", "last words 4", "of the next 1", "of the next 2"}
	check("with a daemon", before...)

	d.Kill()
	send("2:alone")
	eventually(t, "the worker has logged", func() bool { return len(logsOf(t, d, "talk")) == len(before)+2 })
	all := append(before, "alone 3", "alone 4")
	check("without a daemon", all...)

	d.Again()
	d.WaitLog(`"@message":"alone"`, `"n":4`)
	send("1:after")
	d.WaitLog(`"@message":"after"`)
	check("with the next daemon", append(all, "after 5")...)
	if n := strings.Count(d.Log(), `"@message":"alone"`); n != 2 {
		t.Errorf("the daemon's log has %d records of the time without a daemon", n)
	}
	if n := strings.Count(d.Log(), `"@message":"of the next"`); n != 0 {
		t.Errorf("%d records that the daemon before had handed over were handed over again", n)
	}
}

// Every change of state is there once, numbered without gaps, over the death of a daemon.
func TestEvents(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+group(t, "talk", "log", "consume = [\"jobs\"]", "backoff_min = \"1ms\"", "backoff_max = \"1ms\"", "crash_limit = 0"))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	die := func() {
		t.Helper()
		pid := awaitState(d, "talk.0", protocol.StateReady).Pid
		if err := q.Send(within(t), []byte("0:bye")); err != nil {
			t.Fatal(err)
		}
		d.WaitWorkers("talk.0 runs again", func(ws []protocol.Worker) bool {
			return ws[0].State == protocol.StateReady && ws[0].Pid != pid && ws[0].Pid != 0
		})
	}
	for range 3 {
		die()
	}
	d.Kill()
	d.Again()
	d.WaitLog("region adopted")
	die()
	out := shmctl(t, d, "events", "-o", "json")
	next, last, states, kinds := 1, "", 0, map[string]int{}
	for line := range strings.Lines(out) {
		var e struct {
			Number                                 int
			Kind, Subject, Cause, From, To, Reason string
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if e.Number != next {
			t.Errorf("event %d comes after %d", e.Number, next-1)
		}
		next = e.Number + 1
		kinds[e.Kind]++
		if e.Kind == "state" {
			if states++; e.Subject != "talk.0" || e.Cause == "" || last != "" && e.From != last {
				t.Errorf("%s: the state was %q", line, last)
			}
			last = e.To
		}
	}
	if last != "ready" || kinds["adopt"] != 1 || kinds["region"] != 1 || kinds["attach"] < 1 || states < 2+4*3 {
		t.Errorf("%v, the last state is %q\n%s", kinds, last, out)
	}
}

// A worker that logs more than log_rate loses what is more, and it is told how much.
func TestLogRate(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+group(t, "talk", "log", "consume = [\"jobs\"]", "log_size = \"1MiB\"", "log_rate = 1", "log_burst = 10"))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Send(within(t), []byte("500:flood")); err != nil {
		t.Fatal(err)
	}
	line := d.WaitLog("faster than log_rate", `"worker":"talk.0"`)
	var told struct {
		Records int
		Since   string
	}
	if err := json.Unmarshal([]byte(line), &told); err != nil || told.Since == "" {
		t.Fatalf("%s: %v", line, err)
	}
	if kept := len(logsOf(t, d, "-n", "all")); kept < 10 || kept > 50 || kept+told.Records < 500-50 {
		t.Errorf("%d records were kept, %d dropped", kept, told.Records)
	}
}
