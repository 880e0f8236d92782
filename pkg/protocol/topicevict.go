package protocol

import (
	"slices"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// Evict ends the cursor in a row, whoever has it: publishers do not wait for it any more, and its owner gets ErrEvicted with its next
// message, or for the one that it reads now. It counts as asked for (EvictCauseOperator). Errors: ErrLost: there is no subscriber in the row.
func (t *Topic) Evict(row int) error {
	if row < 0 || row >= t.cursors {
		return ErrLost
	}
	for {
		w := t.cursor(row).State.Load()
		switch p := CursorPhase(w & cursorPhaseMask); {
		case p != CursorPhaseOpen && p != CursorPhaseJoining:
			return ErrLost
		case t.evict(row, w, EvictCauseOperator):
			return nil
		}
	}
}

func (t *Topic) evict(i int, w uint64, why EvictCause) bool {
	evicted := makeCursorState(CursorPhaseEvicted, cursorOwner(w), uint32(w>>32)) | uint64(why)<<evictCauseShift
	if !t.cursor(i).State.CompareAndSwap(w, evicted) { // K: pairs with Done; who it was and why is in the word, for whoever comes to note it
		return false
	}
	t.info.Evicted.Add(1)
	sys.FutexWake(t.EvictedWord(), 1<<30) // the daemon tells of it
	t.Receivers.Ring(Everybody)           // it may sleep
	t.Senders.Ring(Everybody)
	return true
}

// Blocking returns the subscribers that publishers wait for now.
func (t *Topic) Blocking() []Cursor {
	return slices.DeleteFunc(t.Cursors(), func(c Cursor) bool { return !c.Blocks })
}

// EvictStuck evicts those of the subscribers that are where they were and block still; a publisher that has waited for EvictAfter since
// it got them from Blocking calls it. They count as too slow (EvictCauseTooSlow). It returns how many it evicted.
func (t *Topic) EvictStuck(since []Cursor) int {
	n := 0
	for _, now := range t.Blocking() {
		for _, c := range since {
			if c.Row == now.Row && c.word == now.word && c.Position == now.Position && t.evict(c.Row, c.word, EvictCauseTooSlow) {
				n++
			}
		}
	}
	return n
}

// Evicted returns how many cursors were evicted so far. A kill may cost a count of one.
func (t *Topic) Evicted() uint64 { return t.info.Evicted.Load() }

// EvictedWord is the low half of that number, a futex: who evicts wakes those who wait for another eviction. For an evictor that dies before it does so
// its repair does.
func (t *Topic) EvictedWord() *atomic.Uint32 { return lowWord(&t.info.Evicted) }

// evictCauseShift: where the cause stands in the state word of an evicted row.
const evictCauseShift = 20

func evictCause(w uint64) EvictCause {
	if c := EvictCause(w >> evictCauseShift & 3); c == EvictCauseOperator {
		return c
	}
	return EvictCauseTooSlow
}

// A row's Noted and Told: opened:32 | too slow:16 | asked for:16.
func makeNoted(opened uint32, slow, asked uint16) uint64 {
	return uint64(opened)<<32 | uint64(slow)<<16 | uint64(asked)
}

func notedCounts(v uint64) (slow, asked uint16) { return uint16(v >> 16), uint16(v) }

// keptEvictions is how many evictions of a row are kept with who it was. It divides 2^16, so that the place of a number stays when a count wraps.
const keptEvictions = 4

// kept is where the eviction with a number is kept, until that of keptEvictions later comes.
func (row *TopicCursor) kept(number uint16) *atomic.Uint64 {
	return [keptEvictions]*atomic.Uint64{&row.Evicted0, &row.Evicted1, &row.Evicted2, &row.Evicted3}[number%keptEvictions]
}

// note counts an eviction, of which the row's state w tells, once, whoever calls it, and however often. It comes before the row leaves EVICTED: who frees the row
// does it, that is its owner or a repair, or the daemon before them, when it looks. Several who do it at once do no harm, nor does one that was stopped in the middle
// and goes on when the row has long been another's:
//   - while the row is in w, Noted is that of the eviction before, or says w. So one that finds the row in w after it loaded Noted, and then changes Noted from what
//     it loaded, is the first; openings make every value of Noted another.
//   - what is at the place of the record was loaded before that look too, so it is replaced by w only if it is still that of keptEvictions before.
func (row *TopicCursor) note(w uint64) {
	for {
		v := row.Noted.Load()
		if v>>32 == w>>32 {
			return
		}
		slow, asked := notedCounts(v)
		place := row.kept(slow + asked)
		old := place.Load()
		if row.State.Load() != w {
			return // who took it out of w did this before
		}
		if evictCause(w) == EvictCauseOperator {
			asked++
		} else {
			slow++
		}
		if old != w && !place.CompareAndSwap(old, w) {
			continue
		}
		if row.Noted.CompareAndSwap(v, makeNoted(uint32(w>>32), slow, asked)) { // N: publishes the record
			return
		}
	}
}

// Eviction is one, or are several, that there is no event of yet.
type Eviction struct {
	Row   int
	Cause EvictCause
	Count int    // 1, or, where Owner is 0, more
	Owner uint16 // attachment id of the subscriber; 0: not kept, for more than keptEvictions came before anybody looked
	told  uint64 // Told, once there is an event of it
}

// Evictions returns those that there are no events of yet, for each row the oldest first. The daemon alone calls it, for it alone writes what was told: for each
// of them Telling with the number that its event gets, the event, and then ToldOf.
func (t *Topic) Evictions() []Eviction {
	var all []Eviction
	for i := range t.used() {
		row := t.cursor(i)
		if w := row.State.Load(); CursorPhase(w&cursorPhaseMask) == CursorPhaseEvicted {
			row.note(w)
		}
		if noted, told := row.Noted.Load(), row.Told.Load(); noted != told { // N
			all = row.untold(all, i, noted, told)
		}
	}
	return all
}

// untold appends the evictions of row i that noted counts and told does not.
func (row *TopicCursor) untold(all []Eviction, i int, noted, told uint64) []Eviction {
	slow, asked := notedCounts(told)
	lastSlow, lastAsked := notedCounts(noted)
	missing := map[EvictCause]uint16{EvictCauseTooSlow: lastSlow - slow, EvictCauseOperator: lastAsked - asked}
	// The records of the newest, as far as they are those that noted counts: each is of a later opening than the one before, and none of a later one than noted's,
	// as that of an eviction is which is being counted now.
	var kept []uint64
	opened := uint32(told >> 32)
	n := missing[EvictCauseTooSlow] + missing[EvictCauseOperator]
	for k := n - min(n, keptEvictions); k < n; k++ {
		w := row.kept(slow + asked + k).Load()
		o, why := uint32(w>>32), evictCause(w)
		if CursorPhase(w&cursorPhaseMask) == CursorPhaseEvicted && int32(o-opened) > 0 && int32(uint32(noted>>32)-o) >= 0 && missing[why] > 0 {
			kept = append(kept, w)
			missing[why]--
			opened = o
		}
	}
	add := func(why EvictCause, count uint16, owner uint16, opened uint32) {
		if count == 0 {
			return
		}
		if why == EvictCauseOperator {
			asked += count
		} else {
			slow += count
		}
		all = append(all, Eviction{i, why, int(count), owner, makeNoted(opened, slow, asked)})
	}
	for _, why := range []EvictCause{EvictCauseTooSlow, EvictCauseOperator} {
		add(why, missing[why], 0, uint32(told>>32))
	}
	for _, w := range kept {
		add(evictCause(w), 1, cursorOwner(w), uint32(w>>32))
	}
	if n > 0 {
		all[len(all)-1].told = noted // which it is, but where a peer wrote nonsense
	}
	return all
}

// Telling says that the event with this number, which is not there yet, tells of e.
func (t *Topic) Telling(e Eviction, event uint64) {
	row := t.cursor(e.Row)
	row.TellingEvent.Store(event)
	row.Telling.Store(e.told)
}

// ToldOf says that the event is there.
func (t *Topic) ToldOf(e Eviction) { t.cursor(e.Row).Told.Store(e.told) }

// Recall is for a daemon that takes over, before it writes an event: what the one before was telling of was told if the event is there. last is the number
// of the last event.
func (t *Topic) Recall(last uint64) {
	for i := range t.used() {
		row := t.cursor(i)
		if telling := row.Telling.Load(); telling != row.Told.Load() && row.TellingEvent.Load() <= last {
			row.Told.Store(telling)
		}
		row.Telling.Store(row.Told.Load()) // else the event of that number may become another's
	}
}

// forgets reports whether another eviction of the row would cost a record that there is no event of.
func (row *TopicCursor) forgets() bool {
	slow, asked := notedCounts(row.Noted.Load())
	toldSlow, toldAsked := notedCounts(row.Told.Load())
	return slow+asked-toldSlow-toldAsked >= keptEvictions
}
