package crashpoint

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// sleepForChange is what a sleeper does with "wait V": it sleeps until the version is another than V.
func sleepForChange(l *protocol.Latest, after string) {
	v, _ := strconv.ParseUint(after, 10, 64)
	bell := l.Changes
	fmt.Printf("bell %p\n", bell.Word())
	for {
		value := bell.Value()
		t := bell.Register()
		if now := l.Version(); now != v {
			fmt.Printf("done %d\n", now)
			return
		}
		if err := sys.FutexWait(bell.Word(), value, time.Minute); err != nil && !errors.Is(err, sys.ErrAgain) {
			fmt.Println(err)
		}
		bell.Unregister(t)
	}
}

// TestLatestWake kills the victim at every instruction of a put, beside a process that waits for a change. Where the victim has published and
// not woken yet, the sleeper sleeps on; the repair must wake it. And a put that ends must have woken it.
func TestLatestWake(t *testing.T) {
	f, mem := memfd(t)
	z := newDozer(t, f)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("latest, wake")
	s := latestStates(0)[1]
	lost := 0
	for i, more := 0, true; more; i += stride() {
		x.beginLatest(s, opPut, victim, sent)
		l := openLatest(mem)
		if err := z.sleep(fmt.Sprintf("wait %d", s.version)); err != nil {
			t.Fatal(err)
		}
		if more = x.steps(i); more { // it dies here
			if i%16 == 8 {
				x.kill()
				count.killed++
			}
			if l.Version() != s.version && !z.leaves() {
				lost++
			}
			l.Repair(func(o uint16) bool { return o == victim })
			if l.Version() == s.version {
				must(putValue(l, other, 99))
			}
		}
		_, err := z.says("done ")
		count.point(err, "put killed at %d beside a process that waits for a change", i)
		if err != nil {
			t.FailNow()
		}
		if x.pid == 0 {
			x.start()
		} else {
			x.finish()
		}
	}
	t.Logf("at %d points the wake-up is lost with the victim, and all are rescued by the repair", lost)
	if lost == 0 {
		t.Error("no wake-up is lost anywhere: the test does not see what it is for")
	}
}
