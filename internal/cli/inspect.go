package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/dump"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) inspectCommand() *cobra.Command {
	var o inspectOptions
	c := a.verb(cobra.Command{
		Use:   "inspect [--hex] [--rows=N] [DUMP] [SEGMENT... | --file=PATH]",
		Short: "print what lies in the memory, field by field",
		Long: `inspect prints the segments of the region, or those that are named: roster,
command, log, group/NAME, and channels. For each it tells kind, size, version,
generation, inode, who holds it, and every field with its offset and value, by
the description of the layout that docs/layout.md is made of. Rows of a table
that are all zero are counted, not printed. --hex prints the bytes with the
names of the fields.

What is damaged is told with its place, and the rest is printed; the exit code
is 1 then. If the first argument is a file that shmctl dump made, its segments
are printed in place of a living region's; of one that is no whole archive
nothing is. --file inspects a copy of a segment, or one that the region does not
give any more: /proc/PID/fd/N. Of a file that is no segment nothing is printed.`,
		Example: `  shmctl inspect roster
  shmctl inspect --hex jobs | less
  shmctl inspect shmd-default-20260102T030405Z.dump roster
  shmctl inspect -o json command | jq '.segments[].sections[] | select(.what == "workers")'
  shmctl inspect --file=/proc/4711/fd/3`,
		ValidArgsFunction: a.complete(func(s *session) []string { return segmentsOf(s, func(protocol.Segment) bool { return true }) }),
	}, func(_ *cobra.Command, names []string) error {
		switch {
		case o.file != "" && len(names) > 0:
			return usagef("inspect: give names of segments or --file, not both")
		case o.rows < 0:
			return usagef("--rows=%d: give the most rows to print of each table, or 0 for all", o.rows)
		case o.hex && a.json():
			return usagef("--hex prints text: leave out -o json, or --hex")
		}
		return nil
	}, func(ctx context.Context, names []string) error { return a.inspect(ctx, names, o) })
	c.Flags().BoolVar(&o.hex, "hex", false, "print the bytes, with the fields that begin in each line")
	c.Flags().IntVar(&o.rows, "rows", 100, "print at most `N` rows of a table that are not zero; 0 for all")
	c.Flags().StringVar(&o.file, "file", "", "inspect the file at `path` in place of a region")
	return c
}

type inspectOptions struct {
	hex  bool
	rows int
	file string
}

// segmentJSON is a segment in the document of inspect.
type segmentJSON struct {
	Name       string        `json:"name"`
	Kind       string        `json:"kind"`
	Size       int64         `json:"size"`
	Layout     string        `json:"layout"`
	Generation string        `json:"generation"`
	Inode      uint64        `json:"inode"`
	Seals      []string      `json:"seals"`
	Holders    []holder      `json:"holders"`
	Sections   []sectionJSON `json:"sections"`
	Errors     []string      `json:"errors"`
}

type sectionJSON struct {
	Struct  string    `json:"struct"`
	What    string    `json:"what"`
	Offset  int64     `json:"offset"`
	Stride  int64     `json:"stride"`
	Count   int64     `json:"count"`
	Rows    []rowJSON `json:"rows"`
	Zero    int64     `json:"rows_zero"`     // not printed: all of it is 0
	LeftOut int64     `json:"rows_left_out"` // not printed: more than --rows
}

type rowJSON struct {
	Index  int64   `json:"index"`
	Offset int64   `json:"offset"`
	Fields []field `json:"fields"`
	Text   string  `json:"text,omitempty"` // of a log record
}

// dumpIn reads the dump that the first argument names, if it names one: a file, and it begins as a dump does, or, by a path, a pipe. Else
// nil, or for what can be no segment's name the reason.
func dumpIn(ctx context.Context, names []string) (*dump.Dump, error) {
	if len(names) == 0 {
		return nil, nil
	}
	name := names[0]
	path := strings.HasSuffix(name, ".dump") || strings.Contains(name, "/") && !strings.HasPrefix(name, "group/")
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe of that name is not waited for
	if err != nil {
		if path {
			return nil, err
		}
		return nil, nil // a name of a segment, or an error that names all there are
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case st.Mode().IsRegular() && dump.Is(f), path && st.Mode()&fs.ModeNamedPipe != 0:
		d, err := dump.Open(ctx, name)
		return d, explain(err, name+" has not been read to its end")
	case path && st.IsDir():
		return nil, fmt.Errorf("%s is a directory, no dump and no segment", name)
	case path && st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no dump and no segment; a copy of a segment goes with --file=%s", name, name)
	case path:
		return nil, fmt.Errorf("%s is no dump and no segment", name)
	}
	return nil, nil
}

// segmentFile opens a file that begins as a segment does; whether it is sound is another question. Errors: it cannot be opened, or is
// no segment.
func segmentFile(path string) (f *os.File, size int64, err error) {
	// Not blocking: a pipe that nobody writes into is refused, not waited for.
	if f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			f.Close()
			f = nil
		}
	}()
	st, err := sys.Fstat(f)
	switch {
	case err != nil:
		return f, 0, err
	case !st.IsRegular:
		return f, 0, fmt.Errorf("%s: neither a file nor shared memory", path)
	case dump.Is(f):
		return f, 0, fmt.Errorf("%s looks like a dump, which goes without --file: shmctl inspect %s", path, path)
	}
	const takes = "--file takes a copy of one, or /proc/PID/fd/N of a process that holds one"
	var magic [8]byte
	n, err := f.ReadAt(magic[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return f, 0, err
	}
	switch m := binary.LittleEndian.Uint64(magic[:]); {
	case n == len(magic) && m == 0:
		return f, 0, fmt.Errorf("%s is no segment of shmd, or one that is still being made: it begins with zeros; %s", path, takes)
	case n < len(magic) || m != protocol.Magic:
		return f, 0, fmt.Errorf("%s is no segment of shmd, which begins with the bytes SHMDSEG1; %s", path, takes)
	case st.Size < protocol.SizeofSegmentHeader:
		return f, 0, fmt.Errorf("%s is the beginning of a segment of shmd: %d bytes, the header alone has %d; %s", path, st.Size, protocol.SizeofSegmentHeader, takes)
	}
	return f, st.Size, nil
}

// subjectsOf are the segments of a dump that are named, or all.
func subjectsOf(d *dump.Dump, names []string) (list []subject, err error) {
	var known []string
	for _, g := range d.Segments {
		known = append(known, g.Name)
	}
	if len(names) == 0 {
		names = known
	}
	for _, name := range names {
		i := slices.Index(known, name)
		if i < 0 {
			return nil, fmt.Errorf("unknown segment %q; the dump has: %s", name, strings.Join(known, ", "))
		}
		s := subject{image: image{name: name}, inode: d.Segments[i].Inode}
		if b := d.Bytes(name); b != nil {
			s.r, s.size = bytes.NewReader(b), int64(len(b))
		} else {
			s.err = fmt.Errorf("segment %q is not in the dump: %s", name, d.Segments[i].Missing)
		}
		list = append(list, s)
	}
	return list, nil
}

// subject is a segment to inspect.
type subject struct {
	image
	file    *os.File // nil: in a dump
	inode   uint64   // then
	holders []holder
	err     error // why there is no file
}

func (a *app) inspect(ctx context.Context, names []string, o inspectOptions) error {
	region := ""
	var subjects []subject
	hidden := 0
	if d, err := dumpIn(ctx, names); err != nil {
		return err
	} else if d != nil {
		region = d.Region
		if subjects, err = subjectsOf(d, names[1:]); err != nil {
			return err
		}
		if !a.json() {
			fmt.Fprintf(a.stdout, "dump of region %s, %s: %s\n\n", d.Region, d.Taken.Local().Format(time.DateTime), printable(d.Reason))
		}
	} else if o.file != "" {
		f, size, err := segmentFile(o.file)
		if err != nil {
			return err
		}
		defer f.Close()
		subjects = []subject{{image: image{filepath.Base(o.file), f, size}, file: f}}
	} else {
		s, err := a.open(ctx, false)
		if err != nil {
			return err
		}
		defer s.Close()
		region = s.name()
		if subjects, hidden, err = a.subjects(s, names); err != nil {
			return err
		}
	}
	if hidden > 0 && os.Geteuid() != 0 { // root is refused only by processes that hide from root too
		a.warn("%s of other users could not be looked into: the holders may not be all; be root to see them", count(hidden, "process"))
	}
	p := inspector{o: o, out: bufio.NewWriter(a.stdout), json: a.json()}
	for _, s := range subjects {
		if err := p.segment(s); err != nil {
			return err
		}
	}
	if p.json {
		if err := a.printJSON(struct {
			Schema   int           `json:"schema"`
			Region   string        `json:"region"`
			Segments []segmentJSON `json:"segments"`
		}{schema, region, p.doc}); err != nil {
			return err
		}
	}
	if err := p.out.Flush(); err != nil {
		return err
	}
	for _, err := range p.damage {
		a.always("%v", err)
	}
	if len(p.damage) > 0 {
		return errSilent
	}
	return nil
}

// subjects finds the segments to inspect: those named, or all of the directory.
func (a *app) subjects(s *session, names []string) (list []subject, hidden int, err error) {
	directory, err := s.Roster.Segments()
	if err != nil {
		a.warn("%v", err)
	}
	var known []string
	for _, g := range directory {
		if g.Name != "" {
			known = append(known, g.Name)
		}
	}
	if len(names) == 0 {
		names = known
	}
	inodes := map[uint64]bool{}
	for _, name := range names {
		if !slices.Contains(known, name) {
			hint := ""
			if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() {
				hint = fmt.Sprintf("; the file %s is no dump, and a copy of a segment goes with --file=%s", name, name)
			}
			return nil, 0, fmt.Errorf("unknown segment %q; there are: %s%s", name, strings.Join(known, ", "), hint)
		}
		sub := subject{image: image{name: name}}
		if seg := s.segments[name]; seg != nil {
			sub.r, sub.size, sub.file = seg.File(), seg.Size(), seg.File()
			inodes[seg.Inode()] = true
		} else if sub.err = s.missing[name]; sub.err == nil {
			sub.err = fmt.Errorf("the daemon did not hand it out: %w", errNotOurs)
		}
		if sub.err != nil {
			sub.err = fmt.Errorf("segment %q: %w", name, sub.err)
		}
		list = append(list, sub)
	}
	by, hidden, err := s.holders(inodes)
	if err != nil {
		a.warn("who holds the segments could not be found out: %v", err)
		return list, 0, nil
	}
	for i := range list {
		if seg := s.segments[list[i].name]; seg != nil {
			list[i].holders = by[seg.Inode()]
		}
	}
	return list, hidden, nil
}

// inspector prints segments.
type inspector struct {
	o       inspectOptions
	out     *bufio.Writer
	json    bool
	doc     []segmentJSON
	printed int
	damage  []error
}

func (p *inspector) printf(format string, args ...any) { fmt.Fprintf(p.out, format, args...) }

// segment prints one segment. Errors: of the output only; what is wrong with the segment goes to p.damage.
func (p *inspector) segment(s subject) error {
	doc := segmentJSON{Name: s.name, Size: s.size, Holders: s.holders, Seals: []string{}, Sections: []sectionJSON{}, Errors: []string{}}
	if doc.Holders == nil {
		doc.Holders = []holder{}
	}
	damaged := func(err error) {
		doc.Errors = append(doc.Errors, err.Error())
		p.damage = append(p.damage, err)
	}
	defer func() { p.doc = append(p.doc, doc) }()
	if s.err != nil {
		damaged(s.err)
		return nil
	}
	doc.Inode = s.inode
	if s.file != nil {
		if st, err := sys.Fstat(s.file); err == nil {
			doc.Inode = st.Inode
		}
		doc.Seals = seals(s.file)
	}
	list, errs := s.sections()
	for _, err := range errs {
		damaged(err)
	}
	p.head(s, list, &doc)
	if p.o.hex {
		return s.hexdump(p.out, list)
	}
	if !p.json {
		p.printf("%-10s  %-36s  %s\n", "OFFSET", "FIELD", "VALUE")
	}
	for _, sec := range list {
		d, err := p.section(s.image, sec)
		if err != nil {
			damaged(err)
		}
		doc.Sections = append(doc.Sections, d)
	}
	records := sectionJSON{Struct: "LogRecord", Rows: []rowJSON{}}
	left, err := s.records(list, p.o.rows, func(r logRecord) error {
		label := fmt.Sprintf("LogRecord[%d]", len(records.Rows))
		records.Rows = append(records.Rows, rowJSON{Index: int64(len(records.Rows)), Offset: r.fields[0].Offset, Fields: r.fields, Text: r.text})
		p.fields(label, r.fields)
		if !p.json {
			p.printf("%-10s  %-36s  %q\n", "", label+" text", r.text)
		}
		return nil
	})
	if err != nil {
		damaged(err)
	}
	if left > 0 && !p.json {
		p.printf("… and %d bytes more of records (--rows=0 for all)\n", left)
	}
	if n := int64(len(records.Rows)); n > 0 {
		records.Count = n
		doc.Sections = append(doc.Sections, records)
	}
	return nil
}

// head prints what is above the fields, and completes the document by it.
func (p *inspector) head(s subject, list []section, doc *segmentJSON) {
	if len(list) > 0 && list[0].layout.Name == "SegmentHeader" {
		get := func(name string) uint64 {
			n, _, _ := s.number(list[0].layout, list[0].offset, name)
			return n
		}
		doc.Kind = protocol.Kind(get("kind")).String()
		doc.Layout = fmt.Sprintf("%d.%d", get("layout_major"), get("layout_minor"))
		doc.Generation = fmt.Sprintf("%016x", get("generation"))
	}
	if p.json {
		return
	}
	if p.printed++; p.printed > 1 {
		p.printf("\n")
	}
	p.printf("segment %s: %s, %s (%d bytes), layout %s, generation %s, inode %d", printable(s.name), doc.Kind, size(s.size), s.size, doc.Layout,
		doc.Generation, doc.Inode)
	if s.file != nil {
		p.printf(", seals %s", strings.Join(doc.Seals, " "))
	}
	p.printf("\n")
	var who []string
	for _, h := range s.holders {
		name := printable(h.Name)
		if name == "" {
			name = "?"
		}
		who = append(who, fmt.Sprintf("%s[%d]", name, h.Pid))
	}
	if len(who) > 0 {
		p.printf("held by %s\n", strings.Join(who, ", "))
	}
}

// section prints the rows of one section.
func (p *inspector) section(m image, s section) (sectionJSON, error) {
	doc := sectionJSON{Struct: s.layout.Name, What: s.what, Offset: s.offset, Stride: s.stride, Count: s.count, Rows: []rowJSON{}}
	zeros := int64(0) // in a row, before this one
	flush := func(i int64) {
		if zeros > 0 && !p.json {
			p.printf("%-#10x  %-36s  all zero\n", s.offset+(i-zeros)*s.stride, spanLabel(s, i-zeros, i-1))
		}
		doc.Zero += zeros
		zeros = 0
	}
	for i := int64(0); i < s.count; i++ {
		fields, zero, err := m.row(s, i)
		if err != nil {
			return doc, err
		}
		if zero && !s.single() {
			zeros++
			continue
		}
		flush(i)
		if p.o.rows > 0 && len(doc.Rows) >= p.o.rows {
			doc.LeftOut = s.count - i
			if !p.json {
				p.printf("%-#10x  %-36s  left out (--rows=0 for all)\n", s.offset+i*s.stride, spanLabel(s, i, s.count-1))
			}
			return doc, nil
		}
		row := rowJSON{Index: i, Offset: s.offset + i*s.stride, Fields: fields}
		if p.json || p.o.rows > 0 { // else all are wanted, and text is not kept
			doc.Rows = append(doc.Rows, row)
		}
		p.fields(s.label(i), fields)
	}
	flush(s.count)
	return doc, nil
}

// spanLabel names rows first to last.
func spanLabel(s section, first, last int64) string {
	if first == last {
		return s.label(first)
	}
	return fmt.Sprintf("%s…%d]", strings.TrimSuffix(s.label(first), "]"), last)
}

// fields prints the fields of a row.
func (p *inspector) fields(label string, fields []field) {
	if p.json {
		return
	}
	for _, f := range fields {
		value := ""
		switch v := f.Value.(type) {
		case uint64:
			value = fmt.Sprint(v)
			if asHex(f) {
				value = fmt.Sprintf("%#x", v)
			}
		case string:
			value = v
			if f.Type == "text" {
				value = fmt.Sprintf("%q", v)
			}
		}
		if f.Text != "" {
			value += "  " + f.Text
		}
		p.printf("%-#10x  %-36s  %s\n", f.Offset, label+"."+f.Name, value)
	}
}

// asHex reports whether a field is read better in hexadecimal digits.
func asHex(f field) bool {
	switch f.Name {
	case "magic", "generation", "layout_hash", "compat", "incompat":
		return true
	case "state": // of a slot; others are enumerations
		return f.Type == "u64"
	}
	return strings.HasSuffix(f.Name, "_offset")
}

// seals names the seals of a memfd.
func seals(f *os.File) []string {
	names := []string{}
	got, err := sys.Seals(f)
	if err != nil {
		return names
	}
	for _, s := range []struct {
		bit  int
		name string
	}{{sys.SealSeal, "seal"}, {sys.SealShrink, "shrink"}, {sys.SealGrow, "grow"}, {sys.SealWrite, "write"}, {sys.SealFutureWrite, "future-write"}, {sys.SealExec, "exec"}} {
		if got&s.bit != 0 {
			names = append(names, s.name)
		}
	}
	return names
}
