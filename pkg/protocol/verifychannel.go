package protocol

import "fmt"

// The invariants of channels. Slots are read first and positions after them: what a slot says was true when its word was loaded, and positions only grow.

// slotAt is where slot i's field lies.
func (q *Queue) slotAt(i uint64, field int64) int64 {
	return int64(q.offset+(i&q.mask)*q.stride) + field
}

func (v *verifier) queue(q *Queue) {
	if !v.o.Copy {
		// Acked before Head before Tail, and each is read before the one that it may not pass.
		acked, head := q.info.Acked.Load(), q.info.Head.Load()
		tail := q.info.Tail.Load()
		if q.flags&QueueFlagLane == 0 {
			if int64(tail-head) < 0 {
				v.add(bodyOffset+OffsetofQueueInfoHead, "queue.head", "head %d is beyond tail %d", head, tail)
			}
		} else if int64(head-acked) < 0 {
			v.add(bodyOffset+OffsetofQueueInfoAcked, "lane.acked", "acked up to %d, and taken up to %d only", acked, head)
		}
	}
	v.end(bodyOffset+OffsetofQueueInfoSendOwner, "the producer's end", q.info.SendOwner.Load())
	v.end(bodyOffset+OffsetofQueueInfoReceiveOwner, "the consumer's end", q.info.ReceiveOwner.Load())
	for i := range q.reached() {
		v.queueSlot(q, i)
	}
}

func (v *verifier) queueSlot(q *Queue, i uint64) {
	w := Word(q.slot(i).State.Load())
	at := q.slotAt(i, OffsetofSlotHeaderState)
	switch p := w.Phase(); p {
	case PhaseWriting, PhaseReading, PhaseMoving:
		v.held(at, fmt.Sprintf("slot %d is %v", i, p), w.Owner())
	case PhaseFree, PhaseReady, PhaseDead:
		if w.Owner() != 0 {
			v.add(at, "slot.owner", "slot %d is %v and names attachment %d as its owner", i, p, w.Owner())
		}
	default:
		v.add(at, "slot.phase", "slot %d is in phase %d, which a queue has not", i, uint32(p))
		return
	}
	switch w.Phase() {
	case PhaseReady, PhaseReading, PhaseDead, PhaseMoving:
		if _, err := q.frame(i); err != nil && Word(q.slot(i).State.Load()) == w {
			violation := violationOf(v.segment, err)
			violation.Rule = "slot.length"
			v.list = append(v.list, violation)
		}
		if m := q.maxDeliveries; m > 0 && w.Deliveries() > m {
			v.add(at, "slot.deliveries", "slot %d was delivered %d times, and %d are the limit", i, w.Deliveries(), m)
		}
	}
	if v.o.Copy {
		return
	}
	// The position of a message lies at tail at most: the claim comes before tail moves. A free slot's is that of its next claim, and one more for each trim that
	// was killed while it held the slot.
	ahead, most := int32(w.Lap()-q.lap(q.info.Tail.Load())), int32(0)
	if w.Phase() == PhaseFree || w.Phase() == PhaseWriting {
		most = 1000
	}
	if w != 0 && ahead > most {
		v.add(at, "slot.lap", "slot %d is of lap %d, and tail is on lap %d", i, w.Lap(), q.lap(q.info.Tail.Load()))
	}
	// (I) of docs/queue.md: a message lies where consumers still look.
	if q.flags&QueueFlagLane != 0 || w.Phase() != PhaseReady {
		return
	}
	head, tail := q.info.Head.Load(), q.info.Tail.Load()
	last := tail - 1 - (tail-1-i)&q.mask
	if tail != 0 && int64(head-last) > 0 && Word(q.slot(i).State.Load()) == w {
		v.add(at, "queue.lost", "slot %d holds a message, and consumers begin behind it: head is %d, the slot's last position %d", i, head, last)
	}
}

func (v *verifier) topic(t *Topic) {
	v.end(bodyOffset+OffsetofTopicInfoPublisher, "the publisher's place", t.info.Publisher.Load())
	for i := range t.cursors {
		row := t.cursor(i)
		w := row.State.Load()
		at := int64(t.rows) + int64(i)*SizeofTopicCursor
		phase := CursorPhase(w & cursorPhaseMask)
		switch phase {
		case CursorPhaseFree:
			continue
		case CursorPhaseJoining, CursorPhaseOpen, CursorPhaseEvicted:
			v.held(at, fmt.Sprintf("cursor %d is %v", i, phase), cursorOwner(w))
		default:
			v.add(at, "cursor.phase", "cursor %d is in phase %d, which there is not", i, uint32(phase))
			continue
		}
		if phase != CursorPhaseOpen || v.o.Copy {
			continue
		}
		position := row.Position.Load()
		tail := t.info.Tail.Load() + 1 // a slot may be claimed, published and read before tail moves over it
		if t.single {
			tail--
		} else {
			tail += t.mask
		}
		if int64(tail-position) < 0 && row.State.Load() == w {
			v.add(at+OffsetofTopicCursorPosition, "cursor.position", "cursor %d is at %d, and %d is the next to be published", i, position, t.info.Tail.Load())
		}
	}
	if floor := t.info.Floor.Load(); t.dropOldest && !v.o.Copy {
		if tail := t.info.Tail.Load(); int64(floor-tail) > 0 {
			v.add(bodyOffset+OffsetofTopicInfoFloor, "topic.floor", "positions below %d are given up, and %d is the next to be published", floor, tail)
		}
	}
	for i := range t.reached() {
		s := t.slot(i)
		w := Word(s.State.Load())
		at := int64(t.offset + i*t.stride)
		switch p := w.Phase(); p {
		case PhaseWriting:
			v.held(at, fmt.Sprintf("slot %d is %v", i, p), w.Owner())
		case PhaseFree, PhaseSkip:
		case PhaseReady:
			if n := s.Length.Load(); int(n) > t.slotSize && Word(s.State.Load()) == w {
				v.add(at+OffsetofSlotHeaderLength, "slot.length", "slot %d has a message of %d bytes in %d", i, n, t.slotSize)
			}
		default:
			v.add(at, "slot.phase", "slot %d is in phase %d, which a topic has not", i, uint32(p))
			continue
		}
		if ahead := int32(w.Lap() - t.lap(t.info.Tail.Load())); w.Phase() != PhaseFree && ahead > 0 && !v.o.Copy {
			v.add(at, "slot.lap", "slot %d is of lap %d, and tail is on lap %d", i, w.Lap(), t.lap(t.info.Tail.Load()))
		}
	}
}

func (v *verifier) latest(l *Latest) {
	const current = bodyOffset + OffsetofLatestInfoCurrent
	const versions = 1<<(64-LatestSlotVersionShift) - 1
	at := func(i uint64) int64 { return int64(l.offset + i*l.stride) }
	c := l.current()
	switch i := c.slot(); {
	case c.version() == 0:
	case i > l.mask:
		v.add(current, "latest.slot", "version %d lies in slot %d, and there are %d", c.version(), i, l.Slots())
	case !v.o.Copy:
		s := l.slot(i)
		w, n := LatestWord(s.State.Load()), s.Length.Load()
		if l.current() != c {
			break // it is not the newest any more
		}
		switch {
		case w.Version() != c.version()&versions || w.Phase() != PhaseReady && w.Phase() != PhaseWriting:
			v.add(at(i), "latest.lost", "version %d lies in slot %d, which is %v for version %d", c.version(), i, w.Phase(), w.Version())
		case int(n) > l.slotSize:
			v.add(at(i)+OffsetofLatestSlotLength, "slot.length", "version %d has %d bytes in %d", c.version(), n, l.slotSize)
		}
	}
	for i := range l.mask + 1 {
		w := LatestWord(l.slot(i).State.Load())
		switch p := w.Phase(); p {
		case PhaseFree, PhaseReady:
		case PhaseWriting:
			v.held(at(i), fmt.Sprintf("slot %d is %v", i, p), w.Owner())
		default:
			v.add(at(i), "slot.phase", "slot %d is in phase %d, which a latest value has not", i, uint32(p))
		}
	}
}

func (v *verifier) call(c *Call) {
	for i := range c.reach() {
		s := c.slot(i)
		w := CallWord(s.State.Load())
		request, reply := s.Request.Load(), s.Reply.Load()
		at := int64(c.offset + i*c.stride)
		caller := func() { v.held(at, fmt.Sprintf("slot %d is %v", i, w.Phase()), w.Caller()) }
		fits := func(offset int64, what string, word uint64) {
			if n := word >> CallSlotLengthShift; n > uint64(c.slotSize) && CallWord(s.State.Load()) == w {
				v.add(at+offset, "slot.length", "slot %d has a %s of %d bytes in %d", i, what, n, c.slotSize)
			}
		}
		switch w.Phase() {
		case CallPhaseFree:
			if w.Caller() != 0 || w.Server() != 0 {
				v.add(at, "slot.owner", "slot %d is free and names attachments %d and %d", i, w.Caller(), w.Server())
			}
		case CallPhaseCalling, CallPhaseBroken:
			caller()
		case CallPhaseRequest:
			caller()
			fits(OffsetofCallSlotRequest, "request", request)
		case CallPhaseServing:
			v.held(at, fmt.Sprintf("slot %d is served", i), w.Server())
			if w.Caller() != 0 {
				caller()
			}
			fits(OffsetofCallSlotRequest, "request", request)
		case CallPhaseAnswered:
			caller()
			fits(OffsetofCallSlotReply, "reply", reply)
		default:
			v.add(at, "slot.phase", "slot %d is in phase %d, which a call has not", i, uint32(w.Phase()))
		}
		if m := c.maxDeliveries; m > 0 && w.Deliveries() > m {
			v.add(at, "slot.deliveries", "slot %d was given to %d servers, and %d are the limit", i, w.Deliveries(), m)
		}
	}
}
