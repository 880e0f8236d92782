package systemd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// patience is how long an event may take. It is long because nobody waits for it unless something is broken.
const patience = 60 * time.Second

// Message ids of systemd's own log, from its sd-messages.h.
const (
	unitStarted     = "39f53479d3a045ac8e11786248231fbf"
	unitDeactivated = "7ad2d189f7e94e70a38c781354912448"
	unitFailed      = "d9b373ed55a64feb8242e02dbe79a49c"
)

// ---- TestMain: into the harness, installed

func TestMain(m *testing.M) {
	if os.Getenv(logRole) != "" {
		if err := logs(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv("WITH_SYSTEMD") == "" {
		os.Exit(throughHarness())
	}
	code := 1
	if err := install(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else if err := follow(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(binDir())
	os.Exit(code)
}

// throughHarness runs this test binary again inside a systemd of its own.
func throughHarness() int {
	if os.Geteuid() != 0 {
		fmt.Println("test/systemd was not run: it needs root, to boot a systemd in namespaces of its own")
		if os.Getenv("CI") != "" {
			return 1
		}
		return 0
	}
	runtime.LockOSThread() // for Pdeathsig: go test kills us when the time is up, and the harness cleans up
	cmd := exec.Command("../with-systemd.sh", append([]string{os.Args[0]}, os.Args[1:]...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func repo() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}

// binDir is where the binaries are built: not in the tree, and visible from outside the namespaces. One name for the run.
var binDir = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "shmd-systemd-test.")
	if err != nil {
		panic(err)
	}
	return dir
})

// install does what an administrator does. The overlays of the harness forget it.
func install() error {
	// No limit of time for this one: it may have to compile everything.
	if out, err := exec.Command("make", "-C", repo(), "BIN="+binDir(), "DESTDIR=", "PREFIX=/usr", "install").CombinedOutput(); err != nil {
		return fmt.Errorf("make install: %w\n%s", err, out)
	}
	for _, args := range [][]string{
		{"systemd-sysusers"},
		{"systemd-tmpfiles", "--create", "shmd.conf"},
		{"systemctl", "daemon-reload"},
	} {
		if out, code := try(args[0], args[1:]...); code != 0 {
			return fmt.Errorf("%s: exit code %d\n%s", strings.Join(args, " "), code, out)
		}
	}
	return nil
}

// ---- commands and files

// try runs a command and returns its output, both streams, and its exit code.
func try(name string, args ...string) (string, int) {
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return err.Error(), 127
	}
	timer := time.AfterFunc(2*patience, func() { cmd.Process.Kill() })
	cmd.WaitDelay = patience / 10
	cmd.Wait()
	timer.Stop()
	return out.String(), cmd.ProcessState.ExitCode()
}

// run is try for what must succeed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, code := try(name, args...)
	if code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s", name, strings.Join(args, " "), code, out)
	}
	return out
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// write makes a file for the time of the test.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
}

// configure adds to the shipped configuration for the time of the test.
func configure(t testing.TB, region, more string) {
	t.Helper()
	path := "/etc/shmd/" + region + ".toml"
	shipped := read(t, path)
	if err := os.WriteFile(path, []byte(shipped+more), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(path, []byte(shipped), 0o644) })
}

// dropIn changes a unit for the time of the test.
func dropIn(t testing.TB, dir, name, text string) {
	t.Helper()
	t.Cleanup(func() { try("systemctl", "daemon-reload") }) // runs after write's cleanup
	write(t, filepath.Join("/run/systemd/system", dir, name), text)
	run(t, "systemctl", "daemon-reload")
}

func lookupUID(t testing.TB, name string) uint32 {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(uid)
}

// kill sends a signal to one process; with SIGKILL it returns when the process has ended.
func kill(t testing.TB, pid int, sig syscall.Signal) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("kill: pid %d", pid)
	}
	f, err := sys.PidfdOpen(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := sys.PidfdSignal(f, sig); err != nil {
		t.Fatal(err)
	}
	if sig == syscall.SIGKILL {
		if ended, err := sys.PollReadable([]*os.File{f}, patience); err != nil || !ended[0] {
			t.Fatalf("pid %d has not ended after SIGKILL: %v", pid, err)
		}
	}
}

// procStatus reads /proc/PID/status.
func procStatus(pid int) map[string]string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	m := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			m[k] = strings.TrimSpace(v)
		}
	}
	return m
}

// ---- a service and its region

type service struct {
	t            testing.TB
	unit, region string
	since        time.Time // of its journal: what was before is another test's
}

// start starts a unit, and stops it when the test ends. Then nothing may be left of it.
func start(t testing.TB, unit, region string) service {
	t.Helper()
	return startWith(t, unit, region)
}

// startWith starts it with options of systemctl.
func startWith(t testing.TB, unit, region string, options ...string) service {
	t.Helper()
	s := service{t, unit, region, time.Now()}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := try("journalctl", "-u", unit, "-n", "60", "--no-pager", "-o", "short-precise")
			t.Logf("the last of the journal of %s:\n%s", unit, out)
		}
		run(t, "systemctl", "stop", unit)
		s.expectNothingLeft()
		try("systemctl", "reset-failed", unit)
	})
	if out, code := try("systemctl", append([]string{"start", unit}, options...)...); code != 0 {
		t.Fatalf("systemctl start %s: exit code %d\n%s", unit, code, out)
	}
	return s
}

func (s service) show(property string) string {
	s.t.Helper()
	return strings.TrimSpace(run(s.t, "systemctl", "show", "-P", property, s.unit))
}

// invocation identifies one run of the unit.
func (s service) invocation() string { return s.show("InvocationID") }

func (s service) shmctl(args ...string) string {
	s.t.Helper()
	return run(s.t, "shmctl", append([]string{"-r", s.region}, args...)...)
}

func (s service) shmctlJSON(v any, args ...string) {
	s.t.Helper()
	cmd := exec.Command("shmctl", append([]string{"-r", s.region, "-o", "json"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, out, stderr.String())
	}
	if err := json.Unmarshal(out, v); err != nil {
		s.t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

type worker struct {
	Name, Group, State, Reason string
	Pid, Restarts              int
}

func (s service) workers() map[string]worker {
	s.t.Helper()
	var ps struct {
		Schema  int
		Region  string
		Workers []worker
	}
	s.shmctlJSON(&ps, "ps")
	if ps.Schema != 1 || ps.Region != s.region {
		s.t.Fatalf("shmctl ps -o json: schema %d, region %q", ps.Schema, ps.Region)
	}
	m := map[string]worker{}
	for _, w := range ps.Workers {
		m[w.Name] = w
	}
	return m
}

// waitReady waits until all workers are ready.
func (s service) waitReady() {
	s.t.Helper()
	s.shmctl("wait", "--for=ready", "--timeout=60s")
}

// expectWorkers: these, all ready, and no others.
func (s service) expectWorkers(names ...string) {
	s.t.Helper()
	got := s.workers()
	if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, names) {
		s.t.Errorf("workers %v, want %v", have, names)
	}
	for _, w := range got {
		if w.State != "ready" {
			s.t.Errorf("not ready: %+v", w)
		}
	}
}

// poll waits for what systemd and shmctl tell only to those who ask. The asking is what paces it: each is a process.
func (s service) poll(what string, ask func() (state string, ok bool)) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		state, ok := ask()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not after %v; it is: %s", what, patience, state)
		}
	}
}

// pids returns the living processes of the unit.
func (s service) pids() []int {
	var pids []int
	for pid := range processes {
		cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if (bytes.Contains(cgroup, []byte("/"+s.unit+"\n")) || bytes.Contains(cgroup, []byte("/"+s.unit+"/"))) && !strings.HasPrefix(procStatus(pid)["State"], "Z") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// uids returns who they run as.
func (s service) uids() []uint32 {
	var uids []uint32
	for _, pid := range s.pids() {
		if st, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
			uids = append(uids, st.Sys().(*syscall.Stat_t).Uid)
		}
	}
	slices.Sort(uids)
	return slices.Compact(uids)
}

// expectNothingLeft: no process, no memory, no file of the region.
func (s service) expectNothingLeft() {
	s.t.Helper()
	s.expectNothingLives()
	left, _ := filepath.Glob("/run/shmd/" + s.region + "*")
	for _, path := range left {
		if _, code := try("systemctl", "is-active", "--quiet", "shmd.socket"); code == 0 && path == "/run/shmd/default.sock" {
			continue // the socket unit's
		}
		s.t.Errorf("%s is stopped and left %s", s.unit, path)
	}
}

// expectNothingLives: no process, no memory of the region.
func (s service) expectNothingLives() {
	s.t.Helper()
	for _, pid := range s.pids() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		s.t.Errorf("%s is stopped and left pid %d: %q", s.unit, pid, cmdline)
	}
	for r, pids := range regions() {
		if r.name == s.region {
			s.t.Errorf("%s is stopped and pids %v hold its memory, generation %d", s.unit, pids, r.generation)
		}
	}
}

// expectOneRegion: the living processes hold memory of exactly one generation.
func (s service) expectOneRegion() {
	s.t.Helper()
	var found []region
	for r := range regions() {
		if r.name == s.region {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		s.t.Errorf("living processes hold %d generations of region %q: %v", len(found), s.region, found)
	}
}

// ---- memory of regions, seen from outside

type region struct {
	name       string
	generation uint64
}

// processes yields the pids that /proc has now.
func processes(yield func(int) bool) {
	dir, err := os.Open("/proc")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && !yield(pid) {
			return
		}
	}
}

// regions returns the processes that hold a segment, by region. It opens what they hold through /proc, as root may.
func regions() map[region][]int {
	found := map[region][]int{}
	for pid := range processes {
		for r := range held(pid) {
			found[r] = append(found[r], pid)
		}
	}
	return found
}

// held returns the regions of which a process holds segments, by the headers of its memfds.
func held(pid int) map[region]bool {
	found := map[region]bool{}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err != nil || !strings.HasPrefix(link, "/memfd:") {
			continue
		}
		f, err := os.Open(fd)
		if err != nil {
			continue // closed meanwhile
		}
		h := make([]byte, protocol.SizeofSegmentHeader)
		_, err = f.ReadAt(h, 0)
		f.Close()
		if err != nil || binary.LittleEndian.Uint64(h[protocol.OffsetofSegmentHeaderMagic:]) != protocol.Magic {
			continue
		}
		name, _, _ := strings.Cut(string(h[protocol.OffsetofSegmentHeaderRegion:][:64]), "\x00")
		found[region{name, binary.LittleEndian.Uint64(h[protocol.OffsetofSegmentHeaderGeneration:])}] = true
	}
	return found
}

// watchRegions looks all the time, until the function that it returns is called, whether two generations of one
// region live side by side, and fails the test if so.
func watchRegions(t testing.TB) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		scans := 0
		for ; ; scans++ {
			select {
			case <-done:
				t.Logf("looked %d times for a second region", scans)
				return
			default:
			}
			if two := twoRegions(); two != "" {
				t.Error(two)
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// twoRegions says which two generations of one region live, if any. A scan is not one instant: of two that were seen,
// each is looked at once more, one after the other, so that one of them lived while the other was seen twice.
func twoRegions() string {
	seen := regions()
	for a, as := range seen {
		for b, bs := range seen {
			if a.name != b.name || a.generation == b.generation {
				continue
			}
			holds := func(pids []int, r region) bool {
				return slices.ContainsFunc(pids, func(pid int) bool { return held(pid)[r] })
			}
			if holds(as, a) && holds(bs, b) && holds(as, a) {
				return fmt.Sprintf("two regions %q live at once: generation %d in pids %v, generation %d in pids %v",
					a.name, a.generation, as, b.generation, bs)
			}
		}
	}
	return ""
}

// ---- the journal, as a source of events

// entry is one journal entry. A field that occurs twice, or is no text, is not a string.
type entry map[string]any

func (e entry) str(field string) string {
	v, _ := e[field].(string)
	return v
}

// journal holds all entries since boot, from a follower that runs as long as the tests.
var journal struct {
	mu      sync.Mutex
	entries []entry
	more    chan struct{} // closed at the next entry
}

// follow starts the follower. It dies with the harness.
func follow() error {
	journal.more = make(chan struct{})
	cmd := exec.Command("journalctl", "--follow", "--no-tail", "--all", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		in := bufio.NewScanner(out)
		in.Buffer(nil, 4<<20)
		for in.Scan() {
			var e entry
			if json.Unmarshal(in.Bytes(), &e) != nil {
				continue
			}
			journal.mu.Lock()
			journal.entries = append(journal.entries, e)
			close(journal.more)
			journal.more = make(chan struct{})
			journal.mu.Unlock()
		}
	}()
	return nil
}

// waitJournal returns the first entry that matches, which may have been there before.
func (s service) waitJournal(what string, match func(entry) bool) entry {
	s.t.Helper()
	deadline := time.After(patience)
	for next := 0; ; {
		journal.mu.Lock()
		fresh, more := journal.entries[next:], journal.more
		next = len(journal.entries)
		journal.mu.Unlock()
		for _, e := range fresh {
			if match(e) {
				return e
			}
		}
		select {
		case <-more:
		case <-deadline:
			s.t.Fatalf("waited %v in the journal for: %s", patience, what)
		}
	}
}

// waitStarted waits until a later run of the unit than this one has started.
func (s service) waitStarted(before string) {
	s.t.Helper()
	s.waitJournal(s.unit+" is started again", func(e entry) bool {
		return e.str("MESSAGE_ID") == unitStarted && e.str("UNIT") == s.unit && e.str("INVOCATION_ID") == s.invocation() && e.str("INVOCATION_ID") != before
	})
}

// waitDeactivated waits until this run of the unit has ended, which must be in order.
func (s service) waitDeactivated(invocation string) {
	s.t.Helper()
	e := s.waitJournal(s.unit+" ends", func(e entry) bool {
		return (e.str("MESSAGE_ID") == unitDeactivated || e.str("MESSAGE_ID") == unitFailed) && e.str("UNIT") == s.unit && e.str("INVOCATION_ID") == invocation
	})
	if e.str("MESSAGE_ID") == unitFailed {
		s.t.Errorf("%s ended with result %q, so systemd starts it again", s.unit, e.str("UNIT_RESULT"))
	}
}

// at is when an entry was sent.
func at(e entry) time.Time {
	us, _ := strconv.ParseInt(e.str("__REALTIME_TIMESTAMP"), 10, 64)
	if sent, err := strconv.ParseInt(e.str("_SOURCE_REALTIME_TIMESTAMP"), 10, 64); err == nil {
		us = sent
	}
	return time.UnixMicro(us)
}
