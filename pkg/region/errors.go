package region

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// ErrClosed: the Segment or File was closed, or is being closed. It is os.ErrClosed.
var ErrClosed = os.ErrClosed

// ErrOptions: a caller's mistake in what it asked for (a size of nothing, options that exclude each
// other, a name that the kernel refuses). The text says which. The same call fails again.
var ErrOptions = errors.New("invalid options")

// Errors of Create and OpenFileRW; of whatever maps, if this process has no room for it. They depend on the machine: the same call may succeed later.
var (
	// ErrLimit: a limit does not allow that much memory; see LimitError.
	ErrLimit = errors.New("beyond a limit")

	// ErrNoHugePages: not enough huge pages are free; see HugePagesError.
	ErrNoHugePages = errors.New("no huge pages")

	// ErrNoSpace: the memory or the file system is full. It wraps the kernel's ENOSPC, ENOMEM or EDQUOT.
	ErrNoSpace = errors.New("no space left: free some, or ask for less")
)

// Errors of Open: what was handed over is not what a segment has to be. All are final for that descriptor.
var (
	// ErrNotMemfd: the descriptor is no sealable memfd but a file, a pipe, a socket, …
	ErrNotMemfd = errors.New("not a memfd: the sender handed over something else; ask it for a segment, and map files with OpenFile")

	// ErrUnsealed: the size is not sealed, so its owner could shrink it and every access would be a SIGBUS.
	ErrUnsealed = errors.New("its size is not sealed: the creator must add F_SEAL_SHRINK and F_SEAL_GROW before it hands the segment over")

	// ErrTooShort: smaller than OpenOptions.MinSize, or empty.
	ErrTooShort = errors.New("too short: the sender is of another version, or sent another segment")

	// ErrReadOnly: write access was asked for, and the descriptor or a seal does not give it. Also what
	// File.View answers when fn stores into a read-only view. It wraps fs.ErrPermission.
	ErrReadOnly = fmt.Errorf("read-only: ask for a writable descriptor, which takes the right to it (%w)", fs.ErrPermission)

	// ErrForeignOwner: the inode belongs to another user than OpenOptions.Owner. It wraps fs.ErrPermission.
	ErrForeignOwner = fmt.Errorf("it belongs to another user: do not trust it, and ask the daemon of this region for the segment (%w)", fs.ErrPermission)
)

// Errors of files.
var (
	// ErrNotRegular: the path or descriptor leads to a directory, a FIFO, a device, …
	ErrNotRegular = errors.New("not a regular file: only those can be mapped")

	// ErrSize: a file that exists has another size than was demanded.
	ErrSize = errors.New("wrong size: move the file away to have a new one made, or correct the size asked for")

	// ErrRange: a part was asked for that does not lie within the file as it was opened.
	ErrRange = errors.New("outside of the file")

	// ErrTruncated: the file became shorter than the part in view; see TruncatedError.
	ErrTruncated = errors.New("file cut short")
)

// Errors of handing over.
var (
	// ErrNotInherited: there is no such descriptor in this process, or it is no file: whoever started
	// the program did not hand it over.
	ErrNotInherited = errors.New("not inherited: this program has to be started by the process that hands the memory over")

	// ErrLostFiles: descriptors that were sent did not arrive; none is kept.
	ErrLostFiles = errors.New("descriptors were lost on the way: raise the limit of open files (ulimit -n, LimitNOFILE=) and ask again")
)

// A LimitError says which limit stands against an amount of memory. errors.Is(err, ErrLimit).
type LimitError struct {
	Name   string // of the segment or file
	Need   int64  // bytes asked for
	Limit  int64  // bytes that the limit still allows
	Source string // where the limit comes from: a file of /proc or of the cgroup, or a resource limit
	Err    error  // what the kernel said, nil if it was not asked
}

func (e *LimitError) Error() string {
	text := fmt.Sprintf("%q needs %s, but %s allows only %s: raise that limit, or ask for less",
		e.Name, bytesText(e.Need), e.Source, bytesText(e.Limit))
	if e.Err != nil {
		text += fmt.Sprintf(" (%v)", e.Err)
	}
	return text
}

func (e *LimitError) Is(target error) bool { return target == ErrLimit }

func (e *LimitError) Unwrap() error { return e.Err }

// A HugePagesError says how many huge pages are missing. errors.Is(err, ErrNoHugePages).
type HugePagesError struct {
	Name     string // of the segment
	Need     int    // pages
	Free     int    // pages that were free before the attempt
	PageSize int64  // bytes a page; 0 if the kernel has none
	Err      error  // what the kernel said
}

func (e *HugePagesError) Error() string {
	switch {
	case e.PageSize == 0:
		return fmt.Sprintf("%q wants huge pages, and this kernel has none: turn huge pages off for it (%v)", e.Name, e.Err)
	case e.Free >= e.Need:
		return fmt.Sprintf("%q needs %d huge pages of %s, and %d are free, but it was not given them: "+
			"raise the limit of the hugetlb cgroup, or turn huge pages off for it (%v)",
			e.Name, e.Need, bytesText(e.PageSize), e.Free, e.Err)
	default:
		return fmt.Sprintf("%q needs %d huge pages of %s, and %d are free: "+
			"reserve %d more (add them to /proc/sys/vm/nr_hugepages as root; vm.nr_hugepages in /etc/sysctl.d lasts), "+
			"or turn huge pages off for it (%v)",
			e.Name, e.Need, bytesText(e.PageSize), e.Free, e.Need-e.Free, e.Err)
	}
}

func (e *HugePagesError) Is(target error) bool { return target == ErrNoHugePages }

func (e *HugePagesError) Unwrap() error { return e.Err }

// A TruncatedError says that a file got shorter (or, with Size beyond Offset, cannot be read) where
// File.View looked. What fn did with the bytes is worthless: those beyond the end read as zeros.
// errors.Is(err, ErrTruncated).
type TruncatedError struct {
	Path   string
	Offset int64 // of the first byte that is known to be gone, from the start of the file
	Size   int64 // of the file when this was noticed, in bytes
	Err    error // what fn returned, nil if it was stopped or ended well
}

func (e *TruncatedError) Error() string {
	what := fmt.Sprintf("another program cut it to %s while it was mapped: open it again once it is whole, "+
		"and replace files by renaming a new one over them", bytesText(e.Size))
	if e.Size > e.Offset {
		what = "it cannot be read there: another program cut it short for a while, or its storage failed (see dmesg)"
	}
	return fmt.Sprintf("%s: byte %d is gone: %s", e.Path, e.Offset, what)
}

func (e *TruncatedError) Is(target error) bool { return target == ErrTruncated }

func (e *TruncatedError) Unwrap() error { return e.Err }

// bytesText writes a size for people: the largest unit, exact where it is whole.
func bytesText(n int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		switch {
		case n >= u.size && n%u.size == 0:
			return fmt.Sprintf("%d %s", n/u.size, u.name)
		case n >= 10*u.size:
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
