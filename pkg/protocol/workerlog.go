package protocol

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/shmd/shmd/internal/sys"
)

// InstanceLog is a view of the log of one instance of a worker group: a ring of records that the instance writes without a system call and
// that outlives it. It waits for nobody; a reader that is too slow is told how many records it lost.
//
// The ring is divided into eight chunks. A record lies within one chunk, and each chunk begins with a record: so whoever has lost the
// place, because it was overtaken or because the bytes make no sense, finds it again at the next chunk.
//
//	writer                                      reader at position p
//	  before the first record of a chunk:         Limit - p > size: go on at Limit - size    [A]
//	    Limit = end of the chunk     [A]          p == Head: nothing new                     [B]
//	    fence                        [C]          load the bytes
//	  store the bytes                             fence                                      [C]
//	  Head = end of the record       [B]          Limit - p > size: overwritten, lost        [A]
//	  LogNap: is the daemon asleep?  [D]
//
// A writer that dies before B leaves no record; one that dies between A and B has given up the oldest chunk for it. D pairs with the
// daemon, which stores LogNap and then looks at Head. docs/log.md goes through it store by store.
type InstanceLog struct {
	name string // of the segment, for errors
	at   int64  // offset of the ring in the segment
	info *WorkerLog
	ring []byte
	nap  *atomic.Uint32 // of the group
	bell *atomic.Uint32
}

// logChunks is the number of chunks of a ring.
const logChunks = 8

// MinInstanceLog and MaxInstanceLog bound the ring of an instance's log, whose size is a power of two.
const (
	MinInstanceLog = 16 << 10
	MaxInstanceLog = 1 << 30
)

// instanceLogRoom returns the bytes of a WorkerLog and its ring, in whole pages.
func instanceLogRoom(ring int64) int64 { return (SizeofWorkerLog + ring + 4095) &^ 4095 }

// Size returns the bytes of the ring.
func (l *InstanceLog) Size() int64 { return int64(len(l.ring)) }

// Head returns the position behind the newest record.
func (l *InstanceLog) Head() uint64 { return l.info.Head.Load() }

func (l *InstanceLog) chunk() uint64 { return uint64(len(l.ring)) / logChunks }

// MaxEntry returns how many bytes text, attributes and source of a record may have together. Of longer ones the attributes are left out, and
// then the text is cut.
func (l *InstanceLog) MaxEntry() int {
	return int(min(l.chunk()-SizeofWorkerRecord, MaxLogText))
}

// LogEntry is what a worker logs. Attrs is the inside of a JSON object, such as `"a":1,"b":"x"`; Source is FILE:LINE. Both may be empty.
type LogEntry struct {
	UnixNs int64
	Level  int // syslog priority: 3 error, 4 warning, 6 info, 7 debug
	Text   string
	Attrs  []byte
	Source string
}

// LogWriter is the writing end of an InstanceLog. It is safe for concurrent use within one process; there must be no second one at a
// time, in no process.
type LogWriter struct {
	l    *InstanceLog
	pid  uint32
	mu   sync.Mutex
	head uint64 // as in the memory, from where it is not read again
	end  uint64 // of the chunk that head lies in; head itself if that chunk is still to be begun
	seq  uint64
	rung uint64 // head when the daemon was rung last because the ring fills

	owned  bool          // there is a LogOwner; mu is held
	wanted atomic.Uint64 // 1: somebody who holds mu is about to write, and the owner has to keep out
	inside atomic.Uint64 // 1: the owner writes, or is about to look at wanted
}

// Resume returns the writing end: it goes on behind the last complete record, and numbers on. Where the memory makes no sense it goes on at
// the next chunk.
func (l *InstanceLog) Resume(pid int) *LogWriter {
	chunk := l.chunk()
	w := &LogWriter{l: l, pid: uint32(pid), head: l.info.Head.Load()}
	w.end = (w.head + chunk - 1) &^ (chunk - 1)
	good := w.head%8 == 0
	if limit := l.info.Limit.Load(); limit != w.end && limit != w.end+chunk { // the latter: the last one died after A, before its record was there
		good = false
		l.info.Limit.Store(w.end)
	}
	if good && w.head != 0 {
		c := &InstanceCursor{l: l, pos: (w.head - 1) &^ (chunk - 1)} // the chunk of the last record
		for more := true; more && good; {
			var r Record
			var err error
			if r, _, more, err = c.Next(); more {
				w.seq = r.Seq
			}
			good = err == nil
		}
	}
	if !good {
		w.head = w.end
		l.info.Head.Store(w.head)
	}
	w.rung = w.head
	return w
}

// Write appends a record. It makes a system call only if the daemon waits for it.
func (w *LogWriter) Write(e *LogEntry) {
	l := w.l
	text, attrs, source := e.Text, e.Attrs, e.Source
	if most := l.MaxEntry(); len(text)+len(attrs)+len(source) > most {
		text, attrs, source = cutEntry(most, text, attrs, source)
	}
	n := (SizeofWorkerRecord + uint64(len(text)) + uint64(len(attrs)) + uint64(len(source)) + 7) &^ 7
	mask := uint64(len(l.ring)) - 1

	w.mu.Lock()
	if w.owned {
		w.keepOut()
	}
	if n > w.end-w.head {
		w.begin()
	}
	at := w.head
	w.seq++
	b := l.ring[at&mask:][:n]
	binary.LittleEndian.PutUint64(b, n|uint64(uint32(e.Level))<<32)
	binary.LittleEndian.PutUint64(b[8:], w.seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(e.UnixNs))
	binary.LittleEndian.PutUint64(b[24:], uint64(len(text))|uint64(len(attrs))<<32)
	binary.LittleEndian.PutUint64(b[32:], uint64(len(source))|uint64(w.pid)<<32)
	b = b[SizeofWorkerRecord:]
	copy(b, text)
	copy(b[len(text):], attrs)
	copy(b[len(text)+len(attrs):], source)
	w.head = at + n
	sys.StoreRelease(&l.info.Head, w.head) // B
	fills := w.head-w.rung > uint64(len(l.ring))/2
	if fills {
		w.rung = w.head
	}
	if w.owned {
		w.wanted.Store(0)
	}
	w.mu.Unlock()

	// D: the unlocking is a full barrier on amd64, and on arm64 a load-acquire stays behind a store-release.
	if nap := LogNap(l.nap.Load()); nap == LogNapSleeps || nap == LogNapNaps && fills {
		l.wake(nap)
	}
}

// begin begins the next chunk.
func (w *LogWriter) begin() {
	l := w.l
	if w.end != w.head {
		binary.LittleEndian.PutUint64(l.ring[w.head&(uint64(len(l.ring))-1):], 0) // Bytes is 0: the rest of the chunk is empty
		w.head = w.end
	}
	w.end += l.chunk()
	sys.StoreRelease(&l.info.Limit, w.end) // A
	sys.FenceStores()                      // C
}

// wake rings the daemon, unless another does.
func (l *InstanceLog) wake(nap LogNap) {
	if l.nap.CompareAndSwap(uint32(nap), uint32(LogNapAwake)) {
		l.bell.Add(1)
		sys.FutexWake(l.bell, 1<<30)
	}
}

// cutEntry makes a record fit: without its attributes, and if need be with a part of the text.
func cutEntry(most int, text string, attrs []byte, source string) (string, []byte, string) {
	if len(source) > 256 {
		source = ""
	}
	missing := len(attrs)
	attrs = nil
	if room := most - len(source) - 64; len(text) > room { // 64: for what follows
		missing += len(text) - room
		for room > 0 && !utf8.RuneStart(text[room]) {
			room--
		}
		text = text[:room]
	}
	return text, strconv.AppendInt([]byte(`"cut_bytes":`), int64(missing), 10), source
}

// InstanceCursor reads an InstanceLog. It is used by one goroutine at a time.
type InstanceCursor struct {
	l    *InstanceLog
	pos  uint64
	next uint64 // number of the record that comes next, 0 if unknown
	buf  []byte
}

// From returns a cursor at a position that a cursor of this log has had. Of what was lost before the first record that comes there is no count.
func (l *InstanceLog) From(position uint64) *InstanceCursor {
	return &InstanceCursor{l: l, pos: position}
}

// Oldest returns a cursor at the oldest record that is kept.
func (l *InstanceLog) Oldest() *InstanceCursor {
	head, limit, size := l.info.Head.Load(), l.info.Limit.Load(), uint64(len(l.ring))
	if limit < size && head <= limit { // the first lap
		return &InstanceCursor{l: l, next: 1}
	}
	return l.From((limit - size) &^ (l.chunk() - 1))
}

// Position returns the position of the record that comes next.
func (c *InstanceCursor) Position() uint64 { return c.pos }

// More reports whether there is something behind the cursor.
func (c *InstanceCursor) More() bool { return c.pos != c.l.info.Head.Load() }

// Next returns the next record and how many were lost before it, or ok = false if there is none yet. The record's Stream is StreamLog, its
// Worker -1. Bytes that make no sense give a *CorruptError; the cursor is then at the next chunk.
func (c *InstanceCursor) Next() (r Record, lost uint64, ok bool, err error) {
	l := c.l
	size, chunk := uint64(len(l.ring)), l.chunk()
	for range 2 * logChunks {
		head := l.info.Head.Load()   // B
		limit := l.info.Limit.Load() // A; after head, so that it is not older
		switch {
		case c.pos == head:
			return Record{}, 0, false, nil
		case int64(limit-head) < 0 || c.pos%8 != 0 || int64(head-c.pos) < 0:
			return Record{}, 0, false, c.lose(head, fmt.Sprintf("the reader is at %#x, the log's head at %#x, its limit at %#x", c.pos, head, limit))
		case limit-c.pos > size:
			c.pos = (limit - size + chunk - 1) &^ (chunk - 1)
			continue
		}
		left := chunk - c.pos&(chunk-1) // of the chunk
		var first [8]byte
		copyShared(first[:], l.ring[c.pos&(size-1):])
		n := uint64(binary.LittleEndian.Uint32(first[:]))
		good := n >= SizeofWorkerRecord && n%8 == 0 && n <= left && n <= head-c.pos
		if good {
			c.buf = append(c.buf[:0], make([]byte, n)...)
			copyShared(c.buf, l.ring[c.pos&(size-1):][:n])
		}
		sys.FenceLoads() // C
		if l.info.Limit.Load()-c.pos > size {
			continue // A: overwritten while it was read
		}
		if n == 0 && left <= head-c.pos {
			c.pos += left
			continue
		}
		if good {
			if r, good = decodeEntry(c.buf, binary.LittleEndian.Uint64(first[:])); good {
				c.pos += n
				r.Position, r.Number = c.pos, uint32(r.Seq)
				if c.next != 0 && r.Seq > c.next {
					lost = r.Seq - c.next
				}
				c.next = r.Seq + 1
				return r, lost, true, nil
			}
		}
		at := c.pos
		return Record{}, 0, false, c.lose(head, fmt.Sprintf("log record of %d bytes at %#x, with %d before the head", n, at, head-at))
	}
	return Record{}, 0, false, c.lose(l.info.Head.Load(), "the log's limit runs away from the reader")
}

// lose goes on at the next chunk, or at the head.
func (c *InstanceCursor) lose(head uint64, what string) error {
	chunk := c.l.chunk()
	at := c.l.at + int64(c.pos&uint64(len(c.l.ring)-1))
	next := (c.pos + chunk) &^ (chunk - 1)
	if int64(head-next) < 0 || head-next > uint64(len(c.l.ring)) {
		next = head
	}
	c.pos = next
	return &CorruptError{c.l.name, at, what}
}

// decodeEntry takes apart a record whose first word was read before.
func decodeEntry(b []byte, first uint64) (r Record, ok bool) {
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }
	text, attrs, source := uint64(uint32(word(24))), word(24)>>32, uint64(uint32(word(32)))
	body := b[SizeofWorkerRecord:]
	if word(0) != first || text+attrs+source > uint64(len(body)) || text+attrs+source > MaxLogText {
		return Record{}, false
	}
	return Record{
		Seq: word(8), Time: time.Unix(0, int64(word(16))), Level: int(int32(first >> 32)), Stream: StreamLog, Pid: int(int32(word(32) >> 32)), Worker: -1,
		Text: string(body[:text]), Attrs: string(body[text : text+attrs]), Source: string(body[text+attrs : text+attrs+source]),
	}, true
}
