package sys

import (
	"math"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Operations and flags of futex(2), from linux/futex.h. FUTEX_PRIVATE_FLAG is absent
// on purpose: with it a wake never reaches another process.
const (
	futexWait0      = 0 // FUTEX_WAIT, with a relative timeout
	futexWake       = 1
	futexWaitBitset = 9 // as FUTEX_WAIT, with an absolute CLOCK_MONOTONIC deadline
	futexMatchAny   = 0xffffffff
	futex2SizeU32   = 0x02
)

// MaxWaitv is the most words that one FutexWaitv takes.
const MaxWaitv = 128

// NoWaitvEnv names the environment variable that makes HaveFutexWaitv say no when it
// is "1": tests take the fallback with it.
const NoWaitvEnv = "SHMD_TEST_NO_WAITV"

// FutexWait sleeps as long as *addr == val and nobody wakes the word, at most timeout
// (negative: without end). nil: it was woken; look at the word again, and see below.
// ErrAgain: the word had another value. ErrTimedOut: the time is up.
//
// The word may lie in a read-only mapping. A wake-up that was counted for this
// sleeper (FutexWake with a small n) is always reported as nil, even if the time ran
// out at the same instant, so that it can be passed on. The call holds a thread: for
// many waiters use a Hub.
func FutexWait(addr *atomic.Uint32, val uint32, timeout time.Duration) error {
	// One absolute deadline, so that an interrupted wait goes on with what is left.
	ts := deadline(timeout)
	for {
		switch e := futexWait(addr, val, ts); e {
		case 0:
			return nil
		case unix.EAGAIN:
			return ErrAgain
		case unix.ETIMEDOUT:
			return ErrTimedOut
		case unix.EINTR:
		default:
			return fail("futex", e)
		}
	}
}

// futexWait is the bare call, which a signal may interrupt. It tells the scheduler that it
// blocks.
func futexWait(addr *atomic.Uint32, val uint32, ts *unix.Timespec) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_FUTEX,
		uintptr(unsafe.Pointer(addr)), futexWaitBitset, uintptr(val),
		uintptr(unsafe.Pointer(ts)), 0, futexMatchAny)
	return e
}

// FutexNap is FutexWait of which the scheduler is not told: for its time the goroutine keeps its processor (the P of GOMAXPROCS),
// on which nothing else of this process can run. What it saves is what the scheduler does about a thread that blocks: it takes the processor away, which
// its monitor thread must be woken for, and gives one back, for which it wakes the monitor again. Those are three more sleeps a message, and on a single
// CPU four fifths of the time of a wake-up.
//
// The runtime gets the thread back sooner if it needs it, to stop the world, say: its signal ends the nap. Nil stands for a wake as in FutexWait,
// ErrAgain for another value or an interruption, ErrTimedOut for the end of the time, which must be positive.
func FutexNap(addr *atomic.Uint32, val uint32, timeout time.Duration) error {
	ts := unix.NsecToTimespec(int64(timeout)) // relative: no clock to read
	// Of package syscall, here and in FutexWake: that of unix is two functions more on a path that is cold.
	_, _, e := syscall.RawSyscall6(unix.SYS_FUTEX,
		uintptr(unsafe.Pointer(addr)), futexWait0, uintptr(val), uintptr(unsafe.Pointer(&ts)), 0, 0)
	switch e {
	case 0:
		return nil
	case unix.EAGAIN, unix.EINTR:
		return ErrAgain
	case unix.ETIMEDOUT:
		return ErrTimedOut
	}
	return fail("futex", e)
}

// FutexWake wakes at most n of those who sleep on the word, in any process, and
// returns how many it woke. It does not read the word, blocks nobody and cannot fail
// in a way that a waker could mend: an address that is not mapped wakes nobody.
func FutexWake(addr *atomic.Uint32, n int) int {
	n = min(max(n, 0), math.MaxInt32)
	if n == 0 {
		return 0 // the kernel would wake one
	}
	// It never sleeps, so the scheduler need not be told.
	woken, _, e := syscall.RawSyscall6(unix.SYS_FUTEX,
		uintptr(unsafe.Pointer(addr)), futexWake, uintptr(n), 0, 0, 0)
	if e != 0 {
		return 0
	}
	return int(woken)
}

// A FutexWord is a word and the value at which to sleep on it.
type FutexWord struct {
	Addr *atomic.Uint32
	Val  uint32
}

// FutexWaitv is FutexWait on up to MaxWaitv words at once (Linux 5.16). It returns the
// index of a word that was woken; if several were, the highest of them, and the others
// are not told: look at all words. ErrAgain: one of them had another value already.
// ErrNoSys: this kernel has no such call.
func FutexWaitv(words []FutexWord, timeout time.Duration) (int, error) {
	if !HaveFutexWaitv() {
		return -1, ErrNoSys
	}
	var few [4]futexWaiter
	vec := few[:0]
	if len(words) > len(few) {
		vec = make([]futexWaiter, 0, len(words))
	}
	for _, w := range words {
		vec = append(vec, waiterOn(w.Addr, w.Val))
	}
	ts := deadline(timeout)
	for {
		i, e := futexWaitv(vec, ts)
		switch e {
		case 0:
			return i, nil
		case unix.EAGAIN:
			return -1, ErrAgain
		case unix.ETIMEDOUT:
			return -1, ErrTimedOut
		case unix.EINTR:
		default:
			return -1, fail("futex_waitv", e)
		}
	}
}

// futexWaiter is struct futex_waitv of linux/futex.h.
type futexWaiter struct {
	val   uint64
	uaddr uint64
	flags uint32
	_     uint32
}

func waiterOn(addr *atomic.Uint32, val uint32) futexWaiter {
	escape(addr)
	return futexWaiter{val: uint64(val), uaddr: uint64(uintptr(unsafe.Pointer(addr))), flags: futex2SizeU32}
}

// futexWaitv is the bare call. The words must not be on a goroutine's stack, which
// moves: waiterOn sees to that.
func futexWaitv(vec []futexWaiter, ts *unix.Timespec) (int, unix.Errno) {
	r, _, e := unix.Syscall6(unix.SYS_FUTEX_WAITV,
		uintptr(unsafe.Pointer(unsafe.SliceData(vec))), uintptr(len(vec)), 0,
		uintptr(unsafe.Pointer(ts)), unix.CLOCK_MONOTONIC, 0)
	return int(r), e
}

// HaveFutexWaitv tells whether the kernel has futex_waitv (Linux 5.16; a seccomp filter
// may hide it). Asked once a process. SHMD_TEST_NO_WAITV=1 makes it say no.
func HaveFutexWaitv() bool { return haveWaitv() }

var haveWaitv = sync.OnceValue(func() bool {
	if os.Getenv(NoWaitvEnv) == "1" {
		return false
	}
	// No words at all: EINVAL from the call itself. ENOSYS or EPERM: not for us.
	_, e := futexWaitv(nil, nil)
	return e == unix.EINVAL
})

// deadline turns a timeout into an absolute time of CLOCK_MONOTONIC, nil for none.
func deadline(timeout time.Duration) *unix.Timespec {
	if timeout < 0 {
		return nil
	}
	at := MonotonicNs() + int64(timeout)
	if at < 0 {
		at = math.MaxInt64
	}
	ts := unix.NsecToTimespec(at)
	return &ts
}

var (
	never      bool
	escapeSink *atomic.Uint32
)

// escape makes the compiler place what p points to on the heap: an address that is
// written into a structure for the kernel must not be one on a stack.
func escape(p *atomic.Uint32) {
	if never {
		escapeSink = p
	}
}
