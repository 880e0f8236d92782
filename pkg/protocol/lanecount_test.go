package protocol

import "testing"

// A message whose loan was overtaken counts as sent like any other.
func TestLaneCountsOvertaken(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 8, SlotSize: 8, Lane: true})
	l, err := NewLane(q)
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.TryLoan(2)
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.TryLoan(2)
	if err != nil {
		t.Fatal(err)
	}
	for _, loan := range []Loan{b, a} {
		if err := l.Commit(loan, 8); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		lease, err := l.TryReceive(3)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Ack(lease); err != nil {
			t.Fatal(err)
		}
	}
	if s := q.Stat(); s.Sent != 2 || s.Received != 2 || s.Acked != 2 {
		t.Errorf("sent %d, received %d, acked %d", s.Sent, s.Received, s.Acked)
	}
}

// A Producer and a Consumer take no lock, so nobody else's loan or lease may be out, one that was overtaken neither.
func TestLaneEndsBesideOvertaken(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 8, SlotSize: 8})
	a, _ := l.TryLoan(2)
	b, _ := l.TryLoan(2)
	if err := l.Commit(b, 8); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Producer(2); err == nil {
		t.Error("a Producer beside a loan")
	}
	if err := l.Commit(a, 8); err != nil {
		t.Fatal(err)
	}
	p, err := l.Producer(2)
	if err != nil {
		t.Fatal(err)
	}
	loan, err := p.TryLoan()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(loan, 8); err != nil {
		t.Fatal(err)
	}
	p.Close()

	first, _ := l.TryReceive(3)
	second, _ := l.TryReceive(3)
	if err := l.Ack(second); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Consumer(3); err == nil {
		t.Error("a Consumer beside a lease")
	}
	if err := l.Nack(first); err != nil {
		t.Fatal(err)
	}
	c, err := l.Consumer(3)
	if err != nil {
		t.Fatal(err)
	}
	lease, _, _, err := c.TryReceive()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Nack(lease); err != nil { // as shm.Consumer does
		t.Fatal(err)
	}
	c.Close()
	if c, err = l.Consumer(3); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// A loan that is given back counts as aborted, whether it was the last one, one before it, or one that was overtaken.
func TestLaneCountsAborted(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 8, SlotSize: 8})
	var loans [4]Loan
	for i := range loans {
		var err error
		if loans[i], err = l.TryLoan(2); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Commit(loans[1], 8); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 2, 3} {
		if err := l.Abort(loans[i]); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.q.Stat(); s.Aborted != 3 || s.Sent != 1 {
		t.Errorf("aborted %d, sent %d", s.Aborted, s.Sent)
	}
}
