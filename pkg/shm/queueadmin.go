package shm

import (
	"context"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// Errors of channels that are administered.
var (
	// ErrDraining: the channel is being drained (shmctl ch drain) and takes no messages.
	ErrDraining = protocol.ErrDraining
	// ErrLeases: this process holds as many messages as max_leases of the channel allows; a batch counts as one.
	ErrLeases = protocol.ErrLeases
)

// claim claims a slot of a queue that is no lane, unless the channel is being drained.
func (q *Queue) claim() (protocol.Loan, error) {
	l, err := q.q.TryLoan(q.r.id)
	switch {
	case err == nil:
		if err = q.q.Admit(l); err != nil {
			return protocol.Loan{}, err
		}
	case q.q.Draining(): // who waits for room waits for nothing
		err = ErrDraining
	}
	return l, err
}

// Drain begins a drain: from now on nobody sends (ErrDraining), and consumers finish what is there. Or it ends one. The process must
// produce or consume. Errors: ErrClosed; the channel has one producer and one consumer.
func (q *Queue) Drain(on bool) error {
	if err := q.s.Lease(); err != nil {
		return err
	}
	defer q.s.Release()
	return q.q.Drain(on)
}

// Draining reports whether the queue is being drained. It is empty then when Stat says Rest 0: nothing comes any more.
func (q *Queue) Draining() bool {
	if q.s.Lease() != nil {
		return false
	}
	defer q.s.Release()
	return q.q.Draining()
}

// drainLook is how often a drain that is under way is looked at: what ends it rings no bell of its own.
const drainLook = 20 * time.Millisecond

// WaitDrained waits until the queue is being drained and nothing is in it any more, nor can come. Errors: ctx.Err(), ErrQuit, ErrClosed.
func (q *Queue) WaitDrained(ctx context.Context) error {
	if err := q.s.Lease(); err != nil {
		return err
	}
	defer q.s.Release()
	for {
		if err := q.r.asked(); err != nil {
			return err
		}
		v := q.q.DrainWord().Load()
		if v == 0 {
			if err := q.r.sleep(ctx, q.q.DrainWord(), v); err != nil {
				return err
			}
			continue
		}
		if q.q.Stat().Rest() == 0 {
			return nil
		}
		select {
		case <-time.After(drainLook):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Purge drops the messages that wait, and returns how many. Those that others have leased, and those that are sent meanwhile, stay. The
// process must consume. Errors: ErrClosed, *protocol.CorruptError.
func (q *Queue) Purge() (int, error) {
	if err := q.s.Lease(); err != nil {
		return 0, err
	}
	defer q.s.Release()
	return q.q.Purge(q.r.id)
}

// Trim gives the memory of free slots of a sparse channel back to the system, and returns how many bytes. The first page of each slot
// stays. Errors: ErrClosed, the channel has nothing to give back: it is not sparse, or its slots are small.
func (q *Queue) Trim() (int64, error) {
	if err := q.s.Lease(); err != nil {
		return 0, err
	}
	defer q.s.Release()
	return q.q.Trim(q.r.id, sys.Punch)
}
