package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/region"
)

// With this in the environment the test binary is the program itself, and so is what that starts.
const mainEnv = "QUITFLAG_TEST_MAIN"

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

var printed = regexp.MustCompile(`^child (\d+) runs, and sleeps on the quit word
saw the flag +(\S+) after the store
was gone +(\S+) after the store
$`)

func TestFlagEndsTheChild(t *testing.T) {
	cmd, stdout, stderr := command(t)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	m := printed.FindStringSubmatch(stdout.String())
	if m == nil {
		t.Fatalf("it printed:\n%s", stdout)
	}
	seen, err := time.ParseDuration(m[2])
	if err != nil {
		t.Fatal(err)
	}
	gone, err := time.ParseDuration(m[3])
	if err != nil {
		t.Fatal(err)
	}
	if seen <= 0 || gone < seen || gone > patience {
		t.Errorf("seen after %v, gone after %v", seen, gone)
	}
	pid, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sys.ProcState(pid); pid == cmd.Process.Pid || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("process %d (parent %d): %v", pid, cmd.Process.Pid, err)
	}
	t.Logf("seen after %v, gone after %v", seen, gone)
}

// TestOnlyTheFlagEndsTheChild rings the child without raising the flag, by a wake-up alone and by every
// other bit of the word; then each bit of the flag ends one.
func TestOnlyTheFlagEndsTheChild(t *testing.T) {
	for _, flag := range []uint32{1, 0x80, 0xff} {
		seg, err := region.Create(region.Options{Name: "test", Size: size})
		if err != nil {
			t.Fatal(err)
		}
		defer seg.Close()
		cmd, _, stderr := command(t, "child")
		region.Extra(cmd, seg.File())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		b := seg.Bytes()
		quit, looks, seen := sys.Word(b, offQuit), sys.Word(b, offLooks), sys.Word(b, offSeen)
		for _, other := range []uint32{0, 0x100, 0x80000000, 0xffffff00} {
			before := looks.Load()
			quit.Or(other)
			for looks.Load() == before { // until it has looked again, and gone on
				sys.FutexWake(quit, 1)
				runtime.Gosched()
			}
		}
		if seen.Load() != 0 {
			t.Errorf("it saw a flag in %#x", quit.Load())
		}
		quit.Or(flag)
		sys.FutexWake(quit, 1)
		if err := cmd.Wait(); err != nil {
			t.Errorf("flag %#x: %v: %s", flag, err, stderr)
		}
		if seen.Load() == 0 {
			t.Errorf("flag %#x: it ended for another reason", flag)
		}
	}
}

func TestUsage(t *testing.T) {
	r, w, err := os.Pipe() // in place of the memory, whatever descriptors the test was started with
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd, _, stderr := command(t, "child")
	region.Extra(cmd, r)
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "not inherited") {
		t.Errorf("a child without a parent: %v: %s", err, stderr)
	}
	cmd, _, stderr = command(t, "now")
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 2 || stderr.String() != "usage: quitflag\n" {
		t.Errorf("%v: %s", err, stderr)
	}
}
