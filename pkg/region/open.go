package region

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/shmd/shmd/internal/sys"
)

// OpenOptions say what a descriptor has to be. The zero value takes any sealed memfd and maps it
// read-only.
type OpenOptions struct {
	// Write maps for reading and writing: ErrReadOnly if the descriptor or a seal does not allow it.
	Write bool

	// MinSize in bytes: ErrTooShort below.
	MinSize int64

	// Check looks at the memory before Open returns it: the header, as a rule. Its error is wrapped.
	// The creator may be hostile and write at the same time. The bytes are not valid after Check.
	Check func(b []byte) error

	// Owner, unless nil, is the uid that the inode has to belong to: ErrForeignOwner else.
	Owner *uint32

	// Prefault and DontDump are as in Options.
	Prefault, DontDump bool
}

// Open maps a segment that somebody else created, after making sure that it cannot hurt: it is a memfd
// whose size can never change. It takes f, also on an error, when it closes it; the descriptor
// becomes close-on-exec, and the mapping is not inherited by a forked child.
//
// Errors: ErrNotMemfd, ErrUnsealed, ErrForeignOwner, ErrTooShort, ErrReadOnly (asked in this order),
// ErrLimit or ErrNoSpace if this process cannot map that much, what Check returned, and errors of the kernel.
func Open(f *os.File, o OpenOptions) (*Segment, error) {
	if f == nil {
		return nil, fmt.Errorf("open segment: %w: no descriptor", ErrOptions)
	}
	name, memfd := memfdName(f)
	s, err := open(f, name, memfd, o)
	if err != nil {
		if !memfd {
			name = f.Name()
		}
		return nil, fmt.Errorf("open segment %q: %w", name, err)
	}
	return s, nil
}

func open(f *os.File, name string, memfd bool, o OpenOptions) (_ *Segment, err error) {
	var m *mapping
	done := false
	defer undo(&done, f, &m)

	if err := withFD(f, sys.SetCloexec); err != nil {
		return nil, err
	}
	// The seals come first: with them in place everything that is asked afterwards stays true.
	seals, err := sys.Seals(f)
	switch {
	case errnoIs(err, syscall.EINVAL):
		return nil, ErrNotMemfd
	case err != nil:
		return nil, err
	case seals == sys.SealSeal && !memfd: // how tmpfs and hugetlbfs answer for their ordinary files
		return nil, ErrNotMemfd
	case seals&(sys.SealShrink|sys.SealGrow) != sys.SealShrink|sys.SealGrow:
		return nil, fmt.Errorf("%w (seals are %#x)", ErrUnsealed, seals)
	}
	st, err := sys.Fstat(f)
	if err != nil {
		return nil, err
	}
	if o.Owner != nil && st.UID != *o.Owner {
		return nil, fmt.Errorf("%w: uid %d, not %d", ErrForeignOwner, st.UID, *o.Owner)
	}
	if st.Size < max(o.MinSize, 1) {
		return nil, fmt.Errorf("%w: %d bytes, not %d", ErrTooShort, st.Size, max(o.MinSize, 1))
	}
	if o.Write {
		if write, err := sys.AccessMode(f); err != nil {
			return nil, err
		} else if !write {
			return nil, fmt.Errorf("%w: the descriptor is open for reading", ErrReadOnly)
		}
		if seals&(sys.SealWrite|sys.SealFutureWrite) != 0 {
			return nil, fmt.Errorf("%w: its contents are sealed", ErrReadOnly)
		}
	}
	if m, err = newMapping(f, st.Size, o.Write); err != nil {
		return nil, err
	}
	if err := prepare(m, o.Write, o.Prefault, o.DontDump); err != nil {
		return nil, err
	}
	if o.Check != nil {
		// Sealed or not, a page may be missing: huge pages after a hole was punched into them.
		err := sys.GuardFault(m.b, func() error { return o.Check(m.b) })
		if fault := (*sys.FaultError)(nil); errors.As(err, &fault) {
			return nil, fmt.Errorf("no memory at byte %d: the creator has given it up; ask for the segment again", fault.Offset)
		}
		if err != nil {
			return nil, err
		}
	}
	done = true
	return newSegment(m, name, st.Inode, o.Write), nil
}
