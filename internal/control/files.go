package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/shmd/shmd/internal/sys"
)

// removeFiles removes what a daemon that was killed left in the file system.
func (s *stopper) removeFiles() {
	guarded := slices.ContainsFunc(s.targets, func(t *target) bool { return t.handed != 0 || t.doubted }) // then the guard had the lock, and has removed it
	if s.o.Lock != "" && !guarded {
		if _, err := os.Lstat(s.o.Lock); errors.Is(err, fs.ErrNotExist) {
			return // it ended in order
		}
	}
	if s.o.Socket != "" {
		if removed, err := removeDeadSocket(s.o.Socket); err != nil {
			s.warn("dead socket %s: %v", s.o.Socket, err)
		} else if removed {
			s.warn("the dead socket %s was removed", s.o.Socket)
		}
	}
	if s.o.Lock != "" {
		if _, err := removeFreeLock(s.o.Lock, s.removeMetrics); err != nil {
			s.warn("lock file %s: %v", s.o.Lock, err)
		}
	}
}

// removeMetrics removes the socket of a killed daemon's metrics, whose path is in the lock file. One outside the runtime directory is only told of: shmctl may be root, and what lies
// on the way there may be the daemon's user's to exchange.
func (s *stopper) removeMetrics(lock *os.File) {
	_, path := ReadLock(lock)
	if path == "" {
		return
	}
	if filepath.Dir(path) != filepath.Dir(s.o.Lock) {
		if st, err := os.Lstat(path); err == nil && st.Mode()&fs.ModeSocket != 0 {
			s.warn("the socket %s of the daemon's metrics is left: remove it, or the next daemon does", path)
		}
		return
	}
	if removed, err := removeDeadSocket(path); err != nil {
		s.warn("dead socket %s: %v", path, err)
	} else if removed {
		s.warn("the dead socket %s was removed", path)
	}
}

// LockText is what a daemon writes into its region's lock file: its pid, and the path of its metrics' socket, if it has one.
func LockText(pid int, metrics string) string {
	if metrics == "" {
		return strconv.Itoa(pid)
	}
	return fmt.Sprintf("%d\n%s", pid, metrics)
}

// ReadLock reads what LockText made. What is not there, or cannot be read, is empty.
func ReadLock(f *os.File) (pid, metrics string) {
	text := make([]byte, 256)
	n, _ := f.ReadAt(text, 0)
	pid, metrics, _ = strings.Cut(string(text[:n]), "\n")
	if !filepath.IsAbs(metrics) {
		metrics = ""
	}
	return pid, metrics
}

// removeDeadSocket removes a socket file of this user (any, for root) if no process has that socket any more. It looks without a connection, which would have a
// socket unit start the region that was just stopped: a socket of another kind is refused with EPROTOTYPE where there is one, and ECONNREFUSED where
// there is none (unix_find_bsd in net/unix/af_unix.c).
func removeDeadSocket(path string) (removed bool, err error) {
	before, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if before.Mode()&fs.ModeSocket == 0 || !ours(before) {
		return false, nil
	}
	c, err := net.Dial("unixgram", path)
	if err == nil {
		c.Close()
		return false, nil // somebody else's
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return false, nil // a new daemon, systemd, or somebody who does not let us in
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(before, now) {
		return false, nil // a new one by now
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, nil
}

// removeFreeLock removes a lock file of this user (any, for root) if nobody holds its lock. It is removed while it is
// locked, so that nobody can lock a file without a name; before that it is shown.
func removeFreeLock(path string, show func(*os.File)) (removed bool, err error) {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !st.Mode().IsRegular() || !ours(st) {
		return false, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if ok, err := sys.Flock(f); err != nil || !ok {
		return false, err
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(st, now) {
		return false, nil
	}
	show(f)
	return true, os.Remove(path)
}

// ours reports whether a file is this user's to remove.
func ours(st os.FileInfo) bool {
	s, ok := st.Sys().(*syscall.Stat_t)
	uid := os.Geteuid()
	return ok && (uid == 0 || int(s.Uid) == uid)
}
