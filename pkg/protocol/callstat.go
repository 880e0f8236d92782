package protocol

// CallStat is a snapshot of a call channel, for people and metrics. Phases are counted slot by slot while others work, so they need
// not add up to one instant.
type CallStat struct {
	Slots, SlotSize, MaxDeliveries     int
	Flags                              CallFlag
	Reach                              int // slots ever used
	Free, Calling, Waiting, InService  int
	Answered                           int // replies that are there; a caller may keep such a slot for its next request
	Broken                             int
	Requests, Answers, Retried, Failed uint64
	Left                               uint64
	Servers, Callers                   int // asleep
}

// Stat takes a snapshot. It only reads.
func (c *Call) Stat() CallStat {
	st := CallStat{
		Slots: c.Slots(), SlotSize: c.slotSize, MaxDeliveries: c.maxDeliveries, Flags: c.flags, Reach: int(c.reach()),
		Servers: c.Servers.Sleepers(), Callers: c.Callers.Sleepers(),
	}
	for i := range c.reach() {
		switch CallWord(c.slot(i).State.Load()).Phase() {
		case CallPhaseCalling:
			st.Calling++
		case CallPhaseRequest:
			st.Waiting++
		case CallPhaseServing:
			st.InService++
		case CallPhaseAnswered:
			st.Answered++
		case CallPhaseBroken:
			st.Broken++
		}
	}
	st.Free = st.Slots - st.Calling - st.Waiting - st.InService - st.Answered - st.Broken
	for id := range uint16(callStripes) {
		n := c.counters(id)
		st.Requests += n.Requests.Load()
		st.Answers += n.Answered.Load()
		st.Retried += n.Retried.Load()
		st.Failed += n.Broken.Load()
		st.Left += n.Left.Load()
	}
	return st
}

// Summary takes a snapshot; see Channel. Requests that wait or are served count as messages, answers as acks.
func (c *Call) Summary() Summary {
	s := c.Stat()
	return Summary{Depth: s.Waiting + s.InService, Sent: s.Requests, Received: s.Answers, Acked: s.Answers, Redelivered: s.Retried,
		Dead: s.Failed, Aborted: s.Left, Receivers: s.Servers, Senders: s.Callers}
}

// CallSlotState is one slot as `shmctl inspect` shows it.
type CallSlotState struct {
	Index  int
	Offset int64 // in the segment
	Word   CallWord
}

// SlotAt returns slot i, which must be below Slots.
func (c *Call) SlotAt(i int) CallSlotState {
	return CallSlotState{i, int64(c.offset + uint64(i)*c.stride), CallWord(c.slot(uint64(i)).State.Load())}
}

// Holds reports whether any slot names one of the attachments for which owner is true: an attachment id may be used
// again only when none does.
func (c *Call) Holds(owner func(uint16) bool) bool {
	for i := range c.reach() {
		w := CallWord(c.slot(i).State.Load())
		if w.Caller() != 0 && owner(w.Caller()) || w.Server() != 0 && owner(w.Server()) {
			return true
		}
	}
	return false
}
