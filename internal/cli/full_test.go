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
	if code := Main([]string{"doctor"}, bytes.NewReader(nil), full, said); code != ExitFailed {
		t.Errorf("exit code %d", code)
	}
	said.Seek(0, io.SeekStart)
	if b, _ := io.ReadAll(said); !bytes.Contains(b, []byte("no space left on device")) {
		t.Errorf("said %q", b)
	}
}
