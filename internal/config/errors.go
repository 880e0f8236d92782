package config

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is one problem of a configuration. Line and Col count from 1, Col in bytes; both are 0
// where the problem has no place in a file (a Config made by hand, an empty file).
type Error struct {
	File      string
	Line, Col int
	Msg       string // one line: what is wrong, and what to do next
	Context   string // the lines around, with the place underlined; may be empty
}

// Problem is what [Config.Check] reports.
type Problem = Error

// Error returns "FILE:LINE:COL: MSG".
func (e Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Msg
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Col, e.Msg)
}

// Detail returns Error and the excerpt of the file below it.
func (e Error) Detail() string {
	if e.Context == "" {
		return e.Error()
	}
	return e.Error() + "\n" + e.Context
}

// Errors is every problem of a configuration, in the order of the file.
type Errors []Error

// Error returns one problem a line.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Detail returns each problem with its excerpt.
func (es Errors) Detail() string {
	parts := make([]string, len(es))
	for i, e := range es {
		parts[i] = e.Detail()
	}
	return strings.Join(parts, "\n\n")
}

// Unwrap lets errors.As find an [Error].
func (es Errors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}

func (es Errors) sort() {
	slices.SortStableFunc(es, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
}

// source is the text of a configuration and where each key stands in it.
type source struct {
	name  string
	data  []byte
	lines []int            // offset of each line
	where map[string]place // by joined path
}

// span is a range of bytes of the text. len 0 marks a point.
type span struct{ off, len int }

// place is where one key stands.
type place struct {
	key span
	bad bool // its value was refused already, and has its default
}

func newSource(name string, data []byte) *source {
	s := &source{name: name, data: bytes.Clone(data), lines: []int{0}, where: map[string]place{}}
	for i, b := range data {
		if b == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	return s
}

// line returns the number of the line (from 0) that holds the byte at off.
func (s *source) line(off int) int {
	i, found := slices.BinarySearch(s.lines, off)
	if !found {
		i--
	}
	return i
}

// text returns a line (from 0) without its end.
func (s *source) text(line int) []byte {
	end := len(s.data)
	if line+1 < len(s.lines) {
		end = s.lines[line+1] - 1
	}
	return bytes.TrimSuffix(s.data[s.lines[line]:end], []byte{'\r'})
}

// join makes one string of a path.
func join(path []string) string { return strings.Join(path, "\x00") }

// problem makes an Error at the key that path names, or at the nearest table around it. A nil
// source gives an Error without a place.
func (s *source) problem(path []string, format string, args ...any) Error {
	if s == nil {
		return Error{File: "configuration", Msg: clean(fmt.Sprintf(format, args...))}
	}
	for n := len(path); n > 0; n-- {
		if p, ok := s.where[join(path[:n])]; ok {
			return s.at(p.key, format, args...)
		}
	}
	return Error{File: s.name, Msg: clean(fmt.Sprintf(format, args...))}
}

// at makes an Error at a span.
func (s *source) at(sp span, format string, args ...any) Error {
	line := s.line(sp.off)
	return Error{
		File:    s.name,
		Line:    line + 1,
		Col:     sp.off - s.lines[line] + 1,
		Msg:     clean(fmt.Sprintf(format, args...)),
		Context: s.excerpt(sp),
	}
}

// excerpt shows the line of a span, two before and one after, with the span underlined:
//
//	1| [worker.parser]
//	2| coutn = 4
//	 | ~~~~~
func (s *source) excerpt(sp span) string {
	const before, after = 2, 1
	at := s.line(sp.off)
	empty := func(line int) bool { return len(bytes.TrimSpace(s.text(line))) == 0 }
	first, last := max(at-before, 0), min(at+after, len(s.lines)-1)
	for first < at && empty(first) {
		first++
	}
	for last > at && empty(last) {
		last--
	}
	width := len(strconv.Itoa(last + 1))
	var b strings.Builder
	for i := first; i <= last; i++ {
		text := s.text(i)
		if i != at {
			fmt.Fprintf(&b, "%*d| %s\n", width, i+1, printable(text))
			continue
		}
		col, cut := min(sp.off-s.lines[i], len(text)), ""
		if col > 3*showMost/4 { // show what is around the place
			from := col - showMost/4
			for from < col && !utf8.RuneStart(text[from]) {
				from++
			}
			text, col, cut = text[from:], col-from, "…"
		}
		mark := text[col:min(col+sp.len, len(text))]
		fmt.Fprintf(&b, "%*d| %s%s\n", width, i+1, cut, printable(text))
		fmt.Fprintf(&b, "%*s| %s%s\n", width, "", blank(cut+printable(text[:col])),
			strings.Repeat("~", max(utf8.RuneCountInString(printable(mark)), 1)))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// showMost is how many characters of a line are shown.
const showMost = 160

// printable makes a line of a file fit to show: clean, not endless.
func printable(line []byte) string {
	line = line[:min(len(line), (showMost+1)*utf8.UTFMax)]
	r := []rune(clean(string(line)))
	if len(r) <= showMost {
		return string(r)
	}
	return string(r[:showMost-1]) + "…"
}

// clean replaces what a terminal would act upon; one line stays one line.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// blank returns as much white space as s is wide; tabs stay tabs.
func blank(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, s)
}
