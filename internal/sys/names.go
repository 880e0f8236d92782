package sys

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// A NameWatch tells when files lose their names: by a removal, or because another file takes the name.
type NameWatch struct {
	f     *os.File
	paths []string
	was   []uint64 // inodes; 0: it was told
}

// WatchNames begins to watch files, which must exist. Close it.
func WatchNames(paths ...string) (*NameWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fail("inotify_init1", err)
	}
	w := &NameWatch{f: os.NewFile(uintptr(fd), "inotify"), paths: paths}
	for _, path := range paths {
		// IN_ATTRIB: the number of links. IN_DELETE_SELF comes only when nobody has the file open any more.
		_, err := unix.InotifyAddWatch(fd, path, unix.IN_ATTRIB|unix.IN_MOVE_SELF)
		var s Stat
		if err == nil {
			s, err = StatPath(path)
		}
		if err != nil {
			w.f.Close()
			return nil, fail("watch the name of "+path, err)
		}
		w.was = append(w.was, s.Inode)
	}
	return w, nil
}

// Next waits until one of the files has lost its name, and returns which: each once. Errors: os.ErrClosed.
func (w *NameWatch) Next() (path string, err error) {
	var buf [4096]byte
	for {
		for i, path := range w.paths {
			if w.was[i] == 0 {
				continue
			}
			if s, err := StatPath(path); errors.Is(err, fs.ErrNotExist) || err == nil && s.Inode != w.was[i] {
				w.was[i] = 0
				return path, nil
			}
		}
		if _, err := w.f.Read(buf[:]); err != nil { // what the events say is looked at above
			return "", err
		}
	}
}

// Close ends Next.
func (w *NameWatch) Close() error { return w.f.Close() }
