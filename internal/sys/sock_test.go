package sys

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// socketPair connects two ends of a packet socket as daemon and client do.
func socketPair(t *testing.T) (server, client *net.UnixConn) {
	t.Helper()
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unixpacket"}
	l, err := net.ListenUnix("unixpacket", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.DialUnix("unixpacket", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); client.Close() })
	return server, client
}

func TestRightsTravel(t *testing.T) {
	checkDescriptors(t)
	server, client := socketPair(t)
	one, two := tempMemfd(t, 1), tempMemfd(t, 1)
	two.WriteAt([]byte("two"), 0)

	if _, _, err := server.WriteMsgUnix([]byte("hello"), Rights(int(one.Fd()), int(two.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	buf, oob := make([]byte, 100), make([]byte, RightsSpace(2))
	n, oobn, flags, _, err := client.ReadMsgUnix(buf, oob)
	if err != nil || string(buf[:n]) != "hello" || RightsTruncated(flags) {
		t.Fatalf("read %q, flags %#x, %v", buf[:n], flags, err)
	}
	files, err := ParseRights(oob[:oobn])
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for i, want := range []*os.File{one, two} {
		got := files[i]
		defer got.Close()
		a, _ := Fstat(want)
		b, err := Fstat(got)
		if err != nil || a != b {
			t.Errorf("file %d: %+v, %v, want %+v", i, b, err, a)
		}
		if fl, _ := unix.FcntlInt(got.Fd(), unix.F_GETFD, 0); fl&unix.FD_CLOEXEC == 0 {
			t.Errorf("file %d is not close-on-exec", i)
		}
	}
	text := make([]byte, 3)
	if files[1].ReadAt(text, 0); string(text) != "two" {
		t.Errorf("the second holds %q", text)
	}

	// A packet without descriptors.
	if Rights() != nil {
		t.Error("Rights() of nothing is a message")
	}
	server.WriteMsgUnix([]byte("plain"), Rights(), nil)
	n, oobn, _, _, err = client.ReadMsgUnix(buf, oob)
	if files, perr := ParseRights(oob[:oobn]); err != nil || perr != nil || len(files) != 0 || string(buf[:n]) != "plain" {
		t.Errorf("plain packet: %q, %d files, %v, %v", buf[:n], len(files), err, perr)
	}

	// Too small a buffer: told, and what arrived can still be taken (and closed).
	server.WriteMsgUnix([]byte("x"), Rights(int(one.Fd()), int(two.Fd()), int(one.Fd())), nil)
	_, oobn, flags, _, err = client.ReadMsgUnix(buf, oob[:RightsSpace(1)])
	if err != nil || !RightsTruncated(flags) {
		t.Errorf("small buffer: flags %#x, %v, want MSG_CTRUNC", flags, err)
	}
	files, err = ParseRights(oob[:oobn])
	if err != nil {
		t.Error(err)
	}
	for _, f := range files {
		f.Close()
	}

	// As many as there can be, and one more.
	many := make([]int, MaxRights+1)
	for i := range many {
		many[i] = int(one.Fd())
	}
	if _, _, err := server.WriteMsgUnix([]byte("x"), Rights(many[:MaxRights]...), nil); err != nil {
		t.Errorf("%d descriptors: %v", MaxRights, err)
	}
	oob = make([]byte, RightsSpace(MaxRights))
	_, oobn, flags, _, err = client.ReadMsgUnix(buf, oob)
	files, perr := ParseRights(oob[:oobn])
	if len(files) != MaxRights || RightsTruncated(flags) || err != nil || perr != nil {
		t.Errorf("received %d of %d, %v, %v", len(files), MaxRights, err, perr)
	}
	for _, f := range files {
		f.Close()
	}
	if _, _, err := server.WriteMsgUnix([]byte("x"), Rights(many...), nil); err == nil {
		t.Errorf("%d descriptors were accepted", len(many))
	}
}

// On an error no descriptor stays open, also those that came along in good order.
func TestParseRightsClosesOnError(t *testing.T) {
	checkDescriptors(t)
	dup, err := unix.FcntlInt(os.Stdout.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseRights(append(Rights(dup), Rights(1<<20)...)); !errors.Is(err, syscall.EBADF) {
		t.Errorf("%v, want EBADF", err)
	}
	if _, err := ParseRights([]byte{1, 2, 3}); err == nil {
		// Shorter than a header: nothing in it.
		t.Log("short control message: no descriptors")
	}
	credentials := unix.UnixCredentials(&unix.Ucred{Pid: 1})
	if fs, err := ParseRights(credentials); len(fs) != 0 || err != nil {
		t.Errorf("credentials: %v, %v", fs, err)
	}
}

func TestPeerCred(t *testing.T) {
	checkDescriptors(t)
	server, client := socketPair(t)
	for _, c := range []*net.UnixConn{server, client} {
		pid, uid, gid, err := PeerCred(c)
		if pid != os.Getpid() || int(uid) != os.Getuid() || int(gid) != os.Getgid() || err != nil {
			t.Errorf("pid %d, uid %d, gid %d, %v", pid, uid, gid, err)
		}
	}
	client.Close()
	if _, _, _, err := PeerCred(client); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if pid, _, _, err := PeerCred(server); pid != os.Getpid() || err != nil {
		t.Errorf("after the peer closed: pid %d, %v", pid, err)
	}
}

func TestPeerPidfd(t *testing.T) {
	checkDescriptors(t)
	server, client := socketPair(t)
	pidfd, err := PeerPidfd(server)
	if errors.Is(err, ErrNoSys) && errors.Is(err, errors.ErrUnsupported) {
		return // before Linux 6.5
	}
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if dead, err := PidfdReadable(pidfd); dead || err != nil {
		t.Errorf("readable: %v, %v", dead, err)
	}
	if err := PidfdSignal(pidfd, 0); err != nil {
		t.Error(err)
	}
	if fl, _ := unix.FcntlInt(pidfd.Fd(), unix.F_GETFD, 0); fl&unix.FD_CLOEXEC == 0 {
		t.Error("not close-on-exec")
	}

	// A peer that connects and dies.
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "l"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := helper(t, "connect", []string{"SHMD_SYS_TEST_SOCKET=" + l.Addr().String()})
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := PeerPidfd(c)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if dead, err := PidfdReadable(peer); dead || err != nil {
		t.Errorf("the peer lives: %v, %v", dead, err)
	}
	in.Close()
	if ready, err := PollReadable([]*os.File{peer}, patience); err != nil || !ready[0] {
		t.Errorf("the peer's death: %v, %v", ready, err)
	}
	client.Close()
}

func init() {
	helpers["connect"] = func() {
		c, err := net.Dial("unixpacket", os.Getenv("SHMD_SYS_TEST_SOCKET"))
		die(err)
		ready()
		c.Close()
	}
}

func TestSendDatagram(t *testing.T) {
	checkDescriptors(t)
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@shmd-sys-test-" + itoa(os.Getpid())} {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f := tempMemfd(t, 1)
		if err := SendDatagram(name, []byte("FDSTORE=1"), f, f); err != nil {
			t.Fatal(err)
		}
		buf, oob := make([]byte, 100), make([]byte, RightsSpace(2))
		n, oobn, _, _, err := l.ReadMsgUnix(buf, oob)
		if err != nil || string(buf[:n]) != "FDSTORE=1" {
			t.Errorf("%q, %v", buf[:n], err)
		}
		files, err := ParseRights(oob[:oobn])
		if len(files) != 2 || err != nil {
			t.Errorf("%d files, %v", len(files), err)
		}
		for _, f := range files {
			f.Close()
		}
		if err := SendDatagram(name, []byte("READY=1")); err != nil {
			t.Error(err)
		}
		if n, err := l.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
	if err := SendDatagram("/nonexistent/socket", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
	closed := tempMemfd(t, 1)
	closed.Close()
	if err := SendDatagram("/nonexistent/socket", nil, closed); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed file: %v", err)
	}
}

// A listener that is retired has lost nobody who was connected, and takes nobody any more.
func TestRetire(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	addr := &net.UnixAddr{Name: path, Net: "unixpacket"}
	var clients []*net.UnixConn
	for range 3 {
		c, err := net.DialUnix("unixpacket", nil, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
	}
	waiting := Retire(l)
	if len(waiting) != len(clients) {
		t.Fatalf("%d connections", len(waiting))
	}
	for i, c := range waiting {
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			t.Error(err)
		}
		var b [1]byte
		if _, err := clients[i].Read(b[:]); err != nil || b[0] != byte(i) {
			t.Errorf("%d: %d, %v", i, b[0], err)
		}
		c.Close()
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("its name: %v", err)
	}
	if _, err := net.DialUnix("unixpacket", nil, addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
	if _, err := l.AcceptUnix(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
