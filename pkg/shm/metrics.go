package shm

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// ErrMetric is an error of Counter, Gauge and Histogram: the process defined a metric of this name as something else.
var ErrMetric = errors.New("the metric is defined already, as something else")

// A Counter is a number that only grows: the memory keeps it over the death of the process, and the next process of the instance goes on
// with it. It is safe for concurrent use, also after Close of its Region.
type Counter struct {
	v *atomic.Uint64
	s *region.Segment // in which v lies; nil: in this process alone
}

// Add counts n more. It is one atomic addition.
func (c *Counter) Add(n uint64) {
	c.v.Add(n)
	runtime.KeepAlive(c) // and with it the mapping
}

// Inc counts one more.
func (c *Counter) Inc() { c.Add(1) }

// A Gauge is a number that goes up and down. It is valid as long as the process lives; the next one of the instance begins at 0. It is
// safe for concurrent use, also after Close of its Region.
type Gauge struct {
	v *atomic.Uint64
	s *region.Segment
}

// Set sets the gauge.
func (g *Gauge) Set(v float64) {
	g.v.Store(math.Float64bits(v))
	runtime.KeepAlive(g)
}

// Add adds v, which may be negative.
func (g *Gauge) Add(v float64) {
	for {
		old := g.v.Load()
		if g.v.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+v)) {
			break
		}
	}
	runtime.KeepAlive(g)
}

// A Histogram counts how often which value came, in buckets of a quarter of a power of two. Like a Counter it only grows. It is safe for
// concurrent use, also after Close of its Region.
type Histogram struct {
	c protocol.MetricCell
	s *region.Segment
}

// Observe counts a value, in the histogram's unit. It is two atomic additions.
func (h *Histogram) Observe(v uint64) {
	h.c.Observe(v)
	runtime.KeepAlive(h)
}

// Since observes the time since t in nanoseconds, which should be the histogram's unit.
func (h *Histogram) Since(t time.Time) { h.Observe(uint64(max(time.Since(t), 0))) }

// metrics are those that the process has defined.
type metrics struct {
	mu     sync.Mutex
	all    map[string]definition // by name
	own    bool                  // some lie in the group segment
	closed bool
}

type definition struct {
	protocol.MetricDef
	handle any
}

// end lets nobody define another, and reports whether the group segment has to stay mapped for those who count. It is unmapped when they
// are all garbage.
func (m *metrics) end() (keep bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return m.own
}

// Counter returns the counter of this name; a process defines each once, and gets the same again. The name is lower_snake without unit or
// "total" ("jobs"), the unit is one of a value ("bytes", "nanoseconds") or empty, help is a sentence for people. shmctl stat shows it, and
// /metrics as NAME_UNIT_total. For an outsider, whom nobody watches, it counts in the memory of the process.
//
// Errors: protocol.ErrMetricName; protocol.ErrMetricsFull (see metrics in the worker's table of the configuration); ErrMetric; ErrClosed.
func (r *Region) Counter(name, unit, help string) (*Counter, error) {
	return define(r, protocol.MetricDef{Kind: protocol.MetricKindCounter, Name: name, Unit: unit, Help: help},
		func(c protocol.MetricCell, s *region.Segment) *Counter { return &Counter{c.Value, s} })
}

// Gauge returns the gauge of this name; see Counter. /metrics shows it as NAME_UNIT.
func (r *Region) Gauge(name, unit, help string) (*Gauge, error) {
	return define(r, protocol.MetricDef{Kind: protocol.MetricKindGauge, Name: name, Unit: unit, Help: help},
		func(c protocol.MetricCell, s *region.Segment) *Gauge { return &Gauge{c.Value, s} })
}

// Histogram returns the histogram of this name; see Counter. It takes seven rows of the instance's table. /metrics shows it as NAME_UNIT,
// with nanoseconds told in seconds.
func (r *Region) Histogram(name, unit, help string) (*Histogram, error) {
	return define(r, protocol.MetricDef{Kind: protocol.MetricKindHistogram, Name: name, Unit: unit, Help: help},
		func(c protocol.MetricCell, s *region.Segment) *Histogram { return &Histogram{c, s} })
}

// define finds or makes a metric. Its handle refers to the segment, so that the mapping lives as long as somebody may count in it.
func define[H any](r *Region, d protocol.MetricDef, handle func(protocol.MetricCell, *region.Segment) H) (h H, err error) {
	m := &r.metrics
	m.mu.Lock()
	defer m.mu.Unlock()
	if have, ok := m.all[d.Name]; ok {
		if have.MetricDef != d {
			return h, fmt.Errorf("%w: %q is a %v in %q: %q", ErrMetric, d.Name, have.Kind, have.Unit, have.Help)
		}
		return have.handle.(H), nil
	}
	var cell protocol.MetricCell
	var s *region.Segment
	if m.closed {
		return h, fmt.Errorf("metric %q: %w", d.Name, ErrClosed)
	}
	if r.page == nil {
		if cell, err = protocol.PrivateMetric(d); err != nil {
			return h, err
		}
	} else {
		s = r.segments["group"]
		if cell, err = r.group.Metrics(r.instance).Define(d, int(r.page.AttachedPid.Load())); err != nil {
			return h, err
		}
		m.own = true
	}
	if m.all == nil {
		m.all = map[string]definition{}
	}
	h = handle(cell, s)
	m.all[d.Name] = definition{d, h}
	return h, nil
}
