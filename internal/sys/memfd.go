package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// Seals of a memfd, to be combined with |. They cannot be taken back.
const (
	SealSeal        = unix.F_SEAL_SEAL         // no further seals
	SealShrink      = unix.F_SEAL_SHRINK       // the size cannot go down: no SIGBUS for those who mapped it
	SealGrow        = unix.F_SEAL_GROW         // the size cannot go up
	SealWrite       = unix.F_SEAL_WRITE        // contents are final; EBUSY while a writable shared mapping exists
	SealFutureWrite = unix.F_SEAL_FUTURE_WRITE // only the writable mappings of now may go on writing
	SealExec        = unix.F_SEAL_EXEC         // never executable; set by MFD_NOEXEC_SEAL (Linux 6.3)
)

// MemfdCreate makes an empty anonymous file in memory: sealable, close-on-exec,
// mode 0600 (the kernel's own default, 0777, would let every user who holds a
// read-only descriptor open it for writing through /proc), and where the kernel
// knows it (Linux 6.3) not executable. The kernel shows name as "memfd:NAME" in
// /proc; at most 249 bytes, else EINVAL.
func MemfdCreate(name string) (*os.File, error) {
	return memfdCreate(name, 0)
}

// MemfdCreateHuge is MemfdCreate from the pool of huge pages of the default size
// (HugePagesFree). Sizes and offsets of mappings must then be multiples of that
// size. Pages are taken by Allocate, which answers ENOSPC when the pool is short.
func MemfdCreateHuge(name string) (*os.File, error) {
	return memfdCreate(name, unix.MFD_HUGETLB)
}

func memfdCreate(name string, flags int) (*os.File, error) {
	flags |= unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := memfd(name, flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = memfd(name, flags)
	}
	if err != nil {
		return nil, fail("memfd_create", err)
	}
	if err := retry(func() error { return unix.Fchmod(fd, 0o600) }); err != nil {
		unix.Close(fd)
		return nil, fail("fchmod", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func memfd(name string, flags int) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.MemfdCreate(name, flags)
		return err
	})
	return fd, err
}

// AddSeals adds seals (Seal…) to a memfd that f has open for writing. EPERM if
// SealSeal is set already or f is read-only, EBUSY for SealWrite while somebody has
// the memory mapped writable, EINVAL if f is not a memfd.
func AddSeals(f *os.File, seals int) error {
	return control(f, "fcntl F_ADD_SEALS", func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		return err
	})
}

// Seals returns the seals in force. EINVAL if f is a file that cannot have seals: on
// tmpfs and hugetlbfs files that are no memfd it answers SealSeal alone. Bits that
// this package does not name may be set.
func Seals(f *os.File) (seals int, err error) {
	err = control(f, "fcntl F_GET_SEALS", func(fd int) (err error) {
		seals, err = unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
		return err
	})
	return seals, err
}

// allocateStep bounds one fallocate: a signal makes the kernel undo the call it
// interrupts, so that a long one under frequent signals would never end.
const allocateStep = 1 << 30

// Allocate makes f size bytes long if it is shorter, with every page of it present,
// so that a shortage is an error here (ENOSPC; ENOMEM) and never a SIGBUS later. It
// does not shrink. On an error part of the space may stay taken until f is closed
// or truncated.
//
// Memory beyond the limit of the cgroup is not an error here: the kernel kills a
// process of the cgroup. Ask MemoryLimit first.
func Allocate(f *os.File, size int64) error { return AllocateRange(f, 0, size) }

// AllocateRange is Allocate for the bytes from offset on; the others are left as they are.
func AllocateRange(f *os.File, offset, size int64) error {
	if size <= 0 {
		return fail("fallocate", unix.EINVAL)
	}
	for off := int64(0); off < size; off += allocateStep {
		if err := control(f, "fallocate", func(fd int) error {
			return unix.Fallocate(fd, 0, offset+off, min(allocateStep, size-off))
		}); err != nil {
			return err
		}
	}
	return nil
}

// A Stat says what a descriptor or a path leads to.
type Stat struct {
	Inode, Dev uint64 // together: the identity of the file
	UID, GID   uint32 // owner and group
	Mode       uint32 // permission bits with set-id and sticky, no type
	Size       int64  // bytes
	Held       int64  // bytes that have memory or space: less than Size where there are holes
	IsRegular  bool   // a regular file; a memfd is one too
}

// Fstat describes an open file.
func Fstat(f *os.File) (Stat, error) {
	var st unix.Stat_t
	if err := control(f, "fstat", func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return Stat{}, err
	}
	return fromStat(&st), nil
}

// StatPath describes what the path leads to, symbolic links followed. The error is
// an *os.PathError.
func StatPath(p string) (Stat, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Stat(p, &st) }); err != nil {
		return Stat{}, &os.PathError{Op: "stat", Path: p, Err: err}
	}
	return fromStat(&st), nil
}

func fromStat(st *unix.Stat_t) Stat {
	return Stat{
		Inode:     st.Ino,
		Dev:       uint64(st.Dev),
		UID:       st.Uid,
		GID:       st.Gid,
		Mode:      st.Mode & 0o7777,
		Size:      st.Size,
		Held:      st.Blocks * 512,
		IsRegular: st.Mode&unix.S_IFMT == unix.S_IFREG,
	}
}

// AccessMode tells whether f is open for writing (O_WRONLY or O_RDWR).
func AccessMode(f *os.File) (write bool, err error) {
	err = control(f, "fcntl F_GETFL", func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		write = flags&unix.O_ACCMODE != unix.O_RDONLY
		return err
	})
	return write, err
}

// SetCloexec makes exec close the descriptor. It takes a number since a worker finds
// its descriptors by number; EBADF if there is none.
func SetCloexec(fd int) error {
	return setDescriptorFlags(fd, unix.FD_CLOEXEC)
}

// ClearCloexec makes the descriptor survive exec. Between this call and the exec any
// other process started by this program inherits it too: only a program that starts
// nothing else (the launcher) may use it.
func ClearCloexec(fd int) error {
	return setDescriptorFlags(fd, 0)
}

func setDescriptorFlags(fd, flags int) error {
	return fail("fcntl F_SETFD", retry(func() error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flags)
		return err
	}))
}

// SetPipeSize sets the capacity of a pipe in bytes; the kernel rounds up to a power
// of two of pages. EPERM above /proc/sys/fs/pipe-max-size (1 MiB as a rule) without
// CAP_SYS_RESOURCE or when the user's pipes hold too many pages, EBUSY if more than n
// bytes lie in the pipe.
func SetPipeSize(f *os.File, n int) error {
	return control(f, "fcntl F_SETPIPE_SZ", func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, n)
		return err
	})
}

// PipePending returns how many bytes wait in a pipe.
func PipePending(f *os.File) (n int, err error) {
	err = control(f, "ioctl FIONREAD", func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.TIOCINQ) // which is FIONREAD
		return err
	})
	return n, err
}

// Pipe makes a pipe for a worker's output: w is blocking, as programs expect it of
// their stdout; r is non-blocking and known to Go's poller, so that a Read parks a
// goroutine instead of a thread and Close or SetReadDeadline ends it. Both are
// close-on-exec.
func Pipe() (r, w *os.File, err error) {
	var p [2]int
	if err := retry(func() error { return unix.Pipe2(p[:], unix.O_CLOEXEC) }); err != nil {
		return nil, nil, fail("pipe2", err)
	}
	if err := unix.SetNonblock(p[0], true); err != nil {
		unix.Close(p[0])
		unix.Close(p[1])
		return nil, nil, fail("fcntl O_NONBLOCK", err)
	}
	// os.NewFile looks at the mode and registers what is non-blocking.
	return os.NewFile(uintptr(p[0]), "|0"), os.NewFile(uintptr(p[1]), "|1"), nil
}

// Dup returns a second descriptor of the same open file, close-on-exec.
func Dup(f *os.File) (*os.File, error) {
	var n int
	err := control(f, "fcntl F_DUPFD_CLOEXEC", func(fd int) (err error) {
		n, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), f.Name()), nil
}
