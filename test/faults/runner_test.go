package faults

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
)

// The runner is this test binary, executed again, as the first process of a pid namespace of its own: what it sees in /proc is what
// its cases left there, and nothing that happens on the machine changes which calls a start makes.

// A job is a series of cases with one call.
type job struct {
	Bin, Dir string        // of the programs; of the region, and with its configuration
	Verb     []string      // of shmctl; none: the start of the daemon
	Call     string        // "" counts only
	Errno    syscall.Errno //
	Step     int           // 1: every call
	Stays    bool          // the calls after it fail too
	Late     bool          // the calls of the stop, not of the start
	Adopt    int           // instead: daemons are killed while they adopt, at so many of their system calls; -1: at all
}

// A result is one case.
type result struct {
	N      int            // which call failed; 0: none was to
	Hit    string         // the command line of the process whose call failed; "" when there were fewer than N
	How    string         // see the constants
	Text   string         // what it said if it did not work
	Bad    []string       // what is wrong
	Log    string         // with what is wrong
	Ms     int64          // from start to end
	Counts map[string]int // with N 0: the calls there were
}

const (
	works   = "works"    // all the same
	refuses = "refuses"  // ends with an error
	givesUp = "gives up" // the daemon runs, and says of a worker that it does not
)

// limit bounds a case.
const limit = 40 * time.Second

type runner struct {
	job
	env []string
}

// runRole is the runner's main.
func runRole() {
	runtime.LockOSThread() // of the tracer
	var r runner
	if err := json.Unmarshal([]byte(os.Getenv("FAULTS_JOB")), &r.job); err != nil {
		panic(err)
	}
	go func() { // the test's end is ours
		io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		panic(err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		panic(err)
	}
	r.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/", "RUNTIME_DIRECTORY=" + r.Dir}
	out := json.NewEncoder(os.Stdout)
	if r.Adopt != 0 {
		r.adoptions(out)
		os.Exit(0)
	}
	one := r.start
	if len(r.Verb) > 0 {
		one = r.client
	}
	if r.Call != "" {
		for n := 1; ; n += r.Step {
			res := one(fault{Call: r.Call, Errno: r.Errno, N: n, Stays: r.Stays, Late: r.Late})
			out.Encode(res)
			if res.Hit == "" {
				break
			}
		}
	}
	out.Encode(one(fault{})) // what the faults left behind stops nobody
	os.Exit(0)
}

// A logbook collects what a process writes.
type logbook struct {
	mu      sync.Mutex
	text    bytes.Buffer
	heard   map[string]string // worker to "ready" or "given up"
	settled chan struct{}     // closed when all have been heard of
	eof     chan struct{}
	waited  map[string]chan struct{} // text to what is closed with the first line that has it
}

var verdict = regexp.MustCompile(`"@message":"worker (ready|given up)".*"worker":"([^"]+)"`)

// workers is how many workers the configuration has.
const workers = 2

func newLogbook(in io.ReadCloser) *logbook {
	b := &logbook{heard: map[string]string{}, settled: make(chan struct{}), eof: make(chan struct{})}
	go func() {
		defer close(b.eof)
		defer in.Close()
		lines := bufio.NewReader(in)
		for {
			line, err := lines.ReadString('\n')
			b.mu.Lock()
			b.text.WriteString(line)
			for text, c := range b.waited {
				if strings.Contains(line, text) {
					close(c)
					delete(b.waited, text)
				}
			}
			if m := verdict.FindStringSubmatch(line); m != nil {
				before := len(b.heard)
				b.heard[m[2]] = m[1]
				if len(b.heard) == workers && before < workers && !b.isSettled() {
					close(b.settled)
				}
			}
			b.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return b
}

// says is closed with a line that has the text; it may be there already.
func (b *logbook) says(text string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := make(chan struct{})
	if strings.Contains(b.text.String(), text) {
		close(c)
		return c
	}
	if b.waited == nil {
		b.waited = map[string]chan struct{}{}
	}
	b.waited[text] = c
	return c
}

func (b *logbook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logbook) gaveUp() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.heard {
		if s != "ready" {
			return true
		}
	}
	return false
}

func (b *logbook) isSettled() bool {
	select {
	case <-b.settled:
		return true
	default:
		return false
	}
}

// shmctl runs shmctl untraced.
func (r *runner) shmctl(args ...string) (out string, code int) {
	cmd := exec.Command(r.Bin+"/shmctl", append([]string{"-r", "test", "-s", r.Dir + "/test.sock", "--timeout", "20s"}, args...)...)
	cmd.Env = r.env
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// apart runs fn in another goroutine, whose children the tracer does not see.
func apart(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
}

// pipe is where a traced program writes to.
func pipe() (in, out *os.File) {
	in, out, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	return in, out
}

// trace runs a program with a fault and returns its output and its end. meanwhile runs beside it.
func (r *runner) trace(x *tracer, argv []string, meanwhile func(b *logbook, exited chan struct{})) (b *logbook, ws syscall.WaitStatus, bad []string) {
	in, out := pipe()
	null, err := os.Open(os.DevNull)
	if err != nil {
		panic(err)
	}
	defer null.Close()
	b = newLogbook(in)
	exited, done := make(chan struct{}), make(chan struct{})
	var pid int
	var hung atomic.Bool
	timer := time.AfterFunc(limit, func() { hung.Store(true); syscall.Kill(pid, syscall.SIGKILL) })
	ws, err = x.run(argv, r.env, []*os.File{null, out, out}, func(p int) {
		pid = p
		out.Close()
		go func() { defer close(done); meanwhile(b, exited) }()
	})
	timer.Stop()
	close(exited)
	<-done
	if err != nil {
		bad = append(bad, "tracer: "+err.Error())
	}
	if hung.Load() {
		bad = append(bad, fmt.Sprintf("it did not end within %v", limit))
	}
	return b, ws, bad
}

// panics are signs of a program that did not end in order.
var panics = regexp.MustCompile(`(?m)panic:|^goroutine \d|\\ngoroutine \d|fatal error:|SIGSEGV|unexpected fault`)

// fatals are the errors by which Go's runtime says that it got no memory or no thread, and ends its process: nothing in it can do otherwise.
var fatals = regexp.MustCompile(`fatal error: (runtime: |newosproc|.*out of memory|failed to |.*cannot (allocate|map|reserve))|runtime/cgo: pthread_create failed: `)

// start is one start of the daemon, and its stop.
func (r *runner) start(f fault) (res result) {
	begin := time.Now()
	x := newTracer(f)
	x.early.Store(f.Late)
	var extra []string
	var unheard <-chan time.Time // the line may have been lost that says it
	if f.Call == "write" && !f.Late {
		unheard = time.After(5 * time.Second)
	}
	b, ws, bad := r.trace(x, []string{r.Bin + "/shmd", "-c", r.Dir + "/shmd.toml", "--log-level", "debug"}, func(b *logbook, exited chan struct{}) {
		select {
		case <-b.settled:
		case <-exited:
			return
		case <-unheard:
			if out, code := r.shmctl("wait", "--for=ready"); code != 0 {
				extra = append(extra, fmt.Sprintf("shmctl wait: exit code %d: %s", code, out))
			}
			close(b.settled)
		}
		x.calm.Store(!f.Late)
		x.early.Store(false)
		want := "ready"
		if b.gaveUp() {
			want = "failed"
		}
		if out, code := r.shmctl("ps"); code != 0 || !strings.Contains(out, want) {
			extra = append(extra, fmt.Sprintf("shmctl ps: exit code %d, or not %q: %s", code, want, out))
		}
		if out, code := r.shmctl("stop"); code != 0 {
			extra = append(extra, fmt.Sprintf("shmctl stop: exit code %d: %s", code, out))
			syscall.Kill(-1, syscall.SIGKILL)
		}
	})
	res.N, res.Hit, res.Bad = f.N, x.hit, append(bad, extra...)
	fatal := f.runtimes() && (ws.Exited() && ws.ExitStatus() == 2 || ws.Signaled() && ws.Signal() == syscall.SIGABRT) && fatals.MatchString(b.String()) ||
		f.runtimes() && x.first && ws.Signaled() && ws.Signal() == syscall.SIGSEGV && b.String() == "" // the runtime has no memory to say anything
	if fatal { // it is dead as by SIGKILL: what it left is stopped without it
		pumped := make(chan struct{})
		go func() {
			defer close(pumped)
			if out, code := r.shmctl("stop"); code != 0 && code != 4 {
				res.Bad = append(res.Bad, fmt.Sprintf("shmctl stop of what it left: exit code %d: %s", code, out))
			}
		}()
		x.pump(pumped)
	}
	left := leftovers()
	syscall.Kill(-1, syscall.SIGKILL)
	x.drain()
	<-b.eof
	if len(left) > 0 {
		res.Bad = append(res.Bad, "left: "+strings.Join(left, "; "))
	}
	log := b.String()
	res.Text = lastLine(log, "shmd: ")
	if fatal {
		for _, name := range entries(r.Dir) {
			if name != "shmd.toml" {
				os.Remove(filepath.Join(r.Dir, name))
			}
		}
	} else if f.Call != "unlinkat" {
		for _, name := range entries(r.Dir) {
			lock := name == "test.lock" && strings.HasPrefix(res.Text, "shmd: lock ") // who has not got it must not remove it
			if name != "shmd.toml" && !lock {
				res.Bad = append(res.Bad, "left: file "+name)
			}
		}
	}
	switch code := ws.ExitStatus(); {
	case fatal:
		if res.How, res.Text = refuses, fatals.FindString(log); res.Text == "" {
			res.Text = "signal: " + ws.Signal().String()
		}
	case !ws.Exited():
		res.Bad = append(res.Bad, fmt.Sprintf("killed by %v", ws.Signal()))
	case b.isSettled() && code == 0:
		res.How, res.Text = works, ""
		if b.gaveUp() {
			res.How, res.Text = givesUp, lastLine(log, "given up")
		}
	case code == 0:
		res.Bad = append(res.Bad, "it ended with 0 and has not run")
	default:
		res.How = refuses
		if b.isSettled() {
			res.Bad = append(res.Bad, fmt.Sprintf("it ran, and ended with %d", code))
		}
	}
	r.judge(f, &res, log)
	if f.N == 0 {
		res.Counts = map[string]int{}
		for nr, n := range x.counts {
			res.Counts[nameOf(nr)] = n
		}
	}
	res.Ms = time.Since(begin).Milliseconds()
	return res
}

// judge looks at what a program said.
func (r *runner) judge(f fault, res *result, log string) {
	if m := panics.FindString(log); m != "" && !(f.runtimes() && fatals.MatchString(log)) {
		res.Bad = append(res.Bad, fmt.Sprintf("it says %q", m))
	}
	if res.How == refuses && !strings.Contains(res.Text, ": ") {
		res.Bad = append(res.Bad, fmt.Sprintf("its error is %q", res.Text))
	}
	if res.How != works && res.Hit == "" {
		res.Bad = append(res.Bad, "it does not work, and nothing failed")
	}
	if len(res.Bad) > 0 {
		res.Log = log
	}
}

// client is one run of shmctl while the daemon runs untouched.
func (r *runner) client(f fault) (res result) {
	begin := time.Now()
	cmd, b := r.daemon()
	x := newTracer(f)
	argv := append([]string{r.Bin + "/shmctl", "-r", "test", "-s", r.Dir + "/test.sock", "--timeout", "20s"}, r.Verb...)
	said, ws, bad := r.trace(x, argv, func(*logbook, chan struct{}) {})
	<-said.eof
	x.drain()
	res.N, res.Hit, res.Bad, res.Text = f.N, x.hit, bad, lastLine(said.String(), "shmctl: ")
	switch {
	case !ws.Exited():
		res.Bad = append(res.Bad, fmt.Sprintf("killed by %v", ws.Signal()))
	case ws.ExitStatus() == 0:
		res.How = works
	default:
		res.How = refuses
	}
	if f.N == 0 {
		res.Counts = map[string]int{}
		for nr, n := range x.counts {
			res.Counts[nameOf(nr)] = n
		}
	}
	r.judge(f, &res, said.String())
	apart(func() { // the daemon is as it was, or as it was asked to be
		if r.Verb[0] != "stop" {
			if out, code := r.shmctl("ps"); code != 0 {
				res.Bad = append(res.Bad, fmt.Sprintf("afterwards, shmctl ps: exit code %d: %s", code, out))
			}
		}
		if r.Verb[0] != "stop" || res.How != works {
			if out, code := r.shmctl("stop"); code != 0 && code != 4 {
				res.Bad = append(res.Bad, fmt.Sprintf("afterwards, shmctl stop: exit code %d: %s", code, out))
				syscall.Kill(-1, syscall.SIGKILL)
			}
		}
		timer := time.AfterFunc(limit, func() { syscall.Kill(-1, syscall.SIGKILL) })
		defer timer.Stop()
		<-b.eof
		if err := cmd.Wait(); err != nil {
			res.Bad = append(res.Bad, "afterwards, the daemon's end: "+err.Error())
		}
	})
	if left := leftovers(); len(left) > 0 {
		res.Bad = append(res.Bad, "left: "+strings.Join(left, "; "))
		syscall.Kill(-1, syscall.SIGKILL)
	}
	if m := panics.FindString(b.String()); m != "" {
		res.Bad = append(res.Bad, fmt.Sprintf("the daemon says %q", m))
	}
	if len(res.Bad) > 0 {
		res.Log = said.String() + b.String()
	}
	res.Ms = time.Since(begin).Milliseconds()
	return res
}

// daemon starts the daemon untraced and waits until its workers are ready.
func (r *runner) daemon() (cmd *exec.Cmd, b *logbook) {
	apart(func() {
		in, out := pipe()
		cmd = exec.Command(r.Bin+"/shmd", "-c", r.Dir+"/shmd.toml", "--log-level", "debug")
		cmd.Env, cmd.Stdout, cmd.Stderr = r.env, out, out
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		out.Close()
		b = newLogbook(in)
		select {
		case <-b.settled:
		case <-b.eof:
			panic("the daemon does not start: " + b.String())
		}
	})
	return cmd, b
}

// leftovers are the processes there are beside this one. One that has been killed gets the time to end.
func leftovers() (left []string) {
	for _, name := range entries("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		if state, err := sys.ProcState(pid); err != nil || state == 'Z' {
			continue
		}
		if pidfd, err := sys.PidfdOpen(pid); err == nil {
			sys.PollReadable([]*os.File{pidfd}, 2*time.Second)
			pidfd.Close()
		}
		if state, err := sys.ProcState(pid); err == nil && state != 'Z' {
			left = append(left, fmt.Sprintf("process %d (%s)", pid, commandOf(pid)))
		}
	}
	return left
}

func entries(dir string) (names []string) {
	list, err := os.ReadDir(dir)
	if err != nil {
		panic(err)
	}
	for _, e := range list {
		names = append(names, filepath.Base(e.Name()))
	}
	return names
}

// lastLine is the last line that has the word in it.
func lastLine(text, word string) string {
	lines := slices.Collect(strings.Lines(text))
	for _, l := range slices.Backward(lines) {
		if strings.Contains(l, word) {
			return strings.TrimSpace(l)
		}
	}
	return ""
}
