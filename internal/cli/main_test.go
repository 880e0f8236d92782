package cli

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// bin is where the programs under test are.
var bin string

// TestMain builds the real programs: the daemon execs itself through /proc/self/exe, so that the test program cannot stand in
// for it.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "shmctl")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		os.Chmod(dir, 0o755) // other users run them too
		bin = filepath.Join(dir, "bin")
		const module = "github.com/shmd/shmd"
		for _, args := range [][]string{
			{"-o", bin + "/", module + "/cmd/shmd", module + "/cmd/shmctl"},
			{"-o", filepath.Join(bin, "shmctl-other"), "-ldflags=-X " + module + "/internal/version.Version=v0.0.0-other", module + "/cmd/shmctl"},
		} {
			if out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "go build %s: %v\n%s", strings.Join(args, " "), err, out)
				return 1
			}
		}
		return m.Run()
	}())
}
