package protocol

import (
	"encoding/binary"

	"github.com/shmd/shmd/internal/sys"
)

// From is where a subscriber begins.
type From int

const (
	FromNew    From = iota // with the first message that is published after Subscribe returned
	FromLast               // with the newest message that there is
	FromOldest             // with the oldest that is kept: at least the last three quarters of the slots
)

// A row's state word: phase:4 | owner:16 | of an evicted one its cause:2 | unused | opened:32.
const cursorPhaseMask = 15

func makeCursorState(p CursorPhase, owner uint16, opened uint32) uint64 {
	return uint64(p)&cursorPhaseMask | uint64(owner)<<SlotOwnerShift | uint64(opened)<<32
}

func cursorOwner(w uint64) uint16 { return uint16(w >> SlotOwnerShift) }

// Subscriber is one end that reads a topic: a cursor. One goroutine at a time uses it.
type Subscriber struct {
	t     *Topic
	row   *TopicCursor
	index int
	state uint64 // the row's, for as long as it is this subscriber's
	next  uint64 // position to read; ahead of the row's by what was done since Flush
	shown uint64 // the row's position
	end   uint64 // Single: what lies before it is published
	lost  uint64

	lapped  bool   // next was overwritten
	fresh   bool   // FromOldest, and nothing was read yet: what is overwritten before is not lost, which was the oldest is decided late
	fetched uint64 // Run has asked for the slots before it
	margin  uint64 // how far beyond the oldest to go on after a gap; it grows while the publishers are faster
}

// Subscribe takes a row for the attachment owner, which must not be 0. Errors: ErrCursors; ErrEvicted, if somebody was that quick.
func (t *Topic) Subscribe(owner uint16, from From) (*Subscriber, error) {
	for i := range 2 * t.cursors { // the second time round also rows of which who was evicted is not told yet, and would be forgotten by an eviction more
		row := t.cursor(i % t.cursors)
		w := row.State.Load()
		if CursorPhase(w&cursorPhaseMask) != CursorPhaseFree || i < t.cursors && row.forgets() {
			continue
		}
		i %= t.cursors
		t.use(i)
		opened := uint32(w>>32) + 1
		joining := makeCursorState(CursorPhaseJoining, owner, opened)
		if !row.State.CompareAndSwap(w, joining) {
			continue
		}
		s := &Subscriber{t: t, row: row, index: i, state: makeCursorState(CursorPhaseOpen, owner, opened), fresh: from == FromOldest}
		if err := s.join(joining, from); err != nil {
			return nil, err
		}
		return s, nil
	}
	return nil, ErrCursors
}

// use makes publishers look at row i. It comes before the row is open.
func (t *Topic) use(i int) {
	for {
		n := t.info.CursorsUsed.Load()
		if n > uint32(i) || t.info.CursorsUsed.CompareAndSwap(n, uint32(i+1)) {
			return
		}
	}
}

// used returns how many rows may be open.
func (t *Topic) used() int { return min(int(t.info.CursorsUsed.Load()), t.cursors) }

// join opens the row where from says.
func (s *Subscriber) join(joining uint64, from From) error {
	t := s.t
	s.next = t.begin(from)
	s.row.Begun.Store(s.next)
	s.row.Lost.Store(0)
	s.row.Position.Store(s.next)
	if !s.row.State.CompareAndSwap(joining, s.state) {
		s.state = s.row.State.Load()
		s.Close()
		return ErrEvicted
	}
	for !t.dropOldest {
		w, limit := t.limit()
		if floor := limit - t.mask - 1; int64(floor-s.next) > 0 { // what was chosen may have been overwritten meanwhile
			s.next = floor
			s.row.Begun.Store(s.next)
			s.row.Position.Store(s.next)
		}
		// J: publishers that looked at the cursors before this one was open fail at C and look again; what they may write to
		// until then lies below limit, and overwrites what lies before s.next.
		if t.info.Limit.CompareAndSwap(w, w+1<<32) {
			break
		}
	}
	s.shown, s.end = s.next, s.next
	return nil
}

// tail returns where what is published ends.
func (t *Topic) tail() uint64 {
	tail := t.info.Tail.Load()
	if !t.single { // tail may lag behind what was published
		for range t.mask + 1 {
			if w := Word(t.slot(tail).State.Load()); w.Lap() != t.lap(tail) || w.Phase() != PhaseReady && w.Phase() != PhaseSkip {
				break
			}
			tail++
		}
	}
	return tail
}

// begin returns the position for a new subscriber.
func (t *Topic) begin(from From) uint64 {
	oldest, tail := t.oldest(), t.tail()
	for range 100 { // publishers that went a lap ahead in between leave nothing between the two that is kept
		if tail-oldest <= t.mask+1 {
			break
		}
		oldest, tail = t.oldest(), t.tail()
	}
	if from == FromNew || int64(tail-oldest) <= 0 || tail-oldest > t.mask+1 {
		return tail
	}
	if from == FromOldest {
		return oldest
	}
	if t.single {
		return tail - 1
	}
	for p := tail - 1; int64(p-oldest) >= 0; p-- {
		if w := Word(t.slot(p).State.Load()); w.Lap() == t.lap(p) && w.Phase() == PhaseReady {
			return p
		}
	}
	return tail
}

// Position returns the position of the message that Next returns next.
func (s *Subscriber) Position() uint64 { return s.next }

// Lost returns how many messages were overwritten before this subscriber read them, and were told in a LostError.
func (s *Subscriber) Lost() uint64 { return s.lost }

// Ready reports whether Next knows of a message already, or of several publishers' sees one.
func (s *Subscriber) Ready() bool {
	if s.t.single {
		return s.next != s.end
	}
	return s.Awaited()
}

// Awaited reports whether there is something for Next: a message, or a gap. It looks at one line of memory.
func (s *Subscriber) Awaited() bool {
	t := s.t
	if t.single {
		return t.info.Tail.Load() != s.next
	}
	w, lap := Word(t.slot(s.next).State.Load()), t.lap(s.next)
	return w.Lap() == lap && (w.Phase() == PhaseReady || w.Phase() == PhaseSkip) || int32(w.Lap()-lap) > 0
}

// Next returns the next message in place. It is the caller's, to read, until Done says whether it counts. Errors: ErrEmpty; *LostError,
// once for each gap; ErrEvicted; *CorruptError (the message was dropped).
func (s *Subscriber) Next() ([]byte, error) {
	t := s.t
	if s.row.State.Load() != s.state {
		return nil, s.ended()
	}
	if s.lapped {
		if err := s.skip(); err != nil {
			return nil, err
		}
	}
	if t.single {
		if s.next == s.end {
			if err := s.look(); err != nil {
				return nil, err
			}
		}
	} else if err := s.settled(); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(t.length(s.next))
	if n > uint32(t.slotSize) {
		return nil, s.badLength(n)
	}
	return t.payload(s.next, int(n)), nil
}

// patience is how often a subscriber looks again before it takes what it sees for damage: an honest peer changes what it looks at less often.
func (t *Topic) patience() uint64 { return 64*(t.mask+1) + 1<<16 }

// look finds out what was published, for Single.
func (s *Subscriber) look() error {
	t := s.t
	for range t.patience() {
		s.end = t.info.Tail.Load() // G: pairs with F
		switch ahead := s.end - s.next; {
		case t.dropOldest && int64(t.info.Floor.Load()-s.next) > 0:
			if err := s.skip(); err != nil {
				return err
			}
			continue
		case ahead == 0:
			s.Flush()
			return ErrEmpty
		case ahead > t.mask+1:
			s.end = s.next
			return s.strange(bodyOffset+OffsetofTopicInfoTail, "tail %#x, a cursor is at %#x", s.next+ahead, s.next)
		}
		return nil
	}
	return s.strange(bodyOffset+OffsetofTopicInfoFloor, "floor never comes to rest; a peer is damaging the topic")
}

// settled goes to the next message that was published, among several publishers.
func (s *Subscriber) settled() error {
	t := s.t
	for range t.patience() {
		w := Word(t.slot(s.next).State.Load()) // G: pairs with F
		lap := t.lap(s.next)
		switch {
		case w.Lap() == lap && w.Phase() == PhaseReady:
			return nil
		case w.Lap() == lap && w.Phase() == PhaseSkip:
			s.next++
		case t.dropOldest && int64(t.info.Floor.Load()-s.next) > 0:
			if err := s.skip(); err != nil {
				return err
			}
		case w.Lap() != lap && w.Lap()+1 != lap:
			return s.strange(t.offset+(s.next&t.mask)*t.stride, "state word %#x, a cursor is at %#x", uint64(w), s.next)
		default:
			s.Flush()
			return ErrEmpty
		}
	}
	return s.strange(bodyOffset+OffsetofTopicInfoFloor, "positions never come to rest; a peer is damaging the topic")
}

// strange is an error for what cannot be while the cursor protects what lies behind it: it has ended, or the memory is damaged.
func (s *Subscriber) strange(offset uint64, what string, args ...any) error {
	if s.row.State.Load() != s.state {
		return s.ended()
	}
	return s.t.corrupt(offset, what, args...)
}

// badLength tells damage from a message that is being overwritten, and goes past it.
func (s *Subscriber) badLength(n uint32) error {
	at := s.t.lengths + (s.next&s.t.mask)*s.t.lengthStep
	switch err := s.Done(); err {
	case nil:
		s.Flush()
		return s.t.corrupt(at, "length %d in a slot of %d bytes; the message was dropped", n, s.t.slotSize)
	case ErrLapped:
		if err := s.skip(); err != nil {
			return err
		}
		return ErrEmpty // fresh, or nothing was lost after all: look again
	default:
		return err
	}
}

// Done ends the message that Next returned: it counts if the error is nil. Errors: ErrLapped, ErrEvicted: it may have been
// overwritten while it was read.
func (s *Subscriber) Done() error {
	sys.FenceLoads() // what was read was read before; pairs with FenceStores after A, and with C after K
	if s.row.State.Load() != s.state {
		return s.ended()
	}
	if s.t.dropOldest && int64(s.t.info.Floor.Load()-s.next) > 0 { // D: pairs with A
		s.lapped = true
		return ErrLapped
	}
	s.next++
	s.fresh, s.margin = false, 0
	return nil
}

// fetchAhead is how many slots a Run has asked for when it reads the first: about as many lines as a CPU can wait for several times over, and few beside its cache.
const fetchAhead = 64

// Run calls fn with up to max messages, from the one that Next has just returned on, and ends each: it is Next and Done in a loop, without what
// does not change between messages. It returns how many count, at the end of what Next knew to be published too; the caller asks Next again.
// When fn returns an error, that message has not ended, and Run returns the error. Other errors: those of Done, of which ErrLapped ends one message. It
// is for topics with the flag Single; in others it ends one message.
func (s *Subscriber) Run(max int, fn func(p []byte) error) (n int, err error) {
	t := s.t
	if !t.single {
		b, err := s.Next()
		if err != nil {
			return 0, err
		}
		if err := fn(b); err != nil {
			return 0, err
		}
		if err := s.Done(); err != nil {
			return 0, err
		}
		return 1, nil
	}
	if ahead := s.end - s.next; uint64(max) > ahead {
		max = int(ahead)
	}
	if s.fetched-s.next > fetchAhead { // this is after a gap
		s.fetched = s.next
	}
	if to := s.next + min(s.end-s.next, fetchAhead); to != s.fetched {
		t.fetch(s.fetched, int(to-s.fetched))
		s.fetched = to
	}
	for n < max {
		size := binary.LittleEndian.Uint32(t.length(s.next))
		if size > uint32(t.slotSize) {
			return n, nil // Next says what is wrong with it
		}
		if err := fn(t.payload(s.next, int(size))); err != nil {
			return n, err
		}
		sys.FenceLoads() // as in Done
		if s.row.State.Load() != s.state {
			return n, s.ended()
		}
		if t.dropOldest && int64(t.info.Floor.Load()-s.next) > 0 { // D
			s.lapped = true
			return n, ErrLapped
		}
		if n == 0 {
			s.fresh, s.margin = false, 0
		}
		s.next++
		n++
	}
	return n, nil
}

// Flush tells publishers how far this subscriber is, and wakes them if they wait. What was done since the last Flush counts as unread for
// them. Next does it when it finds nothing.
func (s *Subscriber) Flush() {
	if s.shown == s.next {
		return
	}
	s.shown = s.next
	s.t.store(&s.row.Position, s.next) // H: what was read was read before
	if !s.t.dropOldest {
		s.t.Senders.Ring(Everybody)
	}
}

// skip goes on where messages are kept still.
func (s *Subscriber) skip() error {
	t := s.t
	floor := t.info.Floor.Load()
	tail := t.info.Tail.Load()
	s.lapped = false
	if int64(floor-s.next) <= 0 {
		return nil
	}
	if int64(tail-floor) < 0 || tail-floor > t.mask+1 && t.info.Floor.Load() == floor {
		return s.strange(bodyOffset+OffsetofTopicInfoFloor, "floor %#x, tail %#x", floor, tail)
	}
	to := floor + min(s.margin, t.mask/2, tail-floor)
	s.margin = 2*s.margin + 1
	gone := to - s.next
	s.next, s.end = to, to
	if s.fresh {
		s.row.Begun.Store(to)
		s.Flush()
		return nil
	}
	s.lost += gone
	t.store(&s.row.Lost, s.lost)
	s.Flush()
	return &LostError{t.h.Name, gone}
}

// ended says why the row is not this subscriber's any more.
func (s *Subscriber) ended() error {
	w := s.row.State.Load()
	if CursorPhase(w&cursorPhaseMask) == CursorPhaseEvicted && w>>32 == s.state>>32 {
		return ErrEvicted
	}
	return ErrLost
}

// Close gives the row back, and wakes the publishers. Errors: ErrLost: it was closed before, or a repair took the row.
func (s *Subscriber) Close() error {
	if s.row.State.Load() == s.state {
		s.Flush()
	}
	for {
		w := s.row.State.Load()
		if w>>32 != s.state>>32 || cursorOwner(w) != cursorOwner(s.state) {
			return ErrLost
		}
		if s.t.free(s.row, w) {
			s.t.Senders.Ring(Everybody)
			return nil
		}
	}
}

// free is the transition of a row to FREE, by its owner or by a repair.
func (t *Topic) free(row *TopicCursor, w uint64) bool {
	begun, at, lost := row.Begun.Load(), row.Position.Load(), row.Lost.Load()
	if CursorPhase(w&cursorPhaseMask) == CursorPhaseEvicted {
		row.note(w)
	}
	if !row.State.CompareAndSwap(w, makeCursorState(CursorPhaseFree, 0, uint32(w>>32))) { // K
		return false
	}
	if CursorPhase(w&cursorPhaseMask) != CursorPhaseJoining {
		t.info.Received.Add(messages(begun, at, lost))
		t.info.Lost.Add(lost)
	}
	return true
}

// Cursor is a snapshot of a subscriber's row.
type Cursor struct {
	Row      int
	Owner    uint16 // attachment id
	Phase    CursorPhase
	Position uint64 // next to read
	Lag      uint64 // messages published and not read
	Received uint64
	Lost     uint64
	Blocks   bool // publishers wait for it, or would with the next message
	word     uint64
}

// Cursors returns the subscribers, by row. It only reads.
func (t *Topic) Cursors() []Cursor {
	var all []Cursor
	for i := range t.used() {
		c, ok := t.look(i)
		if !ok {
			continue
		}
		if lag := t.info.Tail.Load() - c.Position; int64(lag) > 0 {
			c.Lag = lag
		}
		c.Blocks = !t.dropOldest && c.Phase == CursorPhaseOpen && c.Lag > t.mask
		all = append(all, c)
	}
	return all
}

// look reads row i; not ok: it is free, or changes hands again and again.
func (t *Topic) look(i int) (c Cursor, ok bool) {
	row := t.cursor(i)
	for range 100 {
		w := row.State.Load()
		// The position comes first: it is stored after what is subtracted from it here.
		c = Cursor{Row: i, Owner: cursorOwner(w), Phase: CursorPhase(w & cursorPhaseMask), Position: row.Position.Load(), Lost: row.Lost.Load(), word: w}
		begun := row.Begun.Load()
		if row.State.Load() != w { // some of it is another's
			continue
		}
		if c.Phase == CursorPhaseJoining { // all of it is of the one before, who has counted it
			c.Lost = 0
		} else {
			c.Received = messages(begun, c.Position, c.Lost)
		}
		return c, c.Phase != CursorPhaseFree
	}
	return c, false
}

// messages is how many a cursor has read. Its owner stores begun and lost before the position that goes with them, and may die in between.
func messages(begun, position, lost uint64) uint64 {
	if n := position - begun - lost; int64(n) > 0 {
		return n
	}
	return 0
}
