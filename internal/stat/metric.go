package stat

import (
	"cmp"
	"math"
	"slices"

	"github.com/shmd/shmd/pkg/protocol"
)

// Quantile returns the largest value that a histogram's bucket with quantile q (0 to 1) counts: at most a quarter more than the value
// itself. 0 if there is none.
func (m Metric) Quantile(q float64) uint64 {
	if m.Count == 0 {
		return 0
	}
	rank, sum := uint64(max(math.Ceil(q*float64(m.Count)), 1)), uint64(0)
	for b, n := range m.Buckets {
		if sum += n; sum >= rank {
			_, to := protocol.MetricBucketRange(b)
			return to
		}
	}
	return math.MaxUint64
}

// Total is a metric of all instances of a group together.
type Total struct {
	Group int
	Metric
	Instances int // that have it; of a gauge those whose processes live
}

// Totals adds up what the instances of each group count, in the order of groups and names. Gauges that are not live are left out.
func (s *Snapshot) Totals() []Total {
	type key struct {
		group      int
		kind       protocol.MetricKind
		name, unit string
	}
	all := map[key]*Total{}
	for _, w := range s.Workers {
		for _, m := range w.Metrics {
			k := key{w.Group, m.Kind, m.Name, m.Unit}
			t := all[k]
			if t == nil {
				t = &Total{Group: w.Group, Metric: Metric{Metric: protocol.Metric{MetricDef: m.MetricDef}}}
				all[k] = t
			}
			if m.Kind == protocol.MetricKindGauge && !m.Live {
				continue
			}
			if m.Live && !t.Live {
				t.Help, t.Live = m.Help, true
			}
			t.Instances++
			t.Count, t.Sum, t.Gauge = t.Count+m.Count, t.Sum+m.Sum, t.Gauge+m.Gauge
			if m.Buckets != nil && t.Buckets == nil {
				t.Buckets = make([]uint64, len(m.Buckets))
			}
			for b, n := range m.Buckets {
				t.Buckets[b] += n
			}
		}
	}
	out := make([]Total, 0, len(all))
	for _, t := range all {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b Total) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Unit, b.Unit))
	})
	return out
}
