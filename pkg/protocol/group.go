package protocol

import (
	"fmt"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// GroupSegment is a view of a group segment: one page, one metric table and one log for each instance, which that instance alone
// writes while it runs; the daemon zeroes a page before it launches the instance, and leaves the rest. The segment is sparse: it has room for more
// instances than there are, and only what belongs to the first Instances of them has memory.
type GroupSegment struct {
	b       []byte
	h       Header
	info    *GroupInfo
	cap     int
	offset  int64
	stride  int64
	metrics int64 // offset of the metric table of instance 0
	rows    int   // of each metric table

	logs      int64 // offset of the log of instance 0
	logStride int64
	logSize   int64 // 0: there are no logs
}

// GroupConfig gives the size of a group segment.
type GroupConfig struct {
	Instances int   // that there is room for
	Metrics   int   // rows of each instance's metric table
	LogSize   int64 // bytes of the ring of each instance's log: a power of two, MinInstanceLog to MaxInstanceLog; 0: they have none
}

const groupPages = 4096 // offset of the first instance page

// GroupSize returns the bytes that a group segment needs.
func GroupSize(c GroupConfig) int64 {
	if c.LogSize == 0 {
		return groupLogs(c)
	}
	return groupLogs(c) + int64(c.Instances)*instanceLogRoom(c.LogSize)
}

// groupMetrics returns the offset of the metric tables.
func groupMetrics(c GroupConfig) int64 {
	return groupPages + int64(c.Instances)*SizeofInstancePage
}

// groupLogs returns the offset of the logs.
func groupLogs(c GroupConfig) int64 {
	return groupMetrics(c) + (int64(c.Instances)*int64(c.Metrics)*SizeofMetricRow+4095)&^4095
}

// FormatGroup makes a group segment in b, which must be zero and have memory for all instances; see SetInstances. Errors: ErrTooShort, bad
// geometry.
func FormatGroup(b []byte, h Header, c GroupConfig) (*GroupSegment, error) {
	if c.LogSize != 0 && (c.LogSize < MinInstanceLog || c.LogSize > MaxInstanceLog || c.LogSize&(c.LogSize-1) != 0) {
		return nil, fmt.Errorf("log of %d bytes for each instance: the size must be a power of two from %d to %d", c.LogSize, MinInstanceLog, MaxInstanceLog)
	}
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
	if c.LogSize != 0 {
		info.LogCount.Store(uint32(c.Instances))
		info.LogStride.Store(uint32(instanceLogRoom(c.LogSize)))
		info.LogOffset.Store(uint64(groupLogs(c)))
		info.LogSize.Store(uint64(c.LogSize))
	}
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
	if metrics, rows := g.info.MetricOffset.Load(), g.info.MetricRows.Load(); rows != 0 {
		if err := table(h.Name, b, bodyOffset+OffsetofGroupInfoMetricOffset, metrics, count, uint64(rows)*SizeofMetricRow); err != nil {
			return nil, err
		}
		g.metrics, g.rows = int64(metrics), int(rows)
	}
	if err := g.openLogs(count); err != nil {
		return nil, err
	}
	return g, nil
}

// openLogs checks the places of the logs, where there are any.
func (g *GroupSegment) openLogs(instances uint32) error {
	stride, offset, size := g.info.LogStride.Load(), g.info.LogOffset.Load(), g.info.LogSize.Load()
	if size == 0 {
		return nil
	}
	if size < MinInstanceLog || size > MaxInstanceLog || size&(size-1) != 0 || uint64(stride) < SizeofWorkerLog+size || stride%64 != 0 {
		return &CorruptError{g.h.Name, bodyOffset + OffsetofGroupInfoLogSize, fmt.Sprintf("logs of %d bytes, %d bytes apart", size, stride)}
	}
	if err := table(g.h.Name, g.b, bodyOffset+OffsetofGroupInfoLogOffset, offset, instances, uint64(stride)); err != nil {
		return err
	}
	g.logs, g.logStride, g.logSize = int64(offset), int64(stride), int64(size)
	return nil
}

// Log returns the log of instance i, which must be below Cap, and below Instances if it is to be touched; nil if the segment was made without
// logs.
func (g *GroupSegment) Log(i int) *InstanceLog {
	if uint(i) >= uint(g.cap) {
		panic(fmt.Sprintf("group segment %q: there is no log %d of %d", g.h.Name, i, g.cap))
	}
	if g.logSize == 0 {
		return nil
	}
	at := g.logs + int64(i)*g.logStride
	ring := at + SizeofWorkerLog
	return &InstanceLog{name: g.h.Name, at: ring, info: overlayWorkerLog(g.b, at), ring: g.b[ring : ring+g.logSize : ring+g.logSize],
		nap: &g.info.LogNap, bell: &g.info.LogBell}
}

// LogNap says what the daemon does between two looks at the instances' logs; LogBell is the futex that it sleeps on then.
func (g *GroupSegment) LogNap() (nap, bell *atomic.Uint32) { return &g.info.LogNap, &g.info.LogBell }

// Header returns the segment's header.
func (g *GroupSegment) Header() Header { return g.h }

// Cap returns the number of instances that there is room for.
func (g *GroupSegment) Cap() int { return g.cap }

// Instances returns the number of instances whose pages have memory, at most Cap.
func (g *GroupSegment) Instances() int { return min(int(g.info.InstanceCount.Load()), g.cap) }

// SetInstances says how many instances have memory: after it was given. Only the daemon calls it.
func (g *GroupSegment) SetInstances(n int) {
	g.info.MetricCount.Store(uint32(n * g.rows))
	if g.logSize > 0 {
		g.info.LogCount.Store(uint32(n))
	}
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
	if g.logSize > 0 {
		parts = append(parts, Part{g.logs + int64(i)*g.logStride, int64(n-i) * g.logStride})
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

// Reset zeroes the page of instance i, and takes from its metrics the process that they belonged to: what was counted stays, and so does the log. Only the
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

// Restarts returns how often instance i was started again, by cause, also of one that is gone. It must have memory (Instances).
func (g *GroupSegment) Restarts(i int) (all [NumCauses]uint32) {
	for c, n := range g.Page(i).restartsBy() {
		if n != nil {
			all[c] = n.Load()
		}
	}
	return all
}

// SetRestarts keeps how often instance i was started again. It must have memory. Only the daemon calls it, before it writes the row that says the same: if it dies in
// between, or in the middle, the row holds for as long as the instance is there, and the next daemon does it again.
func (g *GroupSegment) SetRestarts(i int, all [NumCauses]uint32) {
	for c, n := range g.Page(i).restartsBy() {
		if n != nil {
			n.Store(all[c])
		}
	}
}

// Bell is the daemon's doorbell for this group, a futex.
func (g *GroupSegment) Bell() *atomic.Uint32 { return &g.info.Bell }

// Ring rings it.
func (g *GroupSegment) Ring() {
	g.info.Bell.Add(1)
	sys.FutexWake(&g.info.Bell, 1<<30)
}
