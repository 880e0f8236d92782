package protocol

// QueueStat is a snapshot of a queue, for people and metrics. Phases are counted slot by slot while others work, so they need
// not add up to one instant.
type QueueStat struct {
	Slots, SlotSize, MaxDeliveries int
	Flags                          QueueFlag
	Messages                       int // committed and not done, those within frames counted each
	Head, Tail                     uint64
	Free, Writing, Ready           int
	Reading, Dead, Moving          int
	Sent, Received, Acked          uint64
	Redelivered, DeadLettered      uint64
	Aborted                        uint64
	Receivers, Senders             int // asleep
}

// Depth returns the messages that are committed and not yet done.
func (s QueueStat) Depth() int { return s.Messages }

// Stat takes a snapshot. It only reads.
func (q *Queue) Stat() QueueStat {
	s := QueueStat{
		Slots: q.Slots(), SlotSize: q.slotSize, MaxDeliveries: q.maxDeliveries, Flags: q.flags,
		Head: q.info.Head.Load(), Tail: q.info.Tail.Load(),
		Receivers: q.Receivers.Sleepers(), Senders: q.Senders.Sleepers(),
	}
	for i := range q.reached() {
		phase := q.phase(i, s.Tail)
		if f, err := q.frame(i); err == nil && phase != PhaseFree && phase != PhaseWriting {
			s.Messages += f.Open()
		}
		switch phase {
		case PhaseWriting:
			s.Writing++
		case PhaseReady:
			s.Ready++
		case PhaseReading:
			s.Reading++
		case PhaseDead:
			s.Dead++
		case PhaseMoving:
			s.Moving++
		}
	}
	s.Free = s.Slots - s.Writing - s.Ready - s.Reading - s.Dead - s.Moving
	for id := range uint16(queueStripes) {
		c := q.counters(id)
		s.Sent += c.Sent.Load()
		s.Received += c.Received.Load()
		s.Acked += c.Acked.Load()
		s.Redelivered += c.Redelivered.Load()
		s.DeadLettered += c.Dead.Load()
		s.Aborted += c.Aborted.Load()
	}
	return s
}

// phase returns the phase of slot i: in a lane's slot the word alone does not say it.
func (q *Queue) phase(i, tail uint64) Phase {
	w := Word(q.slot(i).State.Load())
	if q.flags&QueueFlagLane == 0 || w.Phase() != PhaseReady || w.Passed() {
		return w.Phase()
	}
	p := tail - 1 - ((tail - 1 - i) & q.mask) // the last position in this slot that is published
	switch {
	case q.lap(p) != w.Lap() || int64(p-q.info.Acked.Load()) < 0:
		return PhaseFree
	case int64(p-q.info.Head.Load()) < 0:
		return PhaseReading
	}
	return PhaseReady
}

// Summary takes a snapshot; see Channel.
func (q *Queue) Summary() Summary {
	s := q.Stat()
	return Summary{Depth: s.Depth(), Sent: s.Sent, Received: s.Received, Acked: s.Acked, Redelivered: s.Redelivered,
		Dead: s.DeadLettered, Aborted: s.Aborted, Receivers: s.Receivers, Senders: s.Senders}
}

// Slot is one slot as `shmctl inspect` shows it.
type Slot struct {
	Index  int
	Offset int64 // in the segment
	Word   Word
	Length uint32
}

// SlotAt returns slot i, which must be below Slots.
func (q *Queue) SlotAt(i int) Slot {
	s := q.slot(uint64(i))
	return Slot{i, int64(q.offset + (uint64(i)&q.mask)*q.stride), Word(s.State.Load()), s.Length.Load()}
}

// Holds reports whether any slot names one of the attachments for which owner is true: an attachment id may be used
// again only when none does.
func (q *Queue) Holds(owner func(uint16) bool) bool {
	for _, end := range []uint32{q.info.SendOwner.Load(), q.info.ReceiveOwner.Load()} {
		if end != 0 && owner(uint16(end)) {
			return true
		}
	}
	for i := range q.reached() {
		if o := Word(q.slot(i).State.Load()).Owner(); o != 0 && owner(o) {
			return true
		}
	}
	return false
}
