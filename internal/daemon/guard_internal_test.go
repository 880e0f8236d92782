package daemon

import (
	"os/exec"
	"testing"

	"github.com/shmd/shmd/internal/sys"
)

// The guard ends as soon as the region is asked to stop, which may take long. Its pidfd stays readable, so it must not be watched any longer: the daemon would
// do nothing else.
func TestGuardThatEndsInAStop(t *testing.T) {
	d := &Daemon{stopping: true}
	var err error
	if d.deaths, err = sys.NewEpoll(); err != nil {
		t.Fatal(err)
	}
	defer d.deaths.Close()
	cmd := exec.Command("cat") // until its input ends
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd, err := sys.PidfdOpen(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	d.guard = &guardProcess{process: cmd.Process, pidfd: pidfd}
	if err := d.deaths.Add(pidfd, guardToken); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if tokens, err := d.deaths.Wait(-1); err != nil || len(tokens) != 1 || tokens[0] != guardToken {
		t.Fatalf("%v, %v", tokens, err)
	}
	d.guardEnded()
	if tokens, err := d.deaths.Wait(0); err != nil || len(tokens) != 0 {
		t.Errorf("its end is reported again: %v, %v", tokens, err)
	}
	d.endGuard()
}
