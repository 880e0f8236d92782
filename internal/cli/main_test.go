package cli

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// bin is where the programs under test are, once build has made them.
var bin string

// build builds the real programs: the daemon execs itself through /proc/self/exe, so that the test program cannot stand in for it.
var build = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "shmctl")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // other users run them too
		return err
	}
	bin = dir
	const module = "github.com/shmd/shmd"
	for _, args := range [][]string{
		{"-o", bin + "/", module + "/cmd/shmd", module + "/cmd/shmctl"},
		{"-o", filepath.Join(bin, "shmd-next"), "-ldflags=-X " + module + "/internal/version.Version=v0.0.0-next", module + "/cmd/shmd"},
		{"-o", filepath.Join(bin, "shmctl-other"), "-ldflags=-X " + module + "/internal/version.Version=v0.0.0-other", module + "/cmd/shmctl"},
	} {
		if out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if bin != "" {
		os.RemoveAll(bin)
	}
	os.Exit(code)
}
