package region

import (
	"fmt"

	"github.com/shmd/shmd/internal/sys"
)

// Allocate gives memory to a part of a sparse segment, in whole pages: a shortage is an error here, and no access to that part fails later.
// What has memory already keeps it. lock keeps the part from being swapped out, in this process's mapping. Other processes may use the segment
// meanwhile.
//
// Errors: ErrOptions for a part that is not within the segment; ErrLimit (*LimitError), ErrNoSpace; ErrClosed.
func (s *Segment) Allocate(offset, size int64, lock bool) error {
	if err := s.Lease(); err != nil {
		return err
	}
	defer s.Release()
	if offset < 0 || size <= 0 || size > s.Size() || offset > s.Size()-size {
		return fmt.Errorf("%w: segment %q has %d bytes, there are not %d at %d", ErrOptions, s.name, s.Size(), size, offset)
	}
	if err := checkLimits(s.name, size, true); err != nil {
		return fmt.Errorf("allocate a part of segment: %w", err)
	}
	if err := sys.AllocateRange(s.File(), offset, size); err != nil {
		return noSpace(s.name, size, err)
	}
	if lock {
		return s.lock(offset, size)
	}
	return nil
}

// Lock keeps a part of the segment that has memory from being swapped out, in this process's mapping, as Options.Mlock does for a new one. Errors: ErrOptions for a
// part that is not within the segment; ErrLimit (*LimitError); ErrClosed. It may be called by several goroutines at a time.
func (s *Segment) Lock(offset, size int64) error {
	if err := s.Lease(); err != nil {
		return err
	}
	defer s.Release()
	if offset < 0 || size <= 0 || size > s.Size() || offset > s.Size()-size {
		return fmt.Errorf("%w: segment %q has %d bytes, there are not %d at %d", ErrOptions, s.name, s.Size(), size, offset)
	}
	return s.lock(offset, size)
}

func (s *Segment) lock(offset, size int64) error {
	if err := sys.Mlock(s.Bytes()[offset : offset+size]); err != nil {
		return mlockError(s.name, size, err)
	}
	return nil
}
