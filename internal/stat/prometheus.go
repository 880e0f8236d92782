package stat

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/shmd/shmd/pkg/protocol"
)

// ContentType is that of what Prometheus returns: the text format of Prometheus, version 0.0.4.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Prometheus returns a snapshot as Prometheus reads it. docs/metrics.md lists the metrics. docs/adr/0008 says why no library writes it.
func (s *Snapshot) Prometheus() []byte {
	e := exposition{families: map[string]*family{}}
	e.region(s)
	e.groups(s)
	e.workers(s)
	e.channels(s)
	e.counted(s)
	return e.bytes()
}

// exposition is a list of metrics, each with its samples together, as the format wants.
type exposition struct {
	order    []*family
	families map[string]*family
}

// family is all samples of one name.
type family struct {
	name, kind, help string
	unit             string // of what a worker counts
	samples          bytes.Buffer
}

// metric begins a family, or returns it.
func (e *exposition) metric(name, kind, help string) *family {
	f := e.families[name]
	if f == nil {
		f = &family{name: name, kind: kind, help: help}
		e.families[name] = f
		e.order = append(e.order, f)
	}
	return f
}

// add adds a sample. labels are names and values in turn.
func (f *family) add(value float64, labels ...string) { f.sample("", value, labels...) }

func (f *family) sample(suffix string, value float64, labels ...string) {
	b := &f.samples
	b.WriteString(f.name)
	b.WriteString(suffix)
	for i := 0; i < len(labels); i += 2 {
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(labels[i])
		b.WriteString(`="`)
		b.WriteString(labelValue.Replace(strings.ToValidUTF8(labels[i+1], "\uFFFD")))
		b.WriteByte('"')
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	b.WriteByte(' ')
	b.WriteString(number(value))
	b.WriteByte('\n')
}

var (
	labelValue = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	helpText   = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
)

func number(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	case math.IsNaN(v):
		return "NaN"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

func (e *exposition) bytes() []byte {
	var b bytes.Buffer
	for _, f := range e.order {
		if f.samples.Len() > 0 {
			fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", f.name, helpText.Replace(strings.ToValidUTF8(f.help, "\uFFFD")), f.name, f.kind)
			b.Write(f.samples.Bytes())
		}
	}
	return b.Bytes()
}

func (e *exposition) region(s *Snapshot) {
	e.metric("shmd_build_info", "gauge", "Always 1; the labels name the region and the version of its daemon.").add(1, "region", s.Region, "version", s.Daemon.Version)
	e.metric("shmd_start_time_seconds", "gauge", "When the daemon was started, in seconds since 1970.").add(float64(s.Daemon.Started.UnixNano()) / 1e9)
	e.metric("shmd_region_start_time_seconds", "gauge", "When the region was made, in seconds since 1970. It outlives daemons.").add(float64(s.Header.Created.UnixNano()) / 1e9)
	e.metric("shmd_segments", "gauge", "Segments of the region.").add(float64(s.Segments))
	e.metric("shmd_memory_bytes", "gauge", "Bytes of all segments.").add(float64(s.Bytes))
	a := e.metric("shmd_attachments", "gauge", "Processes that hold segments of the region, by role.")
	for _, r := range []protocol.Role{protocol.RoleWorker, protocol.RoleObserve, protocol.RoleOperate} {
		a.add(float64(s.Attachments[r]), "role", r.String())
	}
	e.metric("shmd_unreadable_rows", "gauge", "Rows of the roster that could not be read.").add(float64(len(s.Problems) + len(s.Damaged)))
}

func (e *exposition) groups(s *Snapshot) {
	states := e.metric("shmd_workers", "gauge", "Instances of the group, by state.")
	stalled := e.metric("shmd_workers_stalled", "gauge", "Filters of the group that do not answer.")
	restarts := e.metric("shmd_restarts_total", "counter", "How often instances of the group were started again, by why the process before ended.")
	for _, g := range s.Groups {
		if g.Name == "" { // free
			continue
		}
		for st, n := range g.States {
			states.add(float64(n), "group", g.Name, "state", StateName(protocol.State(st)))
		}
		stalled.add(float64(g.Stalled), "group", g.Name)
		for c, n := range g.Restarts {
			if c > 0 {
				restarts.add(float64(n), "group", g.Name, "cause", protocol.Cause(c).String())
			}
		}
	}
}

// StateName is the name of a state; 0, the state of an instance that never had a process, is new.
func StateName(s protocol.State) string {
	if s == 0 {
		return "new"
	}
	return s.String()
}

func (s *Snapshot) groupName(w *Worker) string {
	if w.Group >= 0 && w.Group < len(s.Groups) {
		return s.Groups[w.Group].Name
	}
	return ""
}

func (e *exposition) workers(s *Snapshot) {
	ready := e.metric("shmd_worker_ready", "gauge", "1 if the instance is ready.")
	restarts := e.metric("shmd_worker_restarts_total", "counter", "How often the instance was started again.")
	changed := e.metric("shmd_worker_state_change_timestamp_seconds", "gauge", "When the state of the instance changed last, in seconds since 1970.")
	heartbeat := e.metric("shmd_worker_heartbeat_age_seconds", "gauge", "Time since the instance's last heartbeat. Absent while none is expected: it is not attached, or waits in the library.")
	for i := range s.Workers {
		w := &s.Workers[i]
		labels := []string{"group", s.groupName(w), "worker", w.Name}
		is := 0.0
		if w.State == protocol.StateReady {
			is = 1
		}
		ready.add(is, labels...)
		restarts.add(float64(w.Restarts), labels...)
		changed.add(float64(w.Since.UnixNano())/1e9, labels...)
		if w.Heartbeat >= 0 && w.Asleep == 0 {
			heartbeat.add(w.Heartbeat.Seconds(), labels...)
		}
	}
}

func (e *exposition) channels(s *Snapshot) {
	slots := e.metric("shmd_channel_slots", "gauge", "Slots of the channel.")
	depth := e.metric("shmd_channel_depth", "gauge", "Messages that are committed and not done; of a topic what the slowest subscriber has yet to read.")
	waiters := e.metric("shmd_channel_waiters", "gauge", "Who sleeps on the channel: to receive, or to send.")
	leases := e.metric("shmd_channel_leases", "gauge", "Slots that consumers work on; of a call channel, requests that servers do.")
	oldest := e.metric("shmd_channel_oldest_lease_seconds", "gauge", "How long the oldest lease has lasted at least: since it was seen here first. The label names its holder.")
	counters := []struct {
		*family
		of func(*protocol.Summary) uint64
	}{
		{e.metric("shmd_channel_messages_sent_total", "counter", "Messages that were committed."), func(u *protocol.Summary) uint64 { return u.Sent }},
		{e.metric("shmd_channel_messages_delivered_total", "counter", "Messages that were taken; of a topic by all subscribers together."), func(u *protocol.Summary) uint64 { return u.Received }},
		{e.metric("shmd_channel_messages_acked_total", "counter", "Messages that were done."), func(u *protocol.Summary) uint64 { return u.Acked }},
		{e.metric("shmd_channel_messages_redelivered_total", "counter", "Messages that were given back, by a nack or by the repair after a death."), func(u *protocol.Summary) uint64 { return u.Redelivered }},
		{e.metric("shmd_channel_messages_dead_lettered_total", "counter", "Messages that were delivered too often, or rejected; requests that failed because their servers died."), func(u *protocol.Summary) uint64 { return u.Dead }},
		{e.metric("shmd_channel_messages_lost_total", "counter", "Messages that a subscriber of a topic did not get, each counted once for each subscriber."), func(u *protocol.Summary) uint64 { return u.Lost }},
		{e.metric("shmd_channel_loans_aborted_total", "counter", "Loans that were given back without a message, by their holders or by the repair after a death."), func(u *protocol.Summary) uint64 { return u.Aborted }},
	}
	for i := range s.Channels {
		c := &s.Channels[i]
		if c.Err != nil {
			continue
		}
		labels := []string{"channel", c.Name, "kind", c.Kind.String()}
		slots.add(float64(c.Slots), labels...)
		depth.add(float64(c.Depth), labels...)
		waiters.add(float64(c.Receivers), append(labels, "end", "receive")...)
		waiters.add(float64(c.Senders), append(labels, "end", "send")...)
		leases.add(float64(c.Leases), labels...)
		if o := c.Oldest; o != nil {
			oldest.add(o.AtLeast.Seconds(), append(labels, "holder", o.Holder)...)
		}
		for _, k := range counters {
			k.add(float64(k.of(&c.Summary)), labels...)
		}
	}
}

// units are those that Prometheus wants in a base unit: the name there, and how many make one.
var units = map[string]struct {
	base string
	many float64
}{
	"nanoseconds":  {"seconds", 1e9},
	"microseconds": {"seconds", 1e6},
	"milliseconds": {"seconds", 1e3},
}

// exposed is the name of a worker's metric in Prometheus, and what its value is to be divided by.
func exposed(m *Metric) (string, float64) {
	unit, many := m.Unit, 1.0
	name := strings.TrimSuffix(m.Name, "_total")
	if u, ok := units[unit]; ok {
		name = strings.TrimSuffix(name, "_"+unit) // it would say what the value is not any more
		unit, many = u.base, u.many
	}
	if unit != "" && name != unit && !strings.HasSuffix(name, "_"+unit) {
		name += "_" + unit
	}
	if m.Kind == protocol.MetricKindCounter {
		name += "_total"
	}
	return name, many
}

var kinds = map[protocol.MetricKind]string{protocol.MetricKindCounter: "counter", protocol.MetricKindGauge: "gauge", protocol.MetricKindHistogram: "histogram"}

// counted is what workers count. A name is of one kind: where groups do not agree, the first that is seen is shown, and the others are counted
// as refused. So is what has a reserved name, and what becomes the name of another metric of its instance: jobs_bytes in bytes, beside jobs in bytes.
func (e *exposition) counted(s *Snapshot) {
	refused := 0
	for i := range s.Workers {
		w := &s.Workers[i]
		labels := []string{"group", s.groupName(w), "worker", w.Name}
		shown := map[string]bool{}
		for k := range w.Metrics {
			m := &w.Metrics[k]
			name, many := exposed(m)
			if reserved(name, m.Kind) || shown[name] {
				refused++
				continue
			}
			f := e.metric(name, kinds[m.Kind], m.Help)
			if f.kind != kinds[m.Kind] || f.unit != "" && f.unit != "in "+m.Unit {
				refused++
				continue
			}
			f.unit, shown[name] = "in "+m.Unit, true
			switch m.Kind {
			case protocol.MetricKindCounter:
				f.add(float64(m.Count)/many, labels...)
			case protocol.MetricKindGauge:
				if m.Live {
					f.add(m.Gauge/many, labels...)
				}
			case protocol.MetricKindHistogram:
				f.histogram(m, many, labels)
			}
		}
	}
	e.metric("shmd_worker_metrics_refused", "gauge", "Metrics of workers that are not shown: another has the name, of the same instance or with another kind or unit, or it begins with shmd_, or ends as if it were part of a histogram.").add(float64(refused))
}

// reserved reports whether no metric of a worker may be called so: the names of shmd itself, and those that a histogram makes of its own.
func reserved(name string, kind protocol.MetricKind) bool {
	if strings.HasPrefix(name, "shmd_") {
		return true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if kind != protocol.MetricKindHistogram && strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// histogram adds the buckets at powers of two, which are the same for all of a unit: of times from a microsecond or so to a minute.
func (f *family) histogram(m *Metric, many float64, labels []string) {
	first, last, step := 0, 40, 2
	if many != 1 {
		first, last, step = 10, 36, 1
	}
	sum, b := uint64(0), 0
	for e := first; e <= last; e += step {
		for ; b < len(m.Buckets); b++ {
			if _, to := protocol.MetricBucketRange(b); to >= 1<<e {
				break
			}
			sum += m.Buckets[b]
		}
		f.sample("_bucket", float64(sum), append(labels, "le", number(float64(uint64(1)<<e-1)/many))...)
	}
	f.sample("_bucket", float64(m.Count), append(labels, "le", "+Inf")...)
	f.sample("_sum", float64(m.Sum)/many, labels...)
	f.sample("_count", float64(m.Count), labels...)
}
