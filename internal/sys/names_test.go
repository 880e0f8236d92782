package sys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// A name that is lost is told once, with what the file was like at last; one that is watched again, again.
func TestNameWatch(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	if err := os.WriteFile(one, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := WatchNames(one, two)
	if err != nil {
		t.Fatal(err)
	}
	next := func(path string, mode uint32) {
		t.Helper()
		got, was, err := w.Next()
		if err != nil || got != path || was.Mode != mode {
			t.Fatalf("%s %o, %v; want %s %o", got, was.Mode, err, path, mode)
		}
	}
	next(two, 0) // was never there
	if err := os.Chmod(one, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(one); err != nil {
		t.Fatal(err)
	}
	next(one, 0o640)
	if err := w.Again(one); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	next(one, 0)
	for _, lose := range []func() error{
		func() error { return os.Rename(one, two) },
		func() error { return os.Rename(two, one) }, // it takes the place of another
	} {
		if err := os.WriteFile(one, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.Again(one); err != nil {
			t.Fatal(err)
		}
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		next(one, 0o600)
	}
	ended := make(chan error)
	go func() {
		_, _, err := w.Next()
		ended <- err
	}()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
}
