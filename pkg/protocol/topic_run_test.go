package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

// TestTopicRun: a run gives what Next and Done give, across the wrap of the ring, for lengths that change and stay, and ends at an error, a gap and an eviction.
func TestTopicRun(t *testing.T) {
	for _, single := range []bool{true, false} {
		c := newTopic(t, TopicOptions{Slots: 16, SlotSize: 72, Cursors: 2, Single: single, Start: 1<<32 - 5})
		p := newPublisher(t, c, 2)
		s := subscribe(t, c, 3, FromNew)
		sent, got := 0, 0
		wrong := errors.New("wrong")
		fn := func(b []byte) error {
			if len(b) != 64+got%2*8 || binary.LittleEndian.Uint64(b) != uint64(got) {
				return wrong
			}
			got++
			return nil
		}
		for range 50 {
			var msgs [][]byte
			for range 11 {
				b := make([]byte, 64+sent%2*8) // 11 is odd: a slot gets another length every other lap
				binary.LittleEndian.PutUint64(b, uint64(sent))
				msgs = append(msgs, b)
				sent++
			}
			for len(msgs) > 0 {
				n, err := p.TryPublishBatch(msgs)
				if err != nil {
					t.Fatal(err)
				}
				msgs = msgs[n:]
				for {
					if _, err := s.Next(); err != nil {
						break
					}
					before := got
					if n, err := s.Run(5, fn); err != nil || n != got-before || n == 0 {
						t.Fatalf("single %v: Run: %d, %v after %d messages", single, n, err, got)
					}
				}
			}
		}
		if got != sent {
			t.Fatalf("single %v: %d of %d messages", single, got, sent)
		}
		// An error: the message comes again.
		if err := p.TryPublish(make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		at := s.Position()
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Run(5, fn); n != 0 || err != wrong || s.Position() != at {
			t.Fatalf("single %v: Run: %d, %v", single, n, err)
		}
		// An eviction while fn runs: the message does not count.
		n, err := s.Run(5, func([]byte) error { return c.Evict(s.index) })
		if n != 0 || !errors.Is(err, ErrEvicted) {
			t.Fatalf("single %v: Run of an evicted: %d, %v", single, n, err)
		}
	}
}

// TestTopicRunLapped: what publishers overwrite while fn reads does not count.
func TestTopicRunLapped(t *testing.T) {
	c := newTopic(t, TopicOptions{Slots: 16, SlotSize: 8, Cursors: 2, Single: true, DropOldest: true})
	p := newPublisher(t, c, 2)
	s := subscribe(t, c, 3, FromNew)
	publish := func() {
		if err := p.TryPublish(make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	publish()
	if _, err := s.Next(); err != nil {
		t.Fatal(err)
	}
	n, err := s.Run(2, func([]byte) error {
		for range 20 {
			publish()
		}
		return nil
	})
	if n != 0 || !errors.Is(err, ErrLapped) {
		t.Fatalf("Run: %d, %v", n, err)
	}
	var lost *LostError
	if _, err := s.Next(); !errors.As(err, &lost) {
		t.Fatalf("Next: %v", err)
	}
}

// TestTopicSizes: every byte of messages of all sizes arrives, published alone and in batches, small ones and those that a call copies, gathered ones among others, across the
// end of the ring.
func TestTopicSizes(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, slotSize := range []int{8, 64, 100, 200} {
		c := newTopic(t, TopicOptions{Slots: 16, SlotSize: slotSize, Cursors: 1, Single: true})
		p := newPublisher(t, c, 2)
		s := subscribe(t, c, 3, FromNew)
		for round := range 500 {
			msgs := make([][]byte, 1+r.IntN(8))
			for i := range msgs {
				msgs[i] = make([]byte, min(slotSize, []int{64, 8, r.IntN(slotSize + 1), slotSize}[r.IntN(4)]))
				for k := range msgs[i] {
					msgs[i][k] = byte(r.Uint32())
				}
			}
			if round%2 == 0 {
				for left := msgs; len(left) > 0; {
					n, err := p.TryPublishBatch(left)
					if err != nil {
						t.Fatal(err)
					}
					left = left[n:]
				}
			} else {
				for _, m := range msgs {
					if err := p.TryPublish(m); err != nil {
						t.Fatal(err)
					}
				}
			}
			for i, want := range msgs {
				b, err := s.Next()
				if err != nil || !bytes.Equal(b, want) {
					t.Fatalf("slots of %d bytes, round %d, message %d: %x, %v; want %x", slotSize, round, i, b, err, want)
				}
				if err := s.Done(); err != nil {
					t.Fatal(err)
				}
			}
			s.Flush()
		}
	}
}
