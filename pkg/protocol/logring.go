package protocol

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/shmd/shmd/internal/sys"
)

// Log is a view of a log segment: a ring of records with one writer, which waits for nobody, and any number of readers, who only
// read. A reader that is too slow is told how many records it lost.
//
//	writer                                   reader at position p
//	  tail = first record that stays  [A]      tail > p: go on at tail
//	  store the bytes                          head: nothing new if p == head         [B]
//	  head = end of the record        [B]      load the bytes
//	                                           tail > p: overwritten meanwhile, lost  [A]
//
// A writer that dies between A and B leaves the ring as it was, less the oldest records.
// The bytes are stored and loaded as atomic 64-bit words, so a reader that is being lapped sees old or new words, and then
// throws them away.
type Log struct {
	h     Header
	at    int64 // offset of the ring
	info  *LogInfo
	words []atomic.Uint64 // the ring
	seq   uint64          // writer only: number of the last record
}

// Record is one record of the log.
type Record struct {
	Seq      uint64
	Time     time.Time
	Level    int // syslog priority: 3 error, 4 warning, 6 info, 7 debug
	Stream   Stream
	Pid      int
	Worker   int // index in the roster, -1 for the daemon
	Text     string
	Attrs    string // the inside of a JSON object, such as "a":1,"b":"x"; not checked
	Source   string // FILE:LINE, or empty
	Position uint64 // StreamLog: the position behind it in the log of its instance
	Number   uint32 // StreamLog: the low half of its number in there
}

const (
	logRing  = 4096                       // offset of the ring of records
	eventsAt = bodyOffset + SizeofLogInfo // of the head of the events
)

// MaxLogText is how long text, attributes and source of a record are together at most; longer ones are cut. A ring holds at least
// three of them.
const MaxLogText = 16 << 10

// LogSize returns the bytes that a log segment with rings of the given sizes needs.
func LogSize(records, events int64) int64 { return logRing + records + events }

// FormatLog makes a log segment in b, which must be zero, with a ring for records and one for events. Sizes are powers of two of
// at least 64 KiB. Errors: ErrTooShort.
func FormatLog(b []byte, h Header, records, events int64) (*Log, error) {
	for _, ring := range []int64{records, events} {
		if ring < 4*MaxLogText || ring&(ring-1) != 0 {
			return nil, fmt.Errorf("log ring of %d bytes: the size must be a power of two of at least %d", ring, 4*MaxLogText)
		}
	}
	h.Kind = KindLog
	if err := format(b, h, LogSize(records, events)); err != nil {
		return nil, err
	}
	info := overlayLogInfo(b, bodyOffset)
	info.RingOffset.Store(logRing)
	info.RingSize.Store(uint64(records))
	info = overlayLogInfo(b, eventsAt)
	info.RingOffset.Store(logRing + uint64(records))
	info.RingSize.Store(uint64(events))
	publish(b)
	return OpenLog(b)
}

// OpenLog returns the ring of records. It checks the header and the ring's place. Errors: those of ReadHeader, *KindError, *CorruptError.
func OpenLog(b []byte) (*Log, error) { return openLog(b, bodyOffset) }

// OpenEvents returns the ring of events, which is a log too: the text of a record is the event's kind. Errors: as OpenLog.
func OpenEvents(b []byte) (*Log, error) { return openLog(b, eventsAt) }

// The two rings' heads are alike.
const _ = -uint((SizeofEventInfo ^ SizeofLogInfo) | (OffsetofEventInfoTail ^ OffsetofLogInfoTail) | (OffsetofEventInfoHead ^ OffsetofLogInfoHead) |
	(OffsetofEventInfoBell ^ OffsetofLogInfoBell) | (OffsetofEventInfoRingOffset ^ OffsetofLogInfoRingOffset) | (OffsetofEventInfoRingSize ^ OffsetofLogInfoRingSize))

func openLog(b []byte, at int64) (*Log, error) {
	h, err := open(b, KindLog)
	if err != nil {
		return nil, err
	}
	info := overlayLogInfo(b, at)
	if info == nil {
		return nil, fmt.Errorf("log of region %q: %w", h.Region, ErrTooShort)
	}
	size, offset := info.RingSize.Load(), info.RingOffset.Load()
	if size < 4*MaxLogText || size&(size-1) != 0 || size > 1<<40 {
		return nil, &CorruptError{h.Name, at + OffsetofLogInfoRingSize, fmt.Sprintf("ring of %d bytes", size)}
	}
	if err := table(h.Name, b, at+OffsetofLogInfoRingOffset, offset, 1, size); err != nil {
		return nil, err
	}
	return &Log{h: h, at: int64(offset), info: info, words: overlayWords(b, int64(offset), int(size/8))}, nil
}

// Resume makes l the writer of a log whose last writer has died: records are numbered on from the last that is complete. Errors:
// *CorruptError, after which the ring begins anew behind what is in it.
func (l *Log) Resume() error {
	for c := l.Oldest(); ; {
		r, _, ok, err := c.Next()
		if err != nil {
			l.info.Tail.Store(l.info.Head.Load())
			return err
		}
		if !ok {
			return nil
		}
		l.seq = max(l.seq, r.Seq)
	}
}

// Header returns the segment's header.
func (l *Log) Header() Header { return l.h }

// Last returns the number of the last record. Writer only.
func (l *Log) Last() uint64 { return l.seq }

// Given is the number of the last record that was handed to standard error or the journal. The writer's process stores it.
func (l *Log) Given() *atomic.Uint64 { return &l.info.Given }

// Bell is raised and woken after each record; it may be waited on in a read-only mapping.
func (l *Log) Bell() *atomic.Uint32 { return &l.info.Bell }

// Size returns the bytes that records have room in.
func (l *Log) Size() int64 { return int64(l.size()) }

func (l *Log) size() uint64 { return uint64(len(l.words)) * 8 }

// word returns the ring's word at a position, which is in bytes and 8-byte aligned.
func (l *Log) word(position uint64) *atomic.Uint64 {
	return &l.words[position/8&uint64(len(l.words)-1)]
}

// recordBytes returns what a record takes in the ring whose text, attributes and source have n bytes together.
func recordBytes(n uint64) uint64 { return SizeofLogRecord + (n+7)&^7 }

// bodyBytes returns the bytes of text, attributes and source of the record with these first words.
func bodyBytes(w [SizeofLogRecord / 8]uint64) uint64 {
	return uint64(uint32(w[0])) + w[4]>>32 + uint64(uint32(w[6]))
}

// head returns the fields of the record at a position, as words.
func (l *Log) head(position uint64) (w [SizeofLogRecord / 8]uint64) {
	for i := range w {
		w[i] = l.word(position + uint64(i)*8).Load()
	}
	return w
}

// Write appends a record, of whose number the log takes care, and returns that number. One writer, one goroutine at a time.
func (l *Log) Write(r Record) uint64 {
	text, attrs, source := r.Text, r.Attrs, r.Source
	if len(text)+len(attrs)+len(source) > MaxLogText {
		attrs, source = "", ""
		text = text[:min(len(text), MaxLogText)]
	}
	n := uint64(len(text) + len(attrs) + len(source))
	head, tail := l.info.Head.Load(), l.info.Tail.Load()
	end := head + recordBytes(n)
	for end-tail > l.size() {
		tail += recordBytes(bodyBytes(l.head(tail)))
	}
	l.info.Tail.Store(tail) // A: before the bytes of what is dropped are overwritten
	l.seq++
	for i, w := range [SizeofLogRecord / 8]uint64{
		uint64(len(text)) | uint64(uint32(r.Level))<<32,
		l.seq,
		uint64(r.Time.UnixNano()),
		uint64(uint32(r.Pid)) | uint64(r.Stream)<<32,
		uint64(uint32(r.Worker+1)) | uint64(len(attrs))<<32,
		r.Position,
		uint64(len(source)) | uint64(r.Number)<<32,
	} {
		l.word(head + uint64(i)*8).Store(w)
	}
	at, have := head+SizeofLogRecord, 0
	var w uint64
	for _, part := range [...]string{text, attrs, source} {
		for i := range len(part) {
			w |= uint64(part[i]) << (8 * have)
			if have++; have == 8 {
				l.word(at).Store(w)
				at, have, w = at+8, 0, 0
			}
		}
	}
	if have > 0 {
		l.word(at).Store(w)
	}
	l.info.Head.Store(end) // B: publishes the record
	l.info.Bell.Add(1)
	sys.FutexWake(&l.info.Bell, 1<<30)
	return l.seq
}

// LogCursor reads a log. It is used by one goroutine at a time.
type LogCursor struct {
	l    *Log
	pos  uint64
	next uint64 // number of the record that comes next, 0 if unknown
}

// Oldest returns a cursor at the oldest record that is kept.
func (l *Log) Oldest() *LogCursor { return &LogCursor{l: l, pos: l.info.Tail.Load()} }

// Newest returns a cursor after the newest record.
func (l *Log) Newest() *LogCursor { return &LogCursor{l: l, pos: l.info.Head.Load()} }

// Next returns the next record and how many were lost before it, or ok = false if there is none yet. A ring that makes
// no sense gives a *CorruptError; the cursor is then after the newest record.
func (c *LogCursor) Next() (r Record, lost uint64, ok bool, err error) {
	l := c.l
	for try := 0; try < 1000; try++ {
		if tail := l.info.Tail.Load(); int64(tail-c.pos) > 0 {
			c.pos = tail
		}
		end := l.info.Head.Load() // B; after tail: a head from before a lap would lie behind this position
		if c.pos == end {
			return Record{}, 0, false, nil
		}
		w := l.head(c.pos)
		n := bodyBytes(w)
		good := n <= MaxLogText && int64(end-c.pos) >= int64(recordBytes(n)) && end-c.pos <= l.size()
		var body []byte
		if good {
			body = make([]byte, 0, n+8)
			for i := uint64(0); i < n; i += 8 {
				v := l.word(c.pos + SizeofLogRecord + i).Load()
				for range 8 {
					body = append(body, byte(v))
					v >>= 8
				}
			}
		}
		if int64(l.info.Tail.Load()-c.pos) > 0 { // A: it was overwritten while it was read
			continue
		}
		if !good {
			err = &CorruptError{l.h.Name, l.at + int64(c.pos&(l.size()-1)), fmt.Sprintf("log record of %d bytes, %d bytes before the head", n, int64(end-c.pos))}
			c.pos, c.next = l.info.Head.Load(), 0
			return Record{}, 0, false, err
		}
		text, attrs := uint64(uint32(w[0])), w[4]>>32
		r = Record{
			Seq: w[1], Time: time.Unix(0, int64(w[2])), Level: int(int32(w[0] >> 32)), Stream: Stream(w[3] >> 32),
			Pid: int(int32(w[3])), Worker: int(uint32(w[4])) - 1, Position: w[5], Number: uint32(w[6] >> 32),
			Text: string(body[:text]), Attrs: string(body[text : text+attrs]), Source: string(body[text+attrs : n]),
		}
		if c.next != 0 && r.Seq > c.next {
			lost = r.Seq - c.next
		}
		c.pos += recordBytes(n)
		c.next = r.Seq + 1
		return r, lost, true, nil
	}
	return Record{}, 0, false, &CorruptError{l.h.Name, bodyOffset + OffsetofLogInfoTail, "tail runs away from the reader"}
}
