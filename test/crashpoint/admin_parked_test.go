package crashpoint

import (
	"fmt"
	"slices"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// What an operator does to a queue, beside those who use it: one of them is stopped at every instruction.

// atRest are the states in which nobody holds anything.
func atRest(slots int) (all []*state) {
	for _, start := range starts(slots) {
		for _, s := range states(slots, start, 100) {
			if s.held() == 0 && len(s.dead) == 0 {
				all = append(all, s)
			}
		}
	}
	return all
}

// took notes what n messages there are now.
func took(q *protocol.Queue, v *verdict) (n int, err error) {
	before := len(v.order)
	err = drain(q, v)
	if err != nil && isInvariant(err) {
		err = nil
	}
	return len(v.order) - before, err
}

// TestDrainParked stops a producer at every instruction, begins a drain, and takes what is there: once the queue says that it is at rest nothing comes any more,
// whatever the producer does then, and if it does not say so it does when the producer has ended.
func TestDrainParked(t *testing.T) {
	t.Parallel() // it has memory, a tracee and a processor of its own
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("drain beside a parked producer")
	refused, waited := 0, 0
	for _, s := range atRest(4) {
		copy(mem[queueAt:], s.image)
		x.begin(opAdmit, victim, sent)
		x.everyPoint(func(i int) {
			count.point(func() error {
				q, v := openQueue(mem), newVerdict()
				check(q.Drain(true))
				if _, err := took(q, &v); err != nil {
					return err
				}
				st := q.Stat() // Rest
				rested := st.Rest() == 0
				r, _ := x.finish()
				n, err := took(q, &v)
				if err != nil {
					return err
				}
				st = q.Stat()
				switch {
				case rested && n > 0:
					return fmt.Errorf("it was at rest, and then a message came")
				case st.Rest() != 0:
					return fmt.Errorf("it does not come to rest: %+v", st)
				case r != resultOK && r != resultDraining && r != resultFull, (r == resultOK) != (v.got[sent] == 1):
					return fmt.Errorf("result %d, and the message came %d times", r, v.got[sent])
				}
				if r == resultDraining {
					refused++
				}
				if !rested {
					waited++
				}
				check(q.Drain(false))
				e := *s
				e.want, e.order = map[uint64]int{}, nil
				_, err = e.judge(mem, 0, false)
				return err
			}(), "%s, a producer parked at %d", s, i)
		})
	}
	if refused == 0 || waited == 0 {
		t.Errorf("%d producers were refused and %d waited for: the test does not see what it is for", refused, waited)
	}
}

// TestDrainerParked stops who drains at every instruction and has a producer send meanwhile, or claim a slot and commit it only later: if the drain said that the
// queue is at rest, it is.
func TestDrainerParked(t *testing.T) {
	t.Parallel() // it has memory, a tracee and a processor of its own
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("drain parked beside a producer")
	for n, s := range atRest(4) {
		if n%2 == 1 && !torture() {
			continue
		}
		for _, late := range []bool{false, true} {
			copy(mem[queueAt:], s.image)
			x.begin(opDrain, victim, 0)
			x.everyPoint(func(i int) {
				count.point(func() error {
					q, v := openQueue(mem), newVerdict()
					l, err := q.TryLoan(other)
					admitted := err == nil && q.Admit(l) == nil
					commit := func() {
						if admitted {
							fill(q.LoanBytes(l), 20000)
							check(q.Commit(l, length(20000)))
						}
					}
					if !late {
						commit()
					}
					_, rest := x.finish()
					if late {
						commit()
					}
					n, err := took(q, &v)
					if err == nil && rest == 0 && n > 0 {
						err = fmt.Errorf("a drain said that it is at rest, and then %d messages came", n)
					}
					if st := q.Stat(); err == nil && st.Rest() != 0 {
						err = fmt.Errorf("it does not come to rest: %+v", st)
					}
					return err
				}(), "%s, a drain parked at %d, late %v", s, i, late)
			})
		}
	}
}

// TestPurgeParked stops who purges at every instruction, lets its peers send and receive, and lets it go on: each message comes once or is dropped, and as many are
// dropped as it says.
func TestPurgeParked(t *testing.T) {
	t.Parallel() // it has memory, a tracee and a processor of its own
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("purge, parked")
	for g, all := range geometries() {
		for _, s := range all {
			if len(s.dead) > 0 || !torture() && g != 0 && (g != 6 || quick()) {
				continue
			}
			for _, receives := range []bool{false, true} {
				copy(mem[queueAt:], s.image)
				x.begin(opPurge, victim, 0)
				x.everyPoint(func(i int) {
					count.point(func() error {
						q, v := openQueue(mem), newVerdict()
						if receives {
							if _, err := took(q, &v); err != nil {
								return err
							}
						}
						sent, err := sendAll(q, 20000)
						if err != nil {
							return err
						}
						if free := s.slots - s.held() - 1; receives && sent < free-1 { // a READY slot whose lease is parked may be in the way once
							return fmt.Errorf("stuck: %d messages fit beside it, want %d", sent, free)
						}
						r, n := x.finish()
						if _, err := took(q, &v); err != nil {
							return err
						}
						came := 0
						for m, k := range v.got {
							if _, known := s.want[m]; k > 1 || !known && (m < 20000 || m >= 20000+uint64(sent)) {
								return fmt.Errorf("message %d came %d times", m, k)
							}
							came++
						}
						if r != resultOK || came+int(n) != len(s.want)+sent {
							return fmt.Errorf("result %d: %d messages came and %d were dropped, of %d", r, came, n, len(s.want)+sent)
						}
						e := *s
						e.want, e.order = map[uint64]int{}, nil
						_, err = e.judge(mem, 0, false)
						return err
					}(), "%s, purge parked at %d, its peers receive: %v", s, i, receives)
				})
			}
		}
	}
}

// TestPurgeEnds fills the queue up again after each instruction of who purges: it drops what was there when it began, and ends.
func TestPurgeEnds(t *testing.T) {
	t.Parallel() // it has memory, a tracee and a processor of its own
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("purge beside a producer that is always ahead")
	for n, s := range slices.Concat(geometries()...) {
		if len(s.dead) > 0 || n%3 != 0 && !torture() {
			continue
		}
		copy(mem[queueAt:], s.image)
		x.begin(opPurge, victim, 0)
		q, sent, i := openQueue(mem), 0, 0
		for ; i < 100_000 && x.step(); i++ {
			n, err := sendAll(q, uint64(20000+sent))
			sent += n
			count.point(err, "%s, after instruction %d of the purge", s, i)
		}
		if i == 100_000 {
			t.Fatalf("%s: after %d instructions, in which it dropped messages of %d that were sent, the purge has not ended", s, i, sent)
		}
		r, n := x.finish()
		v := newVerdict()
		_, err := took(q, &v)
		if err == nil && (r != resultOK || int(n) > s.slots || len(v.order)+int(n) != len(s.want)+sent) {
			err = fmt.Errorf("result %d: %d messages came and %d were dropped, of %d", r, len(v.order), n, len(s.want)+sent)
		}
		count.point(err, "%s, after the purge", s)
	}
}

// TestTrimParked stops who trims at every instruction, lets its peers go laps, and lets it go on: no message loses a byte to the hole, and nobody waits for more than the
// slot at hand.
func TestTrimParked(t *testing.T) {
	t.Parallel() // it has memory, a tracee and a processor of its own
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, image := newTally(t), make([]byte, trimRoom)
	defer count.report("trim, parked")
	for _, start := range starts(2)[:2] {
		for _, k := range []struct{ messages, held int }{{0, 0}, {1, 0}, {2, 0}, {2, 1}, {1, 1}} {
			s := trimScene(start, k.messages, k.held)
			for _, peers := range []string{"send", "go laps", "send and receive one by one"} {
				copy(trimmed(mem), s.image)
				x.begin(opTrim, victim, 0)
				x.everyPoint(func(i int) {
					copy(image, trimmed(mem))
					defer copy(trimmed(mem), image)
					count.point(s.beside(mem, peers, func() uint64 { r, _ := x.finish(); return r }), "trim of two slots from %#x with %d messages, %d leased, parked at %d, its peers %s",
						start, k.messages, k.held, i, peers)
				})
			}
		}
	}
}

// beside has peers do something beside who trims, whose operation finish ends, and looks at what there is then. It spoils mem.
func (s *trimState) beside(mem []byte, peers string, finish func() uint64) error {
	q := openTrimmed(mem)
	got, sent := map[uint64]int{}, uint64(0)
	receive := func() error {
		for {
			v, err := receiveLarge(q)
			if err == protocol.ErrEmpty {
				return nil
			}
			if err != nil {
				return err
			}
			got[v]++
		}
	}
	for lap := range 6 {
		if peers != "send" {
			if err := receive(); err != nil {
				return err
			}
		} else if lap > 0 {
			break
		}
		for n := 0; sendLarge(q, 200+sent) == nil; n++ {
			if sent++; n > 2 {
				return fmt.Errorf("lap %d: more messages than slots fit", lap)
			}
			if peers == "send and receive one by one" {
				break
			}
		}
	}
	if r := finish(); r != resultOK {
		return fmt.Errorf("result %d", r)
	}
	if err := receive(); err != nil {
		return err
	}
	for v := range sent {
		if got[200+v] != 1 {
			return fmt.Errorf("message %d, sent beside it, came %d times", 200+v, got[200+v])
		}
		delete(got, 200+v)
	}
	e := *s
	e.want = slices.DeleteFunc(slices.Clone(s.want), func(v uint64) bool { return got[v] == 1 })
	return e.judge(mem, 0)
}
