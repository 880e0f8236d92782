package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

const (
	hexRow   = 16
	hexChunk = 64 << 10
)

// hexdump writes the bytes of a segment, 16 a line, with the fields that begin in each line. Stretches of more than one line of
// zeros become one line.
func (m image) hexdump(out io.Writer, list []section) error {
	zeros, from := int64(0), int64(0) // lines held back
	flush := func() error {
		defer func() { zeros = 0 }()
		switch {
		case zeros == 1:
			return m.hexLine(out, from, make([]byte, min(hexRow, m.size-from)), list)
		case zeros > 1:
			end := min(from+zeros*hexRow, m.size)
			_, err := fmt.Fprintf(out, "%08x  … %d zero bytes up to %08x\n", from, end-from, end)
			return err
		}
		return nil
	}
	zero := func(at, lines int64) {
		if zeros == 0 {
			from = at
		}
		zeros += lines
	}
	for at := int64(0); at < m.size; {
		data := m.nextData(at)
		if data > at { // a hole: nothing was ever written there
			zero(at, (data-at+hexRow-1)/hexRow)
			at = data
			continue
		}
		b, err := m.bytes(at, int(min(hexChunk, m.size-at)))
		if err != nil {
			return err
		}
		for line := range len(b) / hexRow {
			p := b[line*hexRow:][:hexRow]
			if len(bytes.Trim(p, "\x00")) == 0 {
				zero(at+int64(line)*hexRow, 1)
				continue
			}
			if err := flush(); err != nil {
				return err
			}
			if err := m.hexLine(out, at+int64(line)*hexRow, p, list); err != nil {
				return err
			}
		}
		if rest := len(b) % hexRow; rest > 0 { // at the very end
			if err := flush(); err != nil {
				return err
			}
			if err := m.hexLine(out, at+int64(len(b)-rest), b[len(b)-rest:], list); err != nil {
				return err
			}
		}
		at += int64(len(b))
	}
	if err := flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%08x\n", m.size)
	return err
}

// nextData returns the next place at or after at that may hold something, a multiple of a line; the end if there is none.
// Reading a hole of a memfd is cheap, but a sparse channel may have terabytes of them.
func (m image) nextData(at int64) int64 {
	f, ok := m.r.(*os.File)
	if !ok {
		return at
	}
	const seekData = 3 // SEEK_DATA of lseek(2); what the kernel answers does not depend on the offset that the descriptor has
	next, err := f.Seek(at, seekData)
	if err != nil {
		if errors.Is(err, syscall.ENXIO) { // nothing but a hole up to the end
			return m.size
		}
		return at // a file system without holes
	}
	return min(max(next&^(hexRow-1), at), m.size)
}

// hexLine writes one line.
func (m image) hexLine(out io.Writer, at int64, p []byte, list []section) error {
	var digits, text strings.Builder
	for i := range hexRow {
		if i == hexRow/2 {
			digits.WriteByte(' ')
		}
		if i >= len(p) {
			digits.WriteString("   ")
			continue
		}
		fmt.Fprintf(&digits, "%02x ", p[i])
		if p[i] < ' ' || p[i] > '~' {
			text.WriteByte('.')
		} else {
			text.WriteByte(p[i])
		}
	}
	line := fmt.Sprintf("%08x  %s |%s|", at, digits.String(), text.String())
	if names := fieldsAt(list, at, at+int64(len(p))); names != "" {
		line += strings.Repeat(" ", hexRow-text.Len()) + "  " + names
	}
	_, err := fmt.Fprintln(out, line)
	return err
}

// fieldsAt names the fields that begin in [from, to): the first of a struct with its struct, further ones with a dot.
func fieldsAt(list []section, from, to int64) string {
	var names []string
	for _, s := range list {
		if s.count == 0 || to <= s.offset || from >= s.end() {
			continue
		}
		first, last := int64(0), int64(0)
		if s.stride > 0 {
			first, last = max((from-s.offset)/s.stride, 0), min((to-1-s.offset)/s.stride, s.count-1)
		}
		for i := first; i <= last; i++ {
			label := s.label(i)
			for _, f := range s.layout.Fields {
				if at := s.offset + i*s.stride + int64(f.Offset); at >= from && at < to {
					names = append(names, label+"."+f.Name)
					label = ""
				}
			}
		}
	}
	return strings.Join(names, " ")
}
