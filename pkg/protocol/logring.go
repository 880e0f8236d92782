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
	info  *LogInfo
	words []atomic.Uint64 // the ring
	seq   uint64          // writer only: number of the last record
}

// Record is one record of the log.
type Record struct {
	Seq    uint64
	Time   time.Time
	Level  int // syslog priority: 3 error, 4 warning, 6 info, 7 debug
	Stream Stream
	Pid    int
	Worker int // index in the roster, -1 for the daemon
	Text   string
}

const logRing = 4096 // offset of the ring

// MaxLogText is the longest text of a record; longer ones are cut. A ring holds at least four of them.
const MaxLogText = 16 << 10

// LogSize returns the bytes that a log segment with a ring of the given size needs.
func LogSize(ring int64) int64 { return logRing + ring }

// FormatLog makes a log segment in b, which must be zero. ring is a power of two of at least 64 KiB. Errors: ErrTooShort.
func FormatLog(b []byte, h Header, ring int64) (*Log, error) {
	if ring < 4*MaxLogText || ring&(ring-1) != 0 {
		return nil, fmt.Errorf("log ring of %d bytes: the size must be a power of two of at least %d", ring, 4*MaxLogText)
	}
	h.Kind = KindLog
	if err := format(b, h, LogSize(ring)); err != nil {
		return nil, err
	}
	info := overlayLogInfo(b, bodyOffset)
	info.RingOffset.Store(logRing)
	info.RingSize.Store(uint64(ring))
	publish(b)
	return OpenLog(b)
}

// OpenLog checks the header and the ring's place. Errors: those of ReadHeader, *KindError, *CorruptError.
func OpenLog(b []byte) (*Log, error) {
	h, err := open(b, KindLog)
	if err != nil {
		return nil, err
	}
	info := overlayLogInfo(b, bodyOffset)
	if info == nil {
		return nil, fmt.Errorf("log of region %q: %w", h.Region, ErrTooShort)
	}
	size, offset := info.RingSize.Load(), info.RingOffset.Load()
	if size < 4*MaxLogText || size&(size-1) != 0 || size > 1<<40 {
		return nil, &CorruptError{h.Name, bodyOffset + OffsetofLogInfoRingSize, fmt.Sprintf("ring of %d bytes", size)}
	}
	if err := table(h.Name, b, bodyOffset+OffsetofLogInfoRingOffset, offset, 1, size); err != nil {
		return nil, err
	}
	return &Log{h: h, info: info, words: overlayWords(b, int64(offset), int(size/8))}, nil
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

// Bell is raised and woken after each record; it may be waited on in a read-only mapping.
func (l *Log) Bell() *atomic.Uint32 { return &l.info.Bell }

func (l *Log) size() uint64 { return uint64(len(l.words)) * 8 }

// word returns the ring's word at a position, which is in bytes and 8-byte aligned.
func (l *Log) word(position uint64) *atomic.Uint64 {
	return &l.words[position/8&uint64(len(l.words)-1)]
}

// recordBytes returns what a record with a text of n bytes takes in the ring.
func recordBytes(n uint32) uint64 { return SizeofLogRecord + (uint64(n)+7)&^7 }

// head returns the fields of the record at a position, as six words.
func (l *Log) head(position uint64) (w [SizeofLogRecord / 8]uint64) {
	for i := range w {
		w[i] = l.word(position + uint64(i)*8).Load()
	}
	return w
}

// Write appends a record; Seq is given by the log. One writer, one goroutine at a time.
func (l *Log) Write(r Record) {
	text := r.Text
	if len(text) > MaxLogText {
		text = text[:MaxLogText]
	}
	head, tail := l.info.Head.Load(), l.info.Tail.Load()
	end := head + recordBytes(uint32(len(text)))
	for end-tail > l.size() {
		tail += recordBytes(uint32(l.head(tail)[0]))
	}
	l.info.Tail.Store(tail) // A: before the bytes of what is dropped are overwritten
	l.seq++
	for i, w := range [SizeofLogRecord / 8]uint64{
		uint64(len(text)) | uint64(uint32(r.Level))<<32,
		l.seq,
		uint64(r.Time.UnixNano()),
		uint64(uint32(r.Pid)) | uint64(r.Stream)<<32,
		uint64(uint32(r.Worker + 1)),
		0,
	} {
		l.word(head + uint64(i)*8).Store(w)
	}
	for i := 0; i < len(text); i += 8 {
		var w uint64
		for k := 0; k < 8 && i+k < len(text); k++ {
			w |= uint64(text[i+k]) << (8 * k)
		}
		l.word(head + SizeofLogRecord + uint64(i)).Store(w)
	}
	l.info.Head.Store(end) // B: publishes the record
	l.info.Bell.Add(1)
	sys.FutexWake(&l.info.Bell, 1<<30)
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
		n := uint32(w[0])
		good := n <= MaxLogText && int64(end-c.pos) >= int64(recordBytes(n)) && end-c.pos <= l.size()
		var text []byte
		if good {
			text = make([]byte, 0, n+8)
			for i := uint64(0); i < uint64(n); i += 8 {
				v := l.word(c.pos + SizeofLogRecord + i).Load()
				for range 8 {
					text = append(text, byte(v))
					v >>= 8
				}
			}
		}
		if int64(l.info.Tail.Load()-c.pos) > 0 { // A: it was overwritten while it was read
			continue
		}
		if !good {
			err = &CorruptError{l.h.Name, int64(logRing + c.pos&(l.size()-1)), fmt.Sprintf("log record of %d bytes, %d bytes before the head", n, int64(end-c.pos))}
			c.pos, c.next = l.info.Head.Load(), 0
			return Record{}, 0, false, err
		}
		r = Record{
			Seq: w[1], Time: time.Unix(0, int64(w[2])), Level: int(int32(w[0] >> 32)), Stream: Stream(w[3] >> 32),
			Pid: int(int32(w[3])), Worker: int(uint32(w[4])) - 1, Text: string(text[:n]),
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
