package region

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/sys"
)

// More than the machine has: an error before anything is allocated.
func TestBeyondTheMachinesMemory(t *testing.T) {
	noLeaks(t)
	_, err := Create(Options{Name: "jobs", Size: 1 << 50})
	wantErr(t, err, ErrLimit, `"jobs"`, "1024 TiB", "raise that limit")
	var e *LimitError
	if !errors.As(err, &e) || e.Name != "jobs" || e.Need != 1<<50 || e.Limit <= 0 || !strings.HasPrefix(e.Source, "/") {
		t.Errorf("%+v", e)
	}
}

// The source is named as it is, and the limit itself is enough.
func TestMemoryLimitIsNamed(t *testing.T) {
	noLeaks(t)
	real := memoryLimit
	t.Cleanup(func() { memoryLimit = real })
	const limit = 1 << 20
	memoryLimit = func() (int64, string, error) { return limit, "/sys/fs/cgroup/shmd.service/memory.max", nil }
	mustCreate(t, Options{Size: limit})
	_, err := Create(Options{Name: "jobs", Size: limit + 1})
	wantErr(t, err, ErrLimit, "/sys/fs/cgroup/shmd.service/memory.max allows only 1 MiB", bytesText(limit+int64(sys.PageSize())))
	mustCreate(t, Options{Size: limit + 1, Sparse: true}) // takes nothing yet
	memoryLimit = func() (int64, string, error) { return 0, "", errors.New("no /proc") }
	if _, err := Create(Options{Size: 1}); err == nil || !strings.Contains(err.Error(), "no /proc") {
		t.Errorf("%v", err)
	}
}

// A real memory cgroup: the kernel would kill whoever allocates beyond its limit.
func TestCgroupLimit(t *testing.T) {
	needRoot(t)
	noLeaks(t)
	const limit = 256 << 20
	dir, file := memoryCgroup(t, limit)
	p := startPeer(t, helper(t, "cgroup"))
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(p.cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	p.tell("go")
	if got := p.hear(); !strings.Contains(got, filepath.Base(dir)+"/"+file) || !strings.Contains(got, "needs 512 MiB") {
		t.Errorf("beyond the limit: %s", got)
	}
	if got := p.hear(); got != "ok" {
		t.Errorf("within the limit: %s", got)
	}
	p.end()
}

func init() {
	helpers["cgroup"] = func([]string) error {
		hear1() // until this process is in the cgroup
		_, err := Create(Options{Name: "large", Size: 512 << 20})
		if !errors.Is(err, ErrLimit) {
			return fmt.Errorf("512 MiB: %v", err)
		}
		fmt.Println(err)
		s, err := Create(Options{Size: 16 << 20, Prefault: true})
		if err != nil {
			return err
		}
		fmt.Println("ok")
		return s.Close()
	}
}

// memoryCgroup makes a cgroup with a memory limit, below the root of either version.
func memoryCgroup(t *testing.T, limit int64) (dir, file string) {
	t.Helper()
	root, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Join(root, file)); err != nil {
		root, file = "/sys/fs/cgroup", "memory.max"
	}
	dir, err := os.MkdirTemp(root, "shmd-region-test-")
	if err != nil {
		t.Fatalf("make a memory cgroup: %v (the tests of the limits need a writable cgroup file system)", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(limit, 10)), 0); err != nil {
		t.Fatal(err)
	}
	return dir, file
}

// Beyond a resource limit: an error that names it. The kernel's own answer to the first is SIGXFSZ,
// which ends a Go program.
func TestResourceLimits(t *testing.T) {
	noLeaks(t)
	for limit, source := range map[string]string{
		"fsize":        "RLIMIT_FSIZE (ulimit -f; LimitFSIZE= in the unit)",
		"fsize-sparse": "RLIMIT_FSIZE",
		"fsize-file":   "RLIMIT_FSIZE",
		"memlock":      "RLIMIT_MEMLOCK (ulimit -l; LimitMEMLOCK= in the unit)",
	} {
		t.Run(limit, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "region")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			cmd := helper(t, "rlimit", limit, filepath.Join(dir, "file"))
			asNobody(cmd) // root may lock as much as it likes
			got := output(t, cmd)
			for _, text := range []string{source, "needs 1 MiB", "allows only 64 KiB"} {
				if !strings.Contains(got, text) {
					t.Errorf("%q does not say %q", got, text)
				}
			}
		})
	}
}

func init() {
	helpers["rlimit"] = func(args []string) (err error) {
		kind := sys.LimitMemlock
		if args[0] != "memlock" {
			kind = sys.Limit(syscall.RLIMIT_FSIZE)
		}
		if err := sys.Setrlimit(kind, 64<<10, 64<<10); err != nil {
			return err
		}
		if args[0] == "fsize-file" {
			_, err = OpenFileRW(args[1], 1<<20)
			if fi, e := os.Stat(args[1]); e == nil && fi.Size() != 0 {
				return fmt.Errorf("a file of %d bytes is left", fi.Size())
			}
		} else {
			_, err = Create(Options{Name: "jobs", Size: 1 << 20, Mlock: args[0] == "memlock", Sparse: args[0] == "fsize-sparse"})
		}
		if !errors.Is(err, ErrLimit) || Mapped() != 0 {
			return fmt.Errorf("%v, %d mappings", err, Mapped())
		}
		fmt.Println(err)
		s, err := Create(Options{Size: 1, Mlock: args[0] == "memlock"}) // what the limit allows goes on working
		if err != nil {
			return err
		}
		return s.Close()
	}
}

// No room for a mapping: the error names the limit, and nothing is wrong with the segment.
func TestAddressSpace(t *testing.T) {
	noLeaks(t)
	got := output(t, helper(t, "space"))
	for _, text := range []string{"it needs 16 GiB: beyond a limit", "the 8 GiB of RLIMIT_AS (ulimit -v; LimitAS= in the unit): raise it"} {
		if !strings.Contains(got, text) {
			t.Errorf("%q does not say %q", got, text)
		}
	}
}

func init() {
	helpers["space"] = func([]string) error {
		if err := sys.Setrlimit(sys.LimitAS, 8<<30, 8<<30); err != nil {
			return err
		}
		f, err := sys.MemfdCreate("jobs")
		if err == nil {
			err = f.Truncate(16 << 30)
		}
		if err == nil {
			err = sys.AddSeals(f, sys.SealShrink|sys.SealGrow)
		}
		if err != nil {
			return err
		}
		if _, err = Open(f, OpenOptions{}); !errors.Is(err, ErrLimit) || !errors.Is(err, syscall.ENOMEM) || Mapped() != 0 {
			return fmt.Errorf("%v, %d mappings", err, Mapped())
		}
		fmt.Println(err)
		return nil
	}
}

// A full file system: an error when the file is made, no SIGBUS when it is stored to, and no file of a
// wrong size that would be in the way later.
func TestFullFileSystem(t *testing.T) {
	needRoot(t)
	noLeaks(t)
	cmd := helper(t, "full", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // its mount is its own, and goes with it
	if got := output(t, cmd); got != "ok" {
		t.Error(got)
	}
}

func init() {
	helpers["full"] = func(args []string) error {
		dir := args[0]
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
			return err
		}
		path := filepath.Join(dir, "file")
		_, err := OpenFileRW(path, 1<<20)
		if !errors.Is(err, ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "1 MiB") {
			return fmt.Errorf("1 MiB on 256 KiB: %v", err)
		}
		fi, err := os.Stat(path)
		if err != nil || fi.Size() != 0 {
			return fmt.Errorf("left behind: %d bytes, %v", fi.Size(), err)
		}
		f, err := OpenFileRW(path, 128<<10)
		if err != nil {
			return err
		}
		if err := f.View(func(b []byte) error {
			for i := range b {
				b[i] = 1
			}
			return nil
		}); err != nil {
			return err
		}
		fmt.Println("ok")
		return f.Close()
	}
}

func TestNoHugePages(t *testing.T) {
	noLeaks(t)
	free, size, err := sys.HugePagesFree()
	if err != nil {
		t.Fatal(err)
	}
	if size == 0 {
		t.Fatal("this kernel has no huge pages at all: run the tests on one that has CONFIG_HUGETLBFS")
	}
	need := free + 3
	_, err = Create(Options{Name: "frames", Size: int64(need) * size, HugePages: true})
	wantErr(t, err, ErrNoHugePages, `"frames"`, fmt.Sprintf("needs %d huge pages", need), fmt.Sprintf("%d are free", free), "reserve 3 more", "/proc/sys/vm/nr_hugepages")
	var e *HugePagesError
	if !errors.As(err, &e) || e.Need != need || e.Free != free || e.PageSize != size {
		t.Errorf("%+v", e)
	}

	// The other ways it fails, by text.
	for _, c := range []struct {
		e    HugePagesError
		text string
	}{
		{HugePagesError{Name: "x", Err: syscall.ENODEV}, "this kernel has none"},
		{HugePagesError{Name: "x", Need: 2, Free: 5, PageSize: 2 << 20, Err: syscall.ENOSPC}, "hugetlb cgroup"},
	} {
		if !strings.Contains(c.e.Error(), c.text) {
			t.Errorf("%q does not say %q", c.e.Error(), c.text)
		}
	}
}

func TestHugePages(t *testing.T) {
	needRoot(t)
	noLeaks(t)
	reserveHugePages(t, 4)
	_, size, err := sys.HugePagesFree()
	if err != nil {
		t.Fatal(err)
	}
	s := mustCreate(t, Options{Name: "huge", Size: 2*size + 1, HugePages: true, Prefault: true})
	if s.Size() != 3*size {
		t.Errorf("size %d, want three pages of %d", s.Size(), size)
	}
	m := smaps(t, s.Bytes())
	if want := fmt.Sprintf("%d kB", size>>10); m["KernelPageSize"] != want || !hasFlag(m, "ht") || !hasFlag(m, "dc") {
		t.Errorf("KernelPageSize %s, want %s; VmFlags %q", m["KernelPageSize"], want, m["VmFlags"])
	}
	if err := s.File().Truncate(0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("it could be shrunk: %v", err)
	}
	s.Bytes()[s.Size()-1] = 7
	r, err := open2(s, OpenOptions{MinSize: 3 * size})
	if err != nil {
		t.Fatal(err)
	}
	if r.Bytes()[s.Size()-1] != 7 || r.Name() != "huge" {
		t.Error("not the same memory")
	}
	r.Close()

	// Seals do not stop a peer from punching holes. If it also sees to it that no page is left to fill
	// one up again, the access is a SIGBUS: within Check an error.
	_, err = open2(s, OpenOptions{Check: func(b []byte) error {
		if err := withFD(s.File(), func(fd int) error {
			const keepSize, punchHole = 1, 2
			return syscall.Fallocate(fd, keepSize|punchHole, size, size)
		}); err != nil {
			return err
		}
		free, _, err := sys.HugePagesFree()
		if err != nil {
			return err
		}
		mustCreate(t, Options{Name: "thief", Size: int64(free) * size, HugePages: true})
		sink += int(b[0])    // still there
		sink += int(b[size]) // the hole
		return errors.New("there was no hole")
	}})
	if want := fmt.Sprintf("no memory at byte %d", size); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a hole: %v", err)
	}
}

// reserveHugePages adds n pages to the pool, and takes them out again after the test.
func reserveHugePages(t *testing.T, n int) {
	t.Helper()
	const path = "/proc/sys/vm/nr_hugepages"
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	// One test binary at a time: the number is read and written back.
	if err := withFD(f, func(fd int) error { return syscall.Flock(fd, syscall.LOCK_EX) }); err != nil {
		t.Fatal(err)
	}
	add := func(n int) int {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		have, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strconv.Itoa(have+n)), 0); err != nil {
			t.Fatal(err)
		}
		return have
	}
	had := add(n)
	t.Cleanup(func() {
		add(-n)
		f.Close() // and with it the lock
	})
	b, _ := os.ReadFile(path)
	if now := strings.TrimSpace(string(b)); now != strconv.Itoa(had+n) {
		t.Fatalf("the kernel has %s huge pages, and found no memory for %d", now, had+n)
	}
}
