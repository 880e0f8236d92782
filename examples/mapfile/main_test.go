package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/sys"
)

// With this in the environment the test binary is the program itself.
const mainEnv = "MAPFILE_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func mapfile(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), mainEnv+"=1", "GORACE=atexit_sleep_ms=0")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

const wantDump = `offset  bytes        little-endian integer
     0  78 56 34 12  0x12345678
     4  00 00 00 00  0x00000000
     8  00 00 00 00  0x00000000
    12  00 00 00 00  0x00000000
    16  00 00 00 00  0x00000000
    20  00 00 00 00  0x00000000
    24  00 00 00 00  0x00000000
    28  00 00 00 00  0x00000000
    32  00 00 00 00  0x00000000
    36  de c0 ad de  0xdeadc0de
`

func TestMissingFileIsMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ints")
	for range 2 { // the second time it is there
		out, errOut, code := mapfile(t, path)
		if code != 0 || errOut != "" {
			t.Fatalf("exit %d, stderr %q", code, errOut)
		}
		if !strings.HasPrefix(out, wantDump) || !strings.Contains(out, "from right to left") {
			t.Errorf("it printed:\n%s", out)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, 40)
		copy(want, "\x78\x56\x34\x12")
		copy(want[36:], "\xde\xc0\xad\xde")
		if !bytes.Equal(b, want) {
			t.Errorf("the file holds % x", b)
		}
	}
}

func TestOtherIntegersAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ints")
	if err := os.WriteFile(path, bytes.Repeat([]byte{7}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, code := mapfile(t, path)
	if code != 0 || strings.Count(out, "07 07 07 07  0x07070707") != 8 {
		t.Errorf("exit %d:\n%s", code, out)
	}
}

func TestOneByteMoreOrLessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ints")
	for _, n := range []int{39, 41} {
		content := bytes.Repeat([]byte{7}, n)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		out, errOut, code := mapfile(t, path)
		if code != 1 || out != "" || !strings.Contains(errOut, "bytes, not 40") || !strings.Contains(errOut, path) {
			t.Errorf("%d bytes: exit %d, stdout %q, stderr %q", n, code, out, errOut)
		}
		if b, _ := os.ReadFile(path); !bytes.Equal(b, content) {
			t.Errorf("%d bytes: the file was changed", n)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"a", "b"}} {
		if _, errOut, code := mapfile(t, args...); code != 2 || errOut != "usage: mapfile FILE\n" {
			t.Errorf("%v: exit %d, stderr %q", args, code, errOut)
		}
	}
	if _, errOut, code := mapfile(t, t.TempDir()); code != 1 || !strings.Contains(errOut, "directory") {
		t.Errorf("a directory: exit %d, stderr %q", code, errOut)
	}
}

// TestWhyNotOneByteMoreOrLess does without the check what the program refuses to do. Neither case gives
// an error: that is what is wrong with them.
func TestWhyNotOneByteMoreOrLess(t *testing.T) {
	last := uint32(0xdeadc0de)

	t.Run("less", func(t *testing.T) {
		// Memory is mapped in pages, so that 40 bytes can be stored over a file of 39. The last one goes
		// to a byte of the page that is not the file's: it is lost, and a reader finds another number.
		path := filepath.Join(t.TempDir(), "ints")
		b := mapUnchecked(t, path, 39)
		put(b, count-1, last)
		if got := binary.LittleEndian.Uint32(b[36:]); got != last {
			t.Errorf("the memory holds %#x", got)
		}
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(file) != 39 {
			t.Fatalf("the file has %d bytes", len(file))
		}
		got := binary.LittleEndian.Uint32(append(file, 0)[36:]) // who reads it, fills up
		if got != 0x00adc0de {
			t.Errorf("the file holds %#x", got)
		}
		t.Logf("stored %#x, the file of 39 bytes holds %#x: its highest byte is lost, without an error", last, got)
	})

	t.Run("more", func(t *testing.T) {
		// With 41 bytes all ten integers are right, and one byte is left that belongs to none. So it is
		// no file of ten integers: it was cut in the middle of the eleventh, or whoever wrote it put
		// something in front, and then every integer is read from the wrong four bytes.
		path := filepath.Join(t.TempDir(), "ints")
		b := mapUnchecked(t, path, 41)
		for i := range count { // a writer with a one-byte header
			put(b[1:], i, last)
		}
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got := binary.LittleEndian.Uint32(file)
		if got == last || got != 0xadc0de00 {
			t.Errorf("read %#x", got)
		}
		t.Logf("stored %#x behind one byte more, read %#x: every integer is wrong, without an error", last, got)
	})
}

// mapUnchecked makes a file of n bytes and maps as many as there are, or 40, whatever is more.
func mapUnchecked(t *testing.T, path string, n int64) []byte {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(n); err != nil {
		t.Fatal(err)
	}
	b, err := sys.Map(f, 0, int(max(n, size)), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Unmap(b) })
	return b
}
