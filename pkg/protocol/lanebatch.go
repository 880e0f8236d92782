package protocol

import (
	"os"

	"github.com/shmd/shmd/internal/sys"
)

// Batches of those that have no Producer and no Consumer. A user of a mapping takes a lease of it, which is a locked instruction, and another at its end. So the
// lane takes one for all its batches, and gives it back when it has been closed and the last of them has ended.

// A Keeper keeps the memory of a lane mapped.
type Keeper interface {
	Lease() error // os.ErrClosed: too late
	Release()
}

// kept is one end's lease of the memory, under the end's lock.
type kept struct {
	keeper Keeper // nil: there is none now
	out    int    // batches that have not ended
}

// keep takes the lease, if it is not there.
func (k *kept) keep(keeper Keeper, closed bool) error {
	switch {
	case closed:
		return os.ErrClosed
	case k.keeper != nil:
		return nil
	}
	if err := keeper.Lease(); err != nil {
		return err
	}
	k.keeper = keeper
	return nil
}

// ended gives the lease back if nobody needs it.
func (k *kept) ended(closed bool) {
	if closed && k.out == 0 && k.keeper != nil {
		k.keeper.Release()
		k.keeper = nil
	}
}

// ReceiveBatch leases the next slot. It returns all its n messages, which lie in b one after another and are of one size; or, n being 0, messages that are to be
// taken from Queue.Frame. The memory is kept mapped until the batch has ended, which it does by AckBatch, or by EndBatch after whatever ends a lease. Errors: as TryReceive,
// os.ErrClosed, keeper's.
func (l *Lane) ReceiveBatch(owner uint16, keeper Keeper) (lease Lease, b []byte, n int, err error) {
	if err = l.lockReceive(); err != nil {
		return lease, nil, 0, err
	}
	if err = l.receiving.keep(keeper, l.gone.Load()); err == nil {
		if lease, b, n, err = l.lease(owner); err == nil {
			l.leased++
			l.receiving.out++
			sys.StoreRelease(&l.q.info.Head, l.head) // before the caller sees it: a repair counts the delivery
		}
	}
	if n > 1 {
		l.fetchBatch(lease.slot, len(b))
	}
	l.receiveMu.Unlock()
	return lease, b, n, err
}

// fetchSeen is fetch for slots of many lines, where the producer would pay dearly for a line that is taken from it while it writes: it asks for nothing that is not known to be
// committed. For that it looks at Tail, which is the producer's as well, once in 32 slots at most.
func (l *Lane) fetchSeen(p uint64) {
	if int64(l.seen-p) <= 0 && int64(l.head-l.look) >= 0 {
		l.seen, l.look = l.q.info.Tail.Load(), l.head+32
	}
	if int64(l.seen-p) > 0 {
		l.q.fetch(p)
	}
}

// fetchBatch asks for what fetchSeen does not of a slot some 2 KiB behind position p, if one is there; it is expected to be as long as that at p. What is read message by message is
// asked for too late by the reads themselves.
func (l *Lane) fetchBatch(p uint64, length int) {
	const fetched, most = 192, 17 * 64 // with the header: 16 messages of 64 bytes
	n := min(SizeofSlotHeader+frameData+length, most)
	if n <= fetched {
		return
	}
	if p += 1 + uint64(aheadBytes/length); int64(l.seen-p) > 0 {
		at := l.q.offset + (p&l.q.mask)*l.q.stride
		sys.PrefetchLoads(l.q.b[at+fetched:at+uint64(n)], 64)
	}
}

// AckBatch ends a batch and its lease. Errors: ErrLost.
func (l *Lane) AckBatch(lease Lease) (err error) {
	l.receiveMu.Lock()
	if l.end(lease) {
		l.leaseEnded()
		l.countAck(lease.open)
	} else {
		err = ErrLost
	}
	l.receiving.out--
	l.receiving.ended(l.gone.Load())
	l.receiveMu.Unlock()
	return err
}

// EndBatch ends a batch whose lease has ended: the memory is not touched after it.
func (l *Lane) EndBatch() {
	l.receiveMu.Lock()
	l.receiving.out--
	l.receiving.ended(l.gone.Load())
	l.receiveMu.Unlock()
}

// Awaited reports whether ReceiveBatch is worth a try, and which position is the next. It is for a loop: it looks at no more than what the producer writes with its
// next slot. What else there may be to do shows at the next try.
func (l *Lane) Awaited() (ready bool, head uint64) {
	l.receiveMu.Lock()
	if ready = true; !l.consuming && l.receiver != 0 && !l.gone.Load() {
		c := Consumer{l: l}
		ready = c.Awaited()
	}
	head = l.head
	l.receiveMu.Unlock()
	return ready, head
}

// LoanBatch is TryLoan; the memory is kept mapped until the batch has ended, by CommitBatchLoan or AbortBatch. Errors: as TryLoan, os.ErrClosed, keeper's.
func (l *Lane) LoanBatch(owner uint16, keeper Keeper) (loan Loan, err error) {
	if err = l.lockSend(); err != nil {
		return loan, err
	}
	if err = l.lending.keep(keeper, l.shut.Load()); err == nil {
		var p uint64
		if p, err = l.claim(owner); err == nil {
			l.out++
			l.lending.out++
			loan = Loan{slot: p, word: MakeWord(PhaseWriting, owner, 0, l.q.lap(p))}
		}
	}
	l.sendMu.Unlock()
	return loan, err
}

// EndLoanBatch ends a batch whose loan has ended: the memory is not touched after it.
func (l *Lane) EndLoanBatch() {
	l.sendMu.Lock()
	l.lending.out--
	l.lending.ended(l.shut.Load())
	l.sendMu.Unlock()
}
