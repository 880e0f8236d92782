package region

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"

	"github.com/shmd/shmd/internal/sys"
)

// A File is a file of a file system, mapped as it was when it was opened: shared with all who map it,
// read from disk as it is touched, one copy for the whole machine. Close it.
type File struct {
	life
	path     string
	size     int64
	writable bool
	cut      atomic.Bool // a truncation was noticed: look before fn runs, not only after
}

// OpenFile maps a file for reading. Symbolic links are followed. It never blocks, and never opens what
// is no regular file: ErrNotRegular. Errors of the file system are *fs.PathError. An empty file is a
// File whose views are empty.
func OpenFile(path string) (*File, error) {
	f, err := openRegular(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return MapFile(f, path)
}

// MapFile maps a file that is open already, for reading: one that was inherited or received. It takes
// f, also on an error. path is for error texts.
func MapFile(f *os.File, path string) (*File, error) {
	if f == nil {
		return nil, fmt.Errorf("map %s: %w: no descriptor", path, ErrOptions)
	}
	return mapFile(f, path, -1, false)
}

// OpenFileRW maps a file of exactly size bytes for reading and writing: views may be stored to. A file
// that is missing (made with mode 0600) or empty is filled up with zeros that are allocated on disk;
// one of any other size is refused: ErrSize. Full disk: ErrNoSpace. Two that make the same file
// at the same time are safe as long as neither fails.
//
// What was stored is in the file for every other process at once. On the disk it is after Sync.
func OpenFileRW(path string, size int64) (*File, error) {
	if size <= 0 {
		return nil, fmt.Errorf("map %s: %w: size %d: ask for at least one byte", path, ErrOptions, size)
	}
	f, err := openRegular(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return mapFile(f, path, size, true)
}

// openRegular opens a regular file. The look before keeps it from opening a device (which may act on
// that alone); O_NONBLOCK keeps it from hanging on a FIFO that was put there in between; mapFile looks
// again at what was opened.
func openRegular(path string, flag int, perm fs.FileMode) (*os.File, error) {
	fi, err := os.Stat(path)
	switch {
	case err == nil:
		if err := checkRegular(path, fi); err != nil {
			return nil, err
		}
	case errors.Is(err, fs.ErrNotExist) && flag&os.O_CREATE != 0:
	default:
		return nil, err
	}
	return os.OpenFile(path, flag|syscall.O_NONBLOCK|syscall.O_NOCTTY, perm)
}

func checkRegular(path string, fi fs.FileInfo) error {
	if t := fi.Mode().Type(); t != 0 {
		return fmt.Errorf("map %s: %w: it is a %s", path, ErrNotRegular, kindName(t))
	}
	return nil
}

func kindName(t fs.FileMode) string {
	switch {
	case t&fs.ModeDir != 0:
		return "directory"
	case t&fs.ModeNamedPipe != 0:
		return "FIFO"
	case t&fs.ModeSocket != 0:
		return "socket"
	case t&fs.ModeDevice != 0:
		return "device"
	default:
		return "special file"
	}
}

// mapFile maps f, which it takes. want is the size demanded, or -1.
func mapFile(f *os.File, path string, want int64, write bool) (_ *File, err error) {
	var m *mapping
	done := false
	defer undo(&done, f, &m)

	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := checkRegular(path, fi); err != nil {
		return nil, err
	}
	if err := withFD(f, sys.SetCloexec); err != nil {
		return nil, err
	}
	size := fi.Size()
	if want >= 0 && size == 0 {
		if err := fill(f, path, want); err != nil {
			return nil, err
		}
		size = want
	}
	if want >= 0 && size != want {
		return nil, fmt.Errorf("map %s: %w: it has %d bytes, not %d", path, ErrSize, size, want)
	}
	if m, err = newMapping(f, size, write); err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	done = true
	file := &File{path: path, size: size, writable: write}
	file.init(m)
	file.cleanup = runtime.AddCleanup(file, func(m *mapping) { m.release() }, m)
	return file, nil
}

// fill gives an empty file its size, allocated: a store into a hole is a SIGBUS when the disk is full.
func fill(f *os.File, path string, size int64) error {
	if err := checkLimits(path, size, false); err != nil {
		return err
	}
	if err := sys.Allocate(f, size); err != nil {
		// Some file systems keep what they got, and the file would have a wrong size for ever.
		return errors.Join(noSpace(path, size, err), f.Truncate(0))
	}
	return nil
}

// Path returns the path that the file was opened by.
func (f *File) Path() string { return f.path }

// Size returns the size in bytes that the file had when it was opened, which is that of View.
func (f *File) Size() int64 { return f.size }

// View runs fn on all of the file; see ViewRange.
func (f *File) View(fn func(b []byte) error) error { return f.ViewRange(0, f.size, fn) }

// ViewRange runs fn on n bytes of the file from off, and returns what fn returns. b is valid until fn
// returns, on the goroutine of fn; it may be stored to if the file was opened by OpenFileRW.
//
// If another program cuts the file short, so that part of b is gone, the result is a *TruncatedError:
// instead of what fn returned, or by stopping fn at an access (what it holds has to be released by
// defer). Then b may have been read as zeros, and what fn made of it is worthless. Every later view of
// what is gone fails before fn runs, until the file has its size again. A file that another program
// writes into, or cuts short and fills up again between two looks, is not noticed: replace files by
// renaming new ones over them.
//
// Errors: ErrClosed, ErrRange, ErrTruncated, ErrReadOnly if fn stored into a read-only view (it was
// stopped there), and fn's. What fn panics with goes on. Costs one fstat: view much at a time.
func (f *File) ViewRange(off, n int64, fn func(b []byte) error) error {
	if err := f.lease(); err != nil {
		return fmt.Errorf("view %s: %w", f.path, err)
	}
	defer f.release()
	if off < 0 || n < 0 || off > f.size || n > f.size-off {
		return fmt.Errorf("view %s: %w: %d bytes from %d on, of %d", f.path, ErrRange, n, off, f.size)
	}
	if f.cut.Load() {
		if err := f.whole(off, n, nil); err != nil {
			return err
		}
	}
	b := f.m.b[off : off+n : off+n]
	var result error // apart from the guard's error: fn may return somebody else's fault
	err := sys.GuardFault(b, func() error {
		result = fn(b)
		return nil
	})
	if fault := (*sys.FaultError)(nil); errors.As(err, &fault) {
		return f.fault(off+fault.Offset, off, n)
	}
	// No fault does not mean that all was there: what lies behind the new end, on the same page, reads as zeros.
	if err := f.whole(off, n, result); err != nil {
		return err
	}
	return result
}

// whole tells whether the file still holds n bytes from off on; fnErr goes into the error.
func (f *File) whole(off, n int64, fnErr error) error {
	if n == 0 {
		return nil
	}
	st, err := sys.Fstat(f.m.file)
	if err != nil {
		return fmt.Errorf("view %s: %w", f.path, err)
	}
	if cut := st.Size < f.size; cut != f.cut.Load() { // as a rule nothing is stored: views share this line
		f.cut.Store(cut)
	}
	if st.Size < off+n {
		return &TruncatedError{Path: f.path, Offset: max(st.Size, off), Size: st.Size, Err: fnErr}
	}
	return nil
}

// fault says what an access fault at byte at of the file, in a view of n bytes from off on, comes from.
func (f *File) fault(at, off, n int64) error {
	if err := f.whole(off, n, nil); err != nil {
		return err
	}
	if !f.writable && readable(f.m.b[at:]) {
		return fmt.Errorf("view %s: fn stored into byte %d of a view that can only be read "+
			"(unless another program cut the file short there and filled it up again at that instant): %w", f.path, at, ErrReadOnly)
	}
	st, err := sys.Fstat(f.m.file)
	if err != nil {
		return fmt.Errorf("view %s: %w", f.path, err)
	}
	return &TruncatedError{Path: f.path, Offset: at, Size: st.Size}
}

// readable tells whether the first byte of b has memory behind it.
func readable(b []byte) bool {
	var one [1]byte
	return sys.GuardFault(b, func() error {
		copy(one[:], b)
		return nil
	}) == nil
}

// Sync has everything that was stored written to the disk, and waits for it.
func (f *File) Sync() error {
	if err := f.lease(); err != nil {
		return fmt.Errorf("sync %s: %w", f.path, err)
	}
	defer f.release()
	return f.m.file.Sync()
}

// Close refuses new views, waits for those that run, then unmaps the file and closes it. Further and
// concurrent calls wait for the same and return the same. From within a view it would wait for ever.
func (f *File) Close() error {
	err := f.close()
	runtime.KeepAlive(f)
	return err
}
