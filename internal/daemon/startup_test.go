package daemon_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
