// Package faults makes the N-th system call fail, for every N of a start: the real daemon and its workers run under a debugger (ptrace)
// that refuses one call of one kind, the next run the next one, until a run has fewer. Each run must either work all the same, or end
// soon with an error that names what failed; and nothing of it may be left: no process (so no memory either), no file. The same for
// shmctl, whose failure must leave the daemon unharmed, and a daemon that is killed at its calls while it adopts a region. Also here: segments of other versions, and other clocks.
//
// The calls are counted over all threads and processes of a start, workers before their ready too. What Go's runtime does for itself has series of its
// own, in which its death, with an error that says so, is an outcome: anonymous mmap and threads. Left out are scheduling
// and the first calls and wakes of its network poller.
package faults

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
)

func TestMain(m *testing.M) {
	switch os.Getenv("FAULTS_ROLE") {
	case "run":
		runRole()
	case "clock":
		clockRole()
		os.Exit(0)
	}
	code := m.Run()
	testregion.Cleanup()
	os.Exit(code)
}

// configuration has a channel of each kind, a worker that attaches and one that does not. A worker that fails is started again at once.
const configuration = `[region]
name = "test"
log_size = "64KiB"
[channel.jobs]
slots = 16
slot_size = 64
[channel.results]
slots = 16
slot_size = 64
producers = 1
consumers = 1
max_deliveries = 0
[channel.news]
kind = "topic"
slots = 16
slot_size = 64
[channel.price]
kind = "latest"
slots = 4
slot_size = 64
[channel.ask]
kind = "call"
slots = 4
slot_size = 64
[worker.idle]
builtin = "idle"
consume = ["jobs"]
backoff_min = "1ms"
backoff_max = "2ms"
ready_timeout = "5s"
stop_timeout = "5s"
[worker.sleep]
command = ["sleep", "1000"]
backoff_min = "1ms"
backoff_max = "2ms"
stop_timeout = "5s"
`

// A series is a call and how it fails. dense: every N also in the default run.
type series struct {
	call  string
	errno syscall.Errno
	dense bool
}

// starts are the calls of a start of the daemon.
var starts = []series{
	{"memfd_create", syscall.EMFILE, true}, {"fallocate", syscall.ENOSPC, true}, {"ftruncate", syscall.EIO, true}, {"fchmod", syscall.EPERM, true},
	{"fcntl", syscall.EPERM, false}, {"fstat", syscall.EIO, false}, {"newfstatat", syscall.EIO, false}, {"mmap", syscall.ENOMEM, true},
	{"madvise", syscall.EINVAL, true}, {"openat", syscall.EMFILE, false}, {"flock", syscall.EIO, true}, {"socket", syscall.EMFILE, true},
	{"bind", syscall.EADDRINUSE, true}, {"listen", syscall.EIO, true}, {"fchmodat", syscall.EPERM, true}, {"mkdirat", syscall.EROFS, true},
	{"unlinkat", syscall.EIO, true}, {"getsockname", syscall.EIO, true}, {"setsockopt", syscall.EPERM, true}, {"getsockopt", syscall.EIO, true},
	{"pidfd_open", syscall.EMFILE, true}, {"pidfd_send_signal", syscall.EPERM, true}, {"pipe2", syscall.EMFILE, true}, {"prctl", syscall.EPERM, true},
	{"epoll_create1", syscall.EMFILE, true}, {"eventfd2", syscall.EMFILE, true}, {"epoll_ctl", syscall.ENOSPC, false}, {"membarrier", syscall.EPERM, true},
	{"clone", syscall.EAGAIN, true}, {"execve", syscall.ENOMEM, true}, {"prlimit64", syscall.EPERM, true}, {"getdents64", syscall.EIO, true},
	{"readlinkat", syscall.EIO, false}, {"read", syscall.EIO, false}, {"pread64", syscall.EIO, true}, {"pwrite64", syscall.EIO, true},
	{"wait4", syscall.ECHILD, true}, {"waitid", syscall.ECHILD, true}, {"setpgid", syscall.EPERM, true}, {"ioctl", syscall.ENOTTY, true},
	{"accept4", syscall.EMFILE, true}, {"lseek", syscall.EIO, true}, {"uname", syscall.EFAULT, true}, {"kill", syscall.EPERM, true},
	{"dup3", syscall.EMFILE, true}, {"chdir", syscall.EACCES, true}, {"faccessat2", syscall.EACCES, true}, {"ppoll", syscall.ENOMEM, true},
	{"tee", syscall.ENOMEM, true},
}

// runtimes are calls of a start that Go's runtime makes for itself, or under us everywhere. Of the heap and of threads it dies, as by SIGKILL but with an
// error that says which: then what it left is stopped without it.
var runtimes = []series{
	{"mmap of the heap", syscall.ENOMEM, false}, {"clone of a thread", syscall.EAGAIN, true}, {"clone3 of a thread", syscall.EAGAIN, true}, {"futex", syscall.EINTR, false}, {"futex", syscall.EAGAIN, false},
	{"futex_waitv", syscall.EINTR, true}, {"futex_waitv", syscall.EAGAIN, true}, {"tgkill", syscall.EAGAIN, true}, {"write", syscall.EINTR, false},
	{"write", syscall.EIO, false}, {"write", syscall.ENOSPC, false},
}

// stops are calls of the stop of a region.
var stops = []series{
	{"kill", syscall.EPERM, true}, {"pidfd_send_signal", syscall.EPERM, true}, {"pidfd_send_signal", syscall.ENOMEM, true}, {"futex", syscall.EINTR, false},
	{"write", syscall.EIO, false}, {"wait4", syscall.ECHILD, true}, {"waitid", syscall.ECHILD, true}, {"munmap", syscall.ENOMEM, true},
}

// clients are the calls of shmctl.
var clients = []series{
	{"openat", syscall.EMFILE, false}, {"socket", syscall.EMFILE, true}, {"connect", syscall.EACCES, true}, {"recvmsg", syscall.EIO, true},
	{"sendmsg", syscall.EIO, true}, {"fcntl", syscall.EPERM, false}, {"fstat", syscall.EIO, false}, {"mmap", syscall.ENOMEM, true},
	{"madvise", syscall.EINVAL, true}, {"membarrier", syscall.EPERM, true}, {"pidfd_open", syscall.EMFILE, true}, {"newfstatat", syscall.EIO, true},
	{"read", syscall.EIO, false}, {"epoll_ctl", syscall.ENOSPC, true}, {"getsockopt", syscall.EIO, true}, {"getdents64", syscall.EIO, true},
	{"readlinkat", syscall.EIO, true}, {"setsockopt", syscall.EPERM, true}, {"getsockname", syscall.EIO, true},
	{"write", syscall.ENOSPC, true}, {"write", syscall.EIO, true}, {"futex", syscall.EINTR, false}, {"futex", syscall.EAGAIN, false}, {"futex_waitv", syscall.EINTR, true},
}

func torture() bool { return os.Getenv("SHMD_TEST_TORTURE") != "" }

// tally is what came of all the cases of a test.
type tally struct {
	mu    sync.Mutex
	cases int
	how   map[string]int
	texts map[string]int
	bad   int
}

// slots are for two series at a time.
var slots = make(chan struct{}, 2)

// run runs the series of a job and adds it to the tally.
func run(t *testing.T, y *tally, j job) []result {
	t.Helper()
	slots <- struct{}{}
	defer func() { <-slots }()
	j.Bin, j.Dir = testregion.Binaries(t), testregion.Dir(t)
	if err := os.WriteFile(j.Dir+"/shmd.toml", []byte(configuration), 0o644); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "FAULTS_ROLE=run", "FAULTS_JOB="+string(spec))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("a pid namespace: %v", err)
	}
	var all []result
	for s := json.NewDecoder(bufio.NewReader(out)); ; {
		var res result
		if s.Decode(&res) != nil {
			break
		}
		all = append(all, res)
		what := fmt.Sprintf("%s %d (in %q): %s", j.Call, res.N, res.Hit, j.Errno)
		y.mu.Lock()
		y.cases++
		y.how[res.How]++
		if res.Text != "" {
			y.texts[res.Text]++
		}
		y.bad += min(len(res.Bad), 1)
		y.mu.Unlock()
		if len(res.Bad) > 0 {
			t.Errorf("%s: %s\n%s", what, strings.Join(res.Bad, "\n"), res.Log)
		} else {
			t.Logf("%s: %s, %d ms: %s", what, res.How, res.Ms, res.Text)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the runner: %v", err)
	}
	if n := len(all); n == 0 || all[n-1].N != 0 || all[n-1].How != works {
		t.Errorf("%s: the clean run at the end does not work", j.Call)
	}
	return all
}

func newTally() *tally { return &tally{how: map[string]int{}, texts: map[string]int{}} }

func (y *tally) report(t *testing.T, what string, begin time.Time) {
	t.Logf("faults: %s: %d cases, %d failed; %d worked all the same, %d ended with an error, %d without a worker; %.1f s",
		what, y.cases, y.bad, y.how[works], y.how[refuses], y.how[givesUp], time.Since(begin).Seconds())
}

// TestStart makes the N-th call of a start fail.
func TestStart(t *testing.T) {
	begin, y := time.Now(), newTally()
	var counts map[string]int
	if all := run(t, y, job{}); len(all) > 0 {
		counts = all[0].Counts
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("a start has %4d %s", counts[name], name)
	}
	t.Run("calls", func(t *testing.T) {
		for _, s := range starts {
			for _, stays := range []bool{false, true} {
				name := s.call
				if stays {
					name += "/and all after it"
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					if _, ok := numbers[s.call]; ok { // else this machine has another
						run(t, y, job{Call: s.call, Errno: s.errno, Step: step(s, stays, counts), Stays: stays})
					}
				})
			}
		}
	})
	y.report(t, "start", begin)
}

// TestRuntime makes calls of Go's runtime fail, which are as many as it likes: the daemon goes on, or ends with an error that says so.
func TestRuntime(t *testing.T) {
	begin, y := time.Now(), newTally()
	t.Run("calls", func(t *testing.T) {
		for _, s := range runtimes {
			t.Run(s.call+"/"+s.errno.Error(), func(t *testing.T) {
				t.Parallel()
				run(t, y, job{Call: s.call, Errno: s.errno, Step: step(s, false, map[string]int{"futex": 400, "write": 64, "mmap of the heap": 200})})
			})
		}
	})
	y.report(t, "the runtime's own", begin)
}

// TestStop makes the N-th call of the stop of a region fail.
func TestStop(t *testing.T) {
	begin, y := time.Now(), newTally()
	t.Run("calls", func(t *testing.T) {
		for _, s := range stops {
			t.Run(s.call+"/"+s.errno.Error(), func(t *testing.T) {
				t.Parallel()
				run(t, y, job{Call: s.call, Errno: s.errno, Late: true, Step: step(s, false, map[string]int{"futex": 100, "write": 32})})
			})
		}
	})
	y.report(t, "stop", begin)
}

// step is how many calls there are from one that fails to the next.
func step(s series, stays bool, counts map[string]int) int {
	const most = 16 // of a series that is not dense
	if s.dense && !stays || torture() {
		return 1
	}
	return max(1, counts[s.call]/most)
}

// TestClients makes the N-th call of shmctl fail.
func TestClients(t *testing.T) {
	begin, y := time.Now(), newTally()
	t.Run("calls", func(t *testing.T) {
		for _, verb := range [][]string{{"ps"}, {"stop"}, {"pub", "jobs", "hello"}} {
			for _, s := range clients {
				t.Run(verb[0]+"/"+s.call+"/"+s.errno.Error(), func(t *testing.T) {
					t.Parallel()
					run(t, y, job{Verb: verb, Call: s.call, Errno: s.errno, Step: step(s, false, map[string]int{"openat": 48, "fcntl": 48, "fstat": 48, "read": 48, "futex": 48})})
				})
			}
		}
	})
	y.report(t, "shmctl", begin)
}
