package crashpoint

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shmd/shmd/pkg/protocol"
)

// What there is in C: clients/c/shmd.c, and the worker of examples/c over it, which attaches, says that it is ready, logs, counts, waits for its quit flag, and
// says that it saw it. A wrapper stops it for the tracer before its main begins.
const cWorker = `#include "clients/c/shmd.c"
#define main worker_main
#include "examples/c/worker.c"
#undef main
#include <signal.h>
int main(void) { raise(SIGTRAP); return worker_main(); }
`

// cRegion is the memory of a region with one group of workers in C, mapped here.
type cRegion struct {
	t        *testing.T
	exe      string
	instance int         // that is stepped
	files    [3]*os.File // roster, command, group
	mem      [3][]byte
	fresh    [3][]byte // as the daemon has made it
	null     *os.File
	cmd      *protocol.Command
	groups   *protocol.GroupSegment
}

// newCRegion compiles a program and makes a region with a group of it, whose segment has size bytes at least; the last instance is the program.
func newCRegion(t *testing.T, program string, group protocol.GroupConfig, size int64) *cRegion {
	r := &cRegion{t: t, exe: compileC(t, program), instance: group.Instances - 1}
	h := func(name string) protocol.Header {
		return protocol.Header{Name: name, Region: "crashpoint", Generation: 1, Created: time.Unix(1, 0)}
	}
	workers := group.Instances
	config := protocol.RosterConfig{Segments: 3, Groups: 1, Workers: workers, Attachments: 8, Dir: "/run/shmd"}
	for i, size := range []int64{protocol.RosterSize(config), protocol.CommandSize(1, workers), max(size, protocol.GroupSize(group))} {
		fd := must(unix.MemfdCreate("crashpoint", unix.MFD_CLOEXEC))
		f := os.NewFile(uintptr(fd), "crashpoint")
		t.Cleanup(func() { f.Close() })
		must(0, f.Truncate(size))
		b := must(unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
		t.Cleanup(func() { unix.Munmap(b) })
		r.files[i], r.mem[i] = f, b
	}
	roster := must(protocol.FormatRoster(r.mem[0], h("roster"), config))
	must(roster.AddGroup(protocol.Group{Name: "c", Count: workers}))
	for i := range workers {
		check(roster.SetWorker(i, protocol.Worker{Name: fmt.Sprintf("c.%d", i), Instance: i, State: protocol.StateStarting, Since: time.Unix(1, 0)}))
	}
	r.cmd = must(protocol.FormatCommand(r.mem[1], h("command"), 1, workers))
	r.groups = must(protocol.FormatGroup(r.mem[2], h("group"), group))
	for i := range r.mem {
		r.fresh[i] = bytes.Clone(r.mem[i])
	}
	r.null = must(os.OpenFile(os.DevNull, os.O_RDWR, 0))
	t.Cleanup(func() { r.null.Close() })
	return r
}

// compileC compiles a program that includes files of this repository.
func compileC(t *testing.T, program string) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "worker")
	source := exe + ".c"
	must(0, os.WriteFile(source, []byte(program), 0o600))
	root := filepath.Join(must(os.Getwd()), "../..")
	out, err := exec.Command("gcc", "-std=gnu11", "-O2", "-static", "-I", root, "-I", filepath.Join(root, "clients/c"), "-o", exe, source, "-lpthread").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return exe
}

// start puts the memory back to how it was and starts the worker, up to where it raises SIGTRAP. The goroutine must be locked to its thread.
func (r *cRegion) start(args ...string) *tracee {
	for i := range r.mem {
		copy(r.mem[i], r.fresh[i])
	}
	x := &tracee{t: r.t, procMem: -1, mem: make([]byte, controlSize)}
	var err error
	x.pid, err = syscall.ForkExec(r.exe, append([]string{r.exe}, args...), &syscall.ProcAttr{
		Env:   []string{"SHMD_FDS=roster,command,group", fmt.Sprintf("SHMD_WORKER=c.%d", r.instance)},
		Files: []uintptr{r.null.Fd(), r.null.Fd(), 2, r.files[0].Fd(), r.files[1].Fd(), r.files[2].Fd()},
		Sys:   &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	x.wait(x.pid) // its exec
	check(unix.PtraceSetOptions(x.pid, unix.PTRACE_O_EXITKILL|unix.PTRACE_O_TRACESYSGOOD))
	x.toTrap()
	return x
}

// toTrap lets the process run to its next raise.
func (x *tracee) toTrap() {
	check(unix.PtraceCont(x.pid, 0))
	x.wait(x.pid)
}

// cStep executes an instruction, and reports false when the process has ended.
func (x *tracee) cStep() bool {
	if err := unix.PtraceSingleStep(x.pid); err != nil {
		x.t.Fatal(err)
	}
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(x.pid, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			x.t.Fatal(err)
		}
		break
	}
	if ws.Exited() {
		if ws.ExitStatus() != 0 {
			x.t.Errorf("the worker ends with status %d", ws.ExitStatus())
		}
		x.pid = 0
	}
	return x.pid != 0
}

// look checks what the worker has written so far: before is what was there at the last look, of which nothing is taken back.
func (r *cRegion) look(pid int, before *[3]uint64) error {
	for _, b := range r.mem {
		if list := protocol.Verify(b, protocol.VerifyOptions{}); len(list) > 0 {
			return fmt.Errorf("verify: %v", list)
		}
	}
	page := r.groups.Page(r.instance)
	attached, ready, readyNs, seen := page.AttachedPid.Load(), uint64(page.Ready.Load()), page.ReadyNs.Load(), page.QuitSeenNs.Load()
	now := [3]uint64{uint64(attached), ready, seen}
	switch {
	case attached != 0 && attached != uint32(pid):
		return fmt.Errorf("attached is %d, by process %d", attached, pid)
	case ready != 0 && (attached == 0 || readyNs == 0), seen != 0 && ready == 0:
		return fmt.Errorf("attached %d, ready %d since %d, quit seen at %d", attached, ready, readyNs, seen)
	}
	for i, n := range now {
		if before[i] != 0 && n != before[i] {
			return fmt.Errorf("%d was written, and then %d", before, now)
		}
	}
	*before = now
	// What it logged and counted is whole, and stays.
	texts := ""
	for c := r.groups.Log(r.instance).Oldest(); ; {
		record, lost, ok, err := c.Next()
		if err != nil || lost != 0 {
			return fmt.Errorf("log: %d lost, %w", lost, err)
		}
		if !ok {
			break
		}
		texts += record.Text + " "
	}
	metrics := r.groups.Metrics(r.instance).Read()
	if !strings.HasPrefix("ready quits ", texts) || len(metrics) > 1 || len(metrics) == 1 && metrics[0].Name != "jobs" || ready == 0 && texts != "" {
		return fmt.Errorf("ready %d, logged %q, metrics %+v", ready, texts, metrics)
	}
	// Of the rest what the daemon does before it launches the next one leaves nothing, but for the bell.
	b := bytes.Clone(r.mem[2])
	g := must(protocol.OpenGroup(b))
	g.Reset(r.instance)
	g.Bell().Store(0)
	for _, p := range g.Parts(r.instance, r.instance+1)[1:] { // metrics and log
		copy(b[p.Offset:p.Offset+p.Size], r.fresh[2][p.Offset:])
	}
	if !bytes.Equal(b, r.fresh[2]) {
		return errors.New("the daemon's reset does not make the group segment what it was: it wrote where it has no business, or the reset forgets something")
	}
	return nil
}

var cGroup = protocol.GroupConfig{Instances: 2, Metrics: 4, LogSize: protocol.MinInstanceLog}

// TestCWorkerKill kills the worker in C at every instruction from the begin of its main to its end.
func TestCWorkerKill(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	r := newCRegion(t, cWorker, cGroup, 0)
	count := newTally(t)
	defer count.report("worker in C, kill")
	x := r.start()
	r.cmd.Flag(r.instance) // so that it does not sleep: see TestCWorkerQuit
	var last []byte
	var before [3]uint64
	var images []int
	pid := x.pid
	for i, more := 0, true; more; i++ {
		var err error
		if !bytes.Equal(last, r.mem[2]) {
			last = bytes.Clone(r.mem[2])
			err = r.look(pid, &before)
			images = append(images, i)
		}
		count.point(err, "worker in C killed at %d", i)
		more = x.cStep()
	}
	if n := r.groups.Log(r.instance).Head(); before[0] == 0 || before[1] == 0 || before[2] == 0 || n == 0 || len(r.groups.Metrics(r.instance).Read()) != 1 {
		t.Errorf("at its end attached, ready and quit seen are %d; it has logged %d bytes", before, n)
	}
	for _, i := range images { // and at each point at which something has changed it is really killed
		x := r.start()
		r.cmd.Flag(r.instance)
		for range i {
			x.cStep()
		}
		pid := x.pid
		x.killC()
		count.killed++
		count.point(r.look(pid, new([3]uint64)), "worker in C killed with SIGKILL at %d", i)
		count.points--
	}
}

func (x *tracee) killC() {
	unix.Kill(x.pid, unix.SIGKILL)
	reap(x.pid)
	x.pid = 0
}

// TestCWorkerQuit stops the worker in C at every instruction of its waiting, has an operator set its quit flag, as shmctl stop does, and lets it go on: it
// sees the flag and ends, also if it sleeps already.
func TestCWorkerQuit(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	r := newCRegion(t, `#include "clients/c/shmd.c"
#include <signal.h>
int main(void) {
    char why[200];
    struct shmd_worker *w = shmd_attach(why, sizeof why);
    shmd_ready(w);
    raise(SIGTRAP);
    return shmd_wait_quit(w, -1) != 1 || w->page->asleep != 0;
}
`, cGroup, 0)
	count := newTally(t)
	defer count.report("worker in C, told to quit")
	for i, asleep := 0, false; !asleep; i++ {
		x := r.start()
		for range i {
			if asleep = x.beforeSystemCall(); asleep {
				check(unix.PtraceCont(x.pid, 0))
				x.untilAsleep()
				break
			}
			x.cStep()
		}
		pid := x.pid
		r.cmd.Stop([]int{r.instance}, nil, false)
		if !asleep {
			check(unix.PtraceCont(x.pid, 0))
		}
		hung := time.AfterFunc(20*time.Second, func() { unix.Kill(pid, unix.SIGKILL) })
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		hung.Stop()
		page := r.groups.Page(r.instance)
		if err == nil && (!ws.Exited() || ws.ExitStatus() != 0 || page.QuitSeenNs.Load() == 0) {
			err = fmt.Errorf("it ended with %#x, and says that it saw the flag at %d ns", ws, page.QuitSeenNs.Load())
		}
		count.point(err, "worker in C told to quit at %d, asleep: %v", i, asleep)
		if i > 10_000 {
			t.Fatal("it never sleeps")
		}
	}
}

// general returns the general registers.
func (x *tracee) general() []byte {
	return must(regset(unix.PTRACE_GETREGSET, x.pid, registerSets()[0], x.registers[:]))
}

// beforeSystemCall reports whether the next instruction is a system call.
func (x *tracee) beforeSystemCall() bool {
	pc, call := get(x.general(), 16), []byte{0x0f, 0x05}
	if runtime.GOARCH != "amd64" {
		pc, call = get(x.general(), 32), []byte{0x01, 0x00, 0x00, 0xd4}
	}
	b := make([]byte, len(call))
	if _, err := unix.PtracePeekText(x.pid, uintptr(pc), b); err != nil {
		x.t.Fatal(err)
	}
	return bytes.Equal(b, call)
}

// untilAsleep waits until the process sleeps in a futex.
func (x *tracee) untilAsleep() {
	want := fmt.Sprintf("%d ", unix.SYS_FUTEX)
	for end := time.Now().Add(patience); ; runtime.Gosched() {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", x.pid)); err == nil && strings.HasPrefix(string(b), want) {
			return
		}
		if time.Now().After(end) {
			x.t.Fatal("the worker does not sleep in a futex")
		}
	}
}
