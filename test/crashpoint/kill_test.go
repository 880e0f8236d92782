package crashpoint

import (
	"fmt"
	"hash/maphash"
	"os"
	"testing"
)

const sent = 77 // the value that the victim sends

var seed = maphash.MakeSeed()

// everyKill is how many points there are to one that is reached again and ended with SIGKILL.
func everyKill() int {
	if torture() {
		return 7
	}
	return 499
}

// applicable are the operations that make sense in a state.
func (s *state) applicable() []uint64 {
	switch {
	case s.full:
		return []uint64{opMove, opSend, opNack}
	case len(s.dead) > 0 && len(s.want) == 0:
		return []uint64{opMove}
	case len(s.dead) > 0:
		return []uint64{opMove, opReject}
	case s.max > 0:
		return []uint64{opSend, opAbort, opReceive, opNack, opReject}
	}
	return []uint64{opSend, opAbort, opReceive, opNack}
}

func (s *state) owner(op uint64) uint16 {
	return victim // MoveDead, too: a daemon that died has another id than the one that judges
}

// both judges a copy of memory twice: with the dead-letter channel emptied late and early.
func (s *state) both(mem, scratch []byte, id uint16) (verdict, error) {
	copy(scratch, mem)
	v, err := s.judge(scratch, id, false)
	if err != nil || s.max == 0 {
		return v, err
	}
	copy(scratch, mem)
	w, err := s.judge(scratch, id, true)
	if err == nil && !v.equal(w) {
		err = fmt.Errorf("messages depend on when the dead-letter channel is emptied: %v and %v", v, w)
	}
	return v, err
}

// taken is the message that an operation received in the end, or 0.
func (x *tracee) taken(op uint64) uint64 {
	if op == opReceive || op == opNack || op == opReject {
		if v := get(x.mem, wordValue); v != sent {
			return v
		}
	}
	return 0
}

// points checks the verdicts of all points of one operation together: what was committed is not lost at any later point, what was not is
// not seen at any earlier one, and a message comes again only if its lease was open.
func (s *state) points(op uint64, verdicts []verdict, result, m uint64) error {
	seenBefore := 0
	for i, v := range verdicts {
		if err := s.settled(v, sent, m); err != nil {
			return fmt.Errorf("point %d: %w", i, err)
		}
		n := v.got[sent]
		if op != opSend && n != 0 || n < seenBefore || n > 1 {
			return fmt.Errorf("point %d: the victim's message came %d times, after %d at the point before", i, n, seenBefore)
		}
		seenBefore = n
		if m == 0 {
			continue
		}
		n = v.got[m] + v.dead[m]
		if n > 1 || (op == opNack || op == opReject) && n != 1 {
			return fmt.Errorf("point %d: the victim's lease came %d times", i, n)
		}
		if v.given[m] > 0 != (op == opReject && v.dead[m] > 0 && v.deliveries[m] == 0 && v.given[m] == 1) || i > 0 && v.given[m] < verdicts[i-1].given[m] {
			return fmt.Errorf("point %d: message %d was given up %d times, %d at the point before", i, m, v.given[m], verdicts[max(0, i-1)].given[m])
		}
		if i > 0 && n > verdicts[i-1].got[m]+verdicts[i-1].dead[m] {
			return fmt.Errorf("point %d: message %d came again after its ack", i, m)
		}
		if d := v.deliveries[m] - s.want[m]; v.got[m] == 1 && (d < 0 || d > 1) {
			return fmt.Errorf("point %d: deliveries of message %d grew by %d", i, m, d)
		}
	}
	last := verdicts[len(verdicts)-1]
	switch {
	case op == opSend && result == resultOK && last.got[sent] != 1, op == opSend && result == resultFull && last.got[sent] != 0,
		op == opReceive && result == resultOK && last.got[m]+last.dead[m] != 0,
		op == opReject && (result != resultOK || last.given[m] != 1),
		op == opReceive && result == resultEmpty && len(s.want) > 0, result == resultTorn, result == resultError:
		return fmt.Errorf("after the operation, with result %d: %v", result, last)
	}
	return nil
}

func geometries() (out [][]*state) {
	for _, slots := range []int{4, 2} {
		for i, start := range starts(slots) {
			if slots == 2 && i == 1 {
				continue
			}
			out = append(out, states(slots, start, 100))
		}
	}
	return out
}

// quick reports whether this process hunts a mutant: the first failure is enough, in fewer states.
func quick() bool { return os.Getenv(mutantEnv) != "" }

// TestKill kills the victim at every instruction of every operation, in every state.
func TestKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("kill")
	images := 0
	for g, all := range geometries() {
		if quick() && g != 0 && g != 6 {
			continue
		}
		for _, s := range all {
			for _, op := range s.applicable() {
				copy(mem[queueAt:], s.image)
				x.begin(op, s.owner(op), sent)
				var verdicts []verdict
				var last uint64
				var where []int // points to be reached again
				for i, more := 0, true; more; i++ {
					if h := maphash.Bytes(seed, mem[queueAt:]); i == 0 || h != last { // the same memory, the same verdict
						v, err := s.both(mem, scratch, victim)
						last = h
						images++
						if err != nil {
							count.point(err, "%s, %s killed at %d", s, opNames[op], i)
							count.points--
						}
						verdicts = append(verdicts, v)
					} else {
						verdicts = append(verdicts, verdicts[i-1])
					}
					count.point(nil, "")
					if count.points%everyKill() == 0 && !quick() {
						where = append(where, i)
					}
					more = x.step()
				}
				r, _ := x.finish()
				m := x.taken(op)
				v, err := s.both(mem, scratch, victim)
				count.point(err, "%s, after %s", s, opNames[op])
				verdicts = append(verdicts, v)
				if err := s.points(op, verdicts, r, m); err != nil {
					count.point(err, "%s, %s", s, opNames[op])
					count.points--
				}
				for _, i := range where {
					copy(mem[queueAt:], s.image)
					x.begin(op, s.owner(op), sent)
					x.steps(i)
					x.kill()
					count.killed++
					v, err := s.judge(mem, victim, false)
					if err == nil && !v.equal(verdicts[i]) {
						err = fmt.Errorf("messages differ from those of the copy: %v and %v", v, verdicts[i])
					}
					count.point(err, "%s, %s killed with SIGKILL at %d", s, opNames[op], i)
					count.points--
					x.start()
				}
			}
		}
	}
	t.Logf("kill: %d distinct images of memory", images)
}

// TestRepairKilled kills the repair that follows a death at every instruction, and repairs again.
func TestRepairKilled(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("repair killed")
	seen := map[uint64]bool{}
	for g, all := range geometries() {
		if g != 6 && (g != 0 || quick()) && !torture() {
			continue
		}
		for _, s := range all {
			for _, op := range s.applicable() {
				copy(mem[queueAt:], s.image)
				x.begin(op, s.owner(op), sent)
				var dying [][]byte
				for more := true; more; more = x.step() {
					if h := maphash.Bytes(seed, mem[queueAt:]); !seen[h] && openQueue(mem).Holds(func(o uint16) bool { return o == victim }) || openDead(mem).Holds(func(o uint16) bool { return o == victim }) && !seen[h] {
						seen[h] = true
						dying = append(dying, append([]byte(nil), mem[queueAt:]...))
					}
				}
				x.finish()
				for k, image := range dying {
					copy(mem[queueAt:], image)
					want, err := s.both(mem, scratch, victim)
					if err != nil {
						count.point(err, "%s, %s, image %d", s, opNames[op], k)
						continue
					}
					x.begin(opRepair, second, 0)
					var last uint64
					for j, more := 0, true; more; j++ {
						if h := maphash.Bytes(seed, mem[queueAt:]); j == 0 || h != last {
							last = h
							v, err := s.both(mem, scratch, victim)
							if err == nil && !v.equal(want) {
								err = fmt.Errorf("messages differ from those of a repair that lived: %v and %v", v, want)
							}
							count.point(err, "%s, %s, image %d, repair killed at %d", s, opNames[op], k, j)
						} else {
							count.point(nil, "")
						}
						more = x.step()
					}
					x.finish()
				}
			}
		}
	}
}
