package crashpoint

import (
	"github.com/shmd/shmd/pkg/protocol"
)

// ends is a process's view of a queue, be it a lane or not: the calls are the same. They are written out so that nothing escapes to the
// heap: what a tracee has besides its stack is the Lane alone.
type ends struct {
	q *protocol.Queue
	l *protocol.Lane // nil: a queue for any number of ends
}

func openEnds(b []byte) ends {
	e := ends{q: openQueue(b)}
	if e.q.Flags()&protocol.QueueFlagLane != 0 {
		e.l = must(protocol.NewLane(e.q))
	}
	return e
}

func (e ends) loan(owner uint16) (protocol.Loan, error) {
	if e.l != nil {
		return e.l.TryLoan(owner)
	}
	return e.q.TryLoan(owner)
}

func (e ends) commit(l protocol.Loan, n int) error {
	if e.l != nil {
		return e.l.Commit(l, n)
	}
	return e.q.Commit(l, n)
}

func (e ends) commitFrame(l protocol.Loan, f *protocol.FrameWriter) error {
	if e.l != nil {
		return e.l.CommitFrame(l, f)
	}
	return e.q.CommitFrame(l, f)
}

func (e ends) abort(l protocol.Loan) error {
	if e.l != nil {
		return e.l.Abort(l)
	}
	return e.q.Abort(l)
}

func (e ends) receive(owner uint16) (protocol.Lease, error) {
	if e.l != nil {
		return e.l.TryReceive(owner)
	}
	return e.q.TryReceive(owner)
}

func (e ends) ack(l protocol.Lease) error {
	if e.l != nil {
		return e.l.Ack(l)
	}
	return e.q.Ack(l)
}

func (e ends) ackMessage(l *protocol.Lease, f *protocol.Frame, i int) error {
	if e.l != nil {
		return e.l.AckMessage(l, f, i)
	}
	return e.q.AckMessage(l, f, i)
}

func (e ends) nack(l protocol.Lease) error {
	if e.l != nil {
		return e.l.Nack(l)
	}
	return e.q.Nack(l)
}

func (e ends) reject(l protocol.Lease) error {
	if e.l != nil {
		return e.l.Reject(l, rejected)
	}
	return e.q.Reject(l, rejected)
}

func (e ends) giveBack(l protocol.Lease) error {
	if e.l != nil {
		return e.l.Return(l)
	}
	return e.q.Return(l)
}

// What the ends do, stepped: sequences of calls. Of each message that they touch they write into the control words how far they are.
const (
	seqSend        = iota + 1000 // of a lane
	seqLoan                      // and commit
	seqCross                     // two loans, the younger committed first
	seqAbort                     // two loans, both given back
	seqMixed                     // two loans, the younger committed, the older given back
	seqFrame                     // a loan, three messages in it
	seqAck                       // receive, ack
	seqTo                        // of a lane: ReceiveTo
	seqCrossAck                  // two leases, the younger acked first
	seqNack                      // receive, nack
	seqCrossNack                 // two leases, the younger given back, the older acked
	seqReturn                    // receive, give back unseen
	seqFrameAck                  // receive, ack message by message, the second first
	seqFrameNack                 // receive, ack the first message, nack
	seqReject                    // receive, give up
	seqCrossReject               // of a lane: two leases, the younger given up, the older acked
	seqEndLoan                   // of a lane, as are the following: Producer.TryLoan, Commit
	seqEndRun                    // Producer.SendRun, three messages
	seqEndLoanRun                // Producer.TryLoan, CommitRun, three messages
	seqEndBatch                  // Producer.SendBatch, three messages
	seqEndAck                    // Consumer.TryReceive, all messages in one piece if they are of one size, Ack
	seqBatchAck                  // Lane.ReceiveBatch, in the same way, AckBatch
	seqEndSend                   // Producer.Send
	seqEndTo                     // Consumer.Receive
	seqs
)

func init() {
	for op, name := range map[uint64]string{seqSend: "Send", seqLoan: "loan+commit", seqCross: "two loans, younger committed first",
		seqAbort: "two loans+two aborts", seqMixed: "two loans, younger committed, older aborted", seqFrame: "loan+CommitFrame",
		seqAck: "receive+ack", seqTo: "ReceiveTo", seqCrossAck: "two leases, younger acked first", seqNack: "receive+nack",
		seqCrossNack: "two leases, younger nacked, older acked", seqReturn: "receive+return", seqFrameAck: "receive+AckMessage of all",
		seqFrameNack: "receive+AckMessage+nack", seqReject: "receive+reject", seqCrossReject: "two leases, younger rejected, older acked",
		seqEndLoan: "Producer.TryLoan+Commit", seqEndRun: "Producer.SendRun", seqEndLoanRun: "Producer.TryLoan+CommitRun",
		seqEndBatch: "Producer.SendBatch",
		seqEndAck:   "Consumer.TryReceive+Ack", seqEndSend: "Producer.Send", seqEndTo: "Consumer.Receive",
		seqBatchAck: "Lane.ReceiveBatch+AckBatch"} {
		opNames[op] = name
	}
}

// item is a message that an operation touches. Its two control words are the value and kind<<8|stage.
type item struct {
	value uint64
	kind  byte // commit, abort, ack, nack, return, take, x: reject
	stage int
}

const (
	held  = iota + 1 // loaned, leased
	begun            // its end, that is commit, abort, ack, nack, return
	ended
)

const (
	wordLane  = 64 // address of the Lane, in the tracee
	wordItems = 66
	maxItems  = 12
)

func note(b []byte, i int, value uint64, kind byte, stage int) {
	set(b, wordItems+2*i, value)
	set(b, wordItems+2*i+1, uint64(kind)<<8|uint64(stage))
}

func items(b []byte) (out []item) {
	for i := range maxItems {
		if w := get(b, wordItems+2*i+1); w != 0 {
			out = append(out, item{get(b, wordItems+2*i), byte(w >> 8), int(w & 255)})
		}
	}
	return out
}

// messages notes the open messages of a lease, from item i on, and returns the item after them; -1 if one is torn.
func (e ends) messages(b []byte, i int, l protocol.Lease, kind byte, stage int) int {
	f, err := e.q.Frame(l)
	if err != nil {
		return -1
	}
	for k := f.FirstOpen(0); k < f.Len(); k = f.FirstOpen(k + 1) {
		v, whole := message(f.At(k))
		if !whole {
			return -1
		}
		note(b, i, v, kind, stage)
		i++
	}
	return i
}

var scratchBuffer [256]byte

// sequence is what a tracee does for an op from seqSend on.
func sequence(b []byte, e ends, op uint64) uint64 {
	owner, v := uint16(get(b, wordOwner)), get(b, wordValue)
	switch op {
	case seqSend:
		var p [64]byte
		fill(p[:], v)
		note(b, 0, v, 'c', begun)
		err := e.l.Send(owner, p[:length(v)])
		if err == nil {
			note(b, 0, v, 'c', ended)
		}
		return result(err)
	case seqLoan, seqCross, seqAbort, seqMixed:
		var loans [2]protocol.Loan
		n := 0
		for n < len(loans) && (n == 0 || op != seqLoan) {
			l, err := e.loan(owner)
			if err != nil {
				if n == 0 {
					return result(err)
				}
				break
			}
			loans[n] = l
			fill(e.q.LoanBytes(l), v+uint64(n))
			note(b, n, v+uint64(n), 'c', held)
			n++
		}
		for k := range n {
			i, kind := n-1-k, byte('c')
			if op == seqAbort {
				i, kind = k, 'b'
			} else if op == seqMixed && i == 0 {
				kind = 'b'
			}
			x := v + uint64(i)
			note(b, i, x, kind, begun)
			err := error(nil)
			if kind == 'b' {
				err = e.abort(loans[i])
			} else {
				err = e.commit(loans[i], length(x))
			}
			if err != nil {
				return result(err)
			}
			note(b, i, x, kind, ended)
		}
		return resultOK
	case seqFrame:
		l, err := e.loan(owner)
		if err != nil {
			return result(err)
		}
		f := protocol.NewFrame(e.q.LoanBytes(l))
		for i := range uint64(3) {
			fill(f.Next(length(v+i)), v+i)
			note(b, int(i), v+i, 'c', begun)
		}
		if err := e.commitFrame(l, &f); err != nil {
			return result(err)
		}
		for i := range uint64(3) {
			note(b, int(i), v+i, 'c', ended)
		}
		return resultOK
	case seqTo, seqEndTo:
		take := func() ([]byte, protocol.Lease, error) { return e.l.ReceiveTo(owner, scratchBuffer[:0]) }
		if op == seqEndTo {
			c, err := e.l.Consumer(owner)
			if err != nil { // leases are out
				return resultEmpty
			}
			defer c.Close()
			take = func() ([]byte, protocol.Lease, error) { return c.Receive(scratchBuffer[:0]) }
		}
		note(b, 0, 0, 't', begun) // one message may be taken and acked before we hear of it
		p, l, err := take()
		if err != nil {
			return result(err)
		}
		if l.Open() > 0 {
			return e.finishLease(b, l, 0, 'a')
		}
		x, whole := message(p)
		note(b, 0, x, 'a', ended)
		if !whole {
			return resultTorn
		}
		return resultOK
	case seqEndLoan, seqEndRun, seqEndLoanRun, seqEndBatch, seqEndSend:
		return e.asProducer(b, op, owner, v)
	case seqBatchAck:
		return e.ackBatch(b, owner)
	case seqEndAck:
		return e.asConsumer(b, owner)
	case seqAck, seqNack, seqReturn, seqReject:
		l, err := e.receive(owner)
		if err != nil {
			return result(err)
		}
		return e.finishLease(b, l, 0, map3(op, 'a', 'n', 'r'))
	case seqCrossAck, seqCrossNack, seqCrossReject:
		first, err := e.receive(owner)
		if err != nil {
			return result(err)
		}
		n := e.messages(b, 0, first, 'a', held)
		if n < 0 {
			return resultTorn
		}
		second, err := e.receive(owner)
		if err == nil {
			kind := byte('a')
			if op == seqCrossNack {
				kind = 'n'
			} else if op == seqCrossReject {
				kind = 'x'
			}
			if r := e.finishLease(b, second, n, kind); r != resultOK {
				return r
			}
		}
		return e.finishLease(b, first, 0, 'a')
	case seqFrameAck, seqFrameNack:
		l, err := e.receive(owner)
		if err != nil {
			return result(err)
		}
		f, err := e.q.Frame(l)
		if err != nil {
			return resultError
		}
		// In the order 1, 0, 2, 3, ...; item k is message k.
		for k := range f.Len() {
			if f.Done(k) {
				continue
			}
			x, whole := message(f.At(k))
			if !whole {
				return resultTorn
			}
			note(b, k, x, 'a', held)
		}
		for n := range f.Len() {
			k := n
			if f.Len() > 1 && n < 2 {
				k = 1 - n
			}
			if f.Done(k) {
				continue
			}
			if op == seqFrameNack && k != 0 {
				continue
			}
			x := get(b, wordItems+2*k)
			note(b, k, x, 'a', begun)
			if err := e.ackMessage(&l, &f, k); err != nil {
				return result(err)
			}
			note(b, k, x, 'a', ended)
			if l.Open() == 0 { // and so is the frame: the slot is the producer's
				return resultOK
			}
		}
		for k := range f.Len() {
			if !f.Done(k) {
				note(b, k, get(b, wordItems+2*k), 'n', begun)
			}
		}
		return result(e.nack(l))
	}
	return resultError
}

func map3(op uint64, ack, nack, back byte) byte {
	switch op {
	case seqNack:
		return nack
	case seqReturn:
		return back
	case seqReject:
		return 'x'
	}
	return ack
}

// finishLease ends a lease as a whole.
func (e ends) finishLease(b []byte, l protocol.Lease, i int, kind byte) uint64 {
	n := e.messages(b, i, l, kind, held)
	if n < 0 {
		return resultTorn
	}
	kindOf := func(k int) byte {
		if kind == 'x' && k > i { // the first message of a frame is given up, the others are ready again
			return 'r'
		}
		return kind
	}
	for k := i; k < n; k++ {
		note(b, k, get(b, wordItems+2*k), kindOf(k), begun)
	}
	err := error(nil)
	switch kind {
	case 'a':
		err = e.ack(l)
	case 'n':
		err = e.nack(l)
	case 'x':
		err = e.reject(l)
	default:
		err = e.giveBack(l)
	}
	if err != nil {
		return result(err)
	}
	for k := i; k < n; k++ {
		note(b, k, get(b, wordItems+2*k), kindOf(k), ended)
	}
	return resultOK
}

// asProducer is what a Producer of a lane does.
func (e ends) asProducer(b []byte, op uint64, owner uint16, v uint64) uint64 {
	p, err := e.l.Producer(owner)
	if err != nil {
		return resultError
	}
	defer p.Close()
	if op == seqEndLoan {
		l, err := p.TryLoan()
		if err != nil {
			return result(err)
		}
		fill(e.q.LoanBytes(l), v)
		note(b, 0, v, 'c', begun)
		if err := p.Commit(l, length(v)); err != nil {
			return result(err)
		}
		note(b, 0, v, 'c', ended)
		return resultOK
	}
	if op == seqEndSend {
		fill(scratchBuffer[:64], v)
		note(b, 0, v, 'c', begun)
		if err := p.Send(scratchBuffer[:length(v)]); err != nil {
			return result(err)
		}
		note(b, 0, v, 'c', ended)
		return resultOK
	}
	size := length(v) // also of v+8 and v+16
	for i := range 3 {
		fill(scratchBuffer[i*size:], v+8*uint64(i))
	}
	n := 0
	if op != seqEndLoanRun {
		for i := range 3 {
			note(b, i, v+8*uint64(i), 'c', begun)
		}
		if op == seqEndRun {
			n, err = p.SendRun(scratchBuffer[:3*size], size)
		} else {
			n, err = p.SendBatch([][]byte{scratchBuffer[:size], scratchBuffer[size : 2*size], scratchBuffer[2*size : 3*size]})
		}
	} else {
		l, e := p.TryLoan()
		if e != nil {
			return result(e)
		}
		for i := range 3 {
			note(b, i, v+8*uint64(i), 'c', begun)
		}
		n, err = p.CommitRun(l, scratchBuffer[:3*size], size)
	}
	if err != nil {
		return result(err)
	}
	if n != 3 {
		return resultError
	}
	for i := range 3 {
		note(b, i, v+8*uint64(i), 'c', ended)
	}
	return resultOK
}

// mapped is memory that stays.
type mapped struct{}

func (mapped) Lease() error { return nil }
func (mapped) Release()     {}

// asConsumer is what a Consumer of a lane does.
func (e ends) asConsumer(b []byte, owner uint16) uint64 {
	c, err := e.l.Consumer(owner)
	if err != nil { // leases are out
		return resultEmpty
	}
	defer c.Close()
	l, run, k, err := c.TryReceive()
	if err != nil {
		return result(err)
	}
	return e.ackWhole(b, l, run, k, func() error { return c.Ack(l) })
}

// ackBatch is what who receives a batch does without a Consumer.
func (e ends) ackBatch(b []byte, owner uint16) uint64 {
	l, run, k, err := e.l.ReceiveBatch(owner, mapped{})
	if err != nil {
		return result(err)
	}
	return e.ackWhole(b, l, run, k, func() error { return e.l.AckBatch(l) })
}

// ackWhole checks the messages of a lease, of which k lie in run, and acks all of them.
func (e ends) ackWhole(b []byte, l protocol.Lease, run []byte, k int, ack func() error) uint64 {
	n := e.messages(b, 0, l, 'a', held)
	if n < 0 {
		return resultTorn
	}
	if k > 0 { // the same messages, in one piece
		size := len(run) / k
		for i := range k {
			if v, whole := message(run[i*size : (i+1)*size]); k != n || !whole || v != get(b, wordItems+2*i) {
				return resultTorn
			}
		}
	}
	for k := range n {
		note(b, k, get(b, wordItems+2*k), 'a', begun)
	}
	if err := ack(); err != nil {
		return result(err)
	}
	for k := range n {
		note(b, k, get(b, wordItems+2*k), 'a', ended)
	}
	return resultOK
}

// warmUpEnds runs every sequence once.
func warmUpEnds(b []byte) {
	for _, lane := range []bool{false, true} {
		for op := uint64(seqSend); op < seqs; op++ {
			if !lane && (op == seqSend || op == seqTo || op >= seqCrossReject) {
				continue
			}
			clear(b[:controlSize])
			copy(b[queueAt:], newScene("", lane, 4, 3, 0, victim, victim, func(b *sceneBuilder) {
				b.send(3)
				b.nack(2)
				if op >= seqFrameAck {
					b.receive(3)
					b.frame(3)
				}
			}).image)
			set(b, wordOwner, victim)
			set(b, wordValue, sent)
			sequence(b, openEnds(b), op)
		}
	}
}
