package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The Go twin of a call whose both ends sleep, as call_asleep in c/probe.c is the one in C: the words and letters of ../docs/call.md and nothing else, one slot, no
// contexts, no quit flag, no leases of the mapping, no channel that could be damaged. What it takes is the least that any library in Go with this protocol can.

func init() {
	roles["twin-trip-server"] = twinServer
	roles["twin-trip-client"] = twinClient
}

type twin struct {
	state          atomic.Uint64 // seq:21 | asleep:1 | deliveries:6 | server:16 | caller:16 | phase:4
	request, reply atomic.Uint64
	bell           atomic.Uint32
	_              [36]byte
	bytes          [2 * 4096]byte
	reach          atomic.Uint64
	_              [56]byte
	tickets        atomic.Uint64
	_              [56]byte
	waiters        atomic.Uint64 // epoch:32 | 0 | count:31
	_              [56]byte
	door           atomic.Uint32
	_              [60]byte
	requests       atomic.Uint64
	_              [56]byte
	answered       atomic.Uint64
}

const (
	twinRequest  = 2
	twinServing  = 3
	twinAnswered = 4
	twinCaller   = 1 << 4
	twinServerID = 2 << 20
	twinAsleep   = 1 << 42
	twinSeq      = 1 << 43
	twinCount    = 1<<31 - 1
)

// twins maps the file that both ends share.
func (e *end) twins() (*twin, error) {
	if e.size > len(twin{}.bytes)/2 {
		return nil, fmt.Errorf("size is limited to %d", len(twin{}.bytes)/2)
	}
	f, err := os.OpenFile(filepath.Join(e.dir, e.id+".twin"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const size = int(unsafe.Sizeof(twin{}))
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*twin)(unsafe.Pointer(&b[0])), nil
}

func (t *twin) requested() bool { return t.reach.Load() != 0 && t.state.Load()&15 == twinRequest }

// count adds n to the number of sleepers.
func (t *twin) count(n uint64) {
	for {
		w := t.waiters.Load()
		if t.waiters.CompareAndSwap(w, w+n) {
			return
		}
	}
}

func napOn(word *atomic.Uint32, v uint32) {
	ts := unix.NsecToTimespec(int64(5 * time.Millisecond))
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), 0, uintptr(v), uintptr(unsafe.Pointer(&ts)), 0, 0)
}

func wakeOn(word *atomic.Uint32) {
	word.Add(1)
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), 1, 1, 0, 0, 0)
}

// room returns where the reply lies, on a line of its own behind the request.
func (t *twin) room(n int) []byte { return t.bytes[(n+63)&^63:][:n] }

func twinServer(e *end) error {
	t, err := e.twins()
	if err != nil {
		return err
	}
	t.state.Store(twinAnswered | twinCaller)
	t.reach.Store(1)
	e.ready()
	var before, after int64
	for i := range e.total() {
		if i == e.warm {
			before = sleeps()
		}
		for !t.requested() {
			v := t.door.Load()
			t.count(1) // S
			if !t.requested() {
				napOn(&t.door, v) // T
			}
			t.count(^uint64(0))
		}
		var w uint64
		for {
			w = t.state.Load()
			if t.state.CompareAndSwap(w, w&^15|twinServing|twinServerID) { // D; the caller may lie down meanwhile
				break
			}
		}
		n := int(t.request.Load() >> 32)
		if n != e.size {
			return errors.New("twin: the length of a request is wrong")
		}
		copy(t.room(n), t.bytes[:n])
		t.reply.Store(uint64(n) << 32)
		for {
			w = t.state.Load()
			if t.state.CompareAndSwap(w, w&^(15|0xffff<<20|twinAsleep)|twinAnswered) { // E
				break
			}
		}
		if i == e.total()-1 {
			after = sleeps()
		}
		if w&twinAsleep != 0 {
			wakeOn(&t.bell) // F
		}
		t.answered.Add(1)
	}
	report(result{"sleeps_server": float64(after-before) / float64(e.count)})
	return nil
}

func twinClient(e *end) error {
	t, err := e.twins()
	if err != nil {
		return err
	}
	src, at, word := newSource(e.size), e.trips(), t.state.Load()
	for i := range e.total() {
		at.begin()
		ticket := uint32(t.tickets.Add(1))
		copy(t.bytes[:e.size], src.message(i))
		t.request.Store(uint64(e.size)<<32 | uint64(ticket))
		next := word&^15 + twinSeq | twinRequest
		if !t.state.CompareAndSwap(word, next) { // B
			return errors.New("twin: the slot was lost")
		}
		if t.waiters.Load()&twinCount != 0 { // C
			wakeOn(&t.door)
		}
		t.requests.Add(1)
		for {
			if word = t.state.Load(); word&15 == twinAnswered {
				break
			}
			v := t.bell.Load()
			if word&twinAsleep == 0 && !t.state.CompareAndSwap(word, word|twinAsleep) { // G
				continue
			}
			napOn(&t.bell, v)
		}
		n := int(t.reply.Load() >> 32)
		if n != e.size {
			return errors.New("twin: the length of a reply is wrong")
		}
		got := sum(t.room(n))
		at.end()
		if got != src.sum(i) {
			return errSum(got, src.sum(i))
		}
	}
	report(at.result())
	return nil
}
