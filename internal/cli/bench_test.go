package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// However bench ends, its two processes end with it, and with them the memory, which nobody else has.
func TestBenchLeavesNothing(t *testing.T) {
	if err := build(); err != nil {
		t.Fatal(err)
	}
	for signal, want := range map[syscall.Signal]string{syscall.SIGINT: "shmctl: interrupted\n", syscall.SIGTERM: "shmctl: interrupted\n", syscall.SIGKILL: ""} {
		for _, kind := range benchKinds {
			t.Run(fmt.Sprint(signal, " ", kind), func(t *testing.T) {
				t.Parallel()
				plot := filepath.Join(t.TempDir(), "plot.svg")
				cmd := exec.Command(bin+"/shmctl", "bench", "--time", "1h", "--plot", plot, kind)
				var errs bytes.Buffer
				cmd.Stderr = &errs
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				deadline := time.Now().Add(patience)
				until := func(what string, ok func() bool) {
					for !ok() {
						if time.Now().After(deadline) {
							cmd.Process.Kill()
							t.Fatalf("not %s within %v", what, patience)
						}
						runtime.Gosched()
					}
				}
				var ends []string
				until("two processes", func() bool {
					ends = childrenOf(cmd.Process.Pid)
					return len(ends) == 2
				})
				cmd.Process.Signal(signal)
				err := cmd.Wait()
				var exit *exec.ExitError
				if !errors.As(err, &exit) {
					t.Fatal(err)
				}
				if errs.String() != want || signal != syscall.SIGKILL && exit.ExitCode() != ExitFailed {
					t.Errorf("%v: %s", err, errs.String())
				}
				for _, pid := range ends {
					until("the end of process "+pid, func() bool { return hasEnded(pid) })
				}
				if left, _ := filepath.Glob(filepath.Join(filepath.Dir(plot), "*")); signal != syscall.SIGKILL && len(left) > 0 {
					t.Errorf("left behind: %q", left)
				}
			})
		}
	}
}

// childrenOf are the pids of a process's children, whichever of its threads started them.
func childrenOf(pid int) []string {
	var all []string
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range tasks {
		b, _ := os.ReadFile(path)
		all = append(all, strings.Fields(string(b))...)
	}
	return all
}

// hasEnded reports whether a process is gone, or waits for a parent that does not ask.
func hasEnded(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(state, "Z")
}
