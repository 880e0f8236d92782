package cli

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// What cannot be written is an error, of the checks that scripts call too.
func TestFullOutput(t *testing.T) {
	t.Setenv("RUNTIME_DIRECTORY", t.TempDir())
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	said, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	for _, args := range [][]string{{"doctor"}, {"version"}, {"--help"}, {"help", "stop"}, {"ch", "ls", "--help"}, {"completion", "bash"}, {"__complete", "st"}} {
		said.Truncate(0)
		said.Seek(0, io.SeekStart)
		if code := Main(args, bytes.NewReader(nil), full, said); code != ExitFailed {
			t.Errorf("%s: exit code %d", args, code)
		}
		if b, _ := io.ReadAll(io.NewSectionReader(said, 0, 1<<20)); !bytes.Contains(b, []byte("no space left on device")) {
			t.Errorf("%s: said %q", args, b)
		}
	}
}
