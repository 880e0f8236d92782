package shm_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
	"github.com/shmd/shmd/pkg/shm"
)

// The test binary is its own worker and outsider: see roles.
func TestMain(m *testing.M) {
	if role := os.Getenv("SHM_TEST_ROLE"); role != "" {
		if err := roles[role](); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	testregion.Cleanup()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		if n := region.Mapped(); n != 0 {
			fmt.Fprintln(os.Stderr, n, "mappings were left")
			code = 1
		}
	}
	os.Exit(code)
}

// roles are what the test binary can be in another process.
var roles = map[string]func() error{
	"echo": func() error { // jobs to results
		ctx := context.Background()
		r, err := shm.Attach(ctx, shm.Options{})
		if err != nil {
			return err
		}
		defer r.Close()
		jobs, err := r.Queue("jobs")
		if err != nil {
			return err
		}
		results, err := r.Queue("results")
		if err != nil {
			return err
		}
		r.Ready()
		for {
			m, err := jobs.Receive(ctx)
			if errors.Is(err, shm.ErrQuit) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := results.Send(ctx, fmt.Appendf(nil, "%s by %s, %d before", m.Bytes(), r.Worker(), m.Deliveries())); err != nil {
				return err
			}
			if err := m.Ack(); err != nil {
				return err
			}
		}
	},
	"twice": func() error { // attaches twice: the second time must fail
		fds := os.Getenv("SHMD_FDS")
		r, err := shm.Attach(context.Background(), shm.Options{})
		if err != nil {
			return err
		}
		r.Ready()
		os.Setenv("SHMD_FDS", fds)
		cmd := exec.Command("/proc/self/exe") // inherits the environment and no descriptor
		cmd.Env = append(os.Environ(), "SHM_TEST_ROLE=list")
		out, err := cmd.CombinedOutput()
		fmt.Printf("grandchild inherited [%s], error [%v]\n", out, err)
		<-r.Quit().Done()
		return nil
	},
	"list": func() error { // what did this process inherit?
		es, err := os.ReadDir("/proc/self/fd")
		for _, e := range es {
			if l, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.Contains(l, "memfd") {
				fmt.Print(l)
			}
		}
		return err
	},
	"holder": func() error { // takes three messages and two loans, says so, and waits to be killed
		ctx := context.Background()
		r, err := shm.Attach(ctx, shm.Options{Socket: os.Getenv("SHM_TEST_SOCKET"), Produce: []string{"jobs"}, Consume: []string{"jobs"}})
		if err != nil {
			return err
		}
		q, err := r.Queue("jobs")
		if err != nil {
			return err
		}
		for range 3 {
			if _, err := q.Receive(ctx); err != nil {
				return err
			}
		}
		for range 2 {
			if _, err := q.Loan(ctx); err != nil {
				return err
			}
		}
		fmt.Println("holding")
		io.Copy(io.Discard, os.Stdin) // until killed
		return nil
	},
}

func worker(role string, more string) string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("command = [%q]\nenv = { SHM_TEST_ROLE = %q }\n%s\n", exe, role, more)
}

const region1 = "[region]\nname = \"test\"\n[channel.jobs]\nslots = 64\nslot_size = \"64B\"\n[channel.results]\nslots = 64\nslot_size = \"128B\"\n"

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testregion.Limit)
	t.Cleanup(cancel)
	return ctx
}

func queue(t *testing.T, r *shm.Region, name string) *shm.Queue {
	t.Helper()
	q, err := r.Queue(name)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestWorkersAnswer(t *testing.T) {
	d := testregion.Start(t, region1+"[worker.echo]\ncount = 2\nconsume = [\"jobs\"]\nproduce = [\"results\"]\n"+worker("echo", ""))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"results"}})
	jobs, results := queue(t, r, "jobs"), queue(t, r, "results")
	ctx := within(t)
	const n = 5000
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			if err := jobs.Send(ctx, fmt.Appendf(nil, "job %d", i)); err != nil {
				t.Error(err)
			}
		}
	})
	seen := map[string]bool{}
	for range n {
		m, err := results.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		job, _, _ := strings.Cut(string(m.Bytes()), " by ")
		if seen[job] {
			t.Fatalf("%s was answered twice", job)
		}
		seen[job] = true
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if _, err := results.TryReceive(); !errors.Is(err, shm.ErrEmpty) {
		t.Fatalf("one answer more than jobs: %v", err)
	}
}

func TestAnOutsidersDeathGivesBack(t *testing.T) {
	d := testregion.Start(t, region1+"[worker.idle]\nbuiltin = \"idle\"\n")
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q := queue(t, r, "jobs")
	ctx := within(t)
	for i := range 3 {
		if err := q.Send(ctx, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	exe, _ := os.Executable()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "SHM_TEST_ROLE=holder", "SHM_TEST_SOCKET="+d.Socket)
	cmd.Stderr = os.Stderr
	stdin, _ := cmd.StdinPipe()
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line := make([]byte, 8); true {
		if _, err := io.ReadFull(stdout, line); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := q.TryReceive(); !errors.Is(err, shm.ErrEmpty) {
		t.Fatalf("the holder holds everything: %v", err)
	}
	cmd.Process.Kill()
	for i := range 3 {
		m, err := q.Receive(ctx) // sleeps: the repair wakes it
		if err != nil {
			t.Fatal(err)
		}
		if m.Bytes()[0] != byte(i) || m.Deliveries() != 1 {
			t.Errorf("message %d: %v, delivered %d times before", i, m.Bytes(), m.Deliveries())
		}
		m.Ack()
	}
	cmd.Wait()
	d.WaitLog("channel repaired") // messages are there as soon as their own slot is repaired, before the loans are
	if s, _ := q.Stat(); s.Free != s.Slots || s.Redelivered != 3 || s.Aborted != 2 {
		t.Errorf("%+v", s)
	}
}

func TestDeadLetters(t *testing.T) {
	d := testregion.Start(t, strings.Replace(region1, "[channel.results]", "max_deliveries = 2\n[channel.results]", 1)+"[worker.idle]\nbuiltin = \"idle\"\n")
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs", "jobs.dead"}})
	q, dead := queue(t, r, "jobs"), queue(t, r, "jobs.dead")
	ctx := within(t)
	if err := q.Send(ctx, []byte("poison")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m, err := q.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Nack(); err != nil {
			t.Fatal(err)
		}
	}
	m, err := dead.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	info, payload, err := m.Dead()
	if err != nil || string(payload) != "poison" || info.Deliveries != 2 || info.Reason != protocol.DeadReasonMaxDeliveries {
		t.Fatalf("%+v %q %v", info, payload, err)
	}
	m.Ack()
}

func TestQuitEndsWaits(t *testing.T) {
	d := testregion.Start(t, region1+"[worker.echo]\nconsume = [\"jobs\"]\nproduce = [\"results\"]\n"+worker("echo", ""))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q := queue(t, r, "jobs")
	got := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := q.Receive(context.Background())
			got <- err
		}()
	}
	d.Cmd.Process.Signal(syscall.SIGTERM) // the region stops: outsiders are told too
	for range 2 {
		if err := <-got; !errors.Is(err, shm.ErrQuit) {
			t.Errorf("a receiver ended with %v", err)
		}
	}
	if cause := context.Cause(r.Quit()); !errors.Is(cause, shm.ErrQuit) {
		t.Errorf("quit context ended with %v", cause)
	}
}

func TestGrandchildrenInheritNothing(t *testing.T) {
	d := testregion.Start(t, region1+"[worker.twice]\nconsume = [\"jobs\"]\n"+worker("twice", ""))
	d.WaitLog("grandchild inherited [], error [")
}

func TestWaitingCostsNoThreads(t *testing.T) {
	for _, env := range []string{"", "SHMD_TEST_NO_WAITV=1"} {
		t.Run(env, func(t *testing.T) {
			if env != "" { // the choice is made once a process: in another one
				exe, _ := os.Executable()
				cmd := exec.Command(exe, "-test.run=^TestWaitingCostsNoThreads$/^$", "-test.count=1")
				cmd.Env = append(os.Environ(), env)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				return
			}
			d := testregion.Start(t, region1+"[worker.idle]\nbuiltin = \"idle\"\n")
			r := d.Attach(shm.Options{Produce: []string{"jobs", "results"}, Consume: []string{"jobs", "results"}})
			ctx, cancel := context.WithCancel(within(t))
			defer cancel()
			const n = 1000
			got := make(chan error, n)
			for i := range n {
				q := queue(t, r, []string{"jobs", "results"}[i%2])
				go func() {
					m, err := q.Receive(ctx)
					if err == nil {
						m.Ack()
					}
					got <- err
				}()
			}
			jobs, results := queue(t, r, "jobs"), queue(t, r, "results")
			for deadline := time.Now().Add(testregion.Limit); ; {
				a, _ := jobs.Stat()
				b, _ := results.Stat()
				if a.Receivers+b.Receivers == n {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d of %d goroutines wait", a.Receivers+b.Receivers, n)
				}
				syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
			}
			threads, err := os.ReadDir("/proc/self/task")
			if err != nil {
				t.Fatal(err)
			}
			if len(threads) >= 20 {
				t.Errorf("%d goroutines wait in %d threads; fewer than 20 are allowed", n, len(threads))
			}
			t.Logf("%d goroutines wait in %d threads", n, len(threads))
			for i := range n / 2 { // half of them get a message
				if err := jobs.Send(ctx, []byte{byte(i)}); err != nil {
					t.Fatal(err)
				}
				if err := <-got; err != nil {
					t.Fatal(err)
				}
			}
			cancel() // the others end
			for range n / 2 {
				if err := <-got; !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestErrors(t *testing.T) {
	d := testregion.Start(t, region1+"[worker.idle]\nbuiltin = \"idle\"\n")
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q := queue(t, r, "jobs")
	ctx := within(t)
	var large *shm.TooLargeError
	if err := q.Send(ctx, make([]byte, 65)); !errors.As(err, &large) || large.Limit != 64 || large.Size != 65 {
		t.Errorf("65 bytes into a slot of 64: %v", err)
	}
	if _, err := r.Queue("results"); !errors.Is(err, shm.ErrNoChannel) || !strings.Contains(err.Error(), "jobs") {
		t.Errorf("a channel that was not asked for: %v", err)
	}
	if _, err := shm.Attach(ctx, shm.Options{Socket: d.Socket, Consume: []string{"nonsense"}}); err == nil || !strings.Contains(err.Error(), "jobs") {
		t.Errorf("a channel that does not exist: %v", err)
	}
	for _, p := range [][]byte{nil, []byte("x"), make([]byte, 64)} { // from nothing to a full slot
		if err := q.Send(ctx, p); err != nil {
			t.Fatal(err)
		}
		m, err := q.Receive(ctx)
		if err != nil || len(m.Bytes()) != len(p) {
			t.Fatalf("%d bytes: %v", len(p), err)
		}
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
		if err := m.Nack(); !errors.Is(err, shm.ErrLost) {
			t.Errorf("nack after ack: %v", err)
		}
	}
	for {
		if err := q.TrySend(nil); err != nil {
			if !errors.Is(err, shm.ErrFull) {
				t.Errorf("a full queue: %v", err)
			}
			break
		}
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if err := q.Send(short, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("send into a full queue with a dead context: %v", err)
	}
	l, err := q.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- r.Close() }() // waits for the message
	<-r.Quit().Done()
	l.Ack()
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
	if err := q.Send(ctx, nil); !errors.Is(err, shm.ErrClosed) {
		t.Errorf("send after close: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := shm.Attach(ctx, shm.Options{Socket: d.Dir + "/nothing.sock"}); !errors.Is(err, shm.ErrNoDaemon) {
		t.Errorf("no socket: %v", err)
	}
}

// A lease that is held for long stops nobody, in a real region.
func TestALongLeaseStopsNobody(t *testing.T) {
	d := testregion.Start(t, region1+"[worker.idle]\nbuiltin = \"idle\"\n")
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q := queue(t, r, "jobs")
	ctx := within(t)
	if err := q.Send(ctx, []byte("held")); err != nil {
		t.Fatal(err)
	}
	held, err := q.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var b [8]byte
	for i := range uint64(1000 * q.Slots()) {
		binary.LittleEndian.PutUint64(b[:], i)
		if err := q.Send(ctx, b[:]); err != nil {
			t.Fatal(err)
		}
		m, err := q.Receive(ctx)
		if err != nil || binary.LittleEndian.Uint64(m.Bytes()) != i {
			t.Fatalf("message %d: %v", i, err)
		}
		m.Ack()
	}
	if string(held.Bytes()) != "held" {
		t.Errorf("the held message became %q", held.Bytes())
	}
	if err := held.Ack(); err != nil {
		t.Error(err)
	}
}
