package filter_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// deadLetter takes the next dead letter.
func (b *bench) deadLetter() (protocol.DeadInfo, string) {
	b.t.Helper()
	m, err := b.dead.Receive(b.ctx)
	if err != nil {
		b.t.Fatalf("no dead letter: %v; the daemon's log:\n%s", err, b.d.Log())
	}
	defer m.Ack()
	info, payload, err := m.Dead()
	if err != nil {
		b.t.Fatal(err)
	}
	return info, string(payload)
}

// noMore checks that nothing is left in any channel.
func (b *bench) noMore() {
	b.t.Helper()
	b.settled()
	for _, q := range []*shm.Queue{b.results, b.dead} {
		if m, err := q.TryReceive(); !errors.Is(err, shm.ErrEmpty) {
			b.t.Errorf("%s holds %q (%v)", q.Name(), m.Bytes(), err)
		}
	}
}

// A message that kills the filter is found among those in flight with it: it alone becomes a dead letter.
func TestPoison(t *testing.T) {
	t.Parallel()
	for _, window := range []int{1, 16} {
		t.Run(fmt.Sprint(window), func(t *testing.T) {
			t.Parallel()
			b := startWith(t, "max_deliveries = 4\n", []string{"sh", "-c", `
while read -r line; do
	case $line in poison*) kill -KILL $$ ;; esac
	echo "done $line"
done`}, both+fmt.Sprintf("filter_window = %d\n", window))
			b.running()
			var sent, got []string
			for i := range 40 {
				line := fmt.Sprint("line ", i)
				if i == 7 || i == 23 {
					line = fmt.Sprint("poison ", i)
				} else {
					sent = append(sent, "done "+line)
				}
				b.send(line)
			}
			for range sent {
				got = append(got, b.receive())
			}
			slices.Sort(sent)
			slices.Sort(got)
			if !slices.Equal(sent, got) {
				t.Errorf("answers %q, want %q", got, sent)
			}
			var dead []string
			for range 2 {
				info, payload := b.deadLetter()
				if info.Deliveries != 4 || info.Reason != protocol.DeadReasonMaxDeliveries {
					t.Errorf("%q: %+v", payload, info)
				}
				dead = append(dead, payload)
			}
			slices.Sort(dead)
			if !slices.Equal(dead, []string{"poison 23", "poison 7"}) {
				t.Errorf("dead letters %q", dead)
			}
			b.noMore()
		})
	}
}

// What came back waits, unread, until those in flight have ended: if one of them ends the filter, that is no delivery of what waited.
func TestUnreadIsNotDelivered(t *testing.T) {
	t.Parallel()
	first, second, died := fifo(t), fifo(t), filepath.Join(t.TempDir(), "died")
	b := startWith(t, "max_deliveries = 2\n", []string{"sh", "-c", `
while read -r line; do
	if [ ! -e "$3" ]; then
		case $line in
		first) read -r go <"$1" ;;
		second) read -r go <"$2"; : >"$3"; exit 3 ;;
		esac
	fi
	echo "done $line"
done`, "sh", first, second, died}, both+"filter_window = 2\n")
	release := func(path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("go\n"), 0); err != nil {
			t.Fatal(err)
		}
	}
	leased := func(reading, ready int) {
		t.Helper()
		for s := (protocol.QueueStat{}); s.Reading != reading || s.Ready != ready; {
			var err error
			if s, err = b.jobs.Stat(); err != nil || b.ctx.Err() != nil {
				t.Fatalf("not %d leased and %d ready: %+v, %v; the daemon's log:\n%s", reading, ready, s, err, b.d.Log())
			}
		}
	}
	other, err := b.d.Attach(shm.Options{Consume: []string{"jobs"}}).Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}

	b.send("first", "second")
	leased(2, 0)
	b.send("third")
	m, err := other.Receive(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	m.Nack() // from here on it may be what ends its consumer
	release(first)
	b.want("done first")
	leased(2, 0) // the filter has the second, and the shim the third
	release(second)
	b.want("done second", "done third")
	b.noMore()
}

// Bytes are bytes: all but the delimiter pass, empty lines too, and what holds the delimiter is a dead letter that says so.
func TestBytes(t *testing.T) {
	t.Parallel()
	for name, delimiter := range map[string]byte{"newline": '\n', "nul": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, []string{"cat"}, both+fmt.Sprintf("filter_window = 8\ndelimiter = %q\n", name))
			var all []byte
			for c := range 256 {
				if byte(c) != delimiter {
					all = append(all, byte(c))
				}
			}
			large := strings.Repeat("x", 4096)
			b.send("", string(all), "", large, "two"+string(delimiter)+"lines", string(delimiter), "\r")
			b.want("", string(all), "", large, "\r")
			for _, want := range []string{"two" + string(delimiter) + "lines", string(delimiter)} {
				if info, payload := b.deadLetter(); payload != want || info.Reason != protocol.DeadReasonDelimiter || info.Deliveries != 1 {
					t.Errorf("%q: %+v", payload, info)
				}
			}
			b.noMore()
		})
	}
}

// A last line without its end is an answer if the filter ended as it should, and torn if it did not.
func TestLastLine(t *testing.T) {
	t.Parallel()
	for _, code := range []int{0, 1} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			b := start(t, []string{"python3", script(t, `
import os, sys
line = sys.stdin.readline().rstrip("\n")
if not os.path.exists(sys.argv[1]):
    open(sys.argv[1], "w").close()
    sys.stdout.write("half " + line)
    sys.stdout.flush()
    os._exit(int(sys.argv[2]))
print("whole " + line)
`), filepath.Join(t.TempDir(), "mark"), fmt.Sprint(code)}, both)
			b.send("a")
			b.want([]string{"half a", "whole a"}[code])
			b.noMore()
		})
	}
}

// A filter that ends early is started again and goes on where it was.
func TestEarlyEnd(t *testing.T) {
	t.Parallel()
	b := start(t, []string{"head", "-n", "1"}, both)
	for i := range 6 {
		b.send(fmt.Sprint(i))
		b.want(fmt.Sprint(i))
	}
	b.noMore()
	w := b.worker("started again", func(w protocol.Worker) bool { return w.Restarts >= 5 })
	if w.ExitCode != 0 || w.ExitSignal != 0 {
		t.Errorf("%+v", w)
	}
}

// A filter that closes its standard output has ended, whether it lives or not.
func TestClosedOutput(t *testing.T) {
	t.Parallel()
	b := start(t, []string{"sh", "-c", "read -r a; echo \"$a!\"; exec >&-; while read -r b; do :; done; trap '' TERM; read -r c <" + fifo(t)}, both+"stop_timeout = \"50ms\"\nfilter_window = 2\n")
	w := b.running()
	b.send("1", "2", "3")
	b.want("1!", "2!", "3!")
	b.noMore()
	ended(t, w.Pid)
	b.d.WaitLog("worker died", "the filter closed its standard output")
}

// fifo makes a named pipe: opening it blocks until the test opens the other end.
func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// Two lines for one are refused: the message is given back, and the reason stands in the worker's row.
func TestTwoLinesForOne(t *testing.T) {
	t.Parallel()
	for name, command := range map[string][]string{
		"at once": {"sed", "-u", "s/double/&\\n&/"},
		"before":  {"sh", "-c", "echo banner; exec cat"},
		"one by one": {"python3", script(t, `
import os, sys
for line in sys.stdin:
    for _ in range(1 + line.count("double")):
        os.write(1, line.encode())
`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startWith(t, "max_deliveries = 2\n", command, strings.Replace(both, "\n", "\nrestart = \"never\"\n", 1))
			if name != "before" { // else it might come before the banner, which would answer it
				b.send("double")
			}
			w := b.worker("failed", func(w protocol.Worker) bool {
				return w.State == protocol.StateFailed || w.State == protocol.StateExited
			})
			if w.ExitCode != 1 || !strings.Contains(w.Reason, "the filter wrote a line that no message asked for") {
				t.Errorf("%+v", w)
			}
			s, err := b.jobs.Stat()
			if err != nil {
				t.Fatal(err)
			}
			switch name {
			case "at once": // neither line counts
				if s.Ready != 1 || s.Redelivered != 1 {
					t.Errorf("%+v", s)
				}
				if _, err := b.results.TryReceive(); !errors.Is(err, shm.ErrEmpty) {
					t.Errorf("a result: %v", err)
				}
			case "one by one": // the first may have answered before the second was there
				if s.Ready+int(s.Acked) != 1 {
					t.Errorf("%+v", s)
				}
			}
		})
	}
}

// An answer that no slot holds makes a dead letter of its message, and the filter goes on.
func TestAnswerTooLong(t *testing.T) {
	t.Parallel()
	b := start(t, []string{"python3", script(t, `
import sys
for line in sys.stdin:
    print("x" * int(line), flush=True)
`)}, both+"filter_window = 4\n")
	b.send("1", "4096", "4097", "2", "1000000", "3")
	for _, n := range []int{1, 4096, 2, 3} {
		if got := b.receive(); got != strings.Repeat("x", n) {
			t.Errorf("an answer of %d bytes, want %d", len(got), n)
		}
	}
	for _, want := range []string{"4097", "1000000"} {
		if info, payload := b.deadLetter(); payload != want || info.Reason != protocol.DeadReasonAnswer {
			t.Errorf("%q: %+v", payload, info)
		}
	}
	b.noMore()
}

// ack = "written": lines may be dropped and multiplied, and a message is done when it is written.
func TestWritten(t *testing.T) {
	t.Parallel()
	b := start(t, []string{"sed", "-un", "s/^keep/kept/p;s/^twice/once\\nmore/p"}, both+"ack = \"written\"\n")
	var want []string
	for i := range 500 {
		b.send("drop", fmt.Sprint("keep", i), "twice")
		want = append(want, fmt.Sprint("kept", i), "once", "more")
	}
	b.want(want...)
	b.noMore()
}

// A sink has no standard output of its own: what it writes there goes to the log.
func TestSink(t *testing.T) {
	t.Parallel()
	b := start(t, []string{"cat"}, "stdin = \"jobs\"\nack = \"written\"\n")
	b.send("to the log", "and this")
	b.d.WaitLog(`"@message":"to the log"`, `"stream":"stdout"`)
	b.d.WaitLog(`"@message":"and this"`, `"stream":"stdout"`)
	b.noMore()
}

// A source makes messages of its lines, as fast as they are received, and ends by SIGTERM.
func TestSource(t *testing.T) {
	t.Parallel()
	b := start(t, []string{"sh", "-c", "seq 20000; exec sleep 1000"}, "stdout = \"results\"\n")
	for i := range 20000 {
		b.want(fmt.Sprint(i + 1))
	}
	w := b.running()
	out, errs, code := b.d.Shmctl("stop", "f", "-o", "json")
	if code != 0 || !strings.Contains(out, fmt.Sprintf(`"pid":%d`, w.Pid)) || !strings.Contains(out, `"how":"flag"`) {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	ended(t, w.Pid)
	if w := b.worker("stopped", func(w protocol.Worker) bool { return w.State == protocol.StateExited }); w.ExitCode != 0 {
		t.Errorf("%+v", w)
	}
}

// A filter whose answers find no place is not reported: who does not receive them is to blame. Beside it one that does not answer is, twice, so that the other had the time as well.
func TestFullOutputIsNoStall(t *testing.T) {
	t.Parallel()
	b := start(t, []string{"sh", "-c", "test $SHMD_WORKER = f.0 && exec cat; exec sleep 1000"}, both+"count = 2\nstall_timeout = \"20ms\"\n")
	results := queueOf(b, shm.Options{Produce: []string{"results"}}, "results")
	for { // until it is full
		if err := results.TrySend([]byte("x")); errors.Is(err, shm.ErrFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	b.send("a", "b")
	silent := func(what string, not int) int {
		ws := b.d.WaitWorkers(what, func(ws []protocol.Worker) bool { return ws[1].Stalled && ws[1].Pid != not && ws[1].Pid > 0 })
		return ws[1].Pid
	}
	pid := silent("one does not answer", 0)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	silent("nor the next time", pid)
	ws := b.d.WaitWorkers("both", func(ws []protocol.Worker) bool { return len(ws) == 2 })
	if ws[0].Stalled {
		t.Errorf("%+v", ws[0])
	}
}

func queueOf(b *bench, o shm.Options, name string) *shm.Queue {
	b.t.Helper()
	q, err := b.d.Attach(o).Queue(name)
	if err != nil {
		b.t.Fatal(err)
	}
	return q
}

// A filter that does not answer is reported, with what it may want, and again when it answers.
func TestStalled(t *testing.T) {
	t.Parallel()
	gates := []string{fifo(t), fifo(t)} // one a message: the next look at the same one could find it open still
	b := start(t, []string{"sh", "-c", "for gate in " + strings.Join(gates, " ") + "; do read -r a; read -r x <$gate; echo \"$a\"; done; cat"}, both+"stall_timeout = \"20ms\"\n")
	b.send("a", "b")
	w := b.worker("stalled", func(w protocol.Worker) bool { return w.Stalled })
	if w.State != protocol.StateReady || !strings.Contains(w.Reason, "stalled since ") || !strings.Contains(w.Reason, "no answer to the message at position 0") {
		t.Errorf("%+v", w)
	}
	out, _, _ := b.d.Shmctl("ps")
	if !strings.Contains(out, "stalled since ") {
		t.Errorf("ps:\n%s", out)
	}
	out, _, _ = b.d.Shmctl("status")
	if !strings.Contains(out, "1 stalled") {
		t.Errorf("status:\n%s", out)
	}
	out, _, _ = b.d.Shmctl("doctor")
	if !strings.Contains(out, "f.0") || !strings.Contains(out, "write and flush one line for each") {
		t.Errorf("doctor:\n%s", out)
	}
	var ps struct {
		Workers []struct {
			Pid     int    `json:"pid"`
			ShimPid int    `json:"shim_pid"`
			Stalled bool   `json:"stalled"`
			State   string `json:"state"`
		} `json:"workers"`
	}
	b.d.JSON(&ps, "ps")
	if len(ps.Workers) != 1 || !ps.Workers[0].Stalled || ps.Workers[0].Pid != w.Pid || ps.Workers[0].ShimPid != w.ShimPid || ps.Workers[0].State != "ready" {
		t.Errorf("%+v", ps)
	}
	open := func(gate string) {
		f, err := os.OpenFile(gate, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(f, "go on")
		f.Close()
	}
	b.d.WaitLog("filter does not answer", `"worker":"f.0"`)
	open(gates[0])
	b.want("a")
	b.d.WaitLog("filter answers again", `"worker":"f.0"`)
	b.worker("stalled again", func(w protocol.Worker) bool { return w.Stalled && strings.Contains(w.Reason, "position 1") })
	open(gates[1])
	b.want("b")
	b.worker("well", func(w protocol.Worker) bool { return !w.Stalled && w.Reason == "" })
	b.noMore()
}

// The programs that buffer what they write: they are told how not to.
func TestStalledHints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		command []string
		hint    string
	}{
		{[]string{"jq", "-c", "."}, "jq wants --unbuffered"},
		{[]string{"awk", "{ print }"}, "awk wants fflush() after each line, mawk -W interactive as well"},
		{[]string{"sed", "s/a/b/"}, "sed wants -u"},
		{[]string{"python3", script(t, "import sys\nfor l in sys.stdin: print(l.strip())\n")}, "Python wants print(…, flush=True), or -u"},
		{[]string{"grep", "x"}, "grep wants --line-buffered"},
	} {
		t.Run(c.command[0], func(t *testing.T) {
			t.Parallel()
			b := start(t, c.command, both+"stall_timeout = \"20ms\"\n")
			b.send("1")
			if w := b.worker("stalled", func(w protocol.Worker) bool { return w.Stalled }); !strings.Contains(w.Reason, c.hint) {
				t.Errorf("%q does not say %q", w.Reason, c.hint)
			}
		})
	}
}

// A stop lets the filter finish what it has, and no more is handed to it.
func TestQuit(t *testing.T) {
	t.Parallel()
	gate := fifo(t)
	b := start(t, []string{"sh", "-c", "while read -r a; do echo \"got $a\" >&2; read -r x <" + gate + "; echo \"$a!\"; done; echo 'no more input' >&2"}, both+"filter_window = 2\nstop_timeout = \"30s\"\n")
	b.send("1", "2", "3")
	b.d.WaitLog(`"@message":"got 1"`)
	stopped := make(chan string, 1)
	go func() {
		_, errs, _ := b.d.Shmctl("stop", "f")
		stopped <- errs
	}()
	b.quitSeen()
	f, err := os.OpenFile(gate, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprint(f, "go\ngo\ngo\n")
	w := b.worker("stopped", func(w protocol.Worker) bool { return w.State == protocol.StateExited })
	if errs := <-stopped; errs != "" || w.ExitCode != 0 || w.ExitSignal != 0 {
		t.Errorf("%s %+v", errs, w)
	}
	b.d.WaitLog(`"@message":"no more input"`)
	s, err := b.jobs.Stat()
	if err != nil {
		t.Fatal(err)
	}
	answered := 3 - s.Ready // whether the second was handed over before the stop is open; the third was not
	if s.Reading != 0 || s.Redelivered != 0 || answered < 1 || answered > 2 {
		t.Fatalf("%+v", s)
	}
	b.want([]string{"1!", "2!"}[:answered]...)
	if _, err := b.results.TryReceive(); !errors.Is(err, shm.ErrEmpty) {
		t.Errorf("a further result: %v", err)
	}
}

// A filter that obeys neither the end of its input nor SIGTERM is killed, and what it had comes back.
func TestQuitDeaf(t *testing.T) {
	t.Parallel()
	b := start(t, []string{"sh", "-c", "trap '' TERM; read -r a; echo \"got $a\" >&2; read -r x <" + fifo(t)}, both+"stop_timeout = \"50ms\"\n")
	b.send("1")
	b.d.WaitLog(`"@message":"got 1"`)
	w := b.running()
	if _, errs, code := b.d.Shmctl("stop", "f"); code != 0 {
		t.Fatal(errs)
	}
	ended(t, w.Pid)
	s, err := b.jobs.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if s.Ready != 1 || s.Redelivered != 1 {
		t.Errorf("%+v", s)
	}
}

// Answers that find no room wait for it; a stop meanwhile gives the messages back.
func TestFullResults(t *testing.T) {
	t.Parallel()
	b := startWith(t, "", []string{"cat"}, both+"filter_window = 16\nstop_timeout = \"300ms\"\n[channel.more]\n")
	const n = 1500 // results has 1024 slots, each for one of these
	large := strings.Repeat("x", 2100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			b.jobs.Send(b.ctx, fmt.Append(nil, i, " ", large))
		}
	}()
	for s, err := b.results.Stat(); s.Ready < s.Slots; s, err = b.results.Stat() {
		if err != nil || b.ctx.Err() != nil {
			t.Fatalf("results is never full: %+v %v", s, err)
		}
	}
	<-done
	if _, errs, code := b.d.Shmctl("stop", "f"); code != 0 {
		t.Fatal(errs)
	}
	s, err := b.jobs.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if s.Reading != 0 || s.Ready+s.Dead != n-1024 {
		t.Errorf("%+v", s)
	}
	if _, errs, code := b.d.Shmctl("start", "f"); code != 0 {
		t.Fatal(errs)
	}
	seen := map[string]bool{}
	for range n {
		seen[b.receive()] = true
	}
	if len(seen) != n {
		t.Errorf("%d different answers of %d", len(seen), n)
	}
	b.noMore()
}

// A command that is not there is a failure of the worker that says so.
func TestNoSuchCommand(t *testing.T) {
	t.Parallel()
	b := start(t, []string{"/no/such/program"}, both+"restart = \"never\"\n")
	w := b.worker("failed", func(w protocol.Worker) bool { return w.State == protocol.StateFailed })
	if !strings.Contains(w.Reason, `cannot run "/no/such/program"`) || w.Pid != 0 || w.ShimPid != 0 {
		t.Errorf("%+v", w)
	}
}
