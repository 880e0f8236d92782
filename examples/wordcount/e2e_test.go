package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests here run run.sh as a user does: real binaries, real processes, real kills. Root is denied nothing,
// so that as root they run it as nobody.

const (
	nobody  = 65534
	patient = 2 * time.Minute // a run that takes longer hangs
)

// binaries is where shmd, shmctl, wordcount, run.sh and shmd.toml lie; TestMain removes it.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := publicDir()
	if err != nil {
		return "", err
	}
	for _, pkg := range []string{"./cmd/shmd", "./cmd/shmctl", "./examples/wordcount"} {
		build := exec.Command("go", "build", "-o", dir+"/", pkg)
		build.Dir = "../.."
		if out, err := build.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
	}
	for name, mode := range map[string]os.FileMode{"run.sh": 0o755, "shmd.toml": 0o644} {
		b, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, mode)
		}
		if err != nil {
			return dir, err
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range publicDirs {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

var publicDirs []string

// publicDir is a temporary directory that other users may enter, which t.TempDir is not.
func publicDir() (string, error) {
	dir, err := os.MkdirTemp("", "shmd-e2e-")
	if err != nil {
		return "", err
	}
	publicDirs = append(publicDirs, dir)
	return dir, os.Chmod(dir, 0o755)
}

// script is a run of run.sh.
type script struct {
	*exec.Cmd
	bin, tmp    string
	out, errOut bytes.Buffer
	stderr      *os.File // read end, when the test holds stderr back
}

// newScript prepares run.sh in a temporary directory of its own. With hold its stderr is a pipe that is full, so that
// the program stands still at its first line of progress (10 %) until release.
func newScript(t *testing.T, hold bool, args ...string) *script {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	t.Cleanup(cancel)
	s := &script{Cmd: exec.CommandContext(ctx, filepath.Join(bin, "run.sh"), args...), bin: bin}
	if s.tmp, err = publicDir(); err != nil {
		t.Fatal(err)
	}
	s.Env = append(os.Environ(), "SHMD_BIN="+bin, "TMPDIR="+s.tmp, "HOME="+s.tmp)
	s.Dir = "/"
	s.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 {
		s.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		if err := os.Chown(s.tmp, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	s.Cancel = func() error { return syscall.Kill(-s.Process.Pid, syscall.SIGTERM) }
	s.Stdout, s.Stderr = &s.out, &s.errOut
	if hold {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		fill(t, w)
		s.stderr, s.Stderr = r, w
	}
	return s
}

// fill writes into a pipe until not a byte more goes in, through a description of its own that does not block.
func fill(t *testing.T, w *os.File) {
	t.Helper()
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", w.Fd()), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{4096, 1} {
		chunk := bytes.Repeat([]byte("\n"), n)
		for {
			if _, err := syscall.Write(int(f.Fd()), chunk); errors.Is(err, syscall.EAGAIN) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// release lets stderr flow.
func (s *script) release() {
	s.Stderr.(*os.File).Close()
	go io.Copy(io.Discard, s.stderr)
}

// checkNothingLeft looks for processes of the binaries and for files in the temporary directory.
func (s *script) checkNothingLeft(t *testing.T) {
	t.Helper()
	if pids := s.processes(""); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	left, err := os.ReadDir(s.tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

// processes are those that run a binary of this test; if arg is not empty, those with this argument.
func (s *script) processes(arg string) (pids []int) {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		exe, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(exe, s.bin+"/") {
			continue
		}
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(link), "cmdline"))
		if arg == "" || bytes.Contains(args, []byte("\x00"+arg+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// watch waits until something happens to a file, or in a directory.
type watch struct{ f *os.File }

func watchFor(t *testing.T, event uint32, path string) watch {
	t.Helper()
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	t.Cleanup(func() { f.Close() })
	if _, err := syscall.InotifyAddWatch(fd, path, event); err != nil {
		t.Fatal(err)
	}
	return watch{f}
}

func (w watch) wait(t *testing.T, s *script) {
	t.Helper()
	if err := w.f.SetReadDeadline(time.Now().Add(patient / 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.f.Read(make([]byte, 4096)); err != nil {
		s.Cancel()
		t.Fatalf("no worker opened the file, or nobody removed the directory: %v", err)
	}
}

const shrinking = "zz shrinks"

// makeTree makes what the counters may meet, with text for some 20 jobs, and one file, the last in the order of the
// walk, of 300 more jobs that has no word in it.
func makeTree(t *testing.T) string {
	t.Helper()
	dir, err := publicDir()
	if err != nil {
		t.Fatal(err)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	letters := []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	words := make([][]byte, 3000)
	for i := range words {
		for range 1 + rnd.IntN(1+rnd.IntN(20)) {
			words[i] = append(words[i], letters[rnd.IntN(len(letters))])
		}
	}
	text := func(size int) []byte {
		var b []byte
		for len(b) < size {
			b = append(b, words[rnd.IntN(1+rnd.IntN(len(words)))]...)
			b = append(b, " \n.,(\xe9-0_"[rnd.IntN(9)])
		}
		return b
	}
	binary := make([]byte, 1<<19)
	for i := range binary {
		binary[i] = byte(rnd.Uint32())
	}
	run := make([]byte, 5<<19) // a word of two and a half chunks
	for i := range run {
		run[i] = letters[rnd.IntN(len(letters))]
	}
	files := map[string][]byte{
		"empty":                 nil,
		"one letter":            []byte("x"),
		"no letter":             []byte("1234567890"),
		"new\nline\n":           []byte("a name with newlines"),
		"\xff\xfe not UTF-8":    []byte("a name of bytes"),
		"-n":                    []byte("looks like an option"),
		"letters":               run,
		"letters and more":      append(append(text(1<<20-3), run...), text(1<<20)...),
		"random":                binary,
		"large":                 text(7 << 20),
		"exactly a chunk":       text(1 << 20)[:1<<20],
		"sub/deep/er/file":      text(3000),
		"sub/closed/never read": []byte("unreachable"),
		"secret":                []byte("unreadable"),
	}
	for i := range 150 {
		files[fmt.Sprintf("sub/small/%d", i)] = text(rnd.IntN(40_000))
	}
	for name, b := range files {
		path := filepath.Join(dir, name)
		check(os.MkdirAll(filepath.Dir(path), 0o755))
		check(os.WriteFile(path, b, 0o644))
	}
	check(os.Symlink("large", filepath.Join(dir, "link")))
	check(os.Symlink("sub", filepath.Join(dir, "dirlink")))
	check(syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	check(os.Chmod(filepath.Join(dir, "secret"), 0))
	check(os.Chmod(filepath.Join(dir, "sub/closed"), 0))
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "sub/closed"), 0o755) })
	zeros, err := os.Create(filepath.Join(dir, shrinking))
	check(err)
	check(zeros.Truncate(300 << 20))
	check(zeros.Close())
	return dir
}

// reference counts with tr, sort and uniq, file by file, as the user of the script.
func (s *script) reference(t *testing.T, dir string) map[string]uint64 {
	t.Helper()
	const pipe = `find "$1" -type f -print0 | xargs -0 -n 1 sh -c 'tr -cs A-Za-z "\n" <"$1"; echo' tr | tr A-Z a-z | sort | uniq -c`
	cmd := exec.Command("sh", "-c", pipe, "sh", dir)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TMPDIR="+s.tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.SysProcAttr.Credential}
	out, err := cmd.Output() // what may not be read is told on stderr
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint64{}
	for line := range strings.Lines(string(out)) {
		number, word, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			t.Fatalf("uniq -c printed %q", line)
		}
		if word != "" {
			counts[word] = n
		}
	}
	return counts
}

// TestEndToEnd: three workers are killed and a file shrinks while it is mapped, and each number is right.
func TestEndToEnd(t *testing.T) {
	dir := makeTree(t)
	s := newScript(t, true, "-o", "json", "--kill", "3", "--top", "0", dir)
	mapped := watchFor(t, syscall.IN_OPEN, filepath.Join(dir, shrinking))
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	// At its first tenth the merger stands still. The workers go on until the results fill their queue: that is beyond
	// the 20 jobs of text and far from the end of the file that shrinks, which some of them have mapped by then.
	mapped.wait(t, s)
	if err := os.Truncate(filepath.Join(dir, shrinking), 4096); err != nil {
		t.Fatal(err)
	}
	s.release()
	if err := s.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, &s.out)
	}
	s.checkNothingLeft(t)

	dec := json.NewDecoder(&s.out)
	dec.DisallowUnknownFields()
	var rep report
	if err := dec.Decode(&rep); err != nil {
		t.Fatal(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Errorf("stdout has more than one document: %v", err)
	}
	want, got := s.reference(t, dir), map[string]uint64{}
	var words uint64
	for _, w := range rep.Top {
		got[w.Word] = w.Count
	}
	for w, n := range want {
		words += n
		if got[w] != n {
			t.Errorf("%s: %d times, want %d", shorten(w), got[w], n)
		}
	}
	if !maps.Equal(got, want) || rep.Words != words || rep.Distinct != len(want) || len(rep.Top) != len(want) {
		t.Errorf("%d words, %d distinct, %d listed; want %d and %d", rep.Words, rep.Distinct, len(rep.Top), words, len(want))
	}
	failed := map[string]string{}
	for _, e := range rep.Errors {
		failed[strings.TrimPrefix(e.Path, dir+"/")] = e.Error
	}
	if len(failed) != 3 || !strings.Contains(failed["secret"], "permission denied") || !strings.Contains(failed["sub/closed"], "permission denied") ||
		!strings.Contains(failed[shrinking], "shorter") {
		t.Errorf("errors %v", failed)
	}
	if rep.Schema != 1 || rep.Kills != 3 || rep.Files != 164 || rep.StopNs == nil || *rep.StopNs <= 0 || rep.MBps <= 0 {
		t.Errorf("schema %d, %d kills, %d files, stop %v, %f MB/s", rep.Schema, rep.Kills, rep.Files, rep.StopNs, rep.MBps)
	}
	// Daemon, four workers, the program itself. A page counts once, however many have mapped it.
	if m := rep.Memory; m == nil || m.Processes < 3 || m.Pss <= 0 || m.Pss > m.Rss || m.Pss > m.Pages {
		t.Errorf("memory %+v", m)
	}
	t.Logf("%d jobs delivered again, %d duplicates, stop after %v, memory %+v", rep.Redelivered, rep.Duplicates, time.Duration(*rep.StopNs), *rep.Memory)
}

// TestTable is the run as a person sees it, on a tree of one job: the kill still happens.
func TestTable(t *testing.T) {
	dir, err := publicDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("to be or not to be"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newScript(t, false, dir)
	if err := s.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &s.errOut)
	}
	s.checkNothingLeft(t)
	for _, want := range []string{"words            6\n", "distinct words   4\n", "workers killed   1\n", "  be   2\n", "from the quit flag"} {
		if !strings.Contains(s.out.String(), want) {
			t.Errorf("no %q in\n%s", want, &s.out)
		}
	}
	if got := s.errOut.String(); got != "wordcount: 100% of 0.0 MB\n" {
		t.Errorf("stderr: %s", got)
	}
}

// TestInterrupted ends a run from outside in its middle: nothing is left, and the exit code tells why.
func TestInterrupted(t *testing.T) {
	dir, err := publicDir()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "large")
	if err := os.WriteFile(file, bytes.Repeat([]byte("some words\n"), 4<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		code int
		do   func(s *script) error
	}{
		{"SIGTERM to the script", 128 + 15, func(s *script) error { return s.Process.Signal(syscall.SIGTERM) }},
		{"SIGINT to all, as a terminal does", 128 + 2, func(s *script) error { return syscall.Kill(-s.Process.Pid, syscall.SIGINT) }},
		{"SIGKILL to the daemon", 1, func(s *script) error { return killAll(s.processes(filepath.Join(s.bin, "shmd.toml"))) }},
		{"SIGKILL to the whole group", -1, func(s *script) error { return syscall.Kill(-s.Process.Pid, syscall.SIGKILL) }},
		{"SIGKILL to the program", 128 + 9, func(s *script) error { return killAll(s.processes("--report")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript(t, true, dir)
			started := watchFor(t, syscall.IN_OPEN, file)
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			started.wait(t, s)
			removed := watchFor(t, syscall.IN_DELETE, s.tmp)
			if err := tt.do(s); err != nil {
				t.Error(err)
			}
			s.release()
			s.Wait()
			removed.wait(t, s) // the script does it, or what it left behind to do so
			if code := s.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if s.out.Len() > 0 {
				t.Errorf("stdout has %q", &s.out)
			}
			s.checkNothingLeft(t)
		})
	}
}

func killAll(pids []int) error {
	if len(pids) != 1 {
		return fmt.Errorf("want one process, have %v", pids)
	}
	return syscall.Kill(pids[0], syscall.SIGKILL)
}

// TestRefused: what is wrong before anything runs.
func TestRefused(t *testing.T) {
	closed, err := publicDir()
	if err == nil {
		err = os.Chmod(closed, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"/nonexistent/dir", 1, "no such file or directory"},
		{"/dev/null", 1, "not a directory"},
		{closed, 1, "permission denied"},
		{"-o xml /", 2, "table or json"},
		{"--what /", 2, "--what"},
	} {
		s := newScript(t, false, strings.Fields(tt.args)...)
		s.Run()
		if code := s.ProcessState.ExitCode(); code != tt.code || !strings.Contains(s.errOut.String(), tt.want) || strings.Count(s.errOut.String(), "\n") != 1 {
			t.Errorf("%s: exit code %d, stderr %q; want %d and one line with %q", tt.args, code, &s.errOut, tt.code, tt.want)
		}
		if s.out.Len() > 0 {
			t.Errorf("%s: stdout has %q", tt.args, &s.out)
		}
		s.checkNothingLeft(t)
	}
}
