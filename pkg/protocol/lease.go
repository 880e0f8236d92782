package protocol

// Held is a lease or a loan that somebody holds on a channel, as an observer sees it.
type Held struct {
	Slot  int    // -1: of a lane, whose one consumer may hold a run of them
	Owner uint16 // attachment id
	Stamp uint64 // another as soon as the lease is another, or its holder has finished a part of it
}

// Leases hands over the leases of a queue and the requests in service of a call channel; other kinds have none. It only reads, and others
// go on meanwhile: who wants to know how long a lease lasts compares two looks.
func Leases(c Channel, each func(Held)) {
	switch c := c.(type) {
	case *Queue:
		c.eachLease(each)
	case *Call:
		for i := range c.reach() {
			w := CallWord(c.slot(i).State.Load())
			if w.Phase() == CallPhaseServing && w.Server() != 0 {
				each(Held{int(i), w.Server(), uint64(w &^ callAsleepBit)})
			}
		}
	}
}

func (q *Queue) eachLease(each func(Held)) {
	if q.flags&QueueFlagLane != 0 {
		if head, acked := q.info.Head.Load(), q.info.Acked.Load(); int64(head-acked) > 0 {
			each(Held{-1, uint16(q.info.ReceiveOwner.Load()), acked})
		}
		return
	}
	const passed = (1<<SlotPassedBits - 1) << SlotPassedShift // others set it while the lease lasts: the acks within a frame take its place
	for i := range q.reached() {
		w := Word(q.slot(i).State.Load())
		if w.Phase() != PhaseReading {
			continue
		}
		stamp := uint64(w) &^ passed
		if f, err := q.frame(i); err == nil {
			stamp ^= uint64(f.Open()) << SlotPassedShift
		}
		each(Held{int(i), w.Owner(), stamp})
	}
}

// Loans hands over the slots that producers hold, of every kind but calls and topics without slot heads; as Leases else.
func Loans(c Channel, each func(Held)) {
	const passed = (1<<SlotPassedBits - 1) << SlotPassedShift
	slot := func(i uint64, w Word) {
		if w.Phase() == PhaseWriting && w.Owner() != 0 {
			each(Held{int(i), w.Owner(), uint64(w) &^ passed})
		}
	}
	switch c := c.(type) {
	case *Queue:
		for i := range c.reached() {
			slot(i, Word(c.slot(i).State.Load()))
		}
	case *Topic:
		for i := range c.reached() {
			slot(i, Word(c.slot(i).State.Load()))
		}
	case *Latest:
		for i := range c.mask + 1 {
			if w := LatestWord(c.slot(i).State.Load()); w.held() {
				each(Held{int(i), w.Owner(), uint64(w)})
			}
		}
	}
}

// Claims are two numbers of a channel of which one at least becomes another when somebody takes a slot: where nobody held any, and they are as
// they were, nobody does. It costs two loads however many slots there are. A process that was stopped between a claim and the hint that tells of it is
// seen only with the next claim. ok: the channel is of a kind that has them.
func Claims(c Channel) (claims [2]uint64, ok bool) {
	switch c := c.(type) {
	case *Queue:
		return [2]uint64{c.info.Tail.Load(), c.info.Head.Load()}, c.flags&QueueFlagLane == 0
	case *Topic:
		return [2]uint64{c.info.Tail.Load()}, true
	}
	return claims, false
}
