package region

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/sys"
)

// TestSamePhysicalFrame shows that two processes do not have copies: the page tables of both lead to
// the same frame of physical memory.
func TestSamePhysicalFrame(t *testing.T) {
	needRoot(t) // the kernel shows frame numbers to CAP_SYS_ADMIN alone
	noLeaks(t)
	page := sys.PageSize()
	s := mustCreate(t, Options{Name: "frame", Size: int64(2 * page)})
	b := s.Bytes()
	b[0], b[page] = 1, 2

	cmd := helper(t, "frame")
	Extra(cmd, s.File())
	p := startPeer(t, cmd)
	theirs, err := strconv.ParseUint(p.hear(), 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		for {
			mine := frame(t, os.Getpid(), addr(b)+uint64(i*page))
			other := frame(t, p.cmd.Process.Pid, theirs+uint64(i*page))
			if mine != frame(t, os.Getpid(), addr(b)+uint64(i*page)) {
				continue // the kernel moved the page between the looks
			}
			if mine != other {
				t.Errorf("page %d: frame %#x here, %#x in the other process", i, mine, other)
			}
			t.Logf("page %d: physical frame %#x in both processes, at %#x here and %#x there", i, mine, addr(b), theirs)
			break
		}
	}
	if a, b := frame(t, os.Getpid(), addr(b)), frame(t, os.Getpid(), addr(b)+uint64(page)); a == b {
		t.Errorf("two pages have one frame %#x: the test shows nothing", a)
	}
	p.end()
}

func init() {
	helpers["frame"] = func([]string) error {
		s, err := openFD3(OpenOptions{Write: true})
		if err != nil {
			return err
		}
		defer s.Close()
		if s.Bytes()[0] != 1 || s.Bytes()[sys.PageSize()] != 2 { // touches both pages
			return errors.New("not the parent's memory")
		}
		fmt.Printf("%#x\n", addr(s.Bytes()))
		hear1() // until the parent has looked
		return nil
	}
}

func openFD3(o OpenOptions) (*Segment, error) {
	f, err := FromFD(3, "segment")
	if err != nil {
		return nil, err
	}
	return Open(f, o)
}

// addr returns where b lies, without unsafe.
func addr(b []byte) uint64 {
	a, err := strconv.ParseUint(fmt.Sprintf("%p", b), 0, 64)
	if err != nil {
		panic(err)
	}
	return a
}

// frame looks the number of the physical page up in /proc/PID/pagemap, which has 64 bits for each page
// of the address space: bit 63 says present, bits 0 to 54 are the frame.
func frame(t *testing.T, pid int, addr uint64) uint64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var entry [8]byte
	if _, err := f.ReadAt(entry[:], int64(addr/uint64(sys.PageSize())*8)); err != nil {
		t.Fatal(err)
	}
	e := binary.NativeEndian.Uint64(entry[:])
	n := e & (1<<55 - 1)
	if e>>63 == 0 || n == 0 {
		t.Fatalf("process %d: the page at %#x is not present, or its frame is hidden (entry %#x): CAP_SYS_ADMIN is missing", pid, addr, e)
	}
	return n
}

// A forked child, which no exec follows, gets no mapping: it cannot go on writing in the name of a
// worker that was killed.
func TestForkedChildHasNoMapping(t *testing.T) {
	noLeaks(t)
	s := mustCreate(t, Options{Size: 1})
	opened, err := open2(s, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	file := mustOpenFile(t, writeFile(t, []byte("file")))
	for name, b := range map[string][]byte{"created": s.Bytes(), "opened": opened.Bytes(), "file": file.m.b} {
		if e, err := forkAndTouch(b); err != nil || e != syscall.EFAULT {
			t.Errorf("%s: the forked child got %v, %v; want EFAULT", name, e, err)
		}
	}
	// The control: an ordinary mapping is inherited.
	b, err := sys.Map(s.File(), 0, int(s.Size()), true)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Unmap(b)
	if e, err := forkAndTouch(b); err != nil || e != 0 {
		t.Errorf("without MADV_DONTFORK the child got %v, %v; want success", e, err)
	}
}

// Another user who was given a read-only descriptor cannot make a writable one of it.
func TestReadOnlyHoldsAgainstAnotherUser(t *testing.T) {
	needRoot(t)
	noLeaks(t)
	for mode, want := range map[fs.FileMode]string{
		0:     "rw: permission denied, ro: permission denied, write: bad file descriptor, map: permission denied, open: read-only, read: ok, again: permission denied",
		0o666: "rw: opened, ro: opened, write: bad file descriptor, map: permission denied, open: read-only, read: ok, again: opened", // the control: what the kernel's own mode would allow
	} {
		s := mustCreate(t, Options{Name: "read-only", Size: 1})
		copy(s.Bytes(), "secret")
		if mode != 0 {
			if err := s.File().Chmod(mode); err != nil {
				t.Fatal(err)
			}
		}
		ro, err := s.ReadOnly()
		if err != nil {
			t.Fatal(err)
		}
		defer ro.Close()
		cmd := helper(t, "escape")
		asNobody(cmd)
		Extra(cmd, ro)
		if got := output(t, cmd); got != want {
			t.Errorf("mode %o: uid %d got\n\t%s\nwant\n\t%s", mode, nobody, got, want)
		}
	}
}

func init() {
	helpers["escape"] = func([]string) error {
		if os.Geteuid() != nobody {
			return fmt.Errorf("runs as uid %d", os.Geteuid())
		}
		f, err := FromFD(3, "segment")
		if err != nil {
			return err
		}
		var results []string
		result := func(what string, err error, ok string) {
			var errno syscall.Errno
			switch {
			case err == nil:
			case errors.As(err, &errno):
				ok = errno.Error()
			default:
				ok = err.Error()
			}
			results = append(results, what+": "+ok)
		}
		g, err := os.OpenFile(procPath(3), os.O_RDWR, 0)
		result("rw", err, "opened")
		g.Close()
		g, err = os.Open(procPath(3))
		result("ro", err, "opened")
		g.Close()
		_, err = f.WriteAt([]byte("x"), 0)
		result("write", err, "written")
		_, err = sys.Map(f, 0, sys.PageSize(), true)
		result("map", err, "mapped")

		dup, err := syscall.Dup(3)
		if err != nil {
			return err
		}
		if _, err := Open(os.NewFile(uintptr(dup), "dup"), OpenOptions{Write: true}); errors.Is(err, ErrReadOnly) {
			result("open", nil, "read-only")
		} else {
			result("open", err, "opened")
		}
		s, err := Open(f, OpenOptions{})
		if err != nil {
			return err
		}
		defer s.Close()
		if string(s.Bytes()[:6]) == "secret" {
			result("read", nil, "ok")
		}
		g, err = s.ReadOnly()
		result("again", err, "opened")
		g.Close()
		fmt.Println(strings.Join(results, ", "))
		return nil
	}
}
