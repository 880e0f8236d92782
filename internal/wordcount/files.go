package wordcount

import (
	"bytes"
	"container/list"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/shmd/shmd/pkg/shm"
)

// maxFiles is how many files a worker keeps mapped, if the system lets it.
const maxFiles = 16384

// files keeps the files of a run mapped: a large file is mapped once for all its
// chunks, and what the text costs in memory can be measured while the worker
// lives. Over the limit the file that was used least recently is unmapped.
type files struct {
	limit  int
	byPath map[string]*list.Element
	order  list.List // of *shm.File, the last used in front
}

func newFiles(limit int) *files {
	return &files{limit: limit, byPath: map[string]*list.Element{}}
}

// mappedLimit leaves half of the process's mappings and descriptors to others.
func mappedLimit() int {
	limit := maxFiles
	if b, err := os.ReadFile("/proc/sys/vm/max_map_count"); err == nil {
		if n, err := strconv.Atoi(string(bytes.TrimSpace(b))); err == nil {
			limit = min(limit, n/2)
		}
	}
	var fds syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &fds) == nil {
		limit = int(min(uint64(limit), fds.Cur/2))
	}
	return max(limit, 1)
}

// open returns the file, mapped whole as it was when it was first opened. The
// file is the cache's; it is valid until the next call.
func (c *files) open(path string) (*shm.File, error) {
	if e := c.byPath[path]; e != nil {
		c.order.MoveToFront(e)
		return e.Value.(*shm.File), nil
	}
	f, err := shm.OpenFile(path)
	if err != nil {
		return nil, err
	}
	if c.order.Len() >= c.limit {
		c.drop(c.order.Back().Value.(*shm.File).Path())
	}
	c.byPath[path] = c.order.PushFront(f)
	return f, nil
}

// drop forgets a file, so that the next open looks at it anew.
func (c *files) drop(path string) {
	if e := c.byPath[path]; e != nil {
		delete(c.byPath, path)
		c.order.Remove(e).(*shm.File).Close()
	}
}

// clear unmaps all.
func (c *files) clear() {
	for path := range c.byPath {
		c.drop(path)
	}
}

// count adds the words of a job to an empty counter and returns how many bytes
// they are of. A file that cannot be read is left out as a whole, with an error.
func (c *files) count(ranges []Range, words *Counter) (read uint64, errs []FileError) {
	bad := map[string]bool{}
	leaveOut := func(path string, err error) {
		bad[path] = true
		errs = append(errs, fileError(path, err))
		c.drop(path)
	}
	// What can be found out without counting is found out first.
	for _, r := range ranges {
		if bad[r.Path] {
			continue
		}
		if _, err := c.openRange(r); err != nil {
			leaveOut(r.Path, err)
		}
	}
	// A file that becomes shorter while it is read has spoilt the counts: they
	// are made again without it.
again:
	words.Reset()
	read = 0
	for _, r := range ranges {
		if bad[r.Path] {
			continue
		}
		if err := c.countRange(r, words); err != nil {
			leaveOut(r.Path, err)
			goto again
		}
		read += uint64(r.Len)
	}
	return read, errs
}

// openRange opens the file of a range and checks that the range lies in it.
func (c *files) openRange(r Range) (*shm.File, error) {
	f, err := c.open(r.Path)
	if err == nil && f.Size() < r.Offset+r.Len {
		err = fmt.Errorf("became shorter after the run began: %d bytes are left, of at least %d", f.Size(), r.Offset+r.Len)
	}
	return f, err
}

func (c *files) countRange(r Range, words *Counter) error {
	f, err := c.openRange(r) // again: it may have been unmapped since
	if err != nil {
		return err
	}
	return f.View(func(text []byte) error {
		words.Count(text, int(r.Offset), int(r.Offset+r.Len))
		return nil
	})
}
