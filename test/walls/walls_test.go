// Package walls runs the daemon against the walls of the machine (T13): descriptors, memory of a cgroup, processes of a cgroup, huge pages, a full file
// system. It either runs, or says at the start which wall it met and leaves nothing behind; it never dies of SIGBUS, and never by a panic.
package walls

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
)

func TestMain(m *testing.M) {
	if os.Getenv(mutantVariable) != "" {
		patience = 15 * time.Second // what is to come does not
	}
	code := m.Run()
	testregion.Cleanup()
	os.Exit(code)
}

const conf = `
[region]
name = "walls"
%s
[channel.a]
slots = 1024
slot_size = "%s"
[channel.b]
kind = "topic"
[channel.c]
kind = "latest"
[channel.d]
kind = "call"
[worker.idle]
builtin = "idle"
count = 2
consume = ["a"]
`

// run is a daemon behind a wall.
type run struct {
	t    *testing.T
	cmd  *exec.Cmd
	dir  string
	mu   sync.Mutex
	text bytes.Buffer
	line chan string // of its log
	end  chan error
}

// behind starts shmd with what stands before its command: a wrapper that makes the wall. $DIR in it is the runtime directory.
func behind(t *testing.T, toml string, wrapper string) *run {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "shmd.toml")
	if err := os.WriteFile(path, []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &run{t: t, dir: filepath.Join(dir, "run"), line: make(chan string, 1000), end: make(chan error, 1)}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.cmd = exec.Command("sh", "-c", strings.ReplaceAll(wrapper, "$DIR", r.dir)+` "$@"`, "sh", binaries(t)+"/shmd", "-c", path)
	r.cmd.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+r.dir)
	out, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			r.mu.Lock()
			fmt.Fprintln(&r.text, s.Text())
			r.mu.Unlock()
			select {
			case r.line <- s.Text():
			default:
			}
		}
		r.end <- r.cmd.Wait()
		close(r.line)
	}()
	t.Cleanup(func() { r.cmd.Process.Kill() })
	return r
}

func (r *run) log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// until waits for a line of the log with one of the words, and returns it; "" if the daemon ended before.
func (r *run) until(words ...string) string {
	r.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case line, ok := <-r.line:
			if !ok {
				return ""
			}
			for _, word := range words {
				if strings.Contains(line, word) {
					return word
				}
			}
		case <-limit:
			r.t.Fatalf("none of %q; the log is:\n%s", words, r.log())
		}
	}
}

// stop ends the daemon as systemd does, and returns its exit code.
func (r *run) stop() int {
	r.t.Helper()
	r.cmd.Process.Signal(syscall.SIGTERM)
	return r.ended()
}

// ended waits for the end, and checks that it was one in order, and that nothing is left.
func (r *run) ended() int {
	r.t.Helper()
	select {
	case <-r.end:
	case <-time.After(patience):
		r.t.Fatalf("it does not end; its log is:\n%s", r.log())
	}
	for _, bad := range []string{"panic", "fatal error", "SIGBUS", "goroutine "} {
		if strings.Contains(r.log(), bad) {
			r.t.Errorf("%q in the log:\n%s", bad, r.log())
		}
	}
	if s := r.cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		r.t.Errorf("ended by %v; its log is:\n%s", s.Signal(), r.log())
	}
	left, _ := filepath.Glob(r.dir + "/*")
	for _, path := range left {
		r.t.Errorf("it left %s", path)
	}
	if pids := holders(r.t); len(pids) > 0 {
		r.t.Errorf("processes %v hold memory of it", pids)
	}
	return r.cmd.ProcessState.ExitCode()
}

// holders are the processes that hold memory of the region of these tests.
func holders(t *testing.T) (pids []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, "/memfd:shmd:walls:") {
			pids = append(pids, strings.Split(link, "/")[2])
		}
	}
	return pids
}

// Any number of descriptors above those of Go's runtime: it runs with two workers, or without them and says why, or says at the start that there are too few.
func TestDescriptors(t *testing.T) {
	outcomes := map[string]int{}
	for n := leastDescriptors; n <= 72; n += 2 {
		r := behind(t, fmt.Sprintf(conf, "", "64B"), fmt.Sprintf("ulimit -n %d; exec", n))
		switch how := r.until("worker ready", "worker could not be started"); how {
		case "":
			outcomes["refused"]++
			if code := r.ended(); code == 0 || !strings.Contains(r.log(), "too many open files") {
				t.Errorf("%d descriptors: exit code %d:\n%s", n, code, r.log())
			}
		default:
			outcomes[how]++
			if code := r.stop(); code != 0 || how != "worker ready" && !strings.Contains(r.log(), "too many open files") {
				t.Errorf("%d descriptors: exit code %d:\n%s", n, code, r.log())
			}
		}
	}
	if len(outcomes) < 3 {
		t.Errorf("not every outcome was seen: %v", outcomes)
	}
	t.Log(outcomes)
}

// leastDescriptors is what Go's runtime and the standard streams take: with fewer the runtime ends the process before main.
const leastDescriptors = 8

// cgroup makes a cgroup of a controller with a limit, below the root of either version.
func cgroup(t *testing.T, controller, file1, file2, limit string) string {
	t.Helper()
	root, file := filepath.Join("/sys/fs/cgroup", controller), file1
	if _, err := os.Stat(root); err != nil {
		root, file = "/sys/fs/cgroup", file2
	}
	dir, err := os.MkdirTemp(root, "shmd-walls-")
	if err != nil {
		t.Fatalf("make a cgroup: %v (these tests need a writable cgroup file system)", err)
	}
	t.Cleanup(func() {
		for deadline := time.Now().Add(time.Minute); os.Remove(dir) != nil; {
			if time.Now().After(deadline) {
				t.Errorf("%s cannot be removed", dir)
				return
			}
		}
	})
	if err := os.WriteFile(filepath.Join(dir, file), []byte(limit), 0); err != nil {
		t.Fatal(err)
	}
	return dir
}

// More memory than the cgroup may have: refused, by name, before the kernel's OOM killer comes.
func TestMemoryOfACgroup(t *testing.T) {
	dir := cgroup(t, "memory", "memory.limit_in_bytes", "memory.max", "96000000")
	for size, fits := range map[string]bool{"16KiB": true, "128KiB": false} { // 16 MiB and 128 MiB
		r := behind(t, fmt.Sprintf(conf, "", size), "echo $$ >"+dir+"/cgroup.procs; exec")
		if ready := r.until("worker ready") != ""; ready != fits {
			t.Errorf("slots of %s: ready %v:\n%s", size, ready, r.log())
		}
		if fits {
			if code := r.stop(); code != 0 {
				t.Errorf("exit code %d:\n%s", code, r.log())
			}
		} else if code := r.ended(); code == 0 || !strings.Contains(r.log(), "memory") {
			t.Errorf("slots of %s: exit code %d:\n%s", size, code, r.log())
		}
	}
}

// Huge pages that nobody reserved.
func TestHugePages(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/vm/nr_hugepages")
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := strconv.Atoi(strings.TrimSpace(string(b))); n != 0 {
		t.Fatalf("%d huge pages are reserved on this machine, and this test is about none: sysctl vm.nr_hugepages=0", n)
	}
	r := behind(t, fmt.Sprintf(conf, "huge_pages = true", "64B"), "exec")
	if r.until("worker ready") != "" {
		t.Fatal("it runs")
	}
	if code := r.ended(); code == 0 || !strings.Contains(r.log(), "huge page") {
		t.Errorf("exit code %d:\n%s", code, r.log())
	}
}

// A runtime directory on a file system without room: for the lock, for the socket, for the name of the lock.
func TestFullRuntimeDirectory(t *testing.T) {
	ran, refused := 0, 0
	for inodes := 1; inodes <= 8; inodes++ {
		r := behind(t, fmt.Sprintf(conf, "", "64B"), fmt.Sprintf("exec unshare -m sh -c 'mount -t tmpfs -o size=4k,nr_inodes=%d tmpfs $DIR && exec \"$@\"' sh", inodes))
		if r.until("worker ready") != "" {
			ran++
			if code := r.stop(); code != 0 {
				t.Errorf("%d inodes: exit code %d:\n%s", inodes, code, r.log())
			}
			continue
		}
		refused++
		if code := r.ended(); code == 0 || !strings.Contains(r.log(), "no space left on device") {
			t.Errorf("%d inodes: exit code %d:\n%s", inodes, code, r.log())
		}
	}
	if ran == 0 || refused == 0 {
		t.Errorf("it ran %d times and was refused %d times", ran, refused)
	}
}

// No room for one more process: a worker that died is not there for as long, with the reason, and comes back when there is room; the daemon goes on.
func TestProcessesOfACgroup(t *testing.T) {
	dir := cgroup(t, "pids", "pids.max", "pids.max", "max")
	r := behind(t, fmt.Sprintf(conf, "", "64B")+"backoff_min = \"1ms\"\nbackoff_max = \"1ms\"\ncrash_limit = 0\n", "echo $$ >"+dir+"/cgroup.procs; exec")
	if r.until("worker ready") == "" || r.until("worker ready") == "" {
		t.Fatalf("not ready:\n%s", r.log())
	}
	worker := func() (pid int) {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		for text := range strings.FieldsSeq(string(b)) {
			if n, _ := strconv.Atoi(text); n != r.cmd.Process.Pid {
				pid = n
			}
		}
		return pid
	}
	for range 3 { // so that the daemon has the threads that it takes to start one anew
		if err := syscall.Kill(worker(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if r.until("worker died") == "" || r.until("worker ready") == "" {
			t.Fatalf("not ready again:\n%s", r.log())
		}
	}
	victim := worker()
	current, err := os.ReadFile(filepath.Join(dir, "pids.current"))
	if err != nil {
		t.Fatal(err)
	}
	tasks, _ := strconv.Atoi(strings.TrimSpace(string(current)))
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", victim))
	// Room for two threads that the daemon may want, not for a launcher, whose runtime wants more.
	limit := tasks - len(threads) + 2
	if err := os.WriteFile(filepath.Join(dir, "pids.max"), []byte(strconv.Itoa(limit)), 0); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r.until("worker died") == "" {
		t.Fatalf("the daemon ended:\n%s", r.log())
	}
	if r.until("worker died", "could not be started") == "" {
		t.Fatalf("the daemon ended:\n%s", r.log())
	}
	if err := os.WriteFile(filepath.Join(dir, "pids.max"), []byte("max"), 0); err != nil {
		t.Fatal(err)
	}
	if r.until("worker ready") == "" {
		t.Fatalf("the daemon ended:\n%s", r.log())
	}
	r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.end:
	case <-time.After(patience):
		t.Fatalf("it does not end:\n%s", r.log())
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, r.log())
	}
}
