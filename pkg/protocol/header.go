package protocol

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/shmd/shmd/internal/sys"
)

// Header is what the first 256 bytes of a segment say.
type Header struct {
	Kind         Kind
	Size         uint64 // bytes, equals len of the memory
	Generation   uint64 // the same in all segments of one region
	BootID       [16]byte
	Name, Region string
	Created      time.Time
	Major, Minor uint32
}

// bodyOffset is where the body of a segment begins, right after the header.
const bodyOffset = SizeofSegmentHeader

// writeHeader fills in all of the header but the magic number. The memory must be zero.
func writeHeader(b []byte, h Header) *SegmentHeader {
	s := overlaySegmentHeader(b, 0)
	s.LayoutMajor.Store(LayoutMajor)
	s.LayoutMinor.Store(LayoutMinor)
	s.HeaderSize.Store(SizeofSegmentHeader)
	s.Kind.Store(uint32(h.Kind))
	s.SegmentSize.Store(uint64(len(b)))
	s.Generation.Store(h.Generation)
	s.LayoutHash.Store(LayoutHash)
	setBytes(s.BootID[:], h.BootID[:])
	s.CreatedUnixNs.Store(uint64(h.Created.UnixNano()))
	SetText(s.Name[:], h.Name)
	SetText(s.Region[:], h.Region)
	return s
}

// publish makes the segment attachable. It is the last store of every Format function: a creator that dies
// before it leaves a segment that says ErrNotReady. Pairs with the load of Magic in ReadHeader.
func publish(b []byte) { overlaySegmentHeader(b, 0).Magic.Store(Magic) }

// format prepares b, which must be zero, as a segment of h.Kind and returns an error if it is too small.
func format(b []byte, h Header, need int64) error {
	if int64(len(b)) < need {
		return fmt.Errorf("format segment %q: %w: %d bytes given, %d needed", h.Name, ErrTooShort, len(b), need)
	}
	if overlaySegmentHeader(b, 0) == nil {
		return fmt.Errorf("format segment %q: the memory is not 8-byte aligned", h.Name)
	}
	if len(h.Name) > 64 || len(h.Region) > 64 {
		return fmt.Errorf("format segment %q of region %q: names are at most 64 bytes", h.Name, h.Region)
	}
	writeHeader(b, h)
	return nil
}

// ReadHeader reads and checks the header of a segment: magic, version, features, size. Errors: ErrTooShort,
// ErrNotReady, ErrForeign, *VersionError, *FeatureError, *CorruptError.
func ReadHeader(b []byte) (Header, error) {
	s := overlaySegmentHeader(b, 0)
	if s == nil {
		return Header{}, fmt.Errorf("read header: %w: %d bytes, the header alone has %d", ErrTooShort, len(b), SizeofSegmentHeader)
	}
	switch s.Magic.Load() { // first: everything else was stored before it
	case Magic:
	case 0:
		return Header{}, ErrNotReady
	default:
		return Header{}, ErrForeign
	}
	h := Header{
		Kind:       Kind(s.Kind.Load()),
		Size:       s.SegmentSize.Load(),
		Generation: s.Generation.Load(),
		Name:       Text(s.Name[:]),
		Region:     Text(s.Region[:]),
		Created:    time.Unix(0, int64(s.CreatedUnixNs.Load())),
		Major:      s.LayoutMajor.Load(),
		Minor:      s.LayoutMinor.Load(),
	}
	getBytes(h.BootID[:], s.BootID[:])
	if h.Major != LayoutMajor {
		return h, &VersionError{h.Name, h.Major, h.Minor, LayoutMajor, LayoutMinor}
	}
	if unknown := s.Incompat.Load() &^ KnownIncompat; unknown != 0 {
		return h, &FeatureError{h.Name, unknown}
	}
	if n := s.HeaderSize.Load(); n != SizeofSegmentHeader {
		return h, &CorruptError{h.Name, OffsetofSegmentHeaderHeaderSize, fmt.Sprintf("header size %d, not %d", n, SizeofSegmentHeader)}
	}
	if h.Size != uint64(len(b)) {
		return h, &CorruptError{h.Name, OffsetofSegmentHeaderSegmentSize, fmt.Sprintf("segment size %d, the memory has %d", h.Size, len(b))}
	}
	return h, nil
}

// Check returns a function that checks a segment's header: of this kind, of this boot, and of this generation
// unless that is 0. It fits region.OpenOptions.Check. Errors: those of ReadHeader, *KindError, ErrOtherBoot, ErrGeneration.
func Check(kind Kind, generation uint64) func(b []byte) error {
	return func(b []byte) error {
		h, err := ReadHeader(b)
		if err != nil {
			return err
		}
		if h.Kind != kind {
			return &KindError{h.Name, h.Kind, kind}
		}
		if boot, err := sys.BootID(); err == nil && boot != h.BootID {
			return ErrOtherBoot
		}
		if generation != 0 && h.Generation != generation {
			return fmt.Errorf("segment %q: %w", h.Name, ErrGeneration)
		}
		return nil
	}
}

// open checks the header and the kind for an Open function.
func open(b []byte, kind Kind) (Header, error) {
	h, err := ReadHeader(b)
	if err != nil {
		return h, err
	}
	if h.Kind != kind {
		return h, &KindError{h.Name, h.Kind, kind}
	}
	return h, nil
}

// table checks that count records of size bytes lie at offset within the memory, 8-byte aligned.
func table(segment string, b []byte, field int64, offset uint64, count uint32, size uint64) error {
	n := uint64(len(b))
	if offset%8 != 0 || offset < bodyOffset || offset > n || uint64(count) > (n-offset)/size {
		return &CorruptError{segment, field, fmt.Sprintf("table of %d records of %d bytes at offset %#x does not fit into %d bytes", count, size, offset, n)}
	}
	return nil
}

// Text reads a text field: up to the first NUL. Concurrent with SetText it may return a mixture; tables guard
// against that with their row's Seq.
func Text(ws []atomic.Uint64) string {
	buf := make([]byte, 0, len(ws)*8)
	for i := range ws {
		w := ws[i].Load()
		for range 8 {
			c := byte(w)
			if c == 0 {
				return string(buf)
			}
			buf = append(buf, c)
			w >>= 8
		}
	}
	return string(buf)
}

// SetText writes a text field, cut at a rune boundary if it is too long, and NUL-padded.
func SetText(ws []atomic.Uint64, s string) { setBytes(ws, []byte(cutText(s, len(ws)*8))) }

// shorten is cutText for what people read: it shows that there was more.
func shorten(s string, most int) string {
	const more = "…"
	if len(s) <= most {
		return s
	}
	return cutText(s, most-len(more)) + more
}

// cutText cuts a text at a rune boundary if it has more bytes than most.
func cutText(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

func setBytes(ws []atomic.Uint64, p []byte) {
	for i := range ws {
		var w uint64
		for k := 0; k < 8 && i*8+k < len(p); k++ {
			w |= uint64(p[i*8+k]) << (8 * k)
		}
		ws[i].Store(w)
	}
}

func getBytes(p []byte, ws []atomic.Uint64) {
	for i := range ws {
		w := ws[i].Load()
		for k := 0; k < 8 && i*8+k < len(p); k++ {
			p[i*8+k] = byte(w >> (8 * k))
		}
	}
}

// errTorn is returned by row readers when a row stayed in the middle of a change: its writer died there.
var errTorn = errors.New("row is in the middle of a change; the daemon died, or was stopped, while it wrote it")

// writeRow runs fn, which stores a row's fields, between two raises of seq. One writer at a time.
func writeRow(seq *atomic.Uint32, fn func()) {
	s := seq.Load() | 1 // odd: also when an earlier writer died in the middle
	seq.Store(s)        // A: pairs with the second load in readRow
	fn()
	seq.Store(s + 1) // B: pairs with the first load in readRow
}

// readRow runs fn, which loads a row's fields, until it saw a row that nobody wrote meanwhile. A row that stays in the middle of a change has a writer that
// lost its processor, and is worth sleeping for, or one that died: alive says which. It gives up when the writer is dead, or does not come to the row's end
// in some seconds (it is stopped), and then reports errTorn; the fields that fn loaded last are then a mixture.
func readRow(seq *atomic.Uint32, alive func() bool, fn func()) error {
	tries := 10000 // while the writer may be at it on another processor
	for sleep := 0; ; sleep++ {
		for range tries {
			s := seq.Load()
			fn()
			if s&1 == 0 && seq.Load() == s {
				return nil
			}
			sys.Pause()
		}
		if sleep == 2000 || !alive() {
			return errTorn
		}
		time.Sleep(time.Millisecond)
		tries = 10
	}
}
