package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLocate(t *testing.T) {
	const (
		unifiedOnly = "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		hybrid      = "28 22 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n30 22 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
		part        = "30 22 0:27 /box /mnt/a\\040b rw - cgroup2 cgroup2 rw\n"
	)
	for _, tt := range []struct{ cgroups, mounts, mount, dir string }{
		{"0::/system.slice/shmd.service\n", unifiedOnly, "/sys/fs/cgroup", "/sys/fs/cgroup/system.slice/shmd.service"},
		{"9:memory:/x\n0::/y\n", hybrid, "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/y"},
		{"0::/\n", unifiedOnly, "/sys/fs/cgroup", "/sys/fs/cgroup"},
		{"0::/box/a\n", part, "/mnt/a b", "/mnt/a b/a"},
		{"0::/boxes/a\n", part, "", ""},
		{"0::/../a\n", unifiedOnly, "", ""},
		{"9:memory:/x\n", unifiedOnly, "", ""},
		{"0::/a\n", "", "", ""},
	} {
		got, err := locate(tt.cgroups, tt.mounts)
		if got != (place{tt.mount, tt.dir}) || (err == nil) != (tt.dir != "") {
			t.Errorf("%q in %q: %+v, %v", tt.cgroups, tt.mounts, got, err)
		}
	}
}

// files makes the files of a cgroup, as far as this package knows them. What is written to them stays there: they are no kernel's.
func files(t *testing.T, dir, controllers string, more ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(more, "cgroup.procs", "cgroup.subtree_control") {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte(controllers+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What is written where, beside the kernel: test/vm has the kernel's part.
func TestLimits(t *testing.T) {
	mount := t.TempDir()
	files(t, mount, "cpu memory pids")
	limits := []string{"memory.max", "memory.high", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max"}
	files(t, mount+"/shmd:web", "", limits...)
	files(t, mount+"/shmd:web:parser", "", limits...)
	tree, err := open("web", place{mount, mount}, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := tree.Set("parser", map[string]int64{"memory_max": 1 << 30, "cpu_max": 150, "cpu_weight": 7, "pids_max": -1})
	if err != nil || dir != mount+"/shmd:web:parser" {
		t.Fatal(dir, err)
	}
	if got := content(t, mount, "shmd:web", "cgroup.procs"); got != "0" {
		t.Errorf("the daemon's cgroup got %q", got)
	}
	for file, want := range map[string]string{"memory.max": "1073741824", "memory.high": "max", "cpu.max": "150000 100000", "cpu.weight": "7", "pids.max": "max", "memory.swap.max": "max"} {
		if got := content(t, dir, file); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	if _, err := tree.Set("parser", map[string]int64{"hugetlb_max": 1}); err == nil || !strings.Contains(err.Error(), `hugetlb_max needs the controller "hugetlb"`) {
		t.Error(err)
	}
	if got := tree.Groups(); !slices.Equal(got, []string{"parser"}) {
		t.Error(got)
	}
	if tree.Remove("parser") || !tree.Remove("never") {
		t.Error("a cgroup that cannot be removed is gone, or one that never was is not")
	}
}

// Each process that the OOM killer took is reported once, and none from before; a cgroup that is made again counts from 0.
func TestKilled(t *testing.T) {
	mount := t.TempDir()
	files(t, mount, "memory")
	files(t, mount+"/shmd:web", "")
	files(t, mount+"/shmd:web:eater", "", "memory.max")
	tree, err := open("web", place{mount, mount}, nil)
	if err != nil {
		t.Fatal(err)
	}
	kills := func(n int) {
		if err := os.WriteFile(mount+"/shmd:web:eater/memory.events", fmt.Appendf(nil, "low 0\noom 9\noom_kill %d\noom_group_kill 7\n", n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want ...bool) {
		t.Helper()
		for i, w := range want {
			if got := tree.Killed("eater"); got != w {
				t.Errorf("report %d: %v, want %v", i, got, w)
			}
		}
	}
	kills(3)
	expect(false) // the daemon has not made it, or set it anew, so far
	for range 2 {
		if _, err := tree.Set("eater", map[string]int64{"memory_max": 1}); err != nil {
			t.Fatal(err)
		}
		expect(false)
	}
	kills(5)
	expect(true, true, false)
	if err := os.RemoveAll(mount + "/shmd:web:eater"); err != nil {
		t.Fatal(err)
	}
	if !tree.Remove("eater") {
		t.Error("a cgroup that is gone is not")
	}
	files(t, mount+"/shmd:web:eater", "", "memory.max")
	kills(1)
	if _, err := tree.Set("eater", nil); err != nil {
		t.Fatal(err)
	}
	expect(false)
	kills(2)
	expect(true, false)
}

// A unit whose daemon could not be started again gets no limits.
func TestLimitsNeedAWayBack(t *testing.T) {
	mount := t.TempDir()
	files(t, mount, "pids")
	base := mount + "/shmd.service"
	files(t, base, "pids")
	files(t, base+"/shmd:web", "", "pids.max")
	files(t, base+"/shmd:web:w", "", "pids.max")
	some := map[string]int64{"pids_max": 3}
	tree := &Tree{base: base, region: "web", lets: func(unit string) error {
		if unit != "shmd.service" {
			t.Errorf("asked for %q", unit)
		}
		return errors.New("it does not")
	}}
	if _, err := tree.Set("w", some); err == nil || !strings.Contains(err.Error(), "it does not; set ExecStopPost=shmd let-in") {
		t.Error(err)
	}
	if _, err := tree.Set("w", nil); err != nil {
		t.Error(err)
	}
	tree.lets = func(string) error { return nil }
	if _, err := tree.Set("w", some); err != nil {
		t.Error(err)
	}
	tree.lets = nil // asked once
	if _, err := tree.Set("w", some); err != nil {
		t.Error(err)
	}
}

func TestHugeName(t *testing.T) {
	for kib, want := range map[int64]string{64: "64KB", 2048: "2MB", 512 << 10: "512MB", 1 << 20: "1GB"} {
		if got := hugeName(kib); got != want {
			t.Errorf("%d: %s, want %s", kib, got, want)
		}
	}
}
