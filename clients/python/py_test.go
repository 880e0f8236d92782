// Package python_test runs the tests of the Python client.
package python_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatalf("%v; install Python 3.9 or newer (Debian: apt-get install python3)", err)
	}
	// Opened here so that the go command does not take an old result from its cache after a change of what Python reads.
	for _, pattern := range []string{"shmd/*.py", "tests/*.py", "../../pkg/protocol/testdata/golden/*"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no file %s (%v)", pattern, err)
		}
		for _, file := range files {
			if _, err := os.ReadFile(file); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := exec.Command(python, "-W", "error", "-m", "unittest", "discover", "-v", "-s", "tests")
	c.Env = append(os.Environ(), "PYTHONPATH=.", "PYTHONDONTWRITEBYTECODE=1")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(c.Args, " "), err, out)
	}
	if m := regexp.MustCompile(`(?m)^Ran ([0-9]+) tests? in`).FindSubmatch(out); m == nil || string(m[1]) == "0" || strings.Contains(string(out), "skipped") {
		t.Fatalf("no test ran, or one was skipped:\n%s", out)
	}
}
