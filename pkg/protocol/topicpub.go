package protocol

import (
	"encoding/binary"
	"fmt"

	"github.com/shmd/shmd/internal/sys"
)

// Publisher is one end that writes to a topic. One goroutine at a time uses it.
type Publisher struct {
	t      *Topic
	owner  uint16
	limit  uint64 // positions below it may be written without a look at the subscribers
	loaned bool   // Single: a loan is out
}

// Publisher returns a publishing end for the attachment owner, which must not be 0. With the flag Single there is one for a Topic, until
// its Close. Errors: ErrNotPublisher: the daemon admitted another attachment or none, or this Topic has its Publisher.
func (t *Topic) Publisher(owner uint16) (*Publisher, error) {
	if t.single && (t.info.Publisher.Load() != uint32(owner) || !t.publishing.CompareAndSwap(false, true)) {
		return nil, ErrNotPublisher
	}
	return &Publisher{t: t, owner: owner, limit: t.info.Tail.Load()}, nil // it asks for room first
}

// Close ends the publishing end, whose loans must have ended. It is not to be used any more.
func (p *Publisher) Close() {
	if p.t.single {
		p.t.publishing.Store(false)
	}
}

// PublisherID returns the attachment that was admitted, 0 for none.
func (t *Topic) PublisherID() uint16 { return uint16(t.info.Publisher.Load()) }

// Admit makes owner the one publisher of a topic with the flag Single. The daemon calls it, and only when there is none: a repair makes
// room for the next. 0: nobody, if owner never came to be.
func (t *Topic) Admit(owner uint16) { t.info.Publisher.Store(uint32(owner)) }

// TopicLoan is a publisher's hold on a slot.
type TopicLoan struct {
	position uint64
	word     Word // not for Single
}

// Position returns the position at which the message will be.
func (l TopicLoan) Position() uint64 { return l.position }

// room makes sure that position p may be written to as far as the subscribers are concerned, and reports whether it may. Afterwards
// all positions below p.limit may.
func (p *Publisher) room(position uint64) bool {
	t := p.t
	if t.dropOldest {
		for {
			f := t.info.Floor.Load()
			if int64(f+t.mask+1-position) > 0 {
				p.limit = f + t.mask + 1
				return true
			}
			next := position + t.step - (t.mask + 1)
			if t.info.Floor.CompareAndSwap(f, next) { // A: before the payload is overwritten; pairs with D
				p.limit = next + t.mask + 1
				return true
			}
		}
	}
	for {
		w, limit := t.limit() // B: whoever joined before is seen below, whoever joins later sees the word changed
		if int64(limit-position) > 0 {
			p.limit = limit
			return true
		}
		lowest := position + t.step - (t.mask + 1) // no further, so that there is something for late joiners
		for i := range t.used() {
			c := t.cursor(i)
			if CursorPhase(c.State.Load()&cursorPhaseMask) != CursorPhaseOpen {
				continue
			}
			if at := c.Position.Load(); int64(at-lowest) < 0 {
				lowest = at
			}
		}
		next := lowest + t.mask + 1
		if int64(next-position) <= 0 {
			return false
		}
		if t.info.Limit.CompareAndSwap(w, w>>32<<32|uint64(uint32(next))) { // C: pairs with J
			p.limit = next
			return true
		}
	}
}

// TryLoan claims the next position. Errors: ErrFull: a subscriber lags a whole ring, or another publisher has not ended its loan of a
// ring ago; ErrLoaned, with the flag Single; *CorruptError.
func (p *Publisher) TryLoan() (TopicLoan, error) {
	t := p.t
	if t.single {
		if p.loaned {
			return TopicLoan{}, ErrLoaned
		}
		position := t.info.Tail.Load()
		if int64(position-p.limit) >= 0 && !p.room(position) {
			return TopicLoan{}, ErrFull
		}
		sys.FenceStores() // after A
		p.loaned = true
		return TopicLoan{position: position}, nil
	}
	for range 1 << 20 { // bounded even if a hostile peer moves tail for ever
		tail := t.info.Tail.Load()
		if int64(tail-p.limit) >= 0 && !p.room(tail) {
			if t.info.Tail.Load() != tail {
				continue
			}
			return TopicLoan{}, ErrFull
		}
		s, lap := t.slot(tail), t.lap(tail)
		w := Word(s.State.Load())
		switch {
		case claimable(w, lap):
			mine := MakeWord(PhaseWriting, p.owner, 0, lap)
			if !s.State.CompareAndSwap(uint64(w), uint64(mine)) { // E: from here on a repair finds the slot
				continue
			}
			t.info.Tail.CompareAndSwap(tail, tail+1)
			sys.FenceStores() // after A
			return TopicLoan{tail, mine}, nil
		case w.Lap() == lap: // claimed at this very position: tail lags behind
			t.info.Tail.CompareAndSwap(tail, tail+1)
		case t.info.Tail.Load() != tail:
		case w.Lap()+1 == lap && w.Phase() == PhaseWriting: // a loan of a lap ago
			return TopicLoan{}, ErrFull
		default:
			return TopicLoan{}, t.corrupt(t.offset+(tail&t.mask)*t.stride, "state word %#x at position %#x", uint64(w), tail)
		}
	}
	return TopicLoan{}, t.corrupt(bodyOffset+OffsetofTopicInfoTail, "tail never comes to rest; a peer is damaging the topic")
}

// LoanBytes returns the payload of a loan, SlotSize bytes, whose contents are undefined. It is the caller's until
// Commit or Abort.
func (p *Publisher) LoanBytes(l TopicLoan) []byte { return p.t.payload(l.position, p.t.slotSize) }

// Commit publishes n bytes of the loan's payload, and wakes the subscribers. n must be at most SlotSize. Errors: ErrLost, and then
// nothing was published.
func (p *Publisher) Commit(l TopicLoan, n int) error {
	t := p.t
	if n < 0 || n > t.slotSize {
		return t.tooLarge(n)
	}
	if t.single {
		if !p.loaned || t.info.Tail.Load() != l.position {
			return ErrLost
		}
		p.loaned = false
		binary.LittleEndian.PutUint32(t.length(l.position), uint32(n))
		t.store(&t.info.Tail, l.position+1) // F: publishes payload and length; pairs with G
		t.Receivers.Ring(Everybody)
		return nil
	}
	s := t.slot(l.position)
	if Word(s.State.Load()) != l.word {
		return ErrLost
	}
	binary.LittleEndian.PutUint32(t.length(l.position), uint32(n))
	t.store(&s.State, uint64(MakeWord(PhaseReady, 0, 0, l.word.Lap()))) // F
	t.Receivers.Ring(Everybody)
	t.Senders.Ring(Everybody) // who came round to this slot
	return nil
}

// Abort gives a loan back. With the flag Single the position is used again, else it is skipped. Errors: ErrLost.
func (p *Publisher) Abort(l TopicLoan) error {
	t := p.t
	if t.single {
		if !p.loaned || t.info.Tail.Load() != l.position {
			return ErrLost
		}
		p.loaned = false
		return nil
	}
	if !t.skip(l.position, l.word) {
		return ErrLost
	}
	t.Receivers.Ring(Everybody) // for those who sleep before it
	t.Senders.Ring(Everybody)
	return nil
}

// skip is the transition WRITING -> SKIP, by the owner or by a repair.
func (t *Topic) skip(position uint64, w Word) bool {
	if !t.slot(position).State.CompareAndSwap(uint64(w), uint64(MakeWord(PhaseSkip, 0, 0, w.Lap()))) {
		return false
	}
	t.info.Skipped.Add(1)
	return true
}

// claim claims a position that is known to be the next after one of this publisher's, if nobody else has.
func (p *Publisher) claim(position uint64) bool {
	t := p.t
	if int64(position-p.limit) >= 0 && !p.room(position) {
		return false
	}
	s, lap := t.slot(position), t.lap(position)
	w := Word(s.State.Load())
	if !claimable(w, lap) || !s.State.CompareAndSwap(uint64(w), uint64(MakeWord(PhaseWriting, p.owner, 0, lap))) { // E
		return false
	}
	t.info.Tail.CompareAndSwap(position, position+1)
	return true
}

// claimable reports whether a slot's word is what stands there before a lap's claim.
func claimable(w Word, lap uint32) bool {
	switch w.Phase() {
	case PhaseFree:
		return w.Lap() == lap
	case PhaseReady, PhaseSkip:
		return w.Lap()+1 == lap
	}
	return false
}

// TryPublish copies a message of at most SlotSize bytes into the next slot and publishes it. Errors: as TryLoan.
func (p *Publisher) TryPublish(msg []byte) error {
	t := p.t
	if len(msg) > t.slotSize {
		return t.tooLarge(len(msg))
	}
	if !t.single {
		l, err := p.TryLoan()
		if err != nil {
			return err
		}
		copy(p.LoanBytes(l), msg)
		return p.Commit(l, len(msg))
	}
	if p.loaned {
		return ErrLoaned
	}
	position := t.info.Tail.Load()
	if int64(position-p.limit) >= 0 && !p.room(position) {
		return ErrFull
	}
	p.Put(position, msg)
	return nil
}

// Ready returns the next position, and whether Put may write there.
func (p *Publisher) Ready() (position uint64, ok bool) {
	position = p.t.info.Tail.Load()
	return position, p.t.single && !p.loaned && int64(position-p.limit) < 0
}

// Put is TryPublish at the position that Ready returned, and cannot fail. A small message takes no call, and each line is written in one go.
func (p *Publisher) Put(position uint64, msg []byte) {
	if len(msg) > sys.Small {
		p.putLarge(position, msg)
		return
	}
	t := p.t
	sys.FenceStores() // after A
	t.putLength(position, len(msg))
	t.putSmall(position, msg)
	t.store(&t.info.Tail, position+1) // F
	if t.Receivers.Sleepers() != 0 {  // W: the membarrier of a subscriber that registers orders it behind F
		t.Receivers.Ring(Everybody)
	}
}

func (p *Publisher) putLarge(position uint64, msg []byte) {
	t := p.t
	sys.FenceStores() // after A
	t.write(position, msg)
	t.store(&t.info.Tail, position+1) // F
	t.Receivers.Ring(Everybody)
}

// TryPublishBatch publishes as many of the messages as there is room for, each of at most SlotSize bytes, and returns their number:
// all payloads of a run first, then the words, then one look at who sleeps. Errors: as TryLoan, when not even one was published.
func (p *Publisher) TryPublishBatch(msgs [][]byte) (int, error) {
	for _, msg := range msgs {
		if len(msg) > p.t.slotSize {
			return 0, p.t.tooLarge(len(msg))
		}
	}
	done := 0
	for done < len(msgs) {
		var n int
		var err error
		if p.t.single {
			n, err = p.run(msgs[done:])
		} else {
			n, err = p.claimRun(msgs[done:])
		}
		if err != nil {
			if done > 0 {
				return done, nil
			}
			return 0, err
		}
		done += n
	}
	return done, nil
}

func (t *Topic) tooLarge(n int) error {
	return fmt.Errorf("message of %d bytes: a slot of topic %q holds %d", n, t.h.Name, t.slotSize)
}

// write copies a message into a position's slot, for Single. The fewer lines are written the better: each that misses the cache waits its turn among all stores.
// So a length that is there already, from the message of a lap ago, is left alone, and then the line of the lengths stays with all CPUs.
func (t *Topic) write(position uint64, msg []byte) {
	t.putLength(position, len(msg))
	if len(msg) > sys.Small {
		copy(t.payload(position, len(msg)), msg)
		return
	}
	t.putSmall(position, msg)
}

func (t *Topic) putLength(position uint64, n int) {
	if length := t.length(position); binary.LittleEndian.Uint32(length) != uint32(n) {
		binary.LittleEndian.PutUint32(length, uint32(n))
	}
}

// writeAll is write of messages that follow one another. Those of 64 bytes are gathered a message a store, as in a lane.
func (t *Topic) writeAll(position uint64, msgs [][]byte) {
	for len(msgs) > 0 {
		n := 0
		if t.stride == 64 {
			at := position & t.mask
			n = sys.Gather64(t.b[t.payloads+at*64:], msgs[:min(uint64(len(msgs)), t.mask+1-at)])
			for i := range n {
				t.putLength(position+uint64(i), 64)
			}
		}
		if n == 0 {
			t.write(position, msgs[0])
			n = 1
		}
		position, msgs = position+uint64(n), msgs[n:]
	}
}

// run is one run of a batch, for Single.
func (p *Publisher) run(msgs [][]byte) (int, error) {
	t := p.t
	if p.loaned {
		return 0, ErrLoaned
	}
	position := t.info.Tail.Load()
	if int64(position-p.limit) >= 0 && !p.room(position) {
		return 0, ErrFull
	}
	if n := min(p.limit-position, t.step); uint64(len(msgs)) > n {
		msgs = msgs[:n]
	}
	sys.FenceStores() // after A
	t.writeAll(position, msgs)
	t.store(&t.info.Tail, position+uint64(len(msgs))) // F
	p.fetchFree(position + uint64(len(msgs)))
	t.Receivers.Ring(Everybody)
	return len(msgs), nil
}

// fetchFree asks for the lines of the slots that the next run will write to, from position on, if they are free already: subscribers have read them, so each would
// come when its store's turn has come. That they are on their way meanwhile takes a quarter off a run of 16. It is a hint; more at a time are no faster, for so
// many lines a CPU can wait for.
func (p *Publisher) fetchFree(position uint64) {
	const most = 16 * 64 // bytes
	t := p.t
	if !sys.PrefetchesStores || t.stride > 256 || int64(p.limit-position-most/t.stride) < 0 {
		return
	}
	at := position & t.mask * t.stride
	end := min(at+most, (t.mask+1)*t.stride) // what lies behind the last slot is not for a publisher
	sys.PrefetchStores(&t.b[t.payloads+at], int((end-at+63)/64))
}

// claimRun is one run of a batch among several publishers: of neighbouring slots, as far as no other publisher comes between.
func (p *Publisher) claimRun(msgs [][]byte) (int, error) {
	t := p.t
	first, err := p.TryLoan()
	if err != nil {
		return 0, err
	}
	n := 1
	for n < len(msgs) && uint64(n) < t.step && p.claim(first.position+uint64(n)) {
		n++
	}
	sys.FenceStores() // after A
	for i, msg := range msgs[:n] {
		at := first.position + uint64(i)
		binary.LittleEndian.PutUint32(t.length(at), uint32(len(msg)))
		copy(t.payload(at, len(msg)), msg)
	}
	for i := range n {
		at := first.position + uint64(i)
		t.store(&t.slot(at).State, uint64(MakeWord(PhaseReady, 0, 0, t.lap(at)))) // F
	}
	t.Receivers.Ring(Everybody)
	t.Senders.Ring(Everybody)
	return n, nil
}
