package protocol

import (
	"sync"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// endLock excludes the goroutines of this process from each other at one end of a lane. Most ends are used by one goroutine for long, and for that one a
// sync.Mutex would be the dearest part of a small message: two locked instructions, each of which waits until all that was written before has left for the
// other process. So a goroutine that has locked often enough with nobody between gets a seat, and from then on comes and goes by plain stores. Another that
// comes takes the seat away, and pays for both: a membarrier (sys.FenceAll) between its store and its look.
//
//	who has the seat                          who takes it away, and holds mu
//	  s.in = g, a release store   [A]           s.revoked = 1, seat = nil     [C]
//	  seat == s?                  [B]           membarrier
//	  yes: inside                               until s.in == 0: wait         [D]
//	  no: s.in = 0, lock mu
//
// At least one of B and D sees the other's store. At the end the same holds of s.in = 0 [E] and the look at s.revoked [F]: either D sees that nobody is inside, or who
// leaves sees that it is waited for. A seat is for one goroutine and is never given again: a goroutine that was stopped between its look at the seat and [A] writes, when
// it goes on, into what nobody else uses. All of this is memory of the process: the death of one changes nothing for others.
//
// The zero endLock is not locked. Whoever locks has called sys.RegisterFence, and unlocks in the same goroutine.
type endLock struct {
	seat   atomic.Pointer[seat] // it changes under mu
	inside *seat                // of the goroutine that is inside, nil if that holds mu

	mu     sync.Mutex
	last   uint64 // the goroutine that had mu last
	streak int    // so often in a row
	need   int    // before it gets the seat
}

// seat is the right of one goroutine to go in without mu.
type seat struct {
	g       uint64        // sys.Goroutine
	in      atomic.Uint64 // g or 0; only g writes it
	revoked atomic.Bool
	left    chan struct{} // capacity 1: whoever waits is to look at in
}

const (
	leastStreak = 64
	mostStreak  = 1 << 16 // a seat that is taken away again and again pays its membarrier by then
)

func (l *endLock) Lock() {
	g := sys.Goroutine()
	if s := l.seat.Load(); s != nil && s.g == g {
		sys.StoreRelease(&s.in, g) // A
		if l.seat.Load() == s {    // B
			l.inside = s
			return
		}
		s.leave()
	}
	l.lock(g)
}

func (l *endLock) lock(g uint64) {
	l.mu.Lock()
	if s := l.seat.Load(); s != nil {
		s.revoked.Store(true)
		l.seat.Store(nil) // C
		sys.FenceAll()
		for s.in.Load() != 0 { // D
			<-s.left
		}
		l.need = min(2*max(l.need, leastStreak), mostStreak)
	}
	l.inside = nil
	if l.last != g {
		l.last, l.streak = g, 0
	}
	if l.streak++; l.streak >= max(l.need, leastStreak) { // for the next time
		l.streak = 0
		l.seat.Store(&seat{g: g, left: make(chan struct{}, 1)})
	}
}

func (l *endLock) Unlock() {
	if s := l.inside; s != nil {
		s.leave()
		return
	}
	l.mu.Unlock()
}

func (s *seat) leave() {
	sys.StoreRelease(&s.in, 0) // E
	if s.revoked.Load() {      // F
		select {
		case s.left <- struct{}{}:
		default:
		}
	}
}
