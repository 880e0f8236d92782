package stat

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

func metric(kind protocol.MetricKind, name, unit, help string) Metric {
	return Metric{Metric: protocol.Metric{MetricDef: protocol.MetricDef{Kind: kind, Name: name, Unit: unit, Help: help}}, Live: true}
}

func counter(name, unit string, n uint64) Metric {
	m := metric(protocol.MetricKindCounter, name, unit, "Counts.")
	m.Count = n
	return m
}

func histogram(name, unit string, values ...uint64) Metric {
	m := metric(protocol.MetricKindHistogram, name, unit, "How long.")
	m.Buckets = make([]uint64, protocol.NumMetricBuckets)
	for _, v := range values {
		m.Buckets[protocol.MetricBucketOf(v)]++
		m.Count++
		m.Sum += v
	}
	return m
}

// promtool has Prometheus itself say whether it takes a text.
func promtool(t *testing.T, text []byte) {
	t.Helper()
	c := exec.Command("promtool", "check", "metrics")
	c.Stdin = strings.NewReader(string(text))
	if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s\n%s", err, out, text)
	}
}

func TestPrometheus(t *testing.T) {
	load := metric(protocol.MetricKindGauge, "load", "", "Jobs at a time,\nnot \\ more \xff.")
	load.Gauge = 2.5
	dead := metric(protocol.MetricKindGauge, "load", "", "")
	dead.Live, dead.Gauge = false, 99.25
	nan := metric(protocol.MetricKindGauge, "ratio", "", "May be anything.")
	nan.Gauge = math.NaN()
	s := &Snapshot{Region: "te\"st", Header: protocol.Header{Created: time.Unix(1700000000, 0)}, Daemon: protocol.DaemonInfo{Version: "1\\2\n3", Started: time.Unix(1700000000, 5e8)},
		Groups: []Group{{Group: protocol.Group{Name: "a", Count: 2}}, {Group: protocol.Group{Name: "b"}}},
		Workers: []Worker{
			{Worker: protocol.Worker{Name: "a.0", State: protocol.StateReady}, Heartbeat: 1500 * time.Millisecond, Metrics: []Metric{
				counter("jobs", "", 3), counter("jobs_read", "bytes", 4096), counter("bytes", "bytes", 1), counter("seconds_total", "seconds", 2), counter("wait_milliseconds", "milliseconds", 1500),
				load, nan, histogram("lookup", "nanoseconds", 0, 1023, 1024, 5000, 1<<36, 1<<40), histogram("size", "bytes", 1, 2, 1<<20),
			}},
			{Worker: protocol.Worker{Name: "a.1"}, Heartbeat: -1, Metrics: []Metric{counter("jobs", "", 4), dead,
				histogram("jobs_total", "", 5),       // a counter already
				counter("lookup_seconds_sum", "", 1), // no: jobs ends in _total
				metric(protocol.MetricKindGauge, "lookup_seconds_count", "", "In the way of a histogram."),
				counter("jobs_read_bytes", "", 1), // the same name, in another unit
				counter("shmd_restarts", "", 1),   // ours
				counter("jobs_total", "", 8),      // jobs once more
				metric(protocol.MetricKindGauge, "shmd_mine", "", "Ours."),
				metric(protocol.MetricKindGauge, "trip_count", "", "In the way of the next."), histogram("trip", "", 1),
			}},
		},
		Channels: []Channel{
			{Name: "jobs", Kind: protocol.KindQueue, Slots: 8, Summary: protocol.Summary{Depth: 3, Sent: 1 << 60}, Oldest: &Lease{Holder: `a "quoted" name`, AtLeast: time.Second}, Leases: 1},
			{Name: "gone", Kind: protocol.KindQueue, Err: fmt.Errorf("not ours")},
		},
		Attachments: map[protocol.Role]int{protocol.RoleWorker: 2},
	}
	text := s.Prometheus()
	promtool(t, text)
	for _, want := range []string{
		"shmd_build_info{region=\"te\\\"st\",version=\"1\\\\2\\n3\"} 1",
		"# TYPE jobs_total counter",
		`jobs_total{group="a",worker="a.0"} 3`,
		`jobs_total{group="a",worker="a.1"} 4`,
		`jobs_read_bytes_total{group="a",worker="a.0"} 4096`,
		`bytes_total{group="a",worker="a.0"} 1`,
		`seconds_total{group="a",worker="a.0"} 2`,
		`wait_seconds_total{group="a",worker="a.0"} 1.5`,
		"# HELP load Jobs at a time,\\nnot \\\\ more \uFFFD.",
		`load{group="a",worker="a.0"} 2.5`,
		`ratio{group="a",worker="a.0"} NaN`,
		`lookup_seconds_bucket{group="a",worker="a.0",le="1.023e-06"} 2`,
		`lookup_seconds_bucket{group="a",worker="a.0",le="2.047e-06"} 3`,
		`lookup_seconds_bucket{group="a",worker="a.0",le="+Inf"} 6`,
		`lookup_seconds_count{group="a",worker="a.0"} 6`,
		`size_bytes_bucket{group="a",worker="a.0",le="3"} 2`,
		`shmd_worker_heartbeat_age_seconds{group="a",worker="a.0"} 1.5`,
		`shmd_worker_metrics_refused 6`,
		`shmd_channel_oldest_lease_seconds{channel="jobs",kind="queue",holder="a \"quoted\" name"} 1`,
	} {
		if !strings.Contains(string(text), "\n"+want+"\n") && !strings.HasPrefix(string(text), want+"\n") {
			t.Errorf("no line %s", want)
		}
	}
	for _, no := range []string{"gone", "99.25", "shmd_mine", `heartbeat_age_seconds{group="a",worker="a.1"}`} {
		if strings.Contains(string(text), no) {
			t.Errorf("%s is there", no)
		}
	}
	series := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		name := line[:strings.LastIndexByte(line, ' ')]
		if series[name] {
			t.Errorf("%s is there twice", name)
		}
		series[name] = true
	}
	if t.Failed() {
		t.Logf("%s", text)
	}
}

// docs/metrics.md lists every metric with its type and labels.
func TestDocs(t *testing.T) {
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(shmd_[a-z_]+)` \\| (\\w+) \\| (.*?) ?\\|").FindAllStringSubmatch(string(doc), -1) {
		listed[m[1]+" "+m[2]+" "+strings.NewReplacer("`", "", ", ", " ").Replace(m[3])] = true
	}
	s := &Snapshot{Groups: []Group{{Group: protocol.Group{Name: "g"}}}, Workers: []Worker{{}}, Channels: []Channel{{Oldest: &Lease{}}}}
	e := exposition{families: map[string]*family{}}
	e.region(s)
	e.groups(s)
	e.workers(s)
	e.channels(s)
	e.counted(s)
	for _, f := range e.order {
		var labels []string
		for _, l := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(strings.SplitAfter(f.samples.String(), "\n")[0], -1) {
			labels = append(labels, l[1])
		}
		if row := f.name + " " + f.kind + " " + strings.Join(labels, " "); !listed[row] {
			t.Errorf("docs/metrics.md does not list %s", row)
		} else {
			delete(listed, row)
		}
	}
	for row := range listed {
		t.Errorf("docs/metrics.md lists %s", row)
	}
}

// Rows of one name, kind and unit are one metric: what a process of another version counts comes on top.
func TestMerge(t *testing.T) {
	old, now := counter("jobs", "", 3), counter("jobs", "", 4)
	old.Live, old.Help = false, "Counted."
	load, loadNow := metric(protocol.MetricKindGauge, "load", "", ""), metric(protocol.MetricKindGauge, "load", "", "")
	load.Gauge, load.Live, loadNow.Gauge = 9, false, 2
	got := merge([]Metric{now, loadNow, old, load, counter("jobs", "bytes", 1), histogram("h", "", 1), histogram("h", "", 1, 2)})
	if len(got) != 4 || got[0].Count != 7 || got[0].Help != "Counts." || !got[0].Live || got[1].Gauge != 2 || got[3].Count != 3 || got[3].Buckets[1] != 2 || got[3].Sum != 4 {
		t.Errorf("%+v", got)
	}
	s := Snapshot{Workers: []Worker{{Metrics: got}, {Metrics: []Metric{counter("jobs", "", 5), load}}}}
	totals := s.Totals()
	if len(totals) != 4 || totals[1].Count != 12 || totals[1].Instances != 2 || totals[3].Gauge != 2 || totals[3].Instances != 1 {
		t.Errorf("%+v", totals)
	}
}

func TestQuantile(t *testing.T) {
	var values []uint64
	for v := range uint64(1000) {
		values = append(values, v)
	}
	h := histogram("h", "", values...)
	for q, want := range map[float64]uint64{0: 0, 0.5: 500, 0.99: 990, 1: 999} {
		if got := h.Quantile(q); got < want-min(want, 1) || float64(got) > float64(want)*1.25+1 {
			t.Errorf("quantile %v is %d, it should be %d to a quarter more", q, got, want)
		}
	}
	if (Metric{}).Quantile(0.5) != 0 {
		t.Error("a quantile of nothing")
	}
}
