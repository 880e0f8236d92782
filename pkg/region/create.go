package region

import (
	"fmt"
	"math"
	"os"
	"strings"
	"syscall"

	"github.com/shmd/shmd/internal/sys"
)

// maxName is the longest name that memfd_create takes, in bytes.
const maxName = 249

// Options say what segment to create. All but Size may be left zero.
type Options struct {
	// Name is shown as memfd:NAME in /proc, for people. It identifies nothing. At most 249 bytes, no NUL.
	Name string

	// Size in bytes, rounded up to whole pages (huge pages with HugePages).
	Size int64

	// Sparse takes memory only when a page is touched first: declared large, used little. It gives up the
	// promise that no access fails: when memory runs out, the kernel kills. Not with HugePages, Mlock or
	// Prefault, which take all pages at once.
	Sparse bool

	// HugePages takes pages of the kernel's pool of huge pages (2 MiB on amd64), which somebody has
	// to have reserved: fewer TLB misses on large segments.
	HugePages bool

	// Mlock keeps the pages of this process's mapping from being swapped out. Counts against RLIMIT_MEMLOCK.
	Mlock bool

	// Prefault sets up this process's page tables now, so that no first access has to.
	Prefault bool

	// DontDump leaves the segment out of this process's core dumps.
	DontDump bool
}

// Seams for tests.
var (
	memoryLimit   = sys.MemoryLimit
	hugePagesFree = sys.HugePagesFree
)

// Create makes a segment of zeros and maps it for reading and writing. Mode 0600, all pages allocated
// (unless Sparse), sealed SHRINK, GROW and SEAL, close-on-exec, not inherited by a forked child.
//
// Errors: ErrOptions; ErrLimit (*LimitError) if the machine, the memory cgroup or a resource limit
// does not allow the size, asked before anything is allocated, since the kernel's own answer to a
// full cgroup is to kill; ErrNoHugePages (*HugePagesError); ErrNoSpace.
func Create(o Options) (*Segment, error) {
	s, err := create(o)
	if err != nil {
		return nil, fmt.Errorf("create segment: %w", err)
	}
	return s, nil
}

func create(o Options) (_ *Segment, err error) {
	size, err := o.check()
	if err != nil {
		return nil, err
	}
	free, pageSize := 0, int64(0)
	if o.HugePages {
		if free, pageSize, err = hugePagesFree(); err != nil {
			return nil, err
		}
		if pageSize > 0 {
			if size, err = roundUp(o, pageSize); err != nil {
				return nil, err
			}
		}
	}
	if err := checkLimits(o.Name, size, !o.Sparse && !o.HugePages); err != nil {
		return nil, err
	}

	noHugePages := func(err error) error {
		need := 0
		if pageSize > 0 {
			need = int(size / pageSize)
		}
		return &HugePagesError{Name: o.Name, Need: need, Free: free, PageSize: pageSize, Err: err}
	}
	var f *os.File
	if o.HugePages {
		if f, err = sys.MemfdCreateHuge(o.Name); err != nil {
			return nil, noHugePages(err)
		}
	} else if f, err = sys.MemfdCreate(o.Name); err != nil {
		return nil, fmt.Errorf("%q: %w", o.Name, err)
	}
	var m *mapping
	done := false
	defer undo(&done, f, &m)

	if o.Sparse {
		err = f.Truncate(size)
	} else {
		err = sys.Allocate(f, size)
	}
	switch {
	case err == nil:
	case o.HugePages && errnoIs(err, syscall.ENOSPC, syscall.ENOMEM):
		return nil, noHugePages(err)
	default:
		return nil, noSpace(o.Name, size, err)
	}
	// Before the first descriptor can leave this process: nobody ever sees it unsealed.
	if err := sys.AddSeals(f, sys.SealShrink|sys.SealGrow|sys.SealSeal); err != nil {
		return nil, fmt.Errorf("seal %q: %w", o.Name, err)
	}
	st, err := sys.Fstat(f)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", o.Name, err)
	}
	if m, err = newMapping(f, size, true); err != nil {
		return nil, fmt.Errorf("map %q: %w", o.Name, err)
	}
	if o.Mlock {
		if err := sys.Mlock(m.b); err != nil {
			return nil, mlockError(o.Name, size, err)
		}
	}
	if err := prepare(m, true, o.Prefault, o.DontDump); err != nil {
		return nil, noSpace(o.Name, size, err)
	}
	done = true
	return newSegment(m, o.Name, st.Inode, true), nil
}

// check refuses what no machine could do, and returns the size in whole pages.
func (o Options) check() (int64, error) {
	switch {
	case o.Size <= 0:
		return 0, fmt.Errorf("%w: %q has size %d: ask for at least one byte", ErrOptions, o.Name, o.Size)
	case len(o.Name) > maxName || strings.ContainsRune(o.Name, 0):
		return 0, fmt.Errorf("%w: name %.32q…: at most %d bytes, and no NUL", ErrOptions, o.Name, maxName)
	case o.Sparse && o.HugePages:
		return 0, fmt.Errorf("%w: %q is sparse and in huge pages: a huge page that is missing at first touch is a SIGBUS; "+
			"choose one of the two", ErrOptions, o.Name)
	case o.Sparse && (o.Mlock || o.Prefault):
		return 0, fmt.Errorf("%w: %q is sparse, and mlock or prefault would take all its pages at once: "+
			"choose one of the two", ErrOptions, o.Name)
	}
	return roundUp(o, int64(sys.PageSize()))
}

func roundUp(o Options, page int64) (int64, error) {
	if o.Size > math.MaxInt64-page {
		return 0, fmt.Errorf("%w: %q has size %d: ask for less", ErrOptions, o.Name, o.Size)
	}
	return (o.Size + page - 1) / page * page, nil
}

// checkLimits asks before what the kernel would answer with a signal: beyond RLIMIT_FSIZE with
// SIGXFSZ, beyond the memory there is (if the pages are to be taken) with the OOM killer.
func checkLimits(name string, size int64, memory bool) error {
	if cur, _, err := sys.Getrlimit(sys.Limit(syscall.RLIMIT_FSIZE)); err == nil && uint64(size) > cur {
		return &LimitError{Name: name, Need: size, Limit: int64(cur), Source: "RLIMIT_FSIZE (ulimit -f; LimitFSIZE= in the unit)"}
	}
	if !memory {
		return nil
	}
	limit, source, err := memoryLimit()
	if err != nil {
		return fmt.Errorf("find out how much memory %q may take: %w", name, err)
	}
	if size > limit {
		return &LimitError{Name: name, Need: size, Limit: limit, Source: source}
	}
	return nil
}

func mlockError(name string, size int64, err error) error {
	if cur, _, e := sys.Getrlimit(sys.LimitMemlock); e == nil && cur != sys.Unlimited && errnoIs(err, syscall.ENOMEM, syscall.EPERM, syscall.EAGAIN) {
		return &LimitError{Name: name, Need: size, Limit: int64(cur), Source: "RLIMIT_MEMLOCK (ulimit -l; LimitMEMLOCK= in the unit)", Err: err}
	}
	return fmt.Errorf("lock %q in memory: %w", name, err)
}

// noSpace says what a failed allocation means, if that is what err is.
func noSpace(name string, size int64, err error) error {
	if errnoIs(err, syscall.ENOSPC, syscall.ENOMEM, syscall.EDQUOT) {
		return fmt.Errorf("%q needs %s: %w (%w)", name, bytesText(size), ErrNoSpace, err)
	}
	return fmt.Errorf("allocate %s for %q: %w", bytesText(size), name, err)
}
