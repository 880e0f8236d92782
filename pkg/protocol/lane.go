package protocol

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// Lane is a process's view of a queue that has one producer and one consumer (QueueFlagLane). docs/lane.md argues it, and has the same
// letters. Each end belongs to one attachment, which is named in the segment; so who owns a slot follows from positions:
//
//	     Acked          Head                  Tail
//	-------+--------------+---------------------+---------------> position
//	 free  | leased       | ready               | loaned, free
//	       | (consumer)   |                     | (producer)
//
// and a message costs a plain release store on either side instead of a compare-and-swap. What leaves this order has its owner or its
// fate stamped into the state word, as in every queue: a lease that a later one overtook is READING, a loan that was overtaken is
// WRITING, and a message that is ready again behind Head is READY with the passed bit. Such a slot stops nobody: the producer goes
// around it.
//
// The two ends have a mutex each, within this process: any number of goroutines may use a Lane.
type Lane struct {
	q *Queue
	_ [56]byte
	sendEnd
	_ [64]byte
	receiveEnd
	_ [64]byte
}

type sendEnd struct {
	sendMu endLock
	_      [16]byte // so that what follows lies in one line: three of the four are written with each message

	next uint64 // first position that was not loaned
	tail uint64 // what is published: first position that is loaned still, or next
	room uint64 // the last value read of Acked
	sent uint64 // counter, and where it goes

	sentAt  *atomic.Uint64
	sender  uint16      // the attachment that has the end; 0: this process does not
	held    bool        // by a Producer
	shut    atomic.Bool // by Close, which a Producer does not wait for
	out     int         // loans of the Lane's own methods that have not ended
	lending kept
	calm    uint32 // see RingBrisk
	lines   int    // of a slot that is asked for ahead
	ended   []uint64
	// ended: positions from tail on that were aborted or passed over.
}

type receiveEnd struct {
	receiveMu  endLock
	receiver   uint16      // the attachment that has the end; 0: this process does not
	consuming  bool        // by a Consumer
	gone       atomic.Bool // by Close, which a Consumer does not wait for
	returned   uint32      // the last value read of Returned
	head       uint64      // first position that was not taken
	batches    bool        // the last slot was a batch
	seen, look uint64      // the last value read of Tail, and the position from which on it may be read again
	awaited    uint64      // the last position that was waited for, plus 1: nothing lay behind it then
	acked      uint64      // first position that may be leased
	received   uint64      // counters, and where they go
	ackedCount uint64
	receivedAt *atomic.Uint64
	ackedAt    *atomic.Uint64
	leased     int // leases of the Lane's own methods that have not ended
	receiving  kept
	again      []behind // slots that may have become ready behind head, the oldest message first
}

type behind struct{ slot, age uint64 } // age in positions before head

// An EndError says that an end of a lane belongs to another process. That of one that has just ended does so until the daemon has repaired the lane, which takes
// some milliseconds on a busy machine.
type EndError struct {
	Channel string
	End     string // "producer" or "consumer"
	Owner   uint16 // attachment id of who has it
}

func (e *EndError) Error() string {
	return fmt.Sprintf("channel %q has one %s, which is attachment %d (shmctl ps -a): end that process (if it has ended, the daemon is about to give its end back: try again), or remove producers and consumers from the channel's configuration",
		e.Channel, e.End, e.Owner)
}

// NewLane returns the lane of a queue that is one, of which a process makes one only. Errors: the queue is none; the kernel
// has no membarrier.
func NewLane(q *Queue) (*Lane, error) {
	if q.flags&QueueFlagLane == 0 {
		return nil, fmt.Errorf("queue %q is no lane", q.h.Name)
	}
	if err := sys.RegisterFence(); err != nil {
		return nil, fmt.Errorf("queue %q has one producer and one consumer, which needs %w", q.h.Name, err)
	}
	return &Lane{q: q, sendEnd: sendEnd{lines: q.lines}}, nil
}

// fetch asks for the first lines of the slot at position p, which is to be read soon: so those of several slots come from the other CPU at a time.
func (q *Queue) fetch(p uint64) {
	at := q.offset + (p&q.mask)*q.stride
	sys.PrefetchLoads(q.b[at:at+min(q.stride, 192)], 64)
}

// ready is the state word of a message that was committed at position p and not touched since.
func (q *Queue) ready(p uint64) Word { return MakeWord(PhaseReady, 0, 0, q.lap(p)) }

// ---- the producer's end

// takeSendEnd makes the producer's end the attachment's. sendMu is held.
func (l *Lane) takeSendEnd(owner uint16) error {
	if l.shut.Load() {
		return os.ErrClosed
	}
	i := l.q.info
	if !i.SendOwner.CompareAndSwap(0, uint32(owner)) {
		if o := i.SendOwner.Load(); o != uint32(owner) {
			return &EndError{l.q.h.Name, "producer", uint16(o)}
		}
	}
	l.q.mendTail()
	l.tail = i.Tail.Load()
	l.next, l.room, l.ended = l.tail, i.Acked.Load(), nil
	l.sentAt = &l.q.counters(owner).Sent
	l.sent = l.sentAt.Load()
	l.sender = owner
	return nil
}

// usable reports whether the producer may write into the slot of position p, behind which everything is acked.
func (q *Queue) usable(p uint64) bool {
	return q.slot(p).State.Load()&unusable == 0
}

// unusable are the bits that a state word has if it is not FREE, nor READY without passed.
const unusable = uint64(1<<SlotPhaseBits-1)&^uint64(PhaseFree|PhaseReady) | uint64(passedBit)

// claim takes the next position. sendMu is held. Errors: ErrFull, *EndError.
func (l *Lane) claim(owner uint16) (uint64, error) {
	if l.sender != owner || l.shut.Load() {
		if err := l.takeSendEnd(owner); err != nil {
			return 0, err
		}
	}
	p := l.next
	if p-l.room > l.q.mask { // Acked pairs with the release store in done: the consumer has read what was there
		if l.room = l.q.info.Acked.Load(); p-l.room > l.q.mask {
			return 0, ErrFull
		}
	}
	for !l.q.usable(p) {
		to := l.around(p)
		if to-l.room <= l.q.mask {
			p = to
			break
		}
		room := l.q.info.Acked.Load()
		if room == l.room {
			return 0, ErrFull
		}
		l.room = room
	}
	l.next = p + 1
	if to := p + l.q.ahead; to-l.room <= l.q.mask { // not a slot that the consumer may be reading
		l.q.own(to, l.lines)
	}
	return p, nil
}

// around passes over the slots from p on that somebody holds, and returns the first position that can be used. If there is
// none for now it returns one beyond the room and passes over nothing.
func (l *Lane) around(p uint64) uint64 {
	q := l.q
	to := p
	for !q.usable(to) {
		if to++; to-l.room > q.mask {
			return to
		}
	}
	for ; p != to; p++ {
		l.ended = append(l.ended, p)
	}
	l.next = to
	l.publish()
	q.Receivers.RingBrisk(&l.calm) // so that the consumer moves Acked over them
	return to
}

// publish moves Tail to the first position that is still loaned. sendMu is held.
func (l *Lane) publish() {
	if len(l.ended) > 0 {
		l.skipEnded()
	}
	sys.StoreRelease(&l.q.info.Tail, l.tail) // B
}

// skipEnded moves tail over positions that were given up.
func (l *Lane) skipEnded() {
	for again := true; again; {
		again = false
		for i, p := range l.ended {
			if p <= l.tail {
				if p == l.tail {
					l.tail++
				}
				l.ended[i] = l.ended[len(l.ended)-1]
				l.ended = l.ended[:len(l.ended)-1]
				again = true
				break
			}
		}
	}
}

// commitAt publishes the message at p. sendMu is held.
func (l *Lane) commitAt(p, meta uint64, messages int) {
	q := l.q
	for ; l.tail != p; l.tail++ { // older loans: they have to be named now, for they are behind Tail then
		if l.isLoaned(l.tail) {
			sys.StoreRelease(&q.slot(l.tail).State, uint64(MakeWord(PhaseWriting, l.sender, 0, q.lap(l.tail)))) // X
		}
		// One by one: a repair looks no further than Tail, and neither finds a name there nor may leave what is committed.
		sys.StoreRelease(&q.info.Tail, l.tail+1) // B
	}
	s := q.slot(p)
	sys.StoreRelease(s.meta(), meta)
	sys.StoreRelease(&s.State, uint64(q.ready(p))) // C: publishes payload and length; pairs with F
	l.tail = p + 1
	l.publish()
	l.sent += uint64(messages)
	sys.StoreRelease(l.sentAt, l.sent)
}

func (l *Lane) isLoaned(p uint64) bool {
	for _, e := range l.ended {
		if e == p {
			return false
		}
	}
	return true
}

// Send publishes a copy of b, which must not be longer than a slot. Errors: ErrFull, *EndError.
func (l *Lane) Send(owner uint16, b []byte) error {
	if err := l.lockSend(); err != nil {
		return err
	}
	err := l.send(owner, b)
	l.sendMu.Unlock()
	return err
}

// lockSend takes sendMu. Errors: ErrHeld.
func (l *Lane) lockSend() error {
	l.sendMu.Lock()
	if l.held {
		l.sendMu.Unlock()
		return ErrHeld
	}
	return nil
}

// send is Send. sendMu is held, or the end is a Producer's.
func (l *Lane) send(owner uint16, b []byte) error {
	p, err := l.claim(owner)
	if err != nil {
		return err
	}
	copy(l.q.payload(p), b)
	l.commitAt(p, uint64(len(b)), 1)
	l.q.Receivers.RingBrisk(&l.calm) // E
	return nil
}

// TryLoan takes the next slot for the attachment owner. Errors: ErrFull, *EndError.
func (l *Lane) TryLoan(owner uint16) (Loan, error) {
	if err := l.lockSend(); err != nil {
		return Loan{}, err
	}
	defer l.sendMu.Unlock()
	p, err := l.claim(owner)
	if err == nil {
		l.out++
	}
	return Loan{slot: p, word: MakeWord(PhaseWriting, owner, 0, l.q.lap(p))}, err
}

// loanEnded is called when a loan has ended, whoever's it was: a Producer, while there is one, has the only ones. sendMu is held.
func (l *Lane) loanEnded() {
	if !l.held && l.out > 0 {
		l.out--
	}
}

// Commit publishes n bytes of a loan as one message. Errors: ErrLost.
func (l *Lane) Commit(loan Loan, n int) error {
	if n < 0 || n > l.q.slotSize {
		return fmt.Errorf("commit of %d bytes: a slot of queue %q holds %d", n, l.q.h.Name, l.q.slotSize)
	}
	return l.commit(loan, uint64(n), 1)
}

// CommitFrame publishes the messages of a frame; without a message it is Abort. Errors: ErrLost.
func (l *Lane) CommitFrame(loan Loan, f *FrameWriter) error {
	if f.n == 0 {
		return l.Abort(loan)
	}
	return l.commit(loan, f.seal(), f.n)
}

func (l *Lane) commit(loan Loan, meta uint64, messages int) error {
	p := loan.slot
	l.sendMu.Lock()
	switch {
	case p-l.tail < l.next-l.tail:
		if len(l.ended) > 0 && !l.isLoaned(p) {
			l.sendMu.Unlock()
			return ErrLost
		}
		l.commitAt(p, meta, messages)
		l.loanEnded()
		l.q.Receivers.RingBrisk(&l.calm) // E
		if messages > 1 {
			l.aheadOf(int(uint32(meta)))
		}
		l.sendMu.Unlock()
	default: // a younger loan was committed first: this message is behind Tail
		defer l.sendMu.Unlock()
		s := l.q.slot(p)
		if Word(s.State.Load()) != loan.word {
			return ErrLost
		}
		sys.StoreRelease(s.meta(), meta)
		if !s.State.CompareAndSwap(uint64(loan.word), uint64(l.q.ready(p)|passedBit)) { // C
			return ErrLost
		}
		l.q.info.Returned.Add(1)
		l.loanEnded()
		l.sent += uint64(messages)
		sys.StoreRelease(l.sentAt, l.sent)
		l.q.Receivers.RingBrisk(&l.calm) // E
	}
	return nil
}

// Abort gives a loan back. Errors: ErrLost.
func (l *Lane) Abort(loan Loan) error {
	p := loan.slot
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	if p-l.tail < l.next-l.tail {
		if !l.isLoaned(p) {
			return ErrLost
		}
		if p == l.next-1 {
			l.next--
		} else {
			l.ended = append(l.ended, p)
			l.publish()
			l.q.Receivers.RingBrisk(&l.calm) // so that the consumer moves Acked over it
		}
	} else if !l.q.slot(p).State.CompareAndSwap(uint64(loan.word), uint64(MakeWord(PhaseFree, 0, 0, l.q.lap(p)+1))) {
		return ErrLost
	}
	l.q.counters(l.sender).Aborted.Add(1)
	l.loanEnded()
	l.q.Senders.Ring(1)
	return nil
}

// ---- the consumer's end

// takeReceiveEnd makes the consumer's end the attachment's. receiveMu is held.
func (l *Lane) takeReceiveEnd(owner uint16) error {
	if l.gone.Load() {
		return os.ErrClosed
	}
	q, i := l.q, l.q.info
	if !i.ReceiveOwner.CompareAndSwap(0, uint32(owner)) {
		if o := i.ReceiveOwner.Load(); o != uint32(owner) {
			return &EndError{q.h.Name, "consumer", uint16(o)}
		}
	}
	l.head = i.Head.Load()
	if t := i.Tail.Load(); t-l.head+1 > q.mask+2 { // only a hostile peer; one beyond Tail is what a producer commits just now
		l.head = t
	}
	l.acked = l.head
	c := q.counters(owner)
	l.receivedAt, l.ackedAt = &c.Received, &c.Acked
	l.received, l.ackedCount = l.receivedAt.Load(), l.ackedAt.Load()
	l.returned = i.Returned.Load() - 1 // look for them
	l.receiver = owner
	return nil
}

// take leases the next message. receiveMu is held. Errors: ErrEmpty, *EndError, *CorruptError.
func (l *Lane) take(owner uint16) (Lease, error) {
	q := l.q
	if l.receiver != owner || l.gone.Load() {
		if err := l.takeReceiveEnd(owner); err != nil {
			return Lease{}, err
		}
	}
	if l.returned != q.info.Returned.Load() || len(l.again) > 0 {
		if lease, ok := l.takeAgain(owner); ok {
			return lease, nil
		}
	}
	for range 2 * (q.mask + 1) {
		p := l.head
		s := q.slot(p)
		if Word(s.State.Load()) == q.ready(p) { // F: pairs with C
			l.head = p + 1
			switch {
			case l.batches:
				l.fetchSeen(p + 4)
			case l.awaited != l.head: // else those to come are not there yet, and the producer is about to write them
				q.fetch(p + 4)
			}
			return Lease{slot: p, word: q.ready(p), open: 1}, nil
		}
		if int64(q.info.Tail.Load()-p) <= 0 {
			return Lease{}, ErrEmpty
		}
		if Word(s.State.Load()) == q.ready(p) { // it was committed between the two loads
			continue
		}
		l.head = p + 1 // the producer passed over it
		sys.StoreRelease(&q.info.Head, l.head)
		l.stampLeases(p)
		l.done(p + 1)
	}
	return Lease{}, q.corrupt(l.head, 0, "tail is beyond what a lane can hold; a peer is damaging the queue")
}

// takeAgain leases a message that became ready behind head: the oldest first.
func (l *Lane) takeAgain(owner uint16) (Lease, bool) {
	q := l.q
	l.lookBehind()
	for len(l.again) > 0 {
		i := l.again[0].slot
		l.again = l.again[1:]
		w := Word(q.slot(i).State.Load())
		mine := MakeWord(PhaseReading, owner, w.Deliveries(), w.Lap())
		if w.Phase() == PhaseReady && w.Passed() && q.slot(i).State.CompareAndSwap(uint64(w), uint64(mine)) {
			return Lease{slot: i, word: mine, open: 1}, true
		}
	}
	return Lease{}, false
}

// lookBehind finds the messages that became ready behind head, if some did since the last look. It only reads.
func (l *Lane) lookBehind() {
	q := l.q
	if n := q.info.Returned.Load(); n != l.returned {
		l.returned = n
		l.again = l.again[:0]
		for i := range q.reached() {
			if w := Word(q.slot(i).State.Load()); w.Phase() == PhaseReady && w.Passed() {
				l.again = append(l.again, behind{i, (l.head - (uint64(w.Lap())<<q.shift | i)) & (1<<(32+q.shift) - 1)})
			}
		}
		slices.SortFunc(l.again, func(a, b behind) int { return cmp.Compare(b.age, a.age) })
	}
}

// done publishes that everything before position p is acked, or stamped, and so is what follows and ended before. receiveMu is held.
func (l *Lane) done(p uint64) {
	for p != l.head && Word(l.q.slot(p).State.Load()) != l.q.ready(p) {
		p++
	}
	n := p - l.acked
	l.acked = p
	sys.StoreRelease(&l.q.info.Acked, p) // G: after the payload was read; pairs with the load in claim
	l.q.Senders.Ring(int(n))
}

// lease ends what TryReceive and ReceiveTo share. It returns what Queue.run does, too. receiveMu is held.
func (l *Lane) lease(owner uint16) (lease Lease, b []byte, n int, err error) {
	if lease, err = l.take(owner); err != nil {
		return lease, nil, 0, err
	}
	b, n = l.q.run(lease.slot)
	l.batches = n != 1
	if n > 0 && lease.word.Deliveries() == 0 {
		lease.open = uint32(n)
	} else if n != 1 || l.q.slot(lease.slot).meta().Load() > uint64(l.q.slotSize) { // a frame, or damaged
		b, n = nil, 0
		if err := l.q.leaseFrame(&lease); err != nil {
			sys.StoreRelease(&l.q.info.Head, l.head) // before G: Acked is never beyond Head
			l.end(lease)
			return Lease{}, nil, 0, fmt.Errorf("%w; what was in the slot was dropped", err)
		}
	}
	l.received += uint64(lease.open)
	sys.StoreRelease(l.receivedAt, l.received)
	return lease, b, n, nil
}

// TryReceive leases the next message to the attachment owner. Errors: ErrEmpty, *EndError, *CorruptError (what was in the slot is dropped).
func (l *Lane) TryReceive(owner uint16) (Lease, error) {
	if err := l.lockReceive(); err != nil {
		return Lease{}, err
	}
	defer l.receiveMu.Unlock()
	lease, _, _, err := l.lease(owner)
	if err == nil {
		l.leased++
		sys.StoreRelease(&l.q.info.Head, l.head) // before the caller sees it: a repair counts the delivery
	}
	return lease, err
}

// end acks a lease. receiveMu is held.
func (l *Lane) end(lease Lease) bool {
	q, p := l.q, lease.slot
	switch {
	case lease.word.Phase() == PhaseReading: // from behind head
		return q.free(lease)
	case p == l.acked:
		l.done(p + 1)
	case p-l.acked < l.head-l.acked:
		if Word(q.slot(p).State.Load()) != lease.word {
			return false
		}
		l.stampLeases(p)
		l.done(p + 1)
	default: // it was overtaken, and stamped
		return q.free(Lease{slot: p, word: MakeWord(PhaseReading, l.receiver, 0, lease.word.Lap())})
	}
	return true
}

// free is the transition READING -> FREE.
func (q *Queue) free(l Lease) bool {
	if !q.slot(l.slot).State.CompareAndSwap(uint64(l.word), uint64(MakeWord(PhaseFree, 0, 0, l.word.Lap()+1))) { // G
		return false
	}
	q.Senders.Ring(1)
	return true
}

// stampLeases names this process in the slots that it has leased before position p: they will be behind Acked.
func (l *Lane) stampLeases(p uint64) {
	for o := l.acked; o != p; o++ {
		if s := &l.q.slot(o).State; Word(s.Load()) == l.q.ready(o) {
			sys.StoreRelease(s, uint64(MakeWord(PhaseReading, l.receiver, 0, l.q.lap(o)))) // Y
		}
	}
}

// Ack ends a lease. Errors: ErrLost.
func (l *Lane) Ack(lease Lease) error {
	l.receiveMu.Lock()
	defer l.receiveMu.Unlock()
	if !l.end(lease) {
		return ErrLost
	}
	l.leaseEnded()
	l.countAck(lease.open)
	return nil
}

// leaseEnded is called when a lease has ended, whoever's it was: a Consumer, while there is one, has the only one. receiveMu is held.
func (l *Lane) leaseEnded() {
	if !l.consuming && l.leased > 0 {
		l.leased--
	}
}

func (l *Lane) countAck(n uint32) {
	l.ackedCount += uint64(n)
	sys.StoreRelease(l.ackedAt, l.ackedCount)
}

// AckMessage acks one message of a lease; see Queue.AckMessage. Errors: ErrLost.
func (l *Lane) AckMessage(lease *Lease, f *Frame, i int) error {
	l.receiveMu.Lock()
	defer l.receiveMu.Unlock()
	err := l.ackMessage(lease, f, i)
	if err == nil && lease.open == 0 {
		l.leaseEnded()
	}
	return err
}

// ackMessage is AckMessage. receiveMu is held, or the end is a Consumer's.
func (l *Lane) ackMessage(lease *Lease, f *Frame, i int) error {
	switch {
	case f.done == nil || f.Open() == 1 && !f.Done(i):
		if !l.end(*lease) {
			return ErrLost
		}
		lease.open = 0
	case i >= f.count || f.Done(i) || !l.holds(*lease):
		return ErrLost
	default:
		if lease.word.Deliveries() > 0 && f.FirstOpen(0) == i { // then it is stamped
			next := MakeWord(PhaseReading, lease.word.Owner(), 0, lease.word.Lap())
			if !l.q.slot(lease.slot).State.CompareAndSwap(uint64(lease.word), uint64(next)) { // O
				return ErrLost
			}
			lease.word = next
		}
		f.done.Or(1 << i) // Q
		lease.open--
	}
	l.countAck(1)
	return nil
}

// holds reports whether a lease has not ended. receiveMu is held.
func (l *Lane) holds(lease Lease) bool {
	switch w := Word(l.q.slot(lease.slot).State.Load()); {
	case w != lease.word:
		return lease.word.Phase() == PhaseReady && w == MakeWord(PhaseReading, l.receiver, 0, lease.word.Lap())
	case w.Phase() == PhaseReading:
		return true
	}
	return lease.slot-l.acked < l.head-l.acked
}

// Nack gives a message back; see Queue.Nack. Errors: ErrLost.
func (l *Lane) Nack(lease Lease) error {
	return l.giveBack(lease, func(i uint64, w Word) bool { return l.q.giveBack(i, w, 1) })
}

// Return gives back what nobody looked at; see Queue.Return. Errors: ErrLost.
func (l *Lane) Return(lease Lease) error {
	return l.giveBack(lease, func(i uint64, w Word) bool { return l.q.giveBack(i, w, 0) })
}

// giveBack ends a lease by the transition how.
func (l *Lane) giveBack(lease Lease, how func(slot uint64, w Word) bool) error {
	p := lease.slot
	l.receiveMu.Lock()
	defer l.receiveMu.Unlock()
	w := lease.word
	leased := w.Phase() == PhaseReady && p-l.acked < l.head-l.acked
	if w.Phase() == PhaseReady && !leased {
		w = MakeWord(PhaseReading, l.receiver, 0, w.Lap()) // it was overtaken, and stamped
	}
	if leased {
		l.stampLeases(p)
	}
	if !how(p, w) { // N
		return ErrLost
	}
	if leased {
		l.done(p + 1) // after N
	}
	l.leaseEnded()
	return nil
}

// ReceiveTo appends the next message to buf and acks it, if it is no frame: then it leases the frame, as TryReceive does. Errors: as TryReceive.
func (l *Lane) ReceiveTo(owner uint16, buf []byte) ([]byte, Lease, error) {
	if err := l.lockReceive(); err != nil {
		return buf, Lease{}, err
	}
	defer l.receiveMu.Unlock()
	buf, lease, err := l.receiveTo(owner, buf)
	if err == nil && lease.open > 0 {
		l.leased++
	}
	return buf, lease, err
}

// lockReceive takes receiveMu. Errors: ErrHeld.
func (l *Lane) lockReceive() error {
	l.receiveMu.Lock()
	if l.consuming {
		l.receiveMu.Unlock()
		return ErrHeld
	}
	return nil
}

// receiveTo is ReceiveTo. receiveMu is held, or the end is a Consumer's.
func (l *Lane) receiveTo(owner uint16, buf []byte) ([]byte, Lease, error) {
	lease, b, n, err := l.lease(owner)
	if err != nil {
		return buf, lease, err
	}
	q := l.q
	if n != 1 {
		sys.StoreRelease(&q.info.Head, l.head)
		return buf, lease, nil
	}
	buf = append(buf, b...)
	sys.StoreRelease(&q.info.Head, l.head) // before G: Acked is never beyond Head
	l.end(lease)
	l.countAck(1)
	return buf, Lease{}, nil
}
