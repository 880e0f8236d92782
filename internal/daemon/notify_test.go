package daemon_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// systemd plays systemd's end of the notification socket.
type systemd struct {
	t    *testing.T
	conn *net.UnixConn
	said []string // assignments, in their order
}

func listenNotify(t *testing.T) (s *systemd, env string) {
	t.Helper()
	path := filepath.Join(testregion.Dir(t), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(testregion.Limit))
	return &systemd{t: t, conn: c}, "NOTIFY_SOCKET=" + path
}

// await reads until an assignment pleases, and returns it.
func (s *systemd) await(what string, ok func(string) bool) string {
	s.t.Helper()
	buf := make([]byte, 4096)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			s.t.Fatalf("shmd never said %s: %v; it said %q", what, err, s.said)
		}
		words := strings.Split(string(buf[:n]), "\n")
		s.said = append(s.said, words...)
		if i := slices.IndexFunc(words, ok); i >= 0 {
			return words[i]
		}
	}
}

func is(want string) func(string) bool { return func(s string) bool { return s == want } }

// READY=1 comes once, when each group has one ready worker; STATUS= says what there is.
func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	s, env := listenNotify(t)
	d := testregion.Launch(t, named+jobs+idle("w", "count = 2", "backoff_min = \"1s\"")+group(t, "late", "late", "consume = [\"jobs\"]")+shell("bad", "exit 1", "restart = \"never\""), env)
	s.await("that two are ready", is("STATUS=4 workers: 2 ready, 1 starting, 1 exited"))
	if slices.Contains(s.said, "READY=1") {
		t.Errorf("ready before each group is: %q", s.said)
	}
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Send(within(t), nil); err != nil {
		t.Fatal(err)
	}
	s.await("that three are ready", is("STATUS=4 workers: 3 ready, 1 exited"))
	if !slices.Contains(s.said, "READY=1") { // the third group was ready for a moment, as soon as its command ran
		t.Errorf("not ready: %q", s.said)
	}
	w := awaitState(d, "w.0", protocol.StateReady)
	syscall.Kill(w.Pid, syscall.SIGKILL)
	s.await("that one is in backoff", is("STATUS=4 workers: 2 ready, 1 backoff, 1 exited"))
	s.await("that it is back", is("STATUS=4 workers: 3 ready, 1 exited"))
	shmctl(t, d, "stop", "w.1")
	s.await("that one is stopped", is("STATUS=4 workers: 2 ready, 2 exited"))
	d.Cmd.Process.Signal(syscall.SIGTERM)
	s.await("that it stops", is("STOPPING=1"))
	s.await("that all have ended", is("STATUS=4 workers: 4 exited")) // before the wait for the daemon's end: what is not read is not said
	d.Stop()
	if n := len(slices.DeleteFunc(slices.Clone(s.said), func(s string) bool { return s != "READY=1" })); n != 1 {
		t.Errorf("READY=1 came %d times: %q", n, s.said)
	}
	if strings.Contains(d.Log(), "cannot tell systemd") {
		t.Error(d.Log())
	}
}

// A group that does not get ready, and one behind it, do not keep the region from being so: they are named.
func TestReadyBesideLateGroups(t *testing.T) {
	t.Parallel()
	s, env := listenNotify(t)
	d := testregion.Launch(t, named+idle("good")+shell("migration", "exit 0", "restart = \"on-failure\"", "ready = \"call\"")+
		shell("bad", "exit 1", "ready = \"call\"", "backoff_min = \"1h\"", "backoff_max = \"1h\"", "crash_limit = 0")+idle("behind", "after = [\"bad\"]"), env)
	s.await("which groups are not ready", is("STATUS=4 workers: 1 ready, 1 waiting, 1 backoff, 1 exited; never ready so far, see shmctl -r "+d.Name+" ps: bad (bad.0: exit code 1), behind (waits for group bad)"))
	if !slices.Contains(s.said, "READY=1") {
		t.Errorf("not ready: %q", s.said)
	}
	d.WaitLog("no instance of a group is ready")
	shmctl(t, d, "stop", "bad", "behind")
	s.await("that they are wanted so", is("STATUS=4 workers: 1 ready, 3 exited"))
	d.Stop()
}

// A systemd that hangs, and so never reads, keeps the daemon from nothing.
func TestSystemdThatDoesNotRead(t *testing.T) {
	t.Parallel()
	_, env := listenNotify(t)
	d := testregion.Start(t, named+idle("w"), env, "WATCHDOG_USEC=2000")
	b, err := os.ReadFile("/proc/sys/net/unix/max_dgram_qlen")
	if err != nil {
		t.Fatal(err)
	}
	length, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for range min(length, 20) {
		shmctl(t, d, "restart", "w")
	}
	shmctl(t, d, "stop")
	d.WaitLog("region stopped")
}

func TestWatchdog(t *testing.T) {
	t.Parallel()
	s, env := listenNotify(t)
	d := testregion.Launch(t, named+idle("w"), env, "WATCHDOG_USEC=200000")
	for range 3 {
		s.await("that it is alive", is("WATCHDOG=1"))
	}
	d.Stop()
	s.await("that it stops", is("STOPPING=1"))
}

// A daemon without a group of workers is ready at once; one that is not under systemd tells nobody.
func TestReadyWithoutWorkers(t *testing.T) {
	t.Parallel()
	s, env := listenNotify(t)
	testregion.Launch(t, named+jobs, env)
	s.await("that it is ready", is("READY=1"))
	d := testregion.Start(t, named+idle("w"), "NOTIFY_SOCKET=")
	d.Stop()
	if strings.Contains(d.Log(), "cannot tell systemd") {
		t.Error(d.Log())
	}
}
