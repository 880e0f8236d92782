package stat

import (
	"time"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/pkg/protocol"
)

// Worker is a row of the roster as it is now, with what the instance's own page says.
type Worker struct {
	protocol.Worker
	Index      int
	Desired    protocol.Desired
	Unattended bool          // its process ended, and no daemon has seen it yet
	Attached   bool          // it has attached to its page
	Asleep     int           // goroutines that wait in the library; while above 0 no heartbeat is expected
	Heartbeat  time.Duration // age of the last heartbeat, below 0 if there is none
	Metrics    []Metric      // that it defined, and how far they are
}

// Metric is a metric of one instance.
type Metric struct {
	protocol.Metric
	Live bool // the process that runs now defined it; a gauge that is not live says nothing
}

// ReadWorker returns row i; kept says whether a daemon keeps the roster up. Where none does, the process and its page say what the row
// cannot know. Errors: a row that a daemon was killed in.
func ReadWorker(set control.Set, i int, kept bool) (Worker, error) {
	row, err := set.Roster.Worker(i)
	w := Worker{Worker: row, Index: i, Desired: Desired(set, i, row.Group), Heartbeat: -1}
	if err != nil || kept {
		return w, err
	}
	if alive, _ := control.Alive(w.Process(), w.StartTicks); w.Process() > 0 && !alive {
		w.Pid, w.ShimPid, w.StartTicks, w.Attachment, w.Stalled = 0, 0, 0, 0, false
		w.Unattended, w.State, w.Reason = true, protocol.StateExited, "ended while no daemon looked after it"
	}
	if w.State == protocol.StateBackoff {
		w.Reason = supervise.Lasting(w.Reason) + "; to be started again, and no daemon is at work that does"
	}
	p := Page(set, w.Worker)
	if w.State == protocol.StateStarting && p != nil && p.Ready.Load() != 0 {
		w.State = protocol.StateReady
	}
	if w.ShimPid > 0 && p != nil {
		w.Stalled = p.Stalled.Load() != 0
		if w.State == protocol.StateReady {
			w.Reason = protocol.Text(p.Note[:])
		}
	}
	return w, nil
}

// Desired is what is wanted of worker i of a group, all in all.
func Desired(set control.Set, i, group int) protocol.Desired {
	if i >= set.Command.Workers() || group < 0 || group >= set.Command.Groups() {
		return set.Command.RegionDesired()
	}
	if !set.Command.Wanted(i, group) {
		return protocol.DesiredStop
	}
	return protocol.DesiredRun
}

// Page is a worker's own page, nil if this process does not hold it.
func Page(set control.Set, w protocol.Worker) *protocol.InstancePage {
	if w.Group < 0 || w.Group >= len(set.Groups) || set.Groups[w.Group] == nil || w.Instance < 0 || w.Instance >= set.Groups[w.Group].Instances() {
		return nil
	}
	return set.Groups[w.Group].Page(w.Instance)
}

// look reads the instance's page and its metrics. now is CLOCK_MONOTONIC.
func (w *Worker) look(set control.Set, now int64, parts Part) {
	p := Page(set, w.Worker)
	if p == nil {
		return
	}
	runs := w.Process() > 0
	pid := int(int32(p.AttachedPid.Load()))
	if runs && pid != 0 {
		w.Attached, w.Asleep = true, int(int32(p.Asleep.Load()))
		if beat := p.HeartbeatNs.Load(); beat != 0 {
			w.Heartbeat = max(time.Duration(now-int64(beat)), 0)
		}
	}
	if parts&Metrics == 0 {
		return
	}
	for _, m := range set.Groups[w.Worker.Group].Metrics(w.Instance).Read() {
		w.Metrics = append(w.Metrics, Metric{m, runs && m.Owner != 0 && m.Owner == pid})
	}
	w.Metrics = merge(w.Metrics)
}

// merge makes one metric of those of one name, kind and unit: a process that gave another help than the one before it has another row, and
// the counter goes on from the sum. The help is that of the row that is live, or else of the last.
func merge(all []Metric) []Metric {
	var out []Metric
next:
	for _, m := range all {
		for i := range out {
			o := &out[i]
			if o.Name != m.Name || o.Kind != m.Kind || o.Unit != m.Unit {
				continue
			}
			switch m.Kind {
			case protocol.MetricKindCounter:
				m.Count += o.Count
			case protocol.MetricKindHistogram:
				m.Count, m.Sum = m.Count+o.Count, m.Sum+o.Sum
				for b, n := range o.Buckets {
					m.Buckets[b] += n
				}
			case protocol.MetricKindGauge:
				if o.Live {
					m.Gauge = o.Gauge
				}
			}
			if o.Live {
				m.Help, m.Live, m.Owner = o.Help, true, o.Owner
			}
			*o = m
			continue next
		}
		out = append(out, m)
	}
	return out
}
