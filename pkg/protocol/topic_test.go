package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
)

func newTopic(t testing.TB, o TopicOptions) *Topic {
	t.Helper()
	n, err := TopicSize(o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := FormatTopic(heap(n), header("news"), o)
	if err != nil {
		t.Fatal(err)
	}
	if o.Single {
		c.Admit(2)
	}
	return c
}

func newPublisher(t testing.TB, c *Topic, owner uint16) *Publisher {
	t.Helper()
	p, err := c.Publisher(owner)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func subscribe(t testing.TB, c *Topic, owner uint16, from From) *Subscriber {
	t.Helper()
	s, err := c.Subscribe(owner, from)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tell publishes v: 8 bytes.
func tell(p *Publisher, v uint64) error {
	return p.TryPublish(binary.LittleEndian.AppendUint64(nil, v))
}

// hear reads the next message.
func hear(t testing.TB, s *Subscriber) (uint64, error) {
	b, err := s.Next()
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		t.Fatalf("payload of %d bytes", len(b))
	}
	v := binary.LittleEndian.Uint64(b)
	switch err := s.Done(); {
	case errors.Is(err, ErrLapped):
		return hear(t, s) // now it is told how many are lost
	case err != nil:
		return 0, err
	}
	s.Flush()
	return v, nil
}

// expect reads messages until there are no more, which must be these.
func expect(t testing.TB, s *Subscriber, want ...uint64) {
	t.Helper()
	for _, w := range want {
		if v, err := hear(t, s); err != nil || v != w {
			t.Fatalf("got %d, %v, want %d", v, err, w)
		}
	}
	if v, err := hear(t, s); !errors.Is(err, ErrEmpty) {
		t.Fatalf("got %d, %v after the last message", v, err)
	}
}

// topics runs a test for topics of each sort, from each first position.
func topics(t *testing.T, slots int, test func(t *testing.T, o TopicOptions)) {
	for _, single := range []bool{false, true} {
		for _, drop := range []bool{false, true} {
			t.Run(fmt.Sprintf("single=%v,drop=%v", single, drop), func(t *testing.T) {
				for _, start := range starts(slots) {
					test(t, TopicOptions{Slots: slots, SlotSize: 8, Cursors: 3, Single: single, DropOldest: drop, Start: start})
				}
			})
		}
	}
}

func TestTopicEachSubscriberGetsAll(t *testing.T) {
	for _, slots := range []int{2, 8} {
		topics(t, slots, func(t *testing.T, o TopicOptions) {
			c := newTopic(t, o)
			p := newPublisher(t, c, 2)
			a, b := subscribe(t, c, 3, FromNew), subscribe(t, c, 4, FromNew)
			for i := range uint64(5 * slots) {
				if err := tell(p, i); err != nil {
					t.Fatalf("start %#x: message %d: %v", o.Start, i, err)
				}
				expect(t, a, i)
				if i%2 == 1 && slots > 2 {
					expect(t, b, i-1, i)
				} else if slots == 2 {
					expect(t, b, i)
				}
			}
			if s := c.Stat(); s.Published != uint64(5*slots) || s.Received != 2*s.Published || s.Lost != 0 {
				t.Errorf("start %#x: %+v", o.Start, s)
			}
		})
	}
}

func TestTopicBlocksForTheSlowest(t *testing.T) {
	topics(t, 4, func(t *testing.T, o TopicOptions) {
		if o.DropOldest {
			return
		}
		c := newTopic(t, o)
		p := newPublisher(t, c, 2)
		for v := range uint64(9) { // nobody there: nobody is waited for
			if err := tell(p, v); err != nil {
				t.Fatalf("start %#x: message %d, nobody subscribed: %v", o.Start, v, err)
			}
		}
		slow, fast := subscribe(t, c, 3, FromNew), subscribe(t, c, 4, FromNew)
		for v := range uint64(4) {
			if err := tell(p, v); err != nil {
				t.Fatalf("start %#x: message %d: %v", o.Start, v, err)
			}
		}
		expect(t, fast, 0, 1, 2, 3)
		for range 3 {
			if err := tell(p, 4); !errors.Is(err, ErrFull) {
				t.Fatalf("start %#x: a fifth message into four slots: %v", o.Start, err)
			}
		}
		blocking := c.Blocking()
		if len(blocking) != 1 || blocking[0].Owner != 3 || blocking[0].Lag != 4 {
			t.Fatalf("who blocks: %+v", blocking)
		}
		if v, err := hear(t, slow); v != 0 || err != nil {
			t.Fatal(v, err)
		}
		if err := tell(p, 4); err != nil {
			t.Fatalf("start %#x: after one was read: %v", o.Start, err)
		}
		if err := tell(p, 5); !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		if err := slow.Close(); err != nil {
			t.Fatal(err)
		}
		for v := range uint64(3) {
			if err := tell(p, 5+v); err != nil {
				t.Fatalf("start %#x: after the slow one left: %v", o.Start, err)
			}
		}
		expect(t, fast, 4, 5, 6, 7)
	})
}

func TestTopicLapped(t *testing.T) {
	topics(t, 8, func(t *testing.T, o TopicOptions) {
		if !o.DropOldest {
			return
		}
		c := newTopic(t, o)
		p := newPublisher(t, c, 2)
		s := subscribe(t, c, 3, FromNew)
		next, told := uint64(0), uint64(0)
		var lost uint64
		for _, n := range []uint64{3, 20, 1, 9, 8, 7, 100, 2} {
			for range n {
				if err := tell(p, told); err != nil {
					t.Fatal(err)
				}
				told++
			}
			for {
				v, err := hear(t, s)
				var gap *LostError
				switch {
				case errors.Is(err, ErrEmpty):
				case errors.As(err, &gap):
					next += gap.Count
					lost += gap.Count
					continue
				case err != nil || v != next:
					t.Fatalf("start %#x: got %d, %v, want %d", o.Start, v, err, next)
				default:
					next++
					continue
				}
				break
			}
			if next != told {
				t.Fatalf("start %#x: %d of %d messages accounted for", o.Start, next, told)
			}
		}
		if lost == 0 || s.Lost() != lost || c.Stat().Lost != lost {
			t.Errorf("lost %d, subscriber says %d, topic %d", lost, s.Lost(), c.Stat().Lost)
		}
		if lost > 20-6+9-6+100-6+8-6+7-6 {
			t.Errorf("lost %d: more than has to be", lost)
		}
	})
}

// What is overwritten while it is read does not count, and is counted as lost.
func TestTopicOverwrittenUnderTheReader(t *testing.T) {
	topics(t, 4, func(t *testing.T, o TopicOptions) {
		c := newTopic(t, o)
		p := newPublisher(t, c, 2)
		s := subscribe(t, c, 3, FromNew)
		tell(p, 0)
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
		if !o.DropOldest {
			c.Evict(s.index)
		}
		for v := range uint64(4) {
			if err := tell(p, v); err != nil {
				t.Fatal(err)
			}
		}
		want := ErrEvicted
		if o.DropOldest {
			want = ErrLapped
		}
		if err := s.Done(); !errors.Is(err, want) {
			t.Fatalf("start %#x: done with what was overwritten: %v", o.Start, err)
		}
		_, err := s.Next()
		var gap *LostError
		if o.DropOldest && !errors.As(err, &gap) || !o.DropOldest && !errors.Is(err, ErrEvicted) {
			t.Fatalf("start %#x: afterwards: %v", o.Start, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTopicLateJoiners(t *testing.T) {
	topics(t, 16, func(t *testing.T, o TopicOptions) {
		for n := range uint64(70) {
			c := newTopic(t, o)
			p := newPublisher(t, c, 2)
			var busy *Subscriber
			if n%2 == 1 {
				busy = subscribe(t, c, 9, FromNew)
			}
			for v := range n {
				if err := tell(p, v); err != nil {
					t.Fatal(err)
				}
				if busy != nil && v%3 == 0 {
					for {
						if _, err := hear(t, busy); err != nil {
							break
						}
					}
				}
			}
			oldest := subscribe(t, c, 3, FromOldest)
			last, err := c.Subscribe(4, FromLast)
			if err != nil {
				t.Fatal(err)
			}
			kept := n - oldest.Position() + o.Start
			if n < 12 && kept != n || n >= 12 && (kept < 12 || kept > 16) {
				t.Fatalf("start %#x: after %d messages %d are kept", o.Start, n, kept)
			}
			for v := n - kept; v < n; v++ {
				if got, err := hear(t, oldest); got != v || err != nil {
					t.Fatalf("start %#x: oldest: got %d, %v, want %d", o.Start, got, err, v)
				}
			}
			expect(t, oldest)
			if n > 0 {
				expect(t, last, n-1)
			} else {
				expect(t, last)
			}
		}
	})
}

func TestTopicSkipsWhatWasGivenBack(t *testing.T) {
	topics(t, 4, func(t *testing.T, o TopicOptions) {
		c := newTopic(t, o)
		p := newPublisher(t, c, 2)
		s := subscribe(t, c, 3, FromNew)
		for v := range uint64(20) {
			l, err := p.TryLoan()
			if err != nil {
				t.Fatalf("start %#x: loan %d: %v", o.Start, v, err)
			}
			binary.LittleEndian.PutUint64(p.LoanBytes(l), v)
			if v%3 == 1 {
				if err := p.Abort(l); err != nil {
					t.Fatal(err)
				}
				expect(t, s)
				continue
			}
			if err := p.Commit(l, 8); err != nil {
				t.Fatal(err)
			}
			if err := p.Commit(l, 8); !errors.Is(err, ErrLost) {
				t.Fatalf("second commit: %v", err)
			}
			expect(t, s, v)
		}
		if st := c.Stat(); st.Published != 13 {
			t.Errorf("%+v", st)
		}
	})
}

func TestTopicRepair(t *testing.T) {
	topics(t, 4, func(t *testing.T, o TopicOptions) {
		c := newTopic(t, o)
		p := newPublisher(t, c, 2)
		s, dying := subscribe(t, c, 3, FromNew), subscribe(t, c, 5, FromNew)
		tell(p, 0)
		l, err := p.TryLoan()
		if err != nil {
			t.Fatal(err)
		}
		binary.LittleEndian.PutUint64(p.LoanBytes(l), 99)
		isDead := func(o uint16) bool { return o == 2 || o == 5 }
		r := c.Repair(isDead)
		if r.Leases != 1 || r.Loans != 1 && !o.Single {
			t.Fatalf("repair: %+v", r)
		}
		if again := c.Repair(isDead); again != (Repaired{}) || c.Holds(isDead) {
			t.Fatalf("a second repair: %+v", again)
		}
		if err := dying.Close(); !errors.Is(err, ErrLost) {
			t.Errorf("close of a row that a repair took: %v", err)
		}
		if o.Single {
			if _, err := c.Publisher(6); !errors.Is(err, ErrNotPublisher) {
				t.Fatalf("a publisher that nobody admitted: %v", err)
			}
			c.Admit(6)
		} else if err := p.Commit(l, 8); !errors.Is(err, ErrLost) {
			t.Fatalf("commit of what a repair took: %v", err)
		}
		reopened, err := OpenTopic(c.b) // as another process does
		if err != nil {
			t.Fatal(err)
		}
		q := newPublisher(t, reopened, 6)
		for v := uint64(1); v < 10; v++ {
			if err := tell(q, v); err != nil {
				t.Fatal(err)
			}
			if v == 1 {
				expect(t, s, 0, 1)
			} else {
				expect(t, s, v)
			}
		}
	})
}

func TestTopicOneOrder(t *testing.T) {
	c := newTopic(t, TopicOptions{Slots: 4, SlotSize: 8, Cursors: 3})
	p, q := newPublisher(t, c, 2), newPublisher(t, c, 5)
	a := subscribe(t, c, 3, FromNew)
	first, err := p.TryLoan()
	if err != nil {
		t.Fatal(err)
	}
	for v := range uint64(3) {
		if err := tell(q, v); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, a) // a topic does block at a loan: one order for all
	if err := tell(q, 3); !errors.Is(err, ErrFull) {
		t.Fatalf("round to a loan: %v", err)
	}
	binary.LittleEndian.PutUint64(p.LoanBytes(first), 77)
	if err := p.Commit(first, 8); err != nil {
		t.Fatal(err)
	}
	expect(t, a, 77, 0, 1, 2)
}

func TestTopicBatches(t *testing.T) {
	topics(t, 16, func(t *testing.T, o TopicOptions) {
		c := newTopic(t, o)
		p := newPublisher(t, c, 2)
		s := subscribe(t, c, 3, FromNew)
		var next, told uint64
		for round := range 40 {
			var msgs [][]byte
			for i := range uint64(round % 23) {
				msgs = append(msgs, binary.LittleEndian.AppendUint64(nil, told+i))
			}
			n, err := p.TryPublishBatch(msgs)
			if err != nil && (n != 0 || len(msgs) == 0) || n < len(msgs) && n < 16 && !o.DropOldest && n < 16-int(told-next) {
				t.Fatalf("start %#x, round %d: %d, %v", o.Start, round, n, err)
			}
			told += uint64(n)
			for {
				v, err := hear(t, s)
				var gap *LostError
				if errors.As(err, &gap) {
					next += gap.Count
					continue
				}
				if err != nil {
					break
				}
				if v != next {
					t.Fatalf("start %#x: got %d, want %d", o.Start, v, next)
				}
				next++
			}
			if next != told {
				t.Fatalf("start %#x: %d of %d", o.Start, next, told)
			}
		}
	})
}

func TestTopicRows(t *testing.T) {
	c := newTopic(t, TopicOptions{Slots: 4, SlotSize: 8, Cursors: 3})
	var all []*Subscriber
	for range 3 {
		all = append(all, subscribe(t, c, 3, FromNew))
	}
	if _, err := c.Subscribe(4, FromNew); !errors.Is(err, ErrCursors) {
		t.Fatal(err)
	}
	if err := c.Evict(1); err != nil {
		t.Fatal(err)
	}
	if err := c.Evict(1); !errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
	if _, err := c.Subscribe(4, FromNew); !errors.Is(err, ErrCursors) {
		t.Fatalf("the row of an evicted subscriber is its own until it closes: %v", err)
	}
	if _, err := all[1].Next(); !errors.Is(err, ErrEvicted) {
		t.Fatal(err)
	}
	all[1].Close()
	s := subscribe(t, c, 4, FromNew)
	if s.index != 1 {
		t.Errorf("row %d", s.index)
	}
	if err := all[1].Close(); !errors.Is(err, ErrLost) {
		t.Errorf("second close: %v", err)
	}
	if _, err := all[1].Next(); !errors.Is(err, ErrLost) {
		t.Errorf("after close: %v", err)
	}
}

func TestTopicEvictStuck(t *testing.T) {
	topics(t, 4, func(t *testing.T, o TopicOptions) {
		if o.DropOldest {
			return
		}
		c := newTopic(t, o)
		p := newPublisher(t, c, 2)
		stuck, slow := subscribe(t, c, 3, FromNew), subscribe(t, c, 4, FromNew)
		for tell(p, 1) == nil {
		}
		since := c.Blocking()
		if len(since) != 2 {
			t.Fatalf("%+v", since)
		}
		hear(t, slow)
		if n := c.EvictStuck(since); n != 1 {
			t.Fatalf("%d evicted", n)
		}
		if _, err := stuck.Next(); !errors.Is(err, ErrEvicted) {
			t.Fatal(err)
		}
		if err := tell(p, 2); err != nil {
			t.Fatal(err)
		}
	})
}
