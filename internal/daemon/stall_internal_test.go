package daemon

import (
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// The slots of a channel in which nothing happens are read once in a while only, and whoever takes one is seen at the next look.
func TestStallLooksAreSpared(t *testing.T) {
	o := protocol.QueueOptions{Slots: 8, SlotSize: 64}
	size, err := protocol.QueueSize(o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := region.Create(region.Options{Name: "stalls", Size: size})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	q, err := protocol.FormatQueue(s.Bytes(), protocol.Header{Name: "jobs", Region: "test", Generation: 1}, o)
	if err != nil {
		t.Fatal(err)
	}
	const limit = 10
	w := &stallWatch{channel: q, limit: limit}
	now := int64(0)
	look := func(looked bool, stalls int) {
		t.Helper()
		now += limit / 2
		if got, l := w.look(now); l != looked || len(got) != stalls {
			t.Errorf("at %v: looked %v, %d stalls; want %v, %d", time.Duration(now), l, len(got), looked, stalls)
		}
	}
	send := func() {
		t.Helper()
		l, err := q.TryLoan(1)
		if err == nil {
			err = q.Commit(l, 1)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	look(true, 0)
	for range 2 {
		for range skippedLooks {
			look(false, 0)
		}
		look(true, 0)
	}
	send()
	look(true, 0) // it waits for a consumer, who is no stall
	look(false, 0)
	l, err := q.TryReceive(2)
	if err != nil {
		t.Fatal(err)
	}
	look(true, 0)
	look(true, 0)
	look(true, 1)
	look(true, 1)
	q.Ack(l)
	look(true, 0)
	look(false, 0)

	// Given back, and taken again: head is where it was.
	send()
	if l, err = q.TryReceive(2); err != nil {
		t.Fatal(err)
	}
	if err := q.Nack(l); err != nil {
		t.Fatal(err)
	}
	look(true, 0)
	look(false, 0)
	if l, err = q.TryReceive(2); err != nil {
		t.Fatal(err)
	}
	look(true, 0)
	look(true, 0)
	look(true, 1)
	q.Ack(l)

	loan, err := q.TryLoan(1)
	if err != nil {
		t.Fatal(err)
	}
	look(true, 0)
	look(true, 0)
	look(true, 1)
	q.Abort(loan)
	look(true, 0)
	look(false, 0)
}
