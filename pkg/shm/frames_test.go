package shm

import (
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// A Receive that began before Close may open a batch when Close has given back what waits: of this one, too, nothing stays behind.
func TestBatchOpenedBesideClose(t *testing.T) {
	o := protocol.QueueOptions{Slots: 4, SlotSize: 64}
	size, err := protocol.QueueSize(o)
	if err != nil {
		t.Fatal(err)
	}
	p, err := protocol.FormatQueue(make([]byte, size), protocol.Header{Name: "jobs", Region: "test"}, o)
	if err != nil {
		t.Fatal(err)
	}
	loan, err := p.TryLoan(2)
	if err != nil {
		t.Fatal(err)
	}
	w := protocol.NewFrame(p.LoanBytes(loan))
	for _, text := range []string{"a", "b", "c"} {
		copy(w.Next(1), text)
	}
	if err := p.CommitFrame(loan, &w); err != nil {
		t.Fatal(err)
	}
	q := &Queue{q: p}
	l, err := p.TryReceive(3)
	if err != nil {
		t.Fatal(err)
	}
	f, err := p.Frame(l)
	if err != nil {
		t.Fatal(err)
	}
	q.frames.giveBack(q) // Close
	m := &Message{q: q}
	q.frames.open(m, l, f)
	if err := q.frames.end(m, true); err != nil || string(m.b) != "a" {
		t.Fatalf("%q, %v", m.b, err)
	}
	if s := p.Stat(); s.Ready != 1 || s.Messages != 2 {
		t.Errorf("b and c are still leased: %+v", s)
	}
}
