package protocol

import (
	"errors"

	"github.com/shmd/shmd/internal/sys"
)

// ErrHeld: this process's end of a lane is held by a Producer or a Consumer, which is to be used instead.
var ErrHeld = errors.New("the end is held by a Producer or Consumer of this process: use that, or close it")

// Producer is the producing end of a lane for one goroutine at a time: it takes no lock.
type Producer struct {
	l     *Lane
	owner uint16
}

// Producer takes the producing end for the attachment owner. Until Close the sending methods of Lane return ErrHeld, but for those that
// end a loan. Errors: *EndError, ErrHeld, os.ErrClosed; loans are out.
func (l *Lane) Producer(owner uint16) (*Producer, error) {
	if err := l.lockSend(); err != nil {
		return nil, err
	}
	defer l.sendMu.Unlock()
	if l.sender != owner {
		if err := l.takeSendEnd(owner); err != nil {
			return nil, err
		}
	}
	if l.next != l.tail || l.out > 0 { // those that were overtaken are behind tail
		return nil, errors.New("loans are out: commit or abort them first")
	}
	l.held = true
	return &Producer{l, owner}, nil
}

// Ready reports whether Send is sure to find room. It looks at no line of the lane that it would not write to next.
func (p *Producer) Ready() bool {
	l := p.l
	return l.next-l.room <= l.q.mask && l.q.usable(l.next) && !l.shut.Load()
}

// Send publishes a copy of b, which must not be longer than a slot. Errors: ErrFull, but not after Ready.
//
// It is Lane.send for the usual case of a small message, in one piece: an end that has slept finds none of this code in the nearest cache, and waits for each line of
// it. It makes no call, and writes each line in one go: the producer's own, that of the message's end, that with the rest and the state, Tail, the counter.
func (p *Producer) Send(b []byte) error {
	l := p.l
	q, at := l.q, l.next
	if l.sender != p.owner || l.shut.Load() || at != l.tail || len(l.ended) > 0 || at-l.room > q.mask || !q.usable(at) || len(b) > sys.Small {
		return l.send(p.owner, b)
	}
	l.next, l.tail = at+1, at+1
	l.sent++
	q.putSmall(at, b)
	s := q.slot(at)
	sys.StoreRelease4(s.meta(), uint64(len(b)), &s.State, uint64(q.ready(at)) /* C */, &q.info.Tail, at+1 /* B */, l.sentAt, l.sent)
	q.Receivers.RingBrisk(&l.calm) // E
	if to := at + 1 + q.ahead; to-l.room <= q.mask+1 {
		q.own(to-1, l.lines)
	}
	return nil
}

// TryLoan takes the next slot. Errors: ErrFull.
func (p *Producer) TryLoan() (Loan, error) {
	at, err := p.l.claim(p.owner)
	return Loan{slot: at, word: MakeWord(PhaseWriting, p.owner, 0, p.l.q.lap(at))}, err
}

// Commit is Lane.Commit.
func (p *Producer) Commit(loan Loan, n int) error {
	l := p.l
	if loan.slot != l.tail || l.next == l.tail || len(l.ended) > 0 || uint(n) > uint(l.q.slotSize) {
		return l.Commit(loan, n)
	}
	l.commitAt(loan.slot, uint64(n), 1)
	l.q.Receivers.RingBrisk(&l.calm) // E
	return nil
}

// Abort is Lane.Abort.
func (p *Producer) Abort(loan Loan) error { return p.l.Abort(loan) }

// SendRun publishes the first messages of b, which has messages of size bytes one after another, as one frame: as many as a slot holds, and
// MaxFrame at most. It returns how many. size is 1 to the slot's, and b has one message at least. Errors: ErrFull.
func (p *Producer) SendRun(b []byte, size int) (int, error) {
	at, err := p.l.claim(p.owner)
	if err != nil {
		return 0, err
	}
	n, meta := p.l.q.putRun(at, b, size)
	p.l.commitAt(at, meta, n)
	p.l.q.Receivers.RingBrisk(&p.l.calm) // E
	return n, nil
}

// CommitRun is SendRun with a loan. Errors: ErrLost.
func (p *Producer) CommitRun(loan Loan, b []byte, size int) (int, error) {
	n, meta := p.l.q.putRun(loan.slot, b, size)
	return n, p.l.commit(loan, meta, n)
}

// SendBatch publishes copies of the first of msgs as one frame: as many as a slot holds, and MaxFrame at most; one alone as a message. It returns how
// many. There is one message at least, and the first is not longer than a slot. Errors: ErrFull.
func (p *Producer) SendBatch(msgs [][]byte) (int, error) {
	return p.l.sendBatch(p.owner, msgs)
}

// SendBatch is Producer.SendBatch for those that have no Producer. Errors: ErrFull, *EndError, ErrHeld.
func (l *Lane) SendBatch(owner uint16, msgs [][]byte) (int, error) {
	if err := l.lockSend(); err != nil {
		return 0, err
	}
	n, err := l.sendBatch(owner, msgs)
	l.sendMu.Unlock()
	return n, err
}

// sendBatch is SendBatch. sendMu is held, or the end is a Producer's.
func (l *Lane) sendBatch(owner uint16, msgs [][]byte) (int, error) {
	at, err := l.claim(owner)
	if err != nil {
		return 0, err
	}
	n, meta := l.q.putBatch(at, msgs)
	l.commitAt(at, meta, n)
	l.q.Receivers.RingBrisk(&l.calm) // E
	l.aheadOf(int(uint32(meta)))
	return n, nil
}

// aheadOf has all lines of a slot asked for ahead where batches are small, of length bytes here. A list is copied message by message, and each store waits for its
// line; the copy of a run streams. More lines than these are better left to the processor's own prefetcher.
func (l *Lane) aheadOf(length int) {
	const most = 17 // with the header: 16 messages of 64 bytes
	if lines := (SizeofSlotHeader + length + 63) / 64; lines <= most {
		l.lines = max(lines, l.q.lines)
	} else {
		l.lines = l.q.lines
	}
}

// CommitBatch is SendBatch with a loan. Errors: ErrLost.
func (p *Producer) CommitBatch(loan Loan, msgs [][]byte) (int, error) {
	n, meta := p.l.q.putBatch(loan.slot, msgs)
	return n, p.l.commit(loan, meta, n)
}

// putBatch is putRun for messages of any sizes that lie anywhere.
func (q *Queue) putBatch(at uint64, msgs [][]byte) (n int, meta uint64) {
	slot := q.payload(at)
	size := len(msgs[0])
	if len(msgs) == 1 || size+frameData > len(slot) {
		return 1, uint64(copy(slot, msgs[0]))
	}
	most := min(len(msgs), MaxFrame)
	fit := most
	if size > 0 {
		fit = min(most, (len(slot)-frameData)/size)
	}
	n = putEqual(slot[frameData:], msgs[:fit], size)
	end := frameData + n*size
	sys.StoreRelease(overlayWord(slot), 0)
	if n == most || len(msgs[n]) == size {
		return n, uint64(n)<<32 | uint64(end)
	}
	f := FrameWriter{p: slot, n: n, size: size, end: end}
	for ; n < most; n++ {
		place := f.Next(len(msgs[n]))
		if place == nil {
			break
		}
		copy(place, msgs[n])
	}
	return n, f.seal()
}

// putEqual copies messages one after another into b, which has room for all, up to one that is not of the size. It returns how many.
func putEqual(b []byte, msgs [][]byte, size int) int {
	switch size {
	case 8:
		return sys.Gather8(b, msgs)
	case 64:
		return sys.Gather64(b, msgs)
	}
	for n, m := range msgs {
		if len(m) != size {
			return n
		}
		copy(b, m)
		b = b[size:]
	}
	return len(msgs)
}

// putRun writes messages into a slot. It returns how many, and the words Length and Frame.
func (q *Queue) putRun(at uint64, b []byte, size int) (n int, meta uint64) {
	slot := q.payload(at)
	if n = min(len(b)/size, (len(slot)-frameData)/size, MaxFrame); n <= 1 {
		return 1, uint64(copy(slot, b[:size]))
	}
	// No FrameWriter: to hand one over is to read in wide words what was just written in narrow ones, for which a processor waits.
	sys.StoreRelease(overlayWord(slot), 0)
	copy(slot[frameData:], b[:n*size])
	return n, uint64(n)<<32 | uint64(frameData+n*size)
}

// Room returns how many slots are free now, those that somebody keeps out of order included.
func (p *Producer) Room() int {
	l := p.l
	l.room = l.q.info.Acked.Load()
	return int(l.q.mask + 1 - min(l.next-l.room, l.q.mask+1)) // more than all: a hostile peer
}

// Close gives the end back to the methods of Lane.
func (p *Producer) Close() {
	p.l.sendMu.Lock()
	p.l.held = false
	p.l.sendMu.Unlock()
}

// Consumer is the consuming end of a lane for one goroutine at a time: it takes no lock.
type Consumer struct {
	l     *Lane
	owner uint16
}

// Consumer takes the consuming end for the attachment owner. Until Close the receiving methods of Lane return ErrHeld. Errors: *EndError,
// ErrHeld, os.ErrClosed; leases are out.
func (l *Lane) Consumer(owner uint16) (*Consumer, error) {
	if err := l.lockReceive(); err != nil {
		return nil, err
	}
	defer l.receiveMu.Unlock()
	if l.receiver != owner {
		if err := l.takeReceiveEnd(owner); err != nil {
			return nil, err
		}
	}
	if l.acked != l.head || l.leased > 0 { // those that were overtaken are behind acked
		return nil, errors.New("leases are out: ack or nack them first")
	}
	l.lookBehind() // so that the first Receive is the usual one
	l.consuming = true
	return &Consumer{l, owner}, nil
}

// Ready reports whether Receive is worth a try. It looks at one line of memory, which the producer writes and nobody else.
func (c *Consumer) Ready() bool {
	l := c.l
	return Word(l.q.slot(l.head).State.Load()) == l.q.ready(l.head)
}

// Awaited is Ready for a loop: it asks for the second line of the slot too.
func (c *Consumer) Awaited() bool {
	c.l.q.fetchSecond(c.l.head)
	c.Await()
	return c.Ready()
}

// Await tells that the consumer is not Ready and will wait: then it need not ask for the slots behind the next one early.
func (c *Consumer) Await() { c.l.awaited = c.l.head + 1 }

// Receive appends the next message to buf and acks it; of a frame it returns the lease instead. Errors: as Lane.TryReceive.
//
// It is Lane.receiveTo for the usual case, in one piece, as Producer.Send is.
func (c *Consumer) Receive(buf []byte) ([]byte, Lease, error) {
	l := c.l
	q, at := l.q, l.head
	s := q.slot(at)
	if Word(s.State.Load()) != q.ready(at) || at != l.acked || l.receiver != c.owner || l.gone.Load() ||
		l.returned != q.info.Returned.Load() || len(l.again) > 0 { // the state is F: pairs with C
		return l.receiveTo(c.owner, buf)
	}
	length := s.meta().Load()
	if length > uint64(q.slotSize) { // a frame, or damaged
		return l.receiveTo(c.owner, buf)
	}
	if l.awaited != at+1 { // else those to come are not there yet, and the producer is about to write them
		q.fetch(at + 4)
	}
	buf = append(buf, q.payload(at)[:length]...)
	l.head, l.acked = at+1, at+1
	l.received++
	l.ackedCount++
	// Head before Acked, which is never beyond it.
	sys.StoreRelease4(l.receivedAt, l.received, &q.info.Head, at+1, &q.info.Acked, at+1 /* G */, l.ackedAt, l.ackedCount)
	if q.Senders.Sleepers() != 0 { // W: the membarrier of a sender that registers orders it behind G
		q.Senders.Ring(1)
	}
	return buf, Lease{}, nil
}

// Pending reports whether TryReceive has something to do, be it a message that came back or a position to pass over.
func (c *Consumer) Pending() bool {
	l, i := c.l, c.l.q.info
	if c.Ready() || l.returned != i.Returned.Load() || len(l.again) > 0 || int64(i.Tail.Load()-l.head) > 0 {
		return true
	}
	c.Await()
	return false
}

// TryReceive leases the next slot. It returns all its n messages, which lie in b one after another and are of one size; or, n being 0, messages
// that are to be taken one by one, from Queue.Frame. Errors: as Lane.TryReceive.
func (c *Consumer) TryReceive() (lease Lease, b []byte, n int, err error) {
	l := c.l
	if lease, b, n, err = l.lease(c.owner); err == nil {
		sys.StoreRelease(&l.q.info.Head, l.head) // before the caller sees it: a repair counts the delivery
	}
	return lease, b, n, err
}

// Ack ends a lease. Errors: ErrLost.
func (c *Consumer) Ack(lease Lease) error {
	if !c.l.end(lease) {
		return ErrLost
	}
	c.l.countAck(lease.open)
	return nil
}

// AckMessage acks one message of a frame's lease; see Queue.AckMessage. Errors: ErrLost.
func (c *Consumer) AckMessage(lease *Lease, f *Frame, i int) error {
	return c.l.ackMessage(lease, f, i)
}

// Close gives the end back to the methods of Lane.
func (c *Consumer) Close() {
	c.l.receiveMu.Lock()
	c.l.consuming = false
	c.l.receiveMu.Unlock()
}

// Close makes every later operation that would touch the memory fail with os.ErrClosed, once those that run have ended. The leases and loans
// that are out may still be ended: the memory is to stay until they are.
func (l *Lane) Close() {
	l.sendMu.Lock()
	l.shut.Store(true)
	l.lending.ended(true)
	l.sendMu.Unlock()
	l.receiveMu.Lock()
	l.gone.Store(true)
	l.receiving.ended(true)
	l.receiveMu.Unlock()
}
