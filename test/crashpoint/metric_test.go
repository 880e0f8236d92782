package crashpoint

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

const (
	opDefineCounter   = 6000 + iota // a new one, and count
	opDefineHistogram               // a new one, and observe
	opCountOn                       // find the one that is there, and count
	opGauge                         // find the one that is there, which begins anew
	opReset                         // the daemon, before the next process
)

func init() {
	for op, name := range map[uint64]string{opDefineCounter: "define a counter", opDefineHistogram: "define a histogram", opCountOn: "go on counting", opGauge: "begin a gauge anew", opReset: "reset"} {
		opNames[op] = name
	}
}

// The metrics of the test. The first two are there before.
var (
	metricJobs  = protocol.MetricDef{Kind: protocol.MetricKindCounter, Name: "jobs", Help: "jobs that are done"}
	metricLoad  = protocol.MetricDef{Kind: protocol.MetricKindGauge, Name: "load", Unit: "jobs", Help: "jobs at a time"}
	metricBytes = protocol.MetricDef{Kind: protocol.MetricKindCounter, Name: "read", Unit: "bytes", Help: rowText(7, 104)}
	metricTrip  = protocol.MetricDef{Kind: protocol.MetricKindHistogram, Name: "trip", Unit: "nanoseconds", Help: "there and back"}
)

// Processes of the instance, one after the other.
const (
	pidBefore = 71
	pidVictim = 72
	pidNext   = 73
	jobsDone  = 40  // by the first
	counted   = 9   // by an operation
	staleLoad = 3.5 // of the first
)

var metered *protocol.GroupSegment

func openGroup(b []byte) *protocol.GroupSegment {
	return must(protocol.OpenGroup(b[queueAt:sharedSize]))
}

// metricImage is a group of one instance whose first process has died, from queueAt on: before the daemon's reset, or after it.
func metricImage(reset bool) []byte {
	b := make([]byte, sharedSize-queueAt)
	h := protocol.Header{Name: "group/w", Region: "crashpoint", Generation: 1, Created: time.Unix(1, 0)}
	g := must(protocol.FormatGroup(b, h, protocol.GroupConfig{Instances: 1, Metrics: 16}))
	must(g.Metrics(0).Define(metricJobs, pidBefore)).Value.Add(jobsDone)
	must(g.Metrics(0).Define(metricLoad, pidBefore)).Value.Store(math.Float64bits(staleLoad))
	if reset {
		g.Reset(0)
	}
	return b
}

func warmUpMetrics(b []byte) {
	for op := uint64(opDefineCounter); op <= opReset; op++ {
		copy(b[queueAt:sharedSize], metricImage(op != opReset))
		metered = openGroup(b[:sharedSize])
		operateMetrics(op)
	}
}

func operateMetrics(op uint64) uint64 {
	def := metricJobs
	switch op {
	case opReset:
		metered.Reset(0)
		return resultOK
	case opDefineCounter:
		def = metricBytes
	case opDefineHistogram:
		def = metricTrip
	case opGauge:
		def = metricLoad
	}
	c, err := metered.Metrics(0).Define(def, pidVictim)
	if err != nil {
		return result(err)
	}
	switch op {
	case opGauge:
		c.Value.Store(math.Float64bits(counted))
	case opDefineHistogram:
		c.Observe(counted)
	default:
		c.Value.Add(counted)
	}
	return resultOK
}

// metricsOf reads the table, and checks that every row is whole: one of the four, with a number that it can have.
func metricsOf(g *protocol.GroupSegment) (map[string]protocol.Metric, error) {
	found := map[string]protocol.Metric{}
	for _, m := range g.Metrics(0).Read() {
		switch m.MetricDef {
		case metricJobs, metricBytes, metricTrip, metricLoad:
		default:
			return nil, fmt.Errorf("a metric that nobody defined: %+v", m.MetricDef)
		}
		if _, twice := found[m.Name]; twice {
			return nil, fmt.Errorf("%q is there twice", m.Name)
		}
		found[m.Name] = m
	}
	for _, d := range []protocol.MetricDef{metricJobs, metricLoad} {
		if _, ok := found[d.Name]; !ok {
			return nil, fmt.Errorf("%q is gone", d.Name)
		}
	}
	if n := found["jobs"].Count; n != jobsDone && n != jobsDone+counted {
		return nil, fmt.Errorf("%d jobs", n)
	}
	if l := found["load"]; l.Owner == pidVictim && l.Gauge != 0 && l.Gauge != counted {
		return nil, fmt.Errorf("the victim's load is %v", l.Gauge)
	}
	return found, nil
}

// metricJudge says what is wrong with the group segments that it is shown, one after the other.
type metricJudge map[string]protocol.Metric // as they were the last time

// look takes a copy of the segment, which it changes: the daemon makes the table ready and the next process counts on.
func (before metricJudge) look(scratch []byte) error {
	g := must(protocol.OpenGroup(scratch))
	now, err := metricsOf(g)
	if err != nil {
		return err
	}
	for name, b := range before {
		if now[name].Count < b.Count || now[name].Name == "" {
			return fmt.Errorf("%q went back from %d to %d", name, b.Count, now[name].Count)
		}
	}
	clear(before)
	maps.Copy(before, now)
	g.Reset(0) // by the daemon, or the next daemon
	if m, err := metricsOf(g); err != nil || m["jobs"].Owner != 0 || m["load"].Owner != 0 {
		return fmt.Errorf("after the reset: %+v, %w", m, err)
	}
	for _, d := range []protocol.MetricDef{metricJobs, metricLoad, metricBytes, metricTrip} {
		c, err := g.Metrics(0).Define(d, pidNext)
		if err != nil {
			return fmt.Errorf("next process: %w", err)
		}
		switch d.Kind {
		case protocol.MetricKindHistogram:
			c.Observe(1)
		case protocol.MetricKindCounter:
			c.Value.Add(1)
		}
	}
	if v := protocol.Verify(scratch, protocol.VerifyOptions{}); len(v) > 0 {
		return fmt.Errorf("next process: %v", v)
	}
	for _, m := range g.Metrics(0).Read() {
		was := now[m.Name]
		if m.Kind == protocol.MetricKindGauge {
			was.Count, m.Count = 0, m.Count+1
		}
		if m.Owner != pidNext || m.Count != was.Count+1 || m.Gauge != 0 {
			return fmt.Errorf("the next process counts on from %+v, and it is %+v", was, m)
		}
	}
	return nil
}

// TestMetricKill kills a process at every instruction of defining and counting, and the daemon while it makes the table ready for the
// next process. What a reader sees is whole and never goes back, and the next process counts on from there.
func TestMetricKill(t *testing.T) {
	f, mem := memfd(t)
	all := mem[:sharedSize]
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("metrics, kill")
	for op := uint64(opDefineCounter); op <= opReset; op++ {
		image := metricImage(op != opReset)
		copy(all[queueAt:], image)
		x.begin(op, victim, 0)
		set(mem, wordNoRuntime, 1)
		before := metricJudge{}
		judge := func() error { return before.look(bytes.Clone(all[queueAt:])) }
		var last uint64
		for i, more := 0, true; more; i++ {
			if h := maphash.Bytes(seed, all[queueAt:queueAt+queueRoom+deadRoom]); i == 0 || h != last {
				last = h
				count.point(judge(), "%s killed at %d", opNames[op], i)
			} else {
				count.point(nil, "")
			}
			if i == 150 && !quick() { // dies in truth: nothing else comes of it
				now := bytes.Clone(all[queueAt:])
				x.kill()
				count.killed++
				if !bytes.Equal(now, all[queueAt:]) {
					t.Errorf("%s: the memory changed when its process was killed", opNames[op])
				}
				x.start()
				copy(all[queueAt:], image)
				x.begin(op, victim, 0)
				set(mem, wordNoRuntime, 1)
				x.steps(i)
			}
			more = x.step()
		}
		r, _ := x.finish()
		err := judge()
		if err == nil && r != resultOK {
			err = fmt.Errorf("result %d", r)
		}
		count.point(err, "after %s", opNames[op])
	}
}
