package protocol

// LatestStat is a snapshot of a latest value, for people and metrics. Slots are counted one by one while others work, so the counts need
// not add up to one instant.
type LatestStat struct {
	Slots, SlotSize int
	Flags           LatestFlag
	Version         uint64 // 0 before the first value
	Slot            int    // of the newest value
	Length          int    // of the newest value
	Held            int    // slots that writers hold
	Aborted         uint64 // slots given back without a value
	Sleepers        int    // registered since the last change
}

// Stat takes a snapshot. It only reads.
func (l *Latest) Stat() LatestStat {
	c := l.current()
	s := LatestStat{
		Slots: l.Slots(), SlotSize: l.slotSize, Flags: l.flags,
		Version: c.version(), Slot: int(c.slot()), Aborted: l.info.Aborted.Load(), Sleepers: l.Changes.Sleepers(),
	}
	if s.Version != 0 {
		s.Length = int(min(l.slot(c.slot()).Length.Load(), uint32(l.slotSize)))
	}
	for i := range l.mask + 1 {
		if LatestWord(l.slot(i).State.Load()).held() {
			s.Held++
		}
	}
	return s
}

// Summary takes a snapshot; see Channel. Every version counts as sent. Nothing waits: a value is there for whoever looks, and is never done, so Depth is 0.
func (l *Latest) Summary() Summary {
	s := l.Stat()
	return Summary{Sent: s.Version, Aborted: s.Aborted, Receivers: s.Sleepers}
}

// LatestSlotInfo is one slot of a latest value, for those who look at memory.
type LatestSlotInfo struct {
	Index  int
	Offset int64 // in the segment
	Word   LatestWord
	Length uint32
}

// SlotAt returns slot i, which must be below Slots.
func (l *Latest) SlotAt(i int) LatestSlotInfo {
	s := l.slot(uint64(i))
	return LatestSlotInfo{i, int64(l.offset + (uint64(i)&l.mask)*l.stride), LatestWord(s.State.Load()), s.Length.Load()}
}

// Holds reports whether any slot names one of the attachments for which owner is true: an attachment id may be used
// again only when none does.
func (l *Latest) Holds(owner func(uint16) bool) bool {
	for i := range l.mask + 1 {
		if w := LatestWord(l.slot(i).State.Load()); w.held() && owner(w.Owner()) {
			return true
		}
	}
	return false
}
