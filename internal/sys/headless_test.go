package sys

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"testing"
)

func init() {
	helpers["headless"] = headless
	if os.Getenv(helperEnv) == "headless" {
		runtime.LockOSThread() // main runs on the main thread
	}
}

// mainIsZombie reports what the kernel says of a process's main thread.
func mainIsZombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && bytes.Contains(b, []byte(") Z "))
}

// headless is a process whose main thread has ended; it says ready then, and ends with its input.
func headless() {
	go func() {
		for !mainIsZombie(os.Getpid()) {
			runtime.Gosched()
		}
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0)
}

// A process lives while a thread of it does. In an upgrade the daemon's main thread ends for a moment, and it counted as dead.
func TestProcStateWithoutMainThread(t *testing.T) {
	cmd, in := startHelper(t, "headless")
	if state, err := ProcState(cmd.Process.Pid); err != nil || state != 'R' || !mainIsZombie(cmd.Process.Pid) {
		t.Errorf("state %q, %v", state, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
