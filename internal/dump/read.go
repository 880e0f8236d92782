package dump

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/shmd/shmd/internal/sys"
)

// ErrNotADump is in the chain of the error for a file that is something else.
var ErrNotADump = errors.New("not a dump of shmd")

// Dump is a dump that was read.
type Dump struct {
	Manifest
	bytes map[string][]byte
}

// Bytes returns the memory of a segment, nil if it is not in the dump. 8-byte aligned.
func (d *Dump) Bytes(name string) []byte { return d.bytes[name] }

// magic is what a zstd frame begins with.
var magic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// Is reports whether the file begins as a dump does.
func Is(f io.ReaderAt) bool {
	var b [4]byte
	n, _ := f.ReadAt(b[:], 0)
	return n == len(b) && bytes.Equal(b[:], magic)
}

// Open reads the dump in a file, or what a pipe gives: /dev/stdin, or the shell's <(command). It ends with ctx, and when nobody has written into a
// pipe for pipePatience. Errors: those of Read and of the system, with the path, and ctx's cause.
func Open(ctx context.Context, path string) (*Dump, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a pipe else waits for who writes into it
	if err != nil {
		return nil, err
	}
	defer f.Close()
	past := time.Unix(1, 0)
	defer context.AfterFunc(ctx, func() { f.SetReadDeadline(past) })() // of a pipe; a file does not wait
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	d, err := Read(bufio.NewReaderSize(&patient{ctx: ctx, f: f, pipe: st.Mode()&fs.ModeNamedPipe != 0, end: time.Now().Add(pipePatience)}, 1<<20), DefaultLimit)
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, context.Cause(ctx)
	case err != nil && st.IsDir():
		return nil, err // with the path
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// pipePatience is how long a pipe may take until the first byte; tests have less.
var pipePatience = 10 * time.Second

// patient reads until its context ends. A pipe is at its end, too, as long as nobody has opened it to write, and no event tells when that
// changes: so it looks again.
type patient struct {
	ctx  context.Context
	f    *os.File
	pipe bool      // and nothing has come through it
	end  time.Time // of waiting for that
}

func (p *patient) Read(b []byte) (int, error) {
	for {
		if p.ctx.Err() != nil {
			return 0, context.Cause(p.ctx)
		}
		n, err := p.f.Read(b)
		if p.pipe = p.pipe && n == 0; !p.pipe || err != io.EOF {
			return n, err
		}
		if time.Now().After(p.end) {
			return 0, fmt.Errorf("%w: nobody has written into this pipe within %v", ErrNotADump, pipePatience)
		}
		select {
		case <-p.ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// DefaultLimit is how large the segments of a dump may be together, in bytes.
const DefaultLimit = 1 << 40

const maxManifest = 16 << 20

// Read reads a dump whose segments have at most limit bytes together. Zeros in them cost no memory. Nothing in it is trusted: what it says of itself has to fit
// to what is there. Errors: ErrNotADump, or what does not fit; io.ErrUnexpectedEOF for an archive that ends too early.
func Read(r io.Reader, limit int64) (*Dump, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20), zstd.WithDecoderMaxWindow(32<<20))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	t := tar.NewReader(z)
	d := &Dump{bytes: map[string][]byte{}}
	for {
		h, err := t.Next()
		switch {
		case err == io.EOF:
			if len(d.bytes) == 0 {
				return nil, fmt.Errorf("%w: an empty archive", ErrNotADump)
			}
			return nil, fmt.Errorf("%w: the manifest, its last entry, is missing; whoever made it did not finish", io.ErrUnexpectedEOF)
		case errors.Is(err, zstd.ErrMagicMismatch), errors.Is(err, tar.ErrHeader):
			return nil, fmt.Errorf("%w: %w", ErrNotADump, err)
		case err != nil:
			return nil, err
		}
		name, isSegment := strings.CutPrefix(h.Name, "segments/")
		switch {
		case h.Typeflag != tar.TypeReg || !isSegment && h.Name != manifestName:
			return nil, fmt.Errorf("%w: it has an entry %q", ErrNotADump, h.Name)
		case !isSegment:
			if h.Size > maxManifest {
				return nil, fmt.Errorf("a manifest of %d bytes, and %d are the limit", h.Size, maxManifest)
			}
			text, err := io.ReadAll(t)
			if err != nil {
				return nil, err
			}
			if err := json.Unmarshal(text, &d.Manifest); err != nil {
				return nil, fmt.Errorf("manifest: %w", err)
			}
			return d, d.check()
		case d.bytes[name] != nil:
			return nil, fmt.Errorf("segment %q is there twice", name)
		case h.Size > limit:
			return nil, fmt.Errorf("segment %q has %d bytes, and there is room for %d", name, h.Size, limit)
		}
		limit -= h.Size
		b, err := room(h.Size)
		if err == nil {
			if err = fill(b, t); err != nil && h.Size > small {
				sys.Unmap(b)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("segment %q of %d bytes: %w", name, h.Size, err)
		}
		d.bytes[name] = b
	}
}

// small is up to which size a segment is Go's memory.
const small = 64 << 20

// room makes place for a segment, zero and untouched. The size is what the archive says, and may be a lie, on which Go's allocator would end the program.
func room(size int64) ([]byte, error) {
	if size <= small {
		return make([]byte, size), nil
	}
	return sys.MapScratch(int(size))
}

// fill reads b, which is zero, and stores only what is not.
func fill(b []byte, r io.Reader) error {
	var page [4096]byte
	var zero [4096]byte
	for at := 0; at < len(b); at += len(page) {
		p := page[:min(len(page), len(b)-at)]
		if _, err := io.ReadFull(r, p); err != nil {
			return err
		}
		if !bytes.Equal(p, zero[:len(p)]) {
			copy(b[at:], p)
		}
	}
	return nil
}

// check compares the manifest with what is there.
func (d *Dump) check() error {
	if d.Schema != Schema {
		return fmt.Errorf("manifest of schema %d, this program knows %d", d.Schema, Schema)
	}
	seen := map[string]bool{}
	for _, s := range d.Segments {
		b, there := d.bytes[s.Name]
		switch {
		case seen[s.Name]:
			return fmt.Errorf("manifest: segment %q twice", s.Name)
		case there && s.Missing != "":
			return fmt.Errorf("manifest: segment %q is said to be missing, and the archive has it", s.Name)
		case !there && s.Missing == "":
			return fmt.Errorf("manifest: segment %q of %d bytes, which the archive does not have", s.Name, s.Size)
		case there && int64(len(b)) != s.Size:
			return fmt.Errorf("manifest: segment %q of %d bytes, the archive has %d of it", s.Name, s.Size, len(b))
		}
		seen[s.Name] = true
	}
	for name := range d.bytes {
		if !seen[name] {
			return fmt.Errorf("segment %q is not in the manifest", name)
		}
	}
	return nil
}
