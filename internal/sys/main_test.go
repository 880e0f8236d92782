package sys

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds what a test waits for; no test waits for time to pass.
const patience = 30 * time.Second

// helpers are the programs that tests run in processes of their own: this binary with
// helperEnv set to one of the names.
const helperEnv = "SHMD_SYS_TEST_HELPER"

var helpers = map[string]func(){}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		helpers[name]()
		os.Exit(0)
	}
	// Let the runtime open its own descriptors (poller) before any test counts them.
	r, w, err := Pipe()
	if err != nil {
		panic(err)
	}
	r.Close()
	w.Close()
	goleak.VerifyTestMain(m)
}

// die ends a helper with a message.
func die(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(1)
	}
}

// helper prepares a run of a helper; files become its descriptors 3, 4, …
func helper(t testing.TB, name string, env []string, files ...*os.File) *exec.Cmd {
	t.Helper()
	if helpers[name] == nil {
		t.Fatalf("no helper %q", name)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), helperEnv+"="+name, "GORACE=atexit_sleep_ms=0"), env...)
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	return cmd
}

// runHelper runs a helper to its end and returns what it printed.
func runHelper(t testing.TB, name string, env []string, files ...*os.File) string {
	t.Helper()
	cmd := helper(t, name, env, files...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helper %s: %v\n%s", name, err, out)
	}
	return string(out)
}

// startHelper starts a helper that prints "ready", and waits for it. The helper ends when
// the returned pipe to its stdin is closed, at the latest by cleanup.
func startHelper(t testing.TB, name string, files ...*os.File) (*exec.Cmd, io.Closer) {
	t.Helper()
	cmd := helper(t, name, nil, files...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
		cmd.Process.Release() // a test that reaped it itself made Wait fail
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("helper %s said %q, %v", name, line, err)
	}
	return cmd, in
}

// ready is the helper's side of startHelper.
func ready() {
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}

func init() {
	helpers["ready"] = ready
}

// checkDescriptors fails the test if it leaves descriptors open or loses some.
func checkDescriptors(t testing.TB) {
	t.Helper()
	before := descriptors(t)
	t.Cleanup(func() {
		if after := descriptors(t); after != before {
			t.Errorf("descriptors before:\n%safter:\n%s", before, after)
		}
	})
}

func descriptors(t testing.TB) string {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil { // not the one that Glob used
			lines = append(lines, fmt.Sprintf("%s -> %s\n", filepath.Base(l), to))
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}

// eventually waits for a condition that other goroutines or processes bring about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		runtime.Gosched()
	}
}

// wakeSleeper wakes one waiter of the word, waiting for it to fall asleep.
func wakeSleeper(t testing.TB, w *atomic.Uint32) {
	t.Helper()
	eventually(t, "a sleeper on the word", func() bool { return FutexWake(w, 1) == 1 })
}

// receive takes an answer from a goroutine of the test.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("no answer within %v", patience)
		panic("unreachable")
	}
}

// tempMemfd makes a memfd of some pages and closes it with the test.
func tempMemfd(t testing.TB, pages int) *os.File {
	t.Helper()
	f, err := MemfdCreate(strings.ReplaceAll(t.Name(), "/", "-"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := Allocate(f, int64(pages*PageSize())); err != nil {
		t.Fatal(err)
	}
	return f
}

// tempMap maps all pages and unmaps them with the test.
func tempMap(t testing.TB, f *os.File, pages int, write bool) []byte {
	t.Helper()
	b, err := Map(f, 0, pages*PageSize(), write)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmap(b); err != nil {
			t.Error(err)
		}
	})
	return b
}

// threads counts the threads of this process.
func threads() int {
	dirs, err := os.ReadDir("/proc/self/task")
	die(err)
	return len(dirs)
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var ru syscall.Rusage
	die(syscall.Getrusage(syscall.RUSAGE_SELF, &ru))
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
