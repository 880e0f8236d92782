package protocol

import (
	"encoding/binary"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// topicModel is a topic as a plain list: the value at each position, 0 for none.
type topicModel struct {
	values []uint64
	subs   []*modelSub
}

type modelSub struct {
	*Subscriber
	next    uint64 // position from the first
	reading bool
	evicted bool
}

// TestTopicMatchesModel does random operations on a topic and on a plain list, and compares what they say.
func TestTopicMatchesModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		slots := 1 << rapid.IntRange(1, 4).Draw(rt, "log2 slots")
		o := TopicOptions{Slots: slots, SlotSize: 8, Cursors: 3, Single: rapid.Bool().Draw(rt, "single"), DropOldest: rapid.Bool().Draw(rt, "drop"),
			Start: rapid.SampledFrom(starts(slots)).Draw(rt, "start")}
		c := newTopic(t, o)
		p := newPublisher(t, c, 2)
		var m topicModel
		var loan *TopicLoan
		full := func() bool { // may the next message not be written?
			for _, s := range m.subs {
				shown := s.row.Position.Load() - o.Start // it lags behind next only by positions without a message
				for at := shown; at < s.next; at++ {
					if m.values[at] != 0 && !s.evicted {
						rt.Fatalf("the cursor shows %d, and %d was done", shown, at)
					}
				}
				if !o.DropOldest && !s.evicted && uint64(len(m.values))-shown >= uint64(slots) {
					return true
				}
			}
			return false
		}
		rt.Repeat(map[string]func(*rapid.T){
			"publish": func(rt *rapid.T) {
				v := uint64(len(m.values) + 1)
				switch err := tell(p, v); {
				case err == nil && !full() && (loan == nil || !o.Single):
					m.values = append(m.values, v)
				case errors.Is(err, ErrLoaned) && loan != nil && o.Single:
				case errors.Is(err, ErrFull) && (full() || loan != nil && uint64(len(m.values))-(loan.position-o.Start) >= uint64(slots)):
				default:
					rt.Fatalf("publish: %v, full: %v", err, full())
				}
			},
			"batch": func(rt *rapid.T) {
				var msgs [][]byte
				for i := range rapid.IntRange(1, 2*slots).Draw(rt, "messages") {
					msgs = append(msgs, binary.LittleEndian.AppendUint64(nil, uint64(len(m.values)+1+i)))
				}
				n, err := p.TryPublishBatch(msgs)
				if err == nil == (n == 0) || n < len(msgs) && n > 0 && loan == nil && o.DropOldest {
					rt.Fatalf("batch of %d: %d, %v", len(msgs), n, err)
				}
				for range n {
					if full() {
						rt.Fatal("published more than there is room for")
					}
					m.values = append(m.values, uint64(len(m.values)+1))
				}
			},
			"loan": func(rt *rapid.T) {
				if loan != nil {
					rt.Skip()
				}
				l, err := p.TryLoan()
				if err == nil == full() {
					rt.Fatalf("loan: %v, full: %v", err, full())
				}
				if err == nil {
					loan = &l
					binary.LittleEndian.PutUint64(p.LoanBytes(l), l.position-o.Start+1)
					if !o.Single {
						m.values = append(m.values, 0)
					}
				}
			},
			"end loan": func(rt *rapid.T) {
				if loan == nil {
					rt.Skip()
				}
				var err error
				switch rapid.IntRange(0, 2).Draw(rt, "how") {
				case 0:
					err = p.Abort(*loan)
				case 1:
					err = p.Commit(*loan, 8)
					if at := loan.position - o.Start; o.Single {
						m.values = append(m.values, at+1)
					} else {
						m.values[at] = at + 1
					}
				default: // its process dies, and another one publishes
					c.Repair(func(owner uint16) bool { return owner == 2 })
					reopened, e := OpenTopic(c.b)
					if e != nil {
						rt.Fatal(e)
					}
					reopened.Admit(2)
					p = newPublisher(t, reopened, 2)
				}
				if err != nil {
					rt.Fatal(err)
				}
				loan = nil
			},
			"subscribe": func(rt *rapid.T) {
				from := From(rapid.IntRange(0, 2).Draw(rt, "from"))
				s, err := c.Subscribe(uint16(3+len(m.subs)), from)
				if (len(m.subs) == 3) != errors.Is(err, ErrCursors) || err != nil && !errors.Is(err, ErrCursors) {
					rt.Fatalf("%d subscribers, one more: %v", len(m.subs), err)
				}
				if err != nil {
					return
				}
				at := s.Position() - o.Start
				end := uint64(len(m.values))
				if at > end || end-at > uint64(slots) || from == FromNew && at != end && loan == nil ||
					from == FromOldest && loan == nil && end-at < min(end, uint64(slots-max(1, slots/4))) {
					rt.Fatalf("from %d begins at %d of %d", from, at, end)
				}
				m.subs = append(m.subs, &modelSub{Subscriber: s, next: at})
			},
			"receive": func(rt *rapid.T) {
				if len(m.subs) == 0 {
					rt.Skip()
				}
				s := rapid.SampledFrom(m.subs).Draw(rt, "who")
				m.receive(rt, c, s, loan, o)
			},
			"leave": func(rt *rapid.T) {
				if len(m.subs) == 0 {
					rt.Skip()
				}
				i := rapid.IntRange(0, len(m.subs)-1).Draw(rt, "who")
				s := m.subs[i]
				switch rapid.IntRange(0, 2).Draw(rt, "how") {
				case 0:
					if err := s.Close(); err != nil {
						rt.Fatal(err)
					}
				case 1:
					owner := cursorOwner(s.state)
					if r := c.Repair(func(o uint16) bool { return o == owner }); r.Leases < 1 {
						rt.Fatalf("%+v", r)
					}
					m.subs = deleteSubs(m.subs, func(x *modelSub) bool { return cursorOwner(x.state) == owner })
					return
				default:
					if err := c.Evict(s.index); err == nil == s.evicted {
						rt.Fatal(err)
					}
					s.evicted = true
					return
				}
				m.subs = append(m.subs[:i:i], m.subs[i+1:]...)
			},
			"": func(rt *rapid.T) {
				if got, want := len(c.Cursors()), len(m.subs); got != want {
					rt.Fatalf("%d rows are in use, want %d", got, want)
				}
			},
		})
	})
}

func deleteSubs(subs []*modelSub, gone func(*modelSub) bool) (rest []*modelSub) {
	for _, s := range subs {
		if !gone(s) {
			rest = append(rest, s)
		}
	}
	return rest
}

// receive reads one message, in one step or in two with whatever happens between them.
func (m *topicModel) receive(rt *rapid.T, c *Topic, s *modelSub, loan *TopicLoan, o TopicOptions) {
	var b []byte
	var err error
	if !s.reading {
		for s.next < uint64(len(m.values)) && m.values[s.next] == 0 && (loan == nil || loan.position-o.Start != s.next) {
			s.next++ // SKIP
		}
		before := s.Position()
		b, err = s.Next()
		var gap *LostError
		switch {
		case s.evicted:
			if !errors.Is(err, ErrEvicted) {
				rt.Fatalf("evicted, and gets %v", err)
			}
			return
		case errors.As(err, &gap):
			if !o.DropOldest || s.Position()-before != gap.Count {
				rt.Fatalf("%v: from %d to %d", gap, before, s.Position())
			}
			s.next = s.Position() - o.Start
			if s.next > uint64(len(m.values)) || uint64(len(m.values))-s.next > uint64(o.Slots) {
				rt.Fatalf("goes on at %d of %d", s.next, len(m.values))
			}
			return
		case errors.Is(err, ErrEmpty):
			if s.fresh {
				s.next = s.Position() - o.Start
			}
			if s.next < uint64(len(m.values)) && !(loan != nil && loan.position-o.Start == s.next) {
				rt.Fatalf("empty at %d of %d", s.next, len(m.values))
			}
			return
		case err != nil:
			rt.Fatal(err)
		}
		if s.fresh {
			s.next = s.Position() - o.Start
		}
		if len(b) == 8 && s.Position()-o.Start < uint64(len(m.values)) {
			s.reading = rapid.Bool().Draw(rt, "keeps it for a while")
		}
		if s.reading {
			return
		}
	}
	s.reading = false
	at := s.Position() - o.Start
	b = c.payload(s.Position(), 8)
	v := binary.LittleEndian.Uint64(b)
	switch err := s.Done(); {
	case err == nil:
		if s.evicted || at != s.next || v != m.values[at] {
			rt.Fatalf("position %d: %d, want position %d: %d", at, v, s.next, m.values[s.next])
		}
		s.next++
	case errors.Is(err, ErrEvicted):
		if !s.evicted {
			rt.Fatal(err)
		}
	case !errors.Is(err, ErrLapped) || !o.DropOldest:
		rt.Fatal(err)
	}
	s.Flush()
}
