package shm

import "github.com/shmd/shmd/pkg/protocol"

// A queue is either the slot machine for any number of ends, or a lane: what follows chooses.

func (q *Queue) tryLoan() (protocol.Loan, error) {
	if q.lane != nil {
		return q.lane.TryLoan(q.r.id)
	}
	return q.claim()
}

func (q *Queue) commit(l protocol.Loan, n int) error {
	if q.lane != nil {
		return q.lane.Commit(l, n)
	}
	return q.q.Commit(l, n)
}

func (q *Queue) commitFrame(l protocol.Loan, f *protocol.FrameWriter) error {
	if q.lane != nil {
		return q.lane.CommitFrame(l, f)
	}
	return q.q.CommitFrame(l, f)
}

func (q *Queue) abort(l protocol.Loan) error {
	if q.lane != nil {
		return q.lane.Abort(l)
	}
	return q.q.Abort(l)
}

func (q *Queue) tryReceive() (protocol.Lease, error) {
	if q.lane != nil {
		return q.lane.TryReceive(q.r.id)
	}
	return q.q.TryReceive(q.r.id)
}

func (q *Queue) ack(l protocol.Lease) error {
	if q.lane != nil {
		return q.lane.Ack(l)
	}
	return q.q.Ack(l)
}

func (q *Queue) ackMessage(l *protocol.Lease, f *protocol.Frame, i int) error {
	if q.lane != nil {
		return q.lane.AckMessage(l, f, i)
	}
	return q.q.AckMessage(l, f, i)
}

func (q *Queue) nack(l protocol.Lease) error {
	if q.lane != nil {
		return q.lane.Nack(l)
	}
	return q.q.Nack(l)
}

func (q *Queue) reject(l protocol.Lease, reason protocol.DeadReason) error {
	if q.lane != nil {
		return q.lane.Reject(l, reason)
	}
	return q.q.Reject(l, reason)
}

// giveBack gives back what was not handed out.
func (q *Queue) giveBack(l protocol.Lease) error {
	if q.lane != nil {
		return q.lane.Return(l)
	}
	return q.q.Return(l)
}
