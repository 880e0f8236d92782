package main

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"unicode"
)

const (
	magic = 0x31474553444d4853 // "SHMDSEG1" in memory
	line  = 64                 // bytes of a cache line
)

// layout is the whole description, as a value so that tests can break it.
type layout struct {
	Major, Minor int
	Structs      []Struct
	Consts       []Const
	Sections     []Section
}

func description() *layout {
	return &layout{LayoutMajor, LayoutMinor, Structs, Consts, Sections}
}

// goTypes overrides the Go type of a group of constants: Attachment alone is a row of the roster.
var goTypes = map[string]string{"Attachment": "AttachmentState", "Rollout": "RolloutState"}

// flagGroups are groups whose values are single bits that may be set together.
var flagGroups = map[string]bool{"QueueFlag": true, "LatestFlag": true, "CallFlag": true, "TopicFlag": true}

// groupDocs says what a group of constants is.
var groupDocs = map[string]string{
	"Kind":        "the kind of a segment",
	"DaemonState": "the state of the daemon",
	"State":       "the actual state of an instance",
	"Desired":     "what an operator wants of a region, a group or an instance",
	"Restart":     "when an instance that ended is started again",
	"Rollout":     "the state of a rolling restart of a group",
	"Cause":       "why a process ended or was not started, and so why its instance is started again",
	"MetricState": "what a row of an instance's metric table holds",
	"MetricKind":  "how the value of a metric changes",
	"Attachment":  "the state of a row of the attachment table",
	"Role":        "what an attachment may do",
	"Phase":       "the phase of a slot, bits 0-3 of its state word",
	"CallPhase":   "the phase of a call slot, bits 0-3 of its state word",
	"CallFlag":    "a set of properties of a call channel",
	"QueueFlag":   "a set of properties of a queue",
	"LatestFlag":  "a set of properties of a latest value",
	"TopicFlag":   "a set of properties of a topic",
	"EvictCause":  "why a subscriber was evicted, bits 20-21 of its row's state word",
	"CursorPhase": "the phase of a subscriber's row, bits 0-3 of its state word",
	"DeadReason":  "why a message was moved to the dead-letter channel",
	"Stream":      "where a record of the log comes from",
	"LogNap":      "what the daemon does between two looks at the logs of a group's instances",
}

// stateBits is the slot's state word, lowest bits first.
var stateBits = []bits{
	{"Phase", 0, 4, "see Phase"},
	{"Owner", 4, 16, "attachment id of who holds the slot, 0 for nobody"},
	{"Deliveries", 20, 6, "how often a lease of the message ended without an ack"},
	{"Passed", 26, 6, "not 0: somebody met the slot while it was held, and went on"},
	{"Lap", 32, 32, "position / slots, modulo 2^32"},
}

// bits is a part of a word.
type bits struct {
	Name        string
	Shift, Bits int
	Doc         string
}

// packed are the other words that have parts, by struct and field; each part gets the struct's name.
var packed = []struct {
	Struct, Field string
	Parts         []bits
}{
	{"LatestInfo", "Current", []bits{
		{"Slot", 0, 8, "index of the slot"},
		{"Version", 8, 56, "1 for the first value; after the largest comes 1 again"},
	}},
	{"LatestSlot", "State", []bits{
		{"Phase", 0, 4, "FREE: never written, or given back; WRITING; READY: holds a value"},
		{"Owner", 4, 16, "attachment id of who writes, 0 for nobody"},
		{"Version", 20, 44, "the low bits of the version that the slot holds or is written for"},
	}},
	{"CallSlot", "State", []bits{
		{"Phase", 0, 4, "see CallPhase"},
		{"Caller", 4, 16, "attachment id of the caller, 0 for nobody"},
		{"Server", 20, 16, "attachment id of the server, 0 for nobody"},
		{"Deliveries", 36, 6, "how many servers took the request and gave no answer"},
		{"Asleep", 42, 1, "1: the caller sleeps on Bell, or is about to"},
		{"Seq", 43, 21, "counts the requests of the slot"},
	}},
	{"CallSlot", "Request", []bits{
		{"Ticket", 0, 32, "orders the requests, modulo 2^32: the smallest is served first"},
		{"Length", 32, 32, "bytes of the request"},
	}},
	{"CallSlot", "Reply", []bits{
		{"Code", 0, 32, "0, or the code of an error"},
		{"ReplyLength", 32, 32, "bytes of the reply"},
	}},
}

// group is the constants of one name.
type group struct {
	Name, Doc string
	Flags     bool
	Consts    []Const
}

// groups returns the constants by group, in the order of the description.
func (l *layout) groups() []group {
	var gs []group
	at := map[string]int{}
	for _, c := range l.Consts {
		i, ok := at[c.Group]
		if !ok {
			i = len(gs)
			at[c.Group] = i
			gs = append(gs, group{Name: c.Group, Doc: groupDocs[c.Group], Flags: flagGroups[c.Group]})
		}
		gs[i].Consts = append(gs[i].Consts, c)
	}
	return gs
}

func (g group) goType() string {
	if t := goTypes[g.Name]; t != "" {
		return t
	}
	return g.Name
}

func (l *layout) lookup(name string) *Struct {
	for i := range l.Structs {
		if l.Structs[i].Name == name {
			return &l.Structs[i]
		}
	}
	return nil
}

func (s *Struct) field(name string) *Field {
	for i := range s.Fields {
		if s.Fields[i].Name == name {
			return &s.Fields[i]
		}
	}
	return nil
}

// value is an Offset, Stride or Count of a Section: a number, or a field of the segment's head.
type value struct {
	Number        int64
	Struct, Field string
}

func parseValue(s string) (value, error) {
	if st, f, ok := strings.Cut(s, "."); ok {
		return value{Struct: st, Field: f}, nil
	}
	if s == "" {
		return value{}, nil
	}
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil || n < 0 {
		return value{}, fmt.Errorf("%q is neither a number nor STRUCT.FIELD", s)
	}
	return value{Number: n}, nil
}

// part is a field or, if Field is nil, reserved bytes.
type part struct {
	*Field
	Offset, Bytes int
}

// parts covers a struct from 0 to Size without a gap. The fields must be valid.
func (s *Struct) parts() []part {
	var ps []part
	at := 0
	for i := range s.Fields {
		f := &s.Fields[i]
		if f.Offset > at {
			ps = append(ps, part{nil, at, f.Offset - at})
		}
		ps = append(ps, part{f, f.Offset, f.Bytes})
		at = f.Offset + f.Bytes
	}
	if at < s.Size {
		ps = append(ps, part{nil, at, s.Size - at})
	}
	return ps
}

// canonical is the text whose hash is LayoutHash: all that decides where something lies and what a number
// means, and no documentation.
func (l *layout) canonical() string {
	var b strings.Builder
	fmt.Fprintf(&b, "layout %d.%d\n", l.Major, l.Minor)
	for _, s := range l.Structs {
		fmt.Fprintf(&b, "struct %s %d\n", snake(s.Name), s.Size)
		for _, f := range s.Fields {
			fmt.Fprintf(&b, "field %s %s %d %d\n", snake(f.Name), f.Type, f.Offset, f.Bytes)
		}
	}
	for _, c := range l.Consts {
		fmt.Fprintf(&b, "const %s.%s %d\n", snake(c.Group), snake(c.Name), c.Value)
	}
	for _, s := range l.Sections {
		fmt.Fprintf(&b, "section %s %s %s %s %s\n", s.Kind, snake(s.Struct), quoted(s.Offset), quoted(s.Stride), quoted(s.Count))
	}
	for _, p := range stateBits {
		fmt.Fprintf(&b, "state %s %d %d\n", snake(p.Name), p.Shift, p.Bits)
	}
	for _, w := range packed {
		for _, p := range w.Parts {
			fmt.Fprintf(&b, "part %s.%s %s %d %d\n", snake(w.Struct), snake(w.Field), snake(p.Name), p.Shift, p.Bits)
		}
	}
	return b.String()
}

func quoted(s string) string { return strconv.Quote(s) }

// hash is the FNV-1a 64 of the canonical text.
func (l *layout) hash() uint64 {
	h := fnv.New64a()
	h.Write([]byte(l.canonical()))
	return h.Sum64()
}

// words splits CamelCase into lower-case words: "BootID" is boot, id; "StopTimeoutNs" is stop, timeout, ns.
func words(camel string) []string {
	var ws []string
	rs := []rune(camel)
	start := 0
	for i := 1; i < len(rs); i++ {
		if !unicode.IsUpper(rs[i]) {
			continue
		}
		if !unicode.IsUpper(rs[i-1]) || i+1 < len(rs) && unicode.IsLower(rs[i+1]) {
			ws = append(ws, strings.ToLower(string(rs[start:i])))
			start = i
		}
	}
	return append(ws, strings.ToLower(string(rs[start:])))
}

func snake(camel string) string { return strings.Join(words(camel), "_") }
func kebab(camel string) string { return strings.Join(words(camel), "-") }
func upper(camel string) string { return strings.ToUpper(snake(camel)) }
