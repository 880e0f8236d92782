package daemon_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
)

// becomes makes a setuid program that runs the rest of its arguments as the user with that uid, who is nobody's and not root.
func becomes(t *testing.T) (command string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test must run as root")
	}
	from, err := exec.LookPath("setpriv")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(testregion.Dir(t), "becomes")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, os.ModeSetuid|0o755); err != nil { // after the write, which takes the bit away
		t.Fatal(err)
	}
	return fmt.Sprintf("%q, \"--reuid=1\", \"--\", ", path)
}

// A daemon that is not root cannot end a worker that became another user. It says so, and the region ends when somebody else has ended it.
func TestWorkerThatBecameAnother(t *testing.T) {
	t.Parallel()
	d := testregion.LaunchAs(t, nobody, named+"[worker.w]\ncommand = ["+becomes(t)+`"sh", "-c", "trap '' TERM; echo armed; while :; do sleep 1000 & wait; done"]`+"\nstop_timeout = \"10ms\"\n")
	d.WaitLog(`"@message":"armed"`)
	pid := awaitState(d, "w.0", protocol.StateReady).Pid
	operator(t, d).Stop([]int{0}, []int{0}, false)
	for _, sig := range []string{"SIGTERM", "SIGKILL"} {
		d.WaitLog(`"@message":"worker cannot be signalled"`, fmt.Sprintf(`"next":"as root: kill -KILL %d"`, pid), fmt.Sprintf(`"signal":%q`, sig))
	}
	want := fmt.Sprintf("it became another user, whom the daemon may not signal: end it as root, kill -KILL %d", pid)
	if w := awaitState(d, "w.0", protocol.StateStopping); w.Reason != want {
		t.Errorf("%+v", w)
	}
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if w := awaitState(d, "w.0", protocol.StateExited); w.Reason != "stopped" {
		t.Errorf("%+v", w)
	}
}

// A shim cannot end a filter that became another user. It ends itself, and the daemon, which is root here, ends the filter.
func TestFilterThatBecameAnother(t *testing.T) {
	t.Parallel()
	d := testregion.Launch(t, named+"[channel.in]\n[channel.out]\n[worker.w]\ncommand = ["+becomes(t)+`"sh", "-c", "echo I am $$ >&2; echo unasked; exec sleep 1000"]`+
		"\nstdin = \"in\"\nstdout = \"out\"\nuser = \"nobody\"\nrestart = \"never\"\n")
	w := await(d, "w.0", func(w protocol.Worker) bool {
		return w.State == protocol.StateExited || w.State == protocol.StateFailed
	})
	if !strings.Contains(w.Reason, "the filter wrote a line that no message asked for") {
		t.Errorf("%+v", w)
	}
	said := records(t, d, func(r record) bool { return strings.HasPrefix(r.Message, "I am ") })
	if len(said) != 1 {
		t.Fatalf("%+v", said)
	}
	var pid int
	fmt.Sscanf(said[0].Message, "I am %d", &pid)
	eventually(t, "the filter has ended, and was reaped", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH }) // the signal alone is sent before the row is written
}
