package crashpoint

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"testing"
)

// TestLatestKill kills the victim at every instruction of every operation on a latest value, in every state.
func TestLatestKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("latest, kill")
	for _, start := range latestStarts(2) {
		for _, s := range latestStates(start) {
			for op := uint64(opPut); op < opMend; op++ {
				x.beginLatest(s, op, victim, sent)
				var where []int
				var last uint64
				seen := false // the victim's value
				judge := func(image []byte) error {
					copy(scratch, image)
					value, version, err := s.judge(scratch, victim)
					if err == nil {
						err = s.expected(op, value, version)
					}
					if err == nil && seen && value != sent {
						err = errors.New("what was published is gone")
					}
					seen = seen || value == sent
					return err
				}
				for i, more := 0, true; more; i++ {
					if h := maphash.Bytes(seed, mem[latestAt:latestAt+latestRoom]); i == 0 || h != last {
						last = h
						err := s.unclaimed(mem)
						if err == nil {
							err = judge(mem)
						}
						count.point(err, "%s, %s killed at %d", s, opNames[op], i)
					} else {
						count.point(nil, "")
					}
					if count.points%everyKill() == 0 && !quick() {
						where = append(where, i)
					}
					more = x.step()
				}
				r, _ := x.finish()
				err := judge(mem)
				switch {
				case err != nil:
				case (op == opPut || op == opSet) && (r != resultOK || !seen || get(mem, wordVersion) != following(s.version, 1)),
					(op == opGet || op == opView) && s.value != 0 && (r != resultOK || get(mem, wordValue) != s.value || get(mem, wordVersion) != s.version),
					(op == opGet || op == opView) && s.version == 0 && r != resultEmpty,
					op == opDraft && r != resultOK:
					err = fmt.Errorf("result %d, value %d, version %#x", r, get(mem, wordValue), get(mem, wordVersion))
				}
				count.point(err, "%s, after %s", s, opNames[op])
				for _, i := range where {
					x.beginLatest(s, op, victim, sent)
					x.steps(i)
					x.kill()
					count.killed++
					value, version, err := s.judge(mem, victim)
					if err == nil {
						err = s.expected(op, value, version)
					}
					count.point(err, "%s, %s killed with SIGKILL at %d", s, opNames[op], i)
					count.points--
					x.start()
				}
			}
		}
	}
}

// TestLatestLateKill kills a writer at every instruction after others published since it claimed its slot.
func TestLatestLateKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("latest, killed late")
	for _, start := range latestStarts(2) {
		for _, s := range latestStates(start) {
			if len(s.drafts) > 1 {
				continue
			}
			for _, puts := range []int{1, latestSlots} {
				x.beginLatest(s, opPut, victim, sent)
				for l := openLatest(mem); !l.Holds(func(o uint16) bool { return o == victim }); {
					x.step()
				}
				e := *s
				for range puts {
					e.puts(openLatest(mem), 1)
				}
				e.image = bytes.Clone(mem[latestAt : latestAt+latestRoom])
				e.stuck = false
				var last uint64
				for i, more := 0, true; more; i++ {
					if h := maphash.Bytes(seed, mem[latestAt:latestAt+latestRoom]); i == 0 || h != last {
						last = h
						copy(scratch, mem)
						err := e.unclaimed(mem)
						if value, version, e2 := holding(openLatest(mem)); err == nil && e2 != nil {
							err = fmt.Errorf("before the repair: value %d, version %#x, %w", value, version, e2)
						}
						if err == nil {
							var value, version uint64
							if value, version, err = s.late(scratch, &e); err == nil {
								err = e.expected(opPut, value, version)
							}
						}
						count.point(err, "%s, put killed %d instructions after the claim and %d puts of others", s, i, puts)
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

// late is judge for what became of s after others put values: e. A slot in which a peer stopped at the newest value of s is one less now.
func (s *vstate) late(mem []byte, e *vstate) (value, version uint64, err error) {
	if !s.stuck {
		return e.judge(mem, victim)
	}
	b := *e
	b.stuck, b.version = true, s.version
	return b.judge(mem, victim)
}

// TestLatestRepairKilled kills the repair that follows a death at every instruction, and repairs again.
func TestLatestRepairKilled(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("latest, repair killed")
	for _, start := range latestStarts(1) {
		for _, s := range latestStates(start) {
			for _, op := range []uint64{opPut, opDraft} {
				copy(mem[latestAt:], s.image)
				for k, image := range x.latestImages(op, s.version, victim, sent) {
					copy(scratch[latestAt:], image)
					want, wantVersion, err := s.judge(scratch, victim)
					if err != nil {
						count.point(err, "%s, %s, image %d", s, opNames[op], k)
						continue
					}
					copy(mem[latestAt:], image)
					x.begin(opMend, second, 0)
					var last uint64
					for j, more := 0, true; more; j++ {
						if h := maphash.Bytes(seed, mem[latestAt:latestAt+latestRoom]); j == 0 || h != last {
							last = h
							copy(scratch, mem)
							value, version, err := s.judge(scratch, victim)
							if err == nil && (value != want || version != wantVersion) {
								err = fmt.Errorf("the newest value is %d, version %#x; after a repair that lived it is %d, version %#x", value, version, want, wantVersion)
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
