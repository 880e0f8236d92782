package storm

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// The storm of all faults (T8): producers and consumers in Go, filters in C and Python between them, and one fault after the other:
//
//	kill   SIGKILL of a worker, of a filter, or of the shim that serves a filter
//	stop   SIGSTOP, and SIGCONT some faults later
//	oom    the kernel's OOM killer takes a worker: it is put into a memory cgroup and told to eat
//	fork   a worker starts a child that stays, and dies while the child lives
//
// A text goes through two queues, so a message may come more than once after a death, and none may be lost or torn.

// line is message n as it goes through filters.
func line(n uint64) string {
	h := fnv.New64a()
	fmt.Fprint(h, n)
	return fmt.Sprintf("%d %016x", n, h.Sum64())
}

// obey does on request what a worker that goes wrong does.
func obey() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		var eaten [][]byte
		for s := range asked {
			if s == syscall.SIGUSR1 {
				exec.Command("sleep", "100000").Start()
				continue
			}
			for { // until the kernel has enough of it
				b := make([]byte, 1<<20)
				for i := 0; i < len(b); i += 4096 {
					b[i] = 1
				}
				eaten = append(eaten, b)
			}
		}
	}()
}

func feed(ctx context.Context, r *shm.Region, l *ledger) error {
	q, err := r.Queue("jobs")
	if err != nil {
		return err
	}
	obey()
	r.Ready()
	for {
		n := l.next.Add(1) - 1
		if n >= maxMessages {
			return errors.New("the ledger is full")
		}
		l.words[n].Or(intended)
		if err := q.Send(ctx, []byte(line(n))); err != nil {
			return err
		}
		l.words[n].Or(committed)
	}
}

func collect(ctx context.Context, r *shm.Region, l *ledger) error {
	q, err := r.Queue("done")
	if err != nil {
		return err
	}
	obey()
	r.Ready()
	for {
		m, err := q.Receive(ctx)
		if err != nil {
			return err
		}
		text := string(m.Bytes())
		number, _, _ := strings.Cut(text, " ")
		n, err := strconv.ParseUint(number, 10, 64)
		switch {
		case err != nil || n >= maxMessages || text != line(n):
			l.bad[torn].Add(1)
		default:
			if l.words[n].Or(received)&intended == 0 {
				l.bad[neverSent].Add(1)
			}
		}
		if err := m.Ack(); err != nil {
			return err
		}
	}
}

const filterC = `#include <stdio.h>
int main(void) {
  static char line[256];
  while (fgets(line, sizeof line, stdin)) {
    fputs(line, stdout);
    fflush(stdout);
  }
  return 0;
}
`

const filterPython = `import sys
for line in sys.stdin:
    sys.stdout.write(line)
    sys.stdout.flush()
`

func TestFaultStorm(t *testing.T) {
	faults := number(t, "SHMD_KILLS", 2000) / 2
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	inC := filepath.Join(dir, "filter")
	if out, err := exec.Command("gcc", "-O2", "-o", inC, write("filter.c", filterC)).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	filters := ""
	for name, command := range map[string]string{"inc": fmt.Sprintf("[%q]", inC), "inpython": fmt.Sprintf("[\"python3\", \"-u\", %q]", write("filter.py", filterPython))} {
		filters += fmt.Sprintf("[worker.%s]\ncommand = %s\ncount = 2\nstdin = \"jobs\"\nstdout = \"done\"\nbackoff_min = \"1ms\"\nbackoff_max = \"1ms\"\ncrash_limit = 0\n", name, command)
	}
	cgroup := memoryCgroup(t, 64<<20) // before the region, which ends before it
	sc := begin(t, 3, "[channel.jobs]\nslots = 32\nslot_size = \"64B\"\nmax_deliveries = 63\n[channel.done]\nslots = 32\nslot_size = \"64B\"\nmax_deliveries = 0\n"+filters,
		group{"feeder", "produce", "jobs", 2}, group{"collector", "consume", "done", 2})
	type sleeper struct {
		pid   int
		pidfd *os.File
		until int // the fault at which it goes on
	}
	var stopped []sleeper
	wake := func(now int) {
		stopped = slices.DeleteFunc(stopped, func(s sleeper) bool {
			if s.until > now {
				return false
			}
			sys.PidfdSignal(s.pidfd, syscall.SIGCONT)
			s.pidfd.Close()
			return true
		})
	}
	defer wake(faults)
	count := map[string]int{}
	began := time.Now()
	for n := 0; n < faults; {
		wake(n)
		w, ok := sc.ready()
		if !ok {
			if err := sc.r.WaitChange(sc.ctx); err != nil {
				t.Fatalf("no worker is ready: %v\n%s", err, tail(sc.d.Log()))
			}
			continue
		}
		pid, native := w.Pid, w.ShimPid == 0
		if !native && sc.rng.IntN(2) == 0 {
			pid = w.ShimPid
		}
		p, err := sys.PidfdOpen(pid)
		if err != nil {
			continue
		}
		fault := []string{"kill", "kill", "stop", "fork", "oom"}[sc.rng.IntN(5)]
		if fault != "stop" && slices.ContainsFunc(stopped, func(s sleeper) bool { return s.pid == pid }) {
			fault = "kill" // it does nothing else
		}
		switch {
		case fault == "stop" && len(stopped) < 3:
			sys.PidfdSignal(p, syscall.SIGSTOP)
			stopped = append(stopped, sleeper{pid, p, n + 1 + sc.rng.IntN(10)})
			p = nil
		case fault == "oom" && native && os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0) == nil:
			sys.PidfdSignal(p, syscall.SIGUSR2)
			if ended, err := sys.PollReadable([]*os.File{p}, time.Minute); err != nil || !ended[0] {
				t.Fatalf("%s was to be killed for want of memory, and lives: %v", w.Name, err)
			}
		case fault == "fork" && native:
			sys.PidfdSignal(p, syscall.SIGUSR1)
			yield()
			sys.PidfdSignal(p, syscall.SIGKILL)
		default:
			fault = "kill"
			sys.PidfdSignal(p, syscall.SIGKILL)
		}
		if p != nil {
			p.Close()
		}
		count[fault]++
		n++
		for until, spin := sc.l.next.Load()+uint64(sc.rng.IntN(20)), 0; sc.l.next.Load() < until && spin < 2_000; spin++ {
			yield()
		}
	}
	wake(faults + 100)
	took := time.Since(began)

	// The storm is over: who feeds stops, and all that was committed arrives.
	sc.stop("feeder")
	lost := func() (n int) {
		for i := range min(sc.l.next.Load(), maxMessages) {
			if w := sc.l.words[i].Load(); w&committed != 0 && w>>8&0xff == 0 {
				n++
			}
		}
		return n
	}
	sc.until("committed messages do not arrive", func() bool { return lost() == 0 })
	sc.stop("collector", "inc", "inpython")
	t.Logf("%d faults in %v: %v; %d messages; lost %d, torn %d, never sent %d", faults, took.Round(time.Millisecond), count, sc.l.next.Load(), lost(),
		sc.l.bad[torn].Load(), sc.l.bad[neverSent].Load())
	if sc.l.bad[torn].Load()+sc.l.bad[neverSent].Load() > 0 {
		t.Error("messages were torn, or nobody had sent them")
	}
	for _, kind := range []string{"kill", "stop", "fork", "oom"} {
		if faults >= 100 && count[kind] == 0 {
			t.Errorf("no %s", kind)
		}
	}
	if out, errs, code := sc.d.Shmctl("verify"); code != 0 {
		t.Errorf("verify: %s%s", out, errs)
	}
}

// ready returns a worker that is ready, by chance.
func (sc *scene) ready() (protocol.Worker, bool) {
	ws, err := sc.r.Workers()
	if err != nil {
		sc.t.Fatal(err)
	}
	ws = slices.DeleteFunc(ws, func(w protocol.Worker) bool { return w.State != protocol.StateReady || w.Pid == 0 })
	if len(ws) == 0 {
		return protocol.Worker{}, false
	}
	return ws[sc.rng.IntN(len(ws))], true
}

// memoryCgroup makes a cgroup with a limit of memory, below the root of either version, and removes it when all who are in it have ended.
func memoryCgroup(t *testing.T, limit int64) string {
	t.Helper()
	root, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Join(root, file)); err != nil {
		root, file = "/sys/fs/cgroup", "memory.max"
	}
	dir, err := os.MkdirTemp(root, "shmd-storm-")
	if err != nil {
		t.Fatalf("make a memory cgroup: %v (this test needs a writable cgroup file system)", err)
	}
	t.Cleanup(func() {
		for deadline := time.Now().Add(time.Minute); ; yield() {
			if err := os.Remove(dir); err == nil || time.Now().After(deadline) {
				if err != nil {
					t.Error(err)
				}
				return
			}
		}
	})
	if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(limit, 10)), 0); err != nil {
		t.Fatal(err)
	}
	return dir
}
