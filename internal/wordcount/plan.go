package wordcount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/shmd/shmd/pkg/shm"
)

// Plan is a tree of files cut into jobs.
type Plan struct {
	Root   string // absolute, without symbolic links
	Run    uint64 // random; stamps the jobs and their results
	Jobs   [][]byte
	Files  int
	Bytes  int64       // of all files, as large as they were when the plan was made
	Pages  int64       // the same in bytes of whole pages: what one copy costs in memory
	Errors []FileError // what could not be looked at; not fatal
}

// minSlot holds a job of one range of the longest path that Linux opens.
const minSlot = 4096 + 64

// NewPlan walks the regular files under root, as `find root -type f` does: it
// follows no symbolic link except root itself. Small files are packed together
// and large ones are cut, so that a job has at most JobBytes of text and its
// message fits into slot bytes.
//
// A directory below root that cannot be read is in Errors; root itself must be
// readable. Files that say they have no size, as those of /proc do, count as
// empty.
func NewPlan(ctx context.Context, root string, slot int) (*Plan, error) {
	if slot < minSlot {
		return nil, fmt.Errorf("slots of %d bytes are too small for jobs: set slot_size of the channel to %d or more", slot, minSlot)
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return nil, err
	}
	p := &Plan{Root: abs, Run: rand.Uint64()}
	b, page := packer{plan: p, slot: slot}, int64(os.Getpagesize())
	err = filepath.WalkDir(abs, func(path string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && path == abs:
			return err
		case err != nil:
			p.Errors = append(p.Errors, fileError(path, err))
			return nil
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if err != nil {
			p.Errors = append(p.Errors, fileError(path, err))
			return nil
		}
		p.Files++
		p.Bytes += info.Size()
		p.Pages += (info.Size() + page - 1) / page * page
		b.add(path, info.Size())
		return nil
	})
	if err != nil {
		return nil, err
	}
	b.flush()
	return p, nil
}

// fileError leaves the path out of the text, since it stands beside it.
func fileError(path string, err error) FileError {
	if short := (*shm.TruncatedError)(nil); errors.As(err, &short) {
		return FileError{path, fmt.Sprintf("became shorter while it was read: %d bytes are left", short.Size)}
	}
	var pe *fs.PathError
	if errors.As(err, &pe) && pe.Path == path {
		return FileError{path, pe.Op + ": " + pe.Err.Error()}
	}
	return FileError{path, err.Error()}
}

// packer fills one job after the other.
type packer struct {
	plan  *Plan
	slot  int
	msg   []byte // nil: no job is begun
	prev  string // path of the last range in msg
	bytes int64  // of text in msg
}

func (b *packer) add(path string, size int64) {
	if b.bytes+size > JobBytes {
		b.flush() // a file that fits into one job is in one job
	}
	for offset := int64(0); ; {
		r := Range{path, offset, min(size-offset, JobBytes-b.bytes)}
		if b.begin(); !b.fits(r) {
			b.flush()
			continue
		}
		offset += r.Len
		if b.bytes += r.Len; b.bytes == JobBytes {
			b.flush()
		}
		if offset == size {
			return
		}
	}
}

func (b *packer) begin() {
	if b.msg == nil {
		b.msg = appendJobHeader(make([]byte, 0, b.slot), b.plan.Run, uint32(len(b.plan.Jobs)))
	}
}

// fits appends the range if the message then still fits into a slot. The first
// range always does, by minSlot.
func (b *packer) fits(r Range) bool {
	msg := appendRange(b.msg, b.prev, r)
	if len(msg) > b.slot && len(b.msg) > jobHeader {
		return false
	}
	b.msg, b.prev = msg, r.Path
	return true
}

func (b *packer) flush() {
	if b.msg != nil {
		b.plan.Jobs = append(b.plan.Jobs, append([]byte(nil), b.msg...))
	}
	b.msg, b.prev, b.bytes = nil, "", 0
}

// Count does all the work of a plan here, on one goroutine and without a queue. It
// is what the pipeline is compared with.
func (p *Plan) Count(ctx context.Context) (*Merger, error) {
	files := newFiles(mappedLimit()) // not cleared: see Work
	m := NewMerger(p.Run, len(p.Jobs))
	var words Counter
	for _, msg := range p.Jobs {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		job, err := DecodeJob(msg)
		if err != nil {
			return nil, err
		}
		read, errs := files.count(job.Ranges, &words)
		for w, n := range words.All() {
			m.Words.Add(w, n)
		}
		m.Bytes += read
		m.addErrors(errs)
		m.left--
	}
	return m, nil
}
