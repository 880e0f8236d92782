package protocol

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
)

func metricGroup(t *testing.T, rows int) *GroupSegment {
	t.Helper()
	c := GroupConfig{Instances: 2, Metrics: rows}
	g, err := FormatGroup(heap(GroupSize(c)), header("group/w"), c)
	noErr(t, err)
	return g
}

func TestMetricBuckets(t *testing.T) {
	next := uint64(0)
	for b := range NumMetricBuckets {
		from, to := MetricBucketRange(b)
		if from != next || to < from {
			t.Fatalf("bucket %d counts %d to %d, the one before ended at %d", b, from, to, next-1)
		}
		for _, v := range []uint64{from, from + (to-from)/2, to} {
			if got := MetricBucketOf(v); got != b {
				t.Fatalf("%d is in bucket %d, which does not count it, but %d does", v, got, b)
			}
		}
		if b >= metricSubBuckets && b < NumMetricBuckets-1 && to-from+1 > from/4 {
			t.Errorf("bucket %d from %d is %d wide, more than a quarter", b, from, to-from+1)
		}
		next = to + 1
	}
	if next != 0 {
		t.Errorf("the buckets end at %d", next)
	}
}

// The next process of an instance goes on where the one before it died; a gauge of the dead is not taken for one of the living.
func TestMetricsOutliveTheirProcess(t *testing.T) {
	g := metricGroup(t, 16)
	table := g.Metrics(0)
	jobs := MetricDef{MetricKindCounter, "jobs", "", "jobs done"}
	load := MetricDef{MetricKindGauge, "load", "", "jobs at a time"}
	trip := MetricDef{MetricKindHistogram, "trip", "nanoseconds", "there and back"}
	for pid := 1; pid <= 3; pid++ {
		j, err := table.Define(jobs, pid)
		noErr(t, err)
		l, err := table.Define(load, pid)
		noErr(t, err)
		h, err := table.Define(trip, pid)
		noErr(t, err)
		if v := math.Float64frombits(l.Value.Load()); v != 0 {
			t.Errorf("the gauge of process %d begins at %v", pid, v)
		}
		j.Value.Add(10)
		l.Value.Store(math.Float64bits(float64(pid)))
		h.Observe(uint64(pid))
		all := table.Read()
		wantEqual(t, len(all), 3)
		wantEqual(t, []any{all[0].Count, all[1].Gauge, all[2].Count, all[2].Sum}, []any{uint64(pid * 10), float64(pid), uint64(pid), uint64(pid * (pid + 1) / 2)})
		for _, m := range all {
			wantEqual(t, m.Owner, pid)
		}
		g.Reset(0)
		for _, m := range table.Read() {
			wantEqual(t, m.Owner, 0)
		}
	}
	// Whoever says something else of it has another row, and what was counted stays.
	_, err := table.Define(MetricDef{MetricKindCounter, "jobs", "", "jobs begun"}, 4)
	noErr(t, err)
	all := table.Read()
	wantEqual(t, []any{len(all), all[0].Count, all[3].Count}, []any{4, uint64(30), uint64(0)})
	if len(g.Metrics(1).Read()) != 0 {
		t.Error("the other instance has metrics")
	}
}

func TestMetricErrors(t *testing.T) {
	table := metricGroup(t, 8).Metrics(1)
	for _, d := range []MetricDef{{Name: ""}, {Name: "Jobs"}, {Name: "1st"}, {Name: "a-b"}, {Name: strings.Repeat("n", 65)}, {Name: "a", Unit: "B"}, {Name: "a", Unit: strings.Repeat("u", 25)}} {
		if _, err := table.Define(d, 1); !errors.Is(err, ErrMetricName) {
			t.Errorf("%+v: %v", d, err)
		}
	}
	long := MetricDef{MetricKindCounter, strings.Repeat("n", 64), strings.Repeat("u", 24), strings.Repeat("ä", 60)}
	for range 2 { // the second time it must be found, cut as it is
		_, err := table.Define(long, 1)
		noErr(t, err)
	}
	wantEqual(t, table.Read()[0].Help, strings.Repeat("ä", 52))
	_, err := table.Define(MetricDef{MetricKindHistogram, "h", "", ""}, 1)
	noErr(t, err)
	if _, err := table.Define(MetricDef{MetricKindCounter, "one_too_many", "", ""}, 1); !errors.Is(err, ErrMetricsFull) {
		t.Errorf("a ninth row: %v", err)
	}
	if _, err := metricGroup(t, 6).Metrics(0).Define(MetricDef{MetricKindHistogram, "h", "", ""}, 1); !errors.Is(err, ErrMetricsFull) {
		t.Errorf("a histogram in six rows: %v", err)
	}
	if _, err := metricGroup(t, 0).Metrics(0).Define(MetricDef{MetricKindCounter, "c", "", ""}, 1); !errors.Is(err, ErrMetricsFull) {
		t.Errorf("a counter in no rows: %v", err)
	}
}

// A reader sees rows whole, whatever is defined and counted meanwhile, and numbers that never go back.
func TestMetricsAreReadWhole(t *testing.T) {
	table := metricGroup(t, 64).Metrics(0)
	def := func(i int) MetricDef {
		return MetricDef{MetricKindCounter, fmt.Sprintf("counter_number_%d", i), "", fmt.Sprintf("what counter number %d counts", i)}
	}
	var writer sync.WaitGroup
	done := make(chan struct{})
	writer.Go(func() {
		defer close(done)
		var cells []MetricCell
		for i := range 64 {
			c, err := table.Define(def(i), 7)
			if err != nil {
				t.Error(err)
				return
			}
			for _, c := range append(cells, c) {
				c.Value.Add(1)
			}
			cells = append(cells, c)
		}
	})
	var last []Metric
	for {
		end := false
		select {
		case <-done:
			end = true
		default:
		}
		all := table.Read()
		if len(all) < len(last) {
			t.Fatalf("%d metrics after %d", len(all), len(last))
		}
		for i, m := range all {
			if m.MetricDef != def(i) {
				t.Fatalf("metric %d reads %+v", i, m)
			}
			if i < len(last) && m.Count < last[i].Count {
				t.Fatalf("metric %d went back from %d to %d", i, last[i].Count, m.Count)
			}
		}
		last = all
		if end {
			break
		}
	}
	writer.Wait()
	if n := len(table.Read()); n != 64 {
		t.Errorf("%d metrics in the end", n)
	}
	if !slices.IsSortedFunc(last, func(a, b Metric) int { return int(b.Count) - int(a.Count) }) {
		t.Error("the counts are not those that were counted")
	}
}

// Whatever a hostile worker leaves in its table and in the head of its group, readers and the next process neither crash nor read beyond it.
func FuzzMetrics(f *testing.F) {
	c := GroupConfig{Instances: 2, Metrics: 16}
	image := func() []byte {
		b := heap(GroupSize(c))
		g, err := FormatGroup(b, header("group/w"), c)
		if err != nil {
			f.Fatal(err)
		}
		for _, k := range []MetricKind{MetricKindCounter, MetricKindHistogram, MetricKindGauge} {
			if _, err := g.Metrics(0).Define(MetricDef{k, "m", "u", k.String()}, 7); err != nil {
				f.Fatal(err)
			}
		}
		return b
	}
	tables := int(groupMetrics(c))
	f.Add([]byte{1, 0, 0, 0, 3, 0, 0, 0}, uint16(0), false)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint16(SizeofMetricRow+OffsetofMetricRowRows), false)
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f}, uint16(OffsetofGroupInfoMetricRows), true)
	f.Fuzz(func(t *testing.T, data []byte, at uint16, head bool) {
		b := image()
		place := tables + int(at)
		if head {
			place = bodyOffset + int(at)%SizeofGroupInfo
		}
		if place > len(b) {
			return
		}
		copy(b[place:], data)
		g, err := OpenGroup(b)
		if err != nil {
			return
		}
		for i := range g.Instances() {
			m := g.Metrics(i)
			if all := m.Read(); len(all) > m.Rows() {
				t.Fatalf("%d metrics in %d rows", len(all), m.Rows())
			}
			if cell, err := m.Define(MetricDef{MetricKindHistogram, "m", "u", "histogram"}, 8); err == nil {
				cell.Observe(uint64(at) << 40)
			}
			g.Reset(i)
		}
		Verify(b, VerifyOptions{})
	})
}
