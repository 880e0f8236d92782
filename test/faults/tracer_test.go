package faults

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A fault is one system call that fails instead of being made.
type fault struct {
	Call  string
	Errno syscall.Errno
	N     int  // the N-th such call, from 1, of all processes together; 0: none, calls are only counted
	Stays bool // and every one after it
	Late  bool // only once the region runs: its stop
	Kill  bool // the program is killed instead, before its own N-th call of any kind; what it starts is not traced
}

// runtimes reports a fault of a call that Go's runtime makes for itself, and whose failure it does not survive.
func (f fault) runtimes() bool { return strings.Contains(f.Call, " of ") }

// numbers are the calls that the tests know by name.
var numbers = map[string]uint64{
	"mmap of the heap": syscall.SYS_MMAP, "clone3 of a thread": 435, "clone of a thread": syscall.SYS_CLONE, "futex": syscall.SYS_FUTEX, "futex_waitv": 449, "tgkill": syscall.SYS_TGKILL,
	"write": syscall.SYS_WRITE, "accept4": syscall.SYS_ACCEPT4, "bind": syscall.SYS_BIND, "chdir": syscall.SYS_CHDIR, "clone": syscall.SYS_CLONE, "close": syscall.SYS_CLOSE,
	"connect": syscall.SYS_CONNECT, "dup3": syscall.SYS_DUP3, "epoll_create1": syscall.SYS_EPOLL_CREATE1, "epoll_ctl": syscall.SYS_EPOLL_CTL,
	"eventfd2": syscall.SYS_EVENTFD2, "execve": syscall.SYS_EXECVE, "fallocate": syscall.SYS_FALLOCATE, "fchmod": syscall.SYS_FCHMOD,
	"fchmodat": syscall.SYS_FCHMODAT, "fcntl": syscall.SYS_FCNTL, "flock": syscall.SYS_FLOCK, "fstat": syscall.SYS_FSTAT,
	"ftruncate": syscall.SYS_FTRUNCATE, "getdents64": syscall.SYS_GETDENTS64, "getsockname": syscall.SYS_GETSOCKNAME,
	"getpeername": syscall.SYS_GETPEERNAME, "getsockopt": syscall.SYS_GETSOCKOPT, "ioctl": syscall.SYS_IOCTL, "kill": syscall.SYS_KILL,
	"listen": syscall.SYS_LISTEN, "lseek": syscall.SYS_LSEEK, "madvise": syscall.SYS_MADVISE, "mkdirat": syscall.SYS_MKDIRAT,
	"mmap": syscall.SYS_MMAP, "munmap": syscall.SYS_MUNMAP, "openat": syscall.SYS_OPENAT, "pidfd_open": 434, "pidfd_send_signal": 424, "pipe2": syscall.SYS_PIPE2,
	"ppoll": syscall.SYS_PPOLL, "prctl": syscall.SYS_PRCTL, "pread64": syscall.SYS_PREAD64, "prlimit64": syscall.SYS_PRLIMIT64,
	"pwrite64": syscall.SYS_PWRITE64, "read": syscall.SYS_READ, "readlinkat": syscall.SYS_READLINKAT, "recvfrom": syscall.SYS_RECVFROM,
	"recvmsg": syscall.SYS_RECVMSG, "sendmsg": syscall.SYS_SENDMSG, "sendto": syscall.SYS_SENDTO, "setpgid": syscall.SYS_SETPGID,
	"setsockopt": syscall.SYS_SETSOCKOPT, "socket": syscall.SYS_SOCKET, "uname": syscall.SYS_UNAME, "unlinkat": syscall.SYS_UNLINKAT,
	"tee": syscall.SYS_TEE, "wait4": syscall.SYS_WAIT4, "waitid": syscall.SYS_WAITID, "faccessat": syscall.SYS_FACCESSAT, "faccessat2": 439,
}

func init() { maps.Copy(numbers, numbersHere) }

// nameOf is the name of a call, or its number.
func nameOf(nr uint64) string {
	for name, n := range numbers {
		if n == nr && !strings.Contains(name, " of ") {
			return name
		}
	}
	return "#" + strconv.FormatUint(nr, 10)
}

// tracer runs a program, and all that it starts, as its debugger, counts system calls and makes one of them fail. It counts over all
// threads and processes, since a goroutine changes its thread at will. It belongs to one goroutine, which is locked to its thread.
type tracer struct {
	fault fault
	at    uint64 // number of the fault's call

	pid    int         // of the program
	early  atomic.Bool // calls are not counted yet
	calm   atomic.Bool // another goroutine sets it: from now on nothing fails
	count  int         // of the fault's call
	counts map[uint64]int
	first  bool   // it was one of its first, in the runtime's own start
	hit    string // the process in which the call failed, "" if none did

	skew   *atomic.Int64    // seconds that the wall clock of the programs is ahead, if not nil
	clocks map[int]uint64   // thread to where the clock is written that it reads
	skewed atomic.Int64     // how often that was
	seen   map[int]bool     // threads that have stopped once
	group  map[int]int      // thread to process
	poll   map[int][]uint64 // process to calls of the runtime's own that it has made
}

const (
	options = syscall.PTRACE_O_TRACESYSGOOD | syscall.PTRACE_O_TRACECLONE | syscall.PTRACE_O_TRACEFORK | syscall.PTRACE_O_TRACEVFORK | syscall.PTRACE_O_TRACEEXEC

	wnothread = 0x20000000 // __WNOTHREAD: children and tracees of this thread alone
)

func newTracer(f fault) *tracer {
	x := &tracer{fault: f, counts: map[uint64]int{}, seen: map[int]bool{}, group: map[int]int{}, poll: map[int][]uint64{}}
	if f.N > 0 && !f.Kill {
		nr, ok := numbers[f.Call]
		if !ok {
			panic("no number for " + f.Call)
		}
		x.at = nr
	}
	return x
}

// run starts a program and returns how it ended. What it started may live on, and is no longer traced once drain was called.
func (x *tracer) run(argv, env []string, files []*os.File, started func(pid int)) (syscall.WaitStatus, error) {
	attr := &syscall.ProcAttr{Env: env, Sys: &syscall.SysProcAttr{Ptrace: true}}
	for _, f := range files {
		attr.Files = append(attr.Files, f.Fd())
	}
	pid, err := syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return 0, err
	}
	started(pid)
	x.pid = pid
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, syscall.WALL, nil); err != nil { // its exec
		return ws, err
	}
	traced := options
	if x.fault.Kill { // what it starts lives on when it is dead, and nobody would let it go on
		traced &^= syscall.PTRACE_O_TRACEFORK | syscall.PTRACE_O_TRACEVFORK
	}
	if err := syscall.PtraceSetOptions(pid, traced); err != nil {
		return ws, err
	}
	if x.skew != nil {
		if err := hideVDSO(pid); err != nil {
			return ws, err
		}
	}
	x.seen[pid] = true
	x.resume(pid, 0)
	for {
		tid, err := syscall.Wait4(-1, &ws, syscall.WALL|wnothread, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return ws, fmt.Errorf("wait: %w", err)
		case !ws.Stopped():
			if tid == pid {
				return ws, nil
			}
			continue
		}
		sig := 0
		switch s := ws.StopSignal(); {
		case s == syscall.SIGTRAP|0x80:
			if err := x.call(tid); err != nil && !errors.Is(err, syscall.ESRCH) { // ESRCH: it was killed meanwhile
				return ws, fmt.Errorf("thread %d: %w", tid, err)
			}
		case s == syscall.SIGTRAP:
			if ws.TrapCause() == syscall.PTRACE_EVENT_EXEC {
				delete(x.poll, tid) // another program
				if x.skew != nil {
					if err := hideVDSO(tid); err != nil && !errors.Is(err, syscall.ESRCH) {
						return ws, err
					}
				}
			}
		case s == syscall.SIGSTOP && !x.seen[tid]: // new
		default:
			sig = int(s)
		}
		x.seen[tid] = true
		x.resume(tid, sig)
	}
}

func (x *tracer) resume(tid, sig int) {
	if x.calm.Load() || x.fault.N > 0 && x.hit != "" && !x.fault.Stays { // at full speed
		syscall.PtraceCont(tid, sig)
		return
	}
	syscall.PtraceSyscall(tid, sig)
}

// call is called at the entry and at the exit of every system call.
func (x *tracer) call(tid int) error {
	i, err := infoOf(tid)
	if x.skew != nil && err == nil {
		return x.clock(tid, i)
	}
	if x.fault.Kill {
		return x.death(tid, i, err)
	}
	if err != nil || i.Op != atEntry || x.calm.Load() || x.early.Load() || x.exempt(tid, i) {
		return err
	}
	x.counts[i.Nr]++
	if i.Nr != x.at || x.fault.N == 0 {
		return nil
	}
	if x.count++; x.count == x.fault.N || x.count > x.fault.N && x.fault.Stays {
		if x.hit == "" {
			x.hit, x.first = commandOf(x.process(tid)), x.count <= 20
		}
		return refuse(tid, x.fault.Errno)
	}
	return nil
}

// death kills the program at its N-th call, which is not made any more.
func (x *tracer) death(tid int, i syscallInfo, err error) error {
	if err != nil || i.Op != atEntry || x.calm.Load() || x.hit != "" || x.process(tid) != x.pid {
		return err
	}
	if x.count++; x.count != x.fault.N {
		return nil
	}
	x.hit = nameOf(i.Nr)
	return syscall.Kill(x.pid, syscall.SIGKILL)
}

// exempt are calls that are not of the series: those that Go's runtime makes for itself, and which it does not survive, have series of their own, or none.
func (x *tracer) exempt(tid int, i syscallInfo) bool {
	switch i.Nr {
	case syscall.SYS_MMAP: // the heap
		return i.Args[3]&syscall.MAP_ANONYMOUS != 0 != (x.fault.Call == "mmap of the heap")
	case syscall.SYS_CLONE: // threads
		return i.Args[0]&syscall.CLONE_THREAD != 0 != (x.fault.Call == "clone of a thread")
	case syscall.SYS_WRITE: // 8 bytes wake the network poller
		return i.Args[2] == 8
	case syscall.SYS_FUTEX: // a wake does not fail
		const wait, waitBitset, private = 0, 9, 128
		op := i.Args[1] & (private - 1)
		return op != wait && op != waitBitset
	case syscall.SYS_READ: // 8 bytes of the pipe on which os.StartProcess waits for the exec: if that fails it waits for the child's end
		return i.Args[2] == 8
	case syscall.SYS_FCNTL: // are 0, 1 and 2 open?
		return i.Args[0] <= 2 && i.Args[1] == syscall.F_GETFD
	case syscall.SYS_MADVISE: // DONTFORK, DONTDUMP, POPULATE_READ and POPULATE_WRITE are the segments'
		return !slices.Contains([]uint64{10, 16, 22, 23}, i.Args[2])
	case syscall.SYS_EPOLL_CREATE1, syscall.SYS_EVENTFD2, syscall.SYS_EPOLL_CTL: // the first of each: its network poller
		pid := x.process(tid)
		if !slices.Contains(x.poll[pid], i.Nr) {
			x.poll[pid] = append(x.poll[pid], i.Nr)
			return true
		}
	}
	return false
}

// process is the process of a thread.
func (x *tracer) process(tid int) int {
	pid, ok := x.group[tid]
	if !ok {
		pid = tid
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
		if _, rest, ok := bytes.Cut(status, []byte("\nTgid:")); ok {
			line, _, _ := bytes.Cut(rest, []byte("\n"))
			if n, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil {
				pid = n
			}
		}
		x.group[tid] = pid
	}
	return pid
}

// commandOf is the command line of a process.
func commandOf(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	s := strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
	if s == "" {
		s = "?"
	}
	return s
}

// pump lets the traced processes that are left go on until done is closed.
func (x *tracer) pump(done <-chan struct{}) {
	x.calm.Store(true)
	for tick := time.NewTicker(time.Millisecond); ; {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		for {
			var ws syscall.WaitStatus
			tid, err := syscall.Wait4(-1, &ws, syscall.WALL|wnothread|syscall.WNOHANG, nil)
			if err != nil || tid <= 0 {
				break
			}
			if ws.Stopped() {
				sig := int(ws.StopSignal())
				if sig&0x80 != 0 || sig == int(syscall.SIGTRAP) || sig == int(syscall.SIGSTOP) {
					sig = 0
				}
				syscall.PtraceCont(tid, sig)
			}
		}
	}
}

// drain collects what is left of the processes that were traced, which must have been killed.
func (x *tracer) drain() {
	for {
		if _, err := syscall.Wait4(-1, nil, syscall.WALL|wnothread, nil); err != nil && err != syscall.EINTR {
			return
		}
	}
}
