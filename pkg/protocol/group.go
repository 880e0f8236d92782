package protocol

import (
	"fmt"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// GroupSegment is a view of a group segment: one page and one metric table for each instance, which that instance alone
// writes while it runs; the daemon zeroes a page before it launches the instance. The segment is sparse: it has room for more instances than there
// are, and only what belongs to the first Instances of them has memory.
type GroupSegment struct {
	b       []byte
	h       Header
	info    *GroupInfo
	cap     int
	offset  int64
	stride  int64
	metrics int64 // offset of the metric table of instance 0
	rows    int   // of each metric table
}

// GroupConfig gives the size of a group segment.
type GroupConfig struct {
	Instances int // that there is room for
	Metrics   int // rows of each instance's metric table
}

const groupPages = 4096 // offset of the first instance page

// GroupSize returns the bytes that a group segment needs.
func GroupSize(c GroupConfig) int64 {
	return groupMetrics(c) + (int64(c.Instances)*int64(c.Metrics)*SizeofMetricRow+4095)&^4095
}

// groupMetrics returns the offset of the metric tables.
func groupMetrics(c GroupConfig) int64 {
	return groupPages + int64(c.Instances)*SizeofInstancePage
}

// FormatGroup makes a group segment in b, which must be zero and have memory for all instances; see SetInstances. Errors: ErrTooShort.
func FormatGroup(b []byte, h Header, c GroupConfig) (*GroupSegment, error) {
	h.Kind = KindGroup
	if err := format(b, h, GroupSize(c)); err != nil {
		return nil, err
	}
	info := overlayGroupInfo(b, bodyOffset)
	info.InstanceCap.Store(uint32(c.Instances))
	info.InstanceCount.Store(uint32(c.Instances))
	info.InstanceStride.Store(SizeofInstancePage)
	info.InstanceOffset.Store(groupPages)
	info.MetricOffset.Store(uint64(groupMetrics(c)))
	info.MetricRows.Store(uint32(c.Metrics))
	info.MetricCount.Store(uint32(c.Instances * c.Metrics))
	publish(b)
	return OpenGroup(b)
}

// OpenGroup checks the header and the places of pages and tables, once: the places are not read again.
// Errors: those of ReadHeader, *KindError, *CorruptError.
func OpenGroup(b []byte) (*GroupSegment, error) {
	h, err := open(b, KindGroup)
	if err != nil {
		return nil, err
	}
	g := &GroupSegment{b: b, h: h, info: overlayGroupInfo(b, bodyOffset)}
	if g.info == nil {
		return nil, fmt.Errorf("group segment %q: %w", h.Name, ErrTooShort)
	}
	count, offset, stride := g.info.InstanceCap.Load(), g.info.InstanceOffset.Load(), g.info.InstanceStride.Load()
	if stride < SizeofInstancePage || stride%64 != 0 {
		return nil, &CorruptError{h.Name, bodyOffset + OffsetofGroupInfoInstanceStride, fmt.Sprintf("stride %d", stride)}
	}
	if err := table(h.Name, b, bodyOffset+OffsetofGroupInfoInstanceOffset, offset, count, uint64(stride)); err != nil {
		return nil, err
	}
	g.cap, g.offset, g.stride = int(count), int64(offset), int64(stride)
	metrics, rows := g.info.MetricOffset.Load(), g.info.MetricRows.Load()
	if rows == 0 {
		return g, nil
	}
	if err := table(h.Name, b, bodyOffset+OffsetofGroupInfoMetricOffset, metrics, count, uint64(rows)*SizeofMetricRow); err != nil {
		return nil, err
	}
	g.metrics, g.rows = int64(metrics), int(rows)
	return g, nil
}

// Header returns the segment's header.
func (g *GroupSegment) Header() Header { return g.h }

// Cap returns the number of instances that there is room for.
func (g *GroupSegment) Cap() int { return g.cap }

// Instances returns the number of instances whose pages have memory, at most Cap.
func (g *GroupSegment) Instances() int { return min(int(g.info.InstanceCount.Load()), g.cap) }

// SetInstances says how many instances have memory: after it was given. Only the daemon calls it.
func (g *GroupSegment) SetInstances(n int) {
	g.info.MetricCount.Store(uint32(n * g.rows))
	g.info.InstanceCount.Store(uint32(n))
}

// A Part is a part of a segment.
type Part struct{ Offset, Size int64 }

// Parts returns where the instances from i up to but not including n lie in the segment. i and n must be at most Cap.
func (g *GroupSegment) Parts(i, n int) []Part {
	parts := []Part{{g.offset + int64(i)*g.stride, int64(n-i) * g.stride}}
	if size := int64(g.rows) * SizeofMetricRow; size > 0 {
		parts = append(parts, Part{g.metrics + int64(i)*size, int64(n-i) * size})
	}
	return parts
}

// Page returns the page of instance i, which must be below Cap, and below Instances if it is to be touched.
func (g *GroupSegment) Page(i int) *InstancePage {
	if uint(i) >= uint(g.cap) {
		panic(fmt.Sprintf("group segment %q: there is no page %d of %d", g.h.Name, i, g.cap))
	}
	return overlayInstancePage(g.b, g.offset+int64(i)*g.stride)
}

// Reset zeroes the page of instance i, and takes from its metrics the process that they belonged to: what was counted stays. Only the
// daemon calls it, only while the instance has no process; it may be killed anywhere in it, and do it again.
func (g *GroupSegment) Reset(i int) {
	p := g.Page(i)
	p.Ready.Store(0)
	p.ReadyNs.Store(0)
	p.QuitSeenNs.Store(0)
	p.HeartbeatNs.Store(0)
	p.Asleep.Store(0)
	p.Answered.Store(0)
	p.Ask.Store(0)
	p.FilterPid.Store(0)
	p.Stalled.Store(0)
	SetText(p.Note[:], "")
	p.AttachedPid.Store(0)
	g.Metrics(i).disown()
}

// Bell is the daemon's doorbell for this group, a futex.
func (g *GroupSegment) Bell() *atomic.Uint32 { return &g.info.Bell }

// Ring rings it.
func (g *GroupSegment) Ring() {
	g.info.Bell.Add(1)
	sys.FutexWake(&g.info.Bell, 1<<30)
}
