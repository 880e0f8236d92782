package dump

import (
	"bufio"
	"context"
	"io"

	"github.com/shmd/shmd/internal/outfile"
)

// WriteFile writes a dump to a path, as outfile.Create opens it: into a file of mode 0600, which has its name only when all of it is there, or into what
// is no regular file. It returns the dump's size. It ends with ctx.
func WriteFile(ctx context.Context, path string, m Manifest, sources []Source, progress func(done, total int64)) (size int64, err error) {
	f, err := outfile.Create(ctx, path, 0o600)
	if err != nil {
		return 0, err
	}
	return WriteTo(ctx, f, m, sources, progress)
}

// WriteTo is WriteFile into a file that is open already, which it commits or discards.
func WriteTo(ctx context.Context, f *outfile.File, m Manifest, sources []Source, progress func(done, total int64)) (size int64, err error) {
	defer f.Discard()
	counted := &counter{w: f}
	out := bufio.NewWriterSize(counted, 1<<20)
	if err := Write(Until(ctx, out), m, sources, progress); err != nil {
		return 0, err
	}
	if err := out.Flush(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return 0, err
	}
	return counted.n, f.Commit()
}

// counter counts what is written: a pipe has no position.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Until returns a writer that fails with ctx's cause once that has ended.
func Until(ctx context.Context, w io.Writer) io.Writer { return contextWriter{ctx, w} }

type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c contextWriter) Write(p []byte) (n int, err error) {
	if c.ctx.Err() == nil {
		n, err = c.w.Write(p)
	}
	if c.ctx.Err() != nil && (err != nil || n < len(p)) { // also of a write that the end broke off
		err = context.Cause(c.ctx)
	}
	return n, err
}
