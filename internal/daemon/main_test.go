// Package daemon_test drives real daemons with real workers and clients. It waits for what they say (roster, log, replies) and for
// processes to end, and sleeps nowhere.
package daemon_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
	"github.com/shmd/shmd/pkg/shm"
)

// The test binary is its own worker and client: see roles.
func TestMain(m *testing.M) {
	if role := os.Getenv("DAEMON_TEST_ROLE"); role != "" {
		if err := roles[role](); err != nil && !errors.Is(err, shm.ErrQuit) {
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
	// deaf attaches and sees the quit flag, but does not obey; SIGTERM neither, unless DAEMON_TEST_TERM is set.
	"deaf": func() error {
		if os.Getenv("DAEMON_TEST_TERM") == "" {
			signal.Ignore(syscall.SIGTERM)
		}
		r, err := shm.Attach(context.Background(), shm.Options{})
		if err != nil {
			return err
		}
		r.Ready()
		select {}
	},
	// unready attaches, and obeys the quit flag, but is never ready.
	"unready": func() error {
		r, err := shm.Attach(context.Background(), shm.Options{})
		if err != nil {
			return err
		}
		<-r.Quit().Done()
		return nil
	},
	// late is ready when it gets a message.
	"late": func() error {
		return consume(func(r *shm.Region, m *shm.Message) error {
			r.Ready()
			return m.Ack()
		}, false)
	},
	// print writes each message to its standard output, as many times as the message before the colon says.
	"print": func() error {
		return consume(func(_ *shm.Region, m *shm.Message) error {
			count, text, _ := strings.Cut(string(m.Bytes()), ":")
			if err := m.Ack(); err != nil {
				return err
			}
			n, err := strconv.Atoi(count)
			for range n {
				if _, err := fmt.Println(text); err != nil {
					return err
				}
			}
			return err
		}, true)
	},
	// hold takes three messages and a loan, says so, and waits to be killed.
	"hold": func() error {
		ctx := context.Background()
		r, err := shm.Attach(ctx, shm.Options{})
		if err != nil {
			return err
		}
		q, err := r.Queue("jobs")
		if err != nil {
			return err
		}
		r.Ready()
		for range 3 {
			if _, err := q.Receive(ctx); err != nil {
				return err
			}
		}
		if _, err := q.Loan(ctx); err != nil {
			return err
		}
		fmt.Println("holding")
		<-r.Quit().Done()
		return nil
	},
	// once receives a message and dies of it.
	"once": func() error {
		return consume(func(_ *shm.Region, m *shm.Message) error {
			fmt.Printf("%s has been delivered %d times before\n", m.Bytes(), m.Deliveries())
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}, true)
	},
	// hangs does nothing.
	"hangs": func() error {
		for {
			syscall.Pause()
		}
	},
	"client":    client,
	"heir":      heir,
	"lingering": lingering,
}

// consume attaches and hands each message of "jobs" to fn.
func consume(fn func(*shm.Region, *shm.Message) error, ready bool) error {
	ctx := context.Background()
	r, err := shm.Attach(ctx, shm.Options{})
	if err != nil {
		return err
	}
	q, err := r.Queue("jobs")
	if err != nil {
		return err
	}
	if ready {
		r.Ready()
	}
	for {
		m, err := q.Receive(ctx)
		if err != nil {
			return err
		}
		if err := fn(r, m); err != nil {
			return err
		}
	}
}

// self is the test binary at a place where every user can execute it.
var self = sync.OnceValues(func() (string, error) {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(os.Getenv("DAEMON_TEST_BIN"), "daemon.test"), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	return to.Name(), errors.Join(err, to.Close())
})

// binary is the path of the test binary.
func binary(t testing.TB) string {
	t.Helper()
	os.Setenv("DAEMON_TEST_BIN", testregion.Binaries(t))
	p, err := self()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// group is the table of a group of workers that play a role, and say when they are ready, with further keys.
func group(t testing.TB, name, role string, keys ...string) string {
	t.Helper()
	return fmt.Sprintf("[worker.%s]\ncommand = [%q]\nready = \"call\"\nenv.DAEMON_TEST_ROLE = %q\n%s\n", name, binary(t), role, strings.Join(keys, "\n"))
}

// shell is the table of a group of workers that run a shell command, with further keys.
func shell(name, script string, keys ...string) string {
	return fmt.Sprintf("[worker.%s]\ncommand = [\"sh\", \"-c\", %q]\n%s\n", name, script, strings.Join(keys, "\n"))
}

// idle is the table of a group of built-in workers.
func idle(name string, keys ...string) string {
	return fmt.Sprintf("[worker.%s]\nbuiltin = \"idle\"\n%s\n", name, strings.Join(keys, "\n"))
}

const (
	named = "[region]\nname = \"test\"\n"
	jobs  = "[channel.jobs]\nslots = 16\nslot_size = \"64B\"\n"
)

// within is a context that ends with the test's patience.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testregion.Limit)
	t.Cleanup(cancel)
	return ctx
}

// await waits until a worker's row pleases, and returns it.
func await(d *testregion.Region, name string, ok func(protocol.Worker) bool) (w protocol.Worker) {
	d.WaitWorkers(name+" as wanted", func(ws []protocol.Worker) bool {
		i := slices.IndexFunc(ws, func(w protocol.Worker) bool { return w.Name == name })
		if i < 0 {
			return false
		}
		w = ws[i]
		return ok(w)
	})
	return w
}

// awaitState waits until a worker is in a state.
func awaitState(d *testregion.Region, name string, s protocol.State) protocol.Worker {
	return await(d, name, func(w protocol.Worker) bool { return w.State == s })
}

// shmctl runs shmctl, which must succeed.
func shmctl(t testing.TB, d *testregion.Region, args ...string) string {
	t.Helper()
	out, errs, code := d.Shmctl(args...)
	if code != 0 {
		t.Fatalf("shmctl %v: exit code %d\n%s%s", args, code, out, errs)
	}
	return out
}

// stopped is what shmctl stop -o json says.
type stopped struct {
	Workers []struct {
		Name   string
		Pid    int
		AckNs  int64 `json:"ack_ns"`
		ExitNs int64 `json:"exit_ns"`
		How    string
	}
}

// a process that a test watches.
type process struct {
	pid   int
	pidfd *os.File
}

// watch opens a pidfd of a process that lives.
func watch(t testing.TB, pid int) process {
	t.Helper()
	f, err := sys.PidfdOpen(pid)
	if err != nil {
		t.Fatalf("process %d: %v", pid, err)
	}
	t.Cleanup(func() { f.Close() })
	return process{pid, f}
}

// ended waits for the end of the process.
func (p process) ended(t testing.TB) {
	t.Helper()
	ready, err := sys.PollReadable([]*os.File{p.pidfd}, testregion.Limit)
	if err != nil {
		t.Fatal(err)
	}
	if !ready[0] {
		t.Fatalf("process %d lives on", p.pid)
	}
}

// alive reports whether the process has not ended.
func (p process) alive() bool {
	ended, err := sys.PidfdReadable(p.pidfd)
	return err == nil && !ended
}

// eventually waits for what no event tells of.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(testregion.Limit); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// record is a line of the daemon's log.
type record struct {
	At      time.Time `json:"@timestamp"`
	Level   string    `json:"@level"`
	Message string    `json:"@message"`
	Worker  string
	Group   string
	Stream  string
	Pid     int
	Why     string
	How     string
	Channel string
	Leases  int
	Loans   int
}

// records are the lines of the log so far that please.
func records(t testing.TB, d *testregion.Region, ok func(record) bool) (list []record) {
	t.Helper()
	for line := range strings.Lines(d.Log()) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			if strings.HasPrefix(line, "shmd: ") || !strings.HasSuffix(line, "\n") { // the last word, or a line that is being written
				continue
			}
			t.Fatalf("the daemon logged %q: %v", line, err)
		}
		if ok(r) {
			list = append(list, r)
		}
	}
	return list
}

// children are the processes whose parent is pid, zombies among them.
func children(pid int) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(f) > 1 && f[1] == strconv.Itoa(pid) {
			pids = append(pids, n)
		}
	}
	return pids
}
