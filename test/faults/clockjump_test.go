package faults

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// A wall clock that is set, for one program and all that it starts: programs read it from a page of the kernel, without a system call. Without that page, which an
// entry of the auxiliary vector tells of, they make the call, and the tracer changes what it returns.

const (
	auxIgnore, auxVDSO = 1, 33 // AT_IGNORE, AT_SYSINFO_EHDR
	clockRealtime      = 0
	atExit             = 2 // PTRACE_SYSCALL_INFO_EXIT
)

// hideVDSO takes the page from a program that has just been executed.
func hideVDSO(pid int) error {
	i, err := infoOf(pid)
	if err != nil {
		return err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer mem.Close()
	word := func(at uint64) uint64 {
		var b [8]byte
		if _, e := mem.ReadAt(b[:], int64(at)); e != nil && err == nil {
			err = e
		}
		return binary.LittleEndian.Uint64(b[:])
	}
	at := i.SP + 8*(word(i.SP)+2) // behind argc, argv and its end
	for err == nil && word(at) != 0 {
		at += 8
	}
	for at += 8; err == nil; at += 16 {
		switch word(at) {
		case 0:
			return errors.New("the program has no vDSO: nothing to hide")
		case auxVDSO:
			if err == nil {
				_, err = syscall.PtracePokeData(pid, uintptr(at), binary.LittleEndian.AppendUint64(nil, auxIgnore))
			}
			return err
		}
	}
	return err
}

// clock is called at the begin and the end of every system call.
func (x *tracer) clock(tid int, i syscallInfo) error {
	if i.Op == atEntry {
		if i.Nr == syscall.SYS_CLOCK_GETTIME && i.Args[0] == clockRealtime {
			x.clocks[tid] = i.Args[1]
		}
		return nil
	}
	at, reads := x.clocks[tid]
	if i.Op != atExit || !reads {
		return nil
	}
	delete(x.clocks, tid)
	var b [8]byte
	if _, err := syscall.PtracePeekData(tid, uintptr(at), b[:]); err != nil {
		return err
	}
	x.skewed.Add(1)
	binary.LittleEndian.PutUint64(b[:], binary.LittleEndian.Uint64(b[:])+uint64(x.skew.Load()))
	_, err := syscall.PtracePokeData(tid, uintptr(at), b[:])
	return err
}

// TestClockJumps sets the wall clock of the daemon and its workers ten years ahead, and to a time before the region was made, while messages flow, while a worker
// that died is started again, and while one that does not obey is being stopped: nothing is late, nobody is started for nothing, and the patience with who does not
// obey is as long as it was.
func TestClockJumps(t *testing.T) {
	dir, bin := testregion.Dir(t), testregion.Binaries(t)
	name := fmt.Sprintf("jump-%d", os.Getpid())
	toml := fmt.Sprintf(`[region]
name = %q
[channel.jobs]
[channel.results]
[worker.echo]
builtin = "echo"
consume = ["jobs"]
produce = ["results"]
[worker.deaf]
command = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
stop_timeout = "2s"
`, name)
	conf, socket := filepath.Join(dir, "shmd.toml"), filepath.Join(dir, name+".sock")
	if err := os.WriteFile(conf, []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	x := newTracer(fault{})
	x.skew, x.clocks = new(atomic.Int64), map[int]uint64{}
	in, out := pipe()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	log := newLogbook(in)
	pids, ended := make(chan int, 1), make(chan error, 1)
	go func() { // on a thread of its own, which ends with it
		runtime.LockOSThread()
		env := append(os.Environ(), "RUNTIME_DIRECTORY="+dir)
		ws, err := x.run([]string{bin + "/shmd", "-c", conf, "--log-level", "debug"}, env, []*os.File{null, out, out}, func(pid int) { out.Close(); pids <- pid })
		x.drain()
		if err == nil && ws.ExitStatus() != 0 {
			err = fmt.Errorf("the daemon ends with %#x", ws)
		}
		ended <- err
	}()
	daemon := <-pids
	defer func() {
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", log)
		}
	}()
	defer syscall.Kill(daemon, syscall.SIGKILL)
	ctx, cancel := context.WithTimeout(context.Background(), 2*testregion.Limit)
	defer cancel()
	select {
	case <-log.settled:
	case err := <-ended:
		t.Fatalf("the daemon does not start: %v", err)
	case <-ctx.Done():
		t.Fatal("the daemon does not start")
	}
	r, err := shm.Attach(ctx, shm.Options{Region: name, Socket: socket, Produce: []string{"jobs"}, Consume: []string{"results"}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	jobs, err1 := r.Queue("jobs")
	results, err2 := r.Queue("results")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	n := 0
	var unset time.Duration // what the first traffic took
	traffic := func(when string) {
		t.Helper()
		began := time.Now()
		defer func() {
			switch took := time.Since(began); {
			case unset == 0:
				unset = took
			case took > 10*unset+5*time.Second:
				t.Errorf("%s: 50 messages took %v; before the clock was set they took %v", when, took, unset)
			}
		}()
		for range 50 {
			n++
			if err := jobs.Send(ctx, strconv.AppendInt(nil, int64(n), 10)); err != nil {
				t.Fatalf("%s: message %d: %v", when, n, err)
			}
			m, err := results.Receive(ctx)
			if err != nil || string(m.Bytes()) != strconv.Itoa(n) {
				t.Fatalf("%s: answer %d: %v", when, n, err)
			}
			if err := m.Ack(); err != nil {
				t.Fatal(err)
			}
		}
	}
	shmctl := func(v any, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, bin+"/shmctl", append([]string{"-r", name, "-s", socket, "-o", "json"}, args...)...)
		out, err := cmd.Output()
		if err == nil {
			err = json.Unmarshal(out, v)
		}
		if err != nil {
			t.Fatalf("shmctl %v: %v\n%s", args, err, out)
		}
	}
	type worker struct {
		Name, State, Reason string
		Pid                 int
		Restarts            int
	}
	workers := func() map[string]worker {
		var ps struct{ Workers []worker }
		shmctl(&ps, "ps")
		by := map[string]worker{}
		for _, w := range ps.Workers {
			by[w.Name] = w
		}
		return by
	}
	const year = 365 * 24 * 3600
	traffic("as it is")
	before := workers()
	for _, skew := range []int64{10 * year, -30 * year, 10 * year, 0} {
		x.skew.Store(skew)
		traffic(fmt.Sprintf("%d years ahead", skew/year))
	}
	for name, w := range workers() {
		if w != before[name] {
			t.Errorf("%+v, before the clock was set %+v", w, before[name])
		}
	}

	x.skew.Store(-30 * year)
	syscall.Kill(before["echo.0"].Pid, syscall.SIGKILL)
	x.skew.Store(10 * year)
	traffic("after a death") // it is started again
	for w := workers()["echo.0"]; w.State != "ready" || w.Restarts != 1; w = workers()["echo.0"] {
		if w.Restarts > 1 || ctx.Err() != nil {
			t.Fatalf("after its death: %+v", w)
		}
	}

	// Patience with a worker that does not obey.
	began := time.Now()
	set := time.AfterFunc(time.Second/2, func() { x.skew.Store(-30 * year) })
	defer set.Stop()
	var stopped struct {
		Workers []struct {
			Name, How string
			Ack       int64 `json:"ack_ns"`
		}
	}
	shmctl(&stopped, "stop", "deaf")
	if took := time.Since(began); took < 2*time.Second || took > testregion.Limit/2 || len(stopped.Workers) != 1 || !strings.Contains(log.String(), "it did not obey SIGTERM within 2s") {
		t.Errorf("%+v, after %v", stopped, took)
	}
	traffic("after a stop")
	shmctl(&stopped, "stop")
	for _, w := range stopped.Workers {
		if w.Name == "echo.0" && (w.How != "flag" || w.Ack <= 0 || w.Ack > int64(testregion.Limit)) {
			t.Errorf("%+v", stopped)
		}
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-ctx.Done():
		t.Fatal("the daemon does not end")
	}
	for _, skew := range []int64{10 * year, -30 * year} {
		if year := time.Now().Add(time.Duration(skew) * time.Second).Format("2006-"); !strings.Contains(log.String(), year) {
			t.Errorf("the daemon has no line in its log of the year %s: its clock was not set", year)
		}
	}
	t.Logf("the wall clock was read %d times", x.skewed.Load())
}
