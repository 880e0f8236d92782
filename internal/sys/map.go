package sys

import (
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// PageSize returns the size of a memory page in bytes: 4096 on amd64; 4096, 16384 or
// 65536 on arm64.
func PageSize() int { return os.Getpagesize() }

// Map maps size bytes of f from offset off (a multiple of the page size), shared
// with every other process that maps them, never executable. With write the memory
// can be stored to and f must be open for reading and writing (else EACCES); without
// it a store is a fault. EPERM if a seal forbids the mapping, EINVAL if size is not
// positive.
//
// The slice is exactly the mapping: hand the same slice to Unmap. It keeps the memory
// after f is closed. An access beyond the end of the file is a SIGBUS, see GuardFault.
// The garbage collector knows nothing of it: a pointer into it does not keep it.
func Map(f *os.File, off int64, size int, write bool) (b []byte, err error) {
	prot := unix.PROT_READ
	if write {
		prot |= unix.PROT_WRITE
	}
	err = control(f, "mmap", func(fd int) (err error) {
		b, err = unix.Mmap(fd, off, size, prot, unix.MAP_SHARED)
		return err
	})
	return b, err
}

// MapScratch returns size bytes of this process alone, which are zero and take memory where they are stored to, for Unmap. The system does not account for
// what is not touched (MAP_NORESERVE): ENOMEM only if so much cannot be had at all, or overcommit is switched off.
func MapScratch(size int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	return b, fail("mmap", err)
}

// Unmap ends a mapping made by Map or MapScratch; b must be what that returned (EINVAL for a part of
// it, and for a second time). Any later access is a fault, or worse, an access to what
// is mapped there next: the caller has to know that nobody uses b, that no goroutine
// waits on a word in it, and has called Hub.Forget.
func Unmap(b []byte) error {
	return fail("munmap", unix.Munmap(b))
}

// DontFork keeps the mapping out of children made by fork (MADV_DONTFORK), so that a
// killed worker's forked child cannot go on writing in its name.
func DontFork(b []byte) error { return madvise("MADV_DONTFORK", b, unix.MADV_DONTFORK) }

// DontDump keeps the mapping out of core dumps (MADV_DONTDUMP).
func DontDump(b []byte) error { return madvise("MADV_DONTDUMP", b, unix.MADV_DONTDUMP) }

// DontNeed drops this process's page table entries for the pages of b (page-aligned),
// which lowers its resident size; the shared contents stay and come back at the next
// access. EINVAL for memory that Mlock holds.
func DontNeed(b []byte) error { return madvise("MADV_DONTNEED", b, unix.MADV_DONTNEED) }

func madvise(call string, b []byte, advice int) error {
	if len(b) == 0 {
		return nil
	}
	return fail("madvise "+call, retry(func() error { return unix.Madvise(b, advice) }))
}

// Prefault makes all pages of the mapping b present, so that no later access has to
// wait for one: for reading, or with write for writing (b must be mapped writable; the
// contents stay as they are, also under concurrent writers). Since Linux 5.14 the
// kernel does it in one call (MADV_POPULATE_*); before, each page is touched. Pages
// beyond the end of the file: EFAULT from the kernel, a *FaultError from the touching.
func Prefault(b []byte, write bool) error {
	call, advice := "MADV_POPULATE_READ", unix.MADV_POPULATE_READ
	if write {
		call, advice = "MADV_POPULATE_WRITE", unix.MADV_POPULATE_WRITE
	}
	err := madvise(call, b, advice)
	if errnoIs(err, unix.EINVAL) { // before Linux 5.14
		return touch(b, write)
	}
	return err
}

var touched atomic.Uint32 // keeps the loads of touch from being optimised away

func touch(b []byte, write bool) error {
	return GuardFault(b, func() error {
		var sum uint32
		for off := 0; off+4 <= len(b); off += PageSize() {
			w := Word(b, off)
			if write {
				w.Or(0) // a store that changes nothing, whoever else writes
			} else {
				sum += w.Load()
			}
		}
		touched.Store(sum)
		return nil
	})
}

// Mlock keeps the pages of b in memory: present now, never swapped out, until Unmap.
// ENOMEM or EPERM beyond the limit LimitMemlock.
func Mlock(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	return fail("mlock", retry(func() error { return unix.Mlock(b) }))
}

// Punch makes the whole pages of b, part of a mapping of a memfd, a hole in the file: the memory goes back to the system, and reads as zero
// in all processes. It returns how many bytes of it were in memory. The mapping must be writable and not locked (EINVAL).
func Punch(b []byte) (int64, error) {
	page := uintptr(os.Getpagesize())
	from, to := -base(b)%page, uintptr(len(b))
	if to -= (base(b) + to) % page; int(from) >= int(to) {
		return 0, nil
	}
	b = b[from:to]
	n, err := resident(b, int(page))
	if err != nil {
		return 0, err
	}
	if err := madvise("MADV_REMOVE", b, unix.MADV_REMOVE); err != nil {
		return 0, err
	}
	return n, nil
}
