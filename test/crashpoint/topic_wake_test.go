package crashpoint

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// sleepForTopic is what a sleeper does with "hear": it sleeps for the next message; with "tell": for room to publish.
func sleepForTopic(t *protocol.Topic, verb string) {
	bell := t.Receivers
	var try func() (uint64, error)
	if verb == "hear" {
		s := must(t.Subscribe(sleeper, protocol.FromNew))
		defer s.Close()
		try = func() (uint64, error) {
			b, err := s.Next()
			if err != nil {
				return 0, err
			}
			v, whole := message(b)
			if !whole {
				return v, errTorn
			}
			return v, s.Done()
		}
	} else {
		p := must(t.Publisher(sleeper))
		bell = t.Senders
		try = func() (uint64, error) {
			l, err := p.TryLoan()
			if err != nil {
				return 0, err
			}
			fill(p.LoanBytes(l), 88)
			return 88, p.Commit(l, length(88))
		}
	}
	fmt.Printf("bell %p\n", bell.Word())
	for {
		value := bell.Value()
		ticket := bell.Register()
		v, err := try()
		if errors.Is(err, protocol.ErrEmpty) || errors.Is(err, protocol.ErrFull) {
			sys.FutexWait(bell.Word(), value, time.Minute)
			bell.Unregister(ticket)
			continue
		}
		bell.Unregister(ticket)
		fmt.Printf("done %d %v\n", v, err)
		return
	}
}

// TestTopicWake kills the victim at every instruction of a publish beside a subscriber that sleeps for it, and of a receive beside a publisher that
// sleeps for the room. Where the victim has published, or moved its cursor, and not woken yet, the sleeper sleeps on; the repair must wake it.
func TestTopicWake(t *testing.T) {
	f, mem := memfd(t)
	z := newDozer(t, f)
	x := newTracee(t, f, mem)
	holds := func(o uint16) bool { return o == victim }
	for _, k := range []struct {
		op     uint64
		verb   string
		single bool
	}{{opTell, "hear", false}, {opTell, "hear", true}, {opPublish, "hear", true}, {opHear, "tell", false}} {
		count := newTally(t)
		lost := 0
		var s *tstate
		for _, c := range topicStates(0) {
			if c.name == "two messages" && c.single == k.single && !c.drop {
				s = c
			}
		}
		publish := func(c *protocol.Topic, v uint64) error {
			c.Admit(other)
			p, err := c.Publisher(other)
			if err != nil {
				return err
			}
			l, err := p.TryLoan()
			if err != nil {
				return err
			}
			fill(p.LoanBytes(l), v)
			return p.Commit(l, length(v))
		}
		for i, more := 0, true; more; i += stride() {
			copy(mem[queueAt:], s.image)
			c := openTopic(mem)
			x.begin(k.op, victim, sent)
			for k.op == opHear && publish(c, 300) == nil { // until there is no room
			}
			if err := z.sleep(k.verb); err != nil {
				t.Fatalf("%s: %v", opNames[k.op], err)
			}
			useful := func() bool {
				if k.op == opHear {
					return len(c.Blocking()) == 0
				}
				return c.Stat().Published == uint64(len(s.values))+1
			}
			if more = x.steps(i); more { // it dies here
				if i%16 == 8 {
					x.kill()
					count.killed++
				}
				there := useful()
				if there && !z.leaves() {
					lost++
				}
				c.Repair(holds)
				if k.op != opHear && !there {
					check(publish(c, 99))
				}
			}
			_, err := z.says("done ")
			count.point(err, "%s killed at %d beside a process that sleeps to %s", opNames[k.op], i, k.verb)
			if err != nil {
				t.FailNow()
			}
			if x.pid == 0 {
				x.start()
			} else {
				x.finish()
			}
		}
		t.Logf("beside %s of a topic, single=%v: at %d points the wake-up is lost with the victim, and all are rescued by the repair", opNames[k.op], k.single, lost)
		if lost == 0 {
			t.Errorf("beside %s: no wake-up is lost anywhere: the test does not see what it is for", opNames[k.op])
		}
		count.report("topic, wake, " + opNames[k.op])
	}
}
