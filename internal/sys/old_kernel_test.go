package sys

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/shmd/shmd/internal/sys/systest"
)

// Every fallback, on a kernel that answers as an old one would.
func TestFallbacksUnderSeccomp(t *testing.T) {
	if out := runHelper(t, "old kernel", nil); out != "ok\n" {
		t.Error(out)
	}
}

func init() {
	helpers["old kernel"] = func() {
		// Threads that exist before the filter must have it too.
		var started, end sync.WaitGroup
		end.Add(1)
		for range 4 {
			started.Add(1)
			go func() {
				started.Done()
				end.Wait()
			}()
		}
		started.Wait()
		die(systest.DenyNew())
		end.Done()
		for name, check := range map[string]func() error{
			"filter":      checkFilter,
			"memfd":       checkMemfd,
			"prefault":    checkPrefault,
			"futex_waitv": checkWaitv,
			"peer pidfd":  checkPeerPidfd,
		} {
			if err := check(); err != nil {
				die(fmt.Errorf("%s: %w", name, err))
			}
		}
		fmt.Println("ok")
	}
}

// checkFilter makes sure that the filter is there, so that the other checks mean anything,
// in this and in a new thread.
func checkFilter() error {
	check := func() error {
		_, e := futexWaitv(nil, nil)
		_, memfdErr := unix.MemfdCreate("x", unix.MFD_NOEXEC_SEAL)
		_, peerErr := unix.GetsockoptInt(0, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		adviseErr := unix.Madvise(make([]byte, 1), unix.MADV_POPULATE_WRITE)
		if e != unix.ENOSYS || memfdErr != unix.EINVAL || peerErr != unix.ENOPROTOOPT || adviseErr != unix.EINVAL {
			return fmt.Errorf("not in force: futex_waitv %v, memfd_create %v, SO_PEERPIDFD %v, madvise %v",
				e, memfdErr, peerErr, adviseErr)
		}
		if _, err := unix.GetsockoptInt(0, unix.SOL_SOCKET, unix.SO_TYPE); err != unix.ENOTSOCK {
			return fmt.Errorf("refuses too much: SO_TYPE %v", err)
		}
		return nil
	}
	other := make(chan error)
	go func() { other <- check() }()
	return errors.Join(check(), <-other)
}

func checkMemfd() error {
	f, err := MemfdCreate("old")
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := Fstat(f)
	if err != nil {
		return err
	}
	if st.Mode != 0o600 {
		return fmt.Errorf("mode %o", st.Mode)
	}
	if seals, err := Seals(f); err != nil || seals != 0 {
		return fmt.Errorf("seals %#x, %v: not made the old way", seals, err)
	}
	if err := Allocate(f, 100); err != nil {
		return err
	}
	if err := AddSeals(f, SealShrink|SealGrow|SealSeal); err != nil {
		return err
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("sealed, truncate: %v", err)
	}
	_, err = MemfdCreateHuge("old huge")
	if _, size, _ := HugePagesFree(); size > 0 {
		return err
	}
	return nil
}

func checkPrefault() error {
	f, err := MemfdCreate("old")
	if err != nil {
		return err
	}
	defer f.Close()
	size := 10 * PageSize()
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	present := func() (int64, error) {
		var st unix.Stat_t
		err := unix.Fstat(int(f.Fd()), &st)
		return st.Blocks * 512, err
	}
	b, err := Map(f, 0, size, true)
	if err != nil {
		return err
	}
	defer Unmap(b)
	b[PageSize()-1] = 7
	if err := Prefault(b, true); err != nil {
		return err
	}
	if n, err := present(); err != nil || n != int64(size) {
		return fmt.Errorf("%d bytes present after Prefault for writing, want %d (%v)", n, size, err)
	}
	if b[PageSize()-1] != 7 {
		return errors.New("contents changed")
	}
	if err := Prefault(b, false); err != nil {
		return err
	}
	// A page beyond the end is an error, and no death.
	if err := f.Truncate(int64(PageSize())); err != nil {
		return err
	}
	var fault *FaultError
	if err := Prefault(b, false); !errors.As(err, &fault) || fault.Offset != int64(PageSize()) {
		return fmt.Errorf("beyond the end: %v, want a *FaultError at %d", err, PageSize())
	}
	return nil
}

func checkWaitv() error {
	if HaveFutexWaitv() {
		return errors.New("HaveFutexWaitv says yes")
	}
	if _, err := FutexWaitv(nil, 0); !errors.Is(err, ErrNoSys) {
		return fmt.Errorf("FutexWaitv: %v", err)
	}
	f, err := MemfdCreate("old")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := Allocate(f, int64(PageSize())); err != nil {
		return err
	}
	b, err := Map(f, 0, PageSize(), true)
	if err != nil {
		return err
	}
	h := NewHub()
	if h.waitv || len(h.sleepers) > 0 {
		return errors.New("the hub uses futex_waitv")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answers := make(chan error)
	const goroutines, words = 100, 4
	for g := range goroutines {
		go func() { answers <- h.Wait(ctx, Word(b, 64*(g%words)), 0) }()
	}
	for h.waiting() < goroutines {
		FutexWait(Word(b, 4), 0, 1000)
	}
	if n := h.batchCount(); n != words {
		return fmt.Errorf("%d threads for %d words", n, words)
	}
	for i := range words - 1 {
		bump(Word(b, 64*i))
	}
	for range goroutines / words * (words - 1) {
		if err := <-answers; err != nil {
			return err
		}
	}
	h.Forget(b)
	for range goroutines / words {
		if err := <-answers; err != ErrClosed {
			return fmt.Errorf("forgotten: %v", err)
		}
	}
	h.Close()
	return Unmap(b)
}

func checkPeerPidfd() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	a, b := os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	defer a.Close()
	defer b.Close()
	c, err := net.FileConn(a)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := PeerPidfd(c.(*net.UnixConn)); !errors.Is(err, ErrNoSys) {
		return fmt.Errorf("%v, want ErrNoSys", err)
	}
	// What the caller does then.
	pid, _, _, err := PeerCred(c.(*net.UnixConn))
	if err != nil || pid != os.Getpid() {
		return fmt.Errorf("pid %d, %v", pid, err)
	}
	_, err = StartTicks(pid)
	return err
}
