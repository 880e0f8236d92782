package region

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/sys"
	"pgregory.net/rapid"
)

func writeFile(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustOpenFile(t testing.TB, path string) *File {
	t.Helper()
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func truncate(t testing.TB, path string, size int) {
	t.Helper()
	if err := os.Truncate(path, int64(size)); err != nil {
		t.Fatal(err)
	}
}

// truncateElsewhere has another process do it, and waits for it.
func truncateElsewhere(t testing.TB, path string, size int) {
	t.Helper()
	output(t, helper(t, "truncate", path, strconv.Itoa(size)))
}

func init() {
	helpers["truncate"] = func(args []string) error {
		size, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return err
		}
		return os.Truncate(args[0], size)
	}
}

func wantTruncated(t testing.TB, err error, path string, offset, size int64) {
	t.Helper()
	var e *TruncatedError
	if !errors.As(err, &e) || !errors.Is(err, ErrTruncated) {
		t.Fatalf("error is %v, want a *TruncatedError", err)
	}
	if e.Path != path || e.Offset != offset || e.Size != size {
		t.Errorf("%s, offset %d, size %d; want %s, %d, %d", e.Path, e.Offset, e.Size, path, offset, size)
	}
}

func TestFileView(t *testing.T) {
	noLeaks(t)
	page := sys.PageSize()
	content := bytes.Repeat([]byte("0123456789"), page) // not a whole number of pages at its end
	content = append(content, "tail"...)
	path := writeFile(t, content)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	f := mustOpenFile(t, link)
	if f.Path() != link || f.Size() != int64(len(content)) || !cloexec(t, f.m.file) {
		t.Errorf("path %s, size %d", f.Path(), f.Size())
	}
	ran := false
	if err := f.View(func(b []byte) error {
		ran = true
		if !bytes.Equal(b, content) || cap(b) != len(b) {
			t.Errorf("%d bytes, capacity %d", len(b), cap(b))
		}
		return nil
	}); err != nil || !ran {
		t.Errorf("View: %v, ran %v", err, ran)
	}
	if m := smaps(t, f.m.b); !hasFlag(m, "dc") || hasFlag(m, "wr") || hasFlag(m, "ex") {
		t.Errorf("VmFlags %q", m["VmFlags"])
	}
	mine := errors.New("mine")
	if err := f.View(func([]byte) error { return mine }); err != mine {
		t.Errorf("fn's error came back as %v", err)
	}
	func() {
		defer func() {
			if r := recover(); r != "a bug" {
				t.Errorf("recovered %v", r)
			}
		}()
		f.View(func([]byte) error { panic("a bug") })
	}()
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, f.Size() + 1}, {f.Size(), 1}, {f.Size() + 1, 0}, {1, 1<<63 - 1}} {
		if err := f.ViewRange(r[0], r[1], func([]byte) error { panic("ran") }); !errors.Is(err, ErrRange) {
			t.Errorf("ViewRange(%d, %d): %v", r[0], r[1], err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.View(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("View after Close: %v", err)
	}
	if err := f.Sync(); !errors.Is(err, ErrClosed) {
		t.Errorf("Sync after Close: %v", err)
	}
}

func TestEmptyFile(t *testing.T) {
	noLeaks(t)
	f := mustOpenFile(t, writeFile(t, nil))
	n := -1
	if err := f.View(func(b []byte) error { n = len(b); return nil }); err != nil || n != 0 || f.Size() != 0 {
		t.Errorf("View: %v, %d bytes, size %d", err, n, f.Size())
	}
}

func TestOpenFileRefuses(t *testing.T) {
	noLeaks(t)
	dir := t.TempDir()
	fifo, sock, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "sock"), filepath.Join(dir, "link")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(fifo, link); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, kind := range map[string]string{dir: "directory", fifo: "FIFO", link: "FIFO", sock: "socket", "/dev/null": "device", "/dev/zero": "device"} {
		for name, open := range map[string]func() (*File, error){
			"OpenFile":   func() (*File, error) { return OpenFile(path) },
			"OpenFileRW": func() (*File, error) { return OpenFileRW(path, 1) },
		} {
			_, err := open() // would hang on a FIFO if it opened it as usual
			if !errors.Is(err, ErrNotRegular) || !bytes.Contains([]byte(err.Error()), []byte("it is a "+kind)) {
				t.Errorf("%s %s: %v", name, path, err)
			}
		}
	}
	// What was put there between the look and the open.
	_, err = MapFile(mustOpen(t, fifo, os.O_RDONLY|syscall.O_NONBLOCK), fifo)
	wantErr(t, err, ErrNotRegular, fifo)
	_, err = MapFile(nil, "x")
	wantErr(t, err, ErrOptions)

	_, err = OpenFile(filepath.Join(dir, "missing"))
	wantErr(t, err, fs.ErrNotExist, "missing")
	if _, err := os.Stat(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it was made")
	}
}

// The ways to touch memory that is no longer there.
var accesses = map[string]func(b []byte) error{
	"load": func(b []byte) error {
		for _, c := range b {
			sink += int(c)
		}
		return nil
	},
	"last byte": func(b []byte) error { sink += int(b[len(b)-1]); return nil },
	"copy":      func(b []byte) error { copy(make([]byte, len(b)), b); return nil },
	"compare":   func(b []byte) error { sink += bytes.Compare(b, make([]byte, len(b))); return nil },
	"string":    func(b []byte) error { sink += len(string(b)); return nil },
	"system call": func(b []byte) error { // the kernel answers EFAULT, or what it could read
		f, err := sys.MemfdCreate("sink")
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.Write(b)
		return err
	},
}

var sink int

func TestTruncationDuringView(t *testing.T) {
	noLeaks(t)
	page := sys.PageSize()
	for name, access := range accesses {
		for _, cut := range []int{0, 1, page, page + 1, 3 * page, 4*page - 1} {
			t.Run(fmt.Sprintf("%s/%d", name, cut), func(t *testing.T) {
				path := writeFile(t, bytes.Repeat([]byte{1}, 4*page))
				f := mustOpenFile(t, path)
				if err := f.View(access); err != nil {
					t.Fatalf("while it is whole: %v", err)
				}
				err := f.View(func(b []byte) error {
					truncate(t, path, cut)
					return access(b)
				})
				wantTruncated(t, err, path, int64(cut), int64(cut))

				// From now on fn does not even begin, where something is gone; what is left can be read.
				for range 2 {
					err := f.View(func([]byte) error { panic("ran") })
					wantTruncated(t, err, path, int64(cut), int64(cut))
				}
				off := int64(4*page - 1)
				wantTruncated(t, f.ViewRange(off, 1, nil), path, off, int64(cut))
				if cut > 0 {
					if err := f.ViewRange(0, int64(cut), access); err != nil {
						t.Errorf("the rest: %v", err)
					}
				}
			})
		}
	}
}

func TestTruncationByAnotherProcess(t *testing.T) {
	noLeaks(t)
	page := sys.PageSize()
	path := writeFile(t, bytes.Repeat([]byte{1}, 8*page))
	f := mustOpenFile(t, path)
	held := false
	err := f.View(func(b []byte) error {
		held = true
		defer func() { held = false }() // a fault does not pass over it
		truncateElsewhere(t, path, page)
		copy(make([]byte, len(b)), b)
		t.Error("the copy came to its end")
		return nil
	})
	wantTruncated(t, err, path, int64(page), int64(page))
	wantErr(t, err, ErrTruncated, path, "open it again")
	if held {
		t.Error("fn's defer did not run")
	}
	// Filled up again it is whole again, with other contents: a File follows the file.
	if err := os.WriteFile(path, bytes.Repeat([]byte{2}, 8*page), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.View(func(b []byte) error {
		if !bytes.Equal(b, bytes.Repeat([]byte{2}, 8*page)) {
			t.Error("not the new contents")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// The page that holds the new end stays mapped: what lies behind the end reads as zeros, without a fault.
func TestTruncationOnTheLastPage(t *testing.T) {
	noLeaks(t)
	path := writeFile(t, bytes.Repeat([]byte{1}, 100))
	f := mustOpenFile(t, path)
	zeros := errors.New("fn saw zeros")
	view := func(b []byte) error {
		truncateElsewhere(t, path, 60)
		if b[59] == 1 && b[60] == 0 && b[99] == 0 {
			return zeros
		}
		return nil
	}
	err := f.View(view)
	wantTruncated(t, err, path, 60, 60)
	wantErr(t, err, zeros) // what fn made of it is not lost
	if err := f.ViewRange(0, 60, accesses["load"]); err != nil {
		t.Errorf("the part that is left: %v", err)
	}
	wantTruncated(t, f.ViewRange(59, 2, accesses["load"]), path, 60, 60)
	wantTruncated(t, f.ViewRange(80, 2, accesses["load"]), path, 80, 60)
}

func TestViewsWithinViews(t *testing.T) {
	noLeaks(t)
	page := sys.PageSize()
	outer := mustOpenFile(t, writeFile(t, bytes.Repeat([]byte{1}, 2*page)))
	path := writeFile(t, bytes.Repeat([]byte{1}, 2*page))
	inner := mustOpenFile(t, path)
	after := false
	err := outer.View(func(a []byte) error {
		err := inner.View(func(b []byte) error {
			truncate(t, path, 0)
			sink += int(b[page])
			return nil
		})
		after = true
		sink += int(a[page]) // not touched by the other's end
		return err
	})
	if !after {
		t.Error("the outer view was stopped")
	}
	wantTruncated(t, err, path, 0, 0)

	// The other way round: the outer one faults within the inner.
	path2 := writeFile(t, bytes.Repeat([]byte{1}, 2*page))
	outer2 := mustOpenFile(t, path2)
	whole := mustOpenFile(t, writeFile(t, bytes.Repeat([]byte{1}, 2*page)))
	err = outer2.View(func(a []byte) error {
		return whole.View(func([]byte) error {
			truncate(t, path2, 0)
			sink += int(a[page])
			return nil
		})
	})
	wantTruncated(t, err, path2, 0, 0)
	// No view is left open by it: Close would wait.
	outer2.Close()
	whole.Close()
}

func TestStoreIntoReadOnlyView(t *testing.T) {
	noLeaks(t)
	path := writeFile(t, []byte("hello"))
	f := mustOpenFile(t, path)
	err := f.View(func(b []byte) error { b[3] = 'x'; return nil })
	wantErr(t, err, ErrReadOnly, "byte 3", path)
	if b, _ := os.ReadFile(path); string(b) != "hello" {
		t.Errorf("the file is %q now", b)
	}
}

func TestFileCloseWaitsForViews(t *testing.T) {
	noLeaks(t)
	f := mustOpenFile(t, writeFile(t, []byte("hello")))
	inside, leave, closed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f.View(func(b []byte) error {
			close(inside)
			<-leave
			sink += int(b[0])
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	<-inside
	refusing := make(chan struct{})
	f.onClose(func() { close(refusing) })
	go func() { closed <- f.Close() }()
	<-refusing
	if err := f.View(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("a view was let in: %v", err)
	}
	select {
	case <-closed:
		t.Fatal("Close did not wait")
	default:
	}
	close(leave)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// Many views while another process's truncations come and go: errors, never a fault, never zeros unnoticed.
func TestTruncationStorm(t *testing.T) {
	noLeaks(t)
	page := sys.PageSize()
	content := bytes.Repeat([]byte{1}, 4*page)
	path := writeFile(t, content)
	f := mustOpenFile(t, path)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			truncate(t, path, 3*page/2)
			if err := os.WriteFile(path, content, 0o644); err != nil { // which begins by cutting to nothing
				t.Error(err)
				return
			}
		}
	})
	seen := map[bool]int{}
	for seen[true] < 200 || seen[false] < 20 {
		err := f.View(func(b []byte) error {
			buf := make([]byte, len(b))
			copy(buf, b)
			return nil
		})
		if err != nil && !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrReadOnly) {
			t.Errorf("%v", err)
			break
		}
		seen[err != nil]++
	}
	close(stop)
	wg.Wait()
}

func TestPropertyViewRange(t *testing.T) {
	noLeaks(t)
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		page := sys.PageSize()
		size := rapid.IntRange(0, 3*page).Draw(t, "size")
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(1 + i%255)
		}
		n++
		path := filepath.Join(dir, strconv.Itoa(n))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		other, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		f, err := OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for range rapid.IntRange(1, 5).Draw(t, "views") {
			cut := rapid.IntRange(0, size).Draw(t, "cut")
			within := rapid.Bool().Draw(t, "cut within the view")
			off := rapid.Int64Range(-1, int64(size)+1).Draw(t, "off")
			length := rapid.Int64Range(-1, int64(size)+1).Draw(t, "n")

			// Whole again, then cut before the view, or within it.
			if _, err := other.WriteAt(content, 0); err != nil {
				t.Fatal(err)
			}
			if !within {
				other.Truncate(int64(cut))
			}
			var got []byte
			err := f.ViewRange(off, length, func(b []byte) error {
				if within {
					other.Truncate(int64(cut))
				}
				got = make([]byte, len(b))
				copy(got, b)
				return nil
			})
			switch {
			case off < 0 || length < 0 || off+length > int64(size):
				if !errors.Is(err, ErrRange) {
					t.Fatalf("%v, want ErrRange", err)
				}
			case length > 0 && off+length > int64(cut):
				var e *TruncatedError
				if !errors.As(err, &e) || e.Offset != max(int64(cut), off) || e.Size != int64(cut) {
					t.Fatalf("%v, want a TruncatedError at %d", err, max(int64(cut), off))
				}
			default:
				if err != nil || !bytes.Equal(got, content[off:off+length]) {
					t.Fatalf("%v, %d bytes", err, len(got))
				}
			}
		}
	})
}

func TestOpenFileRW(t *testing.T) {
	noLeaks(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "ints")
	f, err := OpenFileRW(path, 5000)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Size() != 5000 || fi.Mode().Perm() != 0o600 || fi.Sys().(*syscall.Stat_t).Blocks*512 < 5000 {
		t.Errorf("made with size %d, mode %v, %d blocks", fi.Size(), fi.Mode(), fi.Sys().(*syscall.Stat_t).Blocks)
	}
	if err := f.View(func(b []byte) error {
		if !bytes.Equal(b, make([]byte, 5000)) {
			t.Error("not all zeros")
		}
		b[0], b[4999] = 'a', 'z'
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 5000 || b[0] != 'a' || b[4999] != 'z' {
		t.Errorf("read back %d bytes, %v", len(b), err)
	}

	// There already: as it is.
	f, err = OpenFileRW(path, 5000)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.View(func(b []byte) error {
		if b[0] != 'a' {
			t.Error("it was cleared")
		}
		truncateElsewhere(t, path, 0)
		b[4096] = 1 // a store into what is gone
		return nil
	}); !errors.Is(err, ErrTruncated) {
		t.Errorf("%v", err)
	}
	f.Close()

	// Cut to nothing it counts as new; any other size is refused, and left alone.
	for _, size := range []int{4999, 5001, 1} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenFileRW(path, 5000)
		wantErr(t, err, ErrSize, fmt.Sprintf("%d bytes, not 5000", size))
		if fi, _ := os.Stat(path); fi.Size() != int64(size) {
			t.Errorf("its size is %d now", fi.Size())
		}
	}
	truncate(t, path, 0)
	f, err = OpenFileRW(path, 5000)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, size := range []int64{0, -1} {
		_, err := OpenFileRW(path, size)
		wantErr(t, err, ErrOptions)
	}
}

func BenchmarkView(b *testing.B) {
	f := mustOpenFile(b, writeFile(b, make([]byte, 1<<20)))
	fn := func(b []byte) error { sink += int(b[0]); return nil }
	for b.Loop() {
		if err := f.View(fn); err != nil {
			b.Fatal(err)
		}
	}
}
