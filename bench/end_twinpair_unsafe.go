package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/shmd/shmd/internal/sys"
)

// The Go twin of a pair of queues whose both ends sleep: the words and letters of ../docs/lane.md and nothing else, as end_twin_unsafe.go is that of a call. It has
// as many slots as the queues that it is compared with, so each message lies where nothing has been for long, as theirs does. The one that yields lets its peer run
// once before it sleeps, if it has sent something, as the library does on one CPU.

func init() {
	for _, how := range []string{"", "-yield"} {
		roles["twin-pair"+how+"-trip-server"] = func(e *end) error { return twinPairServer(e, how != "") }
		roles["twin-pair"+how+"-trip-client"] = func(e *end) error { return twinPairClient(e, how != "") }
	}
}

const (
	twinSlots = 1024
	twinReady = 1
	twinBrisk = 1 << 31
)

// twinLane is one queue, each word on a line as in ../docs/layout.md.
type twinLane struct {
	tail     atomic.Uint64
	_        [56]byte
	head     atomic.Uint64
	acked    atomic.Uint64
	_        [48]byte
	waiters  atomic.Uint64 // epoch:32 | brisk:1 | count:31
	_        [56]byte
	bell     atomic.Uint32
	_        [60]byte
	senders  atomic.Uint64
	_        [56]byte
	returned atomic.Uint32
	_        [60]byte
	sent     atomic.Uint64 // counters of the one end
	_        [56]byte
	received atomic.Uint64 // and of the other
	taken    atomic.Uint64
	_        [48]byte
	slots    [twinSlots]twinSlot
}

type twinSlot struct {
	state  atomic.Uint64 // lap:32 | 0 | phase:4
	length atomic.Uint64
	bytes  [112]byte
}

type twinPair struct{ there, back twinLane }

// twinPairs maps the file that both ends share.
func (e *end) twinPairs() (*twinPair, error) {
	if e.size > len(twinSlot{}.bytes) {
		return nil, fmt.Errorf("size is limited to %d", len(twinSlot{}.bytes))
	}
	f, err := os.OpenFile(filepath.Join(e.dir, e.id+".twin"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const size = int(unsafe.Sizeof(twinPair{}))
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*twinPair)(unsafe.Pointer(&b[0])), nil
}

func (l *twinLane) ready(p uint64) bool {
	return l.slots[p%twinSlots].state.Load() == (p/twinSlots+1)<<32|twinReady
}

// A twinOut is the producer's end.
type twinOut struct {
	l                *twinLane
	next, room, sent uint64
}

func (o *twinOut) send(b []byte) error {
	l, p := o.l, o.next
	if p-o.room >= twinSlots {
		if o.room = l.acked.Load(); p-o.room >= twinSlots {
			return errors.New("twin: the queue is full")
		}
	}
	s := &l.slots[p%twinSlots]
	if s.state.Load()&15 > twinReady {
		return errors.New("twin: the slot is held")
	}
	o.next++
	copy(s.bytes[:], b)
	sys.StoreRelease(&s.length, uint64(len(b)))
	sys.StoreRelease(&s.state, (p/twinSlots+1)<<32|twinReady) // C
	sys.StoreRelease(&l.tail, p+1)                            // B
	o.sent++
	sys.StoreRelease(&l.sent, o.sent)
	if l.waiters.Load()&(twinBrisk|twinCount) != twinBrisk && l.waiters.Add(0)&twinCount != 0 { // W
		wakeOn(&l.bell)
	}
	return nil
}

// A twinIn is the consumer's end.
type twinIn struct {
	l              *twinLane
	head, received uint64
	returned       uint32
}

func (i *twinIn) pending() bool {
	l := i.l
	return l.ready(i.head) || l.returned.Load() != i.returned || int64(l.tail.Load()-i.head) > 0
}

// receive appends the next message to buf. It sleeps until there is one.
func (i *twinIn) receive(buf []byte, yield bool) ([]byte, error) {
	l := i.l
	if yield && !l.ready(i.head) {
		sys.Yield()
	}
	for !i.pending() {
		v := l.bell.Load()
		l.count(1) // S
		if !i.pending() {
			napOn(&l.bell, v) // T
		}
		l.count(^uint64(0))
	}
	if !l.ready(i.head) { // F
		return buf, errors.New("twin: a message came back")
	}
	s := &l.slots[i.head%twinSlots]
	n := s.length.Load()
	if n > uint64(len(s.bytes)) {
		return buf, errors.New("twin: the length of a message is wrong")
	}
	buf = append(buf, s.bytes[:n]...)
	i.head++
	i.received++
	sys.StoreRelease(&l.received, i.received)
	sys.StoreRelease(&l.head, i.head)
	sys.StoreRelease(&l.acked, i.head) // G
	if l.senders.Load()&twinCount != 0 {
		return buf, errors.New("twin: nobody sleeps for room here")
	}
	sys.StoreRelease(&l.taken, i.received)
	return buf, nil
}

// count adds n to the number of sleepers.
func (l *twinLane) count(n uint64) {
	for {
		w := l.waiters.Load()
		if l.waiters.CompareAndSwap(w, w+n) {
			return
		}
	}
}

func twinPairServer(e *end, yield bool) error {
	t, err := e.twinPairs()
	if err != nil {
		return err
	}
	in, out, buf := twinIn{l: &t.there}, twinOut{l: &t.back}, make([]byte, 0, e.size)
	e.ready()
	var before, after int64
	for i := range e.total() {
		if i == e.warm {
			before = sleeps()
		}
		b, err := in.receive(buf, yield && i > 0)
		if err != nil {
			return err
		}
		if i == e.total()-1 {
			after = sleeps()
		}
		if err := out.send(b); err != nil {
			return err
		}
	}
	report(result{"sleeps_server": float64(after-before) / float64(e.count)})
	return nil
}

func twinPairClient(e *end, yield bool) error {
	t, err := e.twinPairs()
	if err != nil {
		return err
	}
	in, out, buf := twinIn{l: &t.back}, twinOut{l: &t.there}, make([]byte, 0, e.size)
	src, at := newSource(e.size), e.trips()
	for i := range e.total() {
		at.begin()
		if err := out.send(src.message(i)); err != nil {
			return err
		}
		b, err := in.receive(buf, yield)
		if err != nil {
			return err
		}
		got := sum(b)
		at.end()
		if got != src.sum(i) {
			return errSum(got, src.sum(i))
		}
	}
	report(at.result())
	return nil
}
