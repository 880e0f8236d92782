package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/stat"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) statCommand() *cobra.Command {
	var every time.Duration
	c := a.verb(cobra.Command{
		Use:   "stat [--watch TIME] [NAME...]",
		Short: "print counters: restarts, messages, and what workers count",
		Long: `stat prints numbers from the memory: of each group its restarts by cause, of
each channel what was sent, delivered, redelivered, became dead or was lost,
and what workers count themselves, added up over the instances of a group.
With names it prints those workers, groups and channels only, and each worker
by itself. /metrics of the daemon tells the same to Prometheus.

Counters do not go back, over the death of a worker or of the daemon. ASLEEP
is who waits in a channel: receivers, then senders. LEASED are messages that
consumers work on, and OLDEST says who does so for how long at least.

With --watch it goes on every TIME, and prints what came in each second
instead of sums; with -o json one object a line, with sums.`,
		Example: `  shmctl stat
  shmctl stat parser jobs
  shmctl stat --watch 1s jobs
  shmctl stat -o json | jq '.workers[] | select(.restarts > 0)'`,
		ValidArgsFunction: a.complete(func(s *session) []string { return append(workerNames(s), channelNames(s)...) }),
	}, func(cmd *cobra.Command, names []string) error {
		if cmd.Flags().Changed("watch") && every < minWatch {
			return usagef("--watch %v: at least %v", every, minWatch)
		}
		return anyNames(cmd, names)
	}, func(ctx context.Context, names []string) error { return a.stat(ctx, names, every) })
	c.Flags().DurationVar(&every, "watch", 0, "print again and again, after each `TIME`, 1s say")
	return c
}

// minWatch is the shortest time between two looks.
const minWatch = 10 * time.Millisecond

// statJSON is a snapshot of a region.
type statJSON struct {
	Schema      int               `json:"schema"`
	Region      string            `json:"region"`
	Taken       string            `json:"taken"`
	Groups      []statGroupJSON   `json:"groups"`
	Workers     []statWorkerJSON  `json:"workers"`
	Channels    []statChannelJSON `json:"channels"`
	Attachments map[string]int    `json:"attachments"` // processes by role
}

type statGroupJSON struct {
	Name            string            `json:"name"`
	Count           int               `json:"count"`
	States          countsJSON        `json:"states"`
	Restarts        uint64            `json:"restarts"`
	RestartsByCause map[string]uint64 `json:"restarts_by_cause"`
	Metrics         []metricJSON      `json:"metrics"` // sums over the instances
}

type statWorkerJSON struct {
	Name            string            `json:"name"`
	Group           string            `json:"group"`
	Pid             pid               `json:"pid"`
	State           string            `json:"state"`
	Restarts        uint64            `json:"restarts"`
	RestartsByCause map[string]uint64 `json:"restarts_by_cause"`
	Cause           string            `json:"cause"`            // why the last process ended; "" if none has
	HeartbeatAgeNs  *int64            `json:"heartbeat_age_ns"` // null: no process that attached
	Asleep          int               `json:"asleep"`           // goroutines that wait in the library
	Metrics         []metricJSON      `json:"metrics"`
}

type metricJSON struct {
	Name   string   `json:"name"`
	Kind   string   `json:"kind"`
	Unit   string   `json:"unit"`
	Help   string   `json:"help"`
	Live   bool     `json:"live"`             // a process that runs defined it
	Value  *float64 `json:"value,omitempty"`  // of a gauge that is live
	Count  *uint64  `json:"count,omitempty"`  // of a counter; of a histogram its values
	Sum    *uint64  `json:"sum,omitempty"`    // of a histogram
	Median *uint64  `json:"median,omitempty"` // of a histogram with values
	P99    *uint64  `json:"p99,omitempty"`
	P999   *uint64  `json:"p999,omitempty"`
}

type statChannelJSON struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Slots    int    `json:"slots"`
	SlotSize int    `json:"slot_size"`
	*statNumbersJSON
	Error string `json:"error,omitempty"` // why there are no numbers
}

type statNumbersJSON struct {
	Depth           int        `json:"depth"`
	Sent            uint64     `json:"sent"`
	Received        uint64     `json:"received"`
	Acked           uint64     `json:"acked"`
	Redelivered     uint64     `json:"redelivered"`
	Dead            uint64     `json:"dead"`
	Lost            uint64     `json:"lost"`
	Aborted         uint64     `json:"aborted"`
	ReceiversAsleep int        `json:"receivers_asleep"`
	SendersAsleep   int        `json:"senders_asleep"`
	Leased          int        `json:"leased"`
	OldestLease     *leaseJSON `json:"oldest_lease"`
}

type leaseJSON struct {
	Holder    string `json:"holder"`
	Pid       int    `json:"pid"`
	AtLeastNs int64  `json:"at_least_ns"` // since this shmctl saw it first: 0 without --watch
}

func (a *app) stat(ctx context.Context, names []string, every time.Duration) error {
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	pick, err := s.pick(names)
	if err != nil {
		return err
	}
	r := s.reader()
	var before *stat.Snapshot
	for {
		all := r.Snapshot(stat.Leases | stat.Metrics)
		over := len(alive(all)) == 0 // none of all its workers
		now := pick.of(all)
		if before == nil {
			for _, err := range slices.Concat(now.Problems, now.Damaged) {
				a.warn("%v", err)
			}
			a.warnChannels(now)
		}
		switch {
		case a.json():
			err = a.printJSON(statDocument(now))
		case every == 0 || before != nil:
			err = a.printStat(now, before, pick)
		}
		if err != nil || every == 0 {
			return err
		}
		before = now
		select {
		case <-time.After(every):
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return explain(context.Cause(ctx), "it goes on for as long as the region")
			}
			return nil // the user has seen enough
		}
		if over && !s.kept() && s.living == nil {
			return nil // the region has ended
		}
	}
}

// alive are the workers that have a process.
func alive(s *stat.Snapshot) []stat.Worker {
	return slices.DeleteFunc(slices.Clone(s.Workers), func(w stat.Worker) bool { return w.Process() == 0 })
}

// picked are the workers and channels that were asked for; the zero value is everything.
type picked struct {
	workers, groups map[int]bool
	channels        map[string]bool
}

// pick finds what the names stand for. Errors: a name that nothing has.
func (s *session) pick(names []string) (picked, error) {
	if len(names) == 0 {
		return picked{}, nil
	}
	p := picked{map[int]bool{}, map[int]bool{}, map[string]bool{}}
	have := channelNames(s)
	for _, name := range names {
		if slices.Contains(have, name) {
			p.channels[name] = true
		}
		t, err := control.Resolve(s.Roster, []string{name})
		if err != nil && !p.channels[name] {
			if len(have) > 0 {
				err = fmt.Errorf("%w; there are the channels %s", err, strings.Join(have, ", "))
			}
			return p, err
		}
		for _, i := range t.Workers {
			p.workers[i] = true
		}
		for _, g := range t.Groups {
			p.groups[g] = true
		}
	}
	return p, nil
}

// of leaves in a snapshot what was asked for.
func (p picked) of(s *stat.Snapshot) *stat.Snapshot {
	if p.workers == nil {
		return s
	}
	s.Workers = slices.DeleteFunc(s.Workers, func(w stat.Worker) bool { return !p.workers[w.Index] })
	s.Channels = slices.DeleteFunc(s.Channels, func(c stat.Channel) bool { return !p.channels[c.Name] })
	return s
}

// warnChannels says of which channels there are no numbers.
func (a *app) warnChannels(s *stat.Snapshot) {
	var list []channelJSON
	for _, c := range s.Channels {
		if c.Err != nil {
			list = append(list, channelJSON{Name: c.Name, Error: c.Err.Error()})
		}
	}
	a.warnNumbers(list)
}

func causes[N uint32 | uint64](by [protocol.NumCauses]N) map[string]uint64 {
	m := map[string]uint64{}
	for c := range by {
		if c > 0 {
			m[strings.ReplaceAll(protocol.Cause(c).String(), "-", "_")] = uint64(by[c])
		}
	}
	return m
}

func statDocument(s *stat.Snapshot) statJSON {
	doc := statJSON{Schema: schema, Region: s.Region, Taken: timestamp(s.Taken), Groups: []statGroupJSON{}, Workers: []statWorkerJSON{}, Channels: []statChannelJSON{}, Attachments: map[string]int{}}
	totals := s.Totals()
	for i, g := range s.Groups {
		if g.Name == "" { // free
			continue
		}
		j := statGroupJSON{Name: g.Name, Count: g.Count, RestartsByCause: causes(g.Restarts), Metrics: []metricJSON{}}
		for st, n := range g.States {
			for range n {
				j.States.add(protocol.State(st))
			}
		}
		j.States.Stalled = g.Stalled
		for _, n := range g.Restarts {
			j.Restarts += n
		}
		for _, t := range totals {
			if t.Group == i {
				j.Metrics = append(j.Metrics, metricDocument(t.Metric))
			}
		}
		doc.Groups = append(doc.Groups, j)
	}
	for _, w := range s.Workers {
		j := statWorkerJSON{Name: w.Name, Pid: pid(w.Pid), State: stateCell(w.State).text, Restarts: w.Restarts, RestartsByCause: causes(w.RestartsBy), Asleep: w.Asleep, Metrics: []metricJSON{}}
		if w.Group >= 0 && w.Group < len(s.Groups) {
			j.Group = s.Groups[w.Group].Name
		}
		if w.Cause != 0 {
			j.Cause = w.Cause.String()
		}
		if ns := int64(w.Heartbeat); ns >= 0 {
			j.HeartbeatAgeNs = &ns
		}
		for _, m := range w.Metrics {
			j.Metrics = append(j.Metrics, metricDocument(m))
		}
		doc.Workers = append(doc.Workers, j)
	}
	for _, c := range s.Channels {
		j := statChannelJSON{Name: c.Name, Kind: c.Kind.String(), Slots: c.Slots, SlotSize: c.SlotSize}
		if c.Err != nil {
			j.Error = c.Err.Error()
		} else {
			j.statNumbersJSON = &statNumbersJSON{Depth: c.Depth, Sent: c.Sent, Received: c.Received, Acked: c.Acked, Redelivered: c.Redelivered, Dead: c.Dead, Lost: c.Lost,
				Aborted: c.Aborted, ReceiversAsleep: c.Receivers, SendersAsleep: c.Senders, Leased: c.Leases}
			if o := c.Oldest; o != nil {
				j.OldestLease = &leaseJSON{o.Holder, o.Pid, int64(o.AtLeast)}
			}
		}
		doc.Channels = append(doc.Channels, j)
	}
	for role, n := range s.Attachments {
		doc.Attachments[role.String()] = n
	}
	return doc
}

func metricDocument(m stat.Metric) metricJSON {
	j := metricJSON{Name: m.Name, Kind: m.Kind.String(), Unit: m.Unit, Help: m.Help, Live: m.Live}
	switch m.Kind {
	case protocol.MetricKindCounter:
		j.Count = &m.Count
	case protocol.MetricKindGauge:
		if m.Live {
			j.Value = &m.Gauge
		}
	case protocol.MetricKindHistogram:
		j.Count, j.Sum = &m.Count, &m.Sum
		if m.Count > 0 {
			q := [3]uint64{m.Quantile(0.5), m.Quantile(0.99), m.Quantile(0.999)}
			j.Median, j.P99, j.P999 = &q[0], &q[1], &q[2]
		}
	}
	return j
}

// printStat prints sums, or what came since the snapshot before, by the second.
func (a *app) printStat(s, before *stat.Snapshot, pick picked) error {
	rate := rates{now: s, before: before}
	named := pick.workers != nil
	var tables []*table
	begin := func(header ...string) *table {
		t := a.newTable(header...)
		tables = append(tables, t)
		return t
	}
	if !named && len(s.Groups) > 0 {
		t := begin("GROUP", "READY", "RESTARTS", "AFTER")
		for _, g := range s.Groups {
			if g.Name == "" { // free
				continue
			}
			ready := cell{text: fmt.Sprintf("%d/%d", g.Ready(), g.Count)}
			if g.Ready() < g.Count {
				ready.color = yellow
			}
			t.add(g.Name, ready, sumOf(g.Restarts), causeText(g.Restarts))
		}
	}
	if len(s.Workers) > 0 && named {
		t := begin("WORKER", "STATE", "PID", "RESTARTS", "AFTER", "HEARTBEAT", "ASLEEP")
		for _, w := range s.Workers {
			pid, beat, asleep := "", "", ""
			if w.Pid > 0 {
				pid = strconv.Itoa(w.Pid)
			}
			if w.Heartbeat >= 0 {
				beat = age(w.Heartbeat)
			}
			if w.Attached {
				asleep = strconv.Itoa(w.Asleep)
			}
			t.add(w.Name, stateCell(w.State), pid, w.Restarts, causeText(w.RestartsBy), beat, asleep)
		}
	}
	if len(s.Channels) > 0 {
		per := ""
		if before != nil {
			per = "/s"
		}
		t := begin("CHANNEL", "KIND", "DEPTH", "SENT"+per, "DELIVERED"+per, "REDELIVERED"+per, "DEAD"+per, "LOST"+per, "ASLEEP", "LEASED", "OLDEST")
		for i, c := range s.Channels {
			if c.Err != nil {
				t.add(c.Name, c.Kind, "", "", "", "", "", "", "", "", "")
				continue
			}
			t.add(c.Name, c.Kind, depthCell(c), rate.channel(i, func(c *stat.Channel) uint64 { return c.Sent }), rate.channel(i, func(c *stat.Channel) uint64 { return c.Received }),
				rate.channel(i, func(c *stat.Channel) uint64 { return c.Redelivered }), rate.bad(i, func(c *stat.Channel) uint64 { return c.Dead }),
				rate.bad(i, func(c *stat.Channel) uint64 { return c.Lost }), fmt.Sprintf("%d %d", c.Receivers, c.Senders), c.Leases, leaseText(c.Oldest))
		}
	}
	if s.Counted() {
		t := begin("OF", "METRIC", "VALUE", "HELP")
		if named {
			for _, w := range s.Workers {
				for _, m := range w.Metrics {
					t.add(w.Name, m.Name, rate.metric(w.Index, -1, m), m.Help)
				}
			}
		} else {
			for _, m := range s.Totals() {
				if m.Group >= 0 && m.Group < len(s.Groups) {
					t.add(s.Groups[m.Group].Name, m.Name, rate.metric(-1, m.Group, m.Metric), m.Help)
				}
			}
		}
	}
	for i, t := range tables {
		if i > 0 {
			a.stdout.WriteString("\n")
		}
		if err := t.print(); err != nil {
			return err
		}
	}
	if before != nil {
		_, err := a.stdout.WriteString("\n")
		return err
	}
	return nil
}

// rates turns counters into rates, if there is a snapshot before.
type rates struct{ now, before *stat.Snapshot }

func (r rates) perSecond(now, before uint64) string {
	return humanRate(float64(now-min(before, now)) / r.now.Taken.Sub(r.before.Taken).Seconds())
}

func (r rates) channel(i int, of func(*stat.Channel) uint64) string {
	c := &r.now.Channels[i]
	if r.before == nil {
		return strconv.FormatUint(of(c), 10)
	}
	for k := range r.before.Channels {
		if b := &r.before.Channels[k]; b.Name == c.Name && b.Err == nil {
			return r.perSecond(of(c), of(b))
		}
	}
	return ""
}

// bad is channel for what should not come.
func (r rates) bad(i int, of func(*stat.Channel) uint64) cell {
	c := cell{text: r.channel(i, of)}
	if c.text != "0" {
		c.color = yellow
	}
	return c
}

// metric tells a metric of a worker, or of a group.
func (r rates) metric(worker, group int, m stat.Metric) string {
	if r.before == nil || m.Kind == protocol.MetricKindGauge {
		return metricText(m)
	}
	count := uint64(0)
	same := func(b stat.Metric) {
		if b.Name == m.Name && b.Kind == m.Kind && b.Unit == m.Unit {
			count = b.Count
		}
	}
	if worker >= 0 {
		for _, w := range r.before.Workers {
			if w.Index == worker {
				for _, b := range w.Metrics {
					same(b)
				}
			}
		}
	} else {
		for _, b := range r.before.Totals() {
			if b.Group == group {
				same(b.Metric)
			}
		}
	}
	text := r.perSecond(m.Count, count)
	if m.Kind == protocol.MetricKindHistogram {
		return text + "/s, " + quantileText(m)
	}
	return text + unitText(m.Unit) + "/s"
}

// humanRate is a number of three digits or so: 0, 0.25, 12.5, 1.2k, 3.4M.
func humanRate(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 10:
		return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
	case v < 1000:
		return fmt.Sprintf("%.0f", v)
	}
	for _, unit := range []string{"k", "M", "G"} {
		if v /= 1000; v < 1000 || unit == "G" {
			if v < 100 {
				return fmt.Sprintf("%.1f%s", v, unit)
			}
			return fmt.Sprintf("%.0f%s", v, unit)
		}
	}
	return ""
}

// metricText is the value of a metric in its unit.
func metricText(m stat.Metric) string {
	switch m.Kind {
	case protocol.MetricKindGauge:
		if !m.Live {
			return ""
		}
		return valueText(m.Gauge, m.Unit)
	case protocol.MetricKindHistogram:
		if m.Count == 0 {
			return "0"
		}
		return fmt.Sprintf("%d, %s", m.Count, quantileText(m))
	}
	if m.Unit == "bytes" || m.Unit == "nanoseconds" {
		return valueText(float64(m.Count), m.Unit)
	}
	return strconv.FormatUint(m.Count, 10) + unitText(m.Unit)
}

func quantileText(m stat.Metric) string {
	q := func(p float64) string { return valueText(float64(m.Quantile(p)), m.Unit) }
	return fmt.Sprintf("median %s, p99 %s, p99.9 %s", q(0.5), q(0.99), q(0.999))
}

func valueText(v float64, unit string) string {
	switch {
	case unit == "bytes" && v >= 0 && v < 1<<62:
		return size(int64(v))
	case unit == "nanoseconds" && v >= 0 && v < 1<<62:
		return took(time.Duration(v))
	}
	return strconv.FormatFloat(v, 'f', -1, 64) + unitText(unit)
}

func unitText(unit string) string {
	if unit == "" {
		return ""
	}
	return " " + printable(unit)
}

func sumOf[N uint32 | uint64](by [protocol.NumCauses]N) (sum uint64) {
	for _, n := range by {
		sum += uint64(n)
	}
	return sum
}

// causeText names the causes that there were: "3 signal, 1 exit".
func causeText[N uint32 | uint64](by [protocol.NumCauses]N) string {
	var parts []string
	for c, n := range by {
		if c > 0 && n > 0 {
			parts = append(parts, fmt.Sprintf("%d %v", n, protocol.Cause(c)))
		}
	}
	return strings.Join(parts, ", ")
}

// depthCell is how much waits; it is red when the channel is full.
func depthCell(c stat.Channel) cell {
	d := cell{text: strconv.Itoa(c.Depth)}
	if c.Kind != protocol.KindLatest && c.Slots > 0 && c.Depth >= c.Slots {
		d.color = red
	}
	return d
}

func leaseText(l *stat.Lease) string {
	switch {
	case l == nil:
		return ""
	case l.AtLeast < time.Millisecond:
		return l.Holder
	}
	return fmt.Sprintf("%s %s", l.Holder, took(l.AtLeast))
}
