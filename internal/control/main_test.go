package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// The test binary runs itself again as the processes of a region: CONTROL_TEST says as what.
func TestMain(m *testing.M) {
	switch role := os.Getenv("CONTROL_TEST"); {
	case role == "":
		// Workers of a killed daemon become children of this process: their ends are the tests' to see.
		if err := sys.SetSubreaper(); err != nil {
			panic(err)
		}
		goleak.VerifyTestMain(m)
	case role == "daemon":
		fatal(fakeDaemon())
	case role == "find": // what another user gets
		l, err := Find(os.Getenv("SHMD_REGION"), testDir, 0)
		if l != nil {
			l.Close()
		}
		fmt.Println(errors.Is(err, ErrPermission), err)
	case strings.HasPrefix(role, "worker:"):
		fatal(fakeWorker(strings.TrimPrefix(role, "worker:")))
	}
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, os.Getenv("CONTROL_TEST"), os.Getenv("SHMD_WORKER"), err)
		os.Exit(1)
	}
	os.Exit(0)
}

// plan is the region that a fake daemon makes. Each group is a list of what its instances do, see fakeWorker.
type plan struct {
	Region  string
	Groups  []planGroup
	Obeys   bool   // the daemon ends when the region is asked to quit and its workers have
	Socket  string // it listens there
	Deaf    bool   // the daemon ignores SIGTERM
	Damage  string // what is wrong with the memory: "groups", "header", "directory"
	Unready bool   // the roster's header is not published
	Hide    string // a worker that the roster does not list
	Ticks   string // a worker whose start time in the roster is another process's
	Channel bool   // there is a segment that no worker holds
}

type planGroup struct {
	Name    string
	Timeout time.Duration
	Workers []string
}

// made is what the fake daemon reports when all its workers are as they should be.
type made struct {
	Pids map[string]int
}

// waitForever blocks in the futex, where signals do what they do.
func waitForever() {
	var word atomic.Uint32
	for {
		sys.FutexWait(&word, 0, -1)
	}
}

func fakeDaemon() error {
	var p plan
	if err := json.NewDecoder(os.Stdin).Decode(&p); err != nil {
		return err
	}
	if p.Deaf {
		signal.Ignore(syscall.SIGTERM)
	}
	boot, err := sys.BootID()
	if err != nil {
		return err
	}
	h := protocol.Header{Generation: uint64(time.Now().UnixNano()), BootID: boot, Region: p.Region, Created: time.Now()}
	segments := map[string]*region.Segment{}
	create := func(name string, size int64) ([]byte, protocol.Header, error) {
		s, err := region.Create(region.Options{Name: "shmd:" + p.Region + ":" + name, Size: size})
		if err != nil {
			return nil, h, err
		}
		segments[name] = s
		h := h
		h.Name = name
		return s.Bytes(), h, nil
	}
	config := protocol.RosterConfig{Segments: 16, Groups: len(p.Groups), Workers: 256, Attachments: 8, Dir: CanonicalDir(testDir)}
	b, hd, err := create("roster", protocol.RosterSize(config))
	if err != nil {
		return err
	}
	roster, err := protocol.FormatRoster(b, hd, config)
	if err != nil {
		return err
	}
	if b, hd, err = create("command", protocol.CommandSize(len(p.Groups), 256)); err != nil {
		return err
	}
	command, err := protocol.FormatCommand(b, hd, len(p.Groups), 256)
	if err != nil {
		return err
	}
	names := []string{"roster", "command"}
	for _, g := range p.Groups {
		name := "group/" + g.Name
		if b, hd, err = create(name, protocol.GroupSize(protocol.GroupConfig{Instances: len(g.Workers)})); err != nil {
			return err
		}
		if _, err := protocol.FormatGroup(b, hd, protocol.GroupConfig{Instances: len(g.Workers)}); err != nil {
			return err
		}
		names = append(names, name)
	}
	if p.Channel {
		o := protocol.QueueOptions{Slots: 8, SlotSize: 64}
		size, err := protocol.QueueSize(o)
		if err != nil {
			return err
		}
		if b, hd, err = create("jobs", size); err != nil {
			return err
		}
		if _, err := protocol.FormatQueue(b, hd, o); err != nil {
			return err
		}
		names = append(names, "jobs")
	}
	kinds := map[string]protocol.Kind{"roster": protocol.KindRoster, "command": protocol.KindCommand, "jobs": protocol.KindQueue}
	for _, name := range names {
		kind, ok := kinds[name]
		if !ok {
			kind = protocol.KindGroup
		}
		if err := roster.AddSegment(protocol.Segment{Name: name, Kind: kind, Size: segments[name].Size(), Inode: segments[name].Inode()}); err != nil {
			return err
		}
	}
	ticks, err := sys.StartTicks(os.Getpid())
	if err != nil {
		return err
	}
	roster.SetDaemon(protocol.DaemonInfo{Pid: os.Getpid(), StartTicks: ticks, State: protocol.DaemonStateRunning, Started: time.Now()})
	if p.Socket != "" {
		l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: p.Socket, Net: "unixpacket"})
		if err != nil {
			return err
		}
		defer l.Close()
	}

	out := made{Pids: map[string]int{}}
	var children []*exec.Cmd
	index := 0
	for gi, g := range p.Groups {
		if _, err := roster.AddGroup(protocol.Group{Name: g.Name, Count: len(g.Workers), StopTimeout: g.Timeout}); err != nil {
			return err
		}
		for i, mode := range g.Workers {
			w := protocol.Worker{Name: fmt.Sprintf("%s.%d", g.Name, i), Group: gi, Instance: i, State: protocol.StateExited, Since: time.Now()}
			if mode == "backoff" {
				w.State = protocol.StateBackoff
			}
			if mode != "" && mode != "backoff" {
				cmd, err := startWorker(w, i, mode, p.Region, segments)
				if err != nil {
					return err
				}
				children = append(children, cmd)
				w.Pid, w.State = cmd.Process.Pid, protocol.StateReady
				if w.StartTicks, err = sys.StartTicks(w.Pid); err != nil {
					return err
				}
				out.Pids[w.Name] = w.Pid
				if p.Ticks == w.Name {
					w.StartTicks--
				}
			}
			if p.Hide != w.Name {
				if err := roster.SetWorker(index, w); err != nil {
					return err
				}
				index++
			}
		}
	}
	switch p.Damage { // the offsets are those of docs/layout.md
	case "groups":
		putWord(segments["roster"], protocol.SizeofSegmentHeader+protocol.OffsetofRosterInfoGroupOffset, 1<<40)
	case "header":
		putWord(segments["roster"], 0, 0x1234)
	case "directory":
		putWord(segments["command"], protocol.OffsetofSegmentHeaderGeneration, 99)
	}
	if p.Unready {
		putWord(segments["roster"], 0, 0)
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return err
	}
	if !p.Obeys {
		waitForever()
	}
	for !protocol.Flagged(command.RegionQuit()) {
		sys.FutexWait(command.RegionQuit(), command.RegionQuit().Load(), -1)
	}
	for _, c := range children {
		c.Wait()
	}
	return nil
}

func putWord(s *region.Segment, offset int, v uint64) {
	for i := range 8 {
		s.Bytes()[offset+i] = byte(v >> (8 * i))
	}
}

// startWorker starts a worker and waits until it says that it is as it should be.
func startWorker(w protocol.Worker, instance int, mode, region string, segments map[string]*region.Segment) (*exec.Cmd, error) {
	r, wr, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	group, _, _ := strings.Cut(w.Name, ".")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CONTROL_TEST=worker:"+mode, "SHMD_WORKER="+w.Name, "SHMD_REGION="+region, fmt.Sprintf("INSTANCE=%d", instance))
	cmd.Stderr = os.Stderr
	var files []*os.File
	for _, name := range []string{"roster", "command"} {
		f, err := segments[name].ReadOnly()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		files = append(files, f)
	}
	cmd.ExtraFiles = append(files, segments["group/"+group].File(), wr)
	err = cmd.Start()
	wr.Close()
	if err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || line != "as it should be\n" {
		return nil, fmt.Errorf("worker %s says %q: %w", w.Name, line, err)
	}
	return cmd, nil
}

// fakeWorker is one worker:
//
//	obey      attaches, ends on the quit flag
//	term      attaches, ignores the flag, ends by SIGTERM
//	stubborn  attaches, ignores both
//	deaf      does not attach, ends by SIGTERM
//	deafmute  does not attach, ignores SIGTERM
//	mapper    attaches, closes its descriptors once it has mapped them, ignores the flag
//	closer    does not attach, closes its descriptors
func fakeWorker(mode string) error {
	for fd := 3; fd <= 6; fd++ {
		if err := sys.SetCloexec(fd); err != nil {
			return err
		}
	}
	said := os.NewFile(6, "status")
	switch mode {
	case "stubborn", "deafmute":
		signal.Ignore(syscall.SIGTERM)
	}
	ready := func() {
		fmt.Fprintln(said, "as it should be")
		said.Close()
	}
	switch mode {
	case "deaf", "deafmute":
		ready()
		waitForever()
	case "closer":
		for fd := 3; fd <= 5; fd++ {
			os.NewFile(uintptr(fd), "").Close()
		}
		ready()
		waitForever()
	}
	var command *protocol.Command
	var index int
	var page *protocol.InstancePage
	for fd, name := range map[int]string{3: "roster", 4: "command", 5: "group"} {
		f := os.NewFile(uintptr(fd), name)
		st, err := sys.Fstat(f)
		if err != nil {
			return err
		}
		b, err := sys.Map(f, 0, int(st.Size), fd == 5)
		if err != nil {
			return err
		}
		switch fd {
		case 4:
			if command, err = protocol.OpenCommand(b); err != nil {
				return err
			}
		case 5:
			g, err := protocol.OpenGroup(b)
			if err != nil {
				return err
			}
			var instance int
			fmt.Sscan(os.Getenv("INSTANCE"), &instance)
			page = g.Page(instance)
			index = instance // enough for one group; the region's flag ends the others
		}
		if mode == "mapper" {
			f.Close()
		} else {
			keep = append(keep, f)
		}
	}
	page.AttachedPid.Store(uint32(os.Getpid()))
	ready()
	if mode != "obey" {
		waitForever()
	}
	quit := func() bool {
		return protocol.Flagged(command.RegionQuit()) || protocol.Flagged(command.WorkerQuit(index))
	}
	for !quit() {
		sys.FutexWait(command.WorkerQuit(index), 0, -1)
	}
	page.QuitSeenNs.Store(uint64(sys.MonotonicNs()))
	return nil
}

var keep []*os.File // or the garbage collector closes them

// running is a region made of processes.
type running struct {
	t      *testing.T
	region string
	daemon *exec.Cmd
	pids   map[string]int
	pidfds map[string]*os.File // and of the daemon: "daemon"
}

var regions atomic.Int32

// start starts a fake daemon and its workers. Everything has ended when the test has.
func start(t *testing.T, p plan) *running {
	t.Helper()
	if p.Region == "" {
		p.Region = fmt.Sprintf("control-test-%d-%d", os.Getpid(), regions.Add(1))
	}
	in, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CONTROL_TEST=daemon", "GORACE=atexit_sleep_ms=0") // the race detector's own sleep at exit is not ours
	cmd.Stdin = strings.NewReader(string(in))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, region: p.Region, daemon: cmd, pidfds: map[string]*os.File{}}
	t.Cleanup(r.cleanup)
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var m made
	if err := json.Unmarshal(line, &m); err != nil {
		t.Fatal(err)
	}
	r.pids = m.Pids
	r.open("daemon", cmd.Process.Pid)
	for name, pid := range m.Pids {
		r.open(name, pid)
	}
	return r
}

func (r *running) open(name string, pid int) {
	r.t.Helper()
	f, err := sys.PidfdOpen(pid)
	if err != nil {
		r.t.Fatal(err)
	}
	r.pidfds[name] = f
}

func (r *running) cleanup() {
	for _, f := range r.pidfds {
		sys.PidfdSignal(f, syscall.SIGKILL)
	}
	for name, f := range r.pidfds {
		if ready, err := sys.PollReadable([]*os.File{f}, 10*time.Second); err != nil || !ready[0] {
			r.t.Errorf("%s does not end: %v", name, err)
		}
		f.Close()
	}
	r.daemon.Process.Kill()
	r.daemon.Wait()
	for _, pid := range r.pids {
		sys.Reap(pid) // if it became ours
	}
}

// kill kills the daemon, at once and for good.
func (r *running) kill() {
	r.t.Helper()
	r.daemon.Process.Kill()
	r.daemon.Wait()
}

// freeze stops the daemon with SIGSTOP.
func (r *running) freeze() {
	r.t.Helper()
	if err := r.daemon.Process.Signal(syscall.SIGSTOP); err != nil {
		r.t.Fatal(err)
	}
	var ws syscall.WaitStatus // comes when it has stopped
	if _, err := syscall.Wait4(r.daemon.Process.Pid, &ws, syscall.WUNTRACED, nil); err != nil || !ws.Stopped() {
		r.t.Fatal(err, ws)
	}
}

// ended reports whether a process of the region has ended.
func (r *running) ended(name string) bool {
	r.t.Helper()
	ended, err := sys.PidfdReadable(r.pidfds[name])
	if err != nil {
		r.t.Fatal(err)
	}
	return ended
}

// find takes the region from its processes.
func (r *running) find() *Living {
	r.t.Helper()
	l, err := Find(r.region, testDir, uint32(os.Geteuid()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	return l
}

// noLeak fails the test if more descriptors are open at its end than now. Call it first.
func noLeak(t *testing.T) {
	t.Helper()
	count := func() int {
		n, err := names("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(n)
	}
	r, w, err := sys.Pipe() // starts the poller, which has descriptors of its own
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	before := count()
	t.Cleanup(func() {
		if after := count(); after > before {
			t.Errorf("%d descriptors open before, %d after", before, after)
		}
	})
}

// copyOfSelf is the test binary where any user can run it.
func copyOfSelf(t *testing.T) string {
	t.Helper()
	src, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dir, err := os.MkdirTemp("", "control-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "self")
	dst, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// testDir is the runtime directory that all regions of these tests say they have.
const testDir = "/run/shmd-test"
