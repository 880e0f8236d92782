package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys/systest"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
)

// screen is a terminal, of which everything that was ever written to it is kept.
type screen struct {
	t    *testing.T
	ours *os.File
	mu   sync.Mutex
	more *sync.Cond
	text bytes.Buffer
	end  bool
}

func newScreen(t *testing.T, columns, lines int) (*screen, *os.File) {
	t.Helper()
	ours, term, err := systest.PTY(columns, lines)
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, ours: ours}
	s.more = sync.NewCond(&s.mu)
	t.Cleanup(func() { ours.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := ours.Read(b)
			s.mu.Lock()
			s.text.Write(b[:n])
			s.end = err != nil // EIO: nobody holds the terminal any more
			s.more.Broadcast()
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s, term
}

// wait waits until the words have come, after those that were waited for before.
func (s *screen) wait(words ...string) {
	s.t.Helper()
	timer := time.AfterFunc(patience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end = true
		s.more.Broadcast()
	})
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range words {
		for {
			if i := bytes.Index(s.text.Bytes(), []byte(w)); i >= 0 {
				s.text.Next(i + len(w))
				break
			}
			if s.end {
				s.t.Fatalf("%q does not come; there is %q", w, s.text.String())
			}
			s.more.Wait()
		}
	}
}

func (s *screen) press(keys string) {
	s.t.Helper()
	if _, err := s.ours.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// startTop runs shmctl top on a terminal.
func startTop(t *testing.T, d *testregion.Region, columns, lines int, args ...string) (*screen, *exec.Cmd) {
	t.Helper()
	return startTopAs(t, d, &syscall.SysProcAttr{Setsid: true, Setctty: true}, columns, lines, args...)
}

func startTopAs(t *testing.T, d *testregion.Region, attr *syscall.SysProcAttr, columns, lines int, args ...string) (*screen, *exec.Cmd) {
	t.Helper()
	s, term := newScreen(t, columns, lines)
	defer term.Close()
	c := exec.Command(filepath.Join(testregion.Binaries(t), "shmctl"), append([]string{"-r", d.Name, "-s", d.Socket, "top", "--interval", "20ms"}, args...)...)
	c.Env = append(os.Environ(), "TERM=xterm-256color", "LANG=C.UTF-8")
	c.Stdin, c.Stdout, c.Stderr = term, term, term
	c.SysProcAttr = attr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill() })
	return s, c
}

const topRegion = "[region]\nname = \"test\"\n[channel.jobs]\nslots = 8\nslot_size = \"64B\"\n[worker.idle]\nbuiltin = \"idle\"\ncount = 2\n"

// top on a real terminal: a question that is answered with no does nothing, one with yes stops the worker; q leaves the terminal as it was.
func TestTopOnATerminal(t *testing.T) {
	d := testregion.Start(t, topRegion)
	s, c := startTop(t, d, 80, 24)
	s.wait("\x1b[?1049h", "WORKER", "idle.0", "ready", "CHANNEL", "jobs", "LOG", "q quit")
	s.press("\x1b[B") // down
	s.press("s")
	s.wait("y for yes")
	s.press("n")
	s.wait("left as it is")
	if ws := d.WaitReady(); ws[0].Restarts != 0 {
		t.Errorf("%+v", ws[0])
	}
	s.press("sy")
	s.wait("done")
	d.WaitWorkers("one stopped", func(ws []protocol.Worker) bool {
		return ws[0].State == protocol.StateExited && ws[1].State == protocol.StateReady
	})
	s.press("ry")
	d.WaitReady()
	s.press("+y")
	d.WaitWorkers("three", func(ws []protocol.Worker) bool { return len(ws) == 3 && ws[2].State == protocol.StateReady })
	s.press("q")
	s.wait("\x1b[?1049l")
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

// Ctrl-Z stops it as a shell expects, with the terminal as it was before; when it goes on, it draws all again and works. This test is the shell: the process
// group is another one than its own, in the same session.
func TestTopSuspends(t *testing.T) {
	d := testregion.Start(t, topRegion)
	s, c := startTopAs(t, d, &syscall.SysProcAttr{Setpgid: true}, 80, 24)
	s.wait("\x1b[?1049h", "idle.0", "q quit")
	suspend := func() {
		t.Helper()
		s.press("\x1a")
		timer := time.AfterFunc(patience, func() { c.Process.Kill() })
		defer timer.Stop()
		var state syscall.WaitStatus
		if _, err := syscall.Wait4(c.Process.Pid, &state, syscall.WUNTRACED, nil); err != nil || !state.Stopped() || state.StopSignal() != syscall.SIGTSTP {
			t.Fatalf("not suspended: %v, state %#x", err, state)
		}
		s.wait("\x1b[?1049l")
		if err := c.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		suspend()
		s.wait("\x1b[?1049h", "idle.0", "q quit")
	}
	s.press("\x1b[Bs")
	s.wait("y for yes")
	suspend() // the question stays
	s.wait("\x1b[?1049h", "y for yes")
	s.press("nq")
	s.wait("\x1b[?1049l")
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

// Where no shell is there that could let it go on, it is not stopped: nobody would get it back.
func TestTopWithoutJobControl(t *testing.T) {
	d := testregion.Start(t, topRegion)
	s, c := startTop(t, d, 80, 24)
	s.wait("\x1b[?1049h", "q quit")
	s.press("\x1a")
	s.wait("there is none here")
	s.press("q")
	s.wait("\x1b[?1049l")
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

// Without colour there is no SGR sequence; the daemon's death is shown, and the workers can still be stopped.
func TestTopWithoutColourAndDaemon(t *testing.T) {
	d := testregion.Start(t, topRegion)
	s, c := startTop(t, d, 100, 30, "--no-color")
	s.wait("idle.0", "ready")
	d.Kill()
	s.wait("daemon dead", "no daemon: workers go on")
	s.press("sy")
	s.wait("done")
	s.press("\x03") // ctrl+c
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sgr := range []string{"\x1b[1m", "\x1b[32m", "\x1b[7m", "\x1b[31m"} {
		if strings.Contains(s.text.String(), sgr) {
			t.Errorf("%q on a terminal that wants no colour", sgr)
		}
	}
}
