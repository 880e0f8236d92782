// Package sys is the one door to the kernel: thin, typed wrappers of the Linux
// calls that shmd needs, with the EINTR loops inside and no policy.
//
// # Rules
//
//   - It is the only package that imports golang.org/x/sys/unix; a caller gets
//     everything it needs (constants included) from here.
//   - Nothing here logs, retries on another error than EINTR, or decides what to
//     do about a failure. Where a newer kernel call has a fallback, the fallback
//     is the same promise by older means, and the function's comment says so.
//   - Descriptors travel as *os.File, so that a close that races with a call is an
//     os.ErrClosed and never a call on somebody else's descriptor. Every descriptor
//     made here is close-on-exec.
//   - Durations are time.Duration; a negative timeout means "no timeout", zero means
//     "do not wait". Timeouts run on CLOCK_MONOTONIC.
//   - Unless a comment says otherwise a function may be called from any number of
//     goroutines.
//
// # Kernel floor
//
// Linux 5.10 on amd64 and arm64. What is newer and what happens without it:
//
//	call                  since  without it
//	futex_waitv           5.16   FutexWaitv: ErrNoSys; Hub: a thread for each word
//	MADV_POPULATE_*       5.14   Prefault touches each page
//	MFD_NOEXEC_SEAL       6.3    MemfdCreate goes without it
//	SO_PEERPIDFD          6.5    PeerPidfd: ErrNoSys (check pid and start time)
//
// Package systest makes a kernel look that old, for tests.
//
// # Errors
//
// A failed call gives an error that names the call and wraps the syscall.Errno, so
// errors.Is(err, syscall.ENOSPC) and errors.Is(err, fs.ErrPermission) work. The
// sentinels of errors.go are the answers that a caller has to expect in the normal
// course of things.
package sys

// The layouts and the futex calls below want 64-bit addresses and 64-bit atomics
// that are aligned by themselves: a 32-bit build ends here, with "invalid array
// length".
var _ [^uint(0)>>63 - 1]struct{}
