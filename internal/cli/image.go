package cli

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// image is the memory of one segment, of which parts are copied out and then looked at. Nothing in it is trusted: the decoder works
// from the generated description of the layout (protocol.Layouts, protocol.SegmentSections) and checks each place before it
// reads there. Bytes of a segment in use change while they are read; a row may be a mixture.
type image struct {
	name string // for errors
	r    io.ReaderAt
	size int64
}

// section is a run of equal structs in a segment, found and checked.
type section struct {
	layout protocol.StructInfo
	what   string // tells sections of the same struct apart
	offset int64
	stride int64 // at least layout.Size, if count is above 1
	count  int64
}

// label names row i of the section.
func (s section) label(i int64) string {
	name := s.what
	if name == "" {
		name = s.layout.Name
	}
	if s.single() {
		return name
	}
	return fmt.Sprintf("%s[%d]", name, i)
}

// single reports whether the section is one struct by its nature.
func (s section) single() bool { return s.stride == 0 }

// end is where the section ends.
func (s section) end() int64 {
	if s.count == 0 {
		return s.offset
	}
	return s.offset + (s.count-1)*s.stride + int64(s.layout.Size)
}

// field is one value in a segment.
type field struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset"` // from the start of the segment
	Type   string `json:"type"`   // u32, u64, text or raw
	Value  any    `json:"value"`  // uint64, or string: raw in hexadecimal digits
	Text   string `json:"text,omitempty"`
}

func (m image) damaged(offset int64, format string, args ...any) error {
	return &protocol.CorruptError{Segment: m.name, Offset: offset, What: fmt.Sprintf(format, args...)}
}

// bytes copies n bytes from offset on.
func (m image) bytes(offset int64, n int) ([]byte, error) {
	if offset < 0 || n < 0 || offset > m.size || int64(n) > m.size-offset {
		return nil, m.damaged(offset, "%d bytes are to be here, and the memory has %d in all", n, m.size)
	}
	b := make([]byte, n)
	if got, err := m.r.ReadAt(b, offset); got < n {
		return nil, fmt.Errorf("segment %q: read %d bytes at offset %#x: %w", m.name, n, offset, err)
	}
	return b, nil
}

// layoutOf returns the description of a struct.
func layoutOf(name string) (protocol.StructInfo, bool) {
	i := slices.IndexFunc(protocol.Layouts, func(s protocol.StructInfo) bool { return s.Name == name })
	if i < 0 {
		return protocol.StructInfo{}, false
	}
	return protocol.Layouts[i], true
}

// number reads an integer field of a struct that lies at offset.
func (m image) number(layout protocol.StructInfo, offset int64, name string) (value uint64, at int64, err error) {
	for _, f := range layout.Fields {
		if f.Name != name {
			continue
		}
		at = offset + int64(f.Offset)
		b, err := m.bytes(at, int(f.Bytes))
		if err != nil {
			return 0, at, err
		}
		if f.Type == "u32" {
			return uint64(binary.LittleEndian.Uint32(b)), at, nil
		}
		return binary.LittleEndian.Uint64(b), at, nil
	}
	return 0, offset, fmt.Errorf("the layout has no %s.%s", layout.Name, name)
}

// header is what the decoder needs of the header. Errors: no segment of shmd; a layout that this program does not know.
func (m image) header() (kind protocol.Kind, err error) {
	if m.size < protocol.SizeofSegmentHeader {
		return 0, fmt.Errorf("segment %q: %w: %d bytes, the header alone has %d", m.name, protocol.ErrTooShort, m.size, protocol.SizeofSegmentHeader)
	}
	layout, _ := layoutOf("SegmentHeader")
	get := func(name string) uint64 {
		v, _, e := m.number(layout, 0, name)
		if err == nil {
			err = e
		}
		return v
	}
	magic, major, minor, k, incompat := get("magic"), get("layout_major"), get("layout_minor"), get("kind"), get("incompat")
	switch {
	case err != nil:
		return 0, err
	case magic == 0:
		return 0, fmt.Errorf("segment %q: %w", m.name, protocol.ErrNotReady)
	case magic != protocol.Magic:
		return 0, fmt.Errorf("segment %q: %w", m.name, protocol.ErrForeign)
	case major != protocol.LayoutMajor:
		return 0, &protocol.VersionError{Segment: m.name, HaveMajor: uint32(major), HaveMin: uint32(minor), WantMajor: protocol.LayoutMajor, WantMin: protocol.LayoutMinor}
	case incompat&^protocol.KnownIncompat != 0:
		return 0, &protocol.FeatureError{Segment: m.name, Unknown: incompat &^ protocol.KnownIncompat}
	}
	return protocol.Kind(k), nil
}

// sections finds what lies where. Beside the sections that are sound it returns an error for each that is not.
func (m image) sections() (list []section, errs []error) {
	kind, err := m.header()
	if err != nil {
		errs = append(errs, err)
		if m.size < protocol.SizeofSegmentHeader {
			return nil, errs
		}
	}
	single := map[string]int64{} // offsets of structs that are there once
	value := func(v protocol.SectionValue) (n uint64, at int64, err error) {
		if v.Struct == "" {
			return uint64(v.Number), -1, nil
		}
		offset, ok := single[v.Struct]
		layout, known := layoutOf(v.Struct)
		if !ok || !known {
			return 0, 0, fmt.Errorf("segment %q: %s could not be read", m.name, v.Struct)
		}
		return m.number(layout, offset, v.Field)
	}
	for _, info := range protocol.SegmentSections {
		if info.Kind != "*" && (err != nil || info.Kind != kind.String()) {
			continue
		}
		s, e := m.section(info, value)
		if e != nil {
			errs = append(errs, e)
			continue
		}
		if s.single() {
			single[s.layout.Name] = s.offset
		}
		list = append(list, s)
	}
	if err == nil && len(list) == 1 && len(errs) == 0 {
		errs = append(errs, m.damaged(protocol.OffsetofSegmentHeaderKind, "%v is no kind of segment that this program knows", kind))
	}
	if s, ok := m.deadLetters(list); ok {
		list = append(list, s)
	}
	return list, errs
}

// section checks the place of one section.
func (m image) section(info protocol.SectionInfo, value func(protocol.SectionValue) (uint64, int64, error)) (section, error) {
	layout, ok := layoutOf(info.Struct)
	if !ok {
		return section{}, fmt.Errorf("the layout has no %s", info.Struct)
	}
	offset, offsetAt, err := value(info.Offset)
	if err != nil {
		return section{}, err
	}
	stride, strideAt, err := value(info.Stride)
	if err != nil {
		return section{}, err
	}
	n, countAt, err := value(info.Count)
	if err != nil {
		return section{}, err
	}
	const most = 1 << 47 // more is no place in memory; below it nothing overflows
	size := uint64(layout.Size)
	what := info.Doc
	if what == "" {
		what = info.Struct
	}
	switch {
	case offset > most || offset > uint64(m.size):
		return section{}, m.damaged(max(offsetAt, 0), "%s begins at %#x, and the memory has %#x bytes", what, offset, m.size)
	case info.Stride != (protocol.SectionValue{}) && stride < size:
		return section{}, m.damaged(max(strideAt, 0), "%s: %d bytes from one to the next, and each has %d", what, stride, size)
	case n > 0 && (size > uint64(m.size)-offset || stride > 0 && (n-1) > (uint64(m.size)-offset-size)/stride):
		return section{}, m.damaged(max(countAt, offsetAt, 0), "%s: %d of %d bytes from %#x on do not fit into %#x bytes", what, n, max(stride, size), offset, m.size)
	}
	return section{layout, info.Doc, int64(offset), int64(stride), int64(n)}, nil
}

// deadLetters is the section of the heads of dead letters, for a dead-letter channel.
func (m image) deadLetters(list []section) (section, bool) {
	layout, ok := layoutOf("DeadLetter")
	for _, s := range list {
		switch s.layout.Name {
		case "QueueInfo":
			flags, _, err := m.number(s.layout, s.offset, "flags")
			ok = ok && err == nil && protocol.QueueFlag(flags)&protocol.QueueFlagDeadLetter != 0
		case "SlotHeader":
			d := section{layout, "", s.offset + protocol.SizeofSlotHeader, s.stride, s.count}
			if ok && s.stride >= protocol.SizeofSlotHeader+int64(layout.Size) && d.end() <= m.size {
				return d, true
			}
		}
	}
	return section{}, false
}

// row decodes row i of a section. zero: all of its bytes are 0.
func (m image) row(s section, i int64) (fields []field, zero bool, err error) {
	at := s.offset + i*s.stride
	b, err := m.bytes(at, int(s.layout.Size))
	if err != nil {
		return nil, false, err
	}
	return decode(s.layout, b, at), len(bytes.Trim(b, "\x00")) == 0, nil
}

// decode takes a struct apart; b has all of it.
func decode(layout protocol.StructInfo, b []byte, at int64) []field {
	fields := make([]field, 0, len(layout.Fields))
	for _, f := range layout.Fields {
		p := b[f.Offset:][:f.Bytes]
		d := field{Name: f.Name, Offset: at + int64(f.Offset), Type: f.Type}
		switch f.Type {
		case "u32":
			d.Value = uint64(binary.LittleEndian.Uint32(p))
		case "u64":
			d.Value = binary.LittleEndian.Uint64(p)
		case "text":
			text, _, _ := bytes.Cut(p, []byte{0})
			d.Value = strings.ToValidUTF8(string(text), "\uFFFD")
		default:
			d.Value = hex.EncodeToString(p)
		}
		if n, ok := d.Value.(uint64); ok {
			d.Text = meaning(layout.Name, f.Name, n)
		}
		fields = append(fields, d)
	}
	return fields
}

// enums are the fields whose numbers have names.
var enums = map[string]func(n uint32) string{
	"SegmentHeader.kind":      func(n uint32) string { return protocol.Kind(n).String() },
	"RosterInfo.daemon_state": func(n uint32) string { return protocol.DaemonState(n).String() },
	"SegmentRow.kind":         func(n uint32) string { return protocol.Kind(n).String() },
	"GroupRow.restart":        func(n uint32) string { return protocol.Restart(n).String() },
	"WorkerRow.cause":         func(n uint32) string { return protocol.Cause(n).String() },
	"MetricRow.state":         func(n uint32) string { return protocol.MetricState(n).String() },
	"MetricRow.kind":          func(n uint32) string { return protocol.MetricKind(n).String() },
	"WorkerRow.state":         func(n uint32) string { return protocol.State(n).String() },
	"AttachmentRow.state":     func(n uint32) string { return protocol.AttachmentState(n).String() },
	"AttachmentRow.role":      func(n uint32) string { return protocol.Role(n).String() },
	"CommandInfo.desired":     func(n uint32) string { return protocol.Desired(n).String() },
	"CommandRow.desired":      func(n uint32) string { return protocol.Desired(n).String() },
	"LatestInfo.flags":        func(n uint32) string { return protocol.LatestFlag(n).String() },
	"QueueInfo.flags":         func(n uint32) string { return protocol.QueueFlag(n).String() },
	"DeadLetter.reason":       func(n uint32) string { return protocol.DeadReason(n).String() },
	"LogRecord.stream":        func(n uint32) string { return protocol.Stream(n).String() },
}

// meaning says for people what a number stands for, "" if it is just a number.
func meaning(layout, name string, n uint64) string {
	if enum := enums[layout+"."+name]; enum != nil {
		text := enum(uint32(n))
		if n == 0 && strings.HasSuffix(text, "(0)") { // not set
			return ""
		}
		return text
	}
	switch {
	case layout == "SlotHeader" && name == "state":
		w := protocol.Word(n)
		text := fmt.Sprintf("%v, lap %d", w.Phase(), w.Lap())
		if w.Owner() != 0 {
			text += fmt.Sprintf(", owner %d", w.Owner())
		}
		if w.Deliveries() != 0 {
			text += fmt.Sprintf(", deliveries %d", w.Deliveries())
		}
		switch w.Phase() {
		case protocol.PhaseDead, protocol.PhaseMoving:
			text += fmt.Sprintf(", reason %v", w.Reason())
		case protocol.PhaseWriting:
			if w.Passed() {
				text += ", passed"
			}
		}
		return text
	case layout == "LatestSlot" && name == "state":
		w := protocol.LatestWord(n)
		text := fmt.Sprintf("%v, version %d", w.Phase(), w.Version())
		if w.Owner() != 0 {
			text += fmt.Sprintf(", owner %d", w.Owner())
		}
		return text
	case layout == "LatestInfo" && name == "current":
		return fmt.Sprintf("version %d, slot %d", n>>protocol.LatestInfoVersionShift, n&(1<<protocol.LatestInfoSlotBits-1))
	case layout == "LatestInfo" && name == "waiters" || name == "receive_waiters" || name == "send_waiters":
		return fmt.Sprintf("epoch %d, %d asleep", n>>32, uint32(n))
	case name == "magic" && n == protocol.Magic:
		return "SHMDSEG1"
	case strings.HasSuffix(name, "unix_ns") && n != 0 && n < 1<<62:
		return timestamp(time.Unix(0, int64(n)))
	case name == "stop_timeout_ns" && n < 1<<62:
		return time.Duration(n).String()
	}
	return ""
}

// logRecord is a record of the log's ring.
type logRecord struct {
	position uint64
	fields   []field
	text     string // with attributes and source behind it
}

// records decodes the ring of a log segment, oldest first, and hands over at most limit records (0: all). left is how many bytes
// of the ring were left out. Errors: a ring that makes no sense, and where.
func (m image) records(list []section, limit int, each func(logRecord) error) (left uint64, err error) {
	i := slices.IndexFunc(list, func(s section) bool { return s.layout.Name == "LogInfo" })
	layout, ok := layoutOf("LogRecord")
	if i < 0 || !ok {
		return 0, nil
	}
	info := list[i]
	var n [4]uint64
	var at [4]int64
	for k, name := range []string{"ring_offset", "ring_size", "tail", "head"} {
		if n[k], at[k], err = m.number(info.layout, info.offset, name); err != nil {
			return 0, err
		}
	}
	offset, size, tail, head := n[0], n[1], n[2], n[3]
	switch {
	case size < protocol.SizeofLogRecord || size&(size-1) != 0 || size > uint64(m.size):
		return 0, m.damaged(at[1], "ring of %d bytes in a memory of %d", size, m.size)
	case offset > uint64(m.size)-size:
		return 0, m.damaged(at[0], "ring of %d bytes at %#x in a memory of %d", size, offset, m.size)
	case head-tail > size:
		return 0, m.damaged(at[2], "%d bytes from tail to head in a ring of %d", head-tail, size)
	}
	get := func(position uint64, n int) ([]byte, error) { // unwraps
		first := position & (size - 1)
		b, err := m.bytes(int64(offset+first), int(min(uint64(n), size-first)))
		if err != nil || len(b) == n {
			return b, err
		}
		rest, err := m.bytes(int64(offset), n-len(b))
		return append(b, rest...), err
	}
	for p, k := tail, 0; p != head; k++ {
		if limit > 0 && k == limit {
			return head - p, nil
		}
		place := int64(offset + p&(size-1))
		b, err := get(p, protocol.SizeofLogRecord)
		if err != nil {
			return 0, err
		}
		part := func(at int) uint64 { return uint64(binary.LittleEndian.Uint32(b[at:])) }
		texts, attrs := part(protocol.OffsetofLogRecordLength), part(protocol.OffsetofLogRecordAttrs)
		length := texts + attrs + part(protocol.OffsetofLogRecordSource)
		bytes := protocol.SizeofLogRecord + (length+7)&^7
		if length > protocol.MaxLogText || bytes > head-p {
			return 0, m.damaged(place, "log record of %d bytes, %d bytes before the head (or it was overwritten while it was read)", length, head-p)
		}
		text, err := get(p+protocol.SizeofLogRecord, int(length))
		if err != nil {
			return 0, err
		}
		whole := string(text[:texts])
		if attrs > 0 {
			whole += " {" + string(text[texts:texts+attrs]) + "}"
		}
		if source := text[texts+attrs:]; len(source) > 0 {
			whole += " " + string(source)
		}
		if err := each(logRecord{p, decode(layout, b, place), strings.ToValidUTF8(whole, "\uFFFD")}); err != nil {
			return 0, err
		}
		p += bytes
	}
	return 0, nil
}
