package crashpoint

import (
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

func TestStall(t *testing.T) {
	o := protocol.QueueOptions{Slots: 2, SlotSize: 8}
	n, _ := protocol.QueueSize(o)
	q, err := protocol.FormatQueue(make([]byte, n), protocol.Header{Name: "q", Region: "r", Generation: 1}, o)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := q.TryLoan(1)
	b, _ := q.TryLoan(2)
	q.Commit(b, 1)
	l, err := q.TryReceive(3)
	t.Log("consumer takes b:", err)
	q.Ack(l)
	q.Commit(a, 1)
	_, err = q.TryLoan(1)
	t.Log("producer, slot of b is free:", err)
	v := q.Senders.Value()
	q.Senders.Register()
	_, err = q.TryLoan(1)
	t.Log("T:", err)
	_, err = q.TryReceive(3)
	t.Log("consumer leases a and holds it:", err, "bell rung:", q.Senders.Value() != v)
	_, err = q.TryLoan(1)
	t.Log("the sleeper would now get:", err)
}
