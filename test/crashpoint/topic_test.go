package crashpoint

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// A topic lies where the queue lies in the other tests.
const topicSlots = 4

const (
	opTell    = 2000 + iota // publish
	opRecant                // loan and abort
	opVisit                 // subscribe from where wordFor says, read one message, leave
	opEvict                 // row 0
	opRestore               // repair
	opHear                  // read one message, as a subscriber that was there before
	opPublish               // TryPublish
	opBatch                 // TryPublishBatch, three messages
	opRun                   // read a run, as a subscriber that was there before
)

func init() {
	for op, name := range map[uint64]string{opTell: "publish", opRecant: "loan+abort of a topic", opVisit: "subscribe+receive+close", opEvict: "evict", opRestore: "repair of a topic",
		opHear: "receive from a topic", opPublish: "TryPublish", opBatch: "TryPublishBatch", opRun: "Run"} {
		opNames[op] = name
	}
}

// told is the topic that a tracee works on, and its ends.
var told struct {
	t *protocol.Topic
	p *protocol.Publisher
	s *protocol.Subscriber
}

func openTopic(b []byte) *protocol.Topic {
	t, err := protocol.OpenTopic(b[queueAt : queueAt+queueRoom : queueAt+queueRoom])
	if err != nil {
		return nil
	}
	return t
}

// readyTopic makes what an operation needs before it is stepped.
func readyTopic(b []byte) {
	told.t = openTopic(b)
	told.p, told.s = nil, nil
	if op := get(b, wordOp); op == opHear || op == opRun {
		told.s = must(told.t.Subscribe(uint16(get(b, wordOwner)), protocol.FromOldest))
	}
	if op := get(b, wordOp); op == opTell || op == opRecant || op == opPublish || op == opBatch {
		told.p = must(told.t.Publisher(uint16(get(b, wordOwner))))
	}
}

func warmUpTopic(b []byte) {
	for _, s := range topicStates(0) {
		for op := uint64(opTell); op <= opRun; op++ {
			copy(b[queueAt:], s.image)
			set(b, wordOp, op)
			set(b, wordOwner, victim)
			set(b, wordValue, op)
			readyTopic(b)
			operateTopic(b, op)
		}
	}
}

func operateTopic(b []byte, op uint64) uint64 {
	t := told.t
	switch op {
	case opTell, opRecant:
		p := *told.p // on the stack, which frozen takes along
		l, err := p.TryLoan()
		if err != nil {
			return result(err)
		}
		fill(p.LoanBytes(l), get(b, wordValue))
		if op == opRecant {
			return result(p.Abort(l))
		}
		return result(p.Commit(l, length(get(b, wordValue))))
	case opVisit:
		s, err := t.Subscribe(uint16(get(b, wordOwner)), visits[get(b, wordFor)])
		if err != nil {
			return result(err)
		}
		err = hearOne(b, s)
		if _, gap := err.(*protocol.LostError); gap { // it joined, and was lapped before it read anything
			err = hearOne(b, s)
		}
		r := result(err)
		switch err {
		case errTorn:
			r = resultTorn
		case protocol.ErrLapped:
			r = resultOvertaken
		}
		if err := s.Close(); err != nil {
			return result(err)
		}
		return r
	case opHear:
		s := *told.s
		switch err := hearOne(b, &s); err {
		case errTorn:
			return resultTorn
		case protocol.ErrEvicted:
			return resultLost
		default:
			return result(err)
		}
	case opEvict:
		return result(t.Evict(0))
	case opPublish, opBatch:
		return operateTopicBatch(b, op)
	case opRun:
		return operateTopicRun(b)
	case opRestore:
		dead := uint16(get(b, wordDead))
		t.Repair(func(o uint16) bool { return o == dead })
		return resultOK
	}
	return resultError
}

var errTorn = errors.New("torn")

// visits are where opVisit joins, by wordFor.
var visits = [...]protocol.From{protocol.FromOldest, protocol.FromLast, protocol.FromNew}

// hearOne reads a message, and says which.
func hearOne(b []byte, s *protocol.Subscriber) error {
	m, err := s.Next()
	if err != nil {
		return err
	}
	var into [64]byte // what was read counts after Done
	n := copy(into[:], m)
	if err := s.Done(); err != nil {
		return err
	}
	v, whole := message(into[:n])
	if !whole {
		return errTorn
	}
	set(b, wordValue, v)
	s.Flush()
	return nil
}

// tstate is a topic as it is before an operation, and what is known about it.
type tstate struct {
	name         string
	single, drop bool
	slots        int
	start        uint64
	image        []byte
	values       []uint64 // published, in order
	peer         bool     // a subscriber that reads nothing holds row 0
	loan         bool     // a peer has a loan
}

func (s *tstate) String() string {
	return fmt.Sprintf("%s, %d slots, single=%v, drop=%v, from %#x", s.name, s.slots, s.single, s.drop, s.start)
}

// kept is how many messages a publisher leaves to late joiners.
func (s *tstate) kept() int { return s.slots - s.slots/4 }

// topicStates returns what an operation may find.
func topicStates(start uint64) (all []*tstate) { return topicStatesOf(topicSlots, start) }

func topicStatesOf(slots int, start uint64) (all []*tstate) {
	for i := range 4 {
		for _, k := range []struct {
			name          string
			before, after int // messages before the peer subscribes, and then
			peer, loan    bool
		}{
			{"empty", 0, 0, false, false},
			{"two messages", 2, 0, false, false},
			{"at the limit", 8, 0, false, false},
			{"a subscriber that lags", 5, 2, true, false},
			{"a subscriber that lags a ring", 6, 4, true, false},
			{"a peer has a loan", 3, 0, true, true},
		} {
			s := &tstate{name: k.name, slots: slots, single: i&1 != 0, drop: i&2 != 0, start: start, peer: k.peer, loan: k.loan}
			if s.loan && s.single {
				continue
			}
			mem := anonymous()
			s.image = mem[queueAt : queueAt+queueRoom]
			h := protocol.Header{Name: "topic", Region: "crashpoint", Generation: 1, Created: time.Unix(1, 0)}
			t := must(protocol.FormatTopic(s.image, h, protocol.TopicOptions{Slots: slots, SlotSize: 64, Cursors: 4, Single: s.single, DropOldest: s.drop, Start: start}))
			t.Admit(victim)
			p := must(t.Publisher(victim))
			publish := func(n int) {
				for range n {
					v := uint64(100 + len(s.values))
					l := must(p.TryLoan())
					fill(p.LoanBytes(l), v)
					check(p.Commit(l, length(v)))
					s.values = append(s.values, v)
				}
			}
			publish(k.before * slots / topicSlots)
			if k.peer {
				must(t.Subscribe(peer, protocol.FromNew))
			}
			publish(k.after * slots / topicSlots)
			if k.loan {
				q := must(t.Publisher(peer))
				fill(q.LoanBytes(must(q.TryLoan())), 500)
			}
			all = append(all, s)
		}
	}
	return all
}

// read returns all that a subscriber gets, which must be whole.
func readAll(s *protocol.Subscriber) (values []uint64, err error) {
	for range 100 {
		b, err := s.Next()
		if errors.Is(err, protocol.ErrEmpty) {
			return values, nil
		}
		if err != nil {
			return values, err
		}
		v, whole := message(b)
		if err := s.Done(); err != nil {
			return values, err
		}
		if !whole {
			return values, fmt.Errorf("torn: %x", b)
		}
		values = append(values, v)
	}
	return values, errors.New("still not empty after 100 messages")
}

// topicRepair repairs after the deaths of ids, and checks that nothing is left to do.
func topicRepair(t *protocol.Topic, ids ...uint16) error {
	isDead := func(o uint16) bool { return slices.Contains(ids, o) }
	t.Repair(isDead)
	if again := t.Repair(isDead); again != (protocol.Repaired{}) || t.Holds(isDead) {
		return fmt.Errorf("a second repair found %+v", again)
	}
	return nil
}

// judge looks at memory after the death of id: repairs, reads with a new subscriber, fills the ring, evicts who blocks, and does three laps. It
// reports whether the victim's message was there. It spoils mem.
func (s *tstate) judge(mem []byte, id uint16) (seen bool, err error) {
	last, err := s.judgeTwo(mem, 1, id)
	return len(last) > 0, err
}

// judgeTwo is judge after the deaths of ids, which published so many messages: sent, sent+1, sent+2. It returns which of these were there, in order.
func (s *tstate) judgeTwo(mem []byte, messages int, ids ...uint16) (seen []uint64, err error) {
	t := openTopic(mem)
	if t == nil {
		return seen, errors.New("the header is damaged")
	}
	if err := topicRepair(t, ids...); err != nil {
		return seen, err
	}
	if err := sound(mem[queueAt:], func(o uint16) bool { return slices.Contains(ids, o) }); err != nil {
		return seen, err
	}
	if s.loan { // its holder dies, too
		t.Repair(func(o uint16) bool { return o == peer })
	}
	t.Admit(other)
	p, err := t.Publisher(other)
	if err != nil {
		return seen, err
	}
	r, err := t.Subscribe(other, protocol.FromOldest)
	if err != nil {
		return seen, err
	}
	got, err := readAll(r)
	if err != nil {
		return seen, err
	}
	r.Flush()
	want := s.values
	n := slices.IndexFunc(got, func(v uint64) bool { return v >= sent && v <= sent+2 })
	if n >= 0 {
		got, seen = got[:n], got[n:]
	}
	// At least the last slots, three of four, are kept, of which the peer may have left one without a message, and the victim some.
	if len(got) > len(want) || len(seen) > messages || len(got) < min(len(want), s.kept())-1-messages {
		return seen, fmt.Errorf("%d of %d messages are kept", len(got), len(want))
	}
	for i, v := range got {
		if v != want[len(want)-len(got)+i] {
			return seen, fmt.Errorf("got %d, want the end of %d", got, want)
		}
	}
	publish := func(v uint64) error {
		l, err := p.TryLoan()
		if err != nil {
			return err
		}
		fill(p.LoanBytes(l), v)
		return p.Commit(l, length(v))
	}
	blocks := func() (lag uint64) {
		for _, c := range t.Cursors() {
			if c.Phase == protocol.CursorPhaseOpen && c.Row == 0 && c.Owner == peer {
				lag = c.Lag
			}
		}
		return lag
	}
	room := s.slots
	if !s.drop {
		room -= int(blocks())
	}
	fit := uint64(0)
	for ; fit < uint64(s.slots); fit++ {
		if err := publish(10000 + fit); errors.Is(err, protocol.ErrFull) {
			break
		} else if err != nil {
			return seen, err
		}
	}
	if int(fit) != room {
		return seen, fmt.Errorf("%d messages fit, want %d", fit, room)
	}
	if s.peer && !s.loan {
		t.Evict(0) // perhaps it is already
	}
	for i := range fit {
		b, err := r.Next()
		var gap *protocol.LostError
		if errors.As(err, &gap) && s.drop { // a whole ring in one go: the floor is ahead of it
			b, err = r.Next()
		}
		if errors.Is(err, protocol.ErrEmpty) && s.drop && int(i) >= s.kept() { // it had read nothing yet: that its beginning moves with floor is no loss
			break
		}
		if err != nil {
			return seen, fmt.Errorf("message %d after the repair: %w", i, err)
		}
		if v, whole := message(b); !whole || v < 10000 {
			return seen, fmt.Errorf("message %d after the repair: %d", i, v)
		}
		if err := r.Done(); err != nil && !errors.Is(err, protocol.ErrLapped) {
			return seen, err
		}
		if gap != nil {
			break
		}
	}
	if _, err := readAll(r); err != nil {
		return seen, err
	}
	r.Flush()
	for v := range uint64(3 * s.slots) {
		if err := publish(20000 + v); err != nil {
			return seen, fmt.Errorf("lap after the eviction, message %d: %w", v, err)
		}
		got, err := readAll(r)
		if err != nil || len(got) != 1 || got[0] != 20000+v {
			return seen, fmt.Errorf("lap after the eviction, message %d: got %d, %w", v, got, err)
		}
		r.Flush()
	}
	if err := r.Close(); err != nil {
		return seen, err
	}
	for _, c := range t.Cursors() {
		if c.Owner != peer {
			return seen, fmt.Errorf("a row is left: %+v", c)
		}
	}
	return seen, nil
}

func topicStarts() []uint64 {
	all := []uint64{0, 1<<32*topicSlots - 6}
	if quick() {
		return all[:1]
	}
	return all
}

// TestTopicKill kills the victim at every instruction of every operation on a topic, in every state.
func TestTopicKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("topic, kill")
	for _, start := range topicStarts() {
		for _, s := range topicStates(start) {
			for op := uint64(opTell); op <= opRestore; op++ {
				copy(mem[queueAt:], s.image)
				owner := uint16(victim)
				if op == opEvict || op == opRestore {
					owner = second
				}
				x.begin(op, owner, sent)
				var last uint64
				seen := false
				judge := func() error {
					copy(scratch, mem)
					now, err := s.judge(scratch, victim)
					if err == nil && (seen && !now || now && op != opTell) {
						err = fmt.Errorf("the victim's message: seen %v, now %v", seen, now)
					}
					seen = seen || now
					return err
				}
				for i, more := 0, true; more; i++ {
					if h := maphash.Bytes(seed, mem[queueAt:queueAt+queueRoom]); i == 0 || h != last {
						last = h
						count.point(judge(), "%s, %s killed at %d", s, opNames[op], i)
					} else {
						count.point(nil, "")
					}
					if count.points%everyKill() == 0 && !quick() {
						image := append([]byte(nil), mem[queueAt:]...)
						x.kill()
						count.killed++
						_, err := s.judge(mem, victim)
						count.point(err, "%s, %s killed with SIGKILL at %d", s, opNames[op], i)
						count.points--
						x.start()
						copy(mem[queueAt:], s.image)
						x.begin(op, owner, sent)
						x.steps(i)
						copy(mem[queueAt:], image)
					}
					more = x.step()
				}
				r, v := x.finish()
				err := judge()
				blocked := s.name == "a subscriber that lags a ring" && !s.drop
				switch {
				case err != nil:
				case op == opTell && (r != resultOK && !(r == resultFull && blocked) || (r == resultOK) != seen),
					op == opRecant && r != resultOK && !(r == resultFull && blocked),
					op == opVisit && (r != resultOK || v == sent) && len(s.values) > 0,
					op == opVisit && len(s.values) == 0 && r != resultEmpty,
					op == opEvict && (r == resultOK) != s.peer:
					err = fmt.Errorf("result %d, value %d, seen %v", r, v, seen)
				}
				count.point(err, "%s, after %s", s, opNames[op])
			}
		}
	}
}

// TestTopicParked stops the victim at every instruction, as SIGSTOP or a debugger may, lets its peers publish laps, after they evicted it or
// not, and lets the victim go on: it may find that it was evicted, never a message that is torn. Of topics that drop their oldest the victim is a
// publisher only: what makes garbage (LostError, joins) cannot be stepped twice, and is left to TestTopicStress and the model.
func TestTopicParked(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("topic, parked")
	evicted := 0
	for _, s := range topicStates(topicStarts()[0]) {
		for _, op := range []uint64{opTell, opHear} {
			if s.loan || s.drop && op == opHear || op == opTell && s.single {
				continue
			}
			for _, evict := range []bool{true, false} {
				copy(mem[queueAt:], s.image)
				x.begin(op, victim, sent)
				x.everyPoint(func(i int) {
					c := openTopic(mem)
					if evict {
						for row := range 4 {
							c.Evict(row)
						}
					}
					c.Admit(other)
					p := must(c.Publisher(other))
					for n := range uint64(2 * topicSlots) {
						l, err := p.TryLoan()
						if err != nil {
							break
						}
						fill(p.LoanBytes(l), 20000+n)
						check(p.Commit(l, length(20000+n)))
					}
					r, v := x.finish()
					var err error
					switch {
					case r == resultTorn, r == resultError, op == opHear && r == resultOK && (v == sent || v >= 20000 && len(s.values) > 0 && !evict):
						err = fmt.Errorf("the parked process got result %d, value %d", r, v)
					case r == resultLost && !evict:
						err = errors.New("evicted by nobody")
					default:
						if r == resultLost {
							evicted++
						}
						_, err = readAll(must(c.Subscribe(other, protocol.FromOldest)))
					}
					count.point(err, "%s, %s parked at %d, evicted: %v", s, opNames[op], i, evict)
				})
			}
		}
	}
	if evicted == 0 {
		t.Error("nobody found that it was evicted: the test does not see what it is for")
	}
}

// TestTopicPublisherParked stops a publisher at every instruction, beside a subscriber that reads meanwhile whatever is there, and afterwards the
// rest: all whole, in order, each once, and of a topic that drops its oldest the number of those that are missing.
func TestTopicPublisherParked(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("topic, publisher parked")
	ahead := 0
	for _, start := range topicStarts() {
		for _, s := range topicStates(start) {
			if s.loan {
				continue
			}
			copy(mem[queueAt:], s.image)
			x.begin(opTell, victim, sent)
			x.everyPoint(func(i int) {
				c := openTopic(mem)
				r := must(c.Subscribe(other, protocol.FromOldest))
				got, err := readAll(r)
				r.Flush()
				if len(got) > 0 && got[len(got)-1] == sent {
					ahead++
				}
				first := len(got)
				result, _ := x.finish()
				if err == nil {
					var rest []uint64
					rest, err = readAll(r)
					got = append(got, rest...)
				}
				want := s.values
				if result == resultOK {
					want = append(append([]uint64{}, want...), sent)
				} else if err == nil && (result != resultFull || s.drop) {
					err = fmt.Errorf("result %d", result)
				}
				if err == nil && len(got) < min(len(want), topicSlots-1)-1 || len(got) > len(want) {
					err = fmt.Errorf("%d of %d messages came, %d of them beside the parked publisher", len(got), len(want), first)
				}
				for k, v := range got {
					if w := want[len(want)-len(got)+k]; err == nil && v != w {
						err = fmt.Errorf("got %d, want the end of %d", got, want)
					}
				}
				if err == nil && r.Lost() != 0 {
					err = fmt.Errorf("%d lost, by one message", r.Lost())
				}
				count.point(err, "%s, publisher parked at %d", s, i)
			})
		}
	}
	if ahead == 0 {
		t.Error("no message was read before its publisher had ended: the test does not see what it is for")
	}
}

// TestTopicJoin stops a publisher at every instruction, has a subscriber join from the oldest meanwhile, and lets the publisher go on: what was
// kept when the subscriber joined is its own until it has read it.
func TestTopicJoin(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("topic, join")
	held := 0
	for _, start := range topicStarts() {
		for _, s := range topicStates(start) {
			if s.loan || s.drop {
				continue
			}
			copy(mem[queueAt:], s.image)
			x.begin(opTell, victim, sent)
			x.everyPoint(func(i int) {
				c := openTopic(mem)
				r := must(c.Subscribe(other, protocol.FromOldest))
				result, _ := x.finish()
				if result == resultFull {
					held++
				}
				got, err := readAll(r)
				want := s.values
				if result == resultOK {
					want = append(append([]uint64{}, want...), sent)
				}
				if n := len(got); err == nil && n < min(len(want), topicSlots-1) && !(n == 1 && got[0] == sent) && len(s.values) > 0 && result == resultFull {
					err = fmt.Errorf("%d messages were kept", n)
				}
				for k, v := range got {
					if at := len(want) - len(got) + k; err == nil && (at < 0 || v != want[at]) {
						err = fmt.Errorf("got %d, want the end of %d", got, want)
					}
				}
				count.point(err, "%s, publish parked at %d while another joins", s, i)
			})
		}
	}
	if held == 0 {
		t.Error("no publisher was held up by the joiner: the test does not see what it is for")
	}
}

// TestTopicRepairKilled kills the repair that follows a death at every instruction, and repairs again.
func TestTopicRepairKilled(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("topic, repair killed")
	known := map[uint64]bool{}
	for _, s := range topicStates(topicStarts()[0]) {
		for _, op := range []uint64{opTell, opVisit} {
			copy(mem[queueAt:], s.image)
			x.begin(op, victim, sent)
			var dying [][]byte
			for more := true; more; more = x.step() {
				if h := maphash.Bytes(seed, mem[queueAt:]); !known[h] {
					known[h] = true
					dying = append(dying, append([]byte(nil), mem[queueAt:]...))
				}
			}
			x.finish()
			for k, image := range dying {
				copy(scratch[queueAt:], image)
				want, err := s.judge(scratch, victim)
				if err != nil {
					count.point(err, "%s, %s, image %d", s, opNames[op], k)
					continue
				}
				copy(mem[queueAt:], image)
				x.begin(opRestore, second, 0)
				var last uint64
				for j, more := 0, true; more; j++ {
					var err error
					if h := maphash.Bytes(seed, mem[queueAt:]); j == 0 || h != last {
						last = h
						copy(scratch[queueAt:], mem[queueAt:])
						var seen bool
						if seen, err = s.judge(scratch, victim); err == nil && seen != want {
							err = fmt.Errorf("the victim's message: %v, want %v", seen, want)
						}
					}
					count.point(err, "%s, %s, image %d, repair killed at %d", s, opNames[op], k, j)
					more = x.step()
				}
				x.finish()
			}
		}
	}
}
