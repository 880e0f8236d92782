package region

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/shmd/shmd/internal/sys"
)

// A Segment is one memfd, mapped: anonymous memory of a fixed size that other processes have mapped
// too. Close it.
type Segment struct {
	life
	name     string
	inode    uint64
	writable bool
}

// newSegment takes f and m's memory; nothing in it can fail.
func newSegment(m *mapping, name string, inode uint64, write bool) *Segment {
	s := &Segment{name: name, inode: inode, writable: write}
	s.init(m)
	s.cleanup = runtime.AddCleanup(s, func(m *mapping) { m.release() }, m)
	return s
}

// Bytes returns all of the memory, page-aligned. It is valid while the caller holds a lease, or
// knows that the segment has not been closed, and only as long as something refers to the Segment;
// after Close it is nil. A store into the bytes of a segment that is not Writable is a fault that
// ends the process.
func (s *Segment) Bytes() []byte {
	if s.gone.Load() {
		return nil
	}
	return s.m.b
}

// Lease keeps the memory mapped until Release: ErrClosed once Close has begun. It costs one atomic
// add, and so does Release. Leases nest and belong to no goroutine.
func (s *Segment) Lease() error { return s.lease() }

// Release ends one lease. It panics if there is none.
func (s *Segment) Release() { s.release() }

// OnClose has fn called when Close has begun to refuse leases and before it waits for those that
// are out: to wake who sleeps on a word in the memory. The hooks run one after the other in the order
// they were given, on the goroutine of Close; the memory is still mapped. They must not call Close. If
// Close has already run them, fn runs at once, on the caller's goroutine.
//
// A user that took its lease before, and goes to sleep only after the hook, is not woken by it: let the
// hook set a flag first that waiters look at (sys.Hub: WaitUnless and Forget).
func (s *Segment) OnClose(fn func()) { s.onClose(fn) }

// Close refuses new leases, runs the hooks of OnClose, waits for all leases to be released, then
// unmaps the memory and closes the descriptor. Other processes keep theirs. Further and concurrent
// calls wait for the same and return the same. Who holds a lease and calls it waits for ever.
func (s *Segment) Close() error {
	err := s.close()
	runtime.KeepAlive(s) // the cleanup must not have run before it was stopped
	return err
}

// File returns the descriptor, which stays the segment's: do not close it; it ends with Close.
func (s *Segment) File() *os.File { return s.m.file }

// Size returns the length of Bytes, also after Close.
func (s *Segment) Size() int64 { return int64(len(s.m.b)) }

// Held returns how many bytes of it have memory: all, or of a sparse segment what was touched or allocated; 0 after Close.
func (s *Segment) Held() int64 {
	st, err := sys.Fstat(s.m.file)
	if err != nil {
		return 0
	}
	return st.Held
}

// Name returns the name its creator gave it, as /proc shows it. Text of another process: quote it.
func (s *Segment) Name() string { return s.name }

// Writable tells whether Bytes may be stored to.
func (s *Segment) Writable() bool { return s.writable }

// Inode returns the number of the memfd: equal in all processes that hold the same memory, and
// unique among the memory of this kind (huge pages have numbers of their own) while anybody holds it.
func (s *Segment) Inode() uint64 { return s.inode }

// ReadOnly opens the same memory a second time, for reading only, close-on-exec: what to hand to a
// process that shall not write. It goes through /proc, and takes the inode's owner or root:
// fs.ErrPermission else. The caller closes it.
//
// A process of the same user can turn it into a writable one again through /proc; another user's cannot.
func (s *Segment) ReadOnly() (*os.File, error) {
	var f *os.File
	err := withFD(s.m.file, func(fd int) (err error) {
		f, err = os.Open(procPath(fd))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open segment %q read-only: %w", s.name, err)
	}
	return f, nil
}

// Dup returns a second descriptor with the same rights, close-on-exec. The caller closes it.
func (s *Segment) Dup() (*os.File, error) {
	var f *os.File
	err := withFD(s.m.file, func(fd int) error {
		// The lock keeps a fork of this program from inheriting the descriptor before its flag is set.
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		dup, err := syscall.Dup(fd)
		if err != nil {
			return os.NewSyscallError("dup", err)
		}
		syscall.CloseOnExec(dup)
		f = os.NewFile(uintptr(dup), s.name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("duplicate the descriptor of segment %q: %w", s.name, err)
	}
	return f, nil
}

// withFD runs fn on f's descriptor, held open meanwhile; ErrClosed if it is closed already.
func withFD(f *os.File, fn func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return ErrClosed // the only reason there is; os has an unexported error for it
	}
	return inner
}

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// memfdName returns the name given to memfd_create; false if /proc says it is none.
func memfdName(f *os.File) (name string, ok bool) {
	var link string
	if err := withFD(f, func(fd int) (err error) {
		link, err = os.Readlink(procPath(fd))
		return err
	}); err != nil {
		return "", false
	}
	name, ok = strings.CutPrefix(link, "/memfd:")
	return strings.TrimSuffix(name, " (deleted)"), ok
}

// prepare gives a fresh mapping its options.
func prepare(m *mapping, write, prefault, dontDump bool) error {
	if dontDump {
		if err := sys.DontDump(m.b); err != nil {
			return err
		}
	}
	if prefault {
		return sys.Prefault(m.b, write)
	}
	return nil
}

// undo is the deferred end of a constructor that failed (or panicked) half-way.
func undo(done *bool, f *os.File, m **mapping) {
	switch {
	case *done:
	case *m != nil:
		(*m).release()
	default:
		f.Close()
	}
}

// errnoIs tells whether err comes from one of these answers of the kernel.
func errnoIs(err error, list ...syscall.Errno) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
