package protocol

import "errors"

// ErrHeld: this process's end of a lane is held by a Producer or a Consumer, which is to be used instead.
var ErrHeld = errors.New("the end is held by a Producer or Consumer of this process: use that, or close it")

// Producer is the producing end of a lane for one goroutine at a time: it takes no lock.
type Producer struct {
	l     *Lane
	owner uint16
}

// Producer takes the producing end for the attachment owner. Until Close the sending methods of Lane return ErrHeld, but for those that
// end a loan. Errors: *EndError, ErrHeld, os.ErrClosed.
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
	if l.next != l.tail {
		return nil, errors.New("loans are out: commit or abort them first")
	}
	l.held = true
	return &Producer{l, owner}, nil
}

// Send publishes a copy of b, which must not be longer than a slot. Errors: ErrFull.
func (p *Producer) Send(b []byte) error { return p.l.send(p.owner, b) }

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
	if l.acked != l.head {
		return nil, errors.New("leases are out: ack or nack them first")
	}
	l.consuming = true
	return &Consumer{l, owner}, nil
}

// Ready reports whether Receive is worth a try. It looks at one line of memory, which the producer writes and nobody else.
func (c *Consumer) Ready() bool {
	l := c.l
	return Word(l.q.slot(l.head).State.Load()) == l.q.ready(l.head)
}

// Receive appends the next message to buf and acks it; of a frame it returns the lease instead. Errors: as Lane.TryReceive.
func (c *Consumer) Receive(buf []byte) ([]byte, Lease, error) { return c.l.receiveTo(c.owner, buf) }

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
	l.shut = true
	l.sendMu.Unlock()
	l.receiveMu.Lock()
	l.gone = true
	l.receiveMu.Unlock()
}
