package outfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := Create(t.Context(), path, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Discard()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
}

func holds(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Fatalf("%s holds %q, %v; want %q", path, got, err, want)
	}
}

func TestReplaced(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "a", "one")
	holds(t, "a", "one")
	if st, _ := os.Stat("a"); st.Mode() != 0o640 {
		t.Fatalf("mode %v", st.Mode())
	}
	os.Mkdir("dir", 0o755)
	os.Symlink("dir", "way")
	os.Symlink("way/../a", "link")
	os.Symlink("way/b", "dangling")
	os.Symlink("loop", "loop")
	write(t, "link", "two")
	holds(t, "a", "two")
	write(t, "dangling", "three")
	holds(t, "dir/b", "three")
	for _, link := range []string{"link", "dangling"} {
		if st, _ := os.Lstat(link); st.Mode()&fs.ModeSymlink == 0 {
			t.Errorf("%s is no link any more", link)
		}
	}
	f, err := Create(t.Context(), "a", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("half")
	holds(t, "a", "two")
	f.Discard()
	holds(t, "a", "two")
	if names, _ := filepath.Glob(".*"); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestRefused(t *testing.T) {
	t.Chdir(t.TempDir())
	os.Mkdir("dir", 0o755)
	os.Symlink("loop", "loop")
	l, err := net.Listen("unix", "socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, want := range map[string]string{
		"dir":       "write dir: is a directory",
		"loop":      "write loop: too many levels of symbolic links",
		"nowhere/a": "write nowhere/a: no such file or directory",
		"socket":    "write socket: is a socket",
	} {
		if _, err := Create(t.Context(), path, 0o600); err == nil || err.Error() != want {
			t.Errorf("%s: %v; want %q", path, err, want)
		}
	}
}

func TestWrittenInto(t *testing.T) {
	t.Chdir(t.TempDir())
	os.Symlink(os.DevNull, "null")
	write(t, "null", "nothing")
	if st, err := os.Lstat("null"); err != nil || st.Mode()&fs.ModeSymlink == 0 {
		t.Error("the link is gone")
	}
	own, err := os.OpenFile("own", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	own.WriteString("before, ")
	rc, _ := own.SyscallConn()
	rc.Control(func(fd uintptr) {
		if _, err := os.Stat("/dev/fd"); err != nil { // where only /proc is mounted
			t.Fatal(err)
		}
		write(t, fmt.Sprintf("/dev/fd/%d", fd), "there")
	})
	holds(t, "own", "before, there")
}

// A pipe that nobody reads, and one that its reader does not empty, are waited for until the context ends.
func TestPipe(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := syscall.Mkfifo("pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := Create(ctx, "pipe", 0o600); !errors.Is(err, gone) {
		t.Fatal(err)
	}
	r, err := os.OpenFile("pipe", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	write(t, "pipe", "through")
	var b [16]byte
	if n, err := r.Read(b[:]); string(b[:n]) != "through" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	f, err := Create(ctx, "pipe", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Discard()
	full := make(chan error)
	go func() {
		_, err := f.Write(make([]byte, 1<<22))
		full <- err
	}()
	cancel(gone)
	if err := <-full; err == nil {
		t.Fatal("more than a pipe takes was written into one that nobody empties")
	}
	if st, _ := os.Stat("pipe"); st.Mode()&fs.ModeNamedPipe == 0 {
		t.Error("the pipe is gone")
	}
}

// A link that another user put into a directory like /tmp is not followed, whatever the kernel is set to.
func TestForeignLink(t *testing.T) {
	t.Chdir(t.TempDir())
	os.WriteFile("victim", []byte("safe"), 0o600)
	os.Mkdir("open", 0o777)
	os.Chmod("open", 0o777|fs.ModeSticky)
	os.Symlink("../victim", "open/link")
	dir, err := os.Stat("open")
	if err != nil {
		t.Fatal(err)
	}
	link, _ := os.Lstat("open/link")
	if err := trusted("open/link", link); err != nil {
		t.Errorf("an own link: %v", err)
	}
	foreign := *link.Sys().(*syscall.Stat_t)
	foreign.Uid = dir.Sys().(*syscall.Stat_t).Uid + 1
	if err := trusted("open/link", info{link, &foreign}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a foreign link: %v", err)
	}
	os.Chmod("open", 0o755)
	if err := trusted("open/link", info{link, &foreign}); err != nil {
		t.Errorf("in a directory that is not open: %v", err)
	}
}

// info is a FileInfo of another owner.
type info struct {
	fs.FileInfo
	sys *syscall.Stat_t
}

func (i info) Sys() any { return i.sys }
