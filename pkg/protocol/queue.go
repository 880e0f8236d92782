package protocol

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// QueueOptions is the geometry of a queue.
type QueueOptions struct {
	Slots         int  // a power of two, 2 to 1<<20
	SlotSize      int  // bytes of payload that a slot holds, 1 to 1<<30
	MaxDeliveries int  // 0 for no limit, at most 63
	Sparse        bool // recorded in the header; the memory is the caller's
	MaxLeases     int  // slots that one attachment may have leased at a time; 0 for no limit
	DeadLetter    bool // a dead-letter channel: payloads begin with a DeadLetter
	Lane          bool // one producer and one consumer: use it through NewLane
	// Start is the first position. 0 but in tests, which start shortly before a wrap.
	Start uint64
}

// Queue is a view of a queue segment: the slot machine of docs/queue.md, whose letters stand at the stores and loads
// here. Geometry is read and checked once, in OpenQueue; a later change of those words by a hostile peer
// has no effect. Any number of goroutines and processes may use a queue at once. No operation here blocks.
type Queue struct {
	// What every message needs lies in few lines of memory: who slept before it finds none of them in the nearest cache.
	info     *QueueInfo
	mask     uint64
	shift    uint // log2 of the number of slots
	slotSize int
	stride   uint64
	first    *byte  // of slot 0
	ahead    uint64 // a lane: so many slots before it writes one, the producer asks for its lines
	lines    int    // so many

	// Consumers wait on Receivers, producers on Senders.
	Receivers, Senders Doorbell

	b             []byte
	offset        uint64
	maxDeliveries int
	maxLeases     int
	flags         QueueFlag
	leases        leases // of this process
	h             Header
}

const (
	queueCounters = bodyOffset + SizeofQueueInfo
	queueStripes  = 16
	queueSlots    = 4096    // offset of slot 0
	aheadBytes    = 2048    // see Queue.ahead
	never         = 1 << 62 // positions: beyond all room
)

// stride returns the bytes from one slot to the next: whole cache lines, and whole pages for large slots, whose
// payload then begins at the 16th byte of a page.
func (o QueueOptions) stride() int64 {
	n := int64(SizeofSlotHeader + o.SlotSize)
	if o.Lane && o.SlotSize < 4096 { // slots are used in order: they need not begin on a line
		if n > 64 && n <= 128 { // but these take a pair of lines, which processors fetch together
			return 128
		}
		return (n + 15) &^ 15
	}
	if o.SlotSize >= 4096 {
		return (n + 4095) &^ 4095
	}
	return (n + 63) &^ 63
}

func (o QueueOptions) check() error {
	switch {
	case o.Slots < 2 || o.Slots > 1<<20 || o.Slots&(o.Slots-1) != 0:
		return fmt.Errorf("queue of %d slots: the number must be a power of two from 2 to %d", o.Slots, 1<<20)
	case o.SlotSize < 1 || o.SlotSize > 1<<30:
		return fmt.Errorf("queue with slots of %d bytes: must be 1 to %d", o.SlotSize, 1<<30)
	case o.DeadLetter && o.SlotSize < SizeofDeadLetter:
		return fmt.Errorf("dead-letter channel with slots of %d bytes: its messages have a head of %d", o.SlotSize, SizeofDeadLetter)
	case o.MaxLeases > 0 && o.Lane:
		return fmt.Errorf("queue with one producer, one consumer and max_leases = %d: only others than one consumer share it", o.MaxLeases)
	case o.MaxLeases < 0 || o.MaxLeases > o.Slots:
		return fmt.Errorf("queue with max_leases = %d: must be 0 (no limit) to its %d slots", o.MaxLeases, o.Slots)
	case o.MaxDeliveries < 0 || o.MaxDeliveries > maxDeliveries:
		return fmt.Errorf("queue with max_deliveries = %d: must be 0 (no limit) to %d", o.MaxDeliveries, maxDeliveries)
	}
	return nil
}

// QueueSize returns the bytes that a queue needs.
func QueueSize(o QueueOptions) (int64, error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	return queueSlots + int64(o.Slots)*o.stride(), nil
}

// FormatQueue makes an empty queue in b, which must be zero; it touches no slot. Errors: ErrTooShort, bad geometry.
func FormatQueue(b []byte, h Header, o QueueOptions) (*Queue, error) {
	need, err := QueueSize(o)
	if err != nil {
		return nil, err
	}
	h.Kind = KindQueue
	if err := format(b, h, need); err != nil {
		return nil, err
	}
	info := overlayQueueInfo(b, bodyOffset)
	info.Slots.Store(uint32(o.Slots))
	info.SlotSize.Store(uint32(o.SlotSize))
	info.Stride.Store(uint32(o.stride()))
	info.MaxDeliveries.Store(uint32(o.MaxDeliveries))
	info.MaxLeases.Store(uint32(o.MaxLeases))
	info.SlotsOffset.Store(queueSlots)
	var flags QueueFlag
	if o.Sparse {
		flags |= QueueFlagSparse
	}
	if o.DeadLetter {
		flags |= QueueFlagDeadLetter
	}
	if o.Lane {
		flags |= QueueFlagLane
	}
	info.Flags.Store(uint32(flags))
	info.Tail.Store(o.Start)
	info.Head.Store(o.Start)
	info.Acked.Store(o.Start)
	if o.Start != 0 { // tests: slots that look as after Start claims
		for i := range uint64(o.Slots) {
			lap := uint32((o.Start + uint64(o.Slots) - 1 - i) / uint64(o.Slots))
			overlaySlotHeader(b, queueSlots+int64(i)*o.stride()).State.Store(uint64(MakeWord(PhaseFree, 0, 0, lap)))
		}
	}
	publish(b)
	return OpenQueue(b)
}

// OpenQueue checks the header and the geometry. Errors: those of ReadHeader, *KindError, *CorruptError.
func OpenQueue(b []byte) (*Queue, error) {
	h, err := open(b, KindQueue)
	if err != nil {
		return nil, err
	}
	info := overlayQueueInfo(b, bodyOffset)
	if info == nil {
		return nil, fmt.Errorf("queue %q: %w", h.Name, ErrTooShort)
	}
	o := QueueOptions{Slots: int(info.Slots.Load()), SlotSize: int(info.SlotSize.Load()), MaxDeliveries: int(info.MaxDeliveries.Load()), MaxLeases: int(info.MaxLeases.Load())}
	stride, offset := uint64(info.Stride.Load()), info.SlotsOffset.Load()
	if err := o.check(); err != nil {
		return nil, &CorruptError{h.Name, bodyOffset, err.Error()}
	}
	if stride < uint64(SizeofSlotHeader+o.SlotSize) || stride%16 != 0 {
		return nil, &CorruptError{h.Name, bodyOffset + OffsetofQueueInfoStride, fmt.Sprintf("stride %d for slots of %d bytes", stride, o.SlotSize)}
	}
	if offset < queueCounters+queueStripes*SizeofQueueCounters || offset%64 != 0 {
		return nil, &CorruptError{h.Name, bodyOffset + OffsetofQueueInfoSlotsOffset, fmt.Sprintf("slots begin at %#x, inside the head", offset)}
	}
	flags := QueueFlag(info.Flags.Load())
	if flags&QueueFlagDeadLetter != 0 && o.SlotSize < SizeofDeadLetter {
		return nil, &CorruptError{h.Name, bodyOffset + OffsetofQueueInfoSlotSize, fmt.Sprintf("dead-letter channel with slots of %d bytes", o.SlotSize)}
	}
	if err := table(h.Name, b, bodyOffset+OffsetofQueueInfoSlotsOffset, offset, uint32(o.Slots), stride); err != nil {
		return nil, err
	}
	lane := flags&QueueFlagLane != 0
	ahead := min(max(aheadBytes/stride, 1), 16)
	if !sys.PrefetchesStores {
		ahead = never
	}
	return &Queue{
		ahead: ahead, lines: int(min(stride, 256)+63) / 64,
		b: b, h: h, info: info,
		mask: uint64(o.Slots - 1), shift: uint(bits.TrailingZeros(uint(o.Slots))),
		slotSize: o.SlotSize, stride: stride, offset: offset, first: &b[offset],
		maxDeliveries: o.MaxDeliveries, maxLeases: o.MaxLeases, flags: flags,
		Receivers: Doorbell{bell: &info.ReceiveBell, waiters: &info.ReceiveWaiters, chosen: &info.ReceiveChosenNs, late: lateNs, fenced: lane, brisk: lane},
		Senders:   Doorbell{bell: &info.SendBell, waiters: &info.SendWaiters, chosen: &info.SendChosenNs, late: lateNs, fenced: lane},
	}, nil
}

// Header returns the segment's header.
func (q *Queue) Header() Header { return q.h }

// Slots returns the number of slots.
func (q *Queue) Slots() int { return int(q.mask) + 1 }

// SlotSize returns the bytes of payload that a slot holds.
func (q *Queue) SlotSize() int { return q.slotSize }

// MaxDeliveries returns the limit, 0 for none.
func (q *Queue) MaxDeliveries() int { return q.maxDeliveries }

// Flags returns what kind of queue it is.
func (q *Queue) Flags() QueueFlag { return q.flags }

func (q *Queue) lap(position uint64) uint32 { return uint32(position >> q.shift) }

func (q *Queue) counters(id uint16) *QueueCounters {
	return overlayQueueCounters(q.b, queueCounters+int64(id%queueStripes)*SizeofQueueCounters)
}

// Loan is a producer's hold on a slot: the slot is WRITING and names the producer.
type Loan struct {
	slot    uint64
	word    Word
	suspect bool // somebody else moved tail over the position: head may be beyond it
}

// Lease is a consumer's hold on a slot: the slot is READING and names the consumer.
type Lease struct {
	slot uint64
	word Word
	open uint32 // messages that are not acked yet
}

// Open returns the number of messages that the lease covers and that are not acked: 0 after AckMessage of the last.
func (l Lease) Open() int { return int(l.open) }

// Deliveries returns how often a lease of this message ended without an ack before this one.
func (l Lease) Deliveries() int { return l.word.Deliveries() }

// Position returns the position at which the message was sent, modulo 2^32 laps: its identity.
func (q *Queue) Position(l Lease) uint64 { return uint64(l.word.Lap())<<q.shift | l.slot }

// TryLoan claims the next slot for the attachment owner, which must not be 0. Errors: ErrFull, ErrLane.
func (q *Queue) TryLoan(owner uint16) (Loan, error) {
	if q.flags&QueueFlagLane != 0 {
		return Loan{}, ErrLane
	}
	for passes := uint64(0); ; {
		t := q.info.Tail.Load()
		s := q.slot(t)
		w := Word(s.State.Load())
		lap := q.lap(t)
		if w.Phase() == PhaseFree {
			if ahead := int32(w.Lap() - lap); ahead > 0 {
				// The slot was released at or after position t: t is stale, or tail has not been moved yet.
				if q.info.Tail.Load() != t {
					continue
				}
				if ahead == 1 { // claimed at t and given back before tail moved: t is burnt
					q.info.Tail.CompareAndSwap(t, t+1)
					continue
				}
				// The lap wrapped while the slot was held: it is as free as any.
			}
			mine := MakeWord(PhaseWriting, owner, 0, lap)
			if !s.State.CompareAndSwap(uint64(w), uint64(mine)) { // A: from here on a repair finds the slot
				continue
			}
			moved := q.info.Tail.CompareAndSwap(t, t+1) // B: before it no consumer looks beyond t
			q.ringSenders(t)                            // one slot became free, perhaps more: the next producer
			return Loan{t & q.mask, mine, !moved}, nil
		}
		if w.Lap() == lap { // claimed at this very position: tail lags behind
			q.info.Tail.CompareAndSwap(t, t+1)
			continue
		}
		if q.info.Tail.Load() != t {
			continue
		}
		if w.Phase() == PhaseReady {
			// K: whoever made it READY may have stopped before it lowered head: without this the queue were full and empty at once.
			if q.lower(t) {
				q.Receivers.Ring(1)
			}
			return Loan{}, ErrFull
		}
		if passes++; passes > q.mask+1 {
			return Loan{}, ErrFull
		}
		q.info.Tail.CompareAndSwap(t, t+1) // held by a peer since an earlier lap: burn the position
	}
}

// LoanBytes returns the payload of a loan, SlotSize bytes, whose contents are undefined. It is the caller's until
// Commit or Abort.
func (q *Queue) LoanBytes(l Loan) []byte { return q.payload(l.slot) }

// Commit publishes n bytes of the loan's payload as one message, and wakes a consumer. n must be at most SlotSize.
// Errors: ErrLost, and then nothing was published.
func (q *Queue) Commit(l Loan, n int) error {
	if n < 0 || n > q.slotSize {
		return fmt.Errorf("commit of %d bytes: a slot of queue %q holds %d", n, q.h.Name, q.slotSize)
	}
	return q.commit(l, uint64(n), 1)
}

// CommitFrame publishes the messages of a frame that was made in the loan's payload, and wakes a consumer; without a message it is
// Abort. Errors: as Commit.
func (q *Queue) CommitFrame(l Loan, f *FrameWriter) error {
	if f.n == 0 {
		return q.Abort(l)
	}
	return q.commit(l, f.seal(), uint64(f.n))
}

func (q *Queue) commit(l Loan, meta, messages uint64) error {
	s := q.slot(l.slot)
	w := Word(s.State.Load())
	if w&^passedBit != l.word {
		return ErrLost
	}
	sys.StoreRelease(s.meta(), meta)
	for {
		ready := MakeWord(PhaseReady, 0, 0, w.Lap())
		if s.State.CompareAndSwap(uint64(w), uint64(ready)) { // C: publishes payload and length; pairs with F
			break
		}
		if w = Word(s.State.Load()); w&^passedBit != l.word {
			return ErrLost
		}
	}
	if l.suspect || w.Passed() {
		q.lower(l.slot) // D: after C; pairs with H, J
	}
	q.counters(l.word.Owner()).Sent.Add(messages)
	q.Receivers.RingOne() // E
	return nil
}

// Abort gives a loan back; its position is skipped. Errors: ErrLost.
func (q *Queue) Abort(l Loan) error {
	s := q.slot(l.slot)
	for {
		w := Word(s.State.Load())
		if w&^passedBit != l.word {
			return ErrLost
		}
		if s.State.CompareAndSwap(uint64(w), uint64(MakeWord(PhaseFree, 0, 0, w.Lap()+1))) {
			q.counters(l.word.Owner()).Aborted.Add(1)
			q.Senders.Ring(1)
			return nil
		}
	}
}

// TryReceive leases the next message to the attachment owner, which must not be 0. Errors: ErrEmpty, *CorruptError
// (the slot's length is beyond the slot: the lease has been given up and the message dropped), ErrLeases, ErrLane.
func (q *Queue) TryReceive(owner uint16) (Lease, error) {
	if q.flags&QueueFlagLane != 0 {
		return Lease{}, ErrLane
	}
	if q.maxLeases > 0 {
		return q.tryReceiveLimited(owner)
	}
	return q.tryReceive(owner)
}

func (q *Queue) tryReceive(owner uint16) (Lease, error) {
	// Bounded even if a hostile peer moves the hints for ever: an honest walk meets each slot once between two
	// moves of head by others, so this many steps are far beyond any honest interleaving that matters.
	for steps := uint64(0); steps < 64*(q.mask+1)+1<<16; steps++ {
		h := q.info.Head.Load()
		t := q.info.Tail.Load() // before the slot: what is below t was claimed or burnt when the slot is read
		if int64(t-h) > int64(q.mask+1) {
			q.info.Head.CompareAndSwap(h, t-q.mask-1)
			continue
		}
		s := q.slot(h)
		w := Word(s.State.Load())
		if int64(t-h) <= 0 { // nothing is known to be claimed from h on
			if h == t && w.Phase() != PhaseFree && w.Lap() == q.lap(h) { // but it is: tail lags behind
				q.info.Tail.CompareAndSwap(t, t+1)
				continue
			}
			if int64(t-h) < 0 { // only a hostile peer moves head beyond tail
				q.info.Head.CompareAndSwap(h, t)
				continue
			}
			if q.info.Head.Load() != h { // somebody lowered it
				continue
			}
			return Lease{}, ErrEmpty
		}
		switch w.Phase() {
		case PhaseReady:
			if int32(w.Lap()-q.lap(h)) > 0 && q.info.Tail.Load() != t { // sent after t was read: h is behind too
				continue
			}
			mine := MakeWord(PhaseReading, owner, w.Deliveries(), w.Lap())
			if !s.State.CompareAndSwap(uint64(w), uint64(mine)) { // F: pairs with C
				continue
			}
			q.info.Head.CompareAndSwap(h, h+1)
			q.ringSenders(h) // producers that met this slot READY can go past it now
			// L: a commit that found a consumer on its way did not ring
			if t-h > 1 && q.Receivers.Sleepers() != 0 {
				q.Receivers.RingOne()
			}
			l := Lease{h & q.mask, mine, 1}
			if s.meta().Load() > uint64(q.slotSize) { // a frame, or damaged
				if err := q.leaseFrame(&l); err != nil {
					q.ack(l)
					return Lease{}, fmt.Errorf("%w; what was in the slot was dropped", err)
				}
			}
			q.counters(owner).Received.Add(uint64(l.open))
			return l, nil
		case PhaseWriting:
			if t == h+1 { // nothing is claimed behind it: wait for it, in order
				if q.info.Head.Load() != h {
					continue
				}
				return Lease{}, ErrEmpty
			}
			if !w.Passed() && !s.State.CompareAndSwap(uint64(w), uint64(w|passedBit)) { // P: commit will see it
				continue
			}
		}
		if q.info.Head.CompareAndSwap(h, h+1) { // H: skip it
			if Word(s.State.Load()).Phase() == PhaseReady { // J: it became ready meanwhile; pairs with C and D
				q.lower(h)
			}
		}
	}
	return Lease{}, q.corrupt(q.info.Head.Load(), 0, "head and tail never come to rest; a peer is damaging the queue")
}

// LeaseBytes returns the payload of a lease. It is the caller's, to read, until Ack or Nack. After a repair took the lease
// (Ack says ErrLost) what was read may have been overwritten meanwhile.
func (q *Queue) LeaseBytes(l Lease) []byte {
	n := min(q.slot(l.slot).Length.Load(), uint32(q.slotSize)) // read once: a hostile peer may change it
	return q.payload(l.slot)[:n]
}

// Ack ends a lease: the message is done, the slot free, a producer woken. Errors: ErrLost.
func (q *Queue) Ack(l Lease) error {
	q.endLease()
	return q.ack(l)
}

func (q *Queue) ack(l Lease) error {
	if !q.slot(l.slot).State.CompareAndSwap(uint64(l.word), uint64(MakeWord(PhaseFree, 0, 0, l.word.Lap()+1))) { // G
		return ErrLost
	}
	q.counters(l.word.Owner()).Acked.Add(uint64(l.open))
	q.Senders.RingOne()
	return nil
}

// Nack gives a message back for another try, with deliveries raised; after MaxDeliveries it becomes DEAD and the daemon
// is told to move it. Errors: ErrLost.
func (q *Queue) Nack(l Lease) error {
	q.endLease()
	if !q.giveBack(l.slot, l.word, 1) {
		return ErrLost
	}
	return nil
}

// Return gives back a message, or the rest of a frame, that nobody looked at: deliveries is not raised. Errors: ErrLost.
func (q *Queue) Return(l Lease) error {
	q.endLease()
	if !q.giveBack(l.slot, l.word, 0) {
		return ErrLost
	}
	return nil
}

// giveBack is the transition READING -> READY or DEAD, by the owner or by a repair. It reports false if the slot no
// longer has the word w.
func (q *Queue) giveBack(i uint64, w Word, deliveries int) bool {
	n := min(w.Deliveries()+deliveries, maxDeliveries)
	next := MakeWord(PhaseReady, 0, n, w.Lap())
	dead := q.maxDeliveries > 0 && n >= q.maxDeliveries
	if dead {
		next = MakeWord(PhaseDead, 0, n, w.Lap())
	}
	if q.flags&QueueFlagLane != 0 && !dead {
		next |= passedBit // behind the consumer's head
	}
	if !q.slot(i).State.CompareAndSwap(uint64(w), uint64(next)) { // N
		return false
	}
	if dead {
		q.counters(w.Owner()).Dead.Add(1)
		q.RingAttention()
		return true
	}
	q.reappeared(i)
	q.counters(w.Owner()).Redelivered.Add(uint64(deliveries))
	q.Receivers.Ring(1)
	return true
}

// reappeared makes the consumers find slot i, which was made READY again: after N, as D after C.
func (q *Queue) reappeared(i uint64) {
	if q.flags&QueueFlagLane != 0 {
		q.info.Returned.Add(1)
		return
	}
	q.lower(i)
}

// lower makes sure that head is not beyond the window position of slot i: the largest position below tail that lies in it.
// It reports whether head was beyond it.
func (q *Queue) lower(i uint64) bool {
	for {
		t := q.info.Tail.Load()
		p := t - 1 - ((t - 1 - i) & q.mask)
		h := q.info.Head.Load()
		if int64(h-p) <= 0 {
			return false
		}
		if q.info.Head.CompareAndSwap(h, p) {
			return true
		}
	}
}

// ringSenders passes a wake on to a producer after the slot of position p stopped being one that producers stop at: it was READY
// and is leased now, or was FREE and is loaned now. Producers stop at the first READY slot from tail on; if the next
// slot is READY they would stop there, and whoever leases that one wakes them. So a full queue in steady state makes no wake-ups
// but those of ack.
func (q *Queue) ringSenders(p uint64) {
	if q.Senders.Sleepers() != 0 && Word(q.slot(p+1).State.Load()).Phase() != PhaseReady {
		q.Senders.RingOne()
	}
}

// Found ends Receivers.Look of a consumer that has leased a message, or stops for another reason: those that committed meanwhile did not ring.
func (q *Queue) Found() {
	q.Receivers.Looked()                                  // M: before the look at tail; against C and W
	if int64(q.info.Tail.Load()-q.info.Head.Load()) > 0 { // tail was moved before C
		q.Receivers.RingOne()
	}
}

// Repair gives back every slot whose owner is dead, makes head and the doorbells right, and wakes everybody who sleeps on the
// queue. It must follow every death of a process that could use the queue, whether that held a slot or not, and precede
// the next use of its attachment id. It may be killed at any point and run again, and several repairs may run at once.
// dead must be true only for attachments whose process has ended.
func (q *Queue) Repair(dead func(owner uint16) bool) Repaired {
	var r Repaired
	for i := range q.reached() {
		s := q.slot(i)
		for {
			w := Word(s.State.Load())
			if w.Owner() == 0 || !dead(w.Owner()) {
				break
			}
			switch w.Phase() {
			case PhaseWriting:
				if q.flags&QueueFlagDeadLetter != 0 { // the copy was cut short: hasDead must not find it
					q.deadLetter(i).Present.Store(0)
				}
				if !s.State.CompareAndSwap(uint64(w), uint64(MakeWord(PhaseFree, 0, 0, w.Lap()+1))) { // R: a consumer may set passed meanwhile
					continue
				}
				q.counters(w.Owner()).Aborted.Add(1)
				r.Loans++
			case PhaseReading:
				if !q.giveBack(i, w, 1) {
					continue
				}
				r.Leases++
			case PhaseMoving:
				if !s.State.CompareAndSwap(uint64(w), uint64(MakeWord(PhaseDead, 0, w.Deliveries(), w.Lap())|w&reasonMask)) {
					continue
				}
				r.Moves++
			}
			break
		}
	}
	if q.flags&QueueFlagLane != 0 {
		r.Leases += q.repairEnds(dead)
		q.info.Returned.Add(1) // whoever died may have made a slot READY behind head and not said so
	}
	// The dead may have published without lowering head, or moved head without looking back: walk the whole window again.
	for q.flags&QueueFlagLane == 0 {
		t, h := q.info.Tail.Load(), q.info.Head.Load()
		p := t - min(t, q.mask+1)
		if int64(h-p) <= 0 || q.info.Head.CompareAndSwap(h, p) {
			break
		}
	}
	q.Receivers.RingAll()
	q.Senders.RingAll()
	q.RingAttention()
	return r
}

// reached returns the number of slots that were ever claimed: on the first lap a sparse queue's other pages are not touched.
func (q *Queue) reached() uint64 {
	// One more than tail: a producer may have died after its claim and before it moved tail.
	if t := q.info.Tail.Load() + 1; t <= q.mask {
		return t
	}
	return q.mask + 1
}

// Attention is the daemon's doorbell for dead messages, a futex.
func (q *Queue) Attention() *atomic.Uint32 { return &q.info.Attention }

func (q *Queue) corrupt(i uint64, field int64, what string) error {
	return &CorruptError{q.h.Name, int64(q.offset+(i&q.mask)*q.stride) + field, what}
}
