package protocol

import (
	"fmt"
	"time"

	"github.com/shmd/shmd/internal/sys"
)

// DeadInfo is the head of a message in a dead-letter channel.
type DeadInfo struct {
	Position   uint64 // of the message's slot in its queue: with Index its identity
	Index      int    // within its frame, 0 for a slot that was one message
	Deliveries int
	Reason     DeadReason
	Moved      time.Time
}

// RingAttention rings the daemon's doorbell for dead messages.
func (q *Queue) RingAttention() {
	q.info.Attention.Add(1)
	sys.FutexWake(&q.info.Attention, 1<<30)
}

// MoveDead moves the DEAD messages of q to the dead-letter channel to, on behalf of the attachment owner. Only the daemon calls
// it, one call at a time for each pair. It returns how many it moved, and ErrFull when to has no room: the rest stay DEAD in
// their slots, nothing is lost, and the call is to be repeated when to has room.
//
// A death after the copy was committed and before the slot was freed is recognised by the message's position, which to still
// holds, in whatever phase, since nobody else writes there: the repeated move only frees the slot.
func (q *Queue) MoveDead(to *Queue, owner uint16) (int, error) {
	if to.flags&QueueFlagDeadLetter == 0 || to.slotSize < SizeofDeadLetter+q.slotSize {
		return 0, fmt.Errorf("dead-letter channel %q: slots of %d bytes cannot take messages of %d bytes, or it is no dead-letter channel", to.h.Name, to.slotSize, q.slotSize)
	}
	moved := 0
	for i := range q.reached() {
		s := q.slot(i)
		w := Word(s.State.Load())
		if w.Phase() != PhaseDead {
			continue
		}
		moving := MakeWord(PhaseMoving, owner, w.Deliveries(), w.Lap()) | w&reasonMask
		if !s.State.CompareAndSwap(uint64(w), uint64(moving)) {
			continue
		}
		position := q.Position(Lease{slot: i, word: moving})
		f, err := q.frame(i)
		if err != nil { // what cannot be read cannot be moved
			s.State.CompareAndSwap(uint64(moving), uint64(MakeWord(PhaseFree, 0, 0, w.Lap()+1)))
			q.Senders.Ring(1)
			return moved, err
		}
		index := f.FirstOpen(0)
		copied := index == f.Len() || to.hasDead(position, index)
		if !copied && w.Deliveries() > 0 {
			loan, err := to.TryLoan(owner)
			if err != nil {
				s.State.CompareAndSwap(uint64(moving), uint64(w))
				return moved, err
			}
			n := to.writeDead(loan, DeadInfo{position, index, w.Deliveries(), w.Reason(), time.Now()}, f.At(index))
			if err := to.Commit(loan, n); err != nil {
				return moved, err
			}
			copied = true
			moved++
		}
		if q.afterMove(i, moving, &f, index, copied) {
			q.Senders.Ring(1)
		}
	}
	return moved, nil
}

// afterMove ends the move of message index of the frame f in slot i: the slot is freed, or the rest of the frame is ready again. It
// reports whether the slot is free.
//
// A frame's move has one more step than a slot's: the word loses its deliveries [U] before the message's bit is set [V]. DEAD without
// deliveries is what a repair makes of a move that was cut short there: then only a message that has its copy may get its bit.
func (q *Queue) afterMove(i uint64, moving Word, f *Frame, index int, copied bool) bool {
	s := &q.slot(i).State
	free := MakeWord(PhaseFree, 0, 0, moving.Lap()+1)
	if !f.Framed() || index == f.Len() {
		return s.CompareAndSwap(uint64(moving), uint64(free))
	}
	bare := MakeWord(PhaseMoving, moving.Owner(), 0, moving.Lap())
	if !s.CompareAndSwap(uint64(moving), uint64(bare)) { // U
		return false
	}
	if copied {
		f.done.Or(1 << index) // V
	}
	if f.Open() == 0 {
		return s.CompareAndSwap(uint64(bare), uint64(free))
	}
	ready := MakeWord(PhaseReady, 0, 0, moving.Lap())
	if q.flags&QueueFlagLane != 0 {
		ready |= passedBit
	}
	if s.CompareAndSwap(uint64(bare), uint64(ready)) { // N
		q.reappeared(i)
		q.Receivers.Ring(1)
	}
	return false
}

// hasDead reports whether the message with this identity was committed to the dead-letter channel q and not overwritten since.
// A slot that was consumed still shows it; one whose copy was cut short by the daemon's death does not, since the repair
// that freed the slot cleared Present.
func (q *Queue) hasDead(position uint64, index int) bool {
	for i := range q.reached() {
		d := q.deadLetter(i)
		if d.Position.Load() != position || int(d.Index.Load()) != index {
			continue
		}
		switch Word(q.slot(i).State.Load()).Phase() {
		case PhaseReady, PhaseReading:
			return true
		case PhaseFree:
			if d.Present.Load() == 1 {
				return true
			}
		}
	}
	return false
}

// deadLetter returns the head of the payload in slot i of a dead-letter channel.
func (q *Queue) deadLetter(i uint64) *DeadLetter {
	return overlayDeadLetter(q.b, int64(q.offset+(i&q.mask)*q.stride+SizeofSlotHeader))
}

func (q *Queue) writeDead(l Loan, d DeadInfo, payload []byte) int {
	o := q.deadLetter(l.slot)
	o.Position.Store(d.Position)
	o.Index.Store(uint32(d.Index))
	o.Deliveries.Store(uint32(d.Deliveries))
	o.Reason.Store(uint32(d.Reason))
	o.MovedUnixNs.Store(uint64(d.Moved.UnixNano()))
	o.Present.Store(1)
	return SizeofDeadLetter + copy(q.LoanBytes(l)[SizeofDeadLetter:], payload)
}

// ReadDead splits a message of a dead-letter channel into its head and the original payload. Errors: *CorruptError.
func (q *Queue) ReadDead(l Lease) (DeadInfo, []byte, error) {
	p := q.LeaseBytes(l)
	if len(p) < SizeofDeadLetter {
		return DeadInfo{}, nil, q.corrupt(l.slot, SizeofSlotHeader, "message of a dead-letter channel without its head")
	}
	o := q.deadLetter(l.slot)
	return DeadInfo{o.Position.Load(), int(o.Index.Load()), int(o.Deliveries.Load()), DeadReason(o.Reason.Load()), time.Unix(0, int64(o.MovedUnixNs.Load()))}, p[SizeofDeadLetter:], nil
}
