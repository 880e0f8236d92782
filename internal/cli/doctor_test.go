package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
)

// A daemon that makes its memory has a lock, and nothing else yet: this test is one.
func TestDoctorBesideADaemonThatStarts(t *testing.T) {
	dir := testregion.Dir(t)
	doctor := func() string {
		c := exec.Command(filepath.Join(testregion.Binaries(t), "shmctl"), "-r", "begins", "doctor")
		c.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+dir)
		out, _ := c.Output()
		return string(out)
	}
	lock, err := os.Create(filepath.Join(dir, "begins.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := sys.Flock(lock); !ok || err != nil {
		t.Fatal(ok, err)
	}
	fmt.Fprint(lock, os.Getpid())
	if out, want := doctor(), fmt.Sprintf("pid %d is starting, and does not answer yet", os.Getpid()); !strings.Contains(out, want) || strings.Contains(out, "none runs") {
		t.Errorf("no %q in\n%s", want, out)
	}
	lock.Close() // it has died
	if out := doctor(); !strings.Contains(out, "none runs") || strings.Contains(out, "is starting") {
		t.Errorf("of a daemon that died:\n%s", out)
	}
}
