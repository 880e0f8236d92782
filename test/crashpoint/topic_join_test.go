package crashpoint

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// TestTopicJoinerParked stops a subscriber at every instruction of its joining (some of them, without SHMD_TORTURE=1), lets publishers go laps, or as far as it
// lets them, and lets it go on: it reads a whole message that was published, none from before where it wanted to begin, and nobody is stopped when it has left. A
// joiner has memory of its own besides its stack, so each point is reached from the beginning.
func TestTopicJoinerParked(t *testing.T) {
	t.Parallel() // it has memory, a tracee and a processor of its own
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("topic, joiner parked")
	held, empty, read := 0, 0, map[protocol.From]int{}
	for n, s := range topicStates(topicStarts()[0]) {
		if s.loan || s.name != "at the limit" && s.name != "two messages" && s.name != "a subscriber that lags" {
			continue
		}
		for k, from := range visits {
			every := 97
			switch {
			case torture():
				every = 1
			case k == 0 && !s.drop:
				every = 37
			}
			for i, past := n%every, 0; past < 4; i += every {
				copy(mem[queueAt:], s.image)
				x.beginFor(opVisit, victim, 0, uint64(k))
				set(mem, wordNoRuntime, 1)
				if !x.steps(i) {
					x.finish()
					break
				}
				c := openTopic(mem)
				if slices.ContainsFunc(c.Cursors(), func(c protocol.Cursor) bool { return c.Owner == victim && c.Phase == protocol.CursorPhaseOpen }) {
					past++
				}
				if s.peer {
					check(c.Evict(0))
				}
				c.Admit(other)
				p := must(c.Publisher(other))
				publish := func(v uint64) error {
					l, err := p.TryLoan()
					if err != nil {
						return err
					}
					fill(p.LoanBytes(l), v)
					return p.Commit(l, length(v))
				}
				n, err := uint64(0), error(nil)
				for ; n < 3*topicSlots && err == nil; n++ {
					if err = publish(20000 + n); errors.Is(err, protocol.ErrFull) {
						held++
						err = nil
						break
					}
				}
				r, v := x.finish()
				old := s.values // that it may read
				switch from {
				case protocol.FromLast:
					old = old[len(old)-1:]
				case protocol.FromNew:
					old = nil
				}
				switch {
				case err != nil:
				case r == resultOK && !slices.Contains(old, v) && (v < 20000 || v >= 20000+n):
					err = fmt.Errorf("it read %d", v)
				case r == resultOK:
					read[from]++
				case r == resultEmpty && from == protocol.FromNew:
					empty++
				case r == resultOvertaken && s.drop:
				default:
					err = fmt.Errorf("result %d", r)
				}
				for k := uint64(0); k < 3*topicSlots && err == nil; k++ {
					if err = publish(30000 + k); err != nil {
						err = fmt.Errorf("when it had left, message %d: %w", k, err)
					}
				}
				count.point(err, "%s, joining from %v parked at %d", s, from, i)
			}
		}
	}
	if held == 0 || empty == 0 || len(read) != len(visits) {
		t.Errorf("%d publishers were held up by the joiner, %d joiners found nothing, %v read: the test does not see what it is for", held, empty, read)
	}
}
