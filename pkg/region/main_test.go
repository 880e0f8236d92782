package region

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// helperEnv makes this test binary be one of the helpers: the other process of a test.
const helperEnv = "SHMD_REGION_TEST_HELPER"

// helpers are registered by the files that use them.
var helpers = map[string]func(args []string) error{}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		if err := helpers[name](os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "helper %s: %v\n", name, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	live.stacks = true
	code := m.Run()
	if code == 0 {
		code = leaks()
	}
	os.Exit(code)
}

func leaks() int {
	code := 0
	for m, stack := range live.m {
		fmt.Fprintf(os.Stderr, "leaked: mapping of %q, made at:\n%s\n", m.file.Name(), stack)
		code = 1
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintf(os.Stderr, "leaked: %v\n", err)
		code = 1
	}
	return code
}

// helper prepares this binary as another process. /proc/self/exe: the directory of the binary may be
// closed to another uid.
func helper(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	if helpers[name] == nil {
		t.Fatalf("no helper %q", name)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name, "GORACE=atexit_sleep_ms=0") // the race detector would sleep for a second at exit
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// output runs a helper to its end.
func output(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return strings.TrimSpace(string(out))
}

// A peer is a helper that is talked to, line by line.
type peer struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startPeer(t testing.TB, cmd *exec.Cmd) *peer {
	t.Helper()
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
	return &peer{t, cmd, in, bufio.NewReader(out)}
}

func (p *peer) hear() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("the helper said nothing more: %v", err)
	}
	return strings.TrimSuffix(line, "\n")
}

func (p *peer) tell(line string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) end() {
	p.t.Helper()
	p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatal(err)
	}
}

// hear1 reads one line of what the test tells this helper.
func hear1() string {
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	return strings.TrimSpace(line)
}

// needRoot ends the test without root's rights: as a failure in CI, where all tests have to run.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	const text = "this test needs root, and does not run as uid %d: use 'sudo -E go test ./pkg/region'"
	if os.Getenv("CI") != "" {
		t.Fatalf(text, os.Geteuid())
	}
	t.Skipf(text, os.Geteuid())
}

const nobody = 65534

// asNobody has the helper run as another user, if the test is root.
func asNobody(cmd *exec.Cmd) {
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
}

// noLeaks fails the test if it ends with other descriptors or mappings than it began with.
func noLeaks(t testing.TB) {
	t.Helper()
	runtime.GC() // what an earlier test dropped may go now
	fds, memory, mapped := openFDs(t), mappedFiles(t), Mapped()
	t.Cleanup(func() {
		if now := openFDs(t); !maps.Equal(now, fds) {
			t.Errorf("leaked descriptors: before %v, after %v", fds, now)
		}
		if now := mappedFiles(t); now != memory {
			t.Errorf("leaked mappings: before\n%s\nafter\n%s", memory, now)
		}
		if now := Mapped(); now != mapped {
			t.Errorf("Mapped() = %d after the test, %d before", now, mapped)
		}
	})
}

func openFDs(t testing.TB) map[int]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	fds := make(map[int]string)
	for _, e := range entries {
		fd, _ := strconv.Atoi(e.Name())
		link, err := os.Readlink(procPath(fd))
		// The Go runtime makes its poller's (anon_inode) when it wants; the directory's own is closed again.
		if err == nil && !strings.HasPrefix(link, "anon_inode:") && !strings.HasPrefix(link, "/proc/") {
			fds[fd] = link
		}
	}
	return fds
}

// mappedFiles returns the lines of /proc/self/maps of shared mappings.
func mappedFiles(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasSuffix(f[1], "s") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n")
}

func mustCreate(t testing.TB, o Options) *Segment {
	t.Helper()
	s, err := Create(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func wantErr(t testing.TB, err, want error, texts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want one that is %v", err, want)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

// smaps returns the block of /proc/self/smaps about the mapping that begins with b.
func smaps(t testing.TB, b []byte) map[string]string {
	t.Helper()
	all, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	begin := strings.TrimPrefix(fmt.Sprintf("%p-", b), "0x")
	_, block, ok := strings.Cut("\n"+string(all), "\n"+begin)
	if !ok {
		_, block, ok = strings.Cut("\n"+string(all), "\n0000"+begin)
	}
	if !ok {
		t.Fatalf("no mapping at %p", b)
	}
	m := make(map[string]string)
	for i, line := range strings.Split(block, "\n") {
		key, value, ok := strings.Cut(line, ":")
		if i > 0 && (!ok || strings.Contains(key, " ")) {
			break // the next mapping
		}
		m[key] = strings.TrimSpace(value)
	}
	return m
}

func hasFlag(m map[string]string, flag string) bool {
	for _, f := range strings.Fields(m["VmFlags"]) {
		if f == flag {
			return true
		}
	}
	return false
}
