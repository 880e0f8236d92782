package region

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/sys"
	"pgregory.net/rapid"
)

func TestCreateKeepsEveryPromise(t *testing.T) {
	noLeaks(t)
	page := int64(sys.PageSize())
	s := mustCreate(t, Options{Name: "promises", Size: 3*page + 1})
	if s.Size() != 4*page || int64(len(s.Bytes())) != 4*page || !s.Writable() || s.Name() != "promises" {
		t.Errorf("size %d, %d bytes, writable %v, name %q", s.Size(), len(s.Bytes()), s.Writable(), s.Name())
	}
	if !bytes.Equal(s.Bytes(), make([]byte, 4*page)) {
		t.Error("a new segment is not all zeros")
	}
	st, err := sys.Fstat(s.File())
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode != 0o600 || st.UID != uint32(os.Geteuid()) || st.Inode != s.Inode() {
		t.Errorf("mode %o, uid %d, inode %d (Inode() %d)", st.Mode, st.UID, st.Inode, s.Inode())
	}
	if n := blocks(t, s.File()); n*512 != s.Size() {
		t.Errorf("%d bytes are allocated of %d", n*512, s.Size())
	}
	if !cloexec(t, s.File()) {
		t.Error("exec does not close the descriptor")
	}
	m := smaps(t, s.Bytes())
	if !hasFlag(m, "dc") {
		t.Errorf("a forked child would inherit the mapping: VmFlags %q", m["VmFlags"])
	}
	if hasFlag(m, "ex") || !hasFlag(m, "sh") {
		t.Errorf("not shared, or executable: VmFlags %q", m["VmFlags"])
	}
}

func TestSealsHold(t *testing.T) {
	noLeaks(t)
	s := mustCreate(t, Options{Name: "sealed", Size: 1})
	for _, size := range []int64{0, s.Size() - 1, s.Size() + 1} {
		if err := s.File().Truncate(size); !errors.Is(err, syscall.EPERM) {
			t.Errorf("the size could be set to %d: %v", size, err)
		}
	}
	if err := sys.Allocate(s.File(), 2*s.Size()); !errors.Is(err, syscall.EPERM) {
		t.Errorf("it could be made longer: %v", err)
	}
	if err := sys.AddSeals(s.File(), sys.SealWrite); !errors.Is(err, syscall.EPERM) {
		t.Errorf("a peer could seal it against writing: %v", err)
	}
	// From another process too, with a descriptor of its own that can write.
	cmd := helper(t, "truncate-fd")
	Extra(cmd, s.File())
	if out := output(t, cmd); out != "operation not permitted" {
		t.Errorf("another process: %s", out)
	}
	if st, _ := sys.Fstat(s.File()); st.Size != s.Size() {
		t.Errorf("the size is %d now", st.Size)
	}
}

func init() {
	helpers["truncate-fd"] = func([]string) error {
		f, err := FromFD(3, "segment")
		if err != nil {
			return err
		}
		var errno syscall.Errno
		errors.As(f.Truncate(0), &errno)
		fmt.Println(errno)
		return nil
	}
}

func TestCreateOptions(t *testing.T) {
	noLeaks(t)
	const size = 1 << 20
	t.Run("sparse", func(t *testing.T) {
		s := mustCreate(t, Options{Size: 1 << 36, Sparse: true}) // 64 GiB
		if n := blocks(t, s.File()); n != 0 {
			t.Errorf("%d blocks are allocated", n)
		}
		s.Bytes()[len(s.Bytes())-1] = 1
		if n := blocks(t, s.File()); n*512 > size {
			t.Errorf("%d blocks are allocated for one byte", n)
		}
		r, err := open2(s, OpenOptions{})
		if err != nil {
			t.Fatalf("it cannot be opened: %v", err)
		}
		r.Close()
	})
	t.Run("mlock", func(t *testing.T) {
		s := mustCreate(t, Options{Size: 4096, Mlock: true})
		if m := smaps(t, s.Bytes()); !hasFlag(m, "lo") {
			t.Errorf("VmFlags %q", m["VmFlags"])
		}
	})
	t.Run("prefault", func(t *testing.T) {
		s := mustCreate(t, Options{Size: size, Prefault: true})
		if m := smaps(t, s.Bytes()); m["Rss"] != "1024 kB" {
			t.Errorf("Rss %s", m["Rss"])
		}
		s = mustCreate(t, Options{Size: size})
		if m := smaps(t, s.Bytes()); m["Rss"] != "0 kB" {
			t.Errorf("without it: Rss %s", m["Rss"])
		}
		r, err := open2(s, OpenOptions{Prefault: true})
		if err != nil {
			t.Fatal(err)
		}
		if m := smaps(t, r.Bytes()); m["Rss"] != "1024 kB" {
			t.Errorf("opened: Rss %s", m["Rss"])
		}
		r.Close()
	})
	t.Run("dontdump", func(t *testing.T) {
		s := mustCreate(t, Options{Size: size, DontDump: true})
		if m := smaps(t, s.Bytes()); !hasFlag(m, "dd") {
			t.Errorf("VmFlags %q", m["VmFlags"])
		}
	})
	for name, o := range map[string]Options{
		"no size":          {Name: "x"},
		"negative":         {Name: "x", Size: -1},
		"huge number":      {Name: "x", Size: 1<<63 - 1},
		"long name":        {Name: strings.Repeat("x", maxName+1), Size: 1},
		"NUL":              {Name: "a\x00b", Size: 1},
		"sparse hugepages": {Name: "x", Size: 1, Sparse: true, HugePages: true},
		"sparse mlock":     {Name: "x", Size: 1, Sparse: true, Mlock: true},
		"sparse prefault":  {Name: "x", Size: 1, Sparse: true, Prefault: true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Create(o)
			wantErr(t, err, ErrOptions)
		})
	}
	mustCreate(t, Options{Name: strings.Repeat("x", maxName), Size: 1})
}

func TestSecondDescriptors(t *testing.T) {
	noLeaks(t)
	s := mustCreate(t, Options{Name: "second", Size: 1})
	s.Bytes()[0] = 42

	ro, err := s.ReadOnly()
	if err != nil {
		t.Fatal(err)
	}
	if write, err := sys.AccessMode(ro); write || err != nil {
		t.Errorf("ReadOnly can write: %v, %v", write, err)
	}
	dup, err := s.Dup()
	if err != nil {
		t.Fatal(err)
	}
	if write, err := sys.AccessMode(dup); !write || err != nil {
		t.Errorf("Dup cannot write: %v, %v", write, err)
	}
	for _, f := range []*os.File{ro, dup} {
		if !cloexec(t, f) {
			t.Errorf("%s: exec does not close it", f.Name())
		}
	}

	// Both outlive the segment, and are the same memory.
	inode := s.Inode()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Open(ro, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w, err := Open(dup, OpenOptions{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if r.Inode() != inode || w.Inode() != inode || r.Name() != "second" || r.Writable() || !w.Writable() {
		t.Errorf("inodes %d %d %d, name %q, writable %v %v", inode, r.Inode(), w.Inode(), r.Name(), r.Writable(), w.Writable())
	}
	w.Bytes()[1] = 43
	if !bytes.Equal(r.Bytes()[:2], []byte{42, 43}) {
		t.Errorf("read %v", r.Bytes()[:2])
	}
	for _, f := range []func() (*os.File, error){s.ReadOnly, s.Dup} {
		if _, err := f(); !errors.Is(err, ErrClosed) {
			t.Errorf("a second descriptor of a closed segment: %v", err)
		}
	}
}

// open2 opens what another process would get.
func open2(s *Segment, o OpenOptions) (*Segment, error) {
	f, err := s.Dup()
	if err != nil {
		return nil, err
	}
	o2, err := Open(f, o)
	return o2, err
}

func TestOpenRefuses(t *testing.T) {
	noLeaks(t)
	owner, stranger := uint32(os.Geteuid()), uint32(os.Geteuid()+1)
	sealed := func(t *testing.T) *os.File { return memfd(t, 8192, sys.SealShrink|sys.SealGrow) }
	errCheck := errors.New("no header")
	for _, c := range []struct {
		name string
		make func(t *testing.T) *os.File
		o    OpenOptions
		want error
		text string
	}{
		{"unsealed", func(t *testing.T) *os.File { return memfd(t, 8192, 0) }, OpenOptions{}, ErrUnsealed, "F_SEAL_SHRINK"},
		{"shrink only", func(t *testing.T) *os.File { return memfd(t, 8192, sys.SealShrink) }, OpenOptions{}, ErrUnsealed, "creator must"},
		{"grow only", func(t *testing.T) *os.File { return memfd(t, 8192, sys.SealGrow) }, OpenOptions{}, ErrUnsealed, ""},
		{"sealed against seals", func(t *testing.T) *os.File { return memfd(t, 8192, sys.SealSeal) }, OpenOptions{}, ErrUnsealed, ""},
		{"empty", func(t *testing.T) *os.File { return memfd(t, 0, sys.SealShrink|sys.SealGrow) }, OpenOptions{}, ErrTooShort, "0 bytes"},
		{"too short", sealed, OpenOptions{MinSize: 8193}, ErrTooShort, "8192 bytes, not 8193"},
		{"foreign", sealed, OpenOptions{Owner: &stranger}, ErrForeignOwner, fmt.Sprint(owner)},
		{"read-only descriptor", func(t *testing.T) *os.File { return reopen(t, sealed(t), os.O_RDONLY) }, OpenOptions{Write: true}, ErrReadOnly, "writable descriptor"},
		{"contents sealed", func(t *testing.T) *os.File { return memfd(t, 8192, sys.SealShrink|sys.SealGrow|sys.SealWrite) }, OpenOptions{Write: true}, ErrReadOnly, "contents"},
		{"future writes sealed", func(t *testing.T) *os.File { return memfd(t, 8192, sys.SealShrink|sys.SealGrow|sys.SealFutureWrite) }, OpenOptions{Write: true}, ErrReadOnly, ""},
		{"a file", func(t *testing.T) *os.File { return tempFile(t, t.TempDir()) }, OpenOptions{}, ErrNotMemfd, "OpenFile"},
		{"a file of tmpfs", func(t *testing.T) *os.File { return tempFile(t, "/dev/shm") }, OpenOptions{}, ErrNotMemfd, ""},
		{"a directory", func(t *testing.T) *os.File { return mustOpen(t, "/", os.O_RDONLY) }, OpenOptions{}, ErrNotMemfd, ""},
		{"a device", func(t *testing.T) *os.File { return mustOpen(t, "/dev/null", os.O_RDWR) }, OpenOptions{}, ErrNotMemfd, ""},
		{"a pipe", func(t *testing.T) *os.File {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			w.Close()
			return r
		}, OpenOptions{}, ErrNotMemfd, ""},
		{"the check", sealed, OpenOptions{Check: func([]byte) error { return errCheck }}, errCheck, "no header"},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t)
			f := c.make(t)
			s, err := Open(f, c.o)
			if s != nil {
				t.Fatal("opened")
			}
			wantErr(t, err, c.want, c.text, "open segment")
			if err := f.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("the descriptor was not taken: %v", err)
			}
		})
	}
	for _, err := range []error{ErrReadOnly, ErrForeignOwner} {
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%v is not fs.ErrPermission", err)
		}
	}
	if _, err := Open(nil, OpenOptions{}); !errors.Is(err, ErrOptions) {
		t.Errorf("no descriptor at all: %v", err)
	}
}

func TestOpenAccepts(t *testing.T) {
	noLeaks(t)
	owner := uint32(os.Geteuid())
	f := memfd(t, 8192, sys.SealShrink|sys.SealGrow)
	if _, err := f.WriteAt([]byte("header"), 0); err != nil {
		t.Fatal(err)
	}
	inherited(t, f) // as after fork and exec
	checked := 0
	s, err := Open(f, OpenOptions{Write: true, MinSize: 8192, Owner: &owner, DontDump: true, Check: func(b []byte) error {
		checked++
		if len(b) != 8192 || string(b[:6]) != "header" {
			t.Errorf("Check sees %d bytes, %q", len(b), b[:6])
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if checked != 1 || s.Size() != 8192 || s.Name() != t.Name() || !s.Writable() || !cloexec(t, s.File()) {
		t.Errorf("checked %d times, size %d, name %q, writable %v", checked, s.Size(), s.Name(), s.Writable())
	}
	if m := smaps(t, s.Bytes()); !hasFlag(m, "dc") || !hasFlag(m, "dd") || hasFlag(m, "ex") {
		t.Errorf("VmFlags %q", m["VmFlags"])
	}
	s.Close()

	// Read-only from what only sealed contents leave open.
	s, err = Open(memfd(t, 8192, sys.SealShrink|sys.SealGrow|sys.SealWrite), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m := smaps(t, s.Bytes()); hasFlag(m, "wr") {
		t.Errorf("a reader's mapping can write: VmFlags %q", m["VmFlags"])
	}
	s.Close()
}

func TestOpenCheckPanics(t *testing.T) {
	noLeaks(t)
	f := memfd(t, 4096, sys.SealShrink|sys.SealGrow)
	defer func() {
		if r := recover(); r != "a bug" {
			t.Errorf("recovered %v", r)
		}
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("the descriptor is open still: %v", err)
		}
	}()
	Open(f, OpenOptions{Check: func([]byte) error { panic("a bug") }})
}

func TestPropertySizes(t *testing.T) {
	noLeaks(t)
	page := int64(sys.PageSize())
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.Int64Range(1, 64*page).Draw(t, "size")
		s, err := Create(Options{Name: rapid.StringMatching(`[a-z0-9./ -]{0,40}`).Draw(t, "name"), Size: want, Sparse: rapid.Bool().Draw(t, "sparse")})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if s.Size() < want || s.Size() >= want+page || s.Size()%page != 0 || len(s.Bytes()) != int(s.Size()) {
			t.Fatalf("asked for %d, got %d", want, s.Size())
		}
		min := rapid.Int64Range(0, 66*page).Draw(t, "min")
		r, err := open2(s, OpenOptions{MinSize: min})
		if min <= s.Size() != (err == nil) {
			t.Fatalf("%d bytes, MinSize %d: %v", s.Size(), min, err)
		}
		if err == nil {
			if r.Size() != s.Size() || r.Name() != s.Name() || r.Inode() != s.Inode() {
				t.Fatalf("opened as %d %q, created as %d %q", r.Size(), r.Name(), s.Size(), s.Name())
			}
			r.Close()
		}
	})
}

// FuzzOpen gives Open what a hostile sender could: every combination of size, seals, contents, rights.
func FuzzOpen(f *testing.F) {
	f.Add(uint32(4096), uint8(7), []byte("shmd"), false, false, int64(0))
	f.Add(uint32(0), uint8(6), []byte{}, true, false, int64(0))
	f.Add(uint32(1), uint8(6), []byte{0xff}, true, true, int64(1))
	f.Add(uint32(70000), uint8(15), []byte{1}, true, true, int64(-1))
	f.Add(uint32(12288), uint8(31), []byte{2}, false, true, int64(1<<62))
	f.Add(uint32(4095), uint8(0), []byte{}, false, false, int64(4095))
	errOdd := errors.New("odd")
	f.Fuzz(func(t *testing.T, size uint32, seals uint8, content []byte, write, readOnly bool, minSize int64) {
		size %= 1 << 20
		content = content[:min(len(content), int(size))]
		file, err := sys.MemfdCreate("fuzz")
		if err != nil {
			t.Fatal(err)
		}
		if err := file.Truncate(int64(size)); err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
		all := int(seals) & (sys.SealSeal | sys.SealShrink | sys.SealGrow | sys.SealWrite | sys.SealFutureWrite)
		if err := sys.AddSeals(file, all); err != nil {
			t.Fatal(err)
		}
		if readOnly {
			file = reopen(t, file, os.O_RDONLY)
		}
		var first byte
		if len(content) > 0 {
			first = content[0]
		}

		var want error
		switch {
		case all&sys.SealShrink == 0 || all&sys.SealGrow == 0:
			want = ErrUnsealed
		case int64(size) < minSize || size == 0:
			want = ErrTooShort
		case write && (readOnly || all&(sys.SealWrite|sys.SealFutureWrite) != 0):
			want = ErrReadOnly
		case first&1 == 1:
			want = errOdd
		}
		before := Mapped()
		s, err := Open(file, OpenOptions{Write: write, MinSize: minSize, Check: func(b []byte) error {
			if len(b) != int(size) || !bytes.Equal(b[:len(content)], content) {
				t.Errorf("Check got %d bytes of %d", len(b), size)
			}
			if b[0]&1 == 1 {
				return errOdd
			}
			return nil
		}})
		if !errors.Is(err, want) || (want == nil) != (err == nil) || (s == nil) != (err != nil) {
			t.Fatalf("Open gave %v, want %v", err, want)
		}
		if err == nil {
			if write {
				s.Bytes()[size-1] = 1
			}
			s.Close()
		}
		if Mapped() != before {
			t.Fatalf("%d mappings before, %d after", before, Mapped())
		}
		if err := file.Close(); !errors.Is(err, os.ErrClosed) {
			t.Fatalf("the descriptor is open still: %v", err)
		}
	})
}

// memfd makes what a peer that is not this package might hand over.
func memfd(t testing.TB, size int64, seals int) *os.File {
	t.Helper()
	f, err := sys.MemfdCreate(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := sys.AddSeals(f, seals); err != nil {
		t.Fatal(err)
	}
	return f
}

// reopen replaces f by a descriptor with other rights.
func reopen(t testing.TB, f *os.File, flag int) *os.File {
	t.Helper()
	defer f.Close()
	var g *os.File
	if err := withFD(f, func(fd int) (err error) {
		g, err = os.OpenFile(procPath(fd), flag, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return g
}

func mustOpen(t testing.TB, path string, flag int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func tempFile(t testing.TB, dir string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(dir, "region")
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(f.Name())
	if err := f.Truncate(8192); err != nil {
		t.Fatal(err)
	}
	return f
}

func blocks(t testing.TB, f *os.File) int64 {
	t.Helper()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Blocks
}

// cloexec reads the flag from /proc/self/fdinfo.
func cloexec(t testing.TB, f *os.File) bool {
	t.Helper()
	var info []byte
	if err := withFD(f, func(fd int) (err error) {
		info, err = os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(info)) {
		if v, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(v), 8, 64)
			if err != nil {
				t.Fatal(err)
			}
			return flags&syscall.O_CLOEXEC != 0
		}
	}
	t.Fatalf("no flags in %q", info)
	return false
}

func inherited(t testing.TB, f *os.File) {
	t.Helper()
	if err := withFD(f, sys.ClearCloexec); err != nil {
		t.Fatal(err)
	}
}
