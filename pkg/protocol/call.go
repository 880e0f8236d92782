package protocol

import (
	"fmt"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// CallOptions is the geometry of a call channel.
type CallOptions struct {
	Slots         int  // a power of two, 2 to 1<<20: so many calls may be under way at once
	SlotSize      int  // bytes of payload that a slot holds in each direction, 1 to 1<<30
	MaxDeliveries int  // so many servers may die with a request; 0 for no limit, at most 63
	FailOnDeath   bool // a request whose server died fails; else it is served again
	Sparse        bool // recorded in the header; the memory is the caller's
	// Start is the first ticket. 0 but in tests, which start shortly before a wrap.
	Start uint64
}

// Call is a view of a call segment: slots that go from a caller to a server and back, as docs/call.md describes, whose letters stand
// at the stores and loads here. Geometry is read and checked once, in OpenCall. Any number of goroutines and processes
// may use a channel at once. No operation here blocks.
type Call struct {
	// What every call needs lies in few lines of memory: who slept before it finds none of them in the nearest cache.
	info     *CallInfo
	first    *byte // of slot 0
	slots    uint64
	slotSize int
	stride   uint64
	b        []byte

	// Servers wait on Servers for requests, callers on Callers for a free slot.
	Servers, Callers Doorbell

	offset        uint64
	maxDeliveries int
	flags         CallFlag
	h             Header
}

const (
	callCounters = bodyOffset + SizeofCallInfo
	callStripes  = 16
	callSlots    = 4096 // offset of slot 0
)

// CallCorrupt is the code of the error that the caller gets whose request was damaged in memory.
const CallCorrupt = 1<<31 - 1

// callCorruptText is its text, which lies in no slot: where an answer lies depends on the request's length, and that is what was damaged.
const callCorruptText = "the request was damaged in memory"

// stride returns the bytes from one slot to the next: whole cache lines, and whole pages for large slots, which give theirs back
// on request.
func (o CallOptions) stride() int64 {
	lines := func(n int) int64 { return (int64(n) + 63) &^ 63 }
	n := lines(SizeofCallSlot+o.SlotSize) + lines(o.SlotSize)
	if o.SlotSize >= 64<<10 {
		return (n + 4095) &^ 4095
	}
	return n
}

// callReplyAt returns where in a slot the reply begins behind a request of n bytes. What is small shares the line of the state word.
func callReplyAt(n int) uint64 {
	if at := (SizeofCallSlot + uint64(n) + 7) &^ 7; at < 64 {
		return at
	}
	return (SizeofCallSlot + uint64(n) + 63) &^ 63
}

func (o CallOptions) check() error {
	switch {
	case o.Slots < 2 || o.Slots > 1<<20 || o.Slots&(o.Slots-1) != 0:
		return fmt.Errorf("call channel of %d slots: the number must be a power of two from 2 to %d", o.Slots, 1<<20)
	case o.SlotSize < 1 || o.SlotSize > 1<<30:
		return fmt.Errorf("call channel with slots of %d bytes: must be 1 to %d", o.SlotSize, 1<<30)
	case o.MaxDeliveries < 0 || o.MaxDeliveries > maxDeliveries:
		return fmt.Errorf("call channel with max_deliveries = %d: must be 0 (no limit) to %d", o.MaxDeliveries, maxDeliveries)
	}
	return nil
}

// CallSize returns the bytes that a call channel needs.
func CallSize(o CallOptions) (int64, error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	return callSlots + int64(o.Slots)*o.stride(), nil
}

// FormatCall makes an idle call channel in b, which must be zero; it touches no slot. Errors: ErrTooShort, bad geometry.
func FormatCall(b []byte, h Header, o CallOptions) (*Call, error) {
	need, err := CallSize(o)
	if err != nil {
		return nil, err
	}
	h.Kind = KindCall
	if err := format(b, h, need); err != nil {
		return nil, err
	}
	info := overlayCallInfo(b, bodyOffset)
	info.Slots.Store(uint32(o.Slots))
	info.SlotSize.Store(uint32(o.SlotSize))
	info.Stride.Store(uint64(o.stride()))
	info.SlotsOffset.Store(callSlots)
	info.MaxDeliveries.Store(uint32(o.MaxDeliveries))
	var flags CallFlag
	if o.Sparse {
		flags |= CallFlagSparse
	}
	if o.FailOnDeath {
		flags |= CallFlagFailOnDeath
	}
	info.Flags.Store(uint32(flags))
	info.Tickets.Store(o.Start)
	publish(b)
	return OpenCall(b)
}

// OpenCall checks the header and the geometry. Errors: those of ReadHeader, *KindError, *CorruptError.
func OpenCall(b []byte) (*Call, error) {
	h, err := open(b, KindCall)
	if err != nil {
		return nil, err
	}
	info := overlayCallInfo(b, bodyOffset)
	if info == nil {
		return nil, fmt.Errorf("call channel %q: %w", h.Name, ErrTooShort)
	}
	o := CallOptions{Slots: int(info.Slots.Load()), SlotSize: int(info.SlotSize.Load()), MaxDeliveries: int(info.MaxDeliveries.Load())}
	stride, offset := info.Stride.Load(), info.SlotsOffset.Load()
	if err := o.check(); err != nil {
		return nil, &CorruptError{h.Name, bodyOffset, err.Error()}
	}
	if stride < uint64(o.stride()) || stride%64 != 0 {
		return nil, &CorruptError{h.Name, bodyOffset + OffsetofCallInfoStride, fmt.Sprintf("stride %d for slots of %d bytes", stride, o.SlotSize)}
	}
	if offset < callCounters+callStripes*SizeofCallCounters || offset%64 != 0 {
		return nil, &CorruptError{h.Name, bodyOffset + OffsetofCallInfoSlotsOffset, fmt.Sprintf("slots begin at %#x, inside the head", offset)}
	}
	if err := table(h.Name, b, bodyOffset+OffsetofCallInfoSlotsOffset, offset, uint32(o.Slots), stride); err != nil {
		return nil, err
	}
	return &Call{
		b: b, h: h, info: info, first: &b[offset],
		slots: uint64(o.Slots), slotSize: o.SlotSize, stride: stride, offset: offset,
		maxDeliveries: o.MaxDeliveries, flags: CallFlag(info.Flags.Load()),
		Servers: Doorbell{bell: &info.ServeBell, waiters: &info.ServeWaiters},
		Callers: Doorbell{bell: &info.CallBell, waiters: &info.CallWaiters},
	}, nil
}

// Header returns the segment's header.
func (c *Call) Header() Header { return c.h }

// Slots returns the number of slots.
func (c *Call) Slots() int { return int(c.slots) }

// SlotSize returns the bytes of payload that a slot holds in each direction.
func (c *Call) SlotSize() int { return c.slotSize }

// FailOnDeath reports whether a request whose server died fails; else it is served again.
func (c *Call) FailOnDeath() bool { return c.flags&CallFlagFailOnDeath != 0 }

// MaxDeliveries returns the limit, 0 for none.
func (c *Call) MaxDeliveries() int { return c.maxDeliveries }

// Flags returns what kind of call channel it is.
func (c *Call) Flags() CallFlag { return c.flags }

// room returns n bytes of slot i, from the place at on.
func (c *Call) room(i, at uint64, n int) []byte {
	from := c.offset + i*c.stride + at
	return c.b[from : from+uint64(n) : from+uint64(n)]
}

func (c *Call) counters(id uint16) *CallCounters {
	return overlayCallCounters(c.b, callCounters+int64(id%callStripes)*SizeofCallCounters)
}

// reach returns the number of slots that were ever used. A caller raises it before it claims a slot beyond, so it
// covers every slot that is held.
func (c *Call) reach() uint64 { return min(c.info.Reach.Load(), c.slots) }

// Request is a caller's hold on a slot, from TryRequest to Leave. It may be sent again after each reply.
type Request struct {
	slot   uint64
	word   CallWord // as the caller saw it last
	length int      // of what was sent
}

// Slot returns the index of the slot.
func (r Request) Slot() uint64 { return r.slot }

// TryRequest claims a free slot for the attachment caller, which must not be 0. It looks at slot from first. Errors: ErrFull.
func (c *Call) TryRequest(caller uint16, from uint64) (Request, error) {
	n := c.reach()
	if from >= n {
		from = 0
	}
	for k := range n {
		i := from + k
		if i >= n {
			i -= n
		}
		if r, ok := c.claim(i, caller); ok {
			return r, nil
		}
	}
	for n < c.slots {
		c.info.Reach.CompareAndSwap(n, n+1) // before the claim: servers and repairs look at the slots below it
		if r, ok := c.claim(n, caller); ok && c.info.Reach.Load() > n {
			return r, nil
		} else if ok { // only a hostile peer lowers it
			c.Leave(&r)
			return Request{}, c.corrupt(bodyOffset+OffsetofCallInfoReach, "reach was lowered")
		}
		n++
	}
	return Request{}, ErrFull
}

// Want asks those who keep a slot between two calls to give it back. A caller that found no slot, and has registered with Callers, calls
// it before it tries again.
func (c *Call) Want() {
	c.info.WantBell.Add(1)
	sys.FutexWake(&c.info.WantBell, 1<<30)
}

// Wanted is the futex that Want raises. Who keeps a slot looks at it, then at Callers, and frees the slot if anybody sleeps there.
func (c *Call) Wanted() *atomic.Uint32 { return &c.info.WantBell }

func (c *Call) claim(i uint64, caller uint16) (Request, bool) {
	s := c.slot(i)
	w := CallWord(s.State.Load())
	if w.Phase() != CallPhaseFree {
		return Request{}, false
	}
	mine := MakeCallWord(CallPhaseCalling, caller, 0, 0, w.Seq())
	return Request{slot: i, word: mine}, s.State.CompareAndSwap(uint64(w), uint64(mine)) // A: from here on a repair finds the slot
}

// RequestRoom returns the bytes for the request, SlotSize of them, whose contents are undefined. They are the caller's until
// Send, and after the reply until the next Send or Leave.
func (c *Call) RequestRoom(r Request) []byte { return c.room(r.slot, SizeofCallSlot, c.slotSize) }

// Send publishes n bytes of the request, and wakes a server. n must be at most SlotSize. The slot must be fresh from TryRequest, or
// its last request settled. Errors: ErrLost, and then nothing was published.
func (c *Call) Send(r *Request, n int) error {
	if n < 0 || n > c.slotSize {
		return fmt.Errorf("request of %d bytes: a slot of call channel %q holds %d", n, c.h.Name, c.slotSize)
	}
	if r.word.Phase() != CallPhaseCalling && !r.word.settled() {
		return ErrLost
	}
	return c.send(r, n, uint32(c.info.Tickets.Add(1)))
}

// SendCopy copies p into the slot and sends it: RequestRoom, a copy, and Send, but that it takes its ticket first. Servers look at the slot's line all the
// time, so the line is lost between two stores to it that something slow lies between (a ticket, another line); here all of them follow each other. Errors: those of Send.
func (c *Call) SendCopy(r *Request, p []byte) error {
	if len(p) > c.slotSize {
		return fmt.Errorf("request of %d bytes: a slot of call channel %q holds %d", len(p), c.h.Name, c.slotSize)
	}
	if r.word.Phase() != CallPhaseCalling && !r.word.settled() {
		return ErrLost
	}
	const near = 64 - SizeofCallSlot // so much shares the line of the state word
	if len(p) > near {
		c.own(r.slot, 64)
	}
	ticket := uint32(c.info.Tickets.Add(1))
	to := c.room(r.slot, SizeofCallSlot, len(p))
	if len(p) > near { // what shares the line comes last
		copy(to[near:], p[near:])
		p = p[:near]
	}
	copy(to, p)
	return c.send(r, len(to), ticket)
}

func (c *Call) send(r *Request, n int, ticket uint32) error {
	s := c.slot(r.slot)
	next := MakeCallWord(CallPhaseRequest, r.word.Caller(), 0, 0, r.word.Seq()+1)
	sys.StoreRelease(&s.Request, uint64(n)<<CallSlotLengthShift|uint64(ticket))
	if !s.State.CompareAndSwap(uint64(r.word), uint64(next)) { // B: publishes the request; pairs with D
		return ErrLost
	}
	r.word, r.length = next, n
	c.Servers.Ring(1) // C
	c.counters(next.Caller()).Requests.Add(1)
	return nil
}

// Settled reports whether the reply is there, or will never be. Errors: ErrLost.
func (c *Call) Settled(r *Request) (bool, error) {
	w := CallWord(c.slot(r.slot).State.Load())
	if w == r.word {
		return w.settled(), nil
	}
	return c.settle(r, w)
}

// settle is Settled for a word that changed.
func (c *Call) settle(r *Request, w CallWord) (bool, error) {
	if w.Caller() != r.word.Caller() || w.Seq() != r.word.Seq() {
		return false, ErrLost
	}
	if w.settled() {
		r.word = w
		c.fetch(r.slot, callReplyAt(r.length)) // not before: each look would take it from the server, who writes there
		return true, nil
	}
	if p := w.Phase(); p != CallPhaseRequest && p != CallPhaseServing {
		return false, ErrLost
	}
	return false, nil
}

// Doze announces that the caller is going to sleep for the reply. The caller then sleeps on bell as long as it has the value v, and
// looks again; if ok is false it does not sleep, but looks again at once.
func (c *Call) Doze(r *Request) (bell *atomic.Uint32, v uint32, ok bool) {
	s := c.slot(r.slot)
	v = s.Bell.Load() // before the announcement: who sees that rings after it
	for {
		w := CallWord(s.State.Load())
		if settled, err := c.settle(r, w); settled || err != nil {
			return &s.Bell, v, false
		}
		if w.Asleep() || s.State.CompareAndSwap(uint64(w), uint64(w|callAsleepBit)) { // G: E sees it, and rings
			return &s.Bell, v, true
		}
	}
}

// Reply returns what the server answered, valid until the next Send or Leave. Code is 0, or that of an error, whose
// text p is. The request must be settled. Errors: ErrServerDied, ErrLost (it is not settled), *CorruptError.
func (c *Call) Reply(r Request) (p []byte, code int32, err error) {
	switch r.word.Phase() {
	case CallPhaseAnswered:
	case CallPhaseBroken:
		return nil, 0, ErrServerDied
	default:
		return nil, 0, ErrLost
	}
	w := c.slot(r.slot).Reply.Load() // read once: a hostile peer may change it
	if int32(uint32(w)) == CallCorrupt {
		return []byte(callCorruptText), CallCorrupt, nil
	}
	n := uint32(w >> CallSlotReplyLengthShift)
	if n > uint32(c.slotSize) {
		return nil, 0, c.damaged(r.slot, OffsetofCallSlotReply, fmt.Sprintf("reply of %d bytes in a slot of %d", n, c.slotSize))
	}
	return c.room(r.slot, callReplyAt(r.length), int(n)), int32(uint32(w)), nil
}

// Leave ends the caller's hold, at whatever point: before Send, while the request waits or is served (then nobody gets the answer, and
// the server frees the slot), or after the reply. Errors: ErrLost.
func (c *Call) Leave(r *Request) error {
	s := c.slot(r.slot)
	for {
		w := CallWord(s.State.Load())
		if w.Caller() != r.word.Caller() || w.Seq() != r.word.Seq() {
			return ErrLost
		}
		switch w.Phase() {
		case CallPhaseCalling, CallPhaseRequest, CallPhaseAnswered, CallPhaseBroken, CallPhaseServing:
		default:
			return ErrLost
		}
		if c.leave(s, w) {
			r.word = 0 // nobody's
			return nil
		}
	}
}

// leave is the caller's last step, by itself or by a repair: the slot is free, or the server's alone. It reports false if the slot no
// longer has the word w.
func (c *Call) leave(s *CallSlot, w CallWord) bool {
	next := w.free()
	if w.Phase() == CallPhaseServing {
		next = w.with(CallPhaseServing, 0, w.Server()) &^ callAsleepBit
	}
	if !s.State.CompareAndSwap(uint64(w), uint64(next)) { // H
		return false
	}
	if p := w.Phase(); p == CallPhaseRequest || p == CallPhaseServing {
		c.counters(w.Caller()).Left.Add(1)
	}
	if next.Phase() == CallPhaseFree {
		c.Callers.Ring(1) // I
	}
	return true
}

// Serving is a server's hold on a slot, from TryAccept to Answer or GiveBack.
type Serving struct {
	slot   uint64
	word   CallWord
	length int // of the request
}

// Slot returns the index of the slot.
func (v Serving) Slot() uint64 { return v.slot }

// Deliveries returns how many servers took this request before and gave no answer.
func (v Serving) Deliveries() int { return v.word.Deliveries() }

// TryAccept takes the oldest request for the attachment server, which must not be 0. It looks at slot from first: a server
// that is alone with one caller finds the next request where the last one was. Errors: ErrEmpty, *CorruptError (the
// request's length is beyond the slot: its caller was told).
func (c *Call) TryAccept(server uint16, from uint64) (Serving, error) {
	// Bounded even if a hostile peer changes words for ever: each try that fails means that somebody else got further.
	for range 1 << 16 {
		i, w, ok := c.oldest(from)
		if !ok {
			return Serving{}, ErrEmpty
		}
		s := c.slot(i)
		mine := w.with(CallPhaseServing, w.Caller(), server)
		length := uint32(s.Request.Load() >> CallSlotLengthShift) // a hint: it is read again
		c.own(i, callReplyAt(min(int(length), c.slotSize)))
		if !s.State.CompareAndSwap(uint64(w), uint64(mine)) { // D: pairs with B
			continue
		}
		n := uint32(s.Request.Load() >> CallSlotLengthShift) // read once
		v := Serving{i, mine, int(n)}
		if n > uint32(c.slotSize) {
			v.length = 0
			err := c.damaged(i, OffsetofCallSlotRequest, fmt.Sprintf("request of %d bytes in a slot of %d; its caller was told", n, c.slotSize))
			c.answer(v, 0, CallCorrupt)
			return Serving{}, err
		}
		return v, nil
	}
	return Serving{}, c.corrupt(int64(c.offset), "no request stays to be taken; a peer is damaging the channel")
}

// LookOut is TryAccept for a server that looks again and again: it asks ahead for the lines of a request and of its reply in slot from. That is
// nothing for one that is about to sleep, or was woken, and finds nothing of this code in its caches.
func (c *Call) LookOut(server uint16, from uint64) (Serving, error) {
	c.fetch(from, 64)
	v, err := c.TryAccept(server, from)
	if Empty(err) {
		c.expect(from)
	}
	return v, err
}

// expect asks for the line of the next reply in slot from, to be written soon: the next request is likely to be as long as the last.
func (c *Call) expect(from uint64) {
	if from >= c.slots {
		return
	}
	s := c.slot(from)
	if CallWord(s.State.Load()).settled() { // not while another server works there
		length := uint32(s.Request.Load() >> CallSlotLengthShift)
		if at := callReplyAt(min(int(length), c.slotSize)); at >= 64 {
			c.own(from, at)
		}
	}
}

// oldest returns the request with the smallest ticket. It goes round the slots until it has seen all of them since it saw that one: so
// whatever its caller had sent before it was seen as well.
func (c *Call) oldest(from uint64) (slot uint64, word CallWord, ok bool) {
	n := c.reach()
	i := from
	if i >= n {
		i = 0
	}
	var ticket uint32
	for seen, steps := uint64(0), uint64(0); seen < n && steps < 8*n; steps++ { // an honest walk finds an older one a few times at most
		s := c.slot(i)
		if w := CallWord(s.State.Load()); w.Phase() == CallPhaseRequest {
			if t := uint32(s.Request.Load()); !ok || int32(t-ticket) < 0 {
				slot, word, ticket, ok = i, w, t, true
				seen = 0
			}
		}
		seen++
		if i++; i == n {
			i = 0
		}
	}
	return slot, word, ok
}

// RequestBytes returns the request. It is the server's, to read, until Answer or GiveBack.
func (c *Call) RequestBytes(v Serving) []byte { return c.room(v.slot, SizeofCallSlot, v.length) }

// AnswerRoom returns the bytes for the answer, SlotSize of them, whose contents are undefined. They are the server's until
// Answer or GiveBack, and lie apart from the request.
func (c *Call) AnswerRoom(v Serving) []byte {
	return c.room(v.slot, callReplyAt(v.length), c.slotSize)
}

// Answer hands n bytes of the answer to the caller, and wakes it if it sleeps. Code is 0, or that of an error, whose text the
// bytes are; it must not be negative, and n at most SlotSize. Errors: ErrCallerLeft (nobody waits for it; the slot is free), ErrLost.
func (c *Call) Answer(v Serving, n int, code int32) error {
	if n < 0 || n > c.slotSize {
		return fmt.Errorf("answer of %d bytes: a slot of call channel %q holds %d", n, c.h.Name, c.slotSize)
	}
	if code < 0 {
		return fmt.Errorf("answer with code %d: a code is above 0, and 0 is no error", code)
	}
	return c.answer(v, n, code)
}

func (c *Call) answer(v Serving, n int, code int32) error {
	s := c.slot(v.slot)
	w := CallWord(s.State.Load())
	if !v.holds(w) {
		return ErrLost
	}
	sys.StoreRelease(&s.Reply, uint64(n)<<CallSlotReplyLengthShift|uint64(uint32(code)))
	for {
		if w.Caller() == 0 { // the last to leave frees the slot
			if s.State.CompareAndSwap(uint64(w), uint64(w.free())) {
				c.Callers.Ring(1)
				return ErrCallerLeft
			}
		} else if s.State.CompareAndSwap(uint64(w), uint64(w.with(CallPhaseAnswered, w.Caller(), 0))) { // E: publishes the reply
			c.wake(s, w)
			c.counters(v.word.Server()).Answered.Add(1)
			return nil
		}
		if w = CallWord(s.State.Load()); !v.holds(w) {
			return ErrLost
		}
	}
}

// holds reports whether w is still the server's hold: its caller may have left or gone to sleep meanwhile.
func (v Serving) holds(w CallWord) bool {
	return w.Phase() == CallPhaseServing && w.Server() == v.word.Server() && w.Seq() == v.word.Seq()
}

// wake rings the caller's bell if w says that it sleeps.
func (c *Call) wake(s *CallSlot, w CallWord) {
	if w.Asleep() {
		s.Bell.Add(1) // F
		sys.FutexWake(&s.Bell, 1)
	}
}

// GiveBack gives a request back to be served again, with deliveries raised; after MaxDeliveries its caller gets
// ErrServerDied. Errors: ErrLost.
func (c *Call) GiveBack(v Serving) error { return c.unserve(v, false) }

// Break gives up a request with which its server may have begun: what becomes of it is as after the server's death. Errors: ErrLost.
func (c *Call) Break(v Serving) error { return c.unserve(v, true) }

func (c *Call) unserve(v Serving, died bool) error {
	s := c.slot(v.slot)
	for {
		w := CallWord(s.State.Load())
		if !v.holds(w) {
			return ErrLost
		}
		if c.giveBack(s, w, died) {
			return nil
		}
	}
}

// giveBack is the server's last step if it has no answer, by itself or, if it died, by a repair. It reports false if the slot no
// longer has the word w.
func (c *Call) giveBack(s *CallSlot, w CallWord, died bool) bool {
	n := min(w.Deliveries()+1, maxDeliveries)
	next := MakeCallWord(CallPhaseRequest, w.Caller(), 0, n, w.Seq()) | w&callAsleepBit
	switch {
	case w.Caller() == 0:
		next = w.free()
	case died && c.flags&CallFlagFailOnDeath != 0, c.maxDeliveries > 0 && n >= c.maxDeliveries:
		next = MakeCallWord(CallPhaseBroken, w.Caller(), 0, n, w.Seq()) | w&callAsleepBit
	}
	if !s.State.CompareAndSwap(uint64(w), uint64(next)) { // R
		return false
	}
	switch next.Phase() {
	case CallPhaseFree:
		c.Callers.Ring(1)
	case CallPhaseRequest:
		c.counters(w.Server()).Retried.Add(1)
		c.Servers.Ring(1)
	default:
		c.wake(s, w)
		c.counters(w.Server()).Broken.Add(1)
	}
	return true
}

// Repair takes the dead out of every slot and wakes everybody who sleeps on the channel; see Channel. A dead caller's slots are freed, or left to
// the server that works at them; a dead server's requests are served again, or fail.
func (c *Call) Repair(dead func(owner uint16) bool) Repaired {
	var r Repaired
	for i := range c.reach() {
		s := c.slot(i)
		for {
			w := CallWord(s.State.Load())
			if w.Phase() == CallPhaseServing && dead(w.Server()) {
				if !c.giveBack(s, w, true) {
					continue
				}
				r.Leases++
				continue // the caller may be dead as well
			}
			if w.Phase() != CallPhaseFree && w.Caller() != 0 && dead(w.Caller()) {
				if !c.leave(s, w) {
					continue
				}
				r.Loans++
				continue
			}
			if w.settled() { // who settled it may have died before it rang
				c.wake(s, w)
			}
			break
		}
	}
	c.Servers.RingAll()
	c.Callers.RingAll()
	return r
}

// damaged is a CorruptError about slot i.
func (c *Call) damaged(i uint64, field int64, what string) error {
	return c.corrupt(int64(c.offset+i*c.stride)+field, what)
}

func (c *Call) corrupt(offset int64, what string) error { return &CorruptError{c.h.Name, offset, what} }
