package protocol

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"
)

// A frame is a slot that holds up to 64 messages, so that one claim, one commit, one lease and one ack serve all of them:
//
//	payload  0        8                                  Length                 SlotSize
//	         +--------+-----------+-----------+---------+- - - - - -+----------+
//	         |  done  | message 0 | message 1 |   ...   |           | ends     |
//	         +--------+-----------+-----------+---------+- - - - - -+----------+
//
// Bit i of done says that message i has been acked: a frame that is delivered again goes on with the others. Messages of one size
// lie at multiples of it; else the table ends, which grows down from the end of the slot, has the 32-bit offset
// behind each message. The slot's word Frame has the count, 0 for a slot that is one message, and two flags.
const (
	MaxFrame = 64 // messages of a frame

	frameData   = 8    // where the first message begins
	frameCount  = 0x7f // mask of the count
	frameVaried = 1 << 8
	// frameSingle: a lease of this frame ended without an ack, so one of its messages may kill who touches it. From then on they are
	// delivered one at a time, that it is found.
	frameSingle = 1 << 9
)

// A FrameWriter puts messages into a loaned slot. It is plain memory of the caller's; nobody sees anything before CommitFrame.
type FrameWriter struct {
	p      []byte // the slot's payload
	n      int
	size   int // of each, unless varied
	end    int // behind the last
	varied bool
}

// NewFrame begins a frame in a loan's payload. A slot of less than 9 bytes holds none.
func NewFrame(payload []byte) FrameWriter { return FrameWriter{p: payload, end: frameData} }

// End gives the payload up: from then on Next has no room.
func (f *FrameWriter) End() { f.p = nil }

// Len returns the number of messages.
func (f *FrameWriter) Len() int { return f.n }

// Next returns the place of one more message, of n bytes that the caller fills, or nil if there is no room for it. It may be called
// again before the bytes are filled.
func (f *FrameWriter) Next(n int) []byte {
	// One more of the size of those before it.
	if from, to := f.end, f.end+n; n == f.size && uint(f.n-1) < MaxFrame-1 && !f.varied && uint(to) <= uint(len(f.p)) {
		f.end = to
		f.n++
		return f.p[from:to:to]
	}
	varied := f.varied || f.n > 0 && n != f.size
	need := f.end
	if varied {
		need += 4 * (f.n + 1)
	}
	if n < 0 || f.n >= MaxFrame || n > len(f.p)-need {
		return nil
	}
	if f.n == 0 {
		f.size = n
	}
	if varied {
		if !f.varied {
			f.varied = true
			for i := range f.n {
				f.mark(i, frameData+(i+1)*f.size)
			}
		}
		f.mark(f.n, f.end+n)
	}
	b := f.p[f.end : f.end+n : f.end+n]
	f.end += n
	f.n++
	return b
}

func (f *FrameWriter) mark(i, end int) {
	binary.LittleEndian.PutUint32(f.p[len(f.p)-4*(i+1):], uint32(end))
}

// seal writes what stands before the messages, and returns the words Length and Frame as one.
func (f *FrameWriter) seal() (meta uint64) {
	binary.LittleEndian.PutUint64(f.p, 0)
	word := uint64(f.n)
	if f.varied {
		word |= frameVaried
	}
	return word<<32 | uint64(f.end)
}

// Frame is a view of the messages in a leased slot, be it a frame or one message.
type Frame struct {
	p      []byte         // the slot's payload
	done   *atomic.Uint64 // nil: the slot is one message
	count  int
	size   int // of each, unless varied
	end    int // behind the last
	varied bool
	single bool
}

// Frame returns the messages that a lease covers. Errors: *CorruptError.
func (q *Queue) Frame(l Lease) (Frame, error) { return q.frame(l.slot) }

// frame reads a slot's words once and checks them.
func (q *Queue) frame(i uint64) (Frame, error) {
	meta := q.slot(i).meta().Load()
	length, word := int(uint32(meta)), uint32(meta>>32)
	if length > q.slotSize {
		return Frame{}, q.corrupt(i, OffsetofSlotHeaderLength, fmt.Sprintf("length %d in a slot of %d bytes", length, q.slotSize))
	}
	f := Frame{p: q.payload(i), count: int(word & frameCount), end: length, varied: word&frameVaried != 0, single: word&frameSingle != 0}
	switch {
	case f.count == 0:
		f.count = 1
		return f, nil
	case f.count > MaxFrame || length < frameData || f.varied && 4*f.count > len(f.p)-frameData || !f.varied && (length-frameData)%f.count != 0:
		return Frame{}, q.corrupt(i, OffsetofSlotHeaderFrame, fmt.Sprintf("frame of %d messages in %d bytes of a slot of %d", f.count, length, q.slotSize))
	}
	f.size = (length - frameData) / f.count
	f.done = overlayWord(f.p)
	return f, nil
}

// run returns the messages of a slot that lie one after another, and how many they are: a message alone, or a frame of messages of one size of which none
// was acked and none is to be delivered alone. Else it returns 0, of a damaged slot too. It is what a Frame
// shows, without one to hand over.
func (q *Queue) run(i uint64) ([]byte, int) {
	meta := q.slot(i).meta().Load()
	length, n := uint32(meta), uint32(meta>>32)
	switch {
	case length > uint32(q.slotSize):
		return nil, 0
	case n == 0:
		return q.payload(i)[:length:length], 1
	case n > MaxFrame || length < frameData || (length-frameData)%n != 0: // n is beyond it with a flag too
		return nil, 0
	}
	p := q.payload(i)
	if overlayWord(p).Load() != 0 {
		return nil, 0
	}
	return p[frameData:length:length], int(n)
}

// Run returns the messages of a lease if they are of one size and none of them was acked or is to be delivered alone: n of them, which lie in b one after another.
// Else n is 0, and Frame has them.
func (q *Queue) Run(l Lease) (b []byte, n int) {
	if b, n = q.run(l.slot); n > 1 && l.word.Deliveries() > 0 {
		return nil, 0
	}
	return b, n
}

// Len returns the number of messages, those that were acked before included.
func (f *Frame) Len() int { return f.count }

// Framed reports whether the slot is a frame, and not one message.
func (f *Frame) Framed() bool { return f.done != nil }

// Single reports whether the messages of this frame are to be delivered one at a time.
func (f *Frame) Single() bool { return f.single }

// Done reports whether message i was acked.
func (f *Frame) Done(i int) bool { return f.done != nil && f.done.Load()>>i&1 != 0 }

// Acked returns a mask of the messages that were acked.
func (f *Frame) Acked() uint64 {
	if f.done == nil {
		return 0
	}
	return f.done.Load()
}

// FirstOpen returns the first message from i on that was not acked, or Len.
func (f *Frame) FirstOpen(i int) int {
	if f.done == nil || i >= f.count {
		return min(i, f.count)
	}
	return min(i+bits.TrailingZeros64(^(f.done.Load()>>i)), f.count)
}

// Open returns the number of messages that were not acked.
func (f *Frame) Open() int {
	if f.done == nil {
		return 1
	}
	return f.count - bits.OnesCount64(f.done.Load()&(1<<f.count-1))
}

// Damaged returns the error for a message of which At returns nil.
func (q *Queue) Damaged(l Lease, i int) error {
	return q.corrupt(l.slot, SizeofSlotHeader, fmt.Sprintf("message %d of a frame lies outside of its slot; it was dropped", i))
}

// At returns message i, or nil if there is none: i is not below Len (as FirstOpen is not, when a hostile peer has set the last bit since), or
// a damaged table has it outside of the slot.
func (f *Frame) At(i int) []byte {
	switch {
	case i < 0 || i >= f.count:
		return nil
	case f.done == nil:
		return f.p[:f.end:f.end]
	case !f.varied:
		at := frameData + i*f.size
		return f.p[at : at+f.size : at+f.size]
	}
	from, to := frameData, f.tableEnd(i)
	if i > 0 {
		from = f.tableEnd(i - 1)
	}
	if from < frameData || from > to || to > f.end {
		return nil
	}
	return f.p[from:to:to]
}

func (f *Frame) tableEnd(i int) int {
	return int(binary.LittleEndian.Uint32(f.p[len(f.p)-4*(i+1):]))
}

// leaseFrame makes a fresh lease one of a frame. Errors: *CorruptError.
func (q *Queue) leaseFrame(l *Lease) error {
	f, err := q.frame(l.slot)
	if err != nil {
		return err
	}
	if l.open = uint32(f.Open()); l.open == 0 {
		return q.corrupt(l.slot, OffsetofSlotHeaderFrame, "a frame that is ready and has no message left")
	}
	if l.word.Deliveries() > 0 && f.Framed() && !f.single {
		s := q.slot(l.slot)
		s.Frame.Store(s.Frame.Load() | frameSingle) // the owner's word
	}
	return nil
}

// AckMessage acks one message of a lease. The last one that is open ends the lease, as Ack does; f is from Frame and belongs to one
// goroutine, as l does. Errors: ErrLost.
//
// Deliveries counts for the first message that is open, so it starts anew when that one is acked: first the count [O], then the bit
// [Q]. A death between delivers a message that was finished once more, which at-least-once allows; the other order would blame
// the next message for it.
func (q *Queue) AckMessage(l *Lease, f *Frame, i int) error {
	if f.done == nil || f.Open() == 1 && !f.Done(i) {
		err := q.Ack(*l)
		l.open = 0
		return err
	}
	if i >= f.count || f.Done(i) {
		return ErrLost
	}
	s := &q.slot(l.slot).State
	if l.word.Deliveries() > 0 && f.FirstOpen(0) == i {
		next := MakeWord(PhaseReading, l.word.Owner(), 0, l.word.Lap())
		if !s.CompareAndSwap(uint64(l.word), uint64(next)) { // O
			return ErrLost
		}
		l.word = next
	} else if Word(s.Load()) != l.word {
		return ErrLost
	}
	f.done.Or(1 << i) // Q
	l.open--
	q.counters(l.word.Owner()).Acked.Add(1)
	return nil
}
