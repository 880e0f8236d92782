package protocol

import (
	"errors"
	"fmt"
)

// A Violation is an invariant that the memory does not keep.
type Violation struct {
	Segment string
	Offset  int64  // in the segment, of the word that is wrong, or of the struct if it is more than one
	Rule    string // its short name; the same for the same rule whatever the values are
	What    string // the values, and what they should be
}

func (v Violation) String() string {
	return fmt.Sprintf("segment %q, offset %#x, %s: %s", v.Segment, v.Offset, v.Rule, v.What)
}

// VerifyOptions say what else is known about a segment.
type VerifyOptions struct {
	// InUse reports whether an attachment id belongs to a process, or to one whose repair has not ended: whoever a slot names must. nil: not checked.
	InUse func(id uint16) bool
	// Copy: the bytes are a copy that was made while processes wrote. Rules that tie two words together are left out: the copy may have one from before a
	// change and the other from after it.
	Copy bool
}

// Verify checks every invariant that the documentation of the segment's kind states, as far as it can be seen from outside: docs/queue.md, lane.md, topic.md,
// latest.md, call.md, log and roster in docs/layout.md. It only reads, and reads no slot that was never used.
//
// Memory in use changes meanwhile. The words of a rule are read in such an order that a change by the protocol does not look like a violation, but where an
// operation takes several steps its middle does; what is still there at a second look is one. What it finds is bounded by what lies in the segment.
func Verify(b []byte, o VerifyOptions) []Violation {
	v := &verifier{o: o}
	h, err := ReadHeader(b)
	if err != nil {
		return append(v.list, violationOf(h.Name, err))
	}
	v.segment = h.Name
	switch h.Kind {
	case KindRoster:
		verifyWith(v, b, OpenRoster, v.roster)
	case KindCommand:
		verifyWith(v, b, OpenCommand, v.command)
	case KindGroup:
		verifyWith(v, b, OpenGroup, v.group)
	case KindLog:
		verifyWith(v, b, OpenLog, v.log)
		verifyWith(v, b, OpenEvents, v.log)
	case KindQueue:
		verifyWith(v, b, OpenQueue, v.queue)
	case KindTopic:
		verifyWith(v, b, OpenTopic, v.topic)
	case KindLatest:
		verifyWith(v, b, OpenLatest, v.latest)
	case KindCall:
		verifyWith(v, b, OpenCall, v.call)
	default:
		v.add(OffsetofSegmentHeaderKind, "header.kind", "%v is no kind of segment that this program knows", h.Kind)
	}
	return v.list
}

// violationOf makes one of what an Open function says.
func violationOf(segment string, err error) Violation {
	var c *CorruptError
	if errors.As(err, &c) {
		return Violation{segment, c.Offset, "geometry", c.What}
	}
	return Violation{segment, 0, "header", err.Error()}
}

func verifyWith[T any](v *verifier, b []byte, open func([]byte) (T, error), check func(T)) {
	s, err := open(b)
	if err != nil {
		v.list = append(v.list, violationOf(v.segment, err))
		return
	}
	check(s)
}

type verifier struct {
	o       VerifyOptions
	segment string
	list    []Violation
}

func (v *verifier) add(offset int64, rule, format string, args ...any) {
	v.list = append(v.list, Violation{v.segment, offset, rule, fmt.Sprintf(format, args...)})
}

// held checks the owner of something that somebody holds.
func (v *verifier) held(offset int64, what string, owner uint16) {
	switch {
	case owner == 0:
		v.add(offset, "owner.none", "%s, and names nobody who holds it: no repair gives it back", what)
	case v.o.InUse != nil && !v.o.InUse(owner):
		v.add(offset, "owner.unknown", "%s by attachment %d, which no process has: no repair gives it back", what, owner)
	}
}

// end checks the owner of an end that may have none.
func (v *verifier) end(offset int64, what string, owner uint32) {
	if owner != 0 {
		v.held(offset, what+" is taken", uint16(owner))
	}
}

func (v *verifier) roster(r *Roster) {
	at := func(t rows, i int) int64 { return t.offset + int64(i)*t.size }
	names := map[string]bool{}
	for i := range r.SegmentCount() {
		s, err := r.Segment(i)
		if err != nil {
			v.add(at(r.segments, i), "roster.row", "%v", err)
			continue
		}
		if s.Name == "" { // free
			continue
		}
		if why := s.Damage(); why != "" {
			v.add(at(r.segments, i), "roster.segment", "segment %d, %.40q, %s", i, s.Name, why)
		}
		if names[s.Name] {
			v.add(at(r.segments, i), "roster.name", "segment %d is called %q, which is another's name", i, s.Name)
		}
		names[s.Name] = true
	}
	groups := r.GroupCount()
	for i := range groups {
		if _, err := r.Group(i); err != nil {
			v.add(at(r.groups, i), "roster.row", "%v", err)
		}
	}
	holder := map[uint16]string{}
	seen := map[string]bool{}
	for i := range r.WorkerCount() {
		w, err := r.Worker(i)
		if err != nil {
			v.add(at(r.workers, i), "roster.row", "%v", err)
			continue
		}
		if w.State == StateGone {
			continue
		}
		switch {
		case w.State > StateGone:
			v.add(at(r.workers, i)+OffsetofWorkerRowState, "roster.state", "worker %q is in state %d, which there is not", w.Name, w.State)
		case (w.State == StateReady) && w.Pid == 0:
			v.add(at(r.workers, i)+OffsetofWorkerRowPid, "roster.process", "worker %q is %v and has no process", w.Name, w.State)
		}
		if w.Group < 0 || w.Group >= groups {
			v.add(at(r.workers, i)+OffsetofWorkerRowGroup, "roster.group", "worker %q is of group %d, and there are %d", w.Name, w.Group, groups)
		}
		if w.Name == "" || seen[w.Name] {
			v.add(at(r.workers, i)+OffsetofWorkerRowName, "roster.name", "worker %d is called %q, which is empty or another's name", i, w.Name)
		}
		seen[w.Name] = true
		if w.Attachment == 0 {
			continue
		}
		if other := holder[w.Attachment]; other != "" {
			v.add(at(r.workers, i)+OffsetofWorkerRowAttachment, "roster.attachment", "workers %q and %q both have attachment %d", other, w.Name, w.Attachment)
		}
		holder[w.Attachment] = w.Name
	}
	for id := 1; id < r.AttachmentCap(); id++ {
		a, err := r.Attachment(uint16(id))
		if err != nil {
			v.add(at(r.attachments, id), "roster.row", "%v", err)
			continue
		}
		if a.State > AttachmentRepairing {
			v.add(at(r.attachments, id)+OffsetofAttachmentRowState, "roster.state", "attachment %d is in state %d, which there is not", id, a.State)
		}
	}
}

func (v *verifier) command(c *Command) {
	check := func(offset int64, what string, d Desired) {
		if d > DesiredStop {
			v.add(offset, "command.desired", "%s is wanted %d, which there is not", what, d)
		}
	}
	at := func(table int64, i int) int64 { return table + int64(i)*SizeofCommandRow + OffsetofCommandRowDesired }
	check(bodyOffset+OffsetofCommandInfoDesired, "the region", c.RegionDesired())
	for i := range c.Groups() {
		check(at(c.groupsAt, i), fmt.Sprintf("group %d", i), c.GroupDesired(i))
	}
	for i := range c.Workers() {
		check(at(c.rowsAt, i), fmt.Sprintf("worker %d", i), c.WorkerDesired(i))
	}
}

func (v *verifier) group(g *GroupSegment) {
	for i := range g.Instances() {
		p := g.Page(i)
		at := int64(g.info.InstanceOffset.Load()) + int64(i)*int64(g.info.InstanceStride.Load())
		if p.Ready.Load() != 0 && p.AttachedPid.Load() == 0 {
			v.add(at+OffsetofInstancePageReady, "group.ready", "instance %d is ready and no process attached", i)
		}
		v.metrics(i, g.Metrics(i))
		if l := g.Log(i); l != nil {
			v.records(l.Oldest().Next)
		}
	}
}

// metrics checks that what is published of an instance's metrics is whole.
func (v *verifier) metrics(instance int, t MetricTable) {
	names := map[MetricDef]bool{}
	for i := 0; i < t.n; {
		r := t.row(i)
		if MetricState(r.State.Load()) != MetricStatePublished {
			return
		}
		at := t.first + int64(i)*SizeofMetricRow
		d := MetricDef{MetricKind(r.Kind.Load()), Text(r.Name[:]), Text(r.Unit[:]), Text(r.Help[:])}
		want := uint32(0)
		switch d.Kind {
		case MetricKindHistogram:
			want = metricBucketRows
		case MetricKindCounter, MetricKindGauge:
		default:
			v.add(at+OffsetofMetricRowKind, "group.metric", "metric %d of instance %d is a %v", i, instance, d.Kind)
		}
		if rows := r.Rows.Load(); rows != want {
			v.add(at+OffsetofMetricRowRows, "group.metric", "metric %q of instance %d has %d rows of buckets, not %d", d.Name, instance, rows, want)
		}
		if d.check() != nil || names[d] {
			v.add(at+OffsetofMetricRowName, "group.metric", "metric %d of instance %d is called %q in %q, which no metric is, or another is", i, instance, d.Name, d.Unit)
		}
		names[d] = true
		more := t.following(i, r)
		for k := range more {
			if s := MetricState(t.row(i + 1 + k).State.Load()); s != MetricStateBuckets {
				v.add(at+int64(1+k)*SizeofMetricRow, "group.metric", "metric %q of instance %d should have buckets here, and there is %v", d.Name, instance, s)
			}
		}
		i += 1 + more
	}
}

func (v *verifier) log(l *Log) {
	v.records(l.Oldest().Next)
}

func (v *verifier) records(next func() (Record, uint64, bool, error)) {
	for {
		_, _, ok, err := next()
		if err != nil {
			violation := violationOf(v.segment, err)
			violation.Rule = "log.record"
			v.list = append(v.list, violation)
			return
		}
		if !ok {
			return
		}
	}
}
