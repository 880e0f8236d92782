package crashpoint

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// TestTopicJoinerParked stops a subscriber at every instruction of its joining (every 7th, without SHMD_TORTURE=1), lets publishers go laps, or as far as it
// lets them, and lets it go on: it reads a whole message that was published, and nobody is stopped when it has left. A joiner has
// memory of its own besides its stack, so each point is reached from the beginning.
func TestTopicJoinerParked(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("topic, joiner parked")
	every := 7
	if torture() {
		every = 1
	}
	held := 0
	for n, s := range topicStates(topicStarts()[0]) {
		if s.loan || s.drop || s.name != "at the limit" && s.name != "two messages" && s.name != "a subscriber that lags" {
			continue
		}
		for i, past := n%every, 0; past < 10; i += every {
			copy(mem[queueAt:], s.image)
			x.begin(opVisit, victim, 0)
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
			switch {
			case err != nil:
			case r == resultOK && !slices.Contains(s.values, v) && (v < 20000 || v >= 20000+n):
				err = fmt.Errorf("it read %d", v)
			case r != resultOK:
				err = fmt.Errorf("result %d", r)
			}
			for k := uint64(0); k < 3*topicSlots && err == nil; k++ {
				if err = publish(30000 + k); err != nil {
					err = fmt.Errorf("when it had left, message %d: %w", k, err)
				}
			}
			count.point(err, "%s, joining parked at %d", s, i)
		}
	}
	if held == 0 {
		t.Error("no publisher was held up by the joiner: the test does not see what it is for")
	}
}
