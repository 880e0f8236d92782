package protocol

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// A run is a frame of which nothing was acked and nobody died: of every other the messages come one by one.
func TestLaneRun(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 4, SlotSize: 48})
	out := l.peer(t)
	p, err := l.Producer(2)
	if err != nil {
		t.Fatal(err)
	}
	c, err := out.Consumer(3)
	if err != nil {
		t.Fatal(err)
	}
	take := func(want int) Lease {
		t.Helper()
		lease, b, n, err := c.TryReceive()
		if err != nil || n != want || len(b) != 8*want {
			t.Fatalf("%d messages in %d bytes, %v; want %d", n, len(b), err, want)
		}
		return lease
	}
	for range 9 { // more than a lap
		if n, err := p.SendRun([]byte("message0message1message2"), 8); n != 3 || err != nil {
			t.Fatal(n, err)
		}
		lease := take(3)
		if lease.Open() != 3 {
			t.Fatalf("%d are open of 3", lease.Open())
		}
		if err := c.Ack(lease); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := p.SendRun([]byte("message0message1message2"), 8); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	lease := take(3)
	f, err := l.q.Frame(lease)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AckMessage(&lease, &f, 0); err != nil {
		t.Fatal(err)
	}
	if err := out.Return(lease); err != nil {
		t.Fatal(err)
	}
	if lease = take(0); lease.Open() != 2 {
		t.Fatalf("%d are open of 2 that came back", lease.Open())
	}
	if err := out.Nack(lease); err != nil {
		t.Fatal(err)
	}
	if lease = take(0); lease.Deliveries() != 1 {
		t.Fatalf("%d deliveries of 1", lease.Deliveries())
	}
	if err := c.Ack(lease); err != nil {
		t.Fatal(err)
	}
	if n, err := p.SendRun([]byte("message0message1message2"), 8); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if err := out.Nack(take(3)); err != nil { // one of them may be what kills
		t.Fatal(err)
	}
	if lease = take(0); lease.Open() != 3 || lease.Deliveries() != 1 {
		t.Fatalf("%d are open of 3, %d deliveries of 1", lease.Open(), lease.Deliveries())
	}
	if err := c.Ack(lease); err != nil {
		t.Fatal(err)
	}
	if n, err := p.SendRun([]byte("message3"), 8); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	lease = take(1) // a message alone
	if err := out.Nack(lease); err != nil {
		t.Fatal(err)
	}
	if lease = take(1); lease.Deliveries() != 1 { // again, and with it its count
		t.Fatalf("%d deliveries of 1", lease.Deliveries())
	}
}

// Whatever a list holds, its messages arrive in order and whole: of the sizes that are copied without a call, of others, of none, and mixed.
func TestLaneBatches(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		slot := rapid.SampledFrom([]int{8, 9, 64, 72, 200, 1032, 5000}).Draw(rt, "slot size")
		l := newLane(t, QueueOptions{Slots: 4, SlotSize: slot})
		out := l.peer(t)
		p, err := l.Producer(2)
		if err != nil {
			rt.Fatal(err)
		}
		sizes := []int{0, 1, 7, 8, 9, 63, 64, 65, 100}
		var msgs [][]byte
		for len(msgs) < 150 {
			size := rapid.SampledFrom(sizes).Draw(rt, "size")
			for range rapid.IntRange(1, 40).Draw(rt, "times") {
				msgs = append(msgs, bytes.Repeat([]byte{byte(len(msgs))}, min(size, slot)))
			}
		}
		got := 0
		for sent := 0; sent < len(msgs); {
			n, err := p.SendBatch(msgs[sent:])
			if err != nil || n < 1 {
				rt.Fatal(n, err)
			}
			lease, err := out.TryReceive(3)
			if err != nil {
				rt.Fatal(err)
			}
			f, err := l.q.Frame(lease)
			if err != nil || f.Len() != n {
				rt.Fatalf("%d messages, %v; %d were sent", f.Len(), err, n)
			}
			for i := range n {
				if !bytes.Equal(f.At(i), msgs[sent+i]) {
					rt.Fatalf("message %d is %x, want %x", sent+i, f.At(i), msgs[sent+i])
				}
			}
			if err := out.Ack(lease); err != nil {
				rt.Fatal(err)
			}
			sent += n
			got += n
		}
		if got != len(msgs) {
			rt.Fatalf("%d messages of %d", got, len(msgs))
		}
	})
}

// Send and Receive of the ends do what those of Lane do also where the usual case is none: full, empty after a lap, beside a loan and a lease that are overtaken, and
// for what came back.
func TestLaneEndsCopy(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 4, SlotSize: 48})
	out := l.peer(t)
	p, err := l.Producer(2)
	if err != nil {
		t.Fatal(err)
	}
	c, err := out.Consumer(3)
	if err != nil {
		t.Fatal(err)
	}
	send := func(s string, want error) {
		t.Helper()
		if err := p.Send([]byte(s)); err != want {
			t.Fatalf("send %q: %v, want %v", s, err, want)
		}
	}
	receive := func(want string) {
		t.Helper()
		b, lease, err := c.Receive([]byte("<"))
		if want == "" && err == ErrEmpty && string(b) == "<" {
			return
		}
		if err != nil || lease.Open() != 0 || string(b) != "<"+want {
			t.Fatalf("received %q, %v; want %q", b, err, want)
		}
	}
	for range 3 { // laps
		receive("")
		for _, s := range []string{"a", "", "message2", "d"} {
			send(s, nil)
		}
		send("e", ErrFull)
		for _, s := range []string{"a", "", "message2", "d"} {
			if b, _, err := c.Receive(nil); err != nil || string(b) != s {
				t.Fatalf("received %q, %v; want %q", b, err, s)
			}
		}
		receive("")
	}
	loan, err := p.TryLoan()
	if err != nil {
		t.Fatal(err)
	}
	send("younger", nil)
	if err := p.Commit(loan, copy(l.q.LoanBytes(loan), "older")); err != nil {
		t.Fatal(err)
	}
	receive("older") // what came behind head comes first
	receive("younger")
	receive("")

	send("kept", nil)
	send("next", nil)
	kept, b, _, err := c.TryReceive()
	if err != nil {
		t.Fatal(err)
	}
	receive("next")
	for i := range 7 { // around the slot that is kept
		send("round", nil)
		if i > 0 {
			receive("round")
		}
	}
	if string(b) != "kept" {
		t.Fatalf("a message that is kept became %q", b)
	}
	if err := out.Nack(kept); err != nil {
		t.Fatal(err)
	}
	receive("kept")
	receive("round")
	receive("")
}
