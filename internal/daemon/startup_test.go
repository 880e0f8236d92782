package daemon_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
)

// A daemon that may have too few open files says so, and how many it needs, wherever it notices.
func TestFewOpenFiles(t *testing.T) {
	t.Parallel()
	for _, most := range []int{10, 12, 16, 20, 24} {
		cmd := exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0"`, most), filepath.Join(testregion.Binaries(t), "shmd"))
		cmd.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+t.TempDir())
		out, err := cmd.CombinedOutput()
		text := string(out)
		if err == nil || cmd.ProcessState.ExitCode() != 1 || strings.Contains(text, "system-call filter") ||
			!strings.Contains(text, "too many open files: with all workers and outsiders the daemon needs ") ||
			!strings.Contains(text, fmt.Sprintf("and may have %d; raise the limit (LimitNOFILE= in the unit, ulimit -n in a shell)", most)) {
			t.Errorf("with %d: %v\n%s", most, err, text)
		}
	}
}

// With fewer than Go's runtime needs for itself it says that, where the runtime ended it with a trace.
func TestHardlyAnyOpenFiles(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"shmd", "shmctl"} {
		for most := 4; most < 12; most++ { // the shell needs one
			cmd := exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0"`, most), filepath.Join(testregion.Binaries(t), program))
			if program == "shmctl" {
				cmd.Args = append(cmd.Args, "status")
				cmd.Args[2] = fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, most)
			}
			cmd.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+t.TempDir())
			out, err := cmd.CombinedOutput()
			text := string(out)
			if err == nil || strings.Contains(text, "goroutine") || most < 9 && !strings.Contains(text, "too many open files") {
				t.Errorf("%s with %d: %v\n%s", program, most, err, text)
			}
			if most == 4 && !strings.HasPrefix(text, program+": too many open files: ") {
				t.Errorf("%s: %s", program, text)
			}
		}
	}
}

// A runtime directory in which others may put a socket in the place of the daemon's is warned of.
func TestOpenDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	warned(t, dir, "everybody may write to the runtime directory, and so pretend to be the daemon", "chmod o-w "+dir)
}

// So is one that belongs to another user.
func TestDirectoryOfAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("not tested: only root can give a directory to another user; use 'sudo -E go test ./internal/daemon'")
		if os.Getenv("CI") != "" {
			t.Fail()
		}
		return
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 65534, -1); err != nil {
		t.Fatal(err)
	}
	warned(t, dir, "the runtime directory belongs to another user, who may pretend to be the daemon", `"user":65534`, "chown 0 "+dir)
}

// warned starts a daemon in a runtime directory, which must log a line with all of the words before its worker is ready.
func warned(t *testing.T, dir string, words ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(testregion.Binaries(t), "shmd"))
	cmd.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+dir)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines, warned := bufio.NewScanner(log), false
	for lines.Scan() {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(lines.Text(), w) }) {
			warned = true
			cmd.Process.Signal(syscall.SIGTERM)
		}
		if strings.Contains(lines.Text(), `"worker ready"`) && !warned { // later than the warning
			t.Error("started without a word")
			cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
