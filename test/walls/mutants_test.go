package walls

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
)

// Walls are taken away, each once (that of a cgroup's processes was by hand: its test ends when its patience does), in a shmd that is built from a changed text: the test of that wall must see it.
var mutants = []struct{ name, test, file, old, new string }{
	{"what a worker's start lacks is the end of the daemon", "TestDescriptors", "internal/daemon/supervisor.go",
		`d.log.Error("worker could not be started", "worker", w.row.Name, "error", err)`, `panic(err)`},
	{"the cgroup's memory is not looked at", "TestMemoryOfACgroup", "pkg/region/create.go", "checkLimits(o.Name, size, !o.Sparse && !o.HugePages)", "checkLimits(o.Name, 0, false)"},
	{"small pages will do", "TestHugePages", "internal/daemon/memory.go", "HugePages: r.HugePages && !sparse,", "HugePages: false,"},
	{"the lock's error has no cause", "TestFullRuntimeDirectory", "internal/daemon/lock.go", `"lock of region %q: %w; %s", region, err, elsewhere`, `"lock of region %q; %s", region, elsewhere`},
}

// mutantVariable is the directory with the programs of a mutant.
const mutantVariable = "WALLS_MUTANT"

// patience is how long something may take.
var patience = testregion.Limit

func binaries(t *testing.T) string {
	if dir := os.Getenv(mutantVariable); dir != "" {
		return dir
	}
	return testregion.Binaries(t)
}

func TestMutants(t *testing.T) {
	if os.Getenv(mutantVariable) != "" {
		t.Fatal("a mutant of a mutant")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.test, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(root, m.file)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(b), m.old); n != 1 {
				t.Fatalf("%s: what it replaces is %d times in %s: write the mutant anew", m.name, n, m.file)
			}
			changed, overlay := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json")
			j, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
			if err != nil {
				t.Fatal(err)
			}
			for name, text := range map[string]string{changed: strings.Replace(string(b), m.old, m.new, 1), overlay: string(j)} {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			build := exec.Command("go", "build", "-overlay", overlay, "-o", dir+"/", "./cmd/shmd", "./cmd/shmctl")
			build.Dir = root
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", m.name, err, out)
			}
			// In a pid namespace of its own, which ends what the mutant leaves: the next test would meet it.
			c := exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", exe, "-test.run", fmt.Sprintf("^%s$", m.test))
			c.Env = append(os.Environ(), mutantVariable+"="+dir)
			out, err := c.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: "+m.test) {
				t.Errorf("%s: %s does not see it (%v):\n%s", m.name, m.test, err, out)
			}
		})
	}
}
