package daemon_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

func init() {
	// number prints as many numbered lines as a message says, to standard output and standard error in turn, each write ending in the middle of a line. "end" prints the
	// rest and ends at once.
	roles["number"] = func() error {
		n, rest := 0, [2]string{}
		return consume(func(_ *shm.Region, m *shm.Message) error {
			text := string(m.Bytes())
			if err := m.Ack(); err != nil {
				return err
			}
			count, _ := strconv.Atoi(text)
			for range count {
				n++
				to := n % 2
				line := fmt.Sprintf("%sline %d\n", rest[to], n)
				at := len(line) - 1 - n%7
				if _, err := fmt.Fprint([]*os.File{os.Stdout, os.Stderr}[to], line[:at]); err != nil {
					return err
				}
				rest[to] = line[at:]
			}
			if text == "end" {
				fmt.Fprint(os.Stdout, rest[0])
				fmt.Fprint(os.Stderr, rest[1])
				os.Exit(0)
			}
			return nil
		}, true)
	}
}

// ledger returns the numbers of the lines of a stream that shmctl logs shows, in order. Whatever else a worker printed fails the test.
func ledger(t *testing.T, d *testregion.Region, stream string) (numbers []int) {
	t.Helper()
	for line := range strings.Lines(shmctl(t, d, "logs", "w", "-n", "all", "-o", "json")) {
		var r struct {
			Stream, Text string
			Lost         int
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if r.Lost > 0 {
			t.Fatalf("the region's log lost %d: it is too small for this test", r.Lost)
		}
		if r.Stream != stream {
			continue
		}
		n, err := strconv.Atoi(strings.TrimPrefix(r.Text, "line "))
		if err != nil || r.Text != fmt.Sprintf("line %d", n) {
			t.Errorf("%s: %q is no line as it was printed", stream, r.Text)
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// Of what a worker prints nothing is lost, and no line is cut, over kills of the daemon at any time. A killed daemon may leave a few lines that the next one logs again.
func TestLinesOverKillsOfTheDaemon(t *testing.T) {
	t.Parallel()
	const rounds, each, again = 12, 600, 256
	d := testregion.Start(t, named+"log_size = \"4MiB\"\n"+jobs+group(t, "w", "number", "consume = [\"jobs\"]", "restart = \"never\""))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	for k := range rounds {
		if err := q.Send(within(t), []byte(strconv.Itoa(each))); err != nil {
			t.Fatal(err)
		}
		d.WaitLog(fmt.Sprintf(`"line %d"`, k*each+1+rand.N(each-100)))
		d.Kill()
		d.Again()
	}
	if err := q.Send(within(t), []byte("end")); err != nil {
		t.Fatal(err)
	}
	awaitState(d, "w.0", protocol.StateExited)
	for to, stream := range []string{"stdout", "stderr"} {
		next, last, repeated := to, 0, 0
		if to == 0 {
			next = 2
		}
		for _, n := range ledger(t, d, stream) {
			switch {
			case n == next:
				next += 2
			case n > next:
				t.Errorf("%s: line %d comes where line %d is to come", stream, n, next)
				next = n + 2
			case n == last+2 || n > next-2*again-2: // again, in order
				repeated++
			default:
				t.Errorf("%s: line %d comes again behind line %d", stream, n, next-2)
			}
			last = n
		}
		if want := rounds*each + 2 - to; next != want {
			t.Errorf("%s: line %d is the next, want %d", stream, next, want)
		}
		t.Logf("%s: %d lines were there twice after %d kills", stream, repeated, rounds)
	}
}

// A line whose end has not come when the daemon is killed is a line when it comes.
func TestHalfALineOverAKillOfTheDaemon(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(testregion.Dir(t), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	d := testregion.Start(t, named+shell("w", `printf 'one\nhalf a '; read -r _ <"$FIFO"; echo line; printf 'and a half'`, "restart = \"never\"", fmt.Sprintf("env.FIFO = %q", fifo)))
	d.WaitLog(`"one"`) // what was printed with it has been looked at too
	d.Kill()
	d.Again()
	go os.WriteFile(fifo, []byte("go on\n"), 0)
	awaitState(d, "w.0", protocol.StateExited)
	d.WaitLog(`"half a line"`)
	d.WaitLog(`"and a half"`)
}
