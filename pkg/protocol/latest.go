package protocol

import (
	"fmt"
	"slices"

	"github.com/shmd/shmd/internal/sys"
)

// LatestOptions is the geometry of a latest value.
type LatestOptions struct {
	Slots    int  // versions kept: a power of two, 4 to 256
	SlotSize int  // bytes that a value has at most, 1 to 1<<30
	Sparse   bool // recorded in the header; the memory is the caller's
	// Start is the version of an empty first value. 0 but in tests, which start shortly before a wrap.
	Start uint64
}

// Latest is a view of a latest value: the newest version of a value, and the versions before it that are being read still. docs/latest.md
// argues it; its letters stand at the stores and loads here. Geometry is read and checked once, in OpenLatest. Any number of goroutines
// and processes may use it at once. No operation here blocks.
type Latest struct {
	b    []byte
	h    Header
	info *LatestInfo

	mask     uint64
	slotSize int
	stride   uint64
	offset   uint64
	first    *byte // of slot 0
	flags    LatestFlag

	// Changes is where readers wait for a new version.
	Changes Doorbell
}

const (
	latestSlots = 4096 // offset of slot 0, or a little more

	// How often a writer looks at all slots, when writers hold each of them, before it gives up; and how often others get ahead of it, at
	// a slot or at the word Current, which only damage can bring about.
	claimPasses = 64
	mostTries   = 1 << 20
	// ReadTries is how often Get and View are overtaken before they give up.
	ReadTries = 128

	// copyChunk is how much is copied at a time. Go copies 1 MiB and more past the caches, which halves the rate between neighbours; and
	// a reader that was overtaken notices at the end of a chunk.
	copyChunk = 128 << 10
)

func (o LatestOptions) stride() int64 {
	return QueueOptions{SlotSize: o.SlotSize}.stride()
}

// slots returns the offset of slot 0. A value that does not share the line of its state word begins on a line of its own: a copy from there is a third
// faster, and one of a line touches no second one.
func (o LatestOptions) slots() int64 {
	if SizeofLatestSlot+o.SlotSize <= 64 {
		return latestSlots
	}
	return latestSlots + 64 - SizeofLatestSlot
}

func (o LatestOptions) check() error {
	switch {
	case o.Slots < 4 || o.Slots > 1<<LatestInfoSlotBits || o.Slots&(o.Slots-1) != 0:
		return fmt.Errorf("latest value with %d slots: the number must be a power of two from 4 to %d", o.Slots, 1<<LatestInfoSlotBits)
	case o.SlotSize < 1 || o.SlotSize > 1<<30:
		return fmt.Errorf("latest value with slots of %d bytes: must be 1 to %d", o.SlotSize, 1<<30)
	}
	return nil
}

// LatestSize returns the bytes that a latest value needs.
func LatestSize(o LatestOptions) (int64, error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	return o.slots() + int64(o.Slots)*o.stride(), nil
}

// FormatLatest makes a latest value in b, which must be zero; it touches no slot. Errors: ErrTooShort, bad geometry.
func FormatLatest(b []byte, h Header, o LatestOptions) (*Latest, error) {
	need, err := LatestSize(o)
	if err != nil {
		return nil, err
	}
	h.Kind = KindLatest
	if err := format(b, h, need); err != nil {
		return nil, err
	}
	info := overlayLatestInfo(b, bodyOffset)
	info.Slots.Store(uint32(o.Slots))
	info.SlotSize.Store(uint32(o.SlotSize))
	info.Stride.Store(uint32(o.stride()))
	info.SlotsOffset.Store(uint64(o.slots()))
	if o.Sparse {
		info.Flags.Store(uint32(LatestFlagSparse))
	}
	if o.Start != 0 {
		i := (o.Start - 1) % uint64(o.Slots)
		info.Current.Store(uint64(makeCurrent(o.Start, i)))
		overlayLatestSlot(b, o.slots()+int64(i)*o.stride()).State.Store(uint64(makeLatestWord(PhaseReady, 0, o.Start)))
	}
	publish(b)
	return OpenLatest(b)
}

// OpenLatest checks the header and the geometry. Errors: those of ReadHeader, *KindError, *CorruptError.
func OpenLatest(b []byte) (*Latest, error) {
	h, err := open(b, KindLatest)
	if err != nil {
		return nil, err
	}
	info := overlayLatestInfo(b, bodyOffset)
	if info == nil {
		return nil, fmt.Errorf("latest value %q: %w", h.Name, ErrTooShort)
	}
	o := LatestOptions{Slots: int(info.Slots.Load()), SlotSize: int(info.SlotSize.Load())}
	stride, offset := uint64(info.Stride.Load()), info.SlotsOffset.Load()
	if err := o.check(); err != nil {
		return nil, &CorruptError{h.Name, bodyOffset, err.Error()}
	}
	if stride < uint64(SizeofLatestSlot+o.SlotSize) || stride%64 != 0 {
		return nil, &CorruptError{h.Name, bodyOffset + OffsetofLatestInfoStride, fmt.Sprintf("stride %d for slots of %d bytes", stride, o.SlotSize)}
	}
	if offset < bodyOffset+SizeofLatestInfo || offset%SizeofLatestSlot != 0 {
		return nil, &CorruptError{h.Name, bodyOffset + OffsetofLatestInfoSlotsOffset, fmt.Sprintf("slots begin at %#x, inside the head", offset)}
	}
	if err := table(h.Name, b, bodyOffset+OffsetofLatestInfoSlotsOffset, offset, uint32(o.Slots), stride); err != nil {
		return nil, err
	}
	return &Latest{
		b: b, h: h, info: info,
		mask: uint64(o.Slots - 1), slotSize: o.SlotSize, stride: stride, offset: offset, first: &b[offset], flags: LatestFlag(info.Flags.Load()),
		Changes: Doorbell{bell: &info.Bell, waiters: &info.Waiters, all: true},
	}, nil
}

// Header returns the segment's header.
func (l *Latest) Header() Header { return l.h }

// Slots returns the number of versions kept.
func (l *Latest) Slots() int { return int(l.mask) + 1 }

// SlotSize returns the bytes that a value has at most.
func (l *Latest) SlotSize() int { return l.slotSize }

// Flags returns what kind of latest value it is.
func (l *Latest) Flags() LatestFlag { return l.flags }

// Version returns the present version, 0 before the first value.
func (l *Latest) Version() uint64 { return l.current().version() }

func (l *Latest) current() current { return current(l.info.Current.Load()) }

// A current is the word that says which version is the newest, and in which slot it lies: version:56 | slot:8.
type current uint64

func makeCurrent(version, slot uint64) current {
	return current(version<<LatestInfoVersionShift | slot&(1<<LatestInfoSlotBits-1))
}

func (c current) version() uint64 { return uint64(c) >> LatestInfoVersionShift }
func (c current) slot() uint64    { return uint64(c) & (1<<LatestInfoSlotBits - 1) }

// next returns the version after c's. 0 is no version.
func (c current) next() uint64 {
	return max(1, (c.version()+1)&(1<<LatestInfoVersionBits-1))
}

// A LatestWord is the state word of a slot of a latest value: version:44 | owner:16 | phase:4.
type LatestWord uint64

func makeLatestWord(p Phase, owner uint16, version uint64) LatestWord {
	return LatestWord(p)&(1<<LatestSlotPhaseBits-1) | LatestWord(owner)<<LatestSlotOwnerShift | LatestWord(version<<LatestSlotVersionShift)
}

// Phase returns the phase; a damaged word may give one that has no name.
func (w LatestWord) Phase() Phase { return Phase(w & (1<<LatestSlotPhaseBits - 1)) }

// Owner returns the attachment id that writes the slot.
func (w LatestWord) Owner() uint16 { return uint16(w >> LatestSlotOwnerShift) }

// Version returns the low 44 bits of the version that the slot holds or is written for.
func (w LatestWord) Version() uint64 { return uint64(w >> LatestSlotVersionShift) }

// held reports whether a writer has the slot. One without a name could never be given back: that is damage, and the slot is free.
func (w LatestWord) held() bool { return w.Phase() == PhaseWriting && w.Owner() != 0 }

// of reports whether the slot was last claimed for a version.
func (w LatestWord) of(version uint64) bool {
	return w.Version() == version&(1<<LatestSlotVersionBits-1)
}

// after reports whether the slot was last claimed for a version that comes after the given one.
func (w LatestWord) after(version uint64) bool {
	return int64((w.Version()-version)<<(64-LatestSlotVersionBits)) > 0
}

// Draft is a writer's hold on a slot: the slot is WRITING and names the writer.
type Draft struct {
	slot uint64
	word LatestWord
}

// TryDraft claims a slot for the attachment owner, which must not be 0: the one whose version is the oldest, if nobody writes there. Slots that
// writers hold are passed by. There is one while fewer than Slots-1 others are held; a process that holds one at a
// time never fails beside Slots-2 others that do. Errors: *FullError.
func (l *Latest) TryDraft(owner uint16) (Draft, error) {
	for pass, try := 0, 0; pass < claimPasses && try < mostTries; try++ {
		first := l.current().version()
		taken := false
		for k := range l.mask + 1 {
			i := (first + k) & l.mask
			s := l.slot(i)
			w := LatestWord(s.State.Load()) // A1
			if w.held() {
				continue
			}
			c := l.current() // A2: after A1; what becomes current from here on was claimed, and has another word by then
			if c.version() != 0 && c.slot() == i {
				continue
			}
			mine := makeLatestWord(PhaseWriting, owner, c.next())
			if !s.State.CompareAndSwap(uint64(w), uint64(mine)) { // A: from here on no reader takes what is in the slot, and a repair finds it
				taken = true
				continue
			}
			l.info.Current.Load() // B: an acquire behind A, before which no store into the payload is seen
			return Draft{i, mine}, nil
		}
		if !taken { // somebody else's success is no failure
			pass++
		}
		sys.Pause()
	}
	return Draft{}, l.full()
}

// full says who holds the slots.
func (l *Latest) full() error {
	e := &FullError{Segment: l.h.Name}
	for i := range l.mask + 1 {
		if w := LatestWord(l.slot(i).State.Load()); w.held() && !slices.Contains(e.Owners, w.Owner()) {
			e.Owners = append(e.Owners, w.Owner())
		}
	}
	return e
}

// DraftBytes returns the payload of a draft, SlotSize bytes, whose contents are undefined. It is the caller's until
// Publish, PublishIf or Discard.
func (l *Latest) DraftBytes(d Draft) []byte { return l.payload(d.slot) }

// Publish makes n bytes of the draft's payload the newest version, wakes everybody who waits for a change, and returns the version.
// n must be at most SlotSize. Errors: ErrLost, and then nothing was published.
func (l *Latest) Publish(d Draft, n int) (uint64, error) {
	return l.publish(d, n, func(uint64) bool { return true })
}

// PublishIf is Publish if the present version is still the given one (0: if there is no value yet). Else it gives the slot back and
// returns the present version with ErrStale.
func (l *Latest) PublishIf(d Draft, n int, version uint64) (uint64, error) {
	return l.publish(d, n, func(v uint64) bool { return v == version })
}

func (l *Latest) publish(d Draft, n int, wanted func(version uint64) bool) (uint64, error) {
	if n < 0 || n > l.slotSize {
		return 0, fmt.Errorf("publish of %d bytes: a slot of latest value %q holds %d", n, l.h.Name, l.slotSize)
	}
	s := l.slot(d.slot)
	if LatestWord(s.State.Load()) != d.word {
		return 0, ErrLost
	}
	s.Length.Store(uint32(n))
	for range mostTries {
		c := l.current()
		if !wanted(c.version()) {
			l.Discard(d)
			return c.version(), ErrStale
		}
		v := c.next()
		if !d.word.of(v) { // others published since the claim
			mine := makeLatestWord(PhaseWriting, d.word.Owner(), v)
			if !s.State.CompareAndSwap(uint64(d.word), uint64(mine)) { // C: before D, so that who comes from Current finds the version here
				return 0, ErrLost
			}
			d.word = mine
		}
		if l.info.Current.CompareAndSwap(uint64(c), uint64(makeCurrent(v, d.slot))) { // D: publishes payload and length; pairs with F
			s.State.CompareAndSwap(uint64(d.word), uint64(makeLatestWord(PhaseReady, 0, v))) // E: the slot may be claimed once it is not current
			l.Changes.Broadcast()
			return v, nil
		}
	}
	l.Discard(d)
	return 0, &CorruptError{l.h.Name, bodyOffset + OffsetofLatestInfoCurrent, "the newest version never comes to rest; a peer is damaging it"}
}

// Discard gives a draft back. Errors: ErrLost.
func (l *Latest) Discard(d Draft) error {
	if !l.slot(d.slot).State.CompareAndSwap(uint64(d.word), uint64(makeLatestWord(PhaseFree, 0, d.word.Version()))) { // G
		return ErrLost
	}
	l.info.Aborted.Add(1)
	return nil
}

// Put makes p the newest version and returns that: TryDraft, a copy, Publish. Errors: theirs.
func (l *Latest) Put(owner uint16, p []byte) (uint64, error) {
	return l.put(owner, p, l.Publish)
}

// CompareAndSet is Put if the present version is the given one, 0 for none. Errors: those of Put; ErrStale with the present version.
func (l *Latest) CompareAndSet(owner uint16, version uint64, p []byte) (uint64, error) {
	if v := l.Version(); v != version {
		return v, ErrStale
	}
	return l.put(owner, p, func(d Draft, n int) (uint64, error) { return l.PublishIf(d, n, version) })
}

func (l *Latest) put(owner uint16, p []byte, publish func(Draft, int) (uint64, error)) (uint64, error) {
	if len(p) > l.slotSize {
		return 0, fmt.Errorf("value of %d bytes: a slot of latest value %q holds %d", len(p), l.h.Name, l.slotSize)
	}
	d, err := l.TryDraft(owner)
	if err != nil {
		return 0, err
	}
	to := l.DraftBytes(d)
	for n := 0; n < len(p); n += copyChunk {
		copyShared(to[n:], p[n:min(n+copyChunk, len(p))])
	}
	return publish(d, len(p))
}

// glimpse is what a reader goes by: a slot, and the version that it must hold until the reader is done.
type glimpse struct {
	version uint64
	slot    *LatestSlot
}

// glance finds the present version. Errors, by nothing: there is no slot.
func (l *Latest) glance() (g glimpse, c current) {
	c = l.current() // F: pairs with D
	if c.version() != 0 && c.slot() <= l.mask {
		g = glimpse{c.version(), l.slot(c.slot())}
	}
	return g, c
}

// begun reports whether the slot has the version, before anything is read from it.
func (g *glimpse) begun() bool { return LatestWord(g.slot.State.Load()).of(g.version) }

// whole reports whether the slot has not been claimed since glimpse found it: then what was read from it until now is the version. It is no
// store: the slot's line stays shared among readers.
func (g *glimpse) whole() bool {
	sys.FenceLoads() // H: what was read, before the word; pairs with A and B
	return LatestWord(g.slot.State.Load()).of(g.version)
}

// nothing says why there is no value to read.
func (l *Latest) nothing(c current) error {
	if c.version() == 0 {
		return ErrEmpty
	}
	return &CorruptError{l.h.Name, bodyOffset + OffsetofLatestInfoCurrent, fmt.Sprintf("version %d is in slot %d of %d", c.version(), c.slot(), l.mask+1)}
}

func (l *Latest) badLength(i uint64, n uint32) error {
	return &CorruptError{l.h.Name, int64(l.offset+i*l.stride) + OffsetofLatestSlotLength, fmt.Sprintf("length %d in a slot of %d bytes", n, l.slotSize)}
}

// Get appends the newest value to buf and returns the extended buffer and the version. It stores nothing in the shared memory. It is
// lock-free: it tries again only when writers have published since, and fails after ReadTries times. Errors: ErrEmpty, ErrOvertaken, *CorruptError.
func (l *Latest) Get(buf []byte) ([]byte, uint64, error) {
	have := len(buf)
	for range ReadTries {
		g, c := l.glance()
		if g.slot == nil {
			return buf[:have], 0, l.nothing(c)
		}
		if !g.begun() {
			continue
		}
		n := int(g.slot.Length.Load())
		if n > l.slotSize {
			if g.whole() {
				return buf[:have], 0, l.badLength(c.slot(), uint32(n))
			}
			continue
		}
		if cap(buf)-have < n {
			buf = slices.Grow(buf[:have], n)
		}
		buf = buf[:have+n]
		if n <= copyChunk {
			copyShared(buf[have:], l.payload(c.slot())[:n])
		} else if !g.copyLarge(buf[have:], l.payload(c.slot())) {
			continue
		}
		if g.whole() {
			return buf, g.version, nil
		}
	}
	return buf[:have], 0, ErrOvertaken
}

// copyLarge fills to in chunks. It reports false as soon as a writer has overtaken it.
func (g *glimpse) copyLarge(to, from []byte) bool {
	for at := 0; at < len(to); at += copyChunk {
		if at > 0 && !g.whole() {
			return false
		}
		copyShared(to[at:min(at+copyChunk, len(to))], from[at:])
	}
	return true
}

// View calls fn with the newest value in place and returns the version. The bytes may change under fn, which must neither write to them nor keep
// them: when a writer overtook it, what fn saw and returned does not count, and it is called again with a newer version. Otherwise View
// returns fn's error. Errors: as Get.
func (l *Latest) View(fn func(p []byte) error) (uint64, error) {
	for range ReadTries {
		g, c := l.glance()
		if g.slot == nil {
			return 0, l.nothing(c)
		}
		if !g.begun() {
			continue
		}
		n := g.slot.Length.Load()
		var err error
		if n > uint32(l.slotSize) {
			err = l.badLength(c.slot(), n)
		} else {
			err = fn(l.payload(c.slot())[:n:n])
		}
		if g.whole() {
			return g.version, err
		}
	}
	return 0, ErrOvertaken
}

// Repair frees every slot whose writer is dead, and wakes everybody who waits; see Channel. The newest value stays what it is.
func (l *Latest) Repair(dead func(owner uint16) bool) Repaired {
	var r Repaired
	for i := range l.mask + 1 {
		s := l.slot(i)
		w := LatestWord(s.State.Load())
		if !w.held() || !dead(w.Owner()) {
			continue
		}
		// FREE says that the slot was not published as the version in its word. The dead may have died between D and E, so READY, unless
		// that version is still to come.
		next := makeLatestWord(PhaseReady, 0, w.Version())
		if w.after(l.Version()) {
			next = makeLatestWord(PhaseFree, 0, w.Version())
		}
		if s.State.CompareAndSwap(uint64(w), uint64(next)) { // R
			if next.Phase() == PhaseFree {
				l.info.Aborted.Add(1)
			}
			r.Loans++
		}
	}
	l.Changes.RingAll()
	return r
}
