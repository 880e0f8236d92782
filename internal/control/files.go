package control

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"slices"
	"syscall"

	"github.com/shmd/shmd/internal/sys"
)

// removeFiles removes what a daemon that was killed left in the file system.
func (s *stopper) removeFiles() {
	guarded := slices.ContainsFunc(s.targets, func(t *target) bool { return t.handed != 0 || t.doubted }) // then the guard had the lock, and has removed it
	if s.o.Lock != "" && !guarded {
		if _, err := os.Lstat(s.o.Lock); errors.Is(err, fs.ErrNotExist) {
			return // it ended in order. And to look whether anybody listens would wake a socket unit
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
		if _, err := removeFreeLock(s.o.Lock); err != nil {
			s.warn("lock file %s: %v", s.o.Lock, err)
		}
	}
}

// removeDeadSocket removes a socket file of this user (any, for root) if nobody listens on it.
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
	c, err := net.Dial("unixpacket", path)
	if err == nil {
		c.Close()
		return false, nil // a new daemon, or systemd
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return false, nil // somebody is there, only not for us
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
// locked, so that nobody can lock a file without a name.
func removeFreeLock(path string) (removed bool, err error) {
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
	return true, os.Remove(path)
}

// ours reports whether a file is this user's to remove.
func ours(st os.FileInfo) bool {
	s, ok := st.Sys().(*syscall.Stat_t)
	uid := os.Geteuid()
	return ok && (uid == 0 || int(s.Uid) == uid)
}
