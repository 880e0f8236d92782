// Package outfile makes the files that a command was told to write: a regular file has its name only when all of it is there, and what
// is no regular file (a device, a pipe, /dev/stdout) is written into, never replaced.
package outfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A File is what Create opened: one goroutine writes into it and ends it by Commit or by Discard.
type File struct {
	*os.File
	target string // what the file becomes by Commit; "": the bytes are where they belong
	stop   func() bool
}

// Create opens what is to be written to path. Where nothing is, or a regular file, that is a new file of mode perm beside it, which Commit
// puts into its place: path and what it held stay as they are until then. Symbolic links are followed: the file they lead to is replaced, and
// the links stay. In a directory that everybody may write into, links of others are not followed. What is no regular file is opened and
// written into: a pipe that nobody reads is waited for until ctx ends, and a write into one fails with ctx. A number of /dev/fd,
// and so /dev/stdout, is this process's own open file.
//
// Errors name path: a directory (EISDIR), a socket, those of the system, and ctx's cause.
func Create(ctx context.Context, path string, perm fs.FileMode) (*File, error) {
	failed := func(err error) error {
		var e *fs.PathError
		if errors.As(err, &e) {
			err = e.Err // which may name a temporary file
		}
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	target, err := follow(path)
	if err != nil {
		return nil, failed(err)
	}
	if n, own := descriptor(target); own {
		fd, err := syscall.Dup(n) // opening its name would begin a file anew, and fails for a socket
		if err != nil {
			return nil, failed(err)
		}
		syscall.CloseOnExec(fd)
		return &File{File: os.NewFile(uintptr(fd), path)}, nil
	}
	st, err := os.Stat(target)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, failed(err)
	case err != nil || st.Mode().IsRegular() && !inProc(target):
		f, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".*")
		if err != nil {
			return nil, failed(err)
		}
		if err := f.Chmod(perm); err != nil {
			f.Close()
			os.Remove(f.Name())
			return nil, failed(err)
		}
		return &File{File: f, target: target}, nil
	case st.IsDir():
		return nil, failed(syscall.EISDIR)
	case st.Mode()&fs.ModeSocket != 0:
		return nil, failed(errors.New("is a socket"))
	}
	f, err := open(ctx, target)
	if err != nil {
		return nil, failed(err)
	}
	past := time.Unix(1, 0)
	return &File{File: f, stop: context.AfterFunc(ctx, func() { f.SetWriteDeadline(past) })}, nil // no deadline for a device: it does not wait
}

// open opens what exists for writing. A pipe refuses that as long as nobody reads it, and no event tells when that changes: so it looks again.
func open(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
		if !errors.Is(err, syscall.ENXIO) {
			return f, err
		}
		if st, serr := os.Stat(path); serr != nil || st.Mode()&fs.ModeNamedPipe == 0 {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("nobody reads from this pipe: %w", context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Commit closes the file and gives it its name. After an error it is discarded.
func (f *File) Commit() error {
	if f.stop != nil {
		f.stop()
	}
	err := f.Close()
	if f.target == "" {
		return err
	}
	if err == nil {
		err = os.Rename(f.Name(), f.target)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	f.target = ""
	return err
}

// Discard closes the file and leaves what had its name before. After Commit it does nothing.
func (f *File) Discard() {
	if f.stop != nil {
		f.stop()
	}
	f.Close()
	if f.target != "" {
		os.Remove(f.Name())
		f.target = ""
	}
}

// InPlace reports whether the file is no regular one of its own: a device, a pipe, an open file of this process.
func (f *File) InPlace() bool { return f.target == "" }

// maxLinks is how many symbolic links the kernel follows, too.
const maxLinks = 40

// follow returns where the symbolic links at path lead, which need not exist. A link below /proc is a process's open file: it is where a
// way ends. Paths are not cleaned: "a/.." is not "." where a is a link.
func follow(path string) (string, error) {
	for range maxLinks {
		st, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && st.Mode()&fs.ModeSymlink == 0 {
			return path, nil
		}
		if err != nil {
			return "", err
		}
		if inProc(path) {
			return path, nil
		}
		if err := trusted(path, st); err != nil {
			return "", err
		}
		next, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		if !strings.HasPrefix(next, "/") {
			next = path[:strings.LastIndexByte(path, '/')+1] + next
		}
		path = next
	}
	return "", syscall.ELOOP
}

// trusted refuses a link that somebody else put into a directory that everybody may write into, as fs.protected_symlinks does.
func trusted(path string, link fs.FileInfo) error {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	const open = fs.ModeSticky | 0o002
	owner, ownerOfDir := link.Sys().(*syscall.Stat_t).Uid, dir.Sys().(*syscall.Stat_t).Uid
	if dir.Mode()&open != open || owner == uint32(os.Geteuid()) || owner == ownerOfDir {
		return nil
	}
	return fmt.Errorf("%w: %s is a symbolic link of user %d in a directory that everybody may write into", fs.ErrPermission, path, owner)
}

// procDir returns the directory of path, its links followed, if that is below /proc.
func procDir(path string) (string, bool) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return dir, err == nil && strings.HasPrefix(dir, "/proc/")
}

func inProc(path string) bool {
	_, in := procDir(path)
	return in
}

// descriptor returns the number of this process's open file that path is the name of.
func descriptor(path string) (int, bool) {
	dir, in := procDir(path)
	if !in || filepath.Base(dir) != "fd" || !strings.HasPrefix(dir+"/", fmt.Sprintf("/proc/%d/", os.Getpid())) {
		return 0, false
	}
	n, err := strconv.Atoi(filepath.Base(path))
	return n, err == nil && n >= 0
}
