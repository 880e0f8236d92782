package crashpoint

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// sets are the scenes of lanes, and those of queues with frames.
func sets(lane bool) (out [][]*scene) {
	for _, slots := range []int{4, 2} {
		n := uint64(slots)
		for i, start := range []uint64{1<<32*n - n - 1, 0} {
			if i == 1 && (slots == 2 || !torture()) || quick() && slots == 2 {
				continue
			}
			var all []*scene
			for _, sends := range []bool{true, false} {
				for _, s := range scenes(lane, slots, start, sends) {
					if slots == 4 || s.core || torture() {
						all = append(all, s)
					}
					if lane && len(s.dead) == 0 && (slots == 2 && s.core || torture()) {
						all = append(all, s.freed())
					}
				}
			}
			out = append(out, all)
		}
	}
	return out
}

// point judges what a kill leaves, in both ways.
func (s *scene) point(mem, scratch []byte) (v [2]verdict, err error) {
	for i := range v {
		copy(scratch, mem)
		if v[i], err = s.judge(scratch, i == 1); err != nil {
			return v, err
		}
		if err = s.expect(v[i], items(mem)); err != nil {
			return v, err
		}
	}
	return v, nil
}

func testKill(t *testing.T, lane bool, what string) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report(what)
	images := 0
	for _, all := range sets(lane) {
		for _, s := range all {
			for _, op := range s.operations() {
				if op >= seqEndLoan && !s.core && !torture() {
					continue
				}
				copy(mem[queueAt:], s.image)
				x.begin(op, victim, sent)
				var last uint64
				var before [2]verdict
				var touched []item
				for i, more := 0, true; more; i++ {
					if i > 0 {
						more = x.step()
					}
					// The same memory gets the same verdict; what is noted of the messages is not part of it.
					h, now := maphash.Bytes(seed, mem[queueAt:]), items(mem)
					if i == 0 || h != last || !slices.Equal(touched, now) {
						v, err := s.point(mem, scratch)
						images++
						for _, t := range touched { // once acked, or once committed, for ever
							for k := range v {
								was, is := before[k].got[t.value]+before[k].dead[t.value], v[k].got[t.value]+v[k].dead[t.value]
								if err == nil && (t.kind == 'c' && is < was || t.kind == 'a' && is > was || v[k].given[t.value] < before[k].given[t.value]) {
									err = fmt.Errorf("message %d (%c) came %d times, at the point before %d times", t.value, t.kind, is, was)
								}
							}
						}
						count.point(err, "%s, %s killed at %d", s, opNames[op], i)
						last, touched, before = h, now, v
					} else {
						count.point(nil, "")
					}
				}
				if r, _ := x.finish(); r == resultTorn || r == resultError || r == resultLost {
					count.point(fmt.Errorf("result %d", r), "%s, %s", s, opNames[op])
				}
				if count.points%5 == 0 && !quick() { // one in five operations is really killed, somewhere
					copy(mem[queueAt:], s.image)
					x.begin(op, victim, sent)
					x.steps(count.points % 199)
					x.kill()
					count.killed++
					_, err := s.point(mem, scratch)
					count.point(err, "%s, %s killed with SIGKILL at %d", s, opNames[op], count.points%199)
					x.start()
				}
			}
		}
	}
	t.Logf("%s: %d distinct images of memory", what, images)
}

// TestLaneKill kills an end of a lane at every instruction of every operation.
func TestLaneKill(t *testing.T) {
	t.Parallel()
	testKill(t, true, "lane, kill")
}

// TestFrameKill does it with slots of a queue that are frames.
func TestFrameKill(t *testing.T) {
	t.Parallel()
	testKill(t, false, "frames, kill")
}

// TestLaneRepairKilled kills the repair, at every instruction, and repairs again.
func TestLaneRepairKilled(t *testing.T) {
	t.Parallel() // it has memory, a tracee and a processor of its own
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("lane and frames, repair killed")
	seen, n := map[uint64]bool{}, 0
	for _, lane := range []bool{true, false} {
		all := sets(lane)
		for _, s := range all[len(all)-1] {
			for _, op := range s.operations() {
				copy(mem[queueAt:], s.image)
				x.begin(op, victim, sent)
				type doomed struct {
					image   []byte
					touched []item
				}
				var deaths []doomed
				for more := true; more; more = x.step() {
					h := maphash.Bytes(seed, mem[queueAt:])
					if dead := func(o uint16) bool { return o == victim }; seen[h] || !openQueue(mem).Holds(dead) && !openDead(mem).Holds(dead) {
						continue
					}
					seen[h] = true
					if n++; torture() || n%23 == 0 {
						deaths = append(deaths, doomed{slices.Clone(mem[queueAt:]), items(mem)})
					}
				}
				x.finish()
				for k, d := range deaths {
					copy(mem[queueAt:], d.image)
					x.begin(opRepair, second, 0)
					var want [2]verdict
					var last uint64
					for j, more := 0, true; more; j++ {
						if j > 0 {
							more = x.step()
						}
						h := maphash.Bytes(seed, mem[queueAt:])
						if j > 0 && h == last {
							count.point(nil, "")
							continue
						}
						last = h
						var v [2]verdict
						var err error
						for i := range v {
							copy(scratch, mem)
							if v[i], err = s.judge(scratch, i == 1); err == nil {
								err = s.expect(v[i], d.touched)
							}
							if err == nil && j > 0 && !(maps.Equal(v[i].got, want[i].got) && maps.Equal(v[i].dead, want[i].dead) && maps.Equal(v[i].deliveries, want[i].deliveries)) {
								err = fmt.Errorf("messages differ from those of a repair that lived: %v and %v", v[i], want[i])
							}
							if err != nil {
								break
							}
						}
						if j == 0 {
							want = v
						}
						count.point(err, "%s, %s, death %d, repair killed at %d", s, opNames[op], k, j)
					}
					x.finish()
				}
			}
		}
	}
}

// TestLaneParked stops one end at every instruction, as SIGSTOP or a debugger may, lets the other go on, or die and have a
// successor, and then the first.
func TestLaneParked(t *testing.T) {
	t.Parallel() // it has memory, a tracee and a processor of its own
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("lane, parked")
	for g, all := range sets(true) {
		if g != 0 && !torture() {
			continue
		}
		for n, s := range all {
			if len(s.dead) > 0 || !s.core && !torture() {
				continue
			}
			for _, op := range s.operations() {
				if !torture() && (op == seqAbort || op == seqReturn || op == seqCrossNack || op == seqFrameNack) {
					continue
				}
				for k, dies := range []bool{false, true} {
					if !torture() && !quick() && (n+int(op))%2 == k {
						continue // the other half of them
					}
					copy(mem[queueAt:], s.image)
					x.begin(op, victim, sent)
					x.everyPoint(func(i int) {
						v, sent, err := s.meanwhile(mem, items(mem), dies)
						r, _ := x.finish()
						if err == nil {
							err = s.afterwards(mem, v, sent, r)
						}
						count.point(err, "%s, %s parked at %d, the other end goes on, dies: %v", s, opNames[op], i, dies)
					})
				}
			}
		}
	}
}

// meanwhile is what the other end does while the victim is parked. It returns what it received, and how many messages from 20000 on it sent.
func (s *scene) meanwhile(mem []byte, touched []item, dies bool) (verdict, int, error) {
	v, id, n := newVerdict(), uint16(other), 0
	e := openEnds(mem)
	if s.sends { // a consumer: everything that is committed comes to it
		if dies { // it gives one back, takes it again and acks it, leases another, and dies
			for k := range 3 {
				l, err := e.receive(id)
				if err == protocol.ErrEmpty {
					break
				}
				if err != nil {
					return v, 0, err
				}
				if f := must(e.q.Frame(l)); k == 1 {
					for i := f.FirstOpen(0); i < f.Len(); i = f.FirstOpen(i + 1) {
						m, _ := message(f.At(i))
						v.got[m]++
					}
					err = e.ack(l)
				} else if k == 0 {
					err = e.nack(l)
				}
				if err != nil {
					return v, 0, err
				}
			}
			e.q.Repair(func(o uint16) bool { return o == other })
			e, id = openEnds(mem), 20
		}
		if err := drainAll(e, id, &v); err != nil {
			return v, 0, err
		}
		for m := range s.want {
			if n := v.got[m]; n != 1 && (s.want[m] >= 0 || n > 1) {
				return v, 0, fmt.Errorf("beside the parked producer, message %d came %d times", m, n)
			}
		}
		for _, t := range touched {
			if t.kind == 'c' && t.stage == ended && v.got[t.value] != 1 {
				return v, 0, fmt.Errorf("beside the parked producer, message %d, which was sent, came %d times", t.value, v.got[t.value])
			}
		}
		return v, 0, nil
	}
	if dies { // it dies with two loans, of which it committed the younger
		a, err := e.loan(id)
		if b, err2 := e.loan(id); err == nil && err2 == nil {
			fill(e.q.LoanBytes(b), 20000)
			if err := e.commit(b, length(20000)); err != nil {
				return v, 0, err
			}
			n++
		}
		_ = a
		e.q.Repair(func(o uint16) bool { return o == other })
		e, id = openEnds(mem), 20
	}
	for {
		l, err := e.loan(id)
		if err == protocol.ErrFull {
			break
		}
		if err != nil || n > 10 {
			return v, n, fmt.Errorf("beside the parked consumer: send number %d: %w", n, err)
		}
		fill(e.q.LoanBytes(l), uint64(20000+n))
		if err := e.commit(l, length(uint64(20000+n))); err != nil {
			return v, n, err
		}
		n++
	}
	// Full is right only when all slots are taken, but for those whose room the consumer has yet to give: at most as many as it touches now,
	// or has to pass over.
	live := len(s.want)
	if free := s.slots - live - 2; n < free && !dies {
		return v, n, fmt.Errorf("beside the parked consumer, %d messages fit into %d slots with %d messages", n, s.slots, live)
	}
	return v, n, nil
}

// afterwards checks what became of all messages after the parked process went on to its end, and both ends ended.
func (s *scene) afterwards(mem []byte, v verdict, n int, result uint64) error {
	if result == resultTorn || result == resultError || result == resultLost {
		return fmt.Errorf("the parked process got result %d", result)
	}
	touched := items(mem)
	rest, err := s.judge(mem, true)
	if err != nil {
		return err
	}
	for m, k := range v.got {
		rest.got[m] += k
	}
	for i := range n {
		m, kind := uint64(20000+i), byte(0) // what the victim did with it, if it received it
		if by := slices.IndexFunc(touched, func(t item) bool { return t.value == m }); by >= 0 {
			kind = byte(touched[by].kind)
		}
		if n := rest.got[m] + rest.given[m]; n != 1 && kind != 'a' || rest.given[m] != 0 && kind != 'x' {
			return fmt.Errorf("message %d, sent beside the parked process, came %d times and was given up %d times", m, rest.got[m], rest.given[m])
		}
		delete(rest.got, m)
		delete(rest.given, m)
		delete(rest.dead, m) // as which it is given up
	}
	touched = slices.DeleteFunc(touched, func(t item) bool { return t.value >= 20000 })
	e := *s
	e.loose = true
	e.want = maps.Clone(s.want)
	for m := range e.want {
		e.want[m] = -1
	}
	return e.expect(rest, touched)
}

// TestLaneWake is TestWake for a lane: the victim has one end, the sleeper has the other.
func TestLaneWake(t *testing.T) {
	f, mem := memfd(t)
	z := newDozer(t, f)
	x := newTracee(t, f, mem)
	holds := func(o uint16) bool { return o == victim }
	for _, c := range []struct {
		op      uint64
		prepare func(b *sceneBuilder)
		verb    string
	}{
		{seqSend, func(b *sceneBuilder) {}, "receive"},
		{seqCross, func(b *sceneBuilder) {}, "receive"},
		{seqAck, func(b *sceneBuilder) { b.send(4) }, "send 88"},
		{seqCrossAck, func(b *sceneBuilder) { b.send(4) }, "send 88"},
		{seqEndSend, func(b *sceneBuilder) {}, "receive"},
		{seqEndTo, func(b *sceneBuilder) { b.send(4) }, "send 88"},
	} {
		if (c.op == seqCross || c.op == seqCrossAck) && !torture() {
			continue
		}
		count := newTally(t)
		lost := 0
		sid, rid := uint16(victim), uint16(sleeper)
		if c.verb != "receive" {
			sid, rid = sleeper, victim
		}
		s := newScene("", true, 4, 0, 0, sid, rid, c.prepare)
		for i, more := 0, true; more; i += 3 * stride() {
			copy(mem[queueAt:], s.image)
			x.begin(c.op, victim, sent)
			if err := z.sleep(c.verb); err != nil {
				t.Fatalf("%s: %v", opNames[c.op], err)
			}
			if more = x.steps(i); more { // it dies here
				if i%16 == 8 {
					x.kill()
					count.killed++
				}
				q := openQueue(mem)
				useful := func() bool {
					if st := q.Stat(); c.verb == "receive" {
						return st.Ready > 0
					} else {
						return st.Free > 0
					}
				}
				if useful() && !z.leaves() {
					lost++
				}
				q.Repair(holds)
				// Its successor does what the sleeper waits for, if that is still asleep.
				if e := openEnds(mem); c.verb == "receive" {
					if l, err := e.loan(20); err == nil {
						fill(q.LoanBytes(l), 99)
						check(e.commit(l, length(99)))
					}
				} else if !useful() {
					check(e.ack(must(e.receive(20))))
				}
			}
			_, err := z.says("done ")
			count.point(err, "%s killed at %d beside a process that sleeps to %s", opNames[c.op], i, c.verb)
			if err != nil {
				t.FailNow()
			}
			if x.pid == 0 {
				x.start()
			} else {
				x.finish()
			}
		}
		t.Logf("beside %s of a lane: at %d points the wake-up is lost with the victim, and all are rescued by the repair", opNames[c.op], lost)
		if lost == 0 {
			t.Errorf("beside %s: no wake-up is lost anywhere: the test does not see what it is for", opNames[c.op])
		}
		count.report("lane, wake, " + opNames[c.op])
	}
}
