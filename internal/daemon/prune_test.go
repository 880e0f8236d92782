package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shmd/shmd/internal/outfile"
)

// The oldest of a region's dumps give way, whatever their groups are called, and no other file does.
func TestPrune(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.z.20260101T000000Z.dump", "a.b.20260102T000000Z.dump", "a.c.20260103T000000Z.dump", "a-b.z.20250101T000000Z.dump", "a.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := prune(dir, "a", 1); n != 2 {
		t.Errorf("%d were removed", n)
	}
	var left []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"a-b.z.20250101T000000Z.dump", "a.c.20260103T000000Z.dump", "a.txt"}; !slices.Equal(left, want) {
		t.Errorf("left are %v", left)
	}
}

// What a daemon that was killed in the middle of a dump left is removed, and nothing else: outfile.Create gives it its name.
func TestDropUnfinished(t *testing.T) {
	dir := t.TempDir()
	create := func(name string) *outfile.File {
		t.Helper()
		f, err := outfile.Create(t.Context(), filepath.Join(dir, name), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Discard)
		return f
	}
	left := create("r.web.20260102T030405Z.dump")
	others := []*outfile.File{create("r2.web.20260102T030405Z.dump"), create("r.dump")}
	whole := filepath.Join(dir, "r.web.20260102T030406Z.dump")
	if err := os.WriteFile(whole, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dropUnfinished(dir, "r")
	if _, err := os.Stat(left.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", left.Name(), err)
	}
	for _, path := range []string{others[0].Name(), others[1].Name(), whole} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}
