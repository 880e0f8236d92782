package protocol

import (
	"encoding/binary"
	"errors"
	"testing"
)

// A rejected message is dead at once, with its reason, which outlives a daemon that dies while it moves the message.
func TestReject(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8, MaxDeliveries: 3})
	dead := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8 + SizeofDeadLetter, DeadLetter: true})
	for v := range uint64(2) {
		if err := send(t, q, 2, 40+v); err != nil {
			t.Fatal(err)
		}
	}
	reasons := []DeadReason{DeadReasonDelimiter, DeadReasonAnswer}
	for _, r := range reasons {
		l, err := q.TryReceive(3)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Reject(l, r); err != nil {
			t.Fatal(err)
		}
		if err := q.Reject(l, r); !errors.Is(err, ErrLost) {
			t.Errorf("a second time: %v", err)
		}
	}
	if s := q.Stat(); s.Dead != 2 || s.Ready != 0 {
		t.Fatalf("%+v", s)
	}
	s := q.slot(0) // as MoveDead of a daemon that dies
	w := Word(s.State.Load())
	s.State.Store(uint64(MakeWord(PhaseMoving, 7, w.Deliveries(), w.Lap()) | w&reasonMask))
	if r := q.Repair(func(o uint16) bool { return o == 7 }); r.Moves != 1 {
		t.Fatalf("%+v", r)
	}
	if n, err := q.MoveDead(dead, 1); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	for i, r := range reasons {
		l, err := dead.TryReceive(5)
		if err != nil {
			t.Fatal(err)
		}
		info, payload, err := dead.ReadDead(l)
		if err != nil || info.Reason != r || info.Deliveries != 1 || binary.LittleEndian.Uint64(payload) != uint64(40+i) {
			t.Errorf("dead letter %+v %x, %v", info, payload, err)
		}
	}

	endless := newQueue(t, QueueOptions{Slots: 2, SlotSize: 8})
	if err := send(t, endless, 2, 1); err != nil {
		t.Fatal(err)
	}
	l, err := endless.TryReceive(3)
	if err != nil {
		t.Fatal(err)
	}
	if err := endless.Reject(l, DeadReasonDelimiter); !errors.Is(err, ErrNoDeadLetters) {
		t.Errorf("without dead letters: %v", err)
	}
	if err := endless.Ack(l); err != nil {
		t.Errorf("the lease had ended: %v", err)
	}
}

// A message that is given up is not held any more: max_leases counts what is.
func TestRejectEndsALease(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8, MaxDeliveries: 3, MaxLeases: 1})
	for v := range uint64(2) {
		if err := send(t, q, 2, v); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		l, err := q.TryReceive(3)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Reject(l, DeadReasonAnswer); err != nil {
			t.Fatal(err)
		}
	}
}
