package dump

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Schema is the number of this form of the manifest.
const Schema = 1

// Manifest says what a dump is of.
type Manifest struct {
	Schema     int       `json:"schema"`
	Region     string    `json:"region"`
	Generation string    `json:"generation"` // hexadecimal
	BootID     string    `json:"boot_id"`    // hexadecimal; of the machine's boot, as the segments have it
	Taken      time.Time `json:"taken"`
	Reason     string    `json:"reason"` // why it was made
	By         string    `json:"by"`     // which program of which version
	Layout     string    `json:"layout"` // of that program
	Daemon     Daemon    `json:"daemon"`
	Segments   []Segment `json:"segments"`
}

// Daemon is what the roster said of the daemon.
type Daemon struct {
	Pid     int    `json:"pid"`
	State   string `json:"state"`
	Version string `json:"version"`
	Config  string `json:"config"`
}

// Segment is one segment in the manifest.
type Segment struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Size    int64  `json:"size"` // bytes
	Inode   uint64 `json:"inode"`
	Moving  bool   `json:"moving"`            // its head changed while it was copied
	Missing string `json:"missing,omitempty"` // why it is not in the archive
}

// Source is a segment to be dumped. R reads it from its beginning; nil if Missing says why there is none.
type Source struct {
	Segment
	R io.ReaderAt
}

// head is how much of a segment is read again after it was copied: what moves whenever anything does lies there.
const head = 4096

// Write writes a dump. Segments of the manifest is made from the sources. progress, if not nil, is called after each piece with the bytes of memory done
// and to be done in all. Errors: of reading a segment, and of w.
func Write(w io.Writer, m Manifest, sources []Source, progress func(done, total int64)) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close() // a second time it does nothing
	t := tar.NewWriter(z)
	var done, total int64
	for _, s := range sources {
		if s.Missing == "" {
			total += s.Size
		}
	}
	for _, s := range sources {
		if s.Missing == "" {
			if err := t.WriteHeader(&tar.Header{Name: "segments/" + s.Name, Mode: 0o600, Size: s.Size, ModTime: m.Taken}); err != nil {
				return err
			}
			if s.Moving, err = copySegment(t, s, func(n int) {
				if done += int64(n); progress != nil {
					progress(done, total)
				}
			}); err != nil {
				return err
			}
		}
		m.Segments = append(m.Segments, s.Segment)
	}
	m.Schema = Schema
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if err := t.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o600, Size: int64(len(text)), ModTime: m.Taken}); err != nil {
		return err
	}
	if _, err := t.Write(text); err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	return z.Close()
}

const manifestName = "manifest.json"

// copySegment copies the bytes, and reports whether the head changed meanwhile.
func copySegment(w io.Writer, s Source, did func(n int)) (moving bool, err error) {
	buf := make([]byte, 1<<20)
	var first []byte
	for at := int64(0); at < s.Size; {
		p := buf[:min(int64(len(buf)), s.Size-at)]
		if n, err := s.R.ReadAt(p, at); n < len(p) {
			return false, fmt.Errorf("segment %q: read %d bytes at offset %#x: %w", s.Name, len(p), at, err)
		}
		if at == 0 {
			first = bytes.Clone(p[:min(head, len(p))])
		}
		if _, err := w.Write(p); err != nil {
			return false, err
		}
		at += int64(len(p))
		did(len(p))
	}
	again := buf[:len(first)]
	if n, err := s.R.ReadAt(again, 0); n < len(again) {
		return false, fmt.Errorf("segment %q: %w", s.Name, err)
	}
	return !bytes.Equal(first, again), nil
}
