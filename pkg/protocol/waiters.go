package protocol

import (
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// Doorbell is one side of a channel that processes sleep on: a futex word and the number of sleepers, so that a
// waker makes a system call only if somebody sleeps. docs/queue.md, "Sleeping and waking", argues it.
//
// Use:
//
//	v := d.Value()
//	t := d.Register()               // S
//	if try again [T] fails { sleep until d.Word() != v }
//	d.Unregister(t)
type Doorbell struct {
	bell    *atomic.Uint32
	waiters *atomic.Uint64 // epoch:32 | coming or brisk:1 | count:31
	chosen  *atomic.Uint64 // CLOCK_MONOTONIC shortly before coming was set, in ns; nil for a Doorbell without RingOne and Look
	late    uint64         // ns after which nobody relies on it: lateNs but in tests

	// fenced: wakers publish with a plain release store, after which their load of the count [W] may come first. Then the sleeper
	// pays for both: a membarrier between [S] and [T] is a full barrier in every waker as well. All processes that use the
	// channel have called sys.RegisterFence.
	fenced bool

	// brisk: of those that are fenced, one with a single waker, which says by the bit brisk whether it goes without a barrier. As long as sleepers are
	// found again and again it does not, and a sleep costs no membarrier.
	brisk bool

	// all: whoever sleeps here waits for the same thing, and is woken with everybody else, by Broadcast. The count is of those who
	// went to sleep since the last Broadcast, and only that lowers it: so a count that is the same as before is the same sleepers.
	all bool
}

// Parts of the word waiters.
const (
	counted = 1<<31 - 1 // how many sleep

	// coming: RingOne chose one that has not looked since, or one that is awake looks again and again (Look). Whoever registers or leaves takes it back before he
	// looks, or because he need not.
	coming = 1 << 31

	// brisk, the same bit where the Doorbell has brisk: the waker may do without barriers (RingBrisk).
	brisk = 1 << 31

	lateNs = 1e6 // how long a wake-up under way stands for those that would follow

	calmFor = 16 // messages that find nobody asleep, before the waker does without barriers
)

// Ticket is what Register returns: the epoch in which the sleeper was counted.
type Ticket uint32

// Word is the futex to sleep on.
func (d *Doorbell) Word() *atomic.Uint32 { return d.bell }

// Value is the value to sleep on; load it before the last try.
func (d *Doorbell) Value() uint32 { return d.bell.Load() }

// Register counts the caller as a sleeper. The increment [S] is before the caller's last try [T]; it pairs with
// the load of the count in Ring [W].
func (d *Doorbell) Register() Ticket {
	for {
		w := d.waiters.Load()
		if uint32(w)|coming == 1<<32-1 { // a damaged count must not carry
			d.waiters.CompareAndSwap(w, w&^counted)
			continue
		}
		next := w + 1
		if !d.brisk {
			next &^= coming
		}
		if d.waiters.CompareAndSwap(w, next) {
			t := Ticket(w >> 32)
			if d.fenced && (!d.brisk || w&brisk != 0) {
				sys.FenceAll()
			}
			if d.brisk && w&brisk != 0 {
				d.slow(t)
			}
			return t
		}
	}
}

// slow takes the bit brisk away, after the membarrier: a sleeper that finds it gone makes none, and has to see what was published beside it. If a repair has
// zeroed the count, something may have been since.
func (d *Doorbell) slow(t Ticket) {
	for {
		w := d.waiters.Load()
		if Ticket(w>>32) != t || w&brisk == 0 || d.waiters.CompareAndSwap(w, w&^brisk) {
			return
		}
	}
}

// Unregister takes the caller back from the count, unless a repair has zeroed the count meanwhile.
func (d *Doorbell) Unregister(t Ticket) {
	for !d.all {
		w := d.waiters.Load()
		next := w - 1
		if !d.brisk {
			next &^= coming
		}
		if Ticket(w>>32) != t || w&counted == 0 || d.waiters.CompareAndSwap(w, next) {
			return
		}
	}
}

// Sleepers returns the number of registered sleepers, of which some may have died since the last repair.
func (d *Doorbell) Sleepers() int { return int(d.waiters.Load() & counted) }

// Ring wakes up to n sleepers if there are any. It is called after what they wait for was published; the load of
// the count [W] pairs with Register [S].
func (d *Doorbell) Ring(n int) {
	if d.waiters.Load()&counted == 0 { // W
		return
	}
	d.bell.Add(1)
	sys.FutexWake(d.bell, n)
}

// RingBrisk is Ring(1) of a waker whose publication was a plain release store. The Doorbell has brisk. As long as the bit is there its load of the count [W] may
// come before the publication, and the sleeper orders both; else the barrier is made here. *calm is the waker's own, or nil: it counts what found nobody asleep,
// and after some the bit is set.
func (d *Doorbell) RingBrisk(calm *uint32) {
	if d.waiters.Load()&(brisk|counted) != brisk { // W
		d.ringAfterBarrier(calm)
	}
}

func (d *Doorbell) ringAfterBarrier(calm *uint32) {
	w := d.waiters.Add(0) // W: and a full barrier
	switch {
	case w&counted != 0:
		if calm != nil {
			*calm = 0
		}
		d.bell.Add(1)
		sys.FutexWake(d.bell, 1)
	case calm != nil && w&brisk == 0:
		if *calm++; *calm >= calmFor {
			*calm = 0
			d.waiters.CompareAndSwap(w, w|brisk) // nobody is registered: who does so now finds it
		}
	}
}

// RingOne is Ring(1), unless a sleeper that was woken so is still on its way: it will look after this call began, at what was published before, and passes the
// wake on if there is more than it takes. So many messages cost one wake-up. One that has been on its way for longer than d.late may be stopped there: nobody
// relies on it any more.
func (d *Doorbell) RingOne() {
	for {
		w := d.waiters.Load() // W
		if w&counted == 0 {
			return
		}
		if w&coming != 0 {
			was := d.chosen.Load()
			now := uint64(sys.MonotonicNs())
			if now-was < d.late || !d.chosen.CompareAndSwap(was, now) { // or somebody else wakes another
				return
			}
			break
		}
		d.choose()
		if d.waiters.CompareAndSwap(w, w|coming) {
			break
		}
	}
	d.bell.Add(1)
	sys.FutexWake(d.bell, 1)
}

// choose takes down when coming was set. It goes before that: nobody is to find an old time beside the bit.
func (d *Doorbell) choose() { d.chosen.Store(uint64(sys.MonotonicNs())) }

// Looking is what Look finds.
type Looking int

const (
	LookAlone    Looking = iota // nobody sleeps
	LookPromised                // RingOne leaves its wake-ups out as long as the caller looks: it ends with Looked or Register, and a look after that
	LookOther                   // somebody else looks, or is on its way: what comes is that one's
)

// Look is for one that looks again and again before it sleeps: as long as it does, nobody else need be woken.
func (d *Doorbell) Look() Looking {
	for {
		w := d.waiters.Load()
		if w&counted == 0 {
			return LookAlone
		}
		if w&coming != 0 {
			return LookOther
		}
		d.choose()
		if d.waiters.CompareAndSwap(w, w|coming) {
			return LookPromised
		}
	}
}

// Looked takes the promise of Look back.
func (d *Doorbell) Looked() {
	for {
		w := d.waiters.Load()
		if w&coming == 0 || d.waiters.CompareAndSwap(w, w&^coming) {
			return
		}
	}
}

// PassOn is for a sleeper that leaves without having looked whether what it waited for has come: if it was chosen by Ring, another must be.
func (d *Doorbell) PassOn() {
	if !d.all {
		d.Ring(1)
	}
}

// Broadcast wakes everybody who sleeps, and takes them from the count, so that the next Broadcast makes no system call before somebody
// sleeps again. It is called after what they wait for was published, and needs all.
func (d *Doorbell) Broadcast() {
	w := d.waiters.Load() // W
	if uint32(w) == 0 {
		return
	}
	d.bell.Add(1)
	sys.FutexWake(d.bell, 1<<30)
	// After the wake: a waker that is stopped or killed before it leaves the count to the next. Everybody counted in w had loaded the bell before it
	// was raised and does not sleep on; who came since has changed the word.
	d.waiters.CompareAndSwap(w, (w>>32+1)<<32)
}

// RingAll forgets the sleepers that were counted, among whom may be dead ones, and wakes everybody. The living
// find another epoch and register again if they still have to sleep.
func (d *Doorbell) RingAll() {
	for {
		w := d.waiters.Load()
		next := (w>>32 + 1) << 32
		if d.brisk {
			next |= w & brisk // the waker may live, and have read it
		}
		if d.waiters.CompareAndSwap(w, next) {
			break
		}
	}
	d.bell.Add(1)
	sys.FutexWake(d.bell, 1<<30)
}
