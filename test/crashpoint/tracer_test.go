// Package crashpoint stops a process at every instruction of every operation of a queue, and looks at what the others
// have then: the process is killed there and repaired, or parked there while its peers go on.
//
// The tracee is this test binary, executed again: it maps the same memfd and runs the code of pkg/protocol as it is,
// between two breakpoints; the test steps it by ptrace. A process leaves nothing behind but the shared memory, so a kill after
// i instructions is judged on a copy of that memory, and the same tracee steps on. At every 499th point
// (SHMD_TORTURE=1: every 7th) the tracee is really killed with SIGKILL and judged on the mapping itself, which shows that the copy is no excuse.
package crashpoint

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Attachment ids.
const (
	daemon  = 1
	victim  = 5 // the traced process
	second  = 6 // the other traced process of a pair
	peer    = 7 // alive; may hold a slot all the time
	sleeper = 8
	other   = 9 // alive; does the tests' own sends and receives
)

// torture reports whether everything is to be run.
func torture() bool {
	return (os.Getenv(tortured) != "" || os.Getenv(tortureMk) != "") && !quick()
}

// memfd returns memory that processes can share, mapped here.
func memfd(t testing.TB) (*os.File, []byte) {
	fd, err := unix.MemfdCreate("crashpoint", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "crashpoint")
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(sharedSize); err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(fd, 0, sharedSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return f, b[:memorySize]
}

// anonymous returns memory of the same shape that nobody shares.
func anonymous() []byte {
	b, err := unix.Mmap(-1, 0, sharedSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic(err)
	}
	return b[:memorySize]
}

// tracee is a traced process. All its methods are for the goroutine that started it, which is locked to its thread.
type tracee struct {
	t    testing.TB
	f    *os.File
	mem  []byte
	root int // the process that forks tracees
	pid  int

	procMem int    // /proc/PID/mem
	top     uint64 // of the part of the stack that an operation may use

	registers [512]byte
	code      map[uint64]int // whose it is, by program counter: see inRuntime
	inside    bool           // it is in Go's runtime
}

func newTracee(t testing.TB, f *os.File, mem []byte) *tracee {
	runtime.LockOSThread()
	// Both on one processor: a step is two switches and no interrupt between processors.
	var all unix.CPUSet
	unix.SchedGetaffinity(0, &all)
	leave := onOne(&all)
	x := &tracee{t: t, f: f, mem: mem, code: map[uint64]int{}}
	t.Cleanup(func() {
		x.kill()
		if x.root != 0 {
			unix.Kill(x.root, unix.SIGKILL)
			reap(x.root)
		}
		unix.SchedSetaffinity(0, &all)
		leave()
		runtime.UnlockOSThread()
	})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), roleEnv+"=tracee", "GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	x.root, err = syscall.ForkExec(exe, []string{exe}, &syscall.ProcAttr{
		Env: env, Files: []uintptr{0, 1, 2, f.Fd()},
		Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		t.Fatalf("start of the tracee: %v", err)
	}
	x.wait(x.root) // its exec
	if err := unix.PtraceSetOptions(x.root, unix.PTRACE_O_EXITKILL|unix.PTRACE_O_TRACEFORK); err != nil {
		t.Fatal(err)
	}
	x.run(x.root)
	x.start()
	return x
}

// users counts, by processor, the tests that step there; those that are parallel do not share one if there is another.
var users struct {
	sync.Mutex
	of [1024]int
}

// onOne moves this thread to the processor of all that the fewest tests use, the last one of these.
func onOne(all *unix.CPUSet) (leave func()) {
	users.Lock()
	defer users.Unlock()
	best := -1
	for i := range users.of {
		if all.IsSet(i) && (best < 0 || users.of[i] <= users.of[best]) {
			best = i
		}
	}
	users.of[best]++
	var one unix.CPUSet
	one.Set(best)
	unix.SchedSetaffinity(0, &one)
	return func() {
		users.Lock()
		users.of[best]--
		users.Unlock()
	}
}

// start makes a tracee and lets it run to where it waits for something to do.
func (x *tracee) start() {
	set(x.mem, wordOp, opFork)
	if err := unix.PtraceCont(x.root, 0); err != nil {
		x.t.Fatal(err)
	}
	x.wait(x.root) // its fork
	child, err := unix.PtraceGetEventMsg(x.root)
	if err != nil || child == 0 {
		x.t.Fatalf("fork of the tracee: %d, %v", child, err)
	}
	x.run(x.root)
	x.pid = int(child)
	x.wait(x.pid)
	if x.procMem, err = unix.Open(fmt.Sprintf("/proc/%d/mem", x.pid), unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		x.t.Fatal(err)
	}
	x.run(x.pid)
}

// wait waits until a traced process has stopped, and returns the signal.
func (x *tracee) wait(pid int) syscall.Signal {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || !ws.Stopped() {
			x.t.Fatalf("the tracee ended or hung: %v, status %#x", err, ws)
		}
		return ws.StopSignal()
	}
}

// patienceWithTracee is how long an operation may take that is not stepped. A tracee that is killed after it has hung.
const patienceWithTracee = time.Minute

// run lets a traced process run to its next breakpoint.
func (x *tracee) run(pid int) {
	hung := time.AfterFunc(patienceWithTracee, func() { unix.Kill(pid, unix.SIGKILL) })
	defer hung.Stop()
	for sig := 0; ; {
		if err := unix.PtraceCont(pid, sig); err != nil {
			x.t.Fatal(err)
		}
		s := x.wait(pid)
		if s == unix.SIGTRAP {
			if err := skipBreakpoint(pid); err != nil {
				x.t.Fatal(err)
			}
			return
		}
		if sig = int(s); s == unix.SIGSTOP {
			sig = 0
		}
	}
}

func (x *tracee) cont() { x.run(x.pid) }

// begin gives the tracee something to do and lets it run to where stepping begins.
func (x *tracee) begin(op uint64, owner uint16, value uint64) { x.beginFor(op, owner, value, 0) }

// beginFor is begin for an operation that needs a version, too.
func (x *tracee) beginFor(op uint64, owner uint16, value, version uint64) {
	clear(x.mem[:controlSize])
	set(x.mem, wordFor, version)
	set(x.mem, wordOp, op)
	set(x.mem, wordOwner, uint64(owner))
	set(x.mem, wordValue, value)
	set(x.mem, wordDead, victim)
	x.inside = false
	x.cont()
	x.top = x.stackPointer() + 256
	for get(x.mem, wordBegun) == 0 {
		x.one()
	}
}

// one executes one instruction.
func (x *tracee) one() {
	if err := unix.PtraceSingleStep(x.pid); err != nil {
		x.t.Fatal(err)
	}
	x.wait(x.pid) // a signal for the process is dropped: nobody sends it one that matters
}

// step executes one instruction, and reports false if the operation is over.
func (x *tracee) step() bool {
	x.one()
	for get(x.mem, wordLane)|get(x.mem, wordNoRuntime) != 0 && x.inRuntime() {
		x.one()
	}
	return get(x.mem, wordDone) == 0
}

// everyPoint has the operation at every instruction, one after the other: at each it calls visit, which may spoil the memory and let the
// operation run to its end, and then puts everything back and goes on from there.
func (x *tracee) everyPoint(visit func(i int)) {
	var z frozen
	for i := 0; ; i++ {
		x.freeze(&z)
		visit(i)
		if get(x.mem, wordDone) != 0 {
			x.thaw(&z)
		} else {
			copy(x.mem, z.mem)
		}
		if !x.step() {
			x.finish()
			return
		}
	}
}

// steps executes n instructions or what is left of the operation, and reports whether the operation is under way.
func (x *tracee) steps(n int) bool {
	for range n {
		if !x.step() {
			return false
		}
	}
	return true
}

// finish lets the operation run to its end.
func (x *tracee) finish() (result, value uint64) {
	x.cont()
	if get(x.mem, wordDone) == 0 {
		x.t.Fatal("the tracee stopped in the middle of an operation")
	}
	return get(x.mem, wordResult), get(x.mem, wordValue)
}

// kill ends the process with SIGKILL and waits for its end.
func (x *tracee) kill() {
	if x.pid == 0 {
		return
	}
	unix.Kill(x.pid, unix.SIGKILL)
	reap(x.pid)
	x.pid = 0
	unix.Close(x.procMem)
}

// reap waits until a traced process has ended.
func reap(pid int) {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		if err == unix.EINTR || err == nil && ws.Stopped() {
			continue
		}
		return
	}
}

// tally counts the points of a test, and reports its failures, the first few in full.
type tally struct {
	t              testing.TB
	points, killed int
	failed         int
	begin          time.Time
}

func newTally(t testing.TB) *tally { return &tally{t: t, begin: time.Now()} }

func (c *tally) point(err error, format string, args ...any) {
	c.points++
	if err == nil {
		return
	}
	if c.failed++; c.failed <= 5 {
		c.t.Errorf("%s: %v", fmt.Sprintf(format, args...), err)
	}
	if quick() {
		c.t.FailNow()
	}
}

func (c *tally) report(what string) {
	d := time.Since(c.begin)
	c.t.Logf("%s: %d points, %d failed; %d of the points by SIGKILL; %.1f s", what, c.points, c.failed, c.killed, d.Seconds())
}
