package crashpoint

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/shmd/shmd/pkg/protocol"
)

// TestCMetricKill kills a process in C at every instruction of defining and counting, as TestMetricKill one in Go.
func TestCMetricKill(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	count := newTally(t)
	defer count.report("metrics, in C, kill")
	killCMetrics(t, cOperation, count)
}

func killCMetrics(t *testing.T, program string, count *tally) {
	r := newCRegion(t, program, protocol.GroupConfig{Instances: 1, Metrics: 16}, sharedSize-queueAt)
	copy(r.fresh[2], metricImage(true))
	for _, d := range []protocol.MetricDef{metricBytes, metricTrip, metricJobs, metricLoad} { // two new ones, and two that are there
		x := r.start(d.Kind.String(), d.Name, d.Unit, d.Help)
		before := metricJudge{}
		var last uint64
		for i, more := 0, true; more; i++ {
			var err error
			if h := maphash.Bytes(seed, r.mem[2][:16<<10]); i == 0 || h != last {
				last = h
				err = before.look(bytes.Clone(r.mem[2]))
			}
			count.point(err, "%s in C killed at %d", d.Name, i)
			more = x.cStep()
		}
		all, err := metricsOf(must(protocol.OpenGroup(r.mem[2])))
		m := all[d.Name]
		want := protocol.Metric{MetricDef: d, Owner: pidVictim, Count: counted}
		switch d.Name {
		case "trip":
			want.Count = 1
		case "jobs":
			want.Count += jobsDone
		case "load":
			want.Count, want.Gauge = 0, counted
		}
		if err == nil && (m.MetricDef != want.MetricDef || m.Owner != want.Owner || m.Count != want.Count || m.Gauge != want.Gauge) {
			err = fmt.Errorf("the metric is %+v, not %+v", m, want)
		}
		count.point(err, "%s in C, after its end", d.Name)
	}
}

// finishC lets the process run to its end.
func (x *tracee) finishC() error {
	check(unix.PtraceCont(x.pid, 0))
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(x.pid, &ws, unix.WALL, nil)
		if err != unix.EINTR {
			check(err)
			break
		}
	}
	x.pid = 0
	if !ws.Exited() || ws.ExitStatus() != 0 {
		return fmt.Errorf("it ended with %#x", ws)
	}
	return nil
}

// TestCRings parks a process in C at every instruction of a wait and of a record, while the daemon asks for a heartbeat or lies down. What the daemon has not seen when
// it looks after its store, the process rings for.
func TestCRings(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	count := newTally(t)
	defer count.report("heartbeat and log in C, beside a daemon that lies down")
	ringC(t, cOperation, count)
}

func ringC(t *testing.T, program string, count *tally) {
	r := newCRegion(t, program, entryGroup, 0)
	nap, bell := r.groups.LogNap()
	page, log := r.groups.Page(0), r.groups.Log(0)
	rang := map[string]int{}
	for _, c := range []struct {
		what string
		args []string
		lies func() (sleeps bool) // the daemon's store, and its look
		rung func() bool
	}{
		{"wait", []string{"wait"}, func() bool {
			page.Ask.Store(3)
			return page.Asleep.Load() > 0
		}, func() bool { return page.Answered.Load() == 3 && r.groups.Bell().Load() == 1 }},
		{"log", cEntry(sent), func() bool {
			nap.Store(uint32(protocol.LogNapSleeps))
			return log.Head() == 0
		}, func() bool { return log.Head() > 0 && nap.Load() == uint32(protocol.LogNapAwake) && bell.Load() == 1 }},
	} {
		for i := 0; ; i++ {
			x := r.start(c.args...)
			more := true
			for n := 0; n < i && more; n++ {
				more = x.cStep()
			}
			if !more {
				break
			}
			sleeps := c.lies()
			err := x.finishC()
			if err == nil && sleeps && !c.rung() {
				err = fmt.Errorf("nobody rang: asked %d, answered %d, asleep %d, head %d, nap %d", page.Ask.Load(), page.Answered.Load(), page.Asleep.Load(), log.Head(), nap.Load())
			}
			if sleeps && err == nil {
				rang[c.what]++
			}
			count.point(err, "%s in C, parked at %d, the daemon asleep: %v", c.what, i, sleeps)
		}
	}
	if count.failed == 0 && (rang["wait"] == 0 || rang["log"] == 0) {
		t.Errorf("so often it had to ring: %v", rang)
	}
}
