package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
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
