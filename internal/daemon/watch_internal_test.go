package daemon

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/shmd/shmd/internal/sys"
)

// A worker that the kernel does not let the daemon watch is killed, and its end is noticed all the same, also of one that was adopted.
func TestUnwatchedWorker(t *testing.T) {
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	pidfd, err := sys.PidfdOpen(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	d := &Daemon{posted: make(chan func()), finished: make(chan struct{})}
	d.log, d.sink = newLogger(null, "test", hclog.Info)
	defer d.sink.spool.end()
	if d.deaths, err = sys.NewEpoll(); err != nil {
		t.Fatal(err)
	}
	d.deaths.Close() // so that Add fails
	d.watchWorker(&worker{proc: &process{pid: cmd.Process.Pid, pidfd: pidfd, adopted: true}})
	<-d.posted // what the supervisor is to do about its end
	if ended, err := sys.PidfdReadable(pidfd); err != nil || !ended {
		t.Errorf("its process has ended: %v, %v", ended, err)
	}
}
