package shm

import (
	"errors"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/shmd/shmd/pkg/protocol"
)

// frame is a batch in one slot whose messages this process handles one by one.
type frame struct {
	l     protocol.Lease
	f     protocol.Frame
	first int                 // the message that deliveries counts for
	skip  uint64              // bit i: message i was acked in an earlier lease, or handed out
	taken uint64              // was handed out
	acked uint64              // and acked
	nacks uint64              // or nacked
	given uint64              // or given up
	back  uint64              // or given back unread
	cause protocol.DeadReason // of the first that was given up
}

// frames hands out the messages of batches one by one. A batch's slot is given back or freed when all of its messages that were handed
// out have ended and no more are to be.
type frames struct {
	mu      sync.Mutex
	waiting []*frame     // with messages that were not handed out, the oldest first
	some    atomic.Bool  // there are some: a look without the lock
	asleep  atomic.Int32 // goroutines that wait for a message, or are about to
	shut    bool         // by giveBack: nobody comes for what waits
}

// errRest ends a wait for the queue: another goroutine has opened a batch, whose rest lies here.
var errRest = errors.New("the rest of a batch is there")

// open takes the first message of a batch into m. The rest is for whoever comes next, also for goroutines that sleep by now: they sleep on the queue's
// doorbell, and other processes that are woken with them sleep on.
func (fs *frames) open(m *Message, l protocol.Lease, f protocol.Frame) {
	fr := &frame{l: l, f: f, first: f.FirstOpen(0), skip: f.Acked()}
	fs.mu.Lock()
	fs.waiting = append(fs.waiting, fr)
	fs.hand(m, len(fs.waiting)-1)
	fs.mu.Unlock()
	if fs.some.Load() && fs.asleep.Load() > 0 { // who counts itself after this look finds some before it sleeps
		m.q.q.Receivers.Ring(protocol.Everybody)
	}
}

// take hands out a message of a batch that is open, if there is one. The caller holds the segment's lease, which m takes over.
func (fs *frames) take(m *Message) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(fs.waiting) == 0 {
		return false
	}
	fs.hand(m, 0)
	return true
}

// hand hands out the next message of the i-th batch that waits. fs.mu is held.
func (fs *frames) hand(m *Message, i int) {
	fr := fs.waiting[i]
	n := fr.next()
	fr.taken |= 1 << n
	fr.skip |= 1 << n
	if fs.shut || fr.f.Single() || fr.l.Deliveries() > 0 || fr.next() == fr.f.Len() {
		fs.waiting = append(fs.waiting[:i], fs.waiting[i+1:]...)
	}
	fs.some.Store(len(fs.waiting) > 0)
	m.frame, m.index, m.l, m.b = fr, n, fr.l, fr.f.At(n)
}

// next returns the first message that was neither handed out nor acked in an earlier lease, or the number of messages.
func (fr *frame) next() int {
	return min(bits.TrailingZeros64(^fr.skip), fr.f.Len())
}

// end ends a message.
func (fs *frames) end(m *Message, ack bool) error {
	fr, q := m.frame, m.q
	fs.mu.Lock()
	defer fs.mu.Unlock()
	bit := uint64(1) << m.index
	if ack {
		fr.acked |= bit
		if err := q.ackMessage(&fr.l, &fr.f, m.index); err != nil || fr.l.Open() == 0 {
			return err
		}
	} else {
		fr.nacks |= bit
		fs.withhold(fr)
	}
	return fs.settle(q, fr)
}

// back gives a message back that counts as not delivered.
func (fs *frames) back(m *Message) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	m.frame.back |= 1 << m.index
	fs.withhold(m.frame)
	return fs.settle(m.q, m.frame)
}

// reject gives a message up.
func (fs *frames) reject(m *Message, reason protocol.DeadReason) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fr, bit := m.frame, uint64(1)<<m.index
	if fr.given == 0 || bit < fr.given&-fr.given {
		fr.cause = reason
	}
	fr.given |= bit
	fs.withhold(fr)
	return fs.settle(m.q, fr)
}

// withhold sees to it that no more of a batch is handed out: what waits goes back too.
func (fs *frames) withhold(fr *frame) {
	if i := slices.Index(fs.waiting, fr); i >= 0 {
		fs.waiting = slices.Delete(fs.waiting, i, i+1)
		fs.some.Store(len(fs.waiting) > 0)
	}
}

// settle ends the lease of a batch when all of its messages that were handed out have ended and no more are to be.
func (fs *frames) settle(q *Queue, fr *frame) error {
	if slices.Contains(fs.waiting, fr) || fr.taken != fr.acked|fr.nacks|fr.given|fr.back {
		return nil
	}
	switch first := fr.f.FirstOpen(0); {
	case fr.given&-fr.given == 1<<first: // what was given up is the message that the slot's word is about
		return q.reject(fr.l, fr.cause)
	case fr.nacks != 0:
		return q.nack(fr.l)
	}
	return q.giveBack(fr.l) // what was given back, or the rest of a batch that is delivered one at a time
}

// yield returns the batches of which nothing is in anybody's hands; more may be received.
func (fs *frames) yield(q *Queue) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.waiting = slices.DeleteFunc(fs.waiting, func(fr *frame) bool {
		return fr.taken == fr.acked|fr.nacks && q.giveBack(fr.l) == nil
	})
	fs.some.Store(len(fs.waiting) > 0)
}

// giveBack returns the batches of which nothing more will be handed out by this process. Of one that is opened later by a Receive that began before, one
// message is handed out, and the rest goes back with its end.
func (fs *frames) giveBack(q *Queue) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, fr := range fs.waiting {
		if fr.taken == fr.acked|fr.nacks {
			q.giveBack(fr.l)
		}
	}
	fs.waiting, fs.shut = nil, true
}
