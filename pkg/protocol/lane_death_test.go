package protocol

import "testing"

func only(id uint16) func(uint16) bool { return func(o uint16) bool { return o == id } }

// cut does to the lane's memory what Send does until it has committed [C], and no more: Tail is behind.
func (l *Lane) cut(p, v uint64) {
	s := l.q.slot(p)
	copy(l.q.payload(p), number(v))
	s.meta().Store(8)
	s.State.Store(uint64(l.q.ready(p)))
}

// The consumer takes what a producer committed and did not publish [B] before it died, and what becomes of the slot hides
// that its position is taken: the next producer must not begin there, where the consumer does not look again.
func TestLaneTailBehindHead(t *testing.T) {
	for _, nack := range []bool{false, true} {
		l := newLane(t, QueueOptions{Slots: 4, SlotSize: 48})
		out := l.peer(t)
		laneSend(t, l, 0)
		laneReceive(t, out, 0)
		l.cut(1, 1)
		lease := laneLease(t, out, 1)
		if nack {
			out.Nack(lease)
			lease = laneLease(t, out, 1)
		}
		if err := out.Ack(lease); err != nil {
			t.Fatal(err)
		}
		l.q.Repair(only(2))
		in := l.peer(t)
		for i := range uint64(12) {
			if err := in.Send(7, number(i)); err != nil {
				t.Fatal(err)
			}
			laneReceive(t, out, i)
		}
	}
}

// A producer that is stopped between [C] and [B] has its message taken and acked; a new consumer must not take it again.
func TestLaneHeadBeyondTail(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 4, SlotSize: 48})
	out := l.peer(t)
	laneSend(t, l, 0)
	laneReceive(t, out, 0)
	l.cut(1, 1)
	laneReceive(t, out, 1)
	l.q.Repair(only(3))
	out = l.peer(t)
	if b, _, err := out.ReceiveTo(9, nil); err != ErrEmpty {
		t.Fatalf("received %v, %v: it was acked", b, err)
	}
}

// What is full and empty at once stays so for ever: a lease that is kept must stop nobody, also when all later messages came twice or
// became dead letters.
func TestLaneHeldLeaseBesideRedeliveries(t *testing.T) {
	for _, o := range []QueueOptions{{Slots: 2, SlotSize: 48}, {Slots: 4, SlotSize: 48}, {Slots: 4, SlotSize: 48, MaxDeliveries: 1}} {
		l := newLane(t, o)
		dead := newQueue(t, QueueOptions{Slots: 32, SlotSize: 48 + SizeofDeadLetter, DeadLetter: true})
		out := l.peer(t)
		laneSend(t, l, 1000)
		held := laneLease(t, out, 1000)
		for i := range uint64(4 * o.Slots) {
			laneSend(t, l, i)
			if err := out.Nack(laneLease(t, out, i)); err != nil {
				t.Fatal(err)
			}
			if o.MaxDeliveries == 0 {
				laneReceive(t, out, i)
			} else if n, err := l.q.MoveDead(dead, 1); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		if err := out.Ack(held); err != nil {
			t.Fatal(err)
		}
	}
}

// The same for positions that were given up, and for a loan that was overtaken and is acked before the consumer comes to its position.
func TestLaneHeldLeaseBesideAborts(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 4, SlotSize: 48})
	out := l.peer(t)
	laneSend(t, l, 1000)
	held := laneLease(t, out, 1000)
	for i := range 40 {
		a, err := l.TryLoan(2)
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		b, err := l.TryLoan(2)
		if err != nil {
			t.Fatalf("round %d, second: %v", i, err)
		}
		if l.Abort(a) != nil || l.Abort(b) != nil {
			t.Fatal("abort")
		}
		if _, err := out.TryReceive(3); err != ErrEmpty {
			t.Fatal(err)
		}
	}
	if err := out.Ack(held); err != nil {
		t.Fatal(err)
	}
}

// A producer that finds all held as far as it knew looks how far the consumer has come.
func TestLaneLooksForRoomAgain(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 4, SlotSize: 48})
	out := l.peer(t)
	for i := range uint64(4) {
		laneSend(t, l, i)
	}
	if err := out.Nack(laneLease(t, out, 0)); err != nil {
		t.Fatal(err)
	}
	if err := l.Send(2, nil); err != ErrFull { // the one position that there is room for is in the slot of what came back
		t.Fatal(err)
	}
	held := laneLease(t, out, 0)
	for i := range uint64(3) {
		laneReceive(t, out, 1+i)
	}
	laneSend(t, l, 4)
	if err := out.Ack(held); err != nil {
		t.Fatal(err)
	}
}

// Each step wakes as many as can go on: abort gives a slot to a producer, a position that is passed over lets the consumer move, and an
// ack may free more than one.
func TestLaneWakes(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 4, SlotSize: 48})
	rung := func(d *Doorbell, what string, do func()) {
		t.Helper()
		v, ticket := d.Value(), d.Register()
		do()
		if d.Value() == v {
			t.Errorf("%s wakes nobody", what)
		}
		d.Unregister(ticket)
	}
	a, _ := l.TryLoan(2)
	b, _ := l.TryLoan(2)
	c, _ := l.TryLoan(2)
	rung(&l.q.Receivers, "a position given up", func() { l.Abort(a) })
	rung(&l.q.Senders, "abort", func() { l.Abort(c) })
	c, _ = l.TryLoan(2)
	l.Commit(c, 8)
	rung(&l.q.Senders, "abort of an overtaken loan", func() { l.Abort(b) })
}

// A lease that has ended acks nothing any more: the slot may be somebody else's.
func TestLaneFrameLeaseThatEnded(t *testing.T) {
	for _, end := range []func(l *Lane, lease Lease) error{(*Lane).Nack, (*Lane).Ack} {
		l := newLane(t, QueueOptions{Slots: 4, SlotSize: 48})
		out := l.peer(t)
		loan, err := l.TryLoan(2)
		if err != nil {
			t.Fatal(err)
		}
		w := NewFrame(l.q.LoanBytes(loan))
		for range 3 {
			w.Next(8)
		}
		if err := l.CommitFrame(loan, &w); err != nil {
			t.Fatal(err)
		}
		lease, err := out.TryReceive(3)
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.q.Frame(lease)
		if err != nil {
			t.Fatal(err)
		}
		if err := out.AckMessage(&lease, &f, 1); err != nil {
			t.Fatal(err)
		}
		if err := end(out, lease); err != nil {
			t.Fatal(err)
		}
		if err := out.AckMessage(&lease, &f, 0); err != ErrLost || f.Done(0) {
			t.Error(err)
		}
	}
}

// Who makes a message ready behind head and dies before it says so leaves that to the repair, whoever it was: a producer with a loan that
// was overtaken, the daemon with the rest of a frame, another repair.
func TestLaneRepairAnnouncesWhatCameBack(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 4, SlotSize: 48})
	out := l.peer(t)
	older, _ := l.TryLoan(2)
	laneSend(t, l, 1)
	laneReceive(t, out, 1)
	copy(l.q.LoanBytes(older), number(2))
	l.q.slot(older.slot).meta().Store(8)
	l.q.slot(older.slot).State.Store(uint64(l.q.ready(older.slot) | passedBit))
	l.q.Repair(only(2))
	laneReceive(t, out, 2)
}
