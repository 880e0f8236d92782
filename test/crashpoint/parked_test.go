package crashpoint

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// What the peers of a parked process do meanwhile.
var meanwhile = []struct {
	name string
	do   func(s *state, q *protocol.Queue, v *verdict) error
}{
	{"three laps", func(s *state, q *protocol.Queue, v *verdict) error {
		if err := drain(q, v); err != nil && !isInvariant(err) {
			return err
		}
		for lap := range 4 {
			n, err := sendAll(q, uint64(20000+100*lap))
			if err != nil {
				return err
			}
			// On the first lap a READY slot whose publisher is parked may be in the way: it stops producers once, and is then found.
			if free := s.slots - s.held() - 1; n < free && lap > 0 {
				return fmt.Errorf("stuck: lap %d: %d messages fit beside the parked process, want at least %d", lap, n, free)
			}
			w := newVerdict()
			if err := drain(q, &w); err != nil && !isInvariant(err) {
				return err
			}
			for i := range n {
				delete(w.got, uint64(20000+100*lap+i))
			}
			if len(w.order)-len(w.got) != n {
				return fmt.Errorf("stuck: lap %d: %d of %d messages came", lap, len(w.order)-len(w.got), n)
			}
			for m, k := range w.got { // one that the parked process had half published
				v.got[m] += k
			}
		}
		return nil
	}},
	{"sends", func(s *state, q *protocol.Queue, v *verdict) error {
		_, err := sendAll(q, 20000)
		return err
	}},
	{"receives", func(s *state, q *protocol.Queue, v *verdict) error {
		if err := drain(q, v); err != nil && !isInvariant(err) {
			return err
		}
		return nil
	}},
	{"one goes by", func(s *state, q *protocol.Queue, v *verdict) error {
		if l, err := q.TryLoan(other); err == nil {
			fill(q.LoanBytes(l), 20000)
			check(q.Commit(l, length(20000)))
		}
		if err := drain(q, v); err != nil && !isInvariant(err) {
			return err
		}
		return nil
	}},
	{"end what they hold", nil}, // see parked
}

func isInvariant(err error) bool { return len(err.Error()) > 3 && err.Error()[:3] == "(I)" }

func sendAll(q *protocol.Queue, first uint64) (int, error) {
	for n := 0; ; n++ {
		l, err := q.TryLoan(other)
		if err == protocol.ErrFull {
			return n, nil
		}
		if err != nil || n > 100 {
			return n, fmt.Errorf("send beside the parked process, number %d: %w", n, err)
		}
		fill(q.LoanBytes(l), first+uint64(n))
		if err := q.Commit(l, length(first+uint64(n))); err != nil {
			return n, err
		}
	}
}

// resumed checks what became of the messages after a parked process went on to its end. v: what the peers received meanwhile.
func (s *state) resumed(mem []byte, op, result, m uint64, v verdict, ended bool) error {
	e := *s
	if ended { // the peer has ended its loan or lease meanwhile
		e.loan, e.lease = nil, nil
		e.want = map[uint64]int{s.value: 0}
		for w := range s.want {
			e.want[w] = 0
		}
		e.order = nil
	}
	rest, err := e.judge(mem, 0, false)
	if err != nil {
		return err
	}
	for x, n := range rest.got {
		v.got[x] += n
	}
	for at, x := range rest.at {
		if err := v.place(at, x); err != nil {
			return err
		}
	}
	for x, n := range rest.dead {
		v.dead[x] += n
	}
	for x, n := range rest.given {
		v.given[x] += n
	}
	if op == opReceive && result == resultOK {
		v.got[m]++ // by the parked process
	}
	if op == opReject && result == resultOK && v.given[m] != 1 {
		return fmt.Errorf("message %d, which the parked process gave up, is %d times a dead letter with its reason", m, v.given[m])
	}
	want := map[uint64]bool{}
	for x := range e.want {
		want[x] = true
	}
	if e.held() == 1 {
		want[s.value] = true
	}
	switch {
	case op == opSend && result == resultOK:
		want[sent] = true
	case result == resultTorn, result == resultError, result == resultLost:
		return fmt.Errorf("the parked process got result %d", result)
	}
	for x := range want {
		if v.got[x]+v.dead[x] != 1 {
			return fmt.Errorf("message %d came %d times", x, v.got[x]+v.dead[x])
		}
	}
	for x, n := range v.got {
		if !want[x] && (x < 20000 || n != 1) {
			return fmt.Errorf("message %d came %d times", x, n)
		}
	}
	// In order: as seen by the parked process if it is the only consumer, else by the others.
	if op == opReceive && result == resultOK && s.order != nil && len(v.order) == 0 {
		all := append([]uint64{m}, rest.order...)
		if !slices.IsSorted(all) {
			return fmt.Errorf("out of order: %v", all)
		}
	}
	return nil
}

// TestParked stops the victim at every instruction, as SIGSTOP or a debugger may, lets its peers go on, and then the victim.
func TestParked(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("parked")
	for g, all := range geometries() {
		if g != 0 && !torture() && (g != 6 || quick()) {
			continue
		}
		for _, s := range all {
			if len(s.dead) > 0 {
				continue
			}
			ops := []uint64{opSend, opAbort, opReceive, opNack}
			if s.max > 0 {
				ops = append(ops, opReject)
			}
			for _, op := range ops {
				for _, w := range meanwhile {
					if w.do == nil && s.held() == 0 || !torture() && w.do != nil && (w.name == "receives" || w.name == "one goes by") && s.held() == 1 {
						continue
					}
					copy(mem[queueAt:], s.image)
					x.begin(op, victim, sent)
					x.everyPoint(func(i int) {
						q, v := openQueue(mem), newVerdict()
						var err error
						switch {
						case w.do != nil:
							err = w.do(s, q, &v)
						case s.loan != nil:
							err = q.Commit(*s.loan, length(s.value))
						default:
							err = q.Nack(*s.lease)
						}
						r, _ := x.finish()
						if m := x.taken(op); err == nil {
							err = s.resumed(mem, op, r, m, v, w.do == nil)
						}
						count.point(err, "%s, %s parked at %d, its peers: %s", s, opNames[op], i, w.name)
					})
				}
			}
		}
	}
}

// TestPairs parks A at every instruction, kills B at every instruction (those that leave the same memory count as one), repairs
// B's death, and lets A go on.
func TestPairs(t *testing.T) {
	f, mem := memfd(t)
	a, b := newTracee(t, f, mem), newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("pairs")
	covered := 0
	defer func() { t.Logf("pairs: these stand for %d pairs of instructions", covered) }()
	for g, all := range geometries() {
		if g != 0 && !(torture() && g == 6) {
			continue
		}
		for k, s := range all {
			if len(s.dead) > 0 || !torture() && k != 2 && k != 7 || quick() && k != 2 {
				continue
			}
			ops := []uint64{opSend, opReceive}
			if torture() {
				ops = []uint64{opSend, opReceive, opNack}
			}
			for _, opA := range ops {
				for _, opB := range ops {
					copy(mem[queueAt:], s.image)
					a.begin(opA, second, sent)
					var z frozen
					type killed struct {
						images [][]byte
						points int
					}
					known := map[uint64]killed{} // what B does depends on the memory alone
					a.everyPoint(func(i int) {
						a.freeze(&z)
						h := maphash.Bytes(seed, mem[queueAt:])
						k, ok := known[h]
						if !ok {
							k.images, k.points = b.images(opB)
							known[h] = k
							copy(mem[:controlSize], z.mem)
						}
						covered += k.points
						images := k.images
						for j, image := range images {
							if j > 0 {
								a.thaw(&z)
							}
							copy(mem[queueAt:], image)
							err := s.repair(openQueue(mem), openDead(mem), victim)
							r, _ := a.finish()
							if err == nil {
								err = s.paired(mem, opA, r, a.taken(opA), opB)
							}
							count.point(err, "%s, %s parked at %d, %s killed at image %d", s, opNames[opA], i, opNames[opB], j)
						}
					})
				}
			}
		}
	}
}

// images runs an operation and returns all that the memory looked like, and the number of instructions.
func (x *tracee) images(op uint64) (images [][]byte, points int) {
	seen := map[uint64]bool{}
	x.begin(op, victim, sent+1)
	for more := true; more; more = x.step() {
		points++
		if h := maphash.Bytes(seed, x.mem[queueAt:]); !seen[h] {
			seen[h] = true
			images = append(images, slices.Clone(x.mem[queueAt:]))
		}
	}
	x.finish()
	return images, points
}

// paired checks memory after B died and A went on to its end.
func (s *state) paired(mem []byte, op, result, m, opB uint64) error {
	v, err := s.judge(mem, 0, false)
	if err != nil {
		return err
	}
	if op == opReceive && result == resultOK {
		v.got[m]++
	}
	want := maps.Clone(s.want)
	if op == opSend && result == resultOK {
		want[sent] = 0 // B may have received it, too
	} else if v.got[sent] != 0 {
		return fmt.Errorf("the parked process's message came %d times; its result was %d", v.got[sent], result)
	}
	missing := 0
	for x := range want {
		switch n := v.got[x] + v.dead[x]; {
		case n == 0:
			missing++
		case n > 1:
			return fmt.Errorf("message %d came %d times", x, n)
		}
	}
	if missing > 1 || missing == 1 && opB != opReceive {
		return fmt.Errorf("%d messages are lost", missing)
	}
	if result == resultTorn || result == resultError || result == resultLost {
		return fmt.Errorf("the parked process got result %d", result)
	}
	return nil
}
