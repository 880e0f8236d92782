package protocol

import (
	"encoding/binary"
	"errors"
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
