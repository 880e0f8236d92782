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

// The worker in C (examples/c), which is what there is in C so far: it attaches, says that it is ready, waits for its quit flag, and says that it saw it. A wrapper
// stops it for the tracer before its main begins.
const cWrapper = `#define main worker_main
#include "../../examples/c/worker.c"
#undef main
#include <signal.h>
int main(void) { raise(SIGTRAP); return worker_main(); }
`

// cRegion is the memory of a region with one group of two workers in C, mapped here.
type cRegion struct {
	t      *testing.T
	exe    string
	files  [3]*os.File // roster, command, group
	mem    [3][]byte
	fresh  [3][]byte // as the daemon has made it
	null   *os.File
	cmd    *protocol.Command
	groups *protocol.GroupSegment
}

const cInstance = 1 // that is stepped

func newCRegion(t *testing.T) *cRegion {
	r := &cRegion{t: t, exe: filepath.Join(t.TempDir(), "worker")}
	source := r.exe + ".c"
	must(0, os.WriteFile(source, []byte(cWrapper), 0o600))
	here := must(os.Getwd())
	out, err := exec.Command("gcc", "-std=gnu11", "-O2", "-static", "-I", here, "-I", filepath.Join(here, "../../clients/c"), "-o", r.exe, source).CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	h := func(name string) protocol.Header {
		return protocol.Header{Name: name, Region: "crashpoint", Generation: 1, Created: time.Unix(1, 0)}
	}
	config := protocol.RosterConfig{Segments: 3, Groups: 1, Workers: 2, Attachments: 8, Dir: "/run/shmd"}
	group := protocol.GroupConfig{Instances: 2}
	for i, size := range []int64{protocol.RosterSize(config), protocol.CommandSize(1, 2), protocol.GroupSize(group)} {
		fd := must(unix.MemfdCreate("crashpoint", unix.MFD_CLOEXEC))
		f := os.NewFile(uintptr(fd), "crashpoint")
		t.Cleanup(func() { f.Close() })
		must(0, f.Truncate(size))
		b := must(unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
		t.Cleanup(func() { unix.Munmap(b) })
		r.files[i], r.mem[i] = f, b
	}
	roster := must(protocol.FormatRoster(r.mem[0], h("roster"), config))
	must(roster.AddGroup(protocol.Group{Name: "c", Count: 2}))
	for i := range 2 {
		check(roster.SetWorker(i, protocol.Worker{Name: fmt.Sprintf("c.%d", i), Instance: i, State: protocol.StateStarting, Since: time.Unix(1, 0)}))
	}
	r.cmd = must(protocol.FormatCommand(r.mem[1], h("command"), 1, 2))
	r.groups = must(protocol.FormatGroup(r.mem[2], h("group"), group))
	for i := range r.mem {
		r.fresh[i] = bytes.Clone(r.mem[i])
	}
	r.null = must(os.OpenFile(os.DevNull, os.O_RDWR, 0))
	t.Cleanup(func() { r.null.Close() })
	return r
}

// start puts the memory back to how it was and starts the worker, up to its main. The goroutine must be locked to its thread.
func (r *cRegion) start() *tracee {
	for i := range r.mem {
		copy(r.mem[i], r.fresh[i])
	}
	x := &tracee{t: r.t, procMem: -1, mem: make([]byte, controlSize)}
	var err error
	x.pid, err = syscall.ForkExec(r.exe, []string{r.exe}, &syscall.ProcAttr{
		Env:   []string{"SHMD_FDS=roster,command,group", fmt.Sprintf("SHMD_WORKER=c.%d", cInstance)},
		Files: []uintptr{r.null.Fd(), r.null.Fd(), 2, r.files[0].Fd(), r.files[1].Fd(), r.files[2].Fd()},
		Sys:   &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	x.wait(x.pid) // its exec
	check(unix.PtraceSetOptions(x.pid, unix.PTRACE_O_EXITKILL|unix.PTRACE_O_TRACESYSGOOD))
	check(unix.PtraceCont(x.pid, 0))
	x.wait(x.pid) // at raise
	return x
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
	page := r.groups.Page(cInstance)
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
	// What the daemon does before it launches the next one leaves nothing of it, but for the bell.
	b := bytes.Clone(r.mem[2])
	g := must(protocol.OpenGroup(b))
	g.Reset(cInstance)
	g.Bell().Store(0)
	if !bytes.Equal(b, r.fresh[2]) {
		return errors.New("the daemon's reset does not make the group segment what it was: it wrote where it has no business, or the reset forgets something")
	}
	return nil
}

// TestCWorkerKill kills the worker in C at every instruction from the begin of its main to its end.
func TestCWorkerKill(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	r := newCRegion(t)
	count := newTally(t)
	defer count.report("worker in C, kill")
	x := r.start()
	r.cmd.Flag(cInstance) // so that it does not sleep: see TestCWorkerQuit
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
	if before[0] == 0 || before[1] == 0 || before[2] == 0 {
		t.Errorf("at its end attached, ready and quit seen are %d", before)
	}
	for _, i := range images { // and at each point at which something has changed it is really killed
		x := r.start()
		r.cmd.Flag(cInstance)
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
	r := newCRegion(t)
	count := newTally(t)
	defer count.report("worker in C, told to quit")
	for i, asleep := 0, false; !asleep; i++ {
		x := r.start()
		for n := 0; n < 2; { // to the end of the call that writes "is ready"
			check(unix.PtraceSyscall(x.pid, 0))
			x.wait(x.pid)
			if x.systemCall() == unix.SYS_WRITE {
				n++
			}
		}
		for range i {
			if asleep = x.beforeSystemCall(); asleep {
				check(unix.PtraceCont(x.pid, 0))
				x.untilAsleep()
				break
			}
			x.cStep()
		}
		pid := x.pid
		r.cmd.Stop([]int{cInstance}, nil, false)
		if !asleep {
			check(unix.PtraceCont(x.pid, 0))
		}
		hung := time.AfterFunc(20*time.Second, func() { unix.Kill(pid, unix.SIGKILL) })
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		hung.Stop()
		page := r.groups.Page(cInstance)
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

// systemCall is the number of the system call at whose begin or end the process stands.
func (x *tracee) systemCall() uint64 {
	if runtime.GOARCH == "amd64" {
		return get(x.general(), 15)
	}
	return get(x.general(), 8)
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
