package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// sendFrame commits the messages that fit into one slot and returns their number.
func sendFrame(t testing.TB, q *Queue, owner uint16, messages ...string) int {
	t.Helper()
	l, err := q.TryLoan(owner)
	if err != nil {
		t.Fatal(err)
	}
	f := NewFrame(q.LoanBytes(l))
	for _, m := range messages {
		b := f.Next(len(m))
		if b == nil {
			break
		}
		copy(b, m)
	}
	if err := q.CommitFrame(l, &f); err != nil {
		t.Fatal(err)
	}
	return f.Len()
}

// open leases the next slot and returns what is open in it.
func openFrame(t testing.TB, q *Queue, owner uint16) (Lease, Frame, string) {
	t.Helper()
	l, err := q.TryReceive(owner)
	if err != nil {
		t.Fatal(err)
	}
	f, err := q.Frame(l)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for i := f.FirstOpen(0); i < f.Len(); i = f.FirstOpen(i + 1) {
		text += fmt.Sprintf("%s ", f.At(i))
	}
	return l, f, text
}

func TestFrameHoldsWhatWasPutIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 300).Draw(t, "slot size")
		messages := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 20), 1, 80).Draw(t, "messages")
		if rapid.Bool().Draw(t, "one size") {
			for i := range messages {
				messages[i] = bytes.Repeat([]byte{byte(i)}, len(messages[0]))
			}
		}
		n, _ := QueueSize(QueueOptions{Slots: 2, SlotSize: size})
		q, err := FormatQueue(heap(n), header("jobs"), QueueOptions{Slots: 2, SlotSize: size})
		if err != nil {
			t.Fatal(err)
		}
		l, _ := q.TryLoan(2)
		for i := range q.LoanBytes(l) { // what was there before does not matter
			q.LoanBytes(l)[i] = 0xff
		}
		if size < 8 {
			q.Abort(l)
			return
		}
		f := NewFrame(q.LoanBytes(l))
		put := 0
		for _, m := range messages {
			b := f.Next(len(m))
			if b == nil {
				break
			}
			copy(b, m)
			put++
		}
		if put == 0 {
			if len(messages[0]) <= size-frameData {
				t.Fatalf("no room for %d bytes in %d", len(messages[0]), size)
			}
			return
		}
		if err := q.CommitFrame(l, &f); err != nil {
			t.Fatal(err)
		}
		lease, err := q.TryReceive(3)
		if err != nil {
			t.Fatal(err)
		}
		got, err := q.Frame(lease)
		if err != nil || got.Len() != put || got.Open() != put || got.Single() {
			t.Fatalf("%v, %d messages, %d open, put %d", err, got.Len(), got.Open(), put)
		}
		for i := range put {
			if !bytes.Equal(got.At(i), messages[i]) {
				t.Fatalf("message %d is %q, was %q", i, got.At(i), messages[i])
			}
		}
	})
}

// A consumer acks some messages of a frame and dies: the others come again, the first of them with a delivery more, the rest without.
func TestFrameGoesOnWhereItsConsumerDied(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 2, SlotSize: 64, MaxDeliveries: 3})
	sendFrame(t, q, 2, "a", "b", "c", "d")
	dead := func(owner uint16) bool { return owner == 3 }
	l, f, open := openFrame(t, q, 3)
	if open != "a b c d " || l.Deliveries() != 0 {
		t.Fatal(open, l.Deliveries())
	}
	for _, i := range []int{0, 2} {
		if err := q.AckMessage(&l, &f, i); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.AckMessage(&l, &f, 0); !errors.Is(err, ErrLost) {
		t.Fatal("acked twice:", err)
	}
	if q.Stat().Messages != 2 {
		t.Fatalf("%+v", q.Stat())
	}
	q.Repair(dead)
	l, f, open = openFrame(t, q, 3)
	if open != "b d " || l.Deliveries() != 1 || !f.Single() {
		t.Fatal(open, l.Deliveries(), f.Single())
	}
	q.AckMessage(&l, &f, 1) // the count belonged to b
	q.Repair(dead)
	if l, f, open = openFrame(t, q, 3); open != "d " || l.Deliveries() != 1 || !f.Single() {
		t.Fatal(open, l.Deliveries())
	}
	if err := q.AckMessage(&l, &f, 3); err != nil { // the last: frees the slot
		t.Fatal(err)
	}
	if s := q.Stat(); s.Free != 2 || s.Sent != 4 || s.Acked != 4 || s.Messages != 0 {
		t.Fatalf("%+v", s)
	}
}

// The message that kills its consumers is moved, and only that one.
func TestFrameLosesOnlyItsPoisonToTheDeadLetters(t *testing.T) {
	for _, cut := range []string{"", "before U", "after U", "after V"} {
		t.Run(cut, func(t *testing.T) {
			q := newQueue(t, QueueOptions{Slots: 2, SlotSize: 64, MaxDeliveries: 2})
			dead := newQueue(t, QueueOptions{Slots: 4, SlotSize: 64 + SizeofDeadLetter, DeadLetter: true})
			sendFrame(t, q, 2, "good", "poison", "fine")
			for range 2 {
				l, f, _ := openFrame(t, q, 3)
				if f.FirstOpen(0) == 0 {
					q.AckMessage(&l, &f, 0)
				}
				q.Repair(func(owner uint16) bool { return owner == 3 })
			}
			if cut != "" { // the daemon dies in the middle of the move
				w := Word(q.slot(0).State.Load())
				if w.Phase() != PhaseDead {
					t.Fatal(w.Phase())
				}
				loan, _ := dead.TryLoan(1)
				f, _ := q.frame(0)
				dead.Commit(loan, dead.writeDead(loan, DeadInfo{Position: 0, Index: 1, Deliveries: 2}, f.At(1)))
				moving := MakeWord(PhaseMoving, 1, 2, w.Lap())
				if cut != "before U" {
					moving = MakeWord(PhaseMoving, 1, 0, w.Lap())
				}
				if cut == "after V" {
					f.done.Or(2)
				}
				q.slot(0).State.Store(uint64(moving))
				q.Repair(func(owner uint16) bool { return owner == 1 })
			}
			if _, err := q.MoveDead(dead, 1); err != nil {
				t.Fatal(err)
			}
			if _, _, open := openFrame(t, q, 3); open != "fine " {
				t.Fatal(open)
			}
			l, err := dead.TryReceive(3)
			if err != nil {
				t.Fatal(err)
			}
			info, p, err := dead.ReadDead(l)
			if err != nil || string(p) != "poison" || info.Index != 1 || info.Deliveries != 2 {
				t.Fatalf("%v %q %+v", err, p, info)
			}
			if _, err := dead.TryReceive(3); !errors.Is(err, ErrEmpty) {
				t.Fatal("moved twice:", err)
			}
		})
	}
}

func TestDamagedFrames(t *testing.T) {
	for _, c := range []struct {
		what          string
		length, frame uint32
	}{
		{"too many messages", 64, 65},
		{"no room for the mask", 7, 1},
		{"a table larger than the slot", 64, 20 | frameVaried},
		{"sizes that do not add up", 8 + 7, 2},
		{"length beyond the slot", 65, 2},
		{"nothing in it", 8, 0},
	} {
		q := newQueue(t, QueueOptions{Slots: 2, SlotSize: 64})
		sendFrame(t, q, 2, "a", "b")
		q.slot(0).Length.Store(c.length)
		q.slot(0).Frame.Store(c.frame)
		l, err := q.TryReceive(3)
		var corrupt *CorruptError
		if c.frame == 0 { // one message of eight bytes
			if f, err2 := q.Frame(l); err != nil || err2 != nil || f.Len() != 1 || len(f.At(0)) != 8 {
				t.Errorf("%s: %v %v", c.what, err, err2)
			}
			continue
		}
		if !errors.As(err, &corrupt) || q.Stat().Free != 2 {
			t.Errorf("%s: %v, %+v", c.what, err, q.Stat())
		}
	}
	q := newQueue(t, QueueOptions{Slots: 2, SlotSize: 64})
	sendFrame(t, q, 2, "a", "b")
	l, f, _ := openFrame(t, q, 3)
	f.done.Store(1<<64 - 1) // a hostile peer: everything is done
	if i := f.FirstOpen(0); i != 2 || f.At(i) != nil || f.At(-1) != nil {
		t.Errorf("%d: %q", i, f.At(i))
	}
	q.Ack(l)
	q = newQueue(t, QueueOptions{Slots: 2, SlotSize: 64})
	sendFrame(t, q, 2, "a", "bb")
	q.payload(0)[len(q.payload(0))-8] = 200 // the end of bb
	l, _ = q.TryReceive(3)
	if f, err := q.Frame(l); err != nil || f.At(1) != nil || string(f.At(0)) != "a" {
		t.Errorf("%v, %q", err, f.At(1))
	}
}
