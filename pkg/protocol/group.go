package protocol

import (
	"fmt"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// GroupSegment is a view of a group segment: one page and one metric table for each instance, which that instance alone
// writes while it runs; the daemon zeroes a page before it launches the instance.
type GroupSegment struct {
	b       []byte
	h       Header
	info    *GroupInfo
	pages   []*InstancePage
	metrics int64 // offset of the metric table of instance 0
	rows    int   // of each metric table
}

// GroupConfig gives the size of a group segment.
type GroupConfig struct {
	Instances int
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

// FormatGroup makes a group segment in b, which must be zero. Errors: ErrTooShort.
func FormatGroup(b []byte, h Header, c GroupConfig) (*GroupSegment, error) {
	h.Kind = KindGroup
	if err := format(b, h, GroupSize(c)); err != nil {
		return nil, err
	}
	info := overlayGroupInfo(b, bodyOffset)
	info.InstanceCap.Store(uint32(c.Instances))
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
	for i := range int64(count) {
		g.pages = append(g.pages, overlayInstancePage(b, int64(offset)+i*int64(stride)))
	}
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

// Instances returns the number of pages.
func (g *GroupSegment) Instances() int { return len(g.pages) }

// Page returns the page of instance i, which must be below Instances.
func (g *GroupSegment) Page(i int) *InstancePage { return g.pages[i] }

// Reset zeroes the page of instance i, and takes from its metrics the process that they belonged to: what was counted stays. Only the
// daemon calls it, only while the instance has no process; it may be killed anywhere in it, and do it again.
func (g *GroupSegment) Reset(i int) {
	p := g.pages[i]
	p.Ready.Store(0)
	p.ReadyNs.Store(0)
	p.QuitSeenNs.Store(0)
	p.HeartbeatNs.Store(0)
	p.Asleep.Store(0)
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
