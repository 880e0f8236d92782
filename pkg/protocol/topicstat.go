package protocol

import "github.com/shmd/shmd/internal/sys"

// TopicStat is a snapshot of a topic, for people and metrics, not of one instant. Published, Received and Lost are never more than there was when Stat
// returned. Published does not go back from one call to the next; Received and Lost may, for a moment, by what a subscriber counted that ends meanwhile.
type TopicStat struct {
	Slots, SlotSize, Cursors int // Cursors: rows for subscribers
	Flags                    TopicFlag
	Publisher                uint16 // attachment that may publish, with the flag Single
	Oldest, Tail             uint64 // positions: of the oldest message that is kept, and the next one
	Published                uint64 // messages
	Received, Lost           uint64 // by all subscribers together
	Skipped, Evicted         uint64
	Writing                  int // loans
	Subscribers              []Cursor
	Receivers, Senders       int // asleep
}

// Stat takes a snapshot. It only reads.
func (t *Topic) Stat() TopicStat {
	s := TopicStat{
		Slots: t.Slots(), SlotSize: t.slotSize, Cursors: t.cursors, Flags: t.flags, Publisher: uint16(t.info.Publisher.Load()),
		Oldest: t.oldest(), Tail: t.info.Tail.Load(), Received: t.info.Received.Load(), Lost: t.info.Lost.Load(),
		Evicted: t.info.Evicted.Load(), Subscribers: t.Cursors(),
		Receivers: t.Receivers.Sleepers(), Senders: t.Senders.Sleepers(),
	}
	without := uint64(0) // positions before tail that have no message yet; a loan may be behind it
	for i := range t.reached() {
		w := Word(t.slot(i).State.Load())
		if w.Phase() != PhaseWriting {
			continue
		}
		s.Writing++
		if last := s.Tail - 1 - ((s.Tail - 1 - i) & t.mask); w.Lap() == t.lap(last) { // the last position before tail that is in this slot
			without++
		}
	}
	s.Skipped = t.info.Skipped.Load() // after the slots: what is skipped meanwhile counts as no message
	if n := int64(s.Tail - t.first - without - s.Skipped); n > 0 {
		s.Published = uint64(n)
	}
	for _, c := range s.Subscribers {
		s.Received += c.Received
		s.Lost += c.Lost
	}
	return s
}

// Summary takes a snapshot; see Channel. Depth is the lag of the slowest subscriber.
func (t *Topic) Summary() Summary {
	s := t.Stat()
	u := Summary{Sent: s.Published, Received: s.Received, Lost: s.Lost, Aborted: s.Skipped, Receivers: s.Receivers, Senders: s.Senders}
	for _, c := range s.Subscribers {
		if c.Phase == CursorPhaseOpen {
			u.Depth = max(u.Depth, int(min(c.Lag, t.mask+1)))
		}
	}
	return u
}

// SlotAt returns slot i, which must be below TopicInfo.Headers: there are none with the flag Single.
func (t *Topic) SlotAt(i int) Slot {
	s := t.slot(uint64(i))
	return Slot{i, int64(t.offset + (uint64(i)&t.mask)*t.stride), Word(s.State.Load()), s.Length.Load()}
}

// Holds reports whether any slot or cursor names one of the attachments for which owner is true, or one of them may publish: an
// attachment id may be used again only when none does.
func (t *Topic) Holds(owner func(uint16) bool) bool {
	names := func(o uint16) bool { return o != 0 && owner(o) }
	if names(uint16(t.info.Publisher.Load())) {
		return true
	}
	for i := range t.cursors {
		if names(cursorOwner(t.cursor(i).State.Load())) {
			return true
		}
	}
	for i := range t.reached() {
		if names(Word(t.slot(i).State.Load()).Owner()) {
			return true
		}
	}
	return false
}

// reached returns the number of slots with heads that were ever claimed: on the first lap a sparse topic's other pages are not touched.
func (t *Topic) reached() uint64 {
	if t.single {
		return 0
	}
	// One more than tail: a publisher may have died after its claim and before it moved tail.
	if n := t.info.Tail.Load() + 1; n <= t.mask {
		return n
	}
	return t.mask + 1
}

// Repair ends the cursors of dead subscribers, gives up the loans of dead publishers, makes room for the next publisher of a topic with
// the flag Single, and wakes everybody; see Channel.
func (t *Topic) Repair(dead func(owner uint16) bool) Repaired {
	var r Repaired
	for i := range t.cursors {
		row := t.cursor(i)
		for {
			w := row.State.Load()
			if CursorPhase(w&cursorPhaseMask) == CursorPhaseFree || !dead(cursorOwner(w)) {
				break
			}
			if t.free(row, w) { // R
				r.Leases++
				break
			}
		}
	}
	for i := range t.reached() {
		for {
			w := Word(t.slot(i).State.Load())
			if w.Phase() != PhaseWriting || !dead(w.Owner()) {
				break
			}
			if t.skip(i, w) { // R
				r.Loans++
				break
			}
		}
	}
	if !t.single { // the dead may have claimed without moving tail: whoever publishes next would do it, and until then counts are one short
		for range t.mask + 1 {
			tail := t.info.Tail.Load()
			if w := Word(t.slot(tail).State.Load()); w.Phase() == PhaseFree || w.Lap() != t.lap(tail) {
				break
			}
			t.info.Tail.CompareAndSwap(tail, tail+1)
		}
	}
	if o := t.info.Publisher.Load(); o != 0 && dead(uint16(o)) {
		t.info.Publisher.CompareAndSwap(o, 0)
	}
	sys.FutexWake(t.EvictedWord(), 1<<30)
	t.Receivers.RingAll()
	t.Senders.RingAll()
	return r
}
