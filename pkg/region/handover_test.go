package region

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
)

const childFDs = "SHMD_REGION_TEST_FDS"

// A segment and a read-only one, inherited by a child that writes into the one and cannot into the other.
func TestHandOverToChild(t *testing.T) {
	noLeaks(t)
	rw := mustCreate(t, Options{Name: "read-write", Size: 1})
	hidden := mustCreate(t, Options{Name: "hidden", Size: 1}) // close-on-exec: not handed over
	other := mustCreate(t, Options{Name: "read-only", Size: 1})
	copy(rw.Bytes(), "from the parent")
	copy(other.Bytes(), "look only")
	ro, err := other.ReadOnly()
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()

	cmd := helper(t, "child", strconv.FormatUint(rw.Inode(), 10), hidden.Name())
	fds := Extra(cmd, rw.File())
	fds = append(fds, Extra(cmd, ro)...)
	if fds[0] != 3 || fds[1] != 4 {
		t.Fatalf("numbers in the child: %v", fds)
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d,%d", childFDs, fds[0], fds[1]))
	if out := output(t, cmd); out != "ok" {
		t.Error(out)
	}
	if got := string(rw.Bytes()[:14]); got != "from the child" {
		t.Errorf("the parent reads %q", got)
	}
	if got := string(other.Bytes()[:9]); got != "look only" {
		t.Errorf("the child wrote: %q", got)
	}
}

func init() {
	helpers["child"] = func(args []string) error {
		var files []*os.File
		for i, n := range strings.Split(os.Getenv(childFDs), ",") {
			fd, err := strconv.Atoi(n)
			if err != nil {
				return err
			}
			f, err := FromFD(fd, []string{"first", "second"}[i])
			if err != nil {
				return err
			}
			files = append(files, f)
		}
		rw, err := Open(files[0], OpenOptions{Write: true})
		if err != nil {
			return err
		}
		defer rw.Close()
		again, err := os.Open(procPath(int(files[1].Fd())))
		if err != nil {
			return err
		}
		if _, err := Open(again, OpenOptions{Write: true}); !errors.Is(err, ErrReadOnly) {
			return fmt.Errorf("the read-only segment opened for writing: %v", err)
		}
		ro, err := Open(files[1], OpenOptions{})
		if err != nil {
			return err
		}
		defer ro.Close()
		if strconv.FormatUint(rw.Inode(), 10) != args[0] || string(rw.Bytes()[:15]) != "from the parent" || rw.Name() != "read-write" {
			return fmt.Errorf("not the parent's memory: inode %d, %q, name %s", rw.Inode(), rw.Bytes()[:15], rw.Name())
		}
		if string(ro.Bytes()[:9]) != "look only" || ro.Name() != "read-only" {
			return fmt.Errorf("the second: %q, name %s", ro.Bytes()[:9], ro.Name())
		}
		// Nothing else came along.
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return err
		}
		for _, e := range entries {
			link, err := os.Readlink("/proc/self/fd/" + e.Name())
			if err == nil && strings.Contains(link, "memfd:"+args[1]) {
				return fmt.Errorf("descriptor %s is the hidden segment", e.Name())
			}
		}
		// A grandchild gets nothing: the descriptors are close-on-exec now.
		for _, s := range []*Segment{rw, ro} {
			if !cloexec(failer{}, s.File()) {
				return fmt.Errorf("%s: a grandchild would inherit it", s.Name())
			}
		}
		copy(rw.Bytes(), "from the child ")
		fmt.Println("ok")
		return nil
	}
}

func TestFromFDRefuses(t *testing.T) {
	noLeaks(t)
	for _, fd := range []int{-1, 0, 2, 1 << 20} {
		_, err := FromFD(fd, "jobs")
		wantErr(t, err, ErrNotInherited, strconv.Itoa(fd), "jobs")
	}
	r, w, err := os.Pipe() // stands for what the Go runtime may have at that number
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	withFD(r, func(fd int) error {
		_, err := FromFD(fd, "jobs")
		wantErr(t, err, ErrNotInherited, "neither")
		return nil
	})
	if err := r.Close(); err != nil {
		t.Errorf("it was taken: %v", err)
	}
}

// listen gives the path of a socket that one peer connects to.
func listen(t testing.TB, network string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: filepath.Join(t.TempDir(), "sock"), Net: network})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A process that was not started by the owner of the memory gets it through a socket.
func TestHandOverThroughSocket(t *testing.T) {
	for _, network := range []string{"unixpacket", "unix"} {
		t.Run(network, func(t *testing.T) {
			noLeaks(t)
			l := listen(t, network)
			p := startPeer(t, helper(t, "client", network, l.Addr().String()))
			c, err := l.AcceptUnix()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()

			s := mustCreate(t, Options{Name: "sent", Size: 1})
			copy(s.Bytes(), "through a socket")
			file := writeFile(t, []byte("a file"))
			f := mustOpen(t, file, os.O_RDONLY)
			if err := SendFiles(c, []byte("two"), []*os.File{s.File(), f}); err != nil {
				t.Fatal(err)
			}
			f.Close() // the kernel holds what is under way
			if got := p.hear(); got != "got two" {
				t.Errorf("the client %s", got)
			}
			if got := string(s.Bytes()[:10]); got != "by client " {
				t.Errorf("read %q", got)
			}
			// A packet without descriptors, then the end.
			if err := SendFiles(c, []byte("none"), nil); err != nil {
				t.Fatal(err)
			}
			if got := p.hear(); got != "got none" {
				t.Errorf("the client %s", got)
			}
			c.Close()
			if got := p.hear(); got != "EOF" {
				t.Errorf("the client %s", got)
			}
			p.end()
		})
	}
}

func init() {
	helpers["client"] = func(args []string) error {
		c, err := net.DialUnix(args[0], nil, &net.UnixAddr{Name: args[1], Net: args[0]})
		if err != nil {
			return err
		}
		defer c.Close()
		buf := make([]byte, 100)
		n, fs, err := ReceiveFiles(c, buf)
		if err != nil {
			return err
		}
		if len(fs) != 2 {
			return fmt.Errorf("%d descriptors", len(fs))
		}
		for _, f := range fs {
			if !cloexec(failer{}, f) {
				return errors.New("not close-on-exec")
			}
		}
		s, err := Open(fs[0], OpenOptions{Write: true})
		if err != nil {
			return err
		}
		defer s.Close()
		f, err := MapFile(fs[1], "received")
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.View(func(b []byte) error {
			if string(b) != "a file" || string(s.Bytes()[:16]) != "through a socket" || s.Name() != "sent" {
				return fmt.Errorf("received %q and %q (%s)", b, s.Bytes()[:16], s.Name())
			}
			return nil
		}); err != nil {
			return err
		}
		copy(s.Bytes(), "by client ")
		fmt.Printf("got %s\n", buf[:n])

		n, fs, err = ReceiveFiles(c, buf)
		if err != nil || len(fs) != 0 {
			return fmt.Errorf("%d descriptors, %v", len(fs), err)
		}
		fmt.Printf("got %s\n", buf[:n])
		_, _, err = ReceiveFiles(c, buf)
		fmt.Println(err)
		return nil
	}
}

// pair returns both ends of a connection in this process.
func pair(t testing.TB, network string) (a, b *net.UnixConn) {
	t.Helper()
	l := listen(t, network)
	a, err := net.DialUnix(network, nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	if b, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestSendFilesLimits(t *testing.T) {
	noLeaks(t)
	a, b := pair(t, "unixpacket")
	s := mustCreate(t, Options{Size: 1})
	many := make([]*os.File, MaxFiles+1)
	for i := range many {
		many[i] = s.File()
	}
	wantErr(t, SendFiles(a, []byte("x"), many), ErrOptions, strconv.Itoa(MaxFiles))
	wantErr(t, SendFiles(a, nil, many[:1]), ErrOptions)

	if err := SendFiles(a, []byte("x"), many[:MaxFiles]); err != nil {
		t.Fatal(err)
	}
	_, fs, err := ReceiveFiles(b, make([]byte, 1))
	if err != nil || len(fs) != MaxFiles {
		t.Fatalf("%d descriptors, %v", len(fs), err)
	}
	for _, f := range fs {
		f.Close()
	}

	// Too long for the buffer: refused whole, and its descriptors are closed (noLeaks).
	if err := SendFiles(a, []byte("xy"), many[:2]); err != nil {
		t.Fatal(err)
	}
	if _, fs, err := ReceiveFiles(b, make([]byte, 1)); !errors.Is(err, io.ErrShortBuffer) || fs != nil {
		t.Errorf("%d descriptors, %v", len(fs), err)
	}

	s.Close()
	wantErr(t, SendFiles(a, []byte("x"), many[:1]), ErrClosed)
	b.SetReadDeadline(time.Unix(1, 0))
	if _, _, err := ReceiveFiles(b, make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with a deadline: %v", err)
	}
	a.Close()
	b.SetReadDeadline(time.Time{})
	if _, _, err := ReceiveFiles(b, make([]byte, 1)); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	wantErr(t, SendFiles(a, []byte("x"), nil), net.ErrClosed)
}

// A stream socket takes a long payload in parts; the descriptors come with the first.
func TestSendFilesLongPayload(t *testing.T) {
	noLeaks(t)
	a, b := pair(t, "unix")
	s := mustCreate(t, Options{Size: 1})
	payload := bytes.Repeat([]byte("0123456789"), 1<<20/10)
	sent := make(chan error, 1)
	go func() { sent <- SendFiles(a, payload, []*os.File{s.File()}) }()
	buf := make([]byte, 1<<20)
	n, fs, err := ReceiveFiles(b, buf)
	if err != nil || len(fs) != 1 {
		t.Fatalf("%d descriptors, %v", len(fs), err)
	}
	fs[0].Close()
	if _, err := io.ReadFull(b, buf[n:len(payload)]); err != nil || !bytes.Equal(buf[:len(payload)], payload) {
		t.Errorf("the payload did not arrive: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// A receiver at its limit of open files: an error, and nothing is kept.
func TestReceiveFilesAtTheLimit(t *testing.T) {
	noLeaks(t)
	if out := output(t, helper(t, "few-files", t.TempDir())); out != "ok" {
		t.Error(out)
	}
}

func init() {
	helpers["few-files"] = func(args []string) error {
		l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(args[0], "s"), Net: "unixpacket"})
		if err != nil {
			return err
		}
		a, err := net.DialUnix("unixpacket", nil, l.Addr().(*net.UnixAddr))
		if err != nil {
			return err
		}
		b, err := l.AcceptUnix()
		if err != nil {
			return err
		}
		s, err := Create(Options{Size: 1})
		if err != nil {
			return err
		}
		cur, max, err := sys.Getrlimit(sys.LimitNofile)
		if err != nil {
			return err
		}
		for room := range 3 {
			if err := SendFiles(a, []byte("x"), []*os.File{s.File(), s.File(), s.File()}); err != nil {
				return err
			}
			before := len(openFDs(failer{}))
			if err := sys.Setrlimit(sys.LimitNofile, 64, max); err != nil {
				return err
			}
			var fillers []*os.File
			for {
				f, err := os.Open("/dev/null")
				if err != nil {
					break
				}
				fillers = append(fillers, f)
			}
			for _, f := range fillers[:room] {
				f.Close()
			}
			_, fs, received := ReceiveFiles(b, make([]byte, 1))
			var created error
			if room == 0 {
				_, created = Create(Options{Size: 1})
			}
			for _, f := range fillers[room:] {
				f.Close()
			}
			if err := sys.Setrlimit(sys.LimitNofile, cur, max); err != nil {
				return err
			}
			if !errors.Is(received, ErrLostFiles) || fs != nil {
				return fmt.Errorf("room for %d of 3: %d descriptors, %v", room, len(fs), received)
			}
			if room == 0 && !errors.Is(created, syscall.EMFILE) {
				return fmt.Errorf("Create without a descriptor: %v", created)
			}
			if after := len(openFDs(failer{})); after != before {
				return fmt.Errorf("room for %d of 3: %d descriptors before, %d after", room, before, after)
			}
		}
		fmt.Println("ok")
		return nil
	}
}

// failer lets a helper use the functions of the tests; it panics where a test would fail.
type failer struct{ testing.TB }

func (failer) Helper()                      {}
func (failer) Fatal(args ...any)            { panic(fmt.Sprint(args...)) }
func (failer) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }
