package shm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// Latest is a channel of kind latest: a value of which readers see the newest version, whole. It is safe for concurrent use.
type Latest struct {
	r    *Region
	l    *protocol.Latest
	s    *region.Segment
	name string

	// One goroutine of a process writes at a time: a process holds one slot at most, so that Put has one while fewer processes than
	// slots are in the middle of a Put.
	writing sync.Mutex
	waiting spinner
}

// Latest returns a channel of kind latest. Errors: ErrNoChannel, with the names of those that there are; *protocol.KindError.
func (r *Region) Latest(name string) (*Latest, error) {
	l, err := channelOf[*protocol.Latest](r, name, protocol.KindLatest)
	if err != nil {
		return nil, err
	}
	one, _ := r.latests.LoadOrStore(name, &Latest{r: r, l: l, s: r.segments[name], name: name})
	return one.(*Latest), nil
}

// A VersionError says that CompareAndSet was for another version than the present one.
type VersionError struct {
	Channel    string
	Have, Want uint64 // Have is the present one; 0: no value yet
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("the value of channel %q is at version %d, not %d: read it again", e.Channel, e.Have, e.Want)
}

// Name returns the channel's name.
func (l *Latest) Name() string { return l.name }

// SlotSize returns the largest value, in bytes.
func (l *Latest) SlotSize() int { return l.l.SlotSize() }

// Slots returns how many versions are kept for those who are reading them.
func (l *Latest) Slots() int { return l.l.Slots() }

// Stat takes a snapshot of the channel.
func (l *Latest) Stat() (protocol.LatestStat, error) {
	if err := l.r.enter(l.s); err != nil {
		return protocol.LatestStat{}, err
	}
	defer l.s.Release()
	return l.l.Stat(), nil
}

// Version returns the present version: 1 for the first value, 0 before it. Errors: ErrClosed.
func (l *Latest) Version() (uint64, error) {
	if err := l.r.enter(l.s); err != nil {
		return 0, err
	}
	defer l.s.Release()
	return l.l.Version(), nil
}

// Put makes a copy of p the newest version and returns its number; when it returns no error no death can undo it. Of several writers the last
// wins: the order of the versions. It waits for no other process. Errors: *TooLargeError; ErrFull (*protocol.FullError), which
// needs at least Slots-1 other processes that are stopped, or all at once, in the middle of a Put; ErrClosed.
func (l *Latest) Put(p []byte) (uint64, error) {
	return l.put(p, func() (uint64, error) { return l.l.Put(l.r.id, p) })
}

// CompareAndSet is Put if the present version is the given one; 0: if there is no value yet. Of several that are for the same version one
// succeeds. Errors: *VersionError beside those of Put.
func (l *Latest) CompareAndSet(version uint64, p []byte) (uint64, error) {
	v, err := l.put(p, func() (uint64, error) { return l.l.CompareAndSet(l.r.id, version, p) })
	if errors.Is(err, protocol.ErrStale) {
		return v, &VersionError{l.name, v, version}
	}
	return v, err
}

func (l *Latest) put(p []byte, put func() (uint64, error)) (uint64, error) {
	if limit := l.l.SlotSize(); len(p) > limit {
		return 0, &TooLargeError{l.name, len(p), limit}
	}
	if err := l.r.enter(l.s); err != nil {
		return 0, err
	}
	defer l.s.Release()
	l.writing.Lock()
	defer l.writing.Unlock()
	return put()
}

// Get appends the newest value to buf and returns the extended buffer and the value's version. It neither waits nor stores anything in
// the shared memory. Errors: ErrEmpty before the first value; ErrOvertaken, when writers overwrote protocol.ReadTries versions in a
// row, each before it was copied; ErrClosed; *protocol.CorruptError.
func (l *Latest) Get(buf []byte) ([]byte, uint64, error) {
	if err := l.r.enter(l.s); err != nil {
		return buf, 0, err
	}
	defer l.s.Release()
	return l.l.Get(buf)
}

// LatestReader is a reading end of a latest value for one goroutine at a time. It holds the memory until Close, which Latest.Get does anew for each
// value by two locked instructions: those cost more than the copy of a small value.
type LatestReader struct {
	l *Latest // nil: closed
	p *protocol.Latest
}

// Reader takes a reading end; a process may have any number. Region.Close waits for its Close. Errors: ErrClosed.
func (l *Latest) Reader() (*LatestReader, error) {
	if err := l.r.enter(l.s); err != nil {
		return nil, err
	}
	return &LatestReader{l, l.l}, nil
}

// Get is Latest.Get. Errors: as there.
func (r *LatestReader) Get(buf []byte) ([]byte, uint64, error) {
	if r.l == nil {
		return buf, 0, ErrClosed
	}
	r.l.r.beat()
	return r.p.Get(buf)
}

// View is Latest.View. Errors: as there.
func (r *LatestReader) View(fn func(p []byte) error) (uint64, error) {
	if r.l == nil {
		return 0, ErrClosed
	}
	r.l.r.beat()
	return r.p.View(fn)
}

// Version is Latest.Version. Errors: ErrClosed.
func (r *LatestReader) Version() (uint64, error) {
	if r.l == nil {
		return 0, ErrClosed
	}
	r.l.r.beat()
	return r.p.Version(), nil
}

// Close gives the memory up. It is idempotent.
func (r *LatestReader) Close() error {
	if r.l != nil {
		r.l.s.Release()
		r.l = nil
	}
	return nil
}

// View calls fn with the newest value in place and returns its version. fn must not write to the bytes or keep them, and must bear any
// contents: writers may overtake it, and then what it saw and returned does not count, and it is called again with a newer version. It should
// put together what it wants and use it after View has returned nil. Otherwise View returns fn's error. Errors: as Get.
func (l *Latest) View(fn func(p []byte) error) (uint64, error) {
	if err := l.r.enter(l.s); err != nil {
		return 0, err
	}
	defer l.s.Release()
	return l.l.View(fn)
}

// Wait returns the present version as soon as it is another than after; 0 waits for the first value. It sees no version
// that is gone when it looks. Errors: ctx.Err(), ErrQuit, ErrClosed.
func (l *Latest) Wait(ctx context.Context, after uint64) (version uint64, err error) {
	if err := l.r.enter(l.s); err != nil {
		return 0, err
	}
	defer l.s.Release()
	if err := l.r.asked(); err != nil {
		return 0, err
	}
	try := func() error {
		if version = l.l.Version(); version == after || version == 0 {
			return ErrEmpty
		}
		return nil
	}
	if try() == nil {
		return version, nil
	}
	return version, l.r.await(ctx, &l.l.Changes, &l.waiting, try)
}

// Values yields the newest value and its version, and goes on with each change, until ctx or the quit flag ends it, which is no error. Versions
// that are gone before the loop's body is done are passed over. The bytes are valid until the next turn. An error ends the loop.
func (l *Latest) Values(ctx context.Context) iter.Seq2[Value, error] {
	return func(yield func(Value, error) bool) {
		var buf []byte
		for version := uint64(0); ctx.Err() == nil; {
			_, err := l.Wait(ctx, version)
			if err == nil {
				buf, version, err = l.Get(buf[:0])
			}
			switch {
			case err == nil:
				if !yield(Value{buf, version}, nil) {
					return
				}
			case ctx.Err() != nil || errors.Is(err, ErrQuit):
				return
			default:
				yield(Value{}, err)
				return
			}
		}
	}
}

// Value is a version of a latest value.
type Value struct {
	Bytes   []byte
	Version uint64
}
