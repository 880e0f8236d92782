package crashpoint

import (
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// sample decides what is looked at: what a generator with a fixed seed picks.
type sample struct{ *rand.Rand }

func newSample() sample { return sample{rand.New(rand.NewPCG(20, 26))} }

// skips reports true but for one of short; with SHMD_TORTURE=1, of whole.
func (s sample) skips(short, whole int) bool {
	if torture() {
		short = whole
	}
	return short > 1 && s.IntN(short) != 0
}

// somePoints is everyPoint for one instruction of short; with SHMD_TORTURE=1, of whole.
func (x *tracee) somePoints(pick sample, short, whole int, visit func(i int)) {
	var z frozen
	for i := 0; ; i++ {
		if !pick.skips(short, whole) {
			x.freeze(&z)
			visit(i)
			if get(x.mem, wordDone) != 0 {
				x.thaw(&z)
			} else {
				copy(x.mem, z.mem)
			}
		}
		if !x.step() {
			x.finish()
			return
		}
	}
}

// death is what a process that was killed left: what is shared, and how far it may have been then, with which messages.
type death struct {
	image   []byte
	touched [][]item
	points  int // instructions before which it looks so
}

// deaths runs an operation of the victim on what lies in memory and returns all that it may leave behind.
func (x *tracee) deaths(op, value uint64) (all []death) {
	known := map[uint64]int{}
	x.begin(op, victim, value)
	for more := true; more; more = x.step() {
		h := maphash.Bytes(seed, x.mem[queueAt:])
		n, ok := known[h]
		if !ok {
			n = len(all)
			known[h] = n
			all = append(all, death{image: slices.Clone(x.mem[queueAt:])})
		}
		all[n].points++
		if now := items(x.mem); !slices.ContainsFunc(all[n].touched, func(b []item) bool { return slices.Equal(now, b) }) {
			all[n].touched = append(all[n].touched, now)
		}
	}
	x.finish()
	return all
}

// TestLanePairs parks A at every instruction, kills B, which has the other end, at every instruction of its own (those that leave the same behind count as
// one), repairs B's death, and lets A go on; then the other end has a successor, and both go, three times round. With
// SHMD_TORTURE=1 that is still one of three of A's instructions, in the scenes that are looked at in every run: all would take as long as all other tests together.
func TestLanePairs(t *testing.T) {
	t.Parallel() // it has memory, tracees and a processor of its own
	f, mem := memfd(t)
	a, b := newTracee(t, f, mem), newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("lane, pairs")
	covered := 0
	defer func() { t.Logf("lane, pairs: these stand for %d pairs of instructions", covered) }()
	pick := newSample()
	for g, all := range sets(true) {
		if g != 0 {
			continue
		}
		for _, s := range all { // the victim is B
			if len(s.dead) > 0 || !s.core {
				continue
			}
			for _, opA := range s.operationsBeside() {
				for _, opB := range s.operations() {
					if pick.skips(72, 1) {
						continue
					}
					copy(mem[queueAt:], s.image)
					a.begin(opA, other, sent)
					var z frozen
					known := map[uint64][]death{} // what B does depends on the memory alone
					a.somePoints(pick, 4, 3, func(i int) {
						a.freeze(&z)
						h := maphash.Bytes(seed, mem[queueAt:])
						if known[h] == nil {
							known[h] = b.deaths(opB, sent+200)
							copy(mem, z.mem)
						}
						again := false
						for j, d := range known[h] {
							if pick.skips(3, 1) {
								continue
							}
							if again {
								a.thaw(&z)
							}
							again = true
							covered += d.points
							copy(mem[queueAt:], d.image)
							dead := func(o uint16) bool { return o == victim }
							openQueue(mem).Repair(dead)
							r, _ := a.finish()
							copy(scratch, mem)
							v, err := s.judge(scratch, false)
							for _, touched := range d.touched {
								if err == nil {
									err = s.paired(v, r, items(mem), touched)
								}
							}
							count.point(err, "%s, %s parked at %d, %s killed at image %d", s, opNames[opA], i, opNames[opB], j)
						}
					})
					a.kill() // a Producer, a Consumer is garbage in the end, which nobody collects
					a.start()
				}
			}
		}
	}
}

// operationsBeside are those of the other end.
func (s *scene) operationsBeside() []uint64 {
	o := *s
	o.sends = !s.sends
	return o.operations()
}

// paired checks what became of the messages after B died and A went on to its end.
func (s *scene) paired(v verdict, result uint64, a, b []item) error {
	if result == resultTorn || result == resultError || result == resultLost {
		return fmt.Errorf("the parked process got result %d", result)
	}
	// How often each message may come now: least and most.
	type span struct{ low, high int }
	may := map[uint64]span{}
	for m := range s.want {
		may[m] = span{1, 1}
	}
	for _, t := range slices.Concat(a, b) {
		switch w := (span{1, 1}); {
		case t.kind != 'c' && t.kind != 'b':
			continue
		case t.kind == 'b' || t.stage < begun:
			may[t.value] = span{}
		case t.stage < ended && result == resultOK: // B's, or it was full
			may[t.value] = span{0, 1}
		default:
			if t.stage < ended {
				w.low = 0
			}
			may[t.value] = w
		}
	}
	unknown := 0 // taken by whoever died in ReceiveTo before we heard of it
	for _, t := range slices.Concat(a, b) {
		w := may[t.value]
		switch {
		case t.kind == 'a' && t.stage == ended:
			w = span{}
		case t.kind == 'a' && t.stage == begun:
			w.low = 0
		case t.kind == 't':
			unknown++
			continue
		default:
			continue
		}
		may[t.value] = w
	}
	for m, w := range may {
		n := v.got[m] + v.dead[m]
		if n < w.low && unknown > 0 {
			unknown--
			continue
		}
		if n < w.low || n > w.high {
			return fmt.Errorf("message %d came %d times, want %d to %d; A: %v, B: %v", m, n, w.low, w.high, a, b)
		}
		if d, known := s.want[m]; known && d >= 0 && v.got[m] == 1 && v.deliveries[m] >= 0 && (v.deliveries[m] < d || v.deliveries[m] > d+2) {
			return fmt.Errorf("deliveries of message %d: %d, were %d", m, v.deliveries[m], d)
		}
	}
	for m := range maps.Keys(v.got) {
		if _, known := may[m]; !known {
			return fmt.Errorf("message %d came from nowhere", m)
		}
	}
	for m := range maps.Keys(v.dead) {
		if _, known := s.want[m]; !known && may[m] == (span{}) {
			return fmt.Errorf("dead letter %d came from nowhere", m)
		}
	}
	return nil
}
