package main

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/region"
)

// With this in the environment the test binary is the program itself, and so is what that starts.
const mainEnv = "PARENTCHILD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func command(t *testing.T, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), mainEnv+"=1", "GORACE=atexit_sleep_ms=0")
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

func TestChildPrintsTheSum(t *testing.T) {
	for range 5 { // whoever comes first
		cmd, stdout, stderr := command(t)
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, stderr)
		}
		if stdout.String() != "30\n" {
			t.Errorf("stdout is %q", stdout)
		}
		var parent, child int
		for line := range strings.Lines(stderr.String()) {
			if pid, ok := strings.CutPrefix(line, "parent, process "); ok {
				parent = atoi(pid)
			}
			if pid, ok := strings.CutPrefix(line, "child, process "); ok {
				child = atoi(pid)
			}
		}
		if parent != cmd.Process.Pid || child == 0 || child == parent {
			t.Errorf("parent %d (started %d), child %d: %s", parent, cmd.Process.Pid, child, stderr)
		}
	}
}

func atoi(s string) (n int) {
	for _, c := range s {
		if c < '0' || c > '9' {
			break
		}
		n = 10*n + int(c-'0')
	}
	return n
}

// TestChildWaits is the parent itself, and does not write before the child sleeps in the kernel.
func TestChildWaits(t *testing.T) {
	seg, err := region.Create(region.Options{Name: "test", Size: size})
	if err != nil {
		t.Fatal(err)
	}
	defer seg.Close()
	cmd, stdout, stderr := command(t, "child")
	region.Extra(cmd, seg.File())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := sys.Word(seg.Bytes(), offReady)
	// Wake it without cause, over and over: when one was woken, it was asleep. It has to go back to sleep:
	// if it added up now, it would print 0.
	for range 2 {
		for sys.FutexWake(ready, 1) == 0 {
			runtime.Gosched()
		}
	}
	sys.Word(seg.Bytes(), offFirst).Store(1 << 31)
	sys.Word(seg.Bytes(), offSecond).Store(7)
	ready.Store(1)
	sys.FutexWake(ready, 1)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	if stdout.String() != "2147483655\n" {
		t.Errorf("stdout is %q", stdout)
	}
}

func TestChildWithoutParent(t *testing.T) {
	r, w, err := os.Pipe() // in place of the memory, whatever descriptors the test was started with
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd, _, stderr := command(t, "child")
	region.Extra(cmd, r)
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "not inherited") {
		t.Errorf("%v: %s", err, stderr)
	}
	cmd, _, stderr = command(t, "brother")
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 2 || stderr.String() != "usage: parentchild\n" {
		t.Errorf("%v: %s", err, stderr)
	}
}
