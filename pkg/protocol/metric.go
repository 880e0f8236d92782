package protocol

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync/atomic"
)

// MetricTable is the metric table of one instance. The instance's process adds rows and counts in them; everybody may read at any time.
//
//	instance                                   reader
//	  kind, texts, buckets                       state of the first row: not published: that is all  [P]
//	  state = published              [P]         kind, texts, value; then the next row
//	  value: atomic additions
//
// A row that is published never changes but for its value and its owner, and is never given back: the next process of the instance finds
// it by what it says and goes on counting. So a counter needs nobody's help not to go back over a death, and a writer that dies leaves a
// row that is there or one that is still free. docs/metrics.md says what follows.
type MetricTable struct {
	g     *GroupSegment
	first int64 // offset of row 0
	n     int
}

// MetricDef is what a metric says of itself.
type MetricDef struct {
	Kind MetricKind
	Name string // lower_snake, at most MaxMetricName bytes
	Unit string // of the value: bytes, nanoseconds, …; at most MaxMetricUnit bytes, empty for plain numbers
	Help string // for people; cut at MaxMetricHelp bytes
}

// Metric is a metric as it is read.
type Metric struct {
	MetricDef
	Owner   int      // pid of the process that defined it last, 0 if the daemon knows that it ended
	Count   uint64   // of a counter; of a histogram the number of values
	Gauge   float64  // of a gauge
	Sum     uint64   // of a histogram
	Buckets []uint64 // of a histogram: how many values each counted; see MetricBucketRange
}

// Bounds of what a metric says of itself, in bytes.
const (
	MaxMetricName = 64
	MaxMetricUnit = 24
	MaxMetricHelp = 104
)

// Histograms count in buckets of a quarter of a power of two: 0, 1, 2, 3, 4, 5, 6, 7, 8-9, 10-11, …; the last one counts everything from
// its lower end on.
const (
	metricBucketRows  = 6
	bucketsPerRow     = (SizeofMetricBuckets - OffsetofMetricBucketsFirst) / 8
	NumMetricBuckets  = metricBucketRows * bucketsPerRow
	metricSubBuckets  = 4
	metricSubBitCount = 2
)

// Errors of MetricTable.Define.
var (
	ErrMetricName  = errors.New("a metric's name and unit are 1 to 64 and 0 to 24 of a-z, 0-9 and _, beginning with a letter")
	ErrMetricsFull = errors.New("the instance's metric table is full")
)

// Metrics returns the metric table of instance i, which must be below Instances.
func (g *GroupSegment) Metrics(i int) MetricTable {
	_ = g.Page(i)
	return MetricTable{g, g.metrics + int64(i)*int64(g.rows)*SizeofMetricRow, g.rows}
}

// Rows returns the number of rows that the table has: one for each metric, seven for a histogram.
func (t MetricTable) Rows() int { return t.n }

func (t MetricTable) row(i int) *MetricRow {
	return overlayMetricRow(t.g.b, t.first+int64(i)*SizeofMetricRow)
}

// buckets returns the buckets in row i.
func (t MetricTable) buckets(i int) []atomic.Uint64 {
	return overlayWords(t.g.b, t.first+int64(i)*SizeofMetricRow+OffsetofMetricBucketsFirst, bucketsPerRow)
}

// following returns how many rows of buckets belong to the row at i, at most those that there are.
func (t MetricTable) following(i int, r *MetricRow) int {
	if MetricKind(r.Kind.Load()) != MetricKindHistogram {
		return 0
	}
	return int(min(r.Rows.Load(), uint32(t.n-i-1), metricBucketRows))
}

func (r *MetricRow) says(d MetricDef) bool {
	return MetricKind(r.Kind.Load()) == d.Kind && Text(r.Name[:]) == d.Name && Text(r.Unit[:]) == d.Unit && Text(r.Help[:]) == d.Help
}

// MetricCell is where a metric counts.
type MetricCell struct {
	Value   *atomic.Uint64
	buckets [metricBucketRows][]atomic.Uint64
}

// Define returns the row that says what d says, after adding it if there is none, and makes the process with this pid its owner. A gauge
// begins at 0, a counter and a histogram where the process before stopped. Only the process of the instance calls it, one goroutine at a
// time.
//
// Errors: ErrMetricName, ErrMetricsFull.
func (t MetricTable) Define(d MetricDef, pid int) (MetricCell, error) {
	if err := d.check(); err != nil {
		return MetricCell{}, err
	}
	d.Help = cutText(d.Help, MaxMetricHelp)
	i := 0
	for i < t.n {
		r := t.row(i)
		if MetricState(r.State.Load()) != MetricStatePublished {
			break
		}
		if r.says(d) {
			if d.Kind == MetricKindGauge && r.Owner.Load() != uint32(pid) {
				r.Value.Store(0) // before it has an owner, and so before anybody believes it
			}
			r.Owner.Store(uint32(pid))
			return t.cell(i, r), nil
		}
		i += 1 + t.following(i, r)
	}
	more := 0
	if d.Kind == MetricKindHistogram {
		more = metricBucketRows
	}
	if i+1+more > t.n {
		return MetricCell{}, fmt.Errorf("%w: it has %d rows, and %q needs %d more: see metrics in the worker's table of the configuration", ErrMetricsFull, t.n, d.Name, i+1+more-t.n)
	}
	r := t.row(i)
	for k := range more {
		for b := range t.buckets(i + 1 + k) {
			t.buckets(i + 1 + k)[b].Store(0)
		}
		t.row(i + 1 + k).State.Store(uint32(MetricStateBuckets))
	}
	r.Kind.Store(uint32(d.Kind))
	r.Value.Store(0)
	r.Owner.Store(uint32(pid))
	r.Rows.Store(uint32(more))
	SetText(r.Name[:], d.Name)
	SetText(r.Unit[:], d.Unit)
	SetText(r.Help[:], d.Help)
	r.State.Store(uint32(MetricStatePublished)) // P
	return t.cell(i, r), nil
}

func (t MetricTable) cell(i int, r *MetricRow) MetricCell {
	c := MetricCell{Value: &r.Value}
	for k := range t.following(i, r) {
		c.buckets[k] = t.buckets(i + 1 + k)
	}
	return c
}

// PrivateMetric is a cell for a process that nobody watches: it lies in its own memory. Errors: ErrMetricName.
func PrivateMetric(d MetricDef) (MetricCell, error) {
	return MetricCell{Value: new(atomic.Uint64)}, d.check()
}

func (d MetricDef) check() error {
	if !metricWord(d.Name, MaxMetricName) || d.Unit != "" && !metricWord(d.Unit, MaxMetricUnit) {
		return fmt.Errorf("%w, not %q and %q", ErrMetricName, d.Name, d.Unit)
	}
	return nil
}

// Observe counts a value of a histogram: a death between its two additions loses the value from the sum.
func (c MetricCell) Observe(v uint64) {
	b := MetricBucketOf(v)
	if row := c.buckets[b/bucketsPerRow]; row != nil {
		row[b%bucketsPerRow].Add(1)
	}
	c.Value.Add(v)
}

// Read returns the metrics of the table. What a hostile writer made of it is read as far as it makes sense.
func (t MetricTable) Read() []Metric {
	var all []Metric
	for i := 0; i < t.n; {
		r := t.row(i)
		if MetricState(r.State.Load()) != MetricStatePublished { // P
			break
		}
		more := t.following(i, r)
		m := Metric{MetricDef: MetricDef{MetricKind(r.Kind.Load()), Text(r.Name[:]), Text(r.Unit[:]), Text(r.Help[:])}, Owner: int(int32(r.Owner.Load()))}
		value := r.Value.Load()
		switch m.Kind {
		case MetricKindCounter:
			m.Count = value
		case MetricKindGauge:
			m.Gauge = math.Float64frombits(value)
		case MetricKindHistogram:
			m.Sum = value
			m.Buckets = make([]uint64, NumMetricBuckets)
			for k := range more {
				for b := range bucketsPerRow {
					n := t.buckets(i + 1 + k)[b].Load()
					m.Buckets[k*bucketsPerRow+b] = n
					m.Count += n
				}
			}
		}
		if m.check() == nil {
			all = append(all, m)
		}
		i += 1 + more
	}
	return all
}

// disown says that no process owns the metrics.
func (t MetricTable) disown() {
	for i := 0; i < t.n; {
		r := t.row(i)
		if MetricState(r.State.Load()) != MetricStatePublished {
			return
		}
		r.Owner.Store(0)
		i += 1 + t.following(i, r)
	}
}

// MetricBucketOf returns the bucket that counts v.
func MetricBucketOf(v uint64) int {
	if v < metricSubBuckets {
		return int(v)
	}
	e := bits.Len64(v) - 1
	return min((e-metricSubBitCount+1)*metricSubBuckets+int(v>>(e-metricSubBitCount)&(metricSubBuckets-1)), NumMetricBuckets-1)
}

// MetricBucketRange returns the smallest and the largest value that a bucket counts.
func MetricBucketRange(b int) (from, to uint64) {
	if b >= NumMetricBuckets-1 {
		return bucketFrom(NumMetricBuckets - 1), math.MaxUint64
	}
	return bucketFrom(b), bucketFrom(b+1) - 1
}

func bucketFrom(b int) uint64 {
	if b < metricSubBuckets {
		return uint64(b)
	}
	return uint64(metricSubBuckets+b%metricSubBuckets) << (b/metricSubBuckets - 1)
}

// metricWord reports whether s may be the name or the unit of a metric.
func metricWord(s string, most int) bool {
	for i, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || i > 0 && ('0' <= c && c <= '9' || c == '_')) {
			return false
		}
	}
	return s != "" && len(s) <= most
}
