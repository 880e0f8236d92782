package protocol

import (
	"github.com/shmd/shmd/internal/sys"
	"sync/atomic"
	"unsafe"
)

// overlayWord returns the first eight bytes of b, which must be there and aligned, as a word.
func overlayWord(b []byte) *atomic.Uint64 {
	_ = b[7]
	return (*atomic.Uint64)(unsafe.Pointer(&b[0]))
}

// meta returns the words Length (low) and Frame (high) as one word, so that one store writes both.
func (s *SlotHeader) meta() *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&s.Length))
}

// overlayWords returns n 64-bit words of b from offset on, or nil if they do not lie in b or are not aligned.
func overlayWords(b []byte, offset int64, n int) []atomic.Uint64 {
	if offset < 0 || n <= 0 || offset > int64(len(b)) || int64(n) > (int64(len(b))-offset)/8 {
		return nil
	}
	p := unsafe.Pointer(&b[offset])
	if uintptr(p)%8 != 0 {
		return nil
	}
	return unsafe.Slice((*atomic.Uint64)(p), n)
}

// lowWord returns the low half of a word as a futex: both machines that shmd runs on are little-endian.
func lowWord(w *atomic.Uint64) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(w)) }

// slot returns the head of slot i. That all slots lie in the memory was checked in OpenQueue, and i is masked here: so no index needs
// to be checked again, which the compiler could not know.
func (q *Queue) slot(i uint64) *SlotHeader {
	return (*SlotHeader)(unsafe.Add(unsafe.Pointer(q.first), (i&q.mask)*q.stride))
}

// payload returns the payload of slot i, all SlotSize bytes.
func (q *Queue) payload(i uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(q.first), (i&q.mask)*q.stride+SizeofSlotHeader)), q.slotSize)
}

// slot returns the head of slot i. That all slots lie in the memory was checked in OpenLatest, and i is masked here.
func (l *Latest) slot(i uint64) *LatestSlot {
	return (*LatestSlot)(unsafe.Add(unsafe.Pointer(l.first), (i&l.mask)*l.stride))
}

// payload returns the payload of slot i, all SlotSize bytes.
func (l *Latest) payload(i uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(l.first), (i&l.mask)*l.stride+SizeofLatestSlot)), l.slotSize)
}

// slot returns the head of slot i. That all slots lie in the memory was checked in OpenCall, and i is masked here: their number is a power of two.
func (c *Call) slot(i uint64) *CallSlot {
	return (*CallSlot)(unsafe.Add(unsafe.Pointer(c.first), (i&(c.slots-1))*c.stride))
}

// fetch asks for the line at a place of slot i, if it is another than that of the state word, which is looked at next: so both come together.
func (c *Call) fetch(i, place uint64) {
	if place >= 64 && place < c.stride {
		sys.PrefetchLine((*byte)(unsafe.Add(unsafe.Pointer(c.first), (i&(c.slots-1))*c.stride+place)))
	}
}

// own asks for the line at a place of slot i, to be written soon.
func (c *Call) own(i, place uint64) {
	if place < c.stride {
		sys.PrefetchStores((*byte)(unsafe.Add(unsafe.Pointer(c.first), (i&(c.slots-1))*c.stride+place)), 1)
	}
}

// fetchSecond asks for the second line of slot p, if it has one, while its first is looked at: both come at a time when the producer has written them.
func (q *Queue) fetchSecond(p uint64) {
	sys.PrefetchLine((*byte)(unsafe.Add(unsafe.Pointer(q.first), (p&q.mask)*q.stride+min(q.stride-1, 64))))
}

// own asks for the first lines of slot p, to be written soon.
func (q *Queue) own(p uint64, lines int) {
	sys.PrefetchStores((*byte)(unsafe.Add(unsafe.Pointer(q.first), (p&q.mask)*q.stride)), lines)
}

// putEntry copies the parts of a record behind its head in b, which has room for them, and publishes it: it stores end to head, and then 0 to inside.
func putEntry(b []byte, e *LogEntry, head *atomic.Uint64, end uint64, inside *atomic.Uint64) {
	sys.PutParts(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), SizeofWorkerRecord), (*sys.Parts)(unsafe.Pointer(&e.Text)), head, end, inside)
}

// The three parts lie in a LogEntry as they do in sys.Parts.
const _ = -uint((unsafe.Offsetof(LogEntry{}.Attrs) - unsafe.Offsetof(LogEntry{}.Text)) ^ unsafe.Offsetof(sys.Parts{}.B) |
	(unsafe.Offsetof(LogEntry{}.Source) - unsafe.Offsetof(LogEntry{}.Text)) ^ unsafe.Offsetof(sys.Parts{}.C))

// putSmall copies b, sys.Small bytes at most and not more than a slot's, to the payload of slot p.
func (q *Queue) putSmall(p uint64, b []byte) {
	sys.CopySmall(unsafe.Add(unsafe.Pointer(q.first), (p&q.mask)*q.stride+SizeofSlotHeader), unsafe.Pointer(unsafe.SliceData(b)), len(b))
}

// putSmall copies b, sys.Small bytes at most and not more than a slot's, to the payload of position p. That all payloads lie in the memory was checked in OpenTopic.
func (t *Topic) putSmall(p uint64, b []byte) {
	sys.CopySmall(unsafe.Add(unsafe.Pointer(unsafe.SliceData(t.b)), t.payloads+(p&t.mask)*t.stride), unsafe.Pointer(unsafe.SliceData(b)), len(b))
}
