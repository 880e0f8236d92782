package sys

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMemfdIsPrivateAndCloexec(t *testing.T) {
	checkDescriptors(t)
	f, err := MemfdCreate("some-name")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := Fstat(f)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode != 0o600 || !st.IsRegular || st.Size != 0 || st.UID != uint32(os.Geteuid()) || st.Inode == 0 {
		t.Errorf("stat %+v, want mode 0600, regular, empty, ours", st)
	}
	if flags, _ := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); flags&unix.FD_CLOEXEC == 0 {
		t.Error("not close-on-exec")
	}
	if link, _ := os.Readlink("/proc/self/fd/" + itoa(int(f.Fd()))); !strings.HasPrefix(link, "/memfd:some-name") {
		t.Errorf("shown as %q", link)
	}
	if write, err := AccessMode(f); !write || err != nil {
		t.Errorf("AccessMode = %v, %v, want writable", write, err)
	}
	ro, err := os.Open("/proc/self/fd/" + itoa(int(f.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if write, err := AccessMode(ro); write || err != nil {
		t.Errorf("AccessMode of a read-only descriptor = %v, %v", write, err)
	}
	if st2, err := Fstat(ro); err != nil || st2 != st {
		t.Errorf("stat through the second descriptor %+v, %v, want %+v", st2, err, st)
	}
	if st3, err := StatPath("/proc/self/fd/" + itoa(int(f.Fd()))); err != nil || st3 != st {
		t.Errorf("StatPath %+v, %v, want %+v", st3, err, st)
	}
	if _, err := StatPath("/nonexistent/x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("StatPath of nothing: %v", err)
	}
	if _, err := MemfdCreate(strings.Repeat("n", 250)); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("name of 250 bytes: %v", err)
	}
}

func TestSealsRefuse(t *testing.T) {
	checkDescriptors(t)
	f := tempMemfd(t, 2)
	size := int64(2 * PageSize())
	if err := AddSeals(f, SealShrink|SealGrow); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{0, size - 1, size + 1} {
		if err := f.Truncate(n); !errors.Is(err, syscall.EPERM) {
			t.Errorf("truncate to %d: %v, want EPERM", n, err)
		}
	}
	if err := Allocate(f, size+1); !errors.Is(err, syscall.EPERM) {
		t.Errorf("allocating more: %v, want EPERM", err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err != nil {
		t.Errorf("write before SealWrite: %v", err)
	}

	b, err := Map(f, 0, int(size), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := AddSeals(f, SealWrite); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("SealWrite with a writable mapping: %v, want EBUSY", err)
	}
	if err := Unmap(b); err != nil {
		t.Fatal(err)
	}
	if err := AddSeals(f, SealWrite|SealSeal); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("write after SealWrite: %v, want EPERM", err)
	}
	if _, err := Map(f, 0, int(size), true); !errors.Is(err, syscall.EPERM) {
		t.Errorf("writable mapping after SealWrite: %v, want EPERM", err)
	}
	if b, err := Map(f, 0, int(size), false); err != nil || b[0] != 'x' {
		t.Errorf("readable mapping after SealWrite: %v", err)
	} else {
		Unmap(b)
	}
	if err := AddSeals(f, SealFutureWrite); !errors.Is(err, syscall.EPERM) {
		t.Errorf("seal after SealSeal: %v, want EPERM", err)
	}
	const want = SealShrink | SealGrow | SealWrite | SealSeal
	if got, err := Seals(f); err != nil || got&want != want {
		t.Errorf("Seals = %#x, %v, want at least %#x", got, err, want)
	}

	plain, err := os.Create(filepath.Join(t.TempDir(), "plain"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if seals, err := Seals(plain); err == nil && seals&SealShrink != 0 {
		t.Errorf("a plain file has seals %#x", seals)
	}
}

func TestAllocate(t *testing.T) {
	f, err := MemfdCreate("allocate")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Allocate(f, 0); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Allocate 0: %v", err)
	}
	const size = 1 << 20
	if err := Allocate(f, size); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size != size || st.Blocks*512 < size {
		t.Errorf("size %d, %d bytes present, want %d (%v)", st.Size, st.Blocks*512, size, err)
	}
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if err := Allocate(full, size); err == nil {
		t.Error("a device was allocated")
	}
	f.Close()
	if err := Allocate(f, size); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Allocate of a closed file: %v, want os.ErrClosed", err)
	}
}

func TestMapIsShared(t *testing.T) {
	f := tempMemfd(t, 2)
	rw := tempMap(t, f, 2, true)
	ro := tempMap(t, f, 2, false)
	copy(rw[5:], "hello")
	if string(ro[5:10]) != "hello" {
		t.Errorf("the second mapping shows %q", ro[5:10])
	}
	Word(rw, 4*100).Store(7)
	if got := Word(ro, 4*100).Load(); got != 7 {
		t.Errorf("word = %d", got)
	}
	if len(rw) != cap(rw) {
		t.Errorf("len %d, cap %d", len(rw), cap(rw))
	}
	second, err := Map(f, int64(PageSize()), PageSize(), false)
	if err != nil {
		t.Fatal(err)
	}
	rw[PageSize()] = 9
	if second[0] != 9 {
		t.Error("a mapping from the second page shows another page")
	}
	if err := Unmap(second[:1]); err == nil {
		t.Error("part of a mapping was unmapped")
	}
	if err := Unmap(second); err != nil {
		t.Error(err)
	}
	if err := Unmap(second); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("second Unmap: %v, want EINVAL", err)
	}

	for _, c := range []struct {
		what string
		fn   func([]byte) error
	}{
		{"DontFork", DontFork},
		{"DontDump", DontDump},
		{"Prefault read", func(b []byte) error { return Prefault(b, false) }},
		{"Prefault write", func(b []byte) error { return Prefault(b, true) }},
		{"DontNeed", DontNeed},
		{"Mlock", Mlock},
	} {
		if err := c.fn(rw); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if err := c.fn(nil); err != nil {
			t.Errorf("%s of nothing: %v", c.what, err)
		}
	}
	if err := DontNeed(rw); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("DontNeed of locked memory: %v, want EINVAL", err)
	}
	if string(rw[5:10]) != "hello" {
		t.Errorf("contents became %q", rw[5:10])
	}

	readonly, err := os.Open("/proc/self/fd/" + itoa(int(f.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	defer readonly.Close()
	if _, err := Map(readonly, 0, PageSize(), true); !errors.Is(err, os.ErrPermission) {
		t.Errorf("writable mapping of a read-only descriptor: %v", err)
	}
	if _, err := Map(f, 0, 0, false); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("empty mapping: %v", err)
	}
}

func TestWordRefusesMisalignment(t *testing.T) {
	b := tempMap(t, tempMemfd(t, 1), 1, true)
	for _, off := range []int{1, 2, 3, PageSize() - 3, PageSize(), -4} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Word at %d did not panic", off)
				}
			}()
			Word(b, off)
		}()
	}
}

// Mappings marked with DontFork are absent in a child made by fork without exec: the
// shell cannot show that, but the kernel's flags do.
func TestDontForkAndDontDumpFlags(t *testing.T) {
	b := tempMap(t, tempMemfd(t, 1), 1, true)
	if err := errors.Join(DontFork(b), DontDump(b)); err != nil {
		t.Fatal(err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(smaps), "/memfd:"+t.Name())
	if !ok {
		t.Fatal("mapping not in smaps")
	}
	_, flags, _ := strings.Cut(rest, "VmFlags:")
	flags, _, _ = strings.Cut(flags, "\n")
	for _, want := range []string{"dc", "dd"} { // no copy on fork, no dump
		if !strings.Contains(flags, " "+want) {
			t.Errorf("flags %q lack %q", flags, want)
		}
	}
	if strings.Contains(flags, " ex") {
		t.Errorf("flags %q: executable", flags)
	}
}

func TestHugePages(t *testing.T) {
	checkDescriptors(t)
	n, size, err := HugePagesFree()
	if err != nil {
		t.Fatal(err)
	}
	if size != 0 && (size < 1<<16 || size&(size-1) != 0) || n < 0 {
		t.Errorf("HugePagesFree = %d of %d bytes", n, size)
	}
	f, err := MemfdCreateHuge("huge")
	if size == 0 {
		if err == nil {
			t.Error("a kernel without huge pages made a huge memfd")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// One page more than there is: an error now, not a SIGBUS later.
	if err := Allocate(f, int64(n+1)*size); !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("allocating %d huge pages with %d free: %v, want ENOSPC", n+1, n, err)
	}
}

func TestCloexecFlags(t *testing.T) {
	f := tempMemfd(t, 1)
	get := func() bool {
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		if err != nil {
			t.Fatal(err)
		}
		return flags&unix.FD_CLOEXEC != 0
	}
	if err := ClearCloexec(int(f.Fd())); err != nil || get() {
		t.Errorf("ClearCloexec: %v, flag %v", err, get())
	}
	if err := SetCloexec(int(f.Fd())); err != nil || !get() {
		t.Errorf("SetCloexec: %v, flag %v", err, get())
	}
	if err := SetCloexec(1 << 20); !errors.Is(err, syscall.EBADF) {
		t.Errorf("SetCloexec of nothing: %v", err)
	}
}

func TestPipe(t *testing.T) {
	checkDescriptors(t)
	r, w, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, f := range []*os.File{r, w} {
		if flags, _ := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s not close-on-exec", f.Name())
		}
	}
	if flags, _ := unix.FcntlInt(w.Fd(), unix.F_GETFL, 0); flags&unix.O_NONBLOCK != 0 {
		t.Error("the worker's end is non-blocking")
	}
	if err := SetPipeSize(w, 1<<20); err != nil {
		t.Error(err)
	}
	if n, err := unix.FcntlInt(w.Fd(), unix.F_GETPIPE_SZ, 0); err != nil || n != 1<<20 {
		t.Errorf("pipe size %d, %v", n, err)
	}
	if _, err := w.Write([]byte("line\n")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, err := r.Read(buf); string(buf[:n]) != "line\n" || err != nil {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	// Close ends a Read that waits: only the poller can do that.
	done := make(chan error, 1)
	go func() {
		_, err := r.Read(buf)
		done <- err
	}()
	eventually(t, "a goroutine parked in the poller", func() bool {
		stacks := make([]byte, 1<<20)
		return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "[IO wait")
	})
	r.Close()
	if err := receive(t, done); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read after close: %v, want os.ErrClosed", err)
	}
}

func TestFlock(t *testing.T) {
	checkDescriptors(t)
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	a, b := open(), open()
	defer b.Close()
	if ok, err := Flock(a); !ok || err != nil {
		t.Fatalf("first lock: %v, %v", ok, err)
	}
	if ok, err := Flock(b); ok || err != nil {
		t.Errorf("second lock while held: %v, %v, want false, nil", ok, err)
	}
	a.Close()
	if ok, err := Flock(b); !ok || err != nil {
		t.Errorf("second lock after the first was closed: %v, %v", ok, err)
	}
	b.Close()
	if ok, err := Flock(b); ok || !errors.Is(err, os.ErrClosed) {
		t.Errorf("lock of a closed file: %v, %v", ok, err)
	}
}

// What is punched out of a mapping is gone in all mappings, and only that.
func TestPunch(t *testing.T) {
	f, err := MemfdCreate("punch")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := os.Getpagesize()
	if err := f.Truncate(int64(8 * page)); err != nil {
		t.Fatal(err)
	}
	a, err := Map(f, 0, 8*page, true)
	if err != nil {
		t.Fatal(err)
	}
	defer Unmap(a)
	b, err := Map(f, 0, 8*page, false)
	if err != nil {
		t.Fatal(err)
	}
	defer Unmap(b)
	for i := range 6 * page { // two pages were never touched
		a[i] = 1
	}
	if n, err := Punch(a[page/2 : 3*page-1]); n != int64(page) || err != nil { // one whole page
		t.Errorf("%d, %v", n, err)
	}
	for i, want := range []byte{1, 0, 1, 1, 1, 1} {
		if b[i*page] != want || b[(i+1)*page-1] != want {
			t.Errorf("page %d: %d", i, b[i*page])
		}
	}
	if n, err := Punch(a[4*page:]); n != int64(2*page) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, small := range [][]byte{a[:0], a[1:page], a[page-1 : page+1]} {
		if n, err := Punch(small); n != 0 || err != nil {
			t.Errorf("%d bytes: %d, %v", len(small), n, err)
		}
	}
}
