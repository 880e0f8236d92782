package cli

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestTexts(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{took(0), "0 ns"}, {took(999), "999 ns"}, {took(8310), "8.31 µs"}, {took(12345678), "12.3 ms"}, {took(123456789), "123 ms"},
		{took(1250 * time.Millisecond), "1.25 s"}, {took(75 * time.Second), "1m15s"},
		{age(-time.Second), "0s"}, {age(12 * time.Second), "12s"}, {age(429 * time.Second), "7m9s"}, {age(7500 * time.Second), "2h5m"}, {age(76 * time.Hour), "3d4h"},
		{size(0), "0 B"}, {size(1023), "1023 B"}, {size(4096), "4 KiB"}, {size(1 << 20 * 3 / 2), "1.5 MiB"}, {size(1 << 46), "64 TiB"}, {size(1<<63 - 1), "8 EiB"},
		{count(1, "worker"), "1 worker"}, {count(0, "worker"), "0 workers"}, {count(2, "process"), "2 processes"},
		{printable("größe\x07\x1b"), "größe\uFFFD\uFFFD"},
	} {
		if c.got != c.want {
			t.Errorf("%q, not %q", c.got, c.want)
		}
	}
}

// Colours are for terminals, and for those who want them.
func TestColor(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if got := (&app{stdout: terminal}).paint(red, "x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("on a terminal: %q", got)
	}
	if got := (&app{stdout: file}).paint(red, "x"); got != "x" {
		t.Errorf("in a file: %q", got)
	}
	if got := (&app{stdout: terminal, noColor: true}).paint(red, "x"); got != "x" {
		t.Errorf("with --no-color: %q", got)
	}
	t.Setenv("NO_COLOR", "1")
	if got := (&app{stdout: terminal}).paint(red, "x"); got != "x" {
		t.Errorf("with NO_COLOR: %q", got)
	}
}

// A table has aligned columns, whatever the colours and the letters.
func TestTable(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	table := (&app{stdout: file}).newTable("NAME", "N")
	table.add(cell{"größe", red}, 1)
	table.add("", "a\nb")
	if err := table.print(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file.Name())
	if want := "NAME   N\ngröße  1\n-      a\uFFFDb\n"; err != nil || string(got) != want {
		t.Errorf("printed %q, not %q (%v)", got, want, err)
	}
}
