package protocol

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/shmd/shmd/internal/sys"
)

// TopicOptions is the geometry of a topic.
type TopicOptions struct {
	Slots    int // a power of two, 2 to 1<<20
	SlotSize int // bytes of payload that a slot holds, 1 to 1<<30
	Cursors  int // subscribers at a time, 1 to MaxCursors
	// DropOldest lets publishers overwrite what subscribers have not read. Without it they wait for the slowest subscriber.
	DropOldest bool
	// Single is for one publisher at a time: it needs no compare-and-swap and no state words.
	Single bool
	Sparse bool // recorded in the header; the memory is the caller's
	// Fenced spares publishers and subscribers full barriers. Every process that opens the topic must be able to sys.RegisterFence.
	Fenced bool
	// EvictAfter is how long a subscriber may keep a publisher waiting; 0: for ever. Who waits evicts it: see Overdue.
	EvictAfter time.Duration
	// Start is the first position. 0 but in tests, which start shortly before a wrap.
	Start uint64
}

// MaxCursors is how many subscribers a topic has at most.
const MaxCursors = 4096

// Topic is a view of a topic segment: docs/topic.md, whose letters stand at the stores and loads here. Geometry is read
// and checked once, in OpenTopic; a later change of those words by a hostile peer has no effect. Any number of goroutines and
// processes may use a topic at once, each with Publishers and Subscribers of its own. No operation here blocks.
type Topic struct {
	b    []byte
	h    Header
	info *TopicInfo

	mask       uint64
	shift      uint // log2 of the number of slots
	step       uint64
	first      uint64
	slotSize   int
	stride     uint64
	offset     uint64 // of slot 0
	payloads   uint64 // of the payload of slot 0
	lengths    uint64 // of the length of slot 0
	lengthStep uint64 // from one length to the next
	cursors    int
	rows       uint64 // offset of cursor 0
	flags      TopicFlag
	dropOldest bool
	single     bool
	evictAfter time.Duration

	publishing atomic.Bool // Single: this view has its Publisher

	// Subscribers wait on Receivers, publishers on Senders. Each is for all who wait: ring them with Everybody.
	Receivers, Senders Doorbell
}

// Everybody is how many to wake where each sleeper has to look for itself.
const Everybody = 1 << 30

const topicCursors = bodyOffset + SizeofTopicInfo

// geometry is where things lie in a topic.
type topicGeometry struct{ stride, lengths, slots, size uint64 }

func (o TopicOptions) geometry() (g topicGeometry) {
	at := uint64(topicCursors + o.Cursors*SizeofTopicCursor)
	n := uint64(o.SlotSize)
	if !o.Single {
		n += SizeofSlotHeader
	} else {
		g.lengths = (at + 63) &^ 63
		at = g.lengths + 4*uint64(o.Slots)
	}
	switch {
	case o.SlotSize >= 4096:
		g.stride = (n + 4095) &^ 4095
	case n > 32 || !o.Single:
		g.stride = (n + 63) &^ 63
	default: // no slot lies in two cache lines
		g.stride = max(8, uint64(1)<<bits.Len64(n-1))
	}
	g.slots = (at + 4095) &^ 4095
	g.size = g.slots + uint64(o.Slots)*g.stride
	return g
}

func (o TopicOptions) check() error {
	switch {
	case o.Slots < 2 || o.Slots > 1<<20 || o.Slots&(o.Slots-1) != 0:
		return fmt.Errorf("topic of %d slots: the number must be a power of two from 2 to %d", o.Slots, 1<<20)
	case o.SlotSize < 1 || o.SlotSize > 1<<30:
		return fmt.Errorf("topic with slots of %d bytes: must be 1 to %d", o.SlotSize, 1<<30)
	case o.Cursors < 1 || o.Cursors > MaxCursors:
		return fmt.Errorf("topic for %d subscribers: must be 1 to %d", o.Cursors, MaxCursors)
	case o.EvictAfter < 0:
		return fmt.Errorf("topic that evicts after %v: must not be negative", o.EvictAfter)
	}
	return nil
}

// TopicSize returns the bytes that a topic needs.
func TopicSize(o TopicOptions) (int64, error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	return int64(o.geometry().size), nil
}

// FormatTopic makes an empty topic in b, which must be zero; it touches no slot. Errors: ErrTooShort, bad geometry.
func FormatTopic(b []byte, h Header, o TopicOptions) (*Topic, error) {
	need, err := TopicSize(o)
	if err != nil {
		return nil, err
	}
	h.Kind = KindTopic
	if err := format(b, h, need); err != nil {
		return nil, err
	}
	g := o.geometry()
	info := overlayTopicInfo(b, bodyOffset)
	info.Slots.Store(uint32(o.Slots))
	info.SlotSize.Store(uint32(o.SlotSize))
	info.Stride.Store(uint32(g.stride))
	info.SlotsOffset.Store(g.slots)
	if !o.Single {
		info.Headers.Store(uint32(o.Slots))
	}
	info.Cursors.Store(uint32(o.Cursors))
	info.CursorsOffset.Store(topicCursors)
	info.LengthsOffset.Store(g.lengths)
	info.EvictAfterNs.Store(uint64(o.EvictAfter))
	var flags TopicFlag
	for _, f := range []struct {
		set  bool
		flag TopicFlag
	}{{o.Sparse, TopicFlagSparse}, {o.DropOldest, TopicFlagDropOldest}, {o.Single, TopicFlagSingle}, {o.Fenced, TopicFlagFenced}} {
		if f.set {
			flags |= f.flag
		}
	}
	info.Flags.Store(uint32(flags))
	info.First.Store(o.Start)
	info.Tail.Store(o.Start)
	info.Limit.Store(uint64(uint32(o.Start)))
	info.Floor.Store(o.Start)
	if o.Start != 0 && !o.Single { // tests: slots that look as after Start claims
		for i := range uint64(o.Slots) {
			lap := uint32((o.Start + uint64(o.Slots) - 1 - i) / uint64(o.Slots))
			overlaySlotHeader(b, int64(g.slots+i*g.stride)).State.Store(uint64(MakeWord(PhaseFree, 0, 0, lap)))
		}
	}
	publish(b)
	return OpenTopic(b)
}

// OpenTopic checks the header and the geometry. Errors: those of ReadHeader, *KindError, *CorruptError, and that of
// sys.RegisterFence for a topic with the flag Fenced.
func OpenTopic(b []byte) (*Topic, error) {
	h, err := open(b, KindTopic)
	if err != nil {
		return nil, err
	}
	info := overlayTopicInfo(b, bodyOffset)
	if info == nil {
		return nil, fmt.Errorf("topic %q: %w", h.Name, ErrTooShort)
	}
	flags := TopicFlag(info.Flags.Load())
	o := TopicOptions{Slots: int(info.Slots.Load()), SlotSize: int(info.SlotSize.Load()), Cursors: int(info.Cursors.Load()),
		EvictAfter: time.Duration(info.EvictAfterNs.Load()), Single: flags&TopicFlagSingle != 0}
	if err := o.check(); err != nil {
		return nil, &CorruptError{h.Name, bodyOffset, err.Error()}
	}
	want, have := o.geometry(), topicGeometry{uint64(info.Stride.Load()), info.LengthsOffset.Load(), info.SlotsOffset.Load(), uint64(len(b))}
	if have.size < want.size || have.stride != want.stride || have.lengths != want.lengths || have.slots != want.slots || info.CursorsOffset.Load() != topicCursors {
		return nil, &CorruptError{h.Name, bodyOffset, fmt.Sprintf("the places of slots, lengths and cursors (%+v) are not those of %d slots of %d bytes", have, o.Slots, o.SlotSize)}
	}
	if flags&TopicFlagFenced != 0 {
		if err := sys.RegisterFence(); err != nil {
			return nil, fmt.Errorf("topic %q: %w", h.Name, err)
		}
	}
	t := &Topic{
		b: b, h: h, info: info,
		mask: uint64(o.Slots - 1), shift: uint(bits.TrailingZeros(uint(o.Slots))), step: max(1, uint64(o.Slots)/4),
		first: info.First.Load(), slotSize: o.SlotSize, stride: want.stride, offset: want.slots,
		cursors: o.Cursors, rows: topicCursors, flags: flags,
		dropOldest: flags&TopicFlagDropOldest != 0, single: o.Single, evictAfter: o.EvictAfter,
		Receivers: Doorbell{bell: &info.ReceiveBell, waiters: &info.ReceiveWaiters, fenced: flags&TopicFlagFenced != 0},
		Senders:   Doorbell{bell: &info.SendBell, waiters: &info.SendWaiters, fenced: flags&TopicFlagFenced != 0},
	}
	t.payloads, t.lengths, t.lengthStep = t.offset, want.lengths, 4
	if !t.single {
		t.payloads, t.lengths, t.lengthStep = t.offset+SizeofSlotHeader, t.offset+OffsetofSlotHeaderLength, t.stride
	}
	return t, nil
}

// Header returns the segment's header.
func (t *Topic) Header() Header { return t.h }

// Slots returns the number of slots.
func (t *Topic) Slots() int { return int(t.mask) + 1 }

// SlotSize returns the bytes of payload that a slot holds.
func (t *Topic) SlotSize() int { return t.slotSize }

// Flags returns what kind of topic it is.
func (t *Topic) Flags() TopicFlag { return t.flags }

// EvictAfter returns how long a subscriber may keep a publisher waiting; 0: for ever.
func (t *Topic) EvictAfter() time.Duration { return t.evictAfter }

// slot returns the head of the slot of a position. There are none in a topic with the flag Single.
func (t *Topic) slot(position uint64) *SlotHeader {
	return overlaySlotHeader(t.b, int64(t.offset+(position&t.mask)*t.stride))
}

// payload returns n bytes of the payload of a position's slot; n is at most slotSize.
func (t *Topic) payload(position uint64, n int) []byte {
	at := t.payloads + (position&t.mask)*t.stride
	return t.b[at : at+uint64(n) : at+uint64(n)]
}

// length returns the 4 bytes that hold the length of a position's payload.
func (t *Topic) length(position uint64) []byte {
	at := t.lengths + (position&t.mask)*t.lengthStep
	return t.b[at : at+4]
}

// fetch asks for the n slots from a position on, before they are read one after the other: so many lines that lie in another CPU's cache come together, and
// not one when the one before has been used. Of large slots it asks for nothing: the first line brings the next ones. It is for Single.
func (t *Topic) fetch(position uint64, n int) {
	if t.stride > 256 {
		return
	}
	for n > 0 {
		i := position & t.mask
		k := min(uint64(n), t.mask+1-i)
		sys.PrefetchLoads(t.b[t.payloads+i*t.stride:t.payloads+(i+k)*t.stride], int(max(t.stride, 64)))
		position += k
		n -= int(k)
	}
}

// cursor returns row i, which must be below cursors.
func (t *Topic) cursor(i int) *TopicCursor {
	return overlayTopicCursor(t.b, int64(t.rows)+int64(i)*SizeofTopicCursor)
}

func (t *Topic) lap(position uint64) uint32 { return uint32(position >> t.shift) }

// store publishes v: whoever loads it sees everything that was written before it. With Fenced it is no full barrier, and whoever goes to
// sleep makes up for that.
func (t *Topic) store(p *atomic.Uint64, v uint64) {
	if t.Receivers.fenced {
		sys.StoreRelease(p, v)
		return
	}
	p.Store(v)
}

// limit returns the word Limit, and the position that it stands for: publishers write below it only.
func (t *Topic) limit() (w, limit uint64) {
	for {
		tail := t.info.Tail.Load()
		w = t.info.Limit.Load()
		// Limit is within a ring of tail, so 32 bits tell it, unless this process was stopped for 2^30 messages between the loads.
		if t.info.Tail.Load()-tail < 1<<30 {
			return w, tail + uint64(int64(int32(uint32(w)-uint32(tail))))
		}
	}
}

// oldest returns the first position that is kept.
func (t *Topic) oldest() uint64 {
	if t.dropOldest {
		return t.info.Floor.Load()
	}
	_, limit := t.limit()
	if floor := limit - t.mask - 1; int64(floor-t.first) > 0 {
		return floor
	}
	return t.first
}

func (t *Topic) corrupt(offset uint64, what string, args ...any) error {
	return &CorruptError{t.h.Name, int64(offset), fmt.Sprintf(what, args...)}
}
