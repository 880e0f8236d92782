package crashpoint

import (
	"sync/atomic"
	"testing"
	"unsafe"
)

// naive is the control: a bounded ring after Vyukov, in which head and tail are the truth and nobody owns a slot. It lies where the
// queue lies otherwise.
type naive []byte

const naiveSlots = 4

func (n naive) word(at int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&n[queueAt+at])) }
func (n naive) tail() *atomic.Uint64       { return n.word(0) }
func (n naive) head() *atomic.Uint64       { return n.word(64) }
func (n naive) seq(i uint64) *atomic.Uint64 {
	return n.word(128 + int(i%naiveSlots)*128)
}
func (n naive) payload(i uint64) []byte {
	at := queueAt + 128 + int(i%naiveSlots)*128 + 16
	return n[at : at+64]
}
func (n naive) length(i uint64) *atomic.Uint64 { return n.word(128 + int(i%naiveSlots)*128 + 8) }

func (n naive) format() {
	clear(n[queueAt:])
	for i := range uint64(naiveSlots) {
		n.seq(i).Store(i)
	}
}

func (n naive) send(v uint64) bool {
	for {
		t := n.tail().Load()
		switch d := int64(n.seq(t).Load() - t); {
		case d < 0:
			return false
		case d == 0 && n.tail().CompareAndSwap(t, t+1):
			fill(n.payload(t), v)
			n.length(t).Store(uint64(length(v)))
			n.seq(t).Store(t + 1)
			return true
		}
	}
}

func (n naive) receive() (v uint64, whole, ok bool) {
	for {
		h := n.head().Load()
		switch d := int64(n.seq(h).Load() - h - 1); {
		case d < 0:
			return 0, false, false
		case d == 0 && n.head().CompareAndSwap(h, h+1):
			v, whole = message(n.payload(h)[:n.length(h).Load()&127])
			n.seq(h).Store(h + naiveSlots)
			return v, whole, true
		}
	}
}

// sound drains the ring and does three laps: what a queue that survived a death can do.
func (n naive) sound(want map[uint64]bool, maybe uint64) bool {
	got := map[uint64]int{}
	for {
		v, whole, ok := n.receive()
		if !ok {
			break
		}
		if got[v]++; !whole || got[v] > 1 {
			return false
		}
	}
	for v := range want {
		if got[v] != 1 && v != maybe {
			return false
		}
	}
	for range 3 {
		for i := range uint64(naiveSlots) {
			if !n.send(1000 + i) {
				return false
			}
		}
		for i := range uint64(naiveSlots) {
			if v, whole, ok := n.receive(); !ok || !whole || v != 1000+i {
				return false
			}
		}
	}
	return true
}

// The control: the harness must find that the naive ring does not survive. Its figures belong beside ours.
func TestControlNaiveRing(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	for _, op := range []uint64{opNaiveSend, opNaiveReceive} {
		points, failed := 0, 0
		parked, stuck := 0, 0
		for fill := range 5 {
			setup := func() map[uint64]bool {
				naive(mem).format()
				want := map[uint64]bool{}
				for i := range fill {
					naive(mem).send(uint64(100 + i))
					want[uint64(100+i)] = true
				}
				return want
			}
			maybe := uint64(7)
			if op == opNaiveReceive {
				maybe = 0
			}
			want := setup()
			x.begin(op, victim, 7)
			image := anonymous()
			for more := true; more; more = x.step() {
				copy(image, mem)
				points++
				if op == opNaiveReceive && naive(image).seq(0).Load() == naiveSlots { // received in full: no loss
					maybe = 100
				}
				if !naive(image).sound(want, maybe) {
					failed++
				}
			}
			x.finish()
			setup()
			x.begin(op, victim, 7)
			x.everyPoint(func(int) { // parked: do its peers progress?
				copy(image, mem)
				parked++
				for {
					if _, _, ok := naive(image).receive(); !ok {
						break
					}
				}
				sent := 0
				for range 3 * naiveSlots {
					if naive(image).send(1) {
						if _, _, ok := naive(image).receive(); ok {
							sent++
						}
					}
				}
				if sent < 3*naiveSlots-3 {
					stuck++
				}
			})
		}
		t.Logf("control, %s of a naive ring of %d slots: killed at %d points, %d fail (%.1f %%); parked at %d points, peers stuck at %d (%.1f %%)",
			opNames[op], naiveSlots, points, failed, 100*float64(failed)/float64(points), parked, stuck, 100*float64(stuck)/float64(parked))
		if failed == 0 || stuck == 0 {
			t.Errorf("%s: the harness finds nothing wrong with a ring that is known to be broken", opNames[op])
		}
	}
}
