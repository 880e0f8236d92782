package sys

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// How a process ended is known while it is a zombie, and after somebody has reaped it.
func TestExitOf(t *testing.T) {
	for _, c := range []struct {
		script string
		want   ExitInfo
	}{{"exit 3", ExitInfo{Code: 3}}, {"kill -KILL $$", ExitInfo{Signal: syscall.SIGKILL}}} {
		cmd := exec.Command("/bin/sh", "-c", c.script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := cmd.Process.Pid
		f, err := PidfdOpen(pid)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		ticks, err := StartTicks(pid)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := PollReadable([]*os.File{f}, -1); err != nil {
			t.Fatal(err)
		}
		if got, ok := ExitOf(f, pid, ticks); !ok || got != c.want {
			t.Errorf("%s, a zombie: %+v, %v", c.script, got, ok)
		}
		if got, ok := ExitOf(f, pid, ticks+1); ok && got != c.want {
			t.Errorf("%s, of another start: %+v", c.script, got)
		}
		if got, err := PidfdPid(f); err != nil || got != pid {
			t.Errorf("pid %d, not %d (%v)", got, pid, err)
		}
		cmd.Wait()
		if got, ok := ExitOf(f, pid, ticks); ok && got != c.want { // before Linux 6.15 it is unknown
			t.Errorf("%s, reaped: %+v", c.script, got)
		}
		if got, err := PidfdPid(f); err != nil || got != -1 {
			t.Errorf("pid of a process that is gone: %d (%v)", got, err)
		}
	}
}

func TestPidfdPidOfSomethingElse(t *testing.T) {
	r, w, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if pid, err := PidfdPid(r); err == nil {
		t.Errorf("a pipe is pid %d", pid)
	}
	own, err := Dup(w)
	if err != nil {
		t.Fatal(err)
	}
	own.WriteString("x")
	own.Close()
	b := make([]byte, 2)
	if n, err := r.Read(b); n != 1 || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
