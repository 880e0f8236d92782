// Package foreign runs the workers of examples/python and examples/c, and those of testdata, over clients/c and clients/python.
package foreign

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
)

func TestMain(m *testing.M) {
	code := m.Run()
	testregion.Cleanup()
	os.Exit(code)
}

// A worker in another language becomes ready, is seen, obeys the quit flag, and acknowledges it.
func TestWorkers(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	c := t.TempDir() + "/worker"
	if out, err := exec.Command("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-I", root+"/clients/c", "-o", c, root+"/examples/c/worker.c", root+"/clients/c/shmd.c", "-lpthread").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	d := testregion.Start(t, fmt.Sprintf("[region]\nname = \"test\"\n[worker.c]\ncommand = [%q]\ncount = 2\nready = \"call\"\n[worker.python]\ncommand = [\"python3\", %q]\ncount = 2\nready = \"call\"\n",
		c, root+"/examples/python/worker.py"), library(t))
	d.WaitLog(`"@message":"ready"`, `"worker":"c.1"`, `"stream":"log"`)
	d.WaitLog(`"@message":"maps a table"`, `"worker":"python.0"`, `"stream":"log"`)
	for _, group := range []string{"c", "python"} {
		var stopped struct {
			Workers []struct {
				Name string
				Ack  int64  `json:"ack_ns"`
				Exit int64  `json:"exit_ns"`
				How  string `json:"how"`
			}
		}
		d.JSON(&stopped, "stop", group)
		if len(stopped.Workers) != 2 {
			t.Fatalf("%+v", stopped)
		}
		for _, w := range stopped.Workers {
			if w.How != "flag" || w.Ack <= 0 || w.Exit < w.Ack {
				t.Errorf("%+v", w)
			}
		}
	}
}
