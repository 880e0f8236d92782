package protocol

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// What is done to a queue as a whole: drain, purge, trim, and the limit of leases. docs/queue.md, "Drain, purge, trim", argues it.

var (
	// ErrDraining: the channel is being drained and takes no messages.
	ErrDraining = errors.New("channel is being drained and takes no messages (shmctl ch drain --off ends that)")
	// ErrLeases: this attachment holds as many leases as the channel's max_leases allows.
	ErrLeases = errors.New("as many messages are held as max_leases of the channel allows: ack or give back one first")
)

// MaxLeases returns how many slots one attachment may have leased, 0 for no limit.
func (q *Queue) MaxLeases() int { return q.maxLeases }

// Draining reports whether the queue takes no messages.
func (q *Queue) Draining() bool { return q.info.Drain.Load() != 0 }

// Drain begins a drain, or ends it. Producers that wait are woken; those that claimed a slot before they could see it may still commit
// that one message, and QueueStat shows the slot as Writing until then. Errors: the queue is a lane.
func (q *Queue) Drain(on bool) error {
	if err := q.noLane(); err != nil {
		return err
	}
	var v uint32
	if on {
		v = 1
	}
	q.info.Drain.Store(v) // X: before the caller's Stat [Y]; pairs with A, Z
	q.Senders.RingAll()
	sys.FutexWake(&q.info.Drain, 1<<30)
	return nil
}

// DrainWord is 0 unless the queue is being drained, and a futex that Drain wakes.
func (q *Queue) DrainWord() *atomic.Uint32 { return &q.info.Drain }

// noLane refuses what a lane cannot have done to it: its ends know who holds what, the memory does not.
func (q *Queue) noLane() error {
	if q.flags&QueueFlagLane == 0 {
		return nil
	}
	return fmt.Errorf("channel %q has one producer and one consumer, who alone know what is in flight: stop or restart them instead", q.h.Name)
}

// Admit is called with every fresh loan. During a drain it gives the slot back. Errors: ErrDraining.
func (q *Queue) Admit(l Loan) error {
	if q.info.Drain.Load() == 0 { // Z: after the claim [A]
		return nil
	}
	q.Abort(l)
	return ErrDraining
}

// Rest is what keeps a drained queue from being empty: slots in which a message is, or may yet be. [Y]
func (s QueueStat) Rest() int { return s.Writing + s.Ready + s.Reading + s.Dead + s.Moving }

// Purge drops the messages that wait, up to those that are sent meanwhile, on behalf of the attachment owner. It returns how many. What
// others have leased is theirs. Errors: those of TryReceive but ErrEmpty; the queue is a lane.
func (q *Queue) Purge(owner uint16) (messages int, err error) {
	if err := q.noLane(); err != nil {
		return 0, err
	}
	end := q.info.Tail.Load()
	for {
		l, err := q.TryReceive(owner)
		switch {
		case errors.Is(err, ErrEmpty):
			return messages, nil
		case err != nil:
			return messages, err
		case !q.before(l, end):
			return messages, q.Return(l)
		}
		if q.Ack(l) == nil {
			messages += l.Open()
		}
	}
}

// before reports whether a leased message was sent before position p.
func (q *Queue) before(l Lease, p uint64) bool {
	if d := int32(l.word.Lap() - q.lap(p)); d != 0 {
		return d < 0
	}
	return l.slot < p&q.mask
}

// Trim gives the memory of free slots back to the system, on behalf of the attachment owner: punch makes the bytes a hole in the segment,
// which reads as zero, and tells how many there were. The first page of a slot stays: its state word is there. It returns
// the bytes that were given back. Errors: the queue cannot be trimmed; those of punch.
//
// A slot is claimed as for a message, but out of turn [A'], so that whoever comes round to it sees a loan; and then it is as it was: not
// as after Abort, since a position that is given up is room that is missing until tail comes round again.
func (q *Queue) Trim(owner uint16, punch func([]byte) (int64, error)) (given int64, err error) {
	switch {
	case q.flags&QueueFlagLane != 0: // its producer writes a payload before any word tells of it: a hole would take a message with it
		return 0, fmt.Errorf("channel %q has one producer and one consumer, and no word says which free slot is being written: its memory stays; declare fewer slots, or remove producers and consumers", q.h.Name)
	case q.flags&QueueFlagSparse == 0:
		return 0, fmt.Errorf("channel %q is not sparse: its memory is promised, and stays", q.h.Name)
	case q.stride%pageSize != 0 || q.offset%pageSize != 0 || q.stride < 2*pageSize:
		return 0, fmt.Errorf("channel %q has slots of %d bytes: only whole pages behind the first of a slot can be given back", q.h.Name, q.slotSize)
	}
	for i := range q.reached() { // a repair looks no further
		s := &q.slot(i).State
		w := Word(s.Load())
		if w.Phase() != PhaseFree {
			continue
		}
		mine := MakeWord(PhaseWriting, owner, 0, w.Lap())
		if !s.CompareAndSwap(uint64(w), uint64(mine)) { // A'
			continue
		}
		at := q.offset + i*q.stride
		n, err := punch(q.b[at+pageSize : at+q.stride])
		given += n
		for v := mine; !s.CompareAndSwap(uint64(v), uint64(w)); {
			if v = Word(s.Load()); v&^passedBit != mine { // a consumer may set passed meanwhile, but nothing else
				return given, ErrLost
			}
		}
		q.Senders.Ring(1)
		if err != nil {
			return given, err
		}
	}
	return given, nil
}

// pageSize is the unit in which large slots are laid out, and the smallest that a system has.
const pageSize = 4096

// Letter is a message in a dead-letter channel as it lies there.
type Letter struct {
	DeadInfo
	Slot    int
	Phase   Phase
	Payload []byte // a copy
}

// Letters copies what is in a dead-letter channel, in the order of its slots. It only reads. A letter that changes meanwhile is left
// out. Errors: it is no dead-letter channel.
func (q *Queue) Letters() ([]Letter, error) {
	if q.flags&QueueFlagDeadLetter == 0 {
		return nil, fmt.Errorf("channel %q is no dead-letter channel", q.h.Name)
	}
	var letters []Letter
	for i := range q.reached() {
		s := &q.slot(i).State
		w := Word(s.Load())
		if w.Phase() != PhaseReady && w.Phase() != PhaseReading {
			continue
		}
		info, payload, err := q.ReadDead(Lease{slot: i, word: w, open: 1})
		if err != nil {
			continue // so it reads, too, when it changes
		}
		payload = append([]byte(nil), payload...)
		if Word(s.Load()) == w { // nobody writes into a slot in these phases, and it was in this one all the time
			letters = append(letters, Letter{info, int(i), w.Phase(), payload})
		}
	}
	return letters, nil
}

// leases counts what one process has leased. A Queue is one process's view, so that the count is its alone.
type leases struct{ held atomic.Int64 }

// tryReceiveLimited is TryReceive where the channel limits leases.
func (q *Queue) tryReceiveLimited(owner uint16) (Lease, error) {
	if q.leases.held.Add(1) > int64(q.maxLeases) {
		q.leases.held.Add(-1)
		return Lease{}, ErrLeases
	}
	l, err := q.tryReceive(owner)
	if err != nil {
		q.leases.held.Add(-1)
	}
	return l, err
}

// endLease is called when a lease ends, however it does.
func (q *Queue) endLease() {
	if q.maxLeases > 0 {
		q.leases.held.Add(-1)
	}
}
