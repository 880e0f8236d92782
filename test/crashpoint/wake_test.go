package crashpoint

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// patience bounds what must come, and comes at once.
const patience = 10 * time.Second

// dozer is another process, which sleeps on a doorbell of the queue when it is told to (sleeperMain).
type dozer struct {
	cmd   *exec.Cmd
	in    io.Writer
	lines chan string
	bell  string // address of the futex in that process
}

func newDozer(t testing.TB, f *os.File) *dozer {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	z := &dozer{cmd: exec.Command(exe), lines: make(chan string, 8)}
	z.cmd.Env = append(os.Environ(), roleEnv+"=sleeper")
	z.cmd.ExtraFiles = []*os.File{f}
	z.cmd.Stderr = os.Stderr
	if z.in, err = z.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := z.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := z.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		z.cmd.Process.Kill()
		z.cmd.Wait()
	})
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			z.lines <- lines.Text()
		}
		close(z.lines)
	}()
	return z
}

// says waits for the next line of the dozer, which must begin with want.
func (z *dozer) says(want string) (string, error) {
	select {
	case l := <-z.lines:
		if !strings.HasPrefix(l, want) {
			return l, fmt.Errorf("the sleeper says %q, want %q", l, want)
		}
		return l, nil
	case <-time.After(patience):
		return "", fmt.Errorf("the sleeper sleeps on (waited %v for %q)", patience, want)
	}
}

// sleep gives the dozer something to do, and returns when it sleeps in its futex.
func (z *dozer) sleep(verb string) error {
	fmt.Fprintln(z.in, verb)
	l, err := z.says("bell ")
	if err != nil {
		return err
	}
	z.bell = strings.TrimPrefix(l, "bell ")
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if z.asleep() {
			return nil
		}
	}
	return fmt.Errorf("the sleeper does not go to sleep")
}

// asleep reports whether a thread of the dozer is in a system call on its doorbell.
func (z *dozer) asleep() bool {
	calls, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", z.cmd.Process.Pid))
	for _, c := range calls {
		b, _ := os.ReadFile(c)
		if w := strings.Fields(string(b)); len(w) > 1 && w[1] == z.bell {
			return true
		}
	}
	return false
}

// leaves reports whether the dozer leaves its futex within a moment.
func (z *dozer) leaves() bool {
	for end := time.Now().Add(3 * time.Millisecond); time.Now().Before(end); {
		if !z.asleep() {
			return true
		}
	}
	return false
}

// TestWake kills the victim at every instruction of an operation, beside a process that sleeps until that operation is done. Where the
// victim has published and not woken yet, the sleeper sleeps on; the repair must wake it. And an operation that ends must have woken it.
func TestWake(t *testing.T) {
	f, mem := memfd(t)
	z := newDozer(t, f)
	x := newTracee(t, f, mem)
	holds := func(o uint16) bool { return o == victim }
	for _, c := range []struct {
		op      uint64
		prepare func(b *builder)
		held    bool // the sleeper goes to sleep when the victim has its slot
		verb    string
	}{
		{opSend, func(b *builder) {}, false, "receive"},
		{opNack, func(b *builder) { b.send(1) }, true, "receive"},
		{opReceive, func(b *builder) { b.send(2) }, false, "send 88"},
		{opAbort, func(b *builder) { b.send(1); b.peerLease() }, true, "send 88"},
		{opLook, func(b *builder) {}, false, "receive"},
	} {
		count := newTally(t)
		lost := 0
		s := newState("", 2, 0, 0, c.prepare)
		setup := func() *protocol.Queue {
			copy(mem[queueAt:], s.image)
			x.begin(c.op, victim, sent)
			return openQueue(mem)
		}
		q, first := setup(), 0
		for ; c.held && !q.Holds(holds); first++ {
			x.step()
		}
		x.finish()
		useful := func() bool {
			if st := q.Stat(); c.verb == "receive" {
				return st.Ready > 0
			} else {
				return st.Free > 0
			}
		}
		for i, more := first, true; more; i += stride() {
			q = setup()
			x.steps(first)
			if err := z.sleep(c.verb); err != nil {
				t.Fatalf("%s: %v", opNames[c.op], err)
			}
			more = x.steps(i - first)
			if more { // it dies here
				if i%16 == 8 {
					x.kill()
					count.killed++
				}
				if useful() && !z.leaves() {
					lost++
				}
				q.Repair(holds)
				if !useful() {
					if c.verb == "receive" {
						l := must(q.TryLoan(other))
						fill(q.LoanBytes(l), 99)
						check(q.Commit(l, length(99)))
					} else if l, err := q.TryReceive(other); err == nil {
						check(q.Ack(l))
					}
				}
			}
			_, err := z.says("done ")
			count.point(err, "%s killed at %d beside a process that sleeps to %s", opNames[c.op], i, c.verb)
			if err != nil {
				t.FailNow()
			}
			if x.pid == 0 {
				x.start()
			} else {
				x.finish()
			}
		}
		t.Logf("beside %s: at %d points the wake-up is lost with the victim, and all are rescued by the repair", opNames[c.op], lost)
		if lost == 0 {
			t.Errorf("beside %s: no wake-up is lost anywhere: the test does not see what it is for", opNames[c.op])
		}
		count.report("wake, " + opNames[c.op])
	}
}

// stride is how many instructions lie between two points at which TestWake kills: each costs a process that goes to sleep.
func stride() int {
	switch {
	case quick():
		return 9
	case torture():
		return 1
	}
	return 2
}
