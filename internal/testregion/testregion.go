// Package testregion starts a real shmd for a test, in a directory of its own, and stops it afterwards.
package testregion

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// Limit bounds every wait of a test: far beyond what anything takes on a slow machine.
const Limit = 60 * time.Second

var build struct {
	once  sync.Once
	dir   string
	given string // it is not ours to remove
	err   error
}

// Binaries builds shmd and shmctl once for the test process and returns the directory that holds them. TestMain calls Cleanup. Where there is no compiler,
// as in a virtual machine, SHMD_TEST_BIN names a directory that has them.
func Binaries(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		if build.given = os.Getenv("SHMD_TEST_BIN"); build.given != "" {
			build.dir = build.given
			return
		}
		if build.dir, build.err = os.MkdirTemp("", "shmd-bin-"); build.err != nil {
			return
		}
		os.Chmod(build.dir, 0o755) // other users run what is in it
		cmd := exec.Command("go", "build", "-o", build.dir+"/", "github.com/shmd/shmd/cmd/shmd", "github.com/shmd/shmd/cmd/shmctl")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build makes them
		out, err := cmd.CombinedOutput()
		if err != nil {
			build.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.dir
}

// Cache is the directory of the binaries, once Binaries has made it.
func Cache() string { return build.dir }

// Cleanup removes the binaries.
func Cleanup() {
	if build.given == "" {
		os.RemoveAll(build.dir)
	}
}

// Region is a running daemon.
type Region struct {
	Dir    string // its runtime directory
	Socket string
	Name   string
	Cmd    *exec.Cmd
	Store  func() ([]string, []*os.File) // what systemd's fd store has for the next daemon, and under which names; nil: there is none

	t    testing.TB
	conf string // path of the configuration
	attr *syscall.SysProcAttr
	mu   sync.Mutex
	log  *bytes.Buffer // of the last one that was started: one before may still be dying
	more *sync.Cond
	eof  chan struct{}
}

// regions counts the regions of this test process.
var regions atomic.Int64

// Start runs shmd with a configuration, whose region must be called "test", until the end of the test. The region gets a name of
// its own, Region.Name: a user has each name once. It returns when all workers are ready. Failed workers fail the test.
func Start(t testing.TB, toml string, env ...string) *Region {
	t.Helper()
	r := Launch(t, toml, env...)
	r.WaitReady()
	return r
}

// Launch is Start that returns when the socket is there.
func Launch(t testing.TB, toml string, env ...string) *Region {
	t.Helper()
	return LaunchAs(t, 0, toml, env...)
}

// LaunchAs is Launch for a daemon of another user, for which the test must be root; uid 0 is the test's own user.
func LaunchAs(t testing.TB, uid uint32, toml string, env ...string) *Region {
	t.Helper()
	r := &Region{Dir: Dir(t), Name: fmt.Sprintf("test-%d-%d", os.Getpid(), regions.Add(1)), t: t}
	t.Cleanup(r.sweep)
	r.Socket = filepath.Join(r.Dir, r.Name+".sock")
	r.conf = filepath.Join(r.Dir, "shmd.toml")
	r.more = sync.NewCond(&r.mu)
	const name = "name = \"test\"\n"
	if !strings.Contains(toml, name) {
		t.Fatalf("the configuration has no line %q", name)
	}
	if err := os.WriteFile(r.conf, []byte(strings.Replace(toml, name, fmt.Sprintf("name = %q\n", r.Name), 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if uid != 0 {
		r.attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if err := os.Chown(r.Dir, int(uid), int(uid)); err != nil {
			t.Fatal(err)
		}
	}
	r.Again(env...)
	return r
}

// Elsewhere is Launch with the name and configuration of r, and a runtime directory of its own.
func (r *Region) Elsewhere(env ...string) *Region {
	r.t.Helper()
	o := &Region{Dir: Dir(r.t), Name: r.Name, t: r.t, conf: r.conf}
	o.Socket = filepath.Join(o.Dir, o.Name+".sock")
	o.more = sync.NewCond(&o.mu)
	r.t.Cleanup(o.sweep)
	o.Again(env...)
	return o
}

// Dir makes a directory for a test that other users can reach, and whose path is short enough for sockets.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shmd-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Again starts another daemon in the place of one that has ended, with the same configuration, and returns when the socket is
// there. The log begins anew.
func (r *Region) Again(env ...string) {
	t := r.t
	t.Helper()
	argv := []string{filepath.Join(Binaries(t), "shmd"), "-c", r.conf, "--log-level", "debug"}
	var files []*os.File
	if r.Store != nil {
		var names []string
		names, files = r.Store()
		argv = Activated(argv, names)
	}
	r.Cmd = exec.Command(argv[0], argv[1:]...)
	r.Cmd.ExtraFiles = files
	r.Cmd.Env = append(append(os.Environ(), "RUNTIME_DIRECTORY="+r.Dir), env...)
	r.Cmd.SysProcAttr = r.attr
	stderr, err := r.Cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := new(bytes.Buffer)
	r.mu.Lock()
	r.log = log
	r.mu.Unlock()
	eof := make(chan struct{})
	r.eof = eof
	go func() {
		defer r.more.Broadcast()
		defer close(eof)
		in := bufio.NewReader(stderr)
		for {
			line, err := in.ReadString('\n')
			r.mu.Lock()
			log.WriteString(line)
			r.more.Broadcast()
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(r.Stop)
	own := fmt.Sprintf(`"pid":%d,`, r.Cmd.Process.Pid) // it also says what one before has not come to say
	r.waitLog(func(line string) bool {
		return (strings.Contains(line, `"region created"`) || strings.Contains(line, `"region adopted"`)) && strings.Contains(line, own)
	}, "region created or adopted")
}

// Activated is a command line that runs argv as systemd does when it hands over descriptors with these names, from 3 on.
func Activated(argv, names []string) []string {
	if len(names) == 0 {
		return argv
	}
	script := fmt.Sprintf("export LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s; exec \"$@\"", len(names), strings.Join(names, ":"))
	return append([]string{"/bin/sh", "-c", script, "sh"}, argv...)
}

// Log returns what the daemon has logged so far.
func (r *Region) Log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

// WaitLog waits until the log has a line that contains all of the words, and returns it.
func (r *Region) WaitLog(words ...string) string {
	r.t.Helper()
	return r.waitLog(func(line string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) })
	}, fmt.Sprintf("%q", words))
}

func (r *Region) waitLog(ok func(line string) bool, what string) string {
	r.t.Helper()
	timer := time.AfterFunc(Limit, func() { r.more.Broadcast() })
	defer timer.Stop()
	begin := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		for line := range strings.Lines(r.log.String()) {
			if ok(line) {
				return line
			}
		}
		ended := false
		select {
		case <-r.eof:
			ended = true
		default:
		}
		if ended || time.Since(begin) > Limit {
			r.t.Fatalf("the daemon did not log %s; its log:\n%s", what, r.log.String())
		}
		r.more.Wait()
	}
}

// Attach attaches the test process as an outsider; it is closed at the end of the test.
func (r *Region) Attach(o shm.Options) *shm.Region {
	r.t.Helper()
	o.Region, o.Socket = r.Name, r.Socket
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	s, err := shm.Attach(ctx, o)
	if err != nil {
		r.t.Fatalf("attach: %v; the daemon's log:\n%s", err, r.Log())
	}
	r.t.Cleanup(func() { s.Close() })
	return s
}

// WaitWorkers waits until ok says yes to the worker table.
func (r *Region) WaitWorkers(what string, ok func([]protocol.Worker) bool) []protocol.Worker {
	r.t.Helper()
	s := r.Attach(shm.Options{Name: "testregion"})
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	for {
		ws, err := s.Workers()
		if err != nil {
			r.t.Fatal(err)
		}
		if ok(ws) {
			return ws
		}
		if err := s.WaitChange(ctx); err != nil {
			r.t.Fatalf("workers never became %s: %v\n%+v\nthe daemon's log:\n%s", what, err, ws, r.Log())
		}
	}
}

// WaitReady waits until all workers are ready.
func (r *Region) WaitReady() []protocol.Worker {
	r.t.Helper()
	return r.WaitWorkers("ready", func(ws []protocol.Worker) bool {
		for _, w := range ws {
			if w.State == protocol.StateFailed {
				r.t.Fatalf("worker %s failed: %s; the daemon's log:\n%s", w.Name, w.Reason, r.Log())
			}
			if w.State != protocol.StateReady {
				return false
			}
		}
		return true
	})
}

// Shmctl runs shmctl for this region and returns its standard output, standard error and exit code.
func (r *Region) Shmctl(args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	cmd := exec.Command(filepath.Join(Binaries(r.t), "shmctl"), append([]string{"-r", r.Name, "-s", r.Socket}, args...)...)
	cmd.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+r.Dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// JSON runs shmctl -o json and decodes its output.
func (r *Region) JSON(v any, args ...string) {
	r.t.Helper()
	out, errs, code := r.Shmctl(append(args, "-o", "json")...)
	if code != 0 {
		r.t.Fatalf("shmctl %v: exit code %d\n%s%s", args, code, out, errs)
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		r.t.Fatalf("shmctl %v: %v\n%s", args, err, out)
	}
}

// Kill ends the daemon with SIGKILL and waits for its end. Its workers live on: Again ends them, or shmctl stop.
func (r *Region) Kill() {
	r.Cmd.Process.Kill()
	<-r.eof
	r.Cmd.Wait()
}

// sweep fails the test if it leaves workers behind, and ends them.
func (r *Region) sweep() {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environ, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		vars := strings.Split(string(environ), "\x00")
		if slices.Contains(vars, "RUNTIME_DIRECTORY="+r.Dir) && slices.Contains(vars, "SHMD_REGION="+r.Name) {
			comm, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
			r.t.Errorf("the test leaves process %d (%s)", pid, strings.TrimSpace(string(comm)))
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// Stop stops the daemon with SIGTERM, if it still runs, and fails the test if it does not end in order. It is idempotent.
func (r *Region) Stop() {
	if r.Cmd.ProcessState != nil {
		return
	}
	r.Cmd.Process.Signal(syscall.SIGCONT)
	r.Cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(Limit, func() { r.Cmd.Process.Kill() })
	defer timer.Stop()
	<-r.eof
	if err := r.Cmd.Wait(); err != nil {
		r.t.Errorf("the daemon did not end in order: %v; its log:\n%s", err, r.Log())
	}
}
