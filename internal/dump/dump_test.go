package dump

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"time"
)

func sources() []Source {
	big := make([]byte, 3<<20+8)
	copy(big[1<<20:], "in the middle")
	return []Source{
		{Segment{Name: "roster", Kind: "roster", Size: 8192, Inode: 5}, bytes.NewReader(bytes.Repeat([]byte("12345678"), 1024))},
		{Segment{Name: "group/a", Kind: "group", Size: int64(len(big)), Inode: 6}, bytes.NewReader(big)},
		{Segment{Name: "secret", Kind: "queue", Size: 4096, Missing: "not handed out"}, nil},
	}
}

func written(t testing.TB) ([]byte, Manifest) {
	m := Manifest{Region: "test", Generation: "07", BootID: "01", Taken: time.Unix(1_700_000_000, 0).UTC(), Reason: "why", By: "a test", Layout: "1.0", Daemon: Daemon{Pid: 7, State: "running"}}
	var b bytes.Buffer
	last, total := int64(0), int64(0)
	if err := Write(&b, m, sources(), func(d, n int64) { last, total = d, n }); err != nil {
		t.Fatal(err)
	}
	if want := int64(8192 + 3<<20 + 8); last != want || total != want {
		t.Errorf("progress ends at %d of %d, not %d", last, total, want)
	}
	return b.Bytes(), m
}

func TestRoundTrip(t *testing.T) {
	b, m := written(t)
	if len(b) > 4096 {
		t.Errorf("3 MiB of zeros are %d bytes", len(b))
	}
	d, err := Read(bytes.NewReader(b), DefaultLimit)
	if err != nil {
		t.Fatal(err)
	}
	m.Schema = Schema
	for _, s := range sources() {
		m.Segments = append(m.Segments, s.Segment)
		if s.R == nil {
			if d.Bytes(s.Name) != nil {
				t.Errorf("%s is there", s.Name)
			}
			continue
		}
		want := make([]byte, s.Size)
		s.R.ReadAt(want, 0)
		if !bytes.Equal(d.Bytes(s.Name), want) {
			t.Errorf("%s differs", s.Name)
		}
	}
	if !reflect.DeepEqual(d.Manifest, m) {
		t.Errorf("the manifest is\n%+v, not\n%+v", d.Manifest, m)
	}
	if !Is(bytes.NewReader(b)) || Is(strings.NewReader("x")) {
		t.Error("Is")
	}
}

// changing is memory whose head changes between two looks.
type changing struct{ n byte }

func (c *changing) ReadAt(p []byte, _ int64) (int, error) {
	c.n++
	clear(p)
	p[0] = c.n
	return len(p), nil
}

func TestMoving(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, Manifest{}, []Source{{Segment{Name: "s", Size: 4096}, &changing{}}}, nil); err != nil {
		t.Fatal(err)
	}
	if d, err := Read(&b, DefaultLimit); err != nil || !d.Segments[0].Moving {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestCut: whatever is missing at the end is told.
func TestCut(t *testing.T) {
	b, _ := written(t)
	for n := range len(b) {
		if _, err := Read(bytes.NewReader(b[:n]), DefaultLimit); err == nil {
			t.Fatalf("%d of %d bytes are read without an error", n, len(b))
		}
	}
}

func TestRefused(t *testing.T) {
	if _, err := Read(strings.NewReader("some text, not a dump"), DefaultLimit); !errors.Is(err, ErrNotADump) {
		t.Errorf("text: %v", err)
	}
	b, _ := written(t)
	if _, err := Read(bytes.NewReader(b), 1<<20); err == nil || !strings.Contains(err.Error(), `"group/a" has 3145736 bytes`) {
		t.Errorf("a limit: %v", err)
	}
	failing := Source{Segment{Name: "s", Size: 4096}, bytes.NewReader(make([]byte, 100))}
	if err := Write(io.Discard, Manifest{}, []Source{failing}, nil); !errors.Is(err, io.EOF) {
		t.Errorf("memory that ends: %v", err)
	}
}

// TestLiar: an archive of a few bytes that says a segment has half a TiB is one that ends too early, and not the end of the program.
func TestLiar(t *testing.T) {
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: "segments/roster", Typeflag: tar.TypeReg, Mode: 0o600, Size: 1 << 39}); err != nil {
		t.Fatal(err)
	}
	w.Write(make([]byte, 4096))
	z.Close()
	if _, err := Read(&b, DefaultLimit); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v, want an unexpected end", err)
	}
}

// FuzzRead: whatever a file says of itself, reading it ends, takes no more memory than the limit and the file's own bytes ask for, and does not crash.
func FuzzRead(f *testing.F) {
	b, _ := written(f)
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		d, err := Read(bytes.NewReader(p), 4<<20)
		if err == nil && d.Schema != Schema {
			t.Fatalf("accepted %+v", d.Manifest)
		}
	})
}
