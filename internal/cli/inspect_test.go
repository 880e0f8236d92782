package cli

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// inspected prints a segment as inspect does.
func inspected(t testing.TB, name string, b []byte, o inspectOptions, asJSON bool) (text string, damage []error) {
	var out bytes.Buffer
	p := inspector{o: o, out: bufio.NewWriter(&out), json: asJSON}
	if err := p.segment(subject{image: image{name, bytes.NewReader(b), int64(len(b))}}); err != nil {
		t.Fatal(err)
	}
	if asJSON {
		e := json.NewEncoder(p.out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(p.doc); err != nil {
			t.Fatal(err)
		}
	}
	p.out.Flush()
	return out.String(), p.damage
}

func goldenSegments(t testing.TB) map[string][]byte {
	paths, err := filepath.Glob("../../pkg/protocol/testdata/golden/*.bin")
	if err != nil || len(paths) < 5 {
		t.Fatalf("golden segments: %v %v", paths, err)
	}
	m := map[string][]byte{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		m[strings.TrimSuffix(filepath.Base(p), ".bin")] = b
	}
	return m
}

// The golden segments of pkg/protocol read as testdata/inspect says: go test ./internal/cli -run Inspect -update.
func TestInspectGolden(t *testing.T) {
	for name, b := range goldenSegments(t) {
		for _, form := range []struct {
			ext  string
			o    inspectOptions
			json bool
		}{{".txt", inspectOptions{rows: 100}, false}, {".hex", inspectOptions{hex: true}, false}, {".json", inspectOptions{}, true}} {
			t.Run(name+form.ext, func(t *testing.T) {
				got, damage := inspected(t, name, b, form.o, form.json)
				for _, err := range damage {
					t.Error(err)
				}
				// What names the build is not for a golden file.
				path := filepath.Join("testdata", "inspect", name+form.ext)
				if *update {
					os.MkdirAll(filepath.Dir(path), 0o755)
					if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if got != string(want) {
					t.Errorf("%s differs; go test ./internal/cli -run Inspect -update\n%s", path, got)
				}
			})
		}
	}
}

// The hexdump holds every byte: put together again, it is the segment.
func TestHexdumpComplete(t *testing.T) {
	for name, b := range goldenSegments(t) {
		for _, n := range []int{len(b), len(b) - 5, 300, 17, 16, 1} {
			m := image{name, bytes.NewReader(b[:n]), int64(n)}
			var out bytes.Buffer
			if err := m.hexdump(&out, nil); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, n)
			for line := range strings.Lines(out.String()) {
				address, rest, _ := strings.Cut(line, "  ")
				at := 0
				for _, c := range strings.TrimSpace(address) {
					at = at<<4 | strings.IndexRune("0123456789abcdef", c)
				}
				digits, _, ok := strings.Cut(rest, "|")
				if !ok {
					continue
				}
				for i, d := range strings.Fields(digits) {
					got[at+i] = byte(strings.IndexByte("0123456789abcdef", d[0])<<4 | strings.IndexByte("0123456789abcdef", d[1]))
				}
			}
			if !bytes.Equal(got, b[:n]) {
				t.Errorf("%s: the hexdump of %d bytes is not complete", name, n)
			}
		}
	}
}

// A hole of a file is not read: sparse channels may have terabytes of them.
func TestHexdumpSparse(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 40
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("begin"), 0)
	f.WriteAt([]byte("end"), size-3)
	var out bytes.Buffer
	if err := (image{"sparse", f, size}).hexdump(&out, nil); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n > 10 || !strings.Contains(out.String(), "|begin") || !strings.Contains(out.String(), "end|") {
		t.Errorf("hexdump is\n%s", out.String())
	}
}

// Each place that the sections are found by, damaged, gives an error that names it, and the rest is still printed.
func TestInspectDamage(t *testing.T) {
	segments := goldenSegments(t)
	for _, c := range []struct {
		segment string
		offset  int
		value   uint64
		bytes   int
		where   int64 // that the error must name
	}{
		{"roster", protocol.SizeofSegmentHeader + protocol.OffsetofRosterInfoWorkerOffset, 1 << 63, 8, protocol.SizeofSegmentHeader + protocol.OffsetofRosterInfoWorkerOffset},
		{"roster", protocol.SizeofSegmentHeader + protocol.OffsetofRosterInfoWorkerOffset, 1 << 20, 8, protocol.SizeofSegmentHeader + protocol.OffsetofRosterInfoWorkerOffset},
		{"roster", protocol.SizeofSegmentHeader + protocol.OffsetofRosterInfoAttachmentCap, 1<<32 - 1, 4, protocol.SizeofSegmentHeader + protocol.OffsetofRosterInfoAttachmentOffset},
		{"command", protocol.SizeofSegmentHeader + protocol.OffsetofCommandInfoGroupCap, 1000, 4, protocol.SizeofSegmentHeader + protocol.OffsetofCommandInfoGroupOffset},
		{"group", protocol.SizeofSegmentHeader + protocol.OffsetofGroupInfoInstanceStride, 8, 4, protocol.SizeofSegmentHeader + protocol.OffsetofGroupInfoInstanceStride},
		{"queue", protocol.SizeofSegmentHeader + protocol.OffsetofQueueInfoStride, 0, 4, protocol.SizeofSegmentHeader + protocol.OffsetofQueueInfoStride},
		{"queue", protocol.SizeofSegmentHeader + protocol.OffsetofQueueInfoSlots, 1<<32 - 1, 4, protocol.SizeofSegmentHeader + protocol.OffsetofQueueInfoSlotsOffset},
		{"log", protocol.SizeofSegmentHeader + protocol.OffsetofLogInfoRingSize, 12345, 8, protocol.SizeofSegmentHeader + protocol.OffsetofLogInfoRingSize},
		{"log", protocol.SizeofSegmentHeader + protocol.OffsetofLogInfoRingOffset, 1 << 40, 8, protocol.SizeofSegmentHeader + protocol.OffsetofLogInfoRingOffset},
		{"log", protocol.SizeofSegmentHeader + protocol.OffsetofLogInfoTail, 1 << 50, 8, protocol.SizeofSegmentHeader + protocol.OffsetofLogInfoTail},
	} {
		b := bytes.Clone(segments[c.segment])
		if c.bytes == 4 {
			binary.LittleEndian.PutUint32(b[c.offset:], uint32(c.value))
		} else {
			binary.LittleEndian.PutUint64(b[c.offset:], c.value)
		}
		text, damage := inspected(t, c.segment, b, inspectOptions{rows: 10}, false)
		if len(damage) == 0 {
			t.Errorf("%s with %#x at %#x: no error", c.segment, c.value, c.offset)
			continue
		}
		corrupt, ok := damage[0].(*protocol.CorruptError)
		if !ok || corrupt.Offset != c.where {
			t.Errorf("%s with %#x at %#x: %v; it should name offset %#x", c.segment, c.value, c.offset, damage[0], c.where)
		}
		if !strings.Contains(text, "SegmentHeader.magic") {
			t.Errorf("%s: the rest is not printed", c.segment)
		}
	}
}

// FuzzInspect: whatever lies in the memory, inspect neither crashes nor reads outside, and its output is bounded by its input.
func FuzzInspect(f *testing.F) {
	for _, b := range goldenSegments(f) {
		f.Add(b[:min(len(b), 8192)], uint8(0))
		f.Add(b[:min(len(b), 300)], uint8(1))
	}
	f.Add([]byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, rows uint8) {
		if len(b) > 1<<16 {
			return
		}
		if len(b) >= 256 && b[0] != 'S' { // most mutations would end at the magic number
			b = bytes.Clone(b)
			binary.LittleEndian.PutUint64(b, protocol.Magic)
			binary.LittleEndian.PutUint32(b[protocol.OffsetofSegmentHeaderLayoutMajor:], protocol.LayoutMajor)
		}
		for _, form := range []struct {
			o    inspectOptions
			json bool
		}{{inspectOptions{rows: int(rows)}, false}, {inspectOptions{rows: int(rows)}, true}, {inspectOptions{hex: true}, false}} {
			text, _ := inspected(t, "fuzz", b, form.o, form.json)
			if len(text) > 1<<14+1000*len(b) {
				t.Fatalf("%d bytes of output for %d bytes of memory", len(text), len(b))
			}
		}
	})
}

// failing is a reader that ends before it should: a file that was cut short.
type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestInspectReadError(t *testing.T) {
	m := image{"cut", failing{}, 4096}
	if _, errs := m.sections(); len(errs) == 0 || !strings.Contains(errs[0].Error(), "at offset 0x0") {
		t.Errorf("errors are %v", errs)
	}
	if err := m.hexdump(io.Discard, nil); err == nil {
		t.Error("hexdump has no error")
	}
}
