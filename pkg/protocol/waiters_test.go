package protocol

import (
	"sync/atomic"
	"testing"

	"github.com/shmd/shmd/internal/sys"
)

// The waker of a lane's consumer goes without a barrier after some messages that find nobody asleep, and until somebody sleeps again.
func TestLaneBrisk(t *testing.T) {
	if err := sys.RegisterFence(); err != nil {
		t.Fatal(err)
	}
	var bell atomic.Uint32
	var waiters atomic.Uint64
	d := &Doorbell{bell: &bell, waiters: &waiters, fenced: true, brisk: true}
	var calm uint32
	is := func(when string, set bool, sleepers int) {
		t.Helper()
		if got := waiters.Load()&brisk != 0; got != set || d.Sleepers() != sleepers {
			t.Fatalf("%s: brisk %t, %d sleepers; want %t, %d", when, got, d.Sleepers(), set, sleepers)
		}
	}
	send := func(n int) {
		for range n {
			d.RingBrisk(&calm)
		}
	}
	send(calmFor - 1)
	is("before it is calm", false, 0)
	send(1)
	is("calm", true, 0)
	send(3)
	is("and stays so", true, 0)

	first := d.Register()
	is("somebody sleeps", false, 1)
	v := d.Value()
	send(1)
	if d.Value() == v {
		t.Fatal("nobody was woken")
	}
	d.Unregister(first)
	send(calmFor - 1)
	is("calm begins anew", false, 0)
	d.RingBrisk(nil)
	is("who counts nothing changes nothing", false, 0)
	send(1)
	is("calm again", true, 0)

	// A repair forgets the sleepers, and knows nothing of the waker: it leaves the bit.
	d.RingAll()
	is("after a repair", true, 0)

	// A sleeper that a repair forgot before its barrier was made leaves the bit as well.
	waiters.Add(1)
	forgotten := Ticket(waiters.Load() >> 32)
	d.RingAll()
	d.slow(forgotten)
	is("a forgotten sleeper", true, 0)

	second := d.Register()
	d.RingAll()
	is("a repair when it is gone", false, 0)
	d.Unregister(second)
	is("and the sleeper it forgot", false, 0)
}

// A consumer that looks is woken by nobody, and neither are those that sleep; it passes on what came while it looked.
func TestQueueLook(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 16, SlotSize: 8})
	q.Receivers.late = 1 << 62
	rung, commit, lease := ringing(t, q)
	look := func(want Looking) {
		t.Helper()
		if got := q.Receivers.Look(); got != want {
			t.Errorf("Look: %d, want %d", got, want)
		}
	}
	look(LookAlone)
	sleeper := q.Receivers.Register()
	look(LookPromised)
	look(LookOther)
	rung("a message beside one that looks", false, commit)
	rung("which takes it", false, lease)
	rung("and has found the last", false, q.Found)
	look(LookPromised)
	rung("a message", false, commit)
	lease()
	rung("and another, before the end of the look", false, commit)
	rung("which passes it on", true, q.Found)
	look(LookOther) // the one that was woken
	lease()
	q.Receivers.Unregister(sleeper)
	q.Receivers.Register()
	rung("a message for the one that sleeps again", true, commit)
	lease()
	q.Receivers.RingAll()
	look(LookAlone)
}

// One that is on its way stands for other wake-ups for some time: then it may be stopped there, and the next message wakes another.
func TestQueueWakeUnderWayIsLate(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 16, SlotSize: 8})
	const long = 1000 * lateNs
	q.Receivers.late = long
	now := func() uint64 { return uint64(sys.MonotonicNs()) }
	later := func() { q.info.ReceiveChosenNs.Store(now() - long) }
	n := uint64(0)
	rung := func(what string, want bool) {
		t.Helper()
		v, before := q.Receivers.Value(), now()
		if err := send(t, q, 3, n); err != nil {
			t.Fatal(err)
		}
		n++
		if (q.Receivers.Value() != v) != want {
			t.Errorf("%s: rung %v, want %v", what, !want, want)
		}
		if at := q.info.ReceiveChosenNs.Load(); want && (at < before || at > now()) {
			t.Errorf("%s: chosen at %d, want %d to %d", what, at, before, now())
		}
	}
	stopped := q.Receivers.Register()
	rung("the first message", true)
	rung("one is on its way", false)
	later()
	rung("it is late", true)
	rung("another is on its way", false)
	later()
	rung("that is late as well", true)
	q.info.ReceiveChosenNs.Store(1 << 62)
	rung("the time of another clock", true)
	q.Receivers.Unregister(stopped)
	later()
	rung("nobody sleeps", false)

	q.Receivers.Register()
	if got := q.Receivers.Look(); got != LookPromised {
		t.Fatalf("Look: %d", got)
	}
	rung("one looks", false)
	later()
	rung("it has looked for long", true)
	if q := newQueue(t, QueueOptions{Slots: 16, SlotSize: 8}); q.Receivers.late != lateNs || q.Senders.late != lateNs {
		t.Error("queues have another limit")
	}
}
