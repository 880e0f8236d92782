package daemon_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// toil does what a message says: "loop" and "stop" once, and never end; "beat" and "call" compute for three seconds, with a heartbeat or a call of the
// library now and then.
func toil(r *shm.Region, m *shm.Message) error {
	word, rest := string(m.Bytes()), 3*time.Second
	if m.Deliveries() > 0 { // it was the death of the one before
		return m.Ack()
	}
	fmt.Println("toils:", word)
	for begin := time.Now(); word == "loop" || word == "stop" || time.Since(begin) < rest; {
		switch word {
		case "beat":
			r.Beat()
		case "call":
			q, err := r.Queue("jobs")
			if err == nil {
				_, err = q.TryReceive()
			}
			if err != shm.ErrEmpty {
				return err
			}
		case "stop":
			syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		}
	}
	fmt.Println("done:", word)
	return m.Ack()
}

func init() {
	roles["toil"] = func() error { return consume(toil, true) }
}

func TestHungWorkers(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+group(t, "w", "toil", "consume = [\"jobs\"]", "watchdog = \"1s\"", "backoff_min = \"1ms\""))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	send := func(word string) {
		t.Helper()
		if err := q.Send(context.Background(), []byte(word)); err != nil {
			t.Fatal(err)
		}
	}
	begin := awaitState(d, "w.0", protocol.StateReady)
	for _, word := range []string{"beat", "call"} { // works for three times the watchdog
		send(word)
		d.WaitLog("done: " + word)
	}
	if w := awaitState(d, "w.0", protocol.StateReady); w.Pid != begin.Pid {
		t.Fatalf("%+v is another than %+v", w, begin)
	}
	hang := func(what string, old protocol.Worker) protocol.Worker {
		t.Helper()
		w := await(d, "w.0", func(w protocol.Worker) bool { return w.State == protocol.StateReady && w.Pid != old.Pid })
		if w.Restarts != old.Restarts+1 {
			t.Errorf("%s: %+v", what, w)
		}
		if n := len(records(t, d, func(r record) bool { return r.Message == "worker hangs: it gets SIGABRT" && r.Pid == old.Pid })); n != 1 {
			t.Errorf("%s: %d records of the hang", what, n)
		}
		return w
	}
	send("loop")
	w := hang("a loop", begin)
	d.WaitLog("SIGABRT: abort") // the stacks of its goroutines are in the log
	send("stop")
	w = hang("stopped while it worked", w)
	syscall.Kill(w.Pid, syscall.SIGSTOP)
	w = hang("stopped while it slept", w)

	d.Kill()
	d.Again()
	d.WaitReady()
	send("loop")
	w = hang("a loop, and a later daemon", w)
	if _, out, _ := d.Shmctl("status"); strings.Contains(out, "failed") {
		t.Error(out)
	}
}

// A hang is a crash: it counts for the limit, and the reason says what it was.
func TestHangsUntilGivenUp(t *testing.T) {
	t.Parallel()
	d := testregion.Launch(t, named+group(t, "w", "deaf", "watchdog = \"300ms\"", "backoff_min = \"1ms\"", "crash_limit = 1"))
	w := awaitState(d, "w.0", protocol.StateFailed)
	if !strings.HasPrefix(w.Reason, "ended 2 times within 10m0s, last: no heartbeat for ") || !strings.HasSuffix(w.Reason, "; exit code 2") {
		t.Errorf("%+v", w)
	}
}

// A reload that turns the watchdog on, or makes it shorter, holds for what runs already.
func TestWatchdogOfAReload(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"0s", "1h"} {
		config := named + group(t, "w", "deaf", `backoff_min = "1ms"`, "crash_limit = 0", `watchdog = "WATCHDOG"`)
		d := testregion.Start(t, strings.Replace(config, "WATCHDOG", before, 1))
		w := awaitState(d, "w.0", protocol.StateReady)
		path := filepath.Join(d.Dir, "shmd.toml")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(text), fmt.Sprintf("watchdog = %q", before), `watchdog = "300ms"`, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		shmctl(t, d, "reload")
		await(d, "w.0", func(now protocol.Worker) bool { return now.Pid != w.Pid })
		if n := len(records(t, d, func(r record) bool { return r.Message == "worker hangs: it gets SIGABRT" && r.Pid == w.Pid })); n != 1 {
			t.Errorf("watchdog = %q before: %d records of the hang", before, n)
		}
	}
}

// switches counts how often a thread of the process was given a CPU.
func switches(t *testing.T, pid int) (n int) {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, task := range tasks {
		var ran, waited, slices int
		b, _ := os.ReadFile(task)
		if _, err := fmt.Sscan(string(b), &ran, &waited, &slices); err != nil {
			continue // it has ended
		}
		n += slices
	}
	return n
}

// The watchdog of sleeping workers wakes nobody: neither the daemon nor them.
func TestWatchdogOfTheIdle(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+idle("idle", "count = 10", "watchdog = \"100ms\"")+group(t, "w", "toil", "consume = [\"jobs\"]", "watchdog = \"100ms\"", "count = 10"))
	workers := d.WaitReady()
	pass := func(what string, time_ time.Duration) {
		begin := time.Now()
		eventually(t, what, func() bool { return time.Since(begin) > time_ })
	}
	pass("each was looked at", time.Second)
	before := switches(t, d.Cmd.Process.Pid)
	pass("thirty times the watchdog", 3*time.Second)
	if n := switches(t, d.Cmd.Process.Pid) - before; n > 100 { // with looks it would be 1200; Go's own are some
		t.Errorf("the daemon ran %d times", n)
	}
	for i, w := range d.WaitReady() {
		if w != workers[i] {
			t.Errorf("%+v became %+v", workers[i], w)
		}
	}
}

// A worker that waits without sleeping answers the watchdog while it waits, and obeys the quit flag.
func TestSpinningWorker(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+"[channel.others]\nslots = 2\n[worker.w]\nbuiltin = \"echo\"\nconsume = [\"others\"]\nproduce = [\"jobs\"]\nwait = \"spin\"\nwatchdog = \"2s\"\n")
	before := awaitState(d, "w.0", protocol.StateReady)
	begin := time.Now()
	eventually(t, "three times the watchdog", func() bool { return time.Since(begin) > 6*time.Second })
	if w := awaitState(d, "w.0", protocol.StateReady); w != before {
		t.Errorf("%+v became %+v", before, w)
	}
	if out := shmctl(t, d, "stop", "-o", "json", "w"); !strings.Contains(out, `"how":"flag"`) {
		t.Error(out)
	}
}
