package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What C's futex probe does, in Go without shmd: how much of a wake-up is Go's own.

func init() {
	for _, how := range []string{"", "-nap"} {
		roles["futex"+how+"-trip-server"] = func(e *end) error { return futexServer(e, how != "") }
		roles["futex"+how+"-trip-client"] = func(e *end) error { return futexClient(e, how != "") }
	}
}

// futexLine is one direction: the number of the message, on which the other end sleeps, and its payload.
type futexLine struct {
	seq     atomic.Uint32
	_       [60]byte
	payload [4096]byte
}

type futexPair struct {
	request, reply futexLine
}

// futexes maps the file that both ends share.
func (e *end) futexes() (*futexPair, error) {
	if e.size > len(futexLine{}.payload) {
		return nil, fmt.Errorf("size is limited to %d", len(futexLine{}.payload))
	}
	f, err := os.OpenFile(filepath.Join(e.dir, e.id+".futex"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const size = int(unsafe.Sizeof(futexPair{}))
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*futexPair)(unsafe.Pointer(&b[0])), nil
}

// await sleeps until message n is there. A nap is a system call of which the scheduler is not told.
func (l *futexLine) await(n uint32, nap bool) {
	for l.seq.Load() != n {
		ts := unix.NsecToTimespec(int64(5 * time.Millisecond))
		if nap {
			unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&l.seq)), 0, uintptr(n-1), uintptr(unsafe.Pointer(&ts)), 0, 0)
		} else {
			unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&l.seq)), 0, uintptr(n-1), 0, 0, 0)
		}
	}
}

func (l *futexLine) publish(n uint32) {
	l.seq.Store(n)
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&l.seq)), 1, 1, 0, 0, 0)
}

func futexServer(e *end, nap bool) error {
	f, err := e.futexes()
	if err != nil {
		return err
	}
	e.ready()
	var before, after int64
	for i := range e.total() {
		if i == e.warm {
			before = sleeps()
		}
		f.request.await(uint32(i+1), nap)
		if i == e.total()-1 {
			after = sleeps()
		}
		copy(f.reply.payload[:e.size], f.request.payload[:e.size])
		f.reply.publish(uint32(i + 1))
	}
	report(result{"sleeps_server": float64(after-before) / float64(e.count)})
	return nil
}

func futexClient(e *end, nap bool) error {
	f, err := e.futexes()
	if err != nil {
		return err
	}
	src, t := newSource(e.size), e.trips()
	for i := range e.total() {
		t.begin()
		copy(f.request.payload[:e.size], src.message(i))
		f.request.publish(uint32(i + 1))
		f.reply.await(uint32(i+1), nap)
		got := sum(f.reply.payload[:e.size])
		t.end()
		if got != src.sum(i) {
			return errSum(got, src.sum(i))
		}
	}
	report(t.result())
	return nil
}

// sleeps returns how often a thread of this process has gone to sleep in the kernel. It is called within what is measured: an ordinary system call wakes the
// scheduler's monitor thread, which would count.
func sleeps() int64 {
	var u unix.Rusage
	if _, _, e := unix.RawSyscall(unix.SYS_GETRUSAGE, unix.RUSAGE_SELF, uintptr(unsafe.Pointer(&u)), 0); e != 0 {
		return 0
	}
	return int64(u.Nvcsw)
}

// rest sleeps as the C probes do between two messages that are paced. time.Sleep ends at the same instant for the thread that sleeps and for the scheduler's
// monitor, which on one CPU then take turns within what is measured.
func rest(d time.Duration) {
	if d > 0 {
		ts := unix.NsecToTimespec(int64(d))
		unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	}
}
