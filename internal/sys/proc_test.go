package sys

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPidfdSeesDeath(t *testing.T) {
	checkDescriptors(t)
	cmd, _ := startHelper(t, "ready")
	pidfd, err := PidfdOpen(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if dead, err := PidfdReadable(pidfd); dead || err != nil {
		t.Errorf("alive: %v, %v", dead, err)
	}
	if err := PidfdSignal(pidfd, 0); err != nil {
		t.Errorf("signal 0: %v", err)
	}
	if ready, err := PollReadable([]*os.File{pidfd}, 5*time.Millisecond); err != nil || ready[0] {
		t.Errorf("poll with timeout: %v, %v", ready, err)
	}
	if err := PidfdSignal(pidfd, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Readable before it is reaped.
	if ready, err := PollReadable([]*os.File{pidfd}, patience); err != nil || !ready[0] {
		t.Errorf("killed: %v, %v", ready, err)
	}
	if state, err := ProcState(cmd.Process.Pid); err != nil || state != 'Z' {
		t.Errorf("state %q, %v, want Z", state, err)
	}
	info, ok, err := Reap(cmd.Process.Pid)
	if want := (ExitInfo{Signal: syscall.SIGKILL}); info != want || !ok || err != nil {
		t.Errorf("Reap = %+v, %v, %v, want %+v", info, ok, err, want)
	}
	if dead, err := PidfdReadable(pidfd); !dead || err != nil {
		t.Errorf("reaped: %v, %v", dead, err)
	}
	if err := PidfdSignal(pidfd, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signal to the dead: %v, want ESRCH", err)
	}
	if _, err := PidfdOpen(cmd.Process.Pid); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("PidfdOpen of the dead: %v, want ESRCH", err)
	}
	for what, fn := range map[string]func(int) error{
		"StartTicks": func(pid int) error { _, err := StartTicks(pid); return err },
		"ProcState":  func(pid int) error { _, err := ProcState(pid); return err },
	} {
		if err := fn(cmd.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of the dead: %v, want fs.ErrNotExist", what, err)
		}
	}
	if _, _, err := Reap(cmd.Process.Pid); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("second Reap: %v, want ECHILD", err)
	}
}

func TestPollReadableTellsWhich(t *testing.T) {
	checkDescriptors(t)
	var rs, ws []*os.File
	for range 3 {
		r, w, err := Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		rs, ws = append(rs, r), append(ws, w)
	}
	done := make(chan []bool, 1)
	go func() {
		ready, err := PollReadable(rs, -1)
		if err != nil {
			t.Error(err)
		}
		done <- ready
	}()
	ws[1].Write([]byte("x"))
	if ready := receive(t, done); !slices.Equal(ready, []bool{false, true, false}) {
		t.Errorf("written to the second: %v", ready)
	}
	ws[2].Close() // its end counts too
	if ready, err := PollReadable(rs, -1); err != nil || !slices.Equal(ready, []bool{false, true, true}) {
		t.Errorf("closed the third: %v, %v", ready, err)
	}
	if ready, err := PollReadable(nil, 0); err != nil || len(ready) != 0 {
		t.Errorf("no files: %v, %v", ready, err)
	}
	rs[0].Close()
	if _, err := PollReadable(rs, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed file: %v", err)
	}
}

func TestReap(t *testing.T) {
	for _, pid := range []int{0, -1} {
		if _, _, err := Reap(pid); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Reap(%d): %v", pid, err)
		}
	}
	if _, _, err := Reap(os.Getpid()); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("Reap of oneself: %v", err)
	}
	cmd, in := startHelper(t, "ready")
	if _, ok, err := Reap(cmd.Process.Pid); ok || err != nil {
		t.Errorf("Reap of the living: %v, %v", ok, err)
	}
	in.Close()
	var info ExitInfo
	eventually(t, "reaped", func() (ok bool) {
		var err error
		info, ok, err = Reap(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	})
	if info != (ExitInfo{}) {
		t.Errorf("%+v, want exit 0", info)
	}

	exit7 := exec.Command("sh", "-c", "exit 7")
	if err := exit7.Start(); err != nil {
		t.Fatal(err)
	}
	defer exit7.Process.Release()
	eventually(t, "reaped", func() (ok bool) {
		info, ok, _ = Reap(exit7.Process.Pid)
		return ok
	})
	if want := (ExitInfo{Code: 7}); info != want {
		t.Errorf("%+v, want %+v", info, want)
	}
}

// A grandchild whose parent has gone comes to the subreaper. In a process of its own,
// since it collects whatever child there is.
func TestReapOrphans(t *testing.T) {
	if out := runHelper(t, "subreaper", nil); out != "ok\n" {
		t.Error(out)
	}
}

func init() {
	helpers["subreaper"] = func() {
		die(SetSubreaper())
		if n := ReapOrphans(func(int) bool { return false }); n != 0 {
			die(fmt.Errorf("reaped %d without children", n))
		}
		// sh starts a grandchild, tells its pid, and ends; the grandchild waits for its stdin.
		r, w, err := os.Pipe()
		die(err)
		cmd := exec.Command("sh", "-c", `cat <&3 >/dev/null & echo $!`)
		cmd.ExtraFiles = []*os.File{r}
		cmd.Stderr = os.Stderr // no pipe that the grandchild would hold
		out, err := cmd.Output()
		die(err)
		r.Close()
		orphan, err := strconv.Atoi(strings.TrimSpace(string(out)))
		die(err)
		pidfd, err := PidfdOpen(orphan)
		die(err)
		if n := ReapOrphans(func(int) bool { return false }); n != 0 {
			die(fmt.Errorf("reaped %d while the orphan lives", n))
		}
		w.Close()
		_, err = PollReadable([]*os.File{pidfd}, patience)
		die(err)

		// One of ours that has ended stops it, and is still there afterwards.
		asked := 0
		if n := ReapOrphans(func(pid int) bool {
			asked++
			if pid != orphan {
				die(fmt.Errorf("asked about %d, want %d", pid, orphan))
			}
			return true
		}); n != 0 || asked != 1 {
			die(fmt.Errorf("reaped %d known ones, asked %d times", n, asked))
		}
		if n := ReapOrphans(func(int) bool { return false }); n != 1 {
			die(fmt.Errorf("reaped %d, want 1", n))
		}
		if _, _, err := Reap(orphan); !errors.Is(err, syscall.ECHILD) {
			die(fmt.Errorf("the orphan is still there: %v", err))
		}
		fmt.Println("ok")
	}
}

func TestStartTicksAndStateWithNastyName(t *testing.T) {
	pid := os.Getpid()
	want, err := StartTicks(pid)
	if err != nil {
		t.Fatal(err)
	}
	comm := fmt.Sprintf("/proc/%d/comm", pid)
	old, err := os.ReadFile(comm)
	if err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile(comm, bytes.TrimSpace(old), 0)
	for _, name := range []string{"a) R (b", ") Z 1 2 3", "((((", "))))", "a b c", "x\ny) T"} {
		if err := os.WriteFile(comm, []byte(name), 0); err != nil {
			t.Fatal(err)
		}
		if got, err := StartTicks(pid); got != want || err != nil {
			t.Errorf("named %q: StartTicks = %d, %v, want %d", name, got, err, want)
		}
		if got, err := ProcState(pid); err != nil || got != 'R' && got != 'S' {
			t.Errorf("named %q: state %q, %v", name, got, err)
		}
	}
	cmd, _ := startHelper(t, "ready")
	child, err := StartTicks(cmd.Process.Pid)
	if err != nil || child < want {
		t.Errorf("the child started at %d (%v), before its parent at %d", child, err, want)
	}
	cmd.Process.Signal(syscall.SIGSTOP)
	eventually(t, "stopped", func() bool {
		state, err := ProcState(cmd.Process.Pid)
		return err == nil && state == 'T'
	})
}

func TestBootID(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	id, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	h := hex.EncodeToString(id[:])
	got := strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
	if got != strings.TrimSpace(string(text)) {
		t.Errorf("BootID %s, the kernel says %s", got, text)
	}
}

func TestKernelRelease(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if got := KernelRelease(); got != strings.TrimSpace(string(text)) {
		t.Errorf("KernelRelease %q, want %q", got, text)
	}
}

// Setuser must hold in every thread. As another user than root it must fail cleanly.
func TestSetuser(t *testing.T) {
	if os.Geteuid() != 0 {
		if err := Setuser(os.Getuid(), os.Getgid(), []int{0}); !errors.Is(err, syscall.EPERM) {
			t.Errorf("without rights: %v, want EPERM", err)
		}
		return
	}
	if out := runHelper(t, "setuser", nil); out != "ok\n" {
		t.Error(out)
	}
}

func init() {
	helpers["setuser"] = func() {
		// Threads that exist before.
		var up, down sync.WaitGroup
		down.Add(1)
		for range 8 {
			up.Add(1)
			go func() {
				runtime.LockOSThread()
				up.Done()
				down.Wait()
			}()
		}
		up.Wait()
		die(Setuser(65534, 65533, []int{65532, 65531}))
		tasks, err := os.ReadDir("/proc/self/task")
		die(err)
		for _, task := range tasks {
			b, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
			die(err)
			s := bufio.NewScanner(bytes.NewReader(b))
			for s.Scan() {
				key, rest, _ := strings.Cut(s.Text(), ":")
				want, ok := map[string]string{
					"Uid":    "65534 65534 65534 65534",
					"Gid":    "65533 65533 65533 65533",
					"Groups": "65531 65532",
				}[key]
				if got := strings.Join(strings.Fields(rest), " "); ok && got != want {
					die(fmt.Errorf("thread %s: %s %s, want %s", task.Name(), key, got, want))
				}
			}
		}
		if err := Setuser(0, 0, nil); !errors.Is(err, syscall.EPERM) {
			die(fmt.Errorf("the way back: %v, want EPERM", err))
		}
		fmt.Println("ok")
	}
}

func TestDropAmbient(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if had, err := DropAmbient(); had || err != nil {
		t.Errorf("without any: %v, %v", had, err)
	}
	if os.Geteuid() != 0 {
		return // nobody else may raise one
	}
	if out := runHelper(t, "ambient", nil); out != "true false\n" {
		t.Error(out)
	}
}

func init() {
	helpers["ambient"] = func() {
		runtime.LockOSThread()
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		die(unix.Capget(&hdr, &data[0]))
		data[0].Inheritable |= 1 << unix.CAP_KILL
		die(unix.Capset(&hdr, &data[0]))
		die(unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_KILL, 0, 0))
		first, err := DropAmbient()
		die(err)
		second, err := DropAmbient()
		die(err)
		fmt.Println(first, second)
	}
}

func TestExec(t *testing.T) {
	if err := Exec("/nonexistent/program", []string{"x"}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if out := runHelper(t, "exec", nil); out != "cpu 0 limit 77\n" {
		t.Errorf("%q", out)
	}
}

func init() {
	helpers["exec"] = func() {
		runtime.LockOSThread()
		die(SetAffinity([]int{0}))
		die(Setrlimit(LimitNofile, 77, 77))
		die(Exec("/bin/sh", []string{"sh", "-c",
			`while read k v; do [ "$k" = Cpus_allowed_list: ] && c=$v; done </proc/self/status; echo cpu $c limit $(ulimit -n)`,
		}, nil))
	}
}

func TestSetAffinityRefusesNothing(t *testing.T) {
	if err := SetAffinity(nil); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("no CPUs: %v", err)
	}
}

func TestEpoll(t *testing.T) {
	checkDescriptors(t)
	e, err := NewEpoll()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if tokens, err := e.Wait(0); len(tokens) != 0 || err != nil {
		t.Errorf("empty: %v, %v", tokens, err)
	}
	start := time.Now()
	const d = 10 * time.Millisecond
	if tokens, err := e.Wait(d); len(tokens) != 0 || err != nil || time.Since(start) < d {
		t.Errorf("empty: %v, %v after %v", tokens, err, time.Since(start))
	}

	r, w, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	const token = 0xdead_beef_8765_4321
	if err := e.Add(r, token); err != nil {
		t.Fatal(err)
	}
	if err := e.Add(r, 1); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("second Add: %v", err)
	}
	if err := e.Add(w, math.MaxUint64); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("reserved token: %v", err)
	}
	cmd, in := startHelper(t, "ready")
	pidfd, err := PidfdOpen(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if err := e.Add(pidfd, 2); err != nil {
		t.Fatal(err)
	}
	if tokens, err := e.Wait(0); len(tokens) != 0 || err != nil {
		t.Errorf("nothing ready: %v, %v", tokens, err)
	}
	w.Write([]byte("x"))
	for range 2 { // level-triggered
		if tokens, err := e.Wait(-1); !slices.Equal(tokens, []uint64{token}) || err != nil {
			t.Errorf("pipe: %x, %v", tokens, err)
		}
	}
	in.Close()
	if ready, err := PollReadable([]*os.File{pidfd}, patience); err != nil || !ready[0] {
		t.Fatal(err)
	}
	tokens, err := e.Wait(-1)
	slices.Sort(tokens)
	if !slices.Equal(tokens, []uint64{2, token}) || err != nil {
		t.Errorf("pipe and death: %x, %v", tokens, err)
	}
	if err := errors.Join(e.Remove(pidfd), e.Remove(r)); err != nil {
		t.Error(err)
	}
	if err := e.Remove(r); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("second Remove: %v", err)
	}
	if tokens, err := e.Wait(0); len(tokens) != 0 || err != nil {
		t.Errorf("all removed: %v, %v", tokens, err)
	}
}

func TestEpollClose(t *testing.T) {
	checkDescriptors(t)
	for range 20 {
		e, err := NewEpoll()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 3)
		var tids sync.WaitGroup
		for range cap(done) {
			tids.Add(1)
			go func() {
				tids.Done()
				_, err := e.Wait(-1)
				done <- err
			}()
		}
		tids.Wait()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		for range cap(done) {
			if err := receive(t, done); err != ErrClosed {
				t.Errorf("Wait at Close: %v", err)
			}
		}
		if _, err := e.Wait(0); err != ErrClosed {
			t.Errorf("Wait after Close: %v", err)
		}
		if err := e.Close(); err != ErrClosed {
			t.Errorf("second Close: %v", err)
		}
		if err := e.Add(os.Stdin, 1); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Add after Close: %v", err)
		}
	}
}

func TestRlimits(t *testing.T) {
	for kind, rlimit := range map[Limit]int{
		LimitNofile: unix.RLIMIT_NOFILE, LimitMemlock: unix.RLIMIT_MEMLOCK, LimitNproc: unix.RLIMIT_NPROC,
		LimitCore: unix.RLIMIT_CORE, LimitAS: unix.RLIMIT_AS,
	} {
		var r unix.Rlimit
		unix.Getrlimit(rlimit, &r)
		cur, most, err := Getrlimit(kind)
		if cur != r.Cur || most != r.Max || err != nil {
			t.Errorf("Getrlimit(%d) = %d, %d, %v, want %d, %d", kind, cur, most, err, r.Cur, r.Max)
		}
		if err := Setrlimit(kind, cur, most); err != nil {
			t.Errorf("Setrlimit(%d) to what it is: %v", kind, err)
		}
	}
	if err := Setrlimit(LimitCore, 2, 1); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("cur > max: %v", err)
	}
	if _, _, err := Getrlimit(1000); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("unknown limit: %v", err)
	}
	if Unlimited != math.MaxUint64 {
		t.Errorf("Unlimited = %d", Unlimited)
	}
}
