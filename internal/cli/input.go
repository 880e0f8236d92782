package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/shm"
)

// readSize is the most that one read of standard input takes: so much that its system call costs nothing beside the copy, and
// so little that it stays in a cache.
const readSize = 256 << 10

// chunk is a piece of standard input. Its bytes are valid until done.
type chunk struct {
	b    []byte
	err  error // the last one: a failed read, the end of the context, shm.ErrQuit
	done func()
}

// read reads in a goroutine of its own, so that what waits for input can be interrupted, and reading goes on while the last chunk is
// worked on. A goroutine that is interrupted in a read ends with the process. The end of the input is the end of the sequence.
func read(ctx context.Context, r *shm.Region, in io.Reader) iter.Seq[chunk] {
	return func(yield func(chunk) bool) {
		free, full := make(chan []byte, 2), make(chan chunk)
		end := make(chan struct{})
		defer close(end)
		for range cap(free) {
			free <- make([]byte, readSize)
		}
		go func() {
			defer close(full)
			for {
				var b []byte
				select {
				case b = <-free:
				case <-end:
					return
				}
				n, err := in.Read(b)
				for _, c := range []chunk{{b: b[:n], done: func() { free <- b }}, {err: err}} {
					if len(c.b) == 0 && (c.err == nil || errors.Is(c.err, io.EOF)) {
						continue
					}
					select {
					case full <- c:
					case <-end:
						return
					}
				}
				if err != nil {
					return
				}
				if n == 0 {
					free <- b
				}
			}
		}()
		for {
			select {
			case c, ok := <-full:
				if c.err != nil {
					c.err = fmt.Errorf("read standard input: %w", c.err)
				}
				if !ok || !yield(c) || c.err != nil {
					return
				}
			case <-r.Quit().Done():
				yield(chunk{err: shm.ErrQuit})
				return
			case <-ctx.Done():
				yield(chunk{err: ctx.Err()})
				return
			}
		}
	}
}

// onHangup calls fn when out is a pipe and its last reader goes, which a writer that has nothing to write would not notice. The
// function that it returns ends the watch.
func onHangup(out *os.File, fn func()) (end func()) {
	info, err := out.Stat()
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return func() {}
	}
	watch, err := sys.NewEpoll()
	if err != nil {
		return func() {}
	}
	if err := watch.Add(out, 1); err != nil {
		watch.Close()
		return func() {}
	}
	go func() {
		if tokens, err := watch.Wait(-1); err == nil && len(tokens) > 0 {
			fn()
		}
	}()
	return func() { watch.Close() }
}
