package attach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shmd/shmd/internal/sys"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("ATTACH_TEST_DIAL"); path != "" { // a child of TestDialPermission
		_, err := Dial(context.Background(), path)
		fmt.Println(errors.Is(err, ErrPermission), err)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// openFiles counts this process's descriptors.
func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// noLeak fails the test if more descriptors are open at its end than now.
func noLeak(t *testing.T) {
	t.Helper()
	c, err := net.Listen("unix", "") // starts the poller, which has descriptors of its own
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	before := openFiles(t)
	t.Cleanup(func() {
		if after := openFiles(t); after > before {
			t.Errorf("%d descriptors open before, %d after", before, after)
		}
	})
}

// listen makes a socket in a directory of its own, and serves each connection with serve until the test ends.
func listen(t *testing.T, serve func(*Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "default.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			u, err := l.AcceptUnix()
			if err != nil {
				return
			}
			c := NewConn(u)
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return path
}

// daemon answers as a daemon with n segments would.
func daemon(t *testing.T, n int) func(*Conn) {
	return func(c *Conn) {
		ctx := t.Context()
		for {
			r, err := c.ReceiveRequest(ctx)
			if err != nil {
				if !errors.Is(err, ErrBadPacket) && !errors.As(err, new(*VersionError)) && !errors.As(err, new(*UnknownOpError)) {
					return
				}
				if c.SendReply(ctx, Refusal(err), nil) != nil {
					return
				}
				continue
			}
			reply, files := Reply{OK: true, Pid: os.Getpid(), Version: "1.2.3", Region: "default"}, []*os.File(nil)
			switch {
			case r.Op == OpAttach && r.Role == RoleOperate:
				reply = Refusal(&RefusedError{CodePermission, "only for the daemon's user; run shmctl as root"})
			case r.Op == OpAttach:
				reply.Attachment = 17
				for i := range n {
					f, err := os.CreateTemp(t.TempDir(), "")
					if err != nil {
						t.Error(err)
						return
					}
					fmt.Fprint(f, i)
					files = append(files, f)
					reply.FDs = append(reply.FDs, fmt.Sprint("segment", i))
				}
				fallthrough
			case r.Op == OpChannels:
				for i := range n {
					reply.Channels = append(reply.Channels, Channel{Name: fmt.Sprint("segment", i), Kind: "queue", Slots: 8, SlotSize: 64})
				}
			}
			err = c.SendReply(ctx, reply, files)
			closeAll(files)
			if err != nil {
				if !errors.Is(err, ErrHungUp) {
					t.Error(err)
				}
				return
			}
		}
	}
}

func TestAttach(t *testing.T) {
	for _, n := range []int{0, 1, 200, 201, 450} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			noLeak(t)
			path := listen(t, daemon(t, n))
			c, err := DialWait(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if h := c.Hello(); h.Pid != os.Getpid() || h.Version != "1.2.3" || h.Region != "default" {
				t.Errorf("hello: %+v", h)
			}
			a, err := c.Attach(t.Context(), Request{Role: RoleObserve, Name: "test"})
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			if a.Attachment != 17 || a.More || len(a.FDs) != n || len(a.Files) != n || len(a.Channels) != n {
				t.Fatalf("%d: attachment %d, more %v, %d names, %d files, %d channels", n, a.Attachment, a.More, len(a.FDs), len(a.Files), len(a.Channels))
			}
			for i := range n { // each name has its own file, close-on-exec
				f := a.Files[fmt.Sprint("segment", i)]
				buf := make([]byte, 8)
				m, err := f.ReadAt(buf, 0)
				if !errors.Is(err, io.EOF) || string(buf[:m]) != fmt.Sprint(i) {
					t.Fatalf("segment%d holds %q, %v", i, buf[:m], err)
				}
			}
			channels, err := c.Channels(t.Context())
			if err != nil || len(channels) != n {
				t.Errorf("%d channels, %v", len(channels), err)
			}
			if err := c.Detach(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAttachRefused(t *testing.T) {
	noLeak(t)
	c, err := DialWait(t.Context(), listen(t, daemon(t, 1)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Attach(t.Context(), Request{Role: RoleOperate})
	if !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), "run shmctl as root (permission)") {
		t.Error(err)
	}
	// The connection can be used on, and the server says what is wrong.
	for packet, want := range map[string]string{
		`{"v":1,"op":"pong"}`:        CodeUnknownOp,
		`{"v":2,"op":"ping"}`:        CodeVersion,
		`{"v":1,"op":"ping","no":0}`: CodeBadRequest,
	} {
		if err := c.Send(t.Context(), []byte(packet), nil); err != nil {
			t.Fatal(err)
		}
		p, _, err := c.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r, err := DecodeReply(p); err != nil || r.Code != want {
			t.Errorf("%s: %s, %v", packet, p, err)
		}
	}
	if err := c.Send(t.Context(), []byte(`{"v":1,"op":"ping"}`), []*os.File{os.Stdin}); err != nil {
		t.Fatal(err)
	}
	p, _, err := c.Receive(t.Context())
	if err != nil || !strings.Contains(string(p), "a request carries no descriptors") {
		t.Errorf("%s, %v", p, err)
	}
}

// A daemon gone wrong: whatever it answers is an error that says so, and no descriptor stays.
func TestHostileDaemon(t *testing.T) {
	memfd, err := sys.MemfdCreate("test")
	if err != nil {
		t.Fatal(err)
	}
	defer memfd.Close()
	some := func(n int) (fs []*os.File) {
		for range n {
			fs = append(fs, memfd)
		}
		return fs
	}
	type packet struct {
		text  string
		files []*os.File
	}
	for _, c := range []struct {
		name    string
		packets []packet
		is      error
		text    string
	}{
		{"garbage", []packet{{"hello", some(3)}}, ErrBadPacket, "not a JSON object"},
		{"too large", []packet{{strings.Repeat(" ", MaxPacket+1), some(3)}}, ErrTooLarge, ""},
		{"more descriptors than names", []packet{{`{"v":1,"ok":true,"fds":["a"]}`, some(2)}}, ErrBadPacket, "2 descriptors came with 1 names"},
		{"fewer descriptors than names", []packet{{`{"v":1,"ok":true,"fds":["a","b"]}`, some(1)}}, ErrBadPacket, "1 descriptors came with 2 names"},
		{"hangs up between packets", []packet{{`{"v":1,"ok":true,"fds":["a"],"more":true}`, some(1)}}, ErrHungUp, "before it answered"},
		{"refuses between packets", []packet{{`{"v":1,"ok":true,"fds":["a"],"more":true}`, some(1)}, {`{"v":1,"ok":false,"code":"busy","error":"x"}`, some(1)}}, nil, "refused: x (busy)"},
		{"name twice", []packet{{`{"v":1,"ok":true,"fds":["a"],"more":true}`, some(1)}, {`{"v":1,"ok":true,"fds":["a"]}`, some(1)}}, ErrBadPacket, `"a" came twice`},
		{"endless", func() (ps []packet) {
			for i := range maxPackets {
				ps = append(ps, packet{fmt.Sprintf(`{"v":1,"ok":true,"fds":["a%d"],"more":true}`, i), some(1)})
			}
			return ps
		}(), ErrBadPacket, "more than 64 packets"},
		{"another version", []packet{{`{"v":2,"ok":true,"fds":["a"]}`, some(1)}}, nil, "version 2, this program speaks 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeak(t)
			path := listen(t, func(conn *Conn) {
				if _, err := conn.ReceiveRequest(t.Context()); err != nil { // the ping
					t.Error(err)
				}
				if err := conn.SendReply(t.Context(), Reply{OK: true}, nil); err != nil {
					t.Error(err)
				}
				if _, err := conn.ReceiveRequest(t.Context()); err != nil {
					t.Error(err)
				}
				for _, p := range c.packets { // not Send, which would refuse some
					var fds []int
					for range p.files {
						fds = append(fds, int(memfd.Fd()))
					}
					if _, _, err := conn.Unix().WriteMsgUnix([]byte(p.text), sys.Rights(fds...), nil); err != nil {
						t.Error(err)
					}
				}
			})
			conn, err := DialWait(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			a, err := conn.Attach(t.Context(), Request{Role: RoleObserve})
			if err == nil {
				a.Close()
				t.Fatal("accepted")
			}
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// Descriptors beyond the limit of open files are an error with the fix, not a short list.
func TestTooFewFreeDescriptors(t *testing.T) {
	noLeak(t)
	c, err := DialWait(t.Context(), listen(t, daemon(t, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*Conn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "pair")
		nc, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = NewConn(nc.(*net.UnixConn))
		defer ends[i].Close()
	}
	if err := ends[0].Send(t.Context(), []byte("x"), []*os.File{os.Stdin, os.Stdin, os.Stdin}); err != nil {
		t.Fatal(err)
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = uint64(openFiles(t)) // about one is free: ReadDir's own
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	_, _, err = ends[1].Receive(t.Context())
	if e := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(err, ErrTruncated) {
		t.Error(err)
	}
}

// A daemon that refuses a peer by its credentials need not wait for a request: its words are not lost in the reset.
func TestRefusedAtOnce(t *testing.T) {
	noLeak(t)
	refusal := Refusal(&RefusedError{CodePermission, "share the pid namespace"})
	for name, read := range map[string]bool{"before the ping": false, "with the ping unread": true} {
		path := listen(t, func(c *Conn) {
			if read { // wait until it is there, and leave it
				rc, err := c.Unix().SyscallConn()
				if err != nil {
					t.Error(err)
					return
				}
				if err := rc.Read(func(fd uintptr) bool {
					_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
					return !errors.Is(err, syscall.EAGAIN)
				}); err != nil {
					t.Error(err)
				}
			}
			if err := c.SendReply(t.Context(), refusal, nil); err != nil {
				t.Error(err)
			}
		})
		_, err := DialWait(t.Context(), path)
		if !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), "share the pid namespace") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestContext(t *testing.T) {
	noLeak(t)
	waiting := make(chan struct{}, 1)
	path := listen(t, func(c *Conn) {
		for n := 0; ; n++ {
			r, err := c.ReceiveRequest(t.Context())
			if err != nil {
				return
			}
			if r.Op == OpPing && n == 0 {
				if err := c.SendReply(t.Context(), Reply{OK: true}, nil); err != nil {
					return
				}
				continue
			}
			waiting <- struct{}{} // and never answers
		}
	})
	c, err := DialWait(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-waiting; cancel() }()
	if _, err := c.Attach(ctx, Request{Role: RoleObserve}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := c.Attach(ctx, Request{Role: RoleObserve}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// The deadline that ended it does not stay behind.
	if err := c.Send(t.Context(), []byte(`{"v":1,"op":"ping"}`), nil); err != nil {
		t.Error(err)
	}
	<-waiting
	short, cancel2 := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel2()
	if _, _, err := c.Receive(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	c.Close()
	if err := c.Send(t.Context(), []byte(`{}`), nil); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestDialErrors(t *testing.T) {
	noLeak(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }

	dead, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: at("dead.sock"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()

	mute, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: at("mute.sock"), Net: "unixpacket"}) // as a daemon that hangs
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()

	stream, err := net.Listen("unix", at("stream.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()

	if err := os.WriteFile(at("file.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}

	full, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(full)
	if err := errors.Join(syscall.Bind(full, &syscall.SockaddrUnix{Name: at("full.sock")}), syscall.Listen(full, 0)); err != nil {
		t.Fatal(err)
	}
	for { // fill the backlog
		c, err := net.Dial("unixpacket", at("full.sock"))
		if err != nil {
			if !errors.Is(err, syscall.EAGAIN) {
				t.Fatal(err)
			}
			break
		}
		defer c.Close()
	}

	for _, c := range []struct {
		path    string
		want    error
		text    string
		answers bool
	}{
		{at("none.sock"), ErrNoDaemon, "start one", false},
		{at("none/none.sock"), ErrNoDaemon, "start one", false},
		{at("file.sock") + "/x.sock", ErrNoDaemon, "start one", false},
		{at("dead.sock"), ErrDeadSocket, "start a new one", false},
		{at("mute.sock"), ErrSilent, "does not answer within 1s: it is stopped", false},
		{at("full.sock"), ErrSilent, "does not answer: it is stopped", false},
		{at("stream.sock"), ErrNotShmd, "another type", false},
		{at("file.sock"), ErrNotShmd, "no socket at all", false},
		{listen(t, func(c *Conn) {
			if _, err := c.ReceiveRequest(t.Context()); err == nil {
				err = c.Send(t.Context(), []byte("220 smtp"), nil)
				_ = err
			}
		}), ErrNotShmd, "not a JSON object", true},
		{listen(t, func(*Conn) {}), ErrDeadSocket, "the other end closed the connection): try again", true},
		{"/" + strings.Repeat("x", 107), nil, "at most 107 bytes, this one has 108", false},
	} {
		start := time.Now()
		dial := Dial
		if c.answers { // on a busy machine perhaps late
			dial = DialWait
		}
		conn, err := dial(t.Context(), c.path)
		if err == nil {
			conn.Close()
			t.Errorf("%s: connected", c.path)
			continue
		}
		if c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || strings.Count(err.Error(), c.path) != 1 {
			t.Errorf("%s: %v", c.path, err)
		}
		for _, other := range []error{ErrNoDaemon, ErrDeadSocket, ErrPermission, ErrSilent, ErrNotShmd} {
			if other != c.want && errors.Is(err, other) {
				t.Errorf("%s: %v is also %q", c.path, err, other)
			}
		}
		if d := time.Since(start); d < BusyAfter && strings.Contains(c.path, "mute") {
			t.Errorf("%s: took %v", c.path, d)
		}
	}

	// The caller's own context counts too, and DialWait knows no silence.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	for name, dial := range map[string]func(context.Context, string) (*Conn, error){"Dial": Dial, "DialWait": DialWait} {
		for _, p := range []string{at("mute.sock"), at("full.sock")} {
			if _, err := dial(ctx, p); !errors.Is(err, context.DeadlineExceeded) && !(name == "Dial" && errors.Is(err, ErrSilent)) {
				t.Errorf("%s %s: %v", name, p, err)
			}
		}
	}
}

// A daemon that is merely busy is waited for, longer than one whose process is stopped.
func TestDialBusy(t *testing.T) {
	noLeak(t)
	real := cannotAnswer
	defer func() { cannotAnswer = real }()
	looked := make(chan struct{})
	cannotAnswer = func(pid int) bool {
		defer close(looked)
		if pid != os.Getpid() {
			t.Errorf("looks at process %d, which does not listen", pid)
		}
		return real(pid)
	}
	path := listen(t, func(c *Conn) { <-looked; daemon(t, 0)(c) })
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()

	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { child.Process.Kill(); child.Wait() }()
	if real(child.Process.Pid) || real(0) {
		t.Error("a process that sleeps, or one that is not known, cannot answer")
	}
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(child.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatal(status, err)
	}
	if !real(child.Process.Pid) {
		t.Error("a process that is stopped can answer")
	}
}

// A daemon that is slow to start is no reason to give up for DialWait.
func TestDialWait(t *testing.T) {
	noLeak(t)
	hold := make(chan struct{})
	path := listen(t, func(c *Conn) { <-hold; daemon(t, 0)(c) })
	if _, err := Dial(t.Context(), path); !errors.Is(err, ErrSilent) {
		t.Fatal(err)
	}
	close(hold)
	c, err := DialWait(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestDialPermission(t *testing.T) {
	noLeak(t)
	dir := t.TempDir()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if os.Geteuid() != 0 {
		if err := os.Chmod(filepath.Join(dir, "s"), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := Dial(t.Context(), filepath.Join(dir, "s")); !errors.Is(err, ErrPermission) {
			t.Error(err)
		}
		return
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(os.TempDir(), fmt.Sprintf("attach-test-%d", os.Getpid())) // where the other user can run it
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(exe)
	cmd := exec.Command(exe)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "ATTACH_TEST_DIAL="+filepath.Join(dir, "s"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "true ") || !strings.Contains(string(out), "member of the group") {
		t.Errorf("%s, %v", out, err)
	}
}
