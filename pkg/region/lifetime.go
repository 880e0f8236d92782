package region

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/shmd/shmd/internal/sys"
)

// A mapping is memory and the descriptor behind it: what has to be given back, by Close or else by
// the garbage collector. It must not refer to its owner (Segment, File), which could then never be
// collected.
type mapping struct {
	b    []byte // nil for an empty file
	file *os.File
}

// newMapping maps size bytes of f, not to be inherited by forked children. It does not take f until
// it has succeeded.
func newMapping(f *os.File, size int64, write bool) (*mapping, error) {
	m := &mapping{file: f}
	if size > 0 {
		b, err := sys.Map(f, 0, int(size), write)
		if err != nil {
			return nil, notMapped(size, err)
		}
		if err := sys.DontFork(b); err != nil {
			return nil, errors.Join(err, sys.Unmap(b))
		}
		m.b = b
	}
	live.add(m)
	return m, nil
}

// notMapped says what stands against a mapping, if that is a shortage: nothing is wrong with what was to be mapped.
func notMapped(size int64, err error) error {
	if !errnoIs(err, syscall.ENOMEM) {
		return err
	}
	if cur, _, e := sys.Getrlimit(sys.LimitAS); e == nil && cur != sys.Unlimited {
		return fmt.Errorf("it needs %s: %w: all mappings of this process together may have the %s of RLIMIT_AS (ulimit -v; LimitAS= in the unit): raise it (%w)",
			bytesText(size), ErrLimit, bytesText(int64(cur)), err)
	}
	return fmt.Errorf("it needs %s: %w, or raise the number of mappings that a process may have (vm.max_map_count) (%w)", bytesText(size), ErrNoSpace, err)
}

// release gives the memory and the descriptor back. Exactly one of Close and the cleanup calls it.
func (m *mapping) release() error {
	live.remove(m)
	var err error
	if m.b != nil {
		err = sys.Unmap(m.b)
	}
	return errors.Join(err, m.file.Close())
}

// live knows all mappings of this process, for Mapped and for the leak tests.
var live registry

type registry struct {
	mu     sync.Mutex
	m      map[*mapping][]byte // to the stack that made it, if stacks
	stacks bool                // set by tests
}

func (r *registry) add(m *mapping) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = make(map[*mapping][]byte)
	}
	var stack []byte
	if r.stacks {
		stack = make([]byte, 8<<10)
		stack = stack[:runtime.Stack(stack, false)]
	}
	r.m[m] = stack
}

func (r *registry) remove(m *mapping) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.m, m)
}

// Mapped returns how many segments and files this process has open through this package. It is back
// where it was when everything has been closed.
func Mapped() int {
	live.mu.Lock()
	defer live.mu.Unlock()
	return len(live.m)
}

// closed is the bit of life.state that refuses new users; the bits below it count them.
const closed = 1 << 62

// life is what Segment and File have in common: memory that is not unmapped under a user.
type life struct {
	m *mapping

	// state is the number of users, plus closed. A user comes and goes by one atomic add each; one who
	// comes too late sees the bit and goes again without having touched the memory.
	state   atomic.Int64
	drained chan struct{} // capacity 1: a token when the last user of a closed life has gone
	gone    atomic.Bool   // unmapped

	once     sync.Once
	err      error // of the one close
	cleanup  runtime.Cleanup
	mu       sync.Mutex
	hooks    []func()
	hooksRun bool
}

func (l *life) init(m *mapping) {
	l.m = m
	l.drained = make(chan struct{}, 1)
}

func (l *life) lease() error {
	if l.state.Add(1)&closed != 0 {
		l.release()
		return ErrClosed
	}
	return nil
}

func (l *life) release() {
	n := l.state.Add(-1)
	if n<<2 < 0 { // the count without the bit
		panic(fmt.Sprintf("region: Release without a lease of %q", l.m.file.Name()))
	}
	if n == closed {
		// A latecomer brings the count up and down once more, so there may be a second token: close
		// looks at the count, a token only says when to look.
		select {
		case l.drained <- struct{}{}:
		default:
		}
	}
}

func (l *life) onClose(fn func()) {
	l.mu.Lock()
	if !l.hooksRun {
		l.hooks = append(l.hooks, fn)
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	fn()
}

func (l *life) close() error {
	l.once.Do(func() {
		l.cleanup.Stop()
		l.state.Add(closed) // from here on nobody comes in

		l.mu.Lock()
		hooks := l.hooks
		l.hooks, l.hooksRun = nil, true
		l.mu.Unlock()
		for _, fn := range hooks {
			fn() // wakes those inside
		}

		for l.state.Load() != closed {
			<-l.drained
		}
		l.gone.Store(true)
		l.err = l.m.release()
	})
	return l.err
}
