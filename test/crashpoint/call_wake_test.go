package crashpoint

import (
	"fmt"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// sleepForCall is what a sleeper does with "call": it makes a call and sleeps for the reply; and with "slot": it sleeps for a free slot.
func sleepForCall(c *protocol.Call, verb string) {
	if verb == "slot" {
		bell := c.Callers
		fmt.Printf("bell %p\n", bell.Word())
		for {
			value := bell.Value()
			t := bell.Register()
			q, err := c.TryRequest(sleeper, 0)
			if err == nil {
				bell.Unregister(t)
				fmt.Println("done", c.Leave(&q))
				return
			}
			sys.FutexWait(bell.Word(), value, time.Minute)
			bell.Unregister(t)
		}
	}
	q := must(c.TryRequest(sleeper, 0))
	check(ask(c, &q, 88))
	for first := true; ; first = false {
		bell, value, ok := c.Doze(&q)
		if first {
			fmt.Printf("bell %p\n", bell)
		}
		if ok {
			sys.FutexWait(bell, value, time.Minute)
		}
		if settled, err := c.Settled(&q); settled || err != nil {
			break
		}
	}
	fmt.Println("done", collect(c, &q, 88), c.Leave(&q))
}

// TestCallWake kills the victim at every instruction beside a process that sleeps for a reply, or for a slot. Where the victim has published and
// not woken yet, the sleeper sleeps on; the repair must wake it.
func TestCallWake(t *testing.T) {
	f, mem := memfd(t)
	z := newDozer(t, f)
	x := newTracee(t, f, mem)
	holds := func(o uint16) bool { return o == victim }
	for _, k := range []struct {
		op   uint64
		verb string
		held int
	}{{opCallServe, "call", 0}, {opCallAbort, "slot", 3}} {
		count := newTally(t)
		lost := 0
		s := callStates(0, false)[0]
		setup := func() *protocol.Call {
			copy(mem[callAt:], s.image)
			c := openCall(mem)
			for range k.held {
				must(c.TryRequest(peer, 0))
			}
			return c
		}
		c := setup()
		first := 0
		if k.op == opCallAbort { // it has its slot when the other goes to sleep
			for x.beginFor(k.op, victim, 0, 0); !c.Holds(holds); first++ {
				x.step()
			}
			x.finish()
		}
		useful := func() bool {
			st := c.Stat()
			return k.verb == "call" && st.Answered > 0 || k.verb == "slot" && st.Free > 0
		}
		for i, more := first, true; more; i += stride() {
			c = setup()
			if k.op == opCallServe {
				if err := z.sleep(k.verb); err != nil {
					t.Fatal(err)
				}
				x.beginFor(k.op, victim, 0, 0)
			} else {
				x.beginFor(k.op, victim, 0, 0)
				x.steps(first)
				if err := z.sleep(k.verb); err != nil {
					t.Fatal(err)
				}
			}
			if more = x.steps(i - first); more { // it dies here
				if i%16 == 8 {
					x.kill()
					count.killed++
				}
				if useful() && !z.leaves() {
					lost++
				}
				c.Repair(holds)
				serve(c, other, false) // if the request waits again
			}
			line, err := z.says("done ")
			if want := "done " + map[string]string{"call": "1 <nil>", "slot": "<nil>"}[k.verb]; err == nil && line != want {
				err = fmt.Errorf("the sleeper says %q, want %q", line, want)
			}
			count.point(err, "%s killed at %d beside a process that sleeps for a %s", opNames[k.op], i, k.verb)
			if err != nil {
				t.FailNow()
			}
			if x.pid == 0 {
				x.start()
			} else {
				x.finish()
			}
		}
		t.Logf("beside %s: at %d points the wake-up is lost with the victim, and all are rescued by the repair", opNames[k.op], lost)
		if lost == 0 {
			t.Errorf("beside %s: no wake-up is lost anywhere: the test does not see what it is for", opNames[k.op])
		}
		count.report("call, wake, " + opNames[k.op])
	}
}
