package crashpoint

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// topicImages runs an operation of the victim on what lies in memory and returns all that the memory looked like, and before how many instructions it did.
func (x *tracee) topicImages(op uint64) (images [][]byte, points []int) {
	seen := map[uint64]int{}
	x.begin(op, victim, sent+1)
	for more := true; more; more = x.step() {
		h := maphash.Bytes(seed, x.mem[queueAt:queueAt+queueRoom])
		n, ok := seen[h]
		if !ok {
			n = len(images)
			seen[h] = n
			images, points = append(images, slices.Clone(x.mem[queueAt:queueAt+queueRoom])), append(points, 0)
		}
		points[n]++
	}
	x.finish()
	return images, points
}

// TestTopicPairs parks A at every instruction, kills B at every instruction of its own (those that leave the same memory count as one), has a subscriber join
// and read what there is, repairs B's death, and lets A go on: the subscriber gets what is left, and whoever joins later gets the same in the same order. What A
// does cannot be to join, nor to read from a topic that drops its oldest: see TestTopicJoinerParked and TestTopicParked.
func TestTopicPairs(t *testing.T) {
	t.Parallel() // it has memory, tracees and a processor of its own
	f, mem := memfd(t)
	a, b := newTracee(t, f, mem), newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("topic, pairs")
	covered := 0
	defer func() { t.Logf("topic, pairs: these stand for %d pairs of instructions", covered) }()
	pick := newSample()
	publishes := func(op uint64) bool { return op == opTell || op == opRecant }
	for _, start := range topicStarts() {
		for _, s := range topicStates(start) {
			for _, opA := range []uint64{opTell, opRecant, opHear, opEvict} {
				for _, opB := range []uint64{opTell, opRecant, opHear, opVisit, opEvict} {
					if opA == opHear && s.drop || (opA == opEvict || opB == opEvict) && !s.peer || s.single && publishes(opA) && publishes(opB) || pick.skips(8, 1) {
						continue
					}
					copy(mem[queueAt:], s.image)
					if s.single && publishes(opA) {
						openTopic(mem).Admit(second)
					}
					a.begin(opA, second, sent)
					var z frozen
					type killed struct {
						images [][]byte
						points []int
					}
					known := map[uint64]killed{} // what B does depends on the memory alone
					a.somePoints(pick, 2, 1, func(i int) {
						a.freeze(&z)
						h := maphash.Bytes(seed, mem[queueAt:queueAt+queueRoom])
						k, ok := known[h]
						if !ok {
							k.images, k.points = b.topicImages(opB)
							known[h] = k
							copy(mem, z.mem)
						}
						again := false
						for j, image := range k.images {
							if pick.skips(2, 1) {
								continue
							}
							if again {
								a.thaw(&z)
							}
							again = true
							covered += k.points[j]
							copy(mem[queueAt:], image)
							count.point(s.paired(a, opA, opB), "%s, %s parked at %d, %s killed at image %d", s, opNames[opA], i, opNames[opB], j)
						}
					})
				}
			}
		}
	}
}

// paired has a subscriber join beside a parked operation and one that died, repairs that death, lets the parked one go on, and looks at what there is.
func (s *tstate) paired(a *tracee, opA, opB uint64) error {
	c := openTopic(a.mem)
	r, err := c.Subscribe(other, protocol.FromOldest)
	if err != nil {
		return err
	}
	got, err := readAll(r)
	if err != nil {
		return fmt.Errorf("the subscriber beside them: %w", err)
	}
	r.Flush()
	if err := topicRepair(c, victim); err != nil {
		return err
	}
	result, v := a.finish()
	if s.loan { // nobody can read beyond it until its holder dies
		if err := topicRepair(c, peer); err != nil {
			return err
		}
	}
	rest, err := readAll(r)
	if err != nil {
		return fmt.Errorf("the subscriber, when A had gone on: %w", err)
	}
	if r.Lost() != 0 {
		return fmt.Errorf("the subscriber is told of %d messages that it lost", r.Lost())
	}
	if err := r.Close(); err != nil {
		return err
	}
	got = append(got, rest...)
	last, err := s.judgeTwo(a.mem, 2, second)
	if err != nil {
		return err
	}
	want := slices.Concat(s.values, last)
	if len(got) > len(want) || len(got) < len(last) || !slices.Equal(got, want[len(want)-len(got):]) {
		return fmt.Errorf("the subscriber beside them got %d, who came later knows %d", got, want)
	}
	if opB != opTell && slices.Contains(last, sent+1) {
		return errors.New("B's message is there, which it did not publish")
	}
	switch is := slices.Contains(last, sent); {
	case opA == opTell && (result == resultOK) != is,
		opA != opTell && is,
		(opA == opTell || opA == opRecant) && result != resultOK && (result != resultFull || s.drop),
		opA == opEvict && result != resultOK && opB != opEvict,
		opA == opHear && result == resultOK && !slices.Contains(s.values, v) && !slices.Contains(last, v),
		opA == opHear && result != resultOK && result != resultEmpty:
		return fmt.Errorf("A's result is %d, its message %d; at the end of the topic is %d", result, v, last)
	}
	return nil
}
