package crashpoint

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// state is a queue with its dead-letter channel, as it is before an operation, and what is known about it.
type state struct {
	name  string
	slots int
	max   int
	image []byte // from queueAt on
	want  map[uint64]int
	order []uint64 // of want, if it must be kept: nobody holds or has given back anything
	dead  map[uint64]bool
	given map[uint64]bool // of dead: by a Reject
	full  bool            // the dead-letter channel
	loan  *protocol.Loan
	lease *protocol.Lease
	value uint64 // in the loan or the lease
	start uint64
}

func (s *state) String() string {
	return fmt.Sprintf("%s, %d slots from %#x", s.name, s.slots, s.start)
}

func (s *state) held() int {
	if s.loan != nil || s.lease != nil {
		return 1
	}
	return 0
}

// starts are first positions: zero, and some shortly before the lap changes its sign and wraps.
func starts(slots int) []uint64 {
	n := uint64(slots)
	return []uint64{0, 1<<31*n - 2, 1<<32*n - n - 1, 1<<32*n - 1}
}

// builder makes states.
type builder struct {
	*state
	q, d *protocol.Queue
	next uint64
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func (b *builder) send(n int) {
	for range n {
		l := must(b.q.TryLoan(other))
		fill(b.q.LoanBytes(l), b.next)
		check(b.q.Commit(l, length(b.next)))
		b.want[b.next] = 0
		if b.order != nil {
			b.order = append(b.order, b.next)
		}
		b.next++
	}
}

func (b *builder) receive(n int) {
	for range n {
		l := must(b.q.TryReceive(other))
		v, _ := message(b.q.LeaseBytes(l))
		check(b.q.Ack(l))
		delete(b.want, v)
		b.order = slices.DeleteFunc(b.order, func(x uint64) bool { return x == v })
	}
}

func (b *builder) nack(n int) {
	for range n {
		l := must(b.q.TryReceive(other))
		v, _ := message(b.q.LeaseBytes(l))
		check(b.q.Nack(l))
		if b.want[v]++; b.max > 0 && b.want[v] >= b.max {
			delete(b.want, v)
			b.dead[v] = true
		}
		b.order = nil
	}
}

func (b *builder) reject() {
	l := must(b.q.TryReceive(other))
	v, _ := message(b.q.LeaseBytes(l))
	check(b.q.Reject(l, rejected))
	delete(b.want, v)
	b.dead[v], b.given[v], b.order = true, true, nil
}

func (b *builder) abort() { check(b.q.Abort(must(b.q.TryLoan(other)))) }

func (b *builder) peerLoan() {
	b.loan, b.order = new(must(b.q.TryLoan(peer))), nil
	b.value = 500
	fill(b.q.LoanBytes(*b.loan), b.value)
}

func (b *builder) peerLease() {
	b.lease, b.order = new(must(b.q.TryReceive(peer))), nil
	b.value, _ = message(b.q.LeaseBytes(*b.lease))
	delete(b.want, b.value)
}

// states returns what an operation may find, for one geometry; the first n of it.
func states(slots int, start uint64, n int) []*state {
	kinds := []struct {
		name string
		max  int
		do   func(b *builder)
	}{
		{"empty", 0, func(b *builder) {}},
		{"used and empty", 0, func(b *builder) { b.send(slots); b.receive(slots) }},
		{"half full", 0, func(b *builder) { b.send(slots / 2) }},
		{"full", 0, func(b *builder) { b.send(slots) }},
		{"full, second lap", 0, func(b *builder) { b.send(slots); b.receive(1); b.send(1) }},
		{"first position aborted", 0, func(b *builder) { b.abort() }},
		{"a peer writes", 0, func(b *builder) { b.peerLoan() }},
		{"a peer writes, one behind", 0, func(b *builder) { b.peerLoan(); b.send(1) }},
		{"a peer writes, passed", 0, func(b *builder) { b.peerLoan(); b.send(1); b.receive(1) }},
		{"a peer writes since a lap", 0, func(b *builder) {
			b.peerLoan()
			for range slots {
				b.send(1)
				b.receive(1)
			}
			b.send(slots - 1)
		}},
		{"a peer reads", 0, func(b *builder) { b.send(min(2, slots)); b.peerLease() }},
		{"a peer reads since two laps, full", 0, func(b *builder) {
			b.send(1)
			b.peerLease()
			for range 2 * slots {
				b.send(1)
				b.receive(1)
			}
			b.send(slots - 1)
		}},
		{"one redelivered", 3, func(b *builder) { b.send(min(2, slots)); b.nack(1) }},
		{"one at its last delivery", 2, func(b *builder) { b.send(1); b.nack(1) }},
		{"two dead", 1, func(b *builder) { b.send(2); b.nack(2) }},
		{"one given up, one to receive", 3, func(b *builder) { b.send(2); b.reject() }},
		{"one dead, one ready, dead-letter channel full", 1, func(b *builder) {
			b.send(1)
			b.nack(1)
			b.send(1)
			b.full = true
		}},
	}
	var all []*state
	for _, k := range kinds[:min(n, len(kinds))] {
		all = append(all, newState(k.name, slots, k.max, start, k.do))
	}
	return all
}

// newState makes a state.
func newState(name string, slots, max int, start uint64, do func(b *builder)) *state {
	b := &builder{state: &state{name: name, slots: slots, max: max, start: start, want: map[uint64]int{}, order: []uint64{}, dead: map[uint64]bool{}, given: map[uint64]bool{}}, next: 100}
	mem := anonymous()
	h := protocol.Header{Name: "queue", Region: "crashpoint", Generation: 1, Created: time.Unix(1, 0)}
	b.q = must(protocol.FormatQueue(mem[queueAt:queueAt+queueRoom], h, protocol.QueueOptions{Slots: slots, SlotSize: 64, MaxDeliveries: max, Start: start}))
	h.Name = "dead"
	b.d = must(protocol.FormatQueue(mem[deadAt:deadAt+deadRoom], h, protocol.QueueOptions{Slots: 4, SlotSize: 64 + protocol.SizeofDeadLetter, DeadLetter: true}))
	do(b)
	if b.full {
		for range 4 {
			l := must(b.d.TryLoan(daemon))
			set(b.d.LoanBytes(l), 0, 1<<60) // of a message that is none of this queue's
			check(b.d.Commit(l, protocol.SizeofDeadLetter))
		}
	}
	b.image = mem[queueAt:]
	return b.state
}

// verdict is what became of the messages.
type verdict struct {
	got        map[uint64]int // how often each was received
	deliveries map[uint64]int // of each, when it was received
	dead       map[uint64]int // how often each was in the dead-letter channel
	given      map[uint64]int // and with the reason of a Reject
	order      []uint64
	at         map[uint64]uint64 // the message that was sent at a position
}

func (v verdict) equal(w verdict) bool {
	return maps.Equal(v.got, w.got) && maps.Equal(v.deliveries, w.deliveries) && maps.Equal(v.dead, w.dead) && maps.Equal(v.given, w.given)
}

// invariant checks (I) of docs/queue.md, at rest.
func invariant(q *protocol.Queue) error {
	st := q.Stat()
	if int64(st.Tail-st.Head) < 0 {
		return fmt.Errorf("(I): head %#x is beyond tail %#x", st.Head, st.Tail)
	}
	mask := uint64(q.Slots() - 1)
	for i := range uint64(q.Slots()) {
		p := st.Tail - 1 - ((st.Tail - 1 - i) & mask)
		if w := q.SlotAt(int(i)).Word; w.Phase() == protocol.PhaseReady && int64(st.Head-p) > 0 {
			return fmt.Errorf("(I): slot %d is READY at position %#x, head is %#x, tail %#x", i, p, st.Head, st.Tail)
		}
	}
	return nil
}

// repair repairs both channels after the death of id, and checks slot by slot what it did.
func (s *state) repair(q, d *protocol.Queue, id uint16) error {
	isDead := func(o uint16) bool { return o == id }
	for _, c := range []*protocol.Queue{q, d} {
		before := make([]protocol.Word, c.Slots())
		for i := range before {
			before[i] = c.SlotAt(i).Word
		}
		c.Repair(isDead)
		if again := c.Repair(isDead); again != (protocol.Repaired{}) || c.Holds(isDead) {
			return fmt.Errorf("a second repair of %q found %+v", c.Header().Name, again)
		}
		for i, w := range before {
			now := c.SlotAt(i).Word
			want := []protocol.Word{w}
			if w.Owner() == id {
				switch n := w.Deliveries() + 1; {
				case w.Phase() == protocol.PhaseWriting:
					want = []protocol.Word{protocol.MakeWord(protocol.PhaseFree, 0, 0, w.Lap()+1)}
				case w.Phase() == protocol.PhaseMoving:
					want = []protocol.Word{protocol.MakeWord(protocol.PhaseDead, 0, w.Deliveries(), w.Lap()) | w&reasonBits}
				case w.Phase() == protocol.PhaseReading && c.MaxDeliveries() > 0 && n >= c.MaxDeliveries():
					want = []protocol.Word{protocol.MakeWord(protocol.PhaseDead, 0, n, w.Lap())}
				case w.Phase() == protocol.PhaseReading:
					want = []protocol.Word{protocol.MakeWord(protocol.PhaseReady, 0, n, w.Lap())}
				}
			}
			if now != want[0] {
				return fmt.Errorf("repair turned slot %d of %q from %s %#x into %s %#x, want %#x", i, c.Header().Name, w.Phase(), w, now.Phase(), now, want[0])
			}
		}
	}
	return nil
}

// drain receives all there is and adds it to v.
func drain(q *protocol.Queue, v *verdict) error {
	for range 100 {
		l, err := q.TryReceive(other)
		if err == protocol.ErrEmpty {
			return invariant(q)
		}
		if err != nil {
			return err
		}
		m, whole := message(q.LeaseBytes(l))
		if !whole {
			return fmt.Errorf("torn message: %x", q.LeaseBytes(l))
		}
		if err := v.place(q.Position(l), m); err != nil {
			return err
		}
		v.got[m]++
		v.deliveries[m] = l.Deliveries()
		v.order = append(v.order, m)
		if err := q.Ack(l); err != nil {
			return err
		}
	}
	return fmt.Errorf("still not empty after 100 messages")
}

// laps sends until the queue is full and receives all, three times. Each time exactly room messages must fit, and come in order.
func laps(q *protocol.Queue, room int) error {
	for lap := range 3 {
		n := 0
		for ; n <= q.Slots(); n++ {
			l, err := q.TryLoan(other)
			if err == protocol.ErrFull {
				break
			}
			if err != nil {
				return err
			}
			v := uint64(10000 + 100*lap + n)
			fill(q.LoanBytes(l), v)
			if err := q.Commit(l, length(v)); err != nil {
				return err
			}
		}
		if n != room {
			return fmt.Errorf("lap %d: %d messages fit, want %d", lap, n, room)
		}
		v := newVerdict()
		if err := drain(q, &v); err != nil {
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

func newVerdict() verdict {
	return verdict{map[uint64]int{}, map[uint64]int{}, map[uint64]int{}, map[uint64]int{}, nil, map[uint64]uint64{}}
}

// place notes where message m was sent: a position is the identity of one message.
func (v *verdict) place(position, m uint64) error {
	if n, known := v.at[position]; known && n != m {
		return fmt.Errorf("messages %d and %d have the same position %#x", n, m, position)
	}
	v.at[position] = m
	return nil
}

// letters drains the dead-letter channel into v.
func (s *state) letters(d *protocol.Queue, v *verdict) error {
	for {
		l, err := d.TryReceive(other)
		if err == protocol.ErrEmpty {
			return nil
		}
		if err != nil {
			return err
		}
		info, payload, err := d.ReadDead(l)
		if err != nil {
			return err
		}
		if len(payload) > 0 {
			m, whole := message(payload)
			if !whole || info.Reason == protocol.DeadReasonMaxDeliveries && info.Deliveries != s.max ||
				info.Reason != protocol.DeadReasonMaxDeliveries && (info.Reason != rejected || info.Deliveries < 1) {
				return fmt.Errorf("dead letter %+v, payload %x", info, payload)
			}
			v.dead[m]++
			if info.Reason == rejected {
				v.given[m]++
			}
		}
		if err := d.Ack(l); err != nil {
			return err
		}
	}
}

// judge looks at memory after the death of id (0: nobody died, and then nothing is repaired): repairs, drains, does three
// laps with what peers hold held, lets them end, and does three laps with the full capacity. It spoils mem. lettersFirst: the dead-letter
// channel is emptied before dead messages are moved again.
func (s *state) judge(mem []byte, id uint16, lettersFirst bool) (verdict, error) {
	v := newVerdict()
	q, d := openQueue(mem), openDead(mem)
	if q == nil || d == nil {
		return v, fmt.Errorf("the header is damaged")
	}
	if id != 0 {
		dead := func(o uint16) bool { return o == id }
		if err := errors.Join(s.repair(q, d, id), sound(mem[queueAt:], dead), sound(mem[deadAt:], dead)); err != nil {
			return v, err
		}
	}
	if err := invariant(q); err != nil {
		return v, err
	}
	if err := drain(q, &v); err != nil {
		return v, err
	}
	if err := laps(q, s.slots-s.held()-q.Stat().Dead); err != nil {
		return v, fmt.Errorf("with what is held: %w", err)
	}
	if s.loan != nil {
		if err := q.Commit(*s.loan, length(s.value)); err != nil {
			return v, fmt.Errorf("commit of the peer's loan: %w", err)
		}
	}
	if s.lease != nil {
		if err := q.Nack(*s.lease); err != nil {
			return v, fmt.Errorf("nack of the peer's lease: %w", err)
		}
	}
	if err := drain(q, &v); err != nil {
		return v, err
	}
	if lettersFirst || s.full {
		if err := s.letters(d, &v); err != nil {
			return v, err
		}
	}
	if q.MaxDeliveries() > 0 {
		if _, err := q.MoveDead(d, daemon); err != nil {
			return v, fmt.Errorf("move of dead messages: %w", err)
		}
		if err := s.letters(d, &v); err != nil {
			return v, err
		}
	}
	if err := laps(q, s.slots); err != nil {
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

// laps2 is laps for the dead-letter channel.
func laps2(d *protocol.Queue) error { return laps(d, d.Slots()) }

// settled checks a verdict against what was there before: each message once, but those that the operation may have taken or
// added, which settled ignores.
func (s *state) settled(v verdict, except ...uint64) error {
	want := maps.Clone(s.want)
	if s.held() == 1 {
		want[s.value] = 0
	}
	for m := range want {
		if n := v.got[m] + v.dead[m]; n != 1 && !slices.Contains(except, m) {
			return fmt.Errorf("message %d came %d times", m, n)
		}
	}
	for m := range s.dead {
		if s.given[m] != (v.given[m] == 1) {
			return fmt.Errorf("the reason of dead message %d is lost, or another's", m)
		}
		if v.dead[m] != 1 && !slices.Contains(except, m) {
			return fmt.Errorf("dead message %d is %d times in the dead-letter channel", m, v.dead[m])
		}
	}
	for m := range v.got {
		if _, known := want[m]; !known && !slices.Contains(except, m) {
			return fmt.Errorf("message %d came from nowhere", m)
		}
	}
	for m, n := range v.dead {
		if _, known := want[m]; !known && !s.dead[m] && !slices.Contains(except, m) || n > 1 {
			return fmt.Errorf("dead letter %d came %d times", m, n)
		}
	}
	if s.order != nil {
		rest := slices.DeleteFunc(slices.Clone(v.order), func(m uint64) bool { return slices.Contains(except, m) })
		want := slices.DeleteFunc(slices.Clone(s.order), func(m uint64) bool { return slices.Contains(except, m) })
		if !slices.Equal(rest, want) {
			return fmt.Errorf("order %v, want %v", rest, want)
		}
	}
	return nil
}
