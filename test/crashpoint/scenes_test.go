package crashpoint

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// scene is what state is, for lanes and for slots that are frames.
type scene struct {
	name  string
	lane  bool
	slots int
	max   int
	start uint64
	image []byte
	want  map[uint64]int  // committed and not acked: deliveries, -1 if they may be anything
	dead  map[uint64]bool // dead letters that were not moved
	loose bool            // messages do not lie in the order of their values
	sends bool            // the victim is the producer
	core  bool            // looked at in every run, in whichever way
}

func (s *scene) String() string {
	kind := "queue"
	if s.lane {
		kind = "lane"
	}
	return fmt.Sprintf("%s of %d slots from %#x, %s", kind, s.slots, s.start, s.name)
}

// sceneBuilder makes scenes.
type sceneBuilder struct {
	*scene
	in, out  ends
	sid, rid uint16 // who is the producer and who the consumer
	next     uint64
}

func newScene(name string, lane bool, slots, max int, start uint64, sid, rid uint16, do func(b *sceneBuilder)) *scene {
	b := &sceneBuilder{scene: &scene{name: name, lane: lane, slots: slots, max: max, start: start, want: map[uint64]int{}, dead: map[uint64]bool{}}, sid: sid, rid: rid, next: 100}
	mem := anonymous()
	h := protocol.Header{Name: "queue", Region: "crashpoint", Generation: 1, Created: time.Unix(1, 0)}
	must(protocol.FormatQueue(mem[queueAt:queueAt+queueRoom], h, protocol.QueueOptions{Slots: slots, SlotSize: 256, MaxDeliveries: max, Start: start, Lane: lane}))
	h.Name = "dead"
	must(protocol.FormatQueue(mem[deadAt:deadAt+deadRoom], h, protocol.QueueOptions{Slots: 4, SlotSize: 256 + protocol.SizeofDeadLetter, DeadLetter: true}))
	b.in, b.out = openEnds(mem), openEnds(mem)
	do(b)
	b.image = mem[queueAt:]
	return b.scene
}

func (b *sceneBuilder) value() uint64 {
	v := b.next
	b.next++
	b.want[v] = 0
	return v
}

func (b *sceneBuilder) loan() protocol.Loan { return must(b.in.loan(b.sid)) }

func (b *sceneBuilder) commit(l protocol.Loan) {
	v := b.value()
	fill(b.in.q.LoanBytes(l), v)
	check(b.in.commit(l, length(v)))
}

func (b *sceneBuilder) send(n int) {
	for range n {
		b.commit(b.loan())
	}
}

func (b *sceneBuilder) frame(n int) {
	l := b.loan()
	f := protocol.NewFrame(b.in.q.LoanBytes(l))
	for range n {
		v := b.value()
		fill(f.Next(length(v)), v)
	}
	check(b.in.commitFrame(l, &f))
}

func (b *sceneBuilder) lease() protocol.Lease { return must(b.out.receive(b.rid)) }

// values are the messages of a lease that are not acked.
func (b *sceneBuilder) values(l protocol.Lease) (out []uint64) {
	f := must(b.out.q.Frame(l))
	for k := f.FirstOpen(0); k < f.Len(); k = f.FirstOpen(k + 1) {
		v, whole := message(f.At(k))
		if !whole {
			panic("torn")
		}
		out = append(out, v)
	}
	return out
}

func (b *sceneBuilder) receive(n int) {
	for range n {
		l := b.lease()
		for _, v := range b.values(l) {
			delete(b.want, v)
		}
		check(b.out.ack(l))
	}
}

// hold takes a lease and overtakes it by the next message, so that it is stamped. It is given back only by its holder's death.
func (b *sceneBuilder) hold() {
	l := b.lease()
	b.receive(1)
	for _, v := range b.values(l) {
		b.want[v] = -1
	}
}

// nack gives n messages back.
func (b *sceneBuilder) nack(n int) {
	for range n {
		l := b.lease()
		vs := b.values(l)
		check(b.out.nack(l))
		for i, v := range vs {
			d := l.Deliveries() + 1
			if b.want[v] = 0; i == 0 { // the count is of the first
				b.want[v] = d
			}
			if b.max > 0 && d >= b.max && i == 0 {
				delete(b.want, v)
				b.dead[v] = true
			}
		}
	}
}

// ackOf acks messages of a frame and gives the rest back.
func (b *sceneBuilder) ackOf(which ...int) {
	l := b.lease()
	f := must(b.out.q.Frame(l))
	for _, k := range which {
		v, _ := message(f.At(k))
		check(b.out.ackMessage(&l, &f, k))
		delete(b.want, v)
	}
	for i, v := range b.values(l) {
		b.want[v] = -1
		if b.max == 1 && i == 0 {
			delete(b.want, v)
			b.dead[v] = true
		}
	}
	check(b.out.nack(l))
}

// scenes returns what an operation may find. The victim has id; it is the producer, or the consumer.
func scenes(lane bool, slots int, start uint64, sends bool) (all []*scene) {
	sid, rid := uint16(other), uint16(victim)
	if sends {
		sid, rid = victim, other
	}
	for _, k := range []struct {
		name string
		max  int
		lane bool // of lanes only
		core bool
		do   func(b *sceneBuilder)
	}{
		{"empty", 0, true, true, func(b *sceneBuilder) {}},
		{"used and empty", 0, true, false, func(b *sceneBuilder) { b.send(slots); b.receive(slots) }},
		{"some", 0, true, false, func(b *sceneBuilder) { b.send(min(2, slots)) }},
		{"full", 0, true, false, func(b *sceneBuilder) { b.send(slots) }},
		{"full, second lap", 0, true, true, func(b *sceneBuilder) { b.send(slots); b.receive(1); b.send(1) }},
		{"a lease kept, some", 0, true, true, func(b *sceneBuilder) { b.send(2); b.hold(); b.send(slots / 2) }},
		{"a lease kept for two laps, full", 0, true, false, func(b *sceneBuilder) {
			b.send(2)
			b.hold()
			for range 2 * slots {
				b.send(1)
				b.receive(1)
			}
			b.send(slots - 1)
		}},
		{"one behind head", 0, true, false, func(b *sceneBuilder) { b.send(2); b.nack(1) }},
		{"one behind head, full", 3, true, true, func(b *sceneBuilder) { b.send(slots); b.nack(1) }},
		{"two at their last delivery", 2, true, false, func(b *sceneBuilder) { b.send(2); b.nack(2) }},
		{"a loan kept", 0, true, true, func(b *sceneBuilder) { b.loan(); b.send(1) }},
		{"a loan kept, its position passed", 0, true, false, func(b *sceneBuilder) { b.loan(); b.send(1); b.receive(1) }},
		{"a loan committed late", 0, true, true, func(b *sceneBuilder) {
			l := b.loan()
			b.send(1)
			b.commit(l)
			b.loose = true
		}},
		{"a position given up", 0, true, false, func(b *sceneBuilder) {
			l, m := b.loan(), b.loan()
			check(b.in.abort(l))
			b.commit(m)
		}},
		{"a frame", 0, false, false, func(b *sceneBuilder) { b.frame(3); b.send(1) }},
		{"a frame given back", 3, false, false, func(b *sceneBuilder) { b.frame(3); b.nack(1) }},
		{"a frame half acked and given back", 0, false, true, func(b *sceneBuilder) { b.send(1); b.frame(4); b.receive(1); b.ackOf(1) }},
		{"a frame with one left", 2, false, false, func(b *sceneBuilder) { b.frame(3); b.ackOf(2, 0) }},
		{"two dead", 1, true, false, func(b *sceneBuilder) { b.send(2); b.nack(2) }},
		{"a frame whose first is dead", 1, false, false, func(b *sceneBuilder) { b.frame(3); b.nack(1) }},
		{"a frame whose last is dead", 1, false, false, func(b *sceneBuilder) { b.frame(3); b.ackOf(0, 1) }},
	} {
		if k.lane && !lane {
			continue
		}
		s := newScene(k.name, lane, slots, k.max, start, sid, rid, k.do)
		s.sends, s.core = sends, k.core
		all = append(all, s)
	}
	return all
}

// freed is the scene when nobody has the victim's end yet: the operation begins with becoming it.
func (s *scene) freed() *scene {
	f := *s
	f.name += ", the end is free"
	f.image = slices.Clone(s.image)
	mem := anonymous()
	copy(mem[queueAt:], f.image)
	openQueue(mem).Repair(func(o uint16) bool { return o == victim })
	copy(f.image, mem[queueAt:])
	f.want = maps.Clone(s.want)
	for v := range f.want {
		f.want[v] = -1
	}
	return &f
}

// operations are those that make sense in a scene.
func (s *scene) operations() []uint64 {
	switch {
	case len(s.dead) > 0:
		return []uint64{opMove}
	case s.sends && s.lane:
		return []uint64{seqSend, seqLoan, seqCross, seqAbort, seqMixed, seqFrame, seqEndLoan, seqEndRun, seqEndLoanRun, seqEndBatch, seqEndSend}
	case s.sends:
		return []uint64{seqFrame}
	case s.lane && s.max > 0:
		return []uint64{seqAck, seqTo, seqCrossAck, seqNack, seqCrossNack, seqReturn, seqFrameAck, seqFrameNack, seqEndAck, seqBatchAck, seqEndTo, seqReject, seqCrossReject}
	case s.lane:
		return []uint64{seqAck, seqTo, seqCrossAck, seqNack, seqCrossNack, seqReturn, seqFrameAck, seqFrameNack, seqEndAck, seqBatchAck, seqEndTo}
	case s.max > 0:
		return []uint64{seqAck, seqCrossAck, seqNack, seqReturn, seqFrameAck, seqFrameNack, seqReject}
	}
	return []uint64{seqAck, seqCrossAck, seqNack, seqReturn, seqFrameAck, seqFrameNack}
}

// drainAll receives all there is, for the consumer id, and adds it to v.
func drainAll(e ends, id uint16, v *verdict) error {
	for range 100 {
		l, err := e.receive(id)
		if err == protocol.ErrEmpty {
			return nil
		}
		if err != nil {
			return err
		}
		f, err := e.q.Frame(l)
		if err != nil {
			return err
		}
		for k := f.FirstOpen(0); k < f.Len(); k = f.FirstOpen(k + 1) {
			m, whole := message(f.At(k))
			if !whole {
				return fmt.Errorf("torn message: %x", f.At(k))
			}
			v.got[m]++
			v.deliveries[m] = l.Deliveries()
			if k != f.FirstOpen(0) { // the count is of the first
				v.deliveries[m] = -1
			}
			v.order = append(v.order, m)
		}
		if err := e.ack(l); err != nil {
			return err
		}
	}
	return errors.New("still not empty after 100 messages")
}

// lapsOf does what laps does.
func lapsOf(in, out ends, sid, rid uint16, room int) error {
	for lap := range 3 {
		n := 0
		for ; n <= in.q.Slots(); n++ {
			l, err := in.loan(sid)
			if err == protocol.ErrFull {
				break
			}
			if err != nil {
				return err
			}
			v := uint64(10000 + 100*lap + n)
			fill(in.q.LoanBytes(l), v)
			if err := in.commit(l, length(v)); err != nil {
				return err
			}
		}
		if n != room {
			return fmt.Errorf("lap %d: %d messages fit, want %d", lap, n, room)
		}
		v := newVerdict()
		if err := drainAll(out, rid, &v); err != nil {
			return err
		}
		for i, m := range v.order {
			if m != uint64(10000+100*lap+i) {
				return fmt.Errorf("lap %d: message %d came as number %d", lap, m, i)
			}
		}
		if len(v.order) != room {
			return fmt.Errorf("lap %d: %d of %d messages came", lap, len(v.order), room)
		}
	}
	return nil
}

// judge looks at memory after the death of the victim, and of the other end with it if both. If not both, the living goes on with the
// victim's successor, with what it holds held, and dies then. It spoils mem.
func (s *scene) judge(mem []byte, both bool) (verdict, error) {
	v := newVerdict()
	q, d := openQueue(mem), openDead(mem)
	if q == nil || d == nil {
		return v, errors.New("the header is damaged")
	}
	repair := func(ids ...uint16) error {
		dead := func(o uint16) bool { return slices.Contains(ids, o) }
		for _, c := range []*protocol.Queue{q, d} {
			c.Repair(dead)
			if again := c.Repair(dead); again != (protocol.Repaired{}) || c.Holds(dead) {
				return fmt.Errorf("a second repair of %q after the death of %v found %+v", c.Header().Name, ids, again)
			}
		}
		return errors.Join(sound(mem[queueAt:], dead), sound(mem[deadAt:], dead))
	}
	if !both {
		if err := repair(victim); err != nil {
			return v, err
		}
		in, out, sid, rid := openEnds(mem), openEnds(mem), uint16(other), uint16(20)
		if s.sends {
			sid, rid = 20, other
		}
		// The successor writes, twice, while the consumer takes all there is: it must not see what is being written.
		for n := range 2 {
			l, loaned := in.loan(sid)
			if loaned == nil {
				fill(q.LoanBytes(l), 30001)
			}
			if err := drainAll(out, rid, &v); err != nil {
				return v, err
			}
			if n == 1 && loaned == nil {
				loaned = in.abort(l)
			} else if loaned == nil {
				fill(q.LoanBytes(l), 30000)
				loaned = in.commit(l, length(30000))
			}
			if loaned != nil && loaned != protocol.ErrFull {
				return v, loaned
			}
		}
		if v.got[30000] > 1 {
			return v, errors.New("the successor's message came twice")
		}
		if err := drainAll(out, rid, &v); err != nil {
			return v, err
		}
		delete(v.got, 30000)
		st := q.Stat()
		if err := lapsOf(in, out, sid, rid, st.Free); err != nil {
			return v, fmt.Errorf("beside the living: %w", err)
		}
		if st.Ready != 0 || q.Stat().Free != st.Free {
			return v, fmt.Errorf("beside the living, after three laps: %+v, was %+v", q.Stat(), st)
		}
	}
	if err := repair(victim, other, 20); err != nil {
		return v, err
	}
	in, out := openEnds(mem), openEnds(mem)
	if err := drainAll(out, 22, &v); err != nil {
		return v, err
	}
	ls := state{max: s.max}
	if both {
		if err := ls.letters(d, &v); err != nil {
			return v, err
		}
	}
	for n := range 8 {
		if q.Stat().Dead == 0 && n > 0 {
			break
		}
		if _, err := q.MoveDead(d, daemon); err != nil {
			return v, fmt.Errorf("move of dead messages: %w", err)
		}
		if err := ls.letters(d, &v); err != nil {
			return v, err
		}
		if err := drainAll(out, 22, &v); err != nil {
			return v, err
		}
	}
	if err := lapsOf(in, out, 21, 22, s.slots); err != nil {
		return v, fmt.Errorf("at the end: %w", err)
	}
	if err := laps2(d); err != nil {
		return v, fmt.Errorf("the dead-letter channel at the end: %w", err)
	}
	if st := q.Stat(); st.Free != s.slots {
		return v, fmt.Errorf("at rest: %+v", st)
	}
	return v, nil
}

// expect checks a verdict: each message that was there once, and those that the victim touched as far as it had come. parked: nobody died,
// so what was acked or begun to be was done.
func (s *scene) expect(v verdict, touched []item) error {
	by := map[uint64]item{}
	for _, t := range touched {
		by[t.value] = t
	}
	for m, t := range by {
		n := v.got[m] + v.dead[m]
		low, high := 1, 1
		switch t.kind {
		case 'c':
			if t.stage < ended {
				low = 0
			}
			if t.stage < begun {
				high = 0
			}
		case 't':
			low = 0
		case 'b':
			low, high = 0, 0
		case 'a':
			if t.stage == ended {
				high = 0
			}
			if t.stage >= begun {
				low = 0
			}
		}
		if m != 0 && (n < low || n > high) {
			return fmt.Errorf("message %d (%c, stage %d) came %d times", m, t.kind, t.stage, n)
		}
	}
	for m, n := range v.given {
		if t := by[m]; n != 0 && (t.kind != 'x' || t.stage < begun || n > 1) {
			return fmt.Errorf("message %d (%c, stage %d) was given up %d times", m, t.kind, t.stage, n)
		}
	}
	for m, t := range by {
		if t.kind == 'x' && t.stage == ended && v.given[m] != 1 {
			return fmt.Errorf("message %d was given up and is no dead letter with its reason", m)
		}
	}
	taken := 0
	if slices.ContainsFunc(touched, func(t item) bool { return t.kind == 't' }) {
		taken = 1
	}
	for m, d := range s.want {
		t, is := by[m]
		n := v.got[m] + v.dead[m]
		if n == 0 && taken > 0 {
			taken--
			continue
		}
		if len(s.dead) > 0 && v.dead[m] > 0 {
			return fmt.Errorf("message %d became a dead letter beside another", m)
		}
		if n != 1 && (!is || t.kind != 'a') {
			return fmt.Errorf("message %d came %d times", m, n)
		}
		if v.got[m] == 1 && d >= 0 && v.deliveries[m] >= 0 {
			more := v.deliveries[m] - d
			low, high := 0, 1
			if is && (t.kind == 'n' || t.stage < begun) {
				low = 1
			}
			if is && t.kind == 'r' && t.stage == ended {
				high = 0
			}
			if more < low || more > high {
				return fmt.Errorf("deliveries of message %d (%c, stage %d) grew by %d", m, t.kind, t.stage, more)
			}
		}
	}
	for m := range s.dead {
		if v.dead[m] != 1 || v.got[m] != 0 {
			return fmt.Errorf("dead message %d is %d times in the dead-letter channel and came %d times", m, v.dead[m], v.got[m])
		}
	}
	for m := range v.got {
		if _, known := s.want[m]; !known && by[m].kind != 'c' && by[m].kind != 'b' {
			return fmt.Errorf("message %d came from nowhere", m)
		}
	}
	for m := range v.dead {
		if _, known := s.want[m]; !known && !s.dead[m] {
			return fmt.Errorf("dead letter %d came from nowhere", m)
		}
	}
	var fresh []uint64
	for _, m := range v.order {
		if d, known := s.want[m]; known && d == 0 && v.deliveries[m] <= 0 {
			fresh = append(fresh, m)
		}
	}
	if !s.loose && s.lane && !slices.IsSorted(fresh) {
		return fmt.Errorf("out of order: %v", fresh)
	}
	return nil
}
