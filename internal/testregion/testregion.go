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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// Limit bounds every wait of a test: far beyond what anything takes on a slow machine.
const Limit = 60 * time.Second

var build struct {
	once sync.Once
	dir  string
	err  error
}

// Binaries builds shmd and shmctl once for the test process and returns the directory that holds them. TestMain calls Cleanup.
func Binaries(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		if build.dir, build.err = os.MkdirTemp("", "shmd-bin-"); build.err != nil {
			return
		}
		os.Chmod(build.dir, 0o755) // other users run what is in it
		out, err := exec.Command("go", "build", "-o", build.dir+"/", "github.com/shmd/shmd/cmd/shmd", "github.com/shmd/shmd/cmd/shmctl").CombinedOutput()
		if err != nil {
			build.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.dir
}

// Cleanup removes the binaries.
func Cleanup() { os.RemoveAll(build.dir) }

// Region is a running daemon.
type Region struct {
	Dir    string // its runtime directory
	Socket string
	Name   string
	Cmd    *exec.Cmd

	t    testing.TB
	mu   sync.Mutex
	log  bytes.Buffer
	more *sync.Cond
	eof  chan struct{}
}

// Start runs shmd with a configuration, whose region must be called "test", until the end of the test. It returns when all
// workers are ready. Failed workers fail the test.
func Start(t testing.TB, toml string, env ...string) *Region {
	t.Helper()
	r := Launch(t, toml, env...)
	r.WaitReady()
	return r
}

// Launch is Start that returns when the socket is there.
func Launch(t testing.TB, toml string, env ...string) *Region {
	t.Helper()
	dir := t.TempDir()
	r := &Region{Dir: dir, Socket: filepath.Join(dir, "test.sock"), Name: "test", t: t, eof: make(chan struct{})}
	r.more = sync.NewCond(&r.mu)
	conf := filepath.Join(dir, "shmd.toml")
	if err := os.WriteFile(conf, []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	r.run(Binaries(t), conf, env)
	return r
}

func (r *Region) run(bin, conf string, env []string) {
	t := r.t
	t.Helper()
	r.Cmd = exec.Command(filepath.Join(bin, "shmd"), "-c", conf, "--log-level", "debug")
	r.Cmd.Env = append(append(os.Environ(), "RUNTIME_DIRECTORY="+r.Dir), env...)
	stderr, err := r.Cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.eof)
		in := bufio.NewReader(stderr)
		for {
			line, err := in.ReadString('\n')
			r.mu.Lock()
			r.log.WriteString(line)
			r.more.Broadcast()
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(r.Stop)
	r.WaitLog("region created")
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
	timer := time.AfterFunc(Limit, func() { r.more.Broadcast() })
	defer timer.Stop()
	begin := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
	lines:
		for line := range strings.Lines(r.log.String()) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			return line
		}
		ended := false
		select {
		case <-r.eof:
			ended = true
		default:
		}
		if ended || time.Since(begin) > Limit {
			r.t.Fatalf("the daemon did not log %q; its log:\n%s", words, r.log.String())
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

// Kill ends the daemon with SIGKILL and waits for its end.
func (r *Region) Kill() {
	r.Cmd.Process.Kill()
	r.Cmd.Wait()
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
