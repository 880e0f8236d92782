package daemon_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// regionEvents are the causes of those of the region's kind, in order.
func regionEvents(t *testing.T, d *testregion.Region) (list []string) {
	t.Helper()
	out := shmctl(t, d, "events")
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 5 && f[3] == "region" {
			list = append(list, f[5])
		}
	}
	return list
}

// A socket that somebody removes is made anew, as it was, as often as it takes. Who is attached does not notice.
func TestTheSocketIsMadeAnew(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+idle("w", "count = 1"))
	d.WaitReady()
	r := d.Attach(shm.Options{Region: d.Name, Socket: d.Socket, Produce: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	const mode = 0o624 // as nothing but an operator makes it
	if err := os.Chmod(d.Socket, mode); err != nil {
		t.Fatal(err)
	}
	group := uint32(os.Getegid())
	if os.Geteuid() == 0 {
		group = 12345
	}
	if err := os.Chown(d.Socket, -1, int(group)); err != nil {
		t.Fatal(err)
	}
	for _, remove := range []func() error{
		func() error { return os.Remove(d.Socket) },
		func() error { return os.Rename(d.Socket, d.Socket+".away") },
		func() error { return os.Rename(d.Socket+".away", d.Socket) },
	} {
		said := strings.Count(d.Log(), "it was made anew")
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		for strings.Count(d.Log(), "it was made anew") == said {
			d.WaitLog("it was made anew", d.Socket)
		}
		st, err := os.Lstat(d.Socket)
		if err != nil || st.Mode().Perm() != mode || st.Sys().(*syscall.Stat_t).Gid != group {
			t.Errorf("%v, %v", st, err)
		}
		if _, errs, code := d.Shmctl("status"); code != 0 || errs != "" { // no warning: the daemon gave the memory
			t.Errorf("exit code %d: %s", code, errs)
		}
		if err := q.Send(within(t), []byte("message")); err != nil {
			t.Error(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if got, want := regionEvents(t, d), append([]string{"created"}, slices.Repeat([]string{"lost", "restored"}, 3)...); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	d.Stop()
	if _, err := os.Lstat(d.Socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// The same with its directory. The lock is lost then, which is told, and another daemon is refused all the same.
func TestTheSocketIsMadeAnewWithItsDirectory(t *testing.T) {
	t.Parallel()
	t.Run("moved away", func(t *testing.T) { t.Parallel(); loseDirectory(t, false) })
	t.Run("removed", func(t *testing.T) { t.Parallel(); loseDirectory(t, true) })
}

func loseDirectory(t *testing.T, removed bool) {
	d := testregion.Start(t, named+idle("w", "count = 1"))
	d.WaitReady()
	toml, err := os.ReadFile(filepath.Join(d.Dir, "shmd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	away := filepath.Join(t.TempDir(), "away") // a directory that is emptied in its place may have a new socket before it can be removed
	if err := os.Rename(d.Dir, away); err != nil {
		t.Fatal(err)
	}
	if removed {
		if err := os.RemoveAll(away); err != nil {
			t.Fatal(err)
		}
	}
	d.WaitLog("it was made anew", d.Socket)
	d.WaitLog("somebody has removed a file of this region", "without its lock", d.Name+".lock")
	if _, errs, code := d.Shmctl("status"); code != 0 || errs != "" {
		t.Errorf("exit code %d: %s", code, errs)
	}
	other := filepath.Join(t.TempDir(), "shmd.toml")
	if err := os.WriteFile(other, toml, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := shmd(t, []string{"RUNTIME_DIRECTORY=" + d.Dir}, "-c", other); code != 1 || !strings.Contains(errs, "which lives, though its lock") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
}

// While the daemon cannot make it anew, a second one says what is missing.
func TestASecondDaemonSaysThatTheSocketIsAway(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w", "count = 1"))
	d.WaitReady()
	d.Cmd.Process.Signal(syscall.SIGSTOP)
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(d.Cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() { // all of its threads
		t.Fatal(status, err)
	}
	if err := os.Remove(d.Socket); err != nil {
		t.Fatal(err)
	}
	_, errs, code := shmd(t, []string{"RUNTIME_DIRECTORY=" + d.Dir}, "-c", filepath.Join(d.Dir, "shmd.toml"))
	want := fmt.Sprintf("%q is run by pid %d (lock %s), whose socket %s is not there: if it is neither just starting nor stopping, somebody has removed that; end the daemon alone with `kill -9 %[2]d`",
		d.Name, d.Cmd.Process.Pid, filepath.Join(d.Dir, d.Name+".lock"), d.Socket)
	if code != 1 || !strings.Contains(errs, want) {
		t.Errorf("exit code %d\n%swant\n%s", code, errs, want)
	}
	d.Cmd.Process.Signal(syscall.SIGCONT)
	d.WaitLog("it was made anew", d.Socket)
}

// A socket that goes away with its directory beside an upgrade is made anew, by the program before or by the next.
func TestTheSocketIsMadeAnewByAnUpgrade(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w", "count = 1"))
	before := d.WaitReady()
	away := filepath.Join(t.TempDir(), "away")
	d.Cmd.Process.Signal(syscall.SIGSTOP)
	defer d.Cmd.Process.Signal(syscall.SIGCONT)
	if _, err := syscall.Wait4(d.Cmd.Process.Pid, nil, syscall.WUNTRACED, nil); err != nil { // a signal stops a process some time later
		t.Fatal(err)
	}
	if err := os.Rename(d.Dir, away); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(away, "shmd.toml"), filepath.Join(d.Dir, "shmd.toml")); err != nil {
		t.Fatal(err)
	}
	upgrade := exec.Command(filepath.Join(testregion.Binaries(t), "shmctl"), "-s", filepath.Join(away, filepath.Base(d.Socket)), "-r", d.Name, "upgrade", "--timeout=60s")
	upgrade.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+d.Dir)
	says, err := upgrade.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := upgrade.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(says)
	asks, _ := said.ReadString('\n') // that the daemon is stopped: it is connected
	d.Cmd.Process.Signal(syscall.SIGCONT)
	rest, _ := io.ReadAll(said)
	if err := upgrade.Wait(); err != nil {
		t.Errorf("%v: %s%s", err, asks, rest)
	}
	d.WaitLog("it was made anew", d.Socket)
	d.WaitLog("somebody has removed a file of this region", d.Name+".lock")
	if _, errs, code := d.Shmctl("status"); code != 0 || errs != "" {
		t.Errorf("exit code %d: %s", code, errs)
	}
	if after := d.WaitReady(); after[0].Pid != before[0].Pid {
		t.Errorf("pid %d became %d", before[0].Pid, after[0].Pid)
	}
}
