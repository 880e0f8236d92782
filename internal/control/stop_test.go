package control

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

const long = time.Hour // a timeout that must not pass

func oneGroup(timeout time.Duration, workers ...string) plan {
	return plan{Groups: []planGroup{{"w", timeout, workers}}}
}

// hows are the workers of a report as "name how".
func hows(r Report) string {
	var out []string
	for _, w := range r.Workers {
		out = append(out, w.Name+" "+w.How)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// The daemon is dead: the flag alone ends the workers.
func TestStopByFlag(t *testing.T) {
	noLeak(t)
	r := start(t, oneGroup(long, "obey", "obey", "obey"))
	r.kill()
	l := r.find()
	if d := l.Daemon(); d.Alive || d.Pid != r.daemon.Process.Pid {
		t.Errorf("daemon: %+v", d)
	}
	rep, err := Stop(t.Context(), l.Set, StopOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := hows(rep); got != "w.0 flag, w.1 flag, w.2 flag" || len(rep.Warnings) > 0 || rep.Daemon != nil {
		t.Errorf("%s; %+v", got, rep)
	}
	for _, w := range rep.Workers {
		if w.Pid != r.pids[w.Name] || w.AckNs <= 0 || w.ExitNs < w.AckNs || w.ExitNs > int64(time.Minute) {
			t.Errorf("%+v", w)
		}
		if !r.ended(w.Name) {
			t.Errorf("%s lives", w.Name)
		}
	}
	if l.Command.RegionDesired() != protocol.DesiredStop || l.Command.WorkerDesired(1) != protocol.DesiredStop {
		t.Error("desired state is not stop")
	}

	// Again: there is nothing to stop, and that is no error for the region, but for a worker.
	rep, err = Stop(t.Context(), l.Set, StopOptions{})
	if err != nil || rep.Workers == nil || len(rep.Workers) != 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	if _, err = Stop(t.Context(), l.Set, StopOptions{Names: []string{"w.1"}}); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), `"w.1"`) {
		t.Error(err)
	}
}

// The daemon is stopped: its workers end, stay zombies until it reaps them, and it ends by SIGTERM at the end.
func TestStopUnderStoppedDaemon(t *testing.T) {
	noLeak(t)
	socket := filepath.Join(t.TempDir(), "x.sock")
	lock := filepath.Join(filepath.Dir(socket), "x.lock")
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := oneGroup(long, "obey", "deaf", "obey")
	p.Socket = socket
	r := start(t, p)
	r.freeze()
	l := r.find()
	if d := l.Daemon(); !d.Alive || !d.Stopped {
		t.Errorf("daemon: %+v", d)
	}
	rep, err := Stop(t.Context(), l.Set, StopOptions{DaemonGrace: 2 * time.Second, Socket: socket, Lock: lock})
	if err != nil {
		t.Fatal(err)
	}
	if got := hows(rep); got != "w.0 flag, w.1 term, w.2 flag" {
		t.Error(got)
	}
	if d := rep.Daemon; d == nil || d.How != HowTerm || d.Pid != r.daemon.Process.Pid || d.ExitNs <= 0 {
		t.Errorf("%+v", d)
	}
	if w := strings.Join(rep.Warnings, "\n"); !strings.Contains(w, "was stopped and got SIGTERM and SIGCONT after its last worker had ended") || !strings.Contains(w, socket+" was removed") {
		t.Error(w)
	}
	for _, path := range []string{socket, lock} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Workers that have ended already under a stopped daemon are zombies, which do not run.
func TestZombies(t *testing.T) {
	noLeak(t)
	r := start(t, oneGroup(long, "deaf", "obey"))
	r.freeze()
	if err := sys.PidfdSignal(r.pidfds["w.0"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := sys.PollReadable([]*os.File{r.pidfds["w.0"]}, -1); err != nil {
		t.Fatal(err)
	}
	l := r.find()
	if w, err := l.Roster.Worker(0); err != nil || w.Pid == 0 {
		t.Fatalf("the roster knows already: %+v, %v", w, err)
	} else if alive, _ := Alive(w.Pid, w.StartTicks); alive {
		t.Error("a zombie is alive")
	}
	if _, err := Stop(t.Context(), l.Set, StopOptions{Names: []string{"w.0"}}); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
	rep, err := Stop(t.Context(), l.Set, StopOptions{Names: []string{"w"}})
	if err != nil || hows(rep) != "w.1 flag" || rep.Daemon != nil {
		t.Errorf("%+v, %v", rep, err)
	}
	if r.ended("daemon") {
		t.Error("the daemon was killed by the stop of a group")
	}
}

// A daemon that answers ends by itself, and signals are its own.
func TestStopWithDaemon(t *testing.T) {
	noLeak(t)
	p := oneGroup(long, "obey", "obey")
	p.Obeys = true
	r := start(t, p)
	l := r.find()
	if !slices.Contains(l.Pids(), r.daemon.Process.Pid) || len(l.Pids()) != 3 {
		t.Errorf("holders %v", l.Pids())
	}
	rep, err := Stop(t.Context(), l.Set, StopOptions{DaemonAnswers: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := hows(rep); got != "w.0 flag, w.1 flag" || rep.Daemon == nil || rep.Daemon.How != HowExit || rep.Daemon.ExitNs <= 0 {
		t.Errorf("%s; %+v", got, rep.Daemon)
	}
	b, err := json.Marshal(rep)
	if err != nil || !strings.Contains(string(b), `{"workers":[{"name":"w.0","pid":`) || !strings.Contains(string(b), `"ack_ns":`) ||
		!strings.Contains(string(b), `"exit_ns":`) || !strings.Contains(string(b), `"how":"flag"`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestEscalation(t *testing.T) {
	noLeak(t)
	const quick, slow = 20 * time.Millisecond, time.Second // long enough for a busy machine to carry out a SIGTERM
	r := start(t, plan{Groups: []planGroup{
		{"kill", quick, []string{"stubborn", "deafmute"}},
		{"term", slow, []string{"term", "mapper"}},
		{"once", long, []string{"deaf"}}, // gets SIGTERM at once
	}})
	r.kill()
	l := r.find()
	rep, err := Stop(t.Context(), l.Set, StopOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hows(rep), "kill.0 kill, kill.1 kill, once.0 term, term.0 term, term.1 term"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	least := map[string]time.Duration{"kill.0": 2 * quick, "kill.1": quick, "term.0": slow, "term.1": slow}
	for _, w := range rep.Workers {
		if got := time.Duration(w.ExitNs); got < least[w.Name] || w.AckNs != 0 {
			t.Errorf("%s: ended after %v, acknowledged after %d ns", w.Name, got, w.AckNs)
		}
	}
	if len(rep.Warnings) > 0 {
		t.Error(rep.Warnings)
	}
}

func TestStopNames(t *testing.T) {
	noLeak(t)
	r := start(t, plan{Groups: []planGroup{
		{"a", long, []string{"deaf", "deaf", "deaf"}},
		{"b", long, []string{"deaf"}},
		{"c", long, []string{"", "backoff"}},
	}})
	r.kill()
	l := r.find()
	for _, c := range []struct {
		names string
		hows  string
		is    error
	}{
		{"a.1", "a.1 term", nil},
		{"a.1", "", ErrNotRunning},
		{"b a.0 b.0", "a.0 term, b.0 term", nil},
		{"a", "a.2 term", nil},
		{"a", "", ErrNotRunning},
		{"c.0", "", ErrNotRunning},
		{"c.1", "", nil}, // was about to be started again
		{"c", "", nil},
		{"d", "", ErrNoSuchWorker},
	} {
		rep, err := Stop(t.Context(), l.Set, StopOptions{Names: strings.Fields(c.names)})
		if !errors.Is(err, c.is) || hows(rep) != c.hows {
			t.Errorf("stop %s: %s, %v", c.names, hows(rep), err)
		}
	}
	if l.Command.RegionDesired() != protocol.DesiredRun || l.Command.GroupDesired(1) != protocol.DesiredStop ||
		l.Command.WorkerDesired(4) != protocol.DesiredStop || l.Command.GroupDesired(0) != protocol.DesiredStop {
		t.Error("desired state is wrong")
	}
}

// A second stop of a worker that saw the first reports the times of the first.
func TestStopTwice(t *testing.T) {
	noLeak(t)
	r := start(t, oneGroup(time.Second, "term"))
	r.kill()
	l := r.find()
	// The page is mapped read-only here, and this worker sees no flag: play its part in a mapping of our own.
	b := writable(t, l.Segments["group/w"])
	g, err := protocol.OpenGroup(b)
	if err != nil {
		t.Fatal(err)
	}
	l.Command.Stop([]int{0}, nil, false)
	first := l.Command.WorkerFlaggedNs(0)
	g.Page(0).QuitSeenNs.Store(uint64(first + 5))
	rep, err := Stop(t.Context(), l.Set, StopOptions{Names: []string{"w.0"}})
	if err != nil || hows(rep) != "w.0 term" || rep.Workers[0].AckNs != 5 {
		t.Errorf("%+v, %v", rep, err)
	}
}

// What the daemon did is what it writes down of the end, which it may do later than the end is seen here, and whatever the time says.
func TestDaemonTellsWhatEndedIt(t *testing.T) {
	noLeak(t)
	for _, c := range []struct {
		how  string
		exit protocol.Worker
	}{
		{HowKill, protocol.Worker{ExitSignal: int(syscall.SIGKILL)}},
		{HowTerm, protocol.Worker{ExitSignal: int(syscall.SIGTERM)}},
		{HowFlag, protocol.Worker{ExitCode: protocol.ExitUnknown}}, // by the time
	} {
		r := start(t, oneGroup(long, "stubborn"))
		l := r.find()
		roster, err := protocol.OpenRoster(writable(t, l.Segments["roster"]))
		if err != nil {
			t.Fatal(err)
		}
		type result struct {
			report Report
			err    error
		}
		done := make(chan result)
		go func() {
			rep, err := Stop(t.Context(), l.Set, StopOptions{Names: []string{"w"}, DaemonAnswers: true})
			done <- result{rep, err}
		}()
		for !protocol.Flagged(l.Command.WorkerQuit(0)) { // the worker is watched by then
			sys.FutexWait(l.Command.WorkerQuit(0), 0, -1)
		}
		if err := sys.PidfdSignal(r.pidfds["w.0"], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := sys.PollReadable([]*os.File{r.pidfds["w.0"]}, -1); err != nil {
			t.Fatal(err)
		}
		w, err := roster.Worker(0)
		if err != nil {
			t.Fatal(err)
		}
		w.Pid, w.StartTicks, w.ExitCode, w.ExitSignal = 0, 0, c.exit.ExitCode, c.exit.ExitSignal
		if err := roster.SetWorker(0, w); err != nil {
			t.Fatal(err)
		}
		if got := <-done; got.err != nil || hows(got.report) != "w.0 "+c.how {
			t.Errorf("%s, %v; want %s", hows(got.report), got.err, c.how)
		}
	}
}

// writable maps a segment for writing, which Find does not.
func writable(t *testing.T, s *region.Segment) []byte {
	t.Helper()
	f, err := os.OpenFile("/proc/self/fd/"+fdOf(t, s.File()), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := sys.Map(f, 0, int(s.Size()), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Unmap(b) })
	return b
}

func fdOf(t *testing.T, f *os.File) string {
	t.Helper()
	list, err := names("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	want, err := sys.Fstat(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		if st, err := sys.StatPath("/proc/self/fd/" + n); err == nil && st.Inode == want.Inode && st.Dev == want.Dev {
			return n
		}
	}
	t.Fatal("no descriptor")
	return ""
}

// Whoever holds nothing of the region is left alone, whatever the roster says.
func TestLeftAlone(t *testing.T) {
	noLeak(t)
	r := start(t, oneGroup(long, "closer", "obey"))
	r.kill()
	l := r.find()
	if slices.Contains(l.Pids(), r.pids["w.0"]) {
		t.Errorf("holders %v", l.Pids())
	}
	rep, err := Stop(t.Context(), l.Set, StopOptions{})
	if !errors.Is(err, ErrStillRunning) || !strings.Contains(err.Error(), "w.0 (pid ") || strings.Contains(err.Error(), "w.1") {
		t.Error(err)
	}
	if hows(rep) != "w.0 , w.1 flag" || !strings.Contains(strings.Join(rep.Warnings, ""), "holds no memory of the region") {
		t.Errorf("%+v", rep)
	}
	if r.ended("w.0") {
		t.Error("it was signalled")
	}
}

// A pid that has come to mean another process is no worker.
func TestPidReuse(t *testing.T) {
	noLeak(t)
	p := oneGroup(long, "deaf", "obey")
	p.Ticks = "w.0"
	r := start(t, p)
	r.kill()
	l := r.find()
	_, err := Stop(t.Context(), l.Set, StopOptions{Names: []string{"w.0"}})
	if !errors.Is(err, ErrNotRunning) || r.ended("w.0") {
		t.Error(err)
	}
}

// A worker that was started and not written down yet when the daemon died is ended with the region.
func TestStrays(t *testing.T) {
	for _, mode := range []string{"deaf", "obey"} {
		t.Run(mode, func(t *testing.T) {
			noLeak(t)
			p := oneGroup(long, "obey", mode)
			p.Hide = "w.1"
			r := start(t, p)
			r.kill()
			l := r.find()
			if _, err := Resolve(l.Roster, []string{"w.1"}); !errors.Is(err, ErrNoSuchWorker) {
				t.Fatal(err)
			}
			rep, err := StopLeftovers(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			if !r.ended("w.1") {
				t.Error("it lives")
			}
			if got := hows(rep); mode == "deaf" && got != "w.0 flag, w.1 term" || !strings.HasPrefix(got, "w.0 flag") {
				t.Error(got)
			}
		})
	}
}

func TestStopLeftovers(t *testing.T) {
	noLeak(t)
	r := start(t, oneGroup(long, "obey", "deaf"))
	l := r.find()
	if _, err := StopLeftovers(t.Context(), l); !errors.Is(err, ErrDaemonAlive) {
		t.Fatal(err)
	}
	if l.Command.RegionDesired() != protocol.DesiredRun {
		t.Fatal("something was done")
	}
	r.kill()
	rep, err := StopLeftovers(t.Context(), l)
	if err != nil || hows(rep) != "w.0 flag, w.1 term" {
		t.Errorf("%+v, %v", rep, err)
	}
	if all, err := FindAll(r.region, testDir, uint32(os.Geteuid())); err != nil || len(all) > 0 {
		t.Errorf("%d, %v", len(all), err)
	}
}

func TestStopContext(t *testing.T) {
	noLeak(t)
	r := start(t, oneGroup(long, "stubborn", "obey"))
	r.kill()
	l := r.find()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		sys.PollReadable([]*os.File{r.pidfds["w.1"]}, -1)
		cancel()
	}()
	rep, err := Stop(ctx, l.Set, StopOptions{})
	<-done
	if !errors.Is(err, ErrStillRunning) || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "w.0 (pid ") {
		t.Error(err)
	}
	if hows(rep) != "w.0 , w.1 flag" || rep.Workers[0].ExitNs != 0 {
		t.Errorf("%+v", rep)
	}
}

// The daemon dies, or falls behind, while it is waited for: the escalation is taken over.
func TestTakeOver(t *testing.T) {
	defer func(d time.Duration) { daemonSlack = d }(daemonSlack)
	for _, c := range []struct {
		name  string
		slack time.Duration
		dies  bool
	}{{"dies", long, true}, {"behind", 20 * time.Millisecond, false}} {
		t.Run(c.name, func(t *testing.T) {
			noLeak(t)
			daemonSlack = c.slack
			r := start(t, oneGroup(20*time.Millisecond, "stubborn", "deafmute"))
			l := r.find()
			if c.dies {
				word := l.Command.WorkerQuit(0)
				done := make(chan struct{})
				go func() { // when the stop has begun
					defer close(done)
					for !protocol.Flagged(word) {
						sys.FutexWait(word, 0, -1)
					}
					r.daemon.Process.Kill()
				}()
				defer func() { <-done }()
			}
			rep, err := Stop(t.Context(), l.Set, StopOptions{Names: []string{"w"}, DaemonAnswers: true})
			if err != nil || hows(rep) != "w.0 kill, w.1 kill" {
				t.Errorf("%+v, %v", rep, err)
			}
		})
	}
}

// A daemon that hangs, without being stopped, is ended too; its live socket is nobody's to remove.
func TestHungDaemon(t *testing.T) {
	noLeak(t)
	socket := filepath.Join(t.TempDir(), "x.sock")
	other, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r := start(t, oneGroup(long, "obey"))
	l := r.find()
	rep, err := Stop(t.Context(), l.Set, StopOptions{DaemonGrace: 10 * time.Millisecond, Socket: socket})
	if err != nil || rep.Daemon.How != HowTerm || len(rep.Warnings) != 1 || !strings.Contains(rep.Warnings[0], "did not answer and got SIGTERM") {
		t.Errorf("%+v, %v", rep, err)
	}
	if _, err := os.Lstat(socket); err != nil {
		t.Error(err)
	}
}

// A daemon that hangs and does not hear SIGTERM is killed.
func TestDeafDaemon(t *testing.T) {
	noLeak(t)
	p := oneGroup(long, "obey")
	p.Deaf = true
	l := start(t, p).find()
	rep, err := Stop(t.Context(), l.Set, StopOptions{DaemonGrace: 10 * time.Millisecond})
	if err != nil || rep.Daemon.How != HowKill || !strings.Contains(strings.Join(rep.Warnings, "\n"), "did not end by SIGTERM and was killed") {
		t.Errorf("%+v, %v", rep, err)
	}
}

func TestRemoveFiles(t *testing.T) {
	noLeak(t)
	dir := t.TempDir()
	at := func(n string) string { return filepath.Join(dir, n) }
	dead, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: at("dead"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	listening, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: at("listening"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Close()
	for _, n := range []string{"file", "free", "locked"} {
		if err := os.WriteFile(at(n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(at("locked"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if ok, err := sys.Flock(f); !ok || err != nil {
		t.Fatal(err)
	}
	freeLock := func(path string) (bool, error) { return removeFreeLock(path, func(*os.File) {}) }
	for _, c := range []struct {
		fn      func(string) (bool, error)
		path    string
		removed bool
	}{
		{removeDeadSocket, "none", false},
		{removeDeadSocket, "file", false},
		{removeDeadSocket, "dead", true},
		{removeDeadSocket, "listening", false},
		{freeLock, "none", false},
		{freeLock, "locked", false},
		{freeLock, "free", true},
	} {
		removed, err := c.fn(at(c.path))
		if err != nil || removed != c.removed {
			t.Errorf("%s: %v, %v", c.path, removed, err)
		}
		if _, err := os.Lstat(at(c.path)); c.path != "none" && errors.Is(err, os.ErrNotExist) != c.removed {
			t.Errorf("%s: %v", c.path, err)
		}
	}
	// Who looks does not connect: that would have a socket unit start a daemon.
	f2, err := listening.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f2.Close()
	if ready, err := sys.PollReadable([]*os.File{f2}, 0); err != nil || ready[0] {
		t.Errorf("somebody has connected: %v, %v", ready, err)
	}
}
