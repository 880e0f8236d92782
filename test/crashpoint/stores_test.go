package crashpoint

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A daemon has many threads and lives among processes, so it cannot be stepped as a tracee is. What a kill at an instruction can leave behind differs only from one
// store into shared memory to the next, so it is stopped before each of these: it gets the segments mapped read-only, every store of it is a SIGSEGV that the
// tracer sees and the daemon never does, and the tracer lets that one instruction go through. On arm64 this needs atomics that are one instruction (LSE).

// place is where a store goes to: a row of the roster, or another piece of a segment; or it is a kind of messages to systemd.
type place struct {
	what string
	row  int // of the worker table, -1: of something else
}

// point is a moment in the life of a daemon: before the n-th store to a place, or the n-th message of a kind, from 1. Another thread's stores to other places do not shift it.
type point struct {
	place
	n int
}

func (p point) String() string {
	if p.message() {
		return fmt.Sprintf("before %d. %s", p.n, p.what)
	}
	return fmt.Sprintf("before store %d to %s", p.n, p.what)
}

// watched is a segment in the daemon's memory.
type watched struct {
	name      string
	base, end uint64
}

// storeTracer runs a daemon and stops it before its stores. It belongs to one goroutine, which is locked to its thread.
type storeTracer struct {
	segments string                                   // begin of the names of the memfds that are watched
	place    func(segment string, offset int64) place // of an address
	visit    func(p point)                            // before each store
	at       point                                    // where it is killed
	phase    func() string                            // behind the names of places from now on; nil: nothing
	notify   string                                   // path of the socket at which systemd listens; "": none
	park     point                                    // the message that is not sent, and no later one
	files    []*os.File                               // descriptors from 3 on

	pid    int
	hit    bool    // it was killed there
	points []point // as they came
	counts map[place]int
	maps   []watched
	made   map[int]watched // thread that is in a mmap of such a segment
	seen   map[int]bool    // threads that have stopped once
	insn   uint64          // where an instruction is that makes a system call
}

// Indexes of registers: the number and the first three arguments of a system call, and the program counter.
func callRegisters() (nr int, args [3]int, pc int) {
	if runtime.GOARCH == "amd64" {
		return 10, [3]int{14, 13, 12}, 16
	}
	return 8, [3]int{0, 1, 2}, 32
}

// sizeofCall is the size of the instruction that makes a system call.
func sizeofCall() uint64 {
	if runtime.GOARCH == "amd64" {
		return 2
	}
	return 4
}

// run runs the daemon until it is killed: here, or by who has started it. started is told its pid.
func (x *storeTracer) run(argv, env []string, out *os.File, started func(pid int)) error {
	x.counts, x.made, x.seen = map[place]int{}, map[int]watched{}, map[int]bool{}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), out.Fd(), out.Fd()}
	for _, f := range x.files {
		files = append(files, f.Fd())
	}
	x.pid, err = syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Env: env, Files: files, Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return err
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(x.pid, &ws, unix.WALL, nil); err != nil { // its exec
		return err
	}
	if err := unix.PtraceSetOptions(x.pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
		return err
	}
	x.seen[x.pid] = true
	started(x.pid)
	unix.PtraceSyscall(x.pid, 0)
	for {
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case !ws.Stopped():
			if tid == x.pid {
				if ws.Exited() && ws.ExitStatus() == 0 {
					return errExit0
				}
				if !ws.Signaled() {
					return fmt.Errorf("the daemon ended with exit code %d", ws.ExitStatus())
				}
				return nil
			}
			continue
		}
		sig := 0
		switch s := ws.StopSignal(); {
		case s == unix.SIGTRAP|0x80:
			err = x.call(tid)
		case s == unix.SIGSEGV:
			var mine bool
			if mine, err = x.store(tid); !mine {
				sig = int(s)
			}
		case s == unix.SIGTRAP:
		case s == unix.SIGSTOP && !x.seen[tid]: // new
		default:
			sig = int(s)
		}
		if err != nil && err != errParked && !errors.Is(err, unix.ESRCH) { // ESRCH: it was killed meanwhile
			unix.Kill(x.pid, unix.SIGKILL)
			return fmt.Errorf("thread %d: %w", tid, err)
		}
		x.seen[tid] = true
		if err == errParked {
			continue
		}
		unix.PtraceSyscall(tid, sig)
	}
}

// call is called at the entry and at the exit of every system call: segments are mapped so that no store gets through.
func (x *storeTracer) call(tid int) error {
	i, err := callInfo(tid)
	if err != nil {
		return err
	}
	if i.Op != callEntry {
		if m, ok := x.made[tid]; ok {
			delete(x.made, tid)
			if base := i.Nr; int64(base) > 0 { // of an exit this is the result
				x.maps = append(x.maps, watched{m.name, base, base + m.end})
			}
		}
		return nil
	}
	x.insn = i.IP - sizeofCall()
	switch i.Nr {
	case unix.SYS_MMAP:
		if i.Args[2]&unix.PROT_WRITE == 0 || i.Args[3]&unix.MAP_SHARED == 0 {
			return nil
		}
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", x.pid, int32(i.Args[4])))
		name, ok := strings.CutPrefix(to, "/memfd:"+x.segments)
		name = strings.TrimSuffix(name, " (deleted)")
		if !ok || name == "log" { // what the daemon says has a test of its own
			return nil
		}
		x.made[tid] = watched{name: name, end: i.Args[1]}
		return x.setArgument(tid, 2, unix.PROT_READ)
	case unix.SYS_SENDMSG:
		if kind := x.message(i.Args[1]); kind != "" {
			p := x.next(place{kind, -1})
			switch p {
			case x.at:
				x.hit = true
				return unix.Kill(x.pid, unix.SIGKILL)
			case x.park:
				x.hit = true
				return errParked
			}
		}
	case unix.SYS_MUNMAP:
		x.maps = slices.DeleteFunc(x.maps, func(m watched) bool { return m.base == i.Args[0] })
	case unix.SYS_MADVISE:
		if i.Args[2] == unix.MADV_POPULATE_WRITE && x.segmentAt(i.Args[0]) != nil {
			return x.setArgument(tid, 2, unix.MADV_POPULATE_READ)
		}
	}
	return nil
}

// errExit0: the daemon has ended in order.
var errExit0 = errors.New("the daemon ended with exit code 0")

// errParked: a thread stays where it is.
var errParked = errors.New("parked")

// next counts a point.
func (x *storeTracer) next(at place) point {
	if x.phase != nil {
		at.what += x.phase()
	}
	x.counts[at]++
	p := point{at, x.counts[at]}
	x.points = append(x.points, p)
	x.visit(p)
	return p
}

// message is the kind of a message to systemd's fd store, and whose descriptor it is about; "" if it is something else.
func (x *storeTracer) message(header uint64) string {
	h := x.read(header, 32)
	if h == nil || x.notify == "" {
		return ""
	}
	to, iov := x.read(get(h, 0), get(h, 1)&0xffffffff), x.read(get(h, 2), 16)
	if len(to) < 2 || strings.TrimRight(string(to[2:]), "\x00") != x.notify || iov == nil {
		return ""
	}
	return kindOfMessage(string(x.read(get(iov, 0), get(iov, 1))))
}

// read reads the daemon's memory; nil if that cannot be.
func (x *storeTracer) read(address, size uint64) []byte {
	b := make([]byte, size)
	if size == 0 {
		return nil
	}
	n, err := unix.ProcessVMReadv(x.pid, []unix.Iovec{{Base: &b[0], Len: size}}, []unix.RemoteIovec{{Base: uintptr(address), Len: int(size)}}, 0)
	if err != nil || uint64(n) != size {
		return nil
	}
	return b
}

func (x *storeTracer) segmentAt(address uint64) *watched {
	for i := range x.maps {
		if m := &x.maps[i]; m.base <= address && address < m.end {
			return m
		}
	}
	return nil
}

func (x *storeTracer) registers(tid int) ([]byte, error) {
	return regset(unix.PTRACE_GETREGSET, tid, registerSets()[0], make([]byte, 512))
}

func (x *storeTracer) setRegisters(tid int, b []byte) error {
	_, err := regset(unix.PTRACE_SETREGSET, tid, registerSets()[0], b)
	return err
}

// setArgument changes an argument of the system call at whose entry the thread stands.
func (x *storeTracer) setArgument(tid, i int, v uint64) error {
	b, err := x.registers(tid)
	if err != nil {
		return err
	}
	_, args, _ := callRegisters()
	set(b, args[i], v)
	return x.setRegisters(tid, b)
}

// store is called when a thread got a SIGSEGV, and lets the store go through if it was one to a segment.
func (x *storeTracer) store(tid int) (mine bool, err error) {
	address, err := faultAddress(tid)
	if err != nil {
		return false, err
	}
	m := x.segmentAt(address)
	if m == nil {
		return false, nil
	}
	p := point{place: x.place(m.name, int64(address-m.base))}
	if p.what != "" {
		p = x.next(p.place)
	}
	if p == x.at && p.what != "" {
		x.hit = true
		return true, unix.Kill(x.pid, unix.SIGKILL)
	}
	const page = 1 << 16 // at least one of the processor's
	var pages []uint64
	var later []syscall.Signal
	for done := false; !done; {
		at := max(m.base, address&^(page-1))
		if slices.Contains(pages, at) {
			return true, fmt.Errorf("a store to %s at %#x does not go through", m.name, address-m.base)
		}
		pages = append(pages, at)
		if err := x.protect(tid, m, at, page, unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return true, err
		}
		for again := true; again; {
			s, err := x.one(tid)
			if err != nil {
				return true, err
			}
			again = false
			switch s {
			case unix.SIGTRAP:
				done = true
			case unix.SIGSEGV: // it crosses a boundary
				if address, err = faultAddress(tid); err != nil {
					return true, err
				}
			default: // of the runtime, say
				later = append(later, s)
				again = true
			}
		}
	}
	for _, at := range pages {
		if err := x.protect(tid, m, at, page, unix.PROT_READ); err != nil {
			return true, err
		}
	}
	for _, s := range later {
		unix.Tgkill(x.pid, tid, s)
	}
	return true, nil
}

// one executes one instruction and returns what the thread stopped with.
func (x *storeTracer) one(tid int) (syscall.Signal, error) {
	if err := unix.PtraceSingleStep(tid); err != nil {
		return 0, err
	}
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(tid, &ws, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case !ws.Stopped():
			return 0, unix.ESRCH
		}
		return ws.StopSignal(), nil
	}
}

// protect has a stopped thread call mprotect.
func (x *storeTracer) protect(tid int, m *watched, at, size, prot uint64) error {
	before, err := x.registers(tid)
	if err != nil {
		return err
	}
	b := slices.Clone(before)
	nr, args, pc := callRegisters()
	for i, v := range []uint64{at, min(size, m.end-at), prot} {
		set(b, args[i], v)
	}
	set(b, nr, unix.SYS_MPROTECT)
	set(b, pc, x.insn)
	if err := x.setRegisters(tid, b); err != nil {
		return err
	}
	var later []syscall.Signal
	for {
		s, err := x.one(tid)
		if err != nil {
			return err
		}
		if s == unix.SIGTRAP {
			break
		}
		later = append(later, s)
	}
	for _, s := range later {
		unix.Tgkill(x.pid, tid, s)
	}
	if b, err = x.registers(tid); err != nil {
		return err
	}
	result := get(b, map[string]int{"amd64": 10, "arm64": 0}[runtime.GOARCH])
	if err := x.setRegisters(tid, before); err != nil {
		return err
	}
	if result != 0 {
		return fmt.Errorf("mprotect: %w", syscall.Errno(-int64(result)))
	}
	return nil
}

// patienceWithDaemon is how long a daemon may take to do what it has to do.
const patienceWithDaemon = 60 * time.Second
