package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
	"github.com/shmd/shmd/pkg/shm"
)

// Flag, then SIGTERM, then SIGKILL, each after the stop timeout, each in the log.
func TestEscalation(t *testing.T) {
	t.Parallel()
	const timeout = 300 * time.Millisecond
	d := testregion.Start(t, named+group(t, "deaf", "deaf", "stop_timeout = \"300ms\"")+group(t, "half", "deaf", "stop_timeout = \"300ms\"", "env.DAEMON_TEST_TERM = \"1\"")+
		idle("good", "stop_timeout = \"300ms\""))
	var s stopped
	d.JSON(&s, "stop", "deaf", "half", "good")
	for i, want := range []struct {
		name, how string
		least     time.Duration
		signals   []string
	}{
		{"deaf.0", "kill", 2 * timeout, []string{"worker gets SIGTERM", "worker gets SIGKILL"}},
		{"half.0", "term", timeout, []string{"worker gets SIGTERM"}},
		{"good.0", "flag", 0, nil},
	} {
		got := s.Workers[i]
		if got.Name != want.name || got.How != want.how || time.Duration(got.ExitNs) < want.least || got.AckNs <= 0 || got.AckNs > got.ExitNs {
			t.Errorf("%+v, want %+v", got, want)
		}
		var at time.Time // of the step before. Who obeys the flag may have ended before the daemon asked
		for _, signal := range want.signals {
			d.WaitLog(signal, `"worker":"`+want.name+`"`)
			at = records(t, d, func(r record) bool { return r.Worker == want.name && r.Message == "worker asked to quit" })[0].At
		}
		signals := records(t, d, func(r record) bool { return r.Worker == want.name && strings.HasPrefix(r.Message, "worker gets") })
		if len(signals) != len(want.signals) {
			t.Errorf("%s: signals %+v", want.name, signals)
			continue
		}
		for i, r := range signals {
			if after := r.At.Sub(at); r.Message != want.signals[i] || after < timeout-time.Millisecond || !strings.HasSuffix(r.Why, "within 300ms") || r.Level != "warn" {
				t.Errorf("%s: %v after the step before: %+v", want.name, after, r)
			}
			at = r.At
		}
		if w := awaitState(d, want.name, protocol.StateExited); w.Reason != "stopped" {
			t.Errorf("%+v", w)
		}
	}
}

// A worker that never attached cannot see the flag.
func TestWhoNeverAttachedGetsSIGTERMAtOnce(t *testing.T) {
	t.Parallel()
	d := testregion.Launch(t, named+shell("w", `trap 'echo terminated; exit 0' TERM; echo armed; while :; do sleep 1000 & wait; done`, "stop_timeout = \"1h\""))
	d.WaitLog(`"@message":"armed"`)
	var s stopped
	d.JSON(&s, "stop", "w.0")
	if len(s.Workers) != 1 || s.Workers[0].How != "term" || s.Workers[0].AckNs != 0 {
		t.Errorf("%+v", s)
	}
	d.WaitLog(`"@message":"terminated"`)
	d.WaitLog("worker gets SIGTERM", "it is not attached, so it cannot see the quit flag")
}

// What was stopped stays stopped, whatever happens to others, and is never killed by the old flag once it is started again.
func TestStopAndStart(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w")+idle("other", "backoff_min = \"1ms\""))
	shmctl(t, d, "stop", "w.0")
	for range 3 { // events of all kinds
		other := awaitState(d, "other.0", protocol.StateReady)
		syscall.Kill(other.Pid, syscall.SIGKILL)
		await(d, "other.0", func(w protocol.Worker) bool { return w.State == protocol.StateReady && w.Restarts > other.Restarts })
		shmctl(t, d, "restart", "other")
	}
	if w := awaitState(d, "w.0", protocol.StateExited); w.Reason != "stopped" || w.Restarts != 0 {
		t.Errorf("%+v", w)
	}
	if _, errs, code := d.Shmctl("stop", "w.0"); code != 3 {
		t.Errorf("stop of what is stopped: exit code %d, %s", code, errs)
	}
	const rounds, byHand = 100, 10
	c := operator(t, d)
	for i := range rounds {
		if i >= byHand { // as shmctl does it
			c.Start([]int{0}, []int{0})
			w := awaitState(d, "w.0", protocol.StateReady)
			c.Stop([]int{0}, [][]int{nil, {0}}[i%2], false)
			if ended := awaitState(d, "w.0", protocol.StateExited); ended.Reason != "stopped" || ended.ExitCode != 0 || ended.ExitSignal != 0 {
				t.Fatalf("round %d: %+v, then %+v", i, w, ended)
			}
			continue
		}
		name := []string{"w.0", "w"}[i%2] // the instance's flag, and the group's
		shmctl(t, d, "start", "w.0")
		var s stopped
		d.JSON(&s, "stop", name)
		if len(s.Workers) != 1 || s.Workers[0].How != "flag" {
			t.Fatalf("round %d: %+v", i, s)
		}
	}
	shmctl(t, d, "start", "w")
	shmctl(t, d, "stop")
	d.WaitLog("region stopped")
	if n := len(records(t, d, func(r record) bool { return r.Worker == "w.0" && r.Message == "worker started" })); n != 1+rounds+1 {
		t.Errorf("%d starts, want %d: some died of an old flag", n, 1+rounds+1)
	}
}

// operator is a process's hold on the command segment, as shmctl has it.
func operator(t *testing.T, d *testregion.Region) *protocol.Command {
	t.Helper()
	c, err := attach.DialWait(within(t), d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	got, err := c.Attach(within(t), attach.Request{Role: attach.RoleOperate})
	if err != nil {
		t.Fatal(err)
	}
	s, err := region.Open(got.Files["command"], region.OpenOptions{Write: true, MinSize: protocol.SizeofSegmentHeader})
	delete(got.Files, "command")
	got.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	command, err := protocol.OpenCommand(s.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return command
}

// Stops and starts that overtake each other, the daemon, and the worker: the last word holds.
func TestStopsAndStartsThatRace(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w", "count = 2", "crash_limit = 1", "restart = \"on-failure\""))
	c := operator(t, d)
	for i := range 300 {
		c.Stop([]int{0}, nil, false)
		if i%3 != 0 {
			c.Start([]int{0}, nil) // by a client that knows no restart count
		}
		if i%10 == 0 { // let it settle
			want := protocol.StateReady
			if i%3 == 0 {
				want = protocol.StateExited
			}
			w := awaitState(d, "w.0", want)
			if want == protocol.StateExited && w.Reason != "stopped" {
				t.Fatalf("round %d: %+v", i, w)
			}
			if want == protocol.StateReady && protocol.Flagged(c.WorkerQuit(0)) { // then it is about to end, and comes again
				await(d, "w.0", func(w protocol.Worker) bool {
					return w.State == protocol.StateReady && !protocol.Flagged(c.WorkerQuit(0))
				})
			}
		}
	}
	c.Start([]int{0}, []int{0})
	w := await(d, "w.0", func(w protocol.Worker) bool {
		return w.State == protocol.StateReady && !protocol.Flagged(c.WorkerQuit(0))
	})
	if !watch(t, w.Pid).alive() {
		t.Errorf("%+v is dead", w)
	}
	if w := awaitState(d, "w.1", protocol.StateReady); w.Restarts != 0 {
		t.Errorf("its neighbour: %+v", w)
	}
}

// pidIn waits for a line "WHAT PID" of a worker and returns the pid.
func pidIn(t *testing.T, d *testregion.Region, what string) int {
	t.Helper()
	_, rest, _ := strings.Cut(d.WaitLog(`"@message":"`+what+" "), `"@message":"`+what+" ")
	pid, err := strconv.Atoi(rest[:strings.IndexByte(rest, '"')])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// The children of a worker do not outlive it.
func TestProcessGroupEndsWithItsWorker(t *testing.T) {
	t.Parallel()
	d := testregion.Launch(t, named+shell("killed", `sleep 1000 & echo "child $!"; wait`, "crash_limit = 0", "backoff_min = \"1h\"", "backoff_max = \"1h\"")+
		shell("clean", `sleep 1000 & echo "other $!"; exit 0`, "restart = \"never\""))
	child, other := pidIn(t, d, "child"), pidIn(t, d, "other")
	p := watch(t, child)
	w := awaitState(d, "killed.0", protocol.StateReady)
	syscall.Kill(w.Pid, syscall.SIGKILL)
	p.ended(t)
	awaitState(d, "clean.0", protocol.StateExited)
	eventually(t, "the child of a worker that ended in order ends", func() bool { return syscall.Kill(other, 0) == syscall.ESRCH })
}

// Orphans become the daemon's children: it reaps them, and at its end kills those that are left.
func TestOrphans(t *testing.T) {
	t.Parallel()
	d := testregion.Launch(t, named+idle("idle", "count = 3")+
		shell("w", `for i in 1 2 3 4 5 6 7 8; do (setsid sh -c 'read x < FIFO' &) ; done; (setsid sh -c 'echo "left $$"; exec sleep 1000' &)
			(setsid env -i /bin/sh -c 'echo "nameless $$"; exec sleep 1000' &); exec sleep 1000`))
	left, nameless := watch(t, pidIn(t, d, "left")), watch(t, pidIn(t, d, "nameless")) // which holds memory of the region, though its environment tells nothing
	daemon := d.Cmd.Process.Pid
	// The eight fail to open FIFO and end at once; the three workers, the one that runs sleep, and what is left stays.
	eventually(t, "only workers, two orphans and the guard are children of the daemon", func() bool { return len(children(daemon)) == 7 })
	w := awaitState(d, "w.0", protocol.StateReady)
	syscall.Kill(w.Pid, syscall.SIGKILL)
	await(d, "w.0", func(w protocol.Worker) bool { return w.State == protocol.StateReady && w.Restarts == 1 })
	if !left.alive() {
		t.Error("the orphan has a session of its own, and died with its worker")
	}
	d.Stop()
	left.ended(t)
	nameless.ended(t)
	d.WaitLog("a process that a worker left behind is killed")
	d.WaitLog("region stopped")
}

// What a worker of an earlier daemon left behind is no child of the one that stops the region. It ends all the same, if it holds memory of the region and has the
// worker's environment, both.
func TestOrphansOfAnEarlierDaemon(t *testing.T) {
	t.Parallel()
	d := testregion.Launch(t, named+idle("idle")+
		shell("w", `(setsid sh -c 'echo "left $$"; exec sleep 1000' &) ; (setsid env -i /bin/sh -c 'echo "nameless $$"; exec sleep 1000' &)
			(setsid sh -c 'echo "empty $$"; for fd in /proc/$$/fd/*; do fd=${fd##*/}; test $fd -lt 3 || eval "exec $fd>&-"; done; echo "emptied $$"; exec sleep 1000' &) ; exec sleep 1000`))
	left, nameless, empty := watch(t, pidIn(t, d, "left")), watch(t, pidIn(t, d, "nameless")), watch(t, pidIn(t, d, "emptied"))
	d.Kill()
	d.Again()
	d.WaitLog("region adopted")
	shmctl(t, d, "stop")
	d.WaitLog("region stopped")
	d.WaitLog("a process that a worker left behind is killed", fmt.Sprintf(`"pid":%d,"worker":"w.0"`, left.pid))
	left.ended(t)
	for what, p := range map[string]process{"has no environment": nameless, "holds nothing": empty} {
		if !p.alive() {
			t.Errorf("what %s may be anybody's, and was killed", what)
		}
		syscall.Kill(p.pid, syscall.SIGKILL)
		p.ended(t)
	}
}

// files are what is in the runtime directory, but for the configuration.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "shmd.toml" {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestSignalsStopInOrder(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		d := testregion.Start(t, named+idle("w", "count = 3")+shell("ext", "exec sleep 1000"))
		var ps []process
		for _, w := range d.WaitReady() {
			ps = append(ps, watch(t, w.Pid))
		}
		d.Cmd.Process.Signal(syscall.SIGHUP) // no reason to stop
		d.WaitLog("the configuration has not changed")
		d.Cmd.Process.Signal(sig)
		d.WaitLog("region stops", sig.String())
		d.WaitLog("region stopped")
		if err := d.Cmd.Wait(); err != nil {
			t.Errorf("%v: the daemon ended with %v", sig, err)
		}
		for _, p := range ps {
			p.ended(t)
		}
		if left := files(t, d.Dir); left != nil {
			t.Errorf("%v: the daemon left %v", sig, left)
		}
	}
}

// The first SIGTERM waits for workers, a later one kills them.
func TestSecondSignalKills(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+group(t, "deaf", "deaf", "count = 2", "stop_timeout = \"1h\""))
	d.Cmd.Process.Signal(syscall.SIGTERM)
	d.Cmd.Process.Signal(syscall.SIGTERM) // timeout(1) signals twice: this is still the first
	d.WaitLog("region stops")
	ps := d.WaitWorkers("stopping", func(ws []protocol.Worker) bool {
		return ws[0].State == protocol.StateStopping && ws[1].State == protocol.StateStopping
	})
	p := watch(t, ps[0].Pid)
	daemon := watch(t, d.Cmd.Process.Pid)
	eventually(t, "the daemon ends after another SIGTERM", func() bool {
		if d.Cmd.Process.Signal(syscall.SIGTERM); daemon.alive() {
			r, _ := sys.PollReadable([]*os.File{daemon.pidfd}, 50*time.Millisecond)
			return r != nil && r[0]
		}
		return true
	})
	p.ended(t)
	d.WaitLog("worker gets SIGKILL", "the daemon was told twice to stop")
	d.Stop()
	if err := d.Cmd.Wait(); err == nil || d.Cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("exit code %d", d.Cmd.ProcessState.ExitCode())
	}
}

// shmctl stop ends a region whose daemon is stopped by a signal, and one whose daemon is dead.
func TestStopWithoutADaemon(t *testing.T) {
	t.Parallel()
	for name, state := range map[string]func(*testregion.Region){
		"stopped": func(d *testregion.Region) {
			d.Cmd.Process.Signal(syscall.SIGSTOP)
			eventually(t, "stopped", func() bool { s, _ := sys.ProcState(d.Cmd.Process.Pid); return s == 'T' })
		},
		"dead": func(d *testregion.Region) { d.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := testregion.Start(t, named+idle("w", "count = 3")+shell("ext", "exec sleep 1000", "stop_timeout = \"1h\""))
			var ps []process
			for _, w := range d.WaitReady() {
				ps = append(ps, watch(t, w.Pid))
			}
			daemon := watch(t, d.Cmd.Process.Pid)
			state(d)
			var s stopped
			d.JSON(&s, "stop")
			for _, w := range s.Workers {
				if want := map[bool]string{true: "term", false: "flag"}[w.Name == "ext.0"]; w.How != want {
					t.Errorf("%+v", w)
				}
			}
			if len(s.Workers) != 4 {
				t.Errorf("%+v", s)
			}
			for _, p := range append(ps, daemon) {
				p.ended(t)
			}
			if name == "stopped" {
				d.Cmd.Wait()
			}
			if left := files(t, d.Dir); left != nil {
				t.Errorf("there are still %v", left)
			}
			if _, _, code := d.Shmctl("status"); code != 4 {
				t.Errorf("status of no region: exit code %d", code)
			}
			if _, err := os.Stat(filepath.Join(d.Dir, d.Name+".lock")); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		})
	}
}

// A worker's stop in a region whose daemon is stopped is final too once the daemon goes on, and a start is carried out.
func TestCommandsReachADaemonThatSlept(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w", "count = 2"))
	shmctl(t, d, "stop", "w.1")
	d.Cmd.Process.Signal(syscall.SIGSTOP)
	eventually(t, "stopped", func() bool { s, _ := sys.ProcState(d.Cmd.Process.Pid); return s == 'T' })
	shmctl(t, d, "stop", "w.0")
	if _, errs, code := d.Shmctl("start", "w.1"); code != 0 || !strings.Contains(errs, "kill -CONT") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	d.Cmd.Process.Signal(syscall.SIGCONT)
	awaitState(d, "w.1", protocol.StateReady)
	if w := awaitState(d, "w.0", protocol.StateExited); w.Reason != "stopped" {
		t.Errorf("%+v", w)
	}
}

// Outsiders are told when the region stops; a stop does not wait for them.
func TestOutsidersAreToldOfTheEnd(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+idle("w"))
	r := d.Attach(shm.Options{Consume: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := q.Receive(context.Background())
		got <- err
	}()
	shmctl(t, d, "stop")
	if err := <-got; !errors.Is(err, shm.ErrQuit) {
		t.Error(err)
	}
	if err := d.Cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := shm.Attach(within(t), shm.Options{Region: d.Name, Socket: d.Socket}); !errors.Is(err, shm.ErrNoDaemon) {
		t.Error(fmt.Errorf("attach afterwards: %w", err))
	}
}
