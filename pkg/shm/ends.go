package shm

import (
	"context"
	"errors"
	"fmt"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// ErrNoLane: the channel is for any number of producers and consumers (it has not producers = 1 and consumers = 1), so it has no ends
// for one goroutine.
var ErrNoLane = errors.New("the channel has not producers = 1 and consumers = 1")

// ErrHeld: the process's end of the queue is held by a Producer or a Consumer.
var ErrHeld = protocol.ErrHeld

// Producer is the sending end of a queue with one producer and one consumer, for one goroutine at a time: it takes no lock. It ends with Close.
type Producer struct {
	q    *Queue
	r    *Region // of q, as size is: one line of memory has what Send looks at
	p    protocol.Producer
	size int // SlotSize
	open bool

	loaned bool
	loan   protocol.Loan
}

// Producer takes the sending end; until Close the queue's own methods to send return ErrHeld. Errors: ErrNoLane, ErrHeld, ErrClosed,
// *protocol.EndError (another process has it); loans are out.
func (q *Queue) Producer() (*Producer, error) {
	if q.lane == nil {
		return nil, ErrNoLane
	}
	if err := q.s.Lease(); err != nil { // until Close
		return nil, err
	}
	p, err := q.lane.Producer(q.r.id)
	if err != nil {
		q.s.Release()
		return nil, err
	}
	return &Producer{q: q, r: q.r, p: *p, size: q.q.SlotSize(), open: true}, nil
}

// Send is Queue.Send.
func (p *Producer) Send(ctx context.Context, b []byte) error {
	if len(b) > p.size || !p.open || p.r.due() || !p.p.Ready() { // what is needed after a call is stored before it, between stores that wait for their lines
		return p.sendLong(ctx, b)
	}
	p.r.sent()
	return p.p.Send(b)
}

// sendLong is Send when there is more to do than to send, or less.
func (p *Producer) sendLong(ctx context.Context, b []byte) error {
	err := p.TrySend(b)
	if err != ErrFull {
		return err
	}
	l, err := p.wait(ctx)
	if err == nil {
		err = p.p.Commit(l, copy(p.q.q.LoanBytes(l), b))
	}
	p.r.sent()
	return err
}

// TrySend is Queue.TrySend.
func (p *Producer) TrySend(b []byte) error {
	if len(b) > p.size || !p.open {
		return p.refuse(len(b))
	}
	p.r.beat()
	err := p.p.Send(b)
	p.r.sent()
	return err
}

func (p *Producer) refuse(n int) error {
	if !p.open {
		return ErrClosed
	}
	return &TooLargeError{p.q.name, n, p.q.q.SlotSize()}
}

// SendRun sends the messages that lie in b one after another, of size bytes each. It copies as many at once as fit into a slot, MaxBatch at most,
// and so is what costs least a message; they arrive as other messages do, and ReceiveRun receives them in the same way. It returns how many were
// committed, all of them unless err is not nil. It waits while the queue is full. Errors: as Send; size is not positive or does not divide len(b).
func (p *Producer) SendRun(ctx context.Context, b []byte, size int) (sent int, err error) {
	switch {
	case size > p.q.q.SlotSize() || !p.open:
		return 0, p.refuse(size)
	case size <= 0 || len(b)%size != 0:
		return 0, fmt.Errorf("%d bytes are no messages of %d", len(b), size)
	}
	p.q.r.beat()
	for len(b) > 0 {
		n, err := p.p.SendRun(b, size)
		if err == ErrFull {
			var l protocol.Loan
			if l, err = p.wait(ctx); err == nil {
				n, err = p.p.CommitRun(l, b, size)
			}
		}
		if err != nil {
			return sent, err
		}
		sent, b = sent+n, b[n*size:]
	}
	return sent, nil
}

// SendBatch sends copies of messages of any sizes, and is to Queue.SendBatch as Send is to Queue.Send: as many share a slot as fit, MaxBatch at most. For
// messages of one size that lie one after another SendRun costs less. It returns how many were committed, all of them unless err is not nil. It waits while the
// queue is full. Errors: as Send, and for a message that is too large only those before it are sent.
func (p *Producer) SendBatch(ctx context.Context, msgs [][]byte) (sent int, err error) {
	if !p.open {
		return 0, ErrClosed
	}
	p.q.r.beat()
	for sent < len(msgs) {
		if n := len(msgs[sent]); n > p.q.q.SlotSize() {
			return sent, p.refuse(n)
		}
		n, err := p.p.SendBatch(msgs[sent:])
		if err == ErrFull {
			var l protocol.Loan
			if l, err = p.wait(ctx); err == nil {
				n, err = p.p.CommitBatch(l, msgs[sent:])
			}
		}
		if err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// Loan returns the payload of the next slot, SlotSize bytes of undefined contents, to be filled in place until Commit or Abort. There
// is one at a time: until then Loan returns the same. It waits while the queue is full. What is sent meanwhile comes first. Errors: as Send.
func (p *Producer) Loan(ctx context.Context) ([]byte, error) {
	if !p.loaned {
		if !p.open {
			return nil, ErrClosed
		}
		p.q.r.beat()
		l, err := p.p.TryLoan()
		if err == ErrFull {
			l, err = p.wait(ctx)
		}
		if err != nil {
			return nil, err
		}
		p.loan, p.loaned = l, true
	}
	return p.q.q.LoanBytes(p.loan), nil
}

// Commit publishes the first n bytes of the loan. Errors: *TooLargeError (the loan goes on), ErrLost (there is none).
func (p *Producer) Commit(n int) error {
	if limit := p.q.q.SlotSize(); n < 0 || n > limit {
		return &TooLargeError{p.q.name, n, limit}
	}
	if !p.loaned {
		return ErrLost
	}
	p.loaned = false
	err := p.p.Commit(p.loan, n)
	p.r.sent()
	return err
}

// Abort gives the loan back. Errors: ErrLost (there is none), so it can be deferred.
func (p *Producer) Abort() error {
	if !p.loaned {
		return ErrLost
	}
	p.loaned = false
	return p.p.Abort(p.loan)
}

// wait waits for a slot and takes it.
func (p *Producer) wait(ctx context.Context) (l protocol.Loan, err error) {
	if p.glance() {
		if l, err = p.p.TryLoan(); err != ErrFull {
			return l, err
		}
	}
	q := p.q
	if err := q.s.Lease(); err != nil { // a Close meanwhile, which is a mistake, is to be no access to memory that is gone
		return l, err
	}
	defer q.s.Release()
	err = q.r.await(ctx, &q.q.Senders, &q.sending, func() error {
		l, err = p.p.TryLoan()
		return err
	})
	return l, err
}

// glance looks for room for a short while: if there is some, then it waits a little for more.
func (p *Producer) glance() bool {
	if !p.q.r.many || p.q.r.how(&p.q.sending) == WaitBlock {
		return false
	}
	enough := max(p.q.q.Slots()/8, 1)
	for range glances / lag {
		for range lag {
			sys.Pause()
		}
		if n := p.p.Room(); n > 0 {
			for i := 0; i < lag && n < enough; i++ {
				for range lag {
					sys.Pause()
				}
				n = p.p.Room()
			}
			return true
		}
	}
	return false
}

// Close gives the end back to the queue; a loan is aborted. It is idempotent. Region.Close waits for it.
func (p *Producer) Close() error {
	if p.open {
		p.Abort()
		p.open = false
		p.p.Close()
		p.q.s.Release()
	}
	return nil
}

// Consumer is the receiving end of a queue with one producer and one consumer, for one goroutine at a time: it takes no lock. It ends with
// Close.
type Consumer struct {
	q    *Queue
	c    protocol.Consumer
	open bool
	slow bool // not open, or there is a lease

	pace pace
	run  int // slots since it last looked

	// What was taken and has not ended. A batch is handed out as a whole or one by one.
	index int            // the message that was handed out, all: the whole, none: nothing
	lease protocol.Lease // Open is 0: none
	frame protocol.Frame
}

const (
	all  = -1
	none = -2
)

// Consumer takes the receiving end; until Close the queue's own methods to receive return ErrHeld. Errors: ErrNoLane, ErrHeld, ErrClosed,
// *protocol.EndError (another process has it); leases are out. The rest of a batch that Receive has begun goes back, if what it gave out has ended.
func (q *Queue) Consumer() (*Consumer, error) {
	if q.lane == nil {
		return nil, ErrNoLane
	}
	if err := q.s.Lease(); err != nil { // until Close
		return nil, err
	}
	q.frames.yield(q)
	c, err := q.lane.Consumer(q.r.id)
	if err != nil {
		q.s.Release()
		return nil, err
	}
	return &Consumer{q: q, c: *c, open: true, index: none}, nil
}

// ReceiveCopy is Queue.ReceiveCopy.
func (c *Consumer) ReceiveCopy(ctx context.Context, buf []byte) ([]byte, error) {
	if !c.slow && !c.c.Ready() {
		if err := c.idle(ctx); err != nil {
			return buf, err
		}
	}
	for {
		out, err := c.TryReceiveCopy(buf)
		if err != ErrEmpty {
			return out, err
		}
		if err := c.wait(ctx); err != nil {
			return buf, err
		}
	}
}

// TryReceiveCopy is ReceiveCopy that does not wait. Errors: ErrEmpty beside those of ReceiveCopy.
func (c *Consumer) TryReceiveCopy(buf []byte) ([]byte, error) {
	if c.slow || c.q.r.ending.Load() {
		return c.copyNext(buf)
	}
	c.q.r.beat()
	out, l, err := c.c.Receive(buf)
	c.run++
	if err == nil && l.Open() > 0 {
		return c.copyOfFrame(buf, l)
	}
	return out, err
}

// copyOfFrame copies and acks the first message of a frame that was just leased.
func (c *Consumer) copyOfFrame(buf []byte, l protocol.Lease) ([]byte, error) {
	f, err := c.q.q.Frame(l)
	if err != nil {
		c.c.Ack(l)
		return buf, err
	}
	c.lease, c.frame, c.slow = l, f, true
	return c.copyNext(buf)
}

// copyNext copies and acks the next message of a batch.
func (c *Consumer) copyNext(buf []byte) ([]byte, error) {
	b, err := c.tryNext()
	if err != nil {
		return buf, err
	}
	buf = append(buf, b...)
	return buf, c.Ack()
}

// errOut: one thing at a time.
var errOut = errors.New("what was received before is to be acked or nacked first")

// Receive takes the next message and returns its payload in place, valid until Ack or Nack; it must not be written to. There is one at a time. It
// waits for a message. Errors: as Queue.Receive.
func (c *Consumer) Receive(ctx context.Context) ([]byte, error) {
	if !c.slow && !c.c.Ready() {
		if err := c.idle(ctx); err != nil {
			return nil, err
		}
	}
	for {
		b, err := c.tryNext()
		if err != ErrEmpty {
			return b, err
		}
		if err := c.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// ReceiveRun takes all messages of the next slot if they are of one size, as those of SendRun are: n messages that lie in b one after another,
// len(b)/n bytes each. It is as Receive else: one Ack or Nack is for all of them. Others it takes as Receive does, and n is 1: those of several
// sizes, and those of a batch that was given back or whose consumer died, which come one by one so that the one that kills is found.
func (c *Consumer) ReceiveRun(ctx context.Context) (b []byte, n int, err error) {
	if !c.slow && !c.c.Ready() {
		if err := c.idle(ctx); err != nil {
			return nil, 0, err
		}
	}
	for {
		b, n, err := c.tryRun()
		if err != ErrEmpty {
			return b, n, err
		}
		if err := c.wait(ctx); err != nil {
			return nil, 0, err
		}
	}
}

func (c *Consumer) tryRun() ([]byte, int, error) {
	b, n, err := c.take()
	if n > 0 || err != nil {
		return b, n, err
	}
	b, err = c.hand()
	return b, 1, err
}

func (c *Consumer) tryNext() ([]byte, error) {
	b, n, err := c.take()
	if n == 1 || err != nil {
		return b, err
	}
	if n > 1 { // one by one
		if c.frame, err = c.q.q.Frame(c.lease); err != nil { // it was whole a moment ago
			c.Ack()
			return nil, err
		}
	}
	return c.hand()
}

// take takes the next slot. It returns all its messages, n of them, and they are out; or 0 if they are to be handed out one by one, as those are of
// a slot that was taken before.
func (c *Consumer) take() (b []byte, n int, err error) {
	c.q.r.beat()
	switch {
	case !c.open:
		return nil, 0, ErrClosed
	case c.index != none:
		return nil, 0, errOut
	case c.q.r.ending.Load():
		return nil, 0, c.q.r.asked()
	case c.lease.Open() > 0:
		return nil, 0, nil
	}
	c.run++
	if c.lease, b, n, err = c.c.TryReceive(); err != nil {
		c.lease = protocol.Lease{}
		return nil, 0, err
	}
	c.slow = true
	if n > 0 {
		c.index = all
		return b, n, nil
	}
	if c.frame, err = c.q.q.Frame(c.lease); err != nil { // it was whole a moment ago
		c.c.Ack(c.lease)
		c.lease, c.slow = protocol.Lease{}, false
	}
	return nil, 0, err
}

// hand hands out the next message of the lease.
func (c *Consumer) hand() ([]byte, error) {
	c.index = c.frame.FirstOpen(0)
	b := c.frame.At(c.index)
	if b == nil {
		err := c.q.q.Damaged(c.lease, c.index)
		c.Ack()
		return nil, err
	}
	return b, nil
}

// Ack says that what was received is done. Errors: ErrLost (nothing is out).
func (c *Consumer) Ack() (err error) {
	switch c.index {
	case none:
		return ErrLost
	case all:
		err = c.c.Ack(c.lease)
		c.lease = protocol.Lease{}
	default:
		if err = c.c.AckMessage(&c.lease, &c.frame, c.index); err != nil {
			c.lease = protocol.Lease{}
		}
	}
	c.index, c.slow = none, c.lease.Open() > 0
	return err
}

// Nack gives back what was received, and what is left of the batch that it is of; see Message.Nack. Errors: ErrLost (nothing is out), so it
// can be deferred.
func (c *Consumer) Nack() error {
	if c.index == none {
		return ErrLost
	}
	l := c.lease
	c.lease, c.index, c.slow = protocol.Lease{}, none, false
	return c.q.nack(l)
}

// glance looks at one line of memory for a short while.
func (c *Consumer) glance() bool {
	if c.q.r.how(&c.q.receiving) == WaitBlock {
		return false
	}
	run := c.run
	c.run = 0
	c.pace.rest(run, c.q.q.Slots())
	for i := range glances {
		for range peeks {
			if c.c.Awaited() {
				c.pace.found(i)
				return true
			}
		}
		sys.Pause()
	}
	return false
}

// idle is for a consumer that is not Ready: it waits already before the first try, unless that has something to do.
func (c *Consumer) idle(ctx context.Context) error {
	switch r := c.q.r; {
	case r.many:
		if c.glance() {
			return nil
		}
	case r.yields.sent.Load():
		c.c.Await()
		r.yields.sent.Store(false)
		r.yield(&c.q.receiving, mostUnyielded)
	}
	if c.c.Pending() {
		return nil
	}
	c.run++ // as a try in vain does
	return c.wait(ctx)
}

// wait waits until there may be something to receive: it spins on one line of memory, and then sleeps. Who was woken tries, and waits again if it was in vain.
func (c *Consumer) wait(ctx context.Context) error {
	q := c.q
	if err := ctx.Err(); err != nil { // a hostile peer may always have something, and never a message
		return err
	}
	if err := q.s.Lease(); err != nil { // as in Producer.wait
		return err
	}
	if q.r.spins(&q.receiving) {
		if done, err := c.lookOut(ctx); done {
			q.s.Release()
			return err
		}
	}
	err := c.waitAsleep(ctx)
	q.s.Release()
	return err
}

// waitAsleep is the part of wait that sleeps.
func (c *Consumer) waitAsleep(ctx context.Context) error {
	q := c.q
	bell := &q.q.Receivers
	v := bell.Value()
	ticket := bell.Register() // S
	if c.c.Pending() {        // T
		bell.Unregister(ticket)
		return nil
	}
	err := q.r.sleep(ctx, bell.Word(), v)
	bell.Unregister(ticket)
	if err != nil {
		bell.PassOn() // as in Region.awaitAsleep
	}
	return err
}

// lookOut is the part of wait that spins, apart so that it costs a consumer that sleeps nothing. It reports whether the wait is over.
func (c *Consumer) lookOut(ctx context.Context) (done bool, err error) {
	q := c.q
	if q.r.how(&q.receiving) == WaitSpin {
		n := 0
		return true, q.r.keepLooking(ctx, 1, func() bool {
			for range peeks {
				if c.c.Awaited() {
					return true
				}
			}
			n++
			return n%16 == 0 && c.c.Pending() // what does not show in that line: a message that came back, the end
		})
	}
	if !q.r.spinning.CompareAndSwap(false, true) {
		return false, nil
	}
	looks := q.receiving.begin()
	for !done && looks.more(ctx, q.r) {
		for i := 0; i < peeks && !done; i++ {
			done = c.c.Awaited()
		}
		if looks.n%fewLooks == 0 && !done { // what does not show in that line: a message that came back, the end
			done = c.c.Pending()
		}
		if !done {
			sys.Pause()
		}
	}
	q.r.spinning.Store(false)
	looks.end(done)
	return done, nil
}

// Close gives the end back to the queue; what was received and not acked is given back as Nack does, and of a batch what was not received is
// delivered again. It is idempotent. Region.Close waits for it.
func (c *Consumer) Close() error {
	if c.open {
		out := c.index != none
		c.open, c.slow = false, true
		switch {
		case out:
			c.Nack()
			c.slow = true
		case c.lease.Open() > 0:
			c.q.lane.Return(c.lease)
			c.lease = protocol.Lease{}
		}
		c.c.Close()
		c.q.s.Release()
	}
	return nil
}
