package main

import (
	"errors"
	"fmt"
	"go/token"
	"regexp"
	"slices"
)

// sharedLines are pairs of fields with different writers that may lie on one cache line, and why.
var sharedLines = map[[2]string]string{
	{"SlotHeader.State", "SlotHeader.Frame"}: "as Length",
	{"SlotHeader.State", "SlotHeader.Length"}: "a small slot is one cache line on purpose: state word, length and payload are " +
		"handed over together, and only the owner that State names writes Length",
	{"LatestSlot.State", "LatestSlot.Length"}:     "the same, for a small value",
	{"CallSlot.State", "CallSlot.Request"}:        callLine,
	{"CallSlot.State", "CallSlot.Reply"}:          callLine,
	{"CallSlot.Request", "CallSlot.Reply"}:        callLine,
	{"CallSlot.Request", "CallSlot.Bell"}:         callLine,
	{"CallSlot.Reply", "CallSlot.Bell"}:           callLine,
	{"TopicCursor.State", "TopicCursor.Position"}: rareState,
	{"TopicCursor.State", "TopicCursor.Begun"}:    rareState,
	{"TopicCursor.State", "TopicCursor.Lost"}:     rareState,
}

const callLine = "a small call is one cache line on purpose: it goes to the server and back, and State says whose it is"

const rareState = "others change State only when they end the cursor; its owner looks at it with each message, on the line that it writes anyway"

// writers are all sides that may write a field.
var writers = []struct{ name, doc string }{
	{creator, "whoever made the segment, before the magic is published; never again after"},
	{daemon, "the daemon alone"},
	{operator, "whoever holds the command segment writable; the daemon clears"},
	{instance, "the one instance that the page belongs to; the daemon zeroes the page before it starts the instance"},
	{"instances", "every instance of the group, by atomic addition"},
	{anyPeer, "every process that holds the channel writable, by compare-and-swap or atomic addition"},
	{rowOwner, "the attachment that the row's state word names"},
	{"the slot's owner", "the attachment that the slot's state word names"},
	{callSide, "the attachment that the slot's state word names as the caller, while nobody serves"},
	{serveSide, "the attachment that the slot's state word names as the server"},
}

var camelCase = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`)

// validate returns all that is wrong with the description, nil if it can be generated.
func (l *layout) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if l.Major < 1 || l.Minor < 0 {
		bad("layout version %d.%d: the major version starts at 1, the minor at 0", l.Major, l.Minor)
	}
	seen := map[string]bool{}
	for i := range l.Structs {
		s := &l.Structs[i]
		if seen[s.Name] {
			bad("%s: described twice", s.Name)
		}
		seen[s.Name] = true
		errs = append(errs, s.validate()...)
	}
	for _, g := range l.groups() {
		names, values := map[string]bool{}, map[uint64]bool{}
		if g.Doc == "" {
			bad("%s: a new group of constants; add what it is to groupDocs", g.Name)
		}
		if seen[g.goType()] {
			bad("%s: the Go type %s is also a struct; give it another name in goTypes", g.Name, g.goType())
		}
		for _, c := range g.Consts {
			if !camelCase.MatchString(c.Name) || !camelCase.MatchString(c.Group) {
				bad("%s.%s: names are CamelCase", c.Group, c.Name)
			}
			if names[c.Name] {
				bad("%s.%s: described twice", c.Group, c.Name)
			}
			if values[c.Value] {
				bad("%s.%s: %d has another name already", c.Group, c.Name, c.Value)
			}
			if c.Value > 1<<32-1 {
				bad("%s.%s: %d does not fit 32 bits", c.Group, c.Name, c.Value)
			}
			if g.Flags && (c.Value == 0 || c.Value&(c.Value-1) != 0) {
				bad("%s.%s: %d is not a single bit", c.Group, c.Name, c.Value)
			}
			names[c.Name], values[c.Value] = true, true
		}
	}
	for i := range l.Sections {
		for _, err := range l.validateSection(&l.Sections[i]) {
			bad("section %s of %s: %w", l.Sections[i].Struct, l.Sections[i].Kind, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Struct) validate() (errs []error) {
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s"+format, append([]any{s.Name}, args...)...))
	}
	if !camelCase.MatchString(s.Name) {
		bad(": names are CamelCase")
	}
	if s.Doc == "" {
		bad(": has no Doc")
	}
	if s.Size <= 0 || s.Size%8 != 0 {
		bad(": size %d is not a multiple of 8", s.Size)
	}
	names := map[string]bool{}
	words := 0
	at := 0 // end of the field before
	for _, f := range s.Fields {
		if !camelCase.MatchString(f.Name) || token.IsKeyword(snake(f.Name)) {
			bad(".%s: names are CamelCase and no keyword", f.Name)
		}
		if names[f.Name] {
			bad(".%s: described twice", f.Name)
		}
		names[f.Name] = true
		if f.Doc == "" || f.Writer == "" {
			bad(".%s: has no Doc or no Writer", f.Name)
		}
		if !slices.ContainsFunc(writers, func(w struct{ name, doc string }) bool { return w.name == f.Writer }) {
			bad(".%s: unknown writer %q; add it to writers", f.Name, f.Writer)
		}
		align := 8
		switch f.Type {
		case U32:
			align = 4
			if f.Bytes != 4 {
				bad(".%s: u32 of %d bytes, must be 4", f.Name, f.Bytes)
			}
		case U64:
			words++
			if f.Bytes != 8 {
				bad(".%s: u64 of %d bytes, must be 8", f.Name, f.Bytes)
			}
		case Text, Raw:
			if f.Bytes <= 0 || f.Bytes%8 != 0 {
				bad(".%s: %s of %d bytes, must be a multiple of 8", f.Name, f.Type, f.Bytes)
			}
		default:
			bad(".%s: unknown type %q", f.Name, f.Type)
		}
		if f.Offset%align != 0 {
			bad(".%s: offset %d is misaligned, must be a multiple of %d", f.Name, f.Offset, align)
		}
		if f.Offset < at {
			bad(".%s: offset %d overlaps the field before, which ends at %d (fields are described in order)", f.Name, f.Offset, at)
		}
		at = f.Offset + f.Bytes
		if at > s.Size {
			bad(".%s: ends at %d, beyond the struct's size %d", f.Name, at, s.Size)
		}
	}
	if words == 0 {
		bad(": has no u64, so C would align it to less than 8")
	}
	return append(errs, s.validateLines()...)
}

// validateLines reports fields of different writers on one cache line. A field of the creator is not
// written any more once the segment is in use, so it may lie beside any other. A struct whose size is not
// a whole number of lines may begin anywhere in a line, so all of it counts as one line.
func (s *Struct) validateLines() (errs []error) {
	size := line
	if s.Size%line != 0 {
		size = s.Size
	}
	for i, a := range s.Fields {
		for _, b := range s.Fields[i+1:] {
			if a.Writer == b.Writer || a.Writer == creator || b.Writer == creator {
				continue
			}
			if (a.Offset+a.Bytes-1)/size < b.Offset/size {
				continue
			}
			if sharedLines[[2]string{s.Name + "." + a.Name, s.Name + "." + b.Name}] != "" {
				continue
			}
			errs = append(errs, fmt.Errorf("%s.%s (written by %s) and %s.%s (written by %s) lie on the same %d-byte line",
				s.Name, a.Name, a.Writer, s.Name, b.Name, b.Writer, line))
		}
	}
	return errs
}

func (l *layout) validateSection(s *Section) (errs []error) {
	st := l.lookup(s.Struct)
	if st == nil {
		return []error{fmt.Errorf("no such struct")}
	}
	kinds := map[string]bool{"*": true}
	for _, c := range l.Consts {
		if c.Group == "Kind" {
			kinds[kebab(c.Name)] = true
		}
	}
	if !kinds[s.Kind] {
		errs = append(errs, fmt.Errorf("no such kind of segment"))
	}
	for _, v := range []struct{ what, text string }{{"offset", s.Offset}, {"stride", s.Stride}, {"count", s.Count}} {
		n, err := parseValue(v.text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", v.what, err))
			continue
		}
		if n.Struct == "" {
			if v.what == "offset" && n.Number%8 != 0 {
				errs = append(errs, fmt.Errorf("offset %d is no multiple of 8", n.Number))
			}
			if v.what == "stride" && v.text != "" && n.Number < int64(st.Size) {
				errs = append(errs, fmt.Errorf("stride %d is less than the struct's size %d", n.Number, st.Size))
			}
			continue
		}
		head := l.lookup(n.Struct)
		if head == nil || head.field(n.Field) == nil {
			errs = append(errs, fmt.Errorf("%s: no field %s", v.what, v.text))
			continue
		}
		if f := head.field(n.Field); f.Type != U32 && f.Type != U64 {
			errs = append(errs, fmt.Errorf("%s: %s is no number", v.what, v.text))
		}
		if !l.fixed(s.Kind, n.Struct) {
			errs = append(errs, fmt.Errorf("%s: %s is not at a fixed place in a segment of this kind", v.what, n.Struct))
		}
	}
	return errs
}

// fixed reports whether a segment of the kind has the struct once, at an offset that is a number.
func (l *layout) fixed(kind, name string) bool {
	for _, s := range l.Sections {
		if (s.Kind == kind || s.Kind == "*") && s.Struct == name && s.Stride == "" {
			v, err := parseValue(s.Offset)
			return err == nil && v.Struct == ""
		}
	}
	return false
}
