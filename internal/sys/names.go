package sys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A NameWatch tells when files lose their names: by a removal, because another file takes the name, or with a directory that is moved. One goroutine uses it; Close may be
// called from another one.
type NameWatch struct {
	f     *os.File
	names []watchedName
}

type watchedName struct {
	path string
	file *os.File // opened by O_PATH: it can be asked for its owner and mode when it has no name any more. nil: it was never there
	mark int      // of inotify; -1: none
	told bool     // that the name is lost
}

// WatchNames begins to watch files; one that is not there has lost its name. Close it.
func WatchNames(paths ...string) (*NameWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fail("inotify_init1", err)
	}
	w := &NameWatch{f: os.NewFile(uintptr(fd), "inotify")}
	for _, path := range paths {
		w.names = append(w.names, watchedName{path: path, mark: -1})
		if err := w.Again(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.f.Close()
			w.end()
			return nil, err
		}
	}
	return w, nil
}

// directories watches the directories above a file as well: one that is moved takes the file's name with it, of which nothing tells the file. Those that may
// not be read cannot be watched.
func (w *NameWatch) directories(fd int, path string) {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		unix.InotifyAddWatch(fd, dir, unix.IN_MOVE_SELF|unix.IN_ONLYDIR)
		if dir == filepath.Dir(dir) {
			return
		}
	}
}

// Again watches the file that has one of the names now. Errors: fs.ErrNotExist, and then Next tells of the name once more.
func (w *NameWatch) Again(path string) error {
	for i := range w.names {
		n := &w.names[i]
		if n.path != path {
			continue
		}
		n.file.Close() // an error if it is nil
		n.file, n.told = nil, false
		file, err := os.OpenFile(path, unix.O_PATH, 0)
		if err == nil {
			err = control(w.f, "inotify_add_watch", func(fd int) (err error) {
				if n.mark >= 0 {
					unix.InotifyRmWatch(fd, uint32(n.mark)) // EINVAL where it went with its file
				}
				// IN_ATTRIB: the number of links. IN_DELETE_SELF comes only when nobody has the file open any more.
				n.mark, err = unix.InotifyAddWatch(fd, path, unix.IN_ATTRIB|unix.IN_MOVE_SELF)
				w.directories(fd, path)
				return err
			})
		}
		if err != nil {
			file.Close()
			return fail("watch the name of "+path, err)
		}
		n.file = file // if the watch is that of another file already, Next sees it
	}
	return nil
}

// Next waits until one of the files has lost its name, and returns which, each once, and the file as it was last, which is the zero value if it was
// never there. Errors: os.ErrClosed.
func (w *NameWatch) Next() (path string, was Stat, err error) {
	var buf [4096]byte
	for {
		for i := range w.names {
			n := &w.names[i]
			if n.told {
				continue
			}
			var has Stat
			if n.file != nil {
				var err error
				if has, err = Fstat(n.file); err != nil {
					return "", Stat{}, err
				}
			}
			now, err := StatPath(n.path)
			if errors.Is(err, fs.ErrNotExist) || err == nil && (now.Inode != has.Inode || now.Dev != has.Dev) {
				n.told = true
				return n.path, has, nil
			}
		}
		if _, err := w.f.Read(buf[:]); err != nil { // what the events say is looked at above
			w.end()
			return "", Stat{}, err
		}
	}
}

// end gives back what Close leaves to who uses the watch.
func (w *NameWatch) end() {
	for i := range w.names {
		w.names[i].file.Close()
		w.names[i].file = nil
	}
}

// Close ends Next.
func (w *NameWatch) Close() error { return w.f.Close() }
