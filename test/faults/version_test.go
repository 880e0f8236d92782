package faults

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// TestVersions: a region of another version of the layout, through everything that attaches. A newer minor version is accepted; another
// major version, or an incompatible feature that is not known, is refused by all of them, with both versions or the feature's bit in the
// text. The region is a living one whose headers are changed under its workers, which are then killed and attach anew.
func TestVersions(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	c := t.TempDir() + "/worker"
	if out, err := exec.Command("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-I", root+"/clients/c", "-o", c, root+"/examples/c/worker.c", root+"/clients/c/shmd.c", "-lpthread").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	so := t.TempDir() + "/libshmd.so"
	build := exec.Command("python3", "-m", "shmd.build", "-o", so)
	build.Env = append(os.Environ(), "PYTHONPATH="+root+"/clients/python")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("shmd.build: %v\n%s", err, out)
	}
	toml := fmt.Sprintf(`[region]
name = "test"
[channel.jobs]
[worker.go]
builtin = "idle"
crash_limit = 0
backoff_min = "20ms"
[worker.c]
command = [%q]
ready = "call"
crash_limit = 0
backoff_min = "20ms"
[worker.python]
command = ["python3", %q]
ready = "call"
crash_limit = 0
backoff_min = "20ms"
`, c, root+"/examples/python/worker.py")
	ours := fmt.Sprintf("%d.%d", protocol.LayoutMajor, protocol.LayoutMinor)
	for _, v := range []struct {
		name         string
		major, minor uint32
		incompat     uint64
		want         []string // in every refusal; none: it is accepted
	}{
		{"a newer minor version", protocol.LayoutMajor, protocol.LayoutMinor + 7, 0, nil},
		{"a newer major version", protocol.LayoutMajor + 1, 3, 0, []string{fmt.Sprintf("%d.3", protocol.LayoutMajor+1), ours}},
		{"an older major version", protocol.LayoutMajor - 1, 3, 0, []string{fmt.Sprintf("%d.3", protocol.LayoutMajor-1), ours}},
		{"an unknown feature", protocol.LayoutMajor, protocol.LayoutMinor, 1 << 40, []string{"incompatible features 0x10000000000"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			d := testregion.Start(t, toml, "SHMD_LIBRARY="+so)
			before := d.WaitReady()
			change := func(major, minor uint32, incompat uint64) {
				var b [24]byte // from 8 on: major, minor, compat, incompat; see docs/layout.md
				binary.LittleEndian.PutUint32(b[0:], major)
				binary.LittleEndian.PutUint32(b[4:], minor)
				binary.LittleEndian.PutUint64(b[16:], incompat)
				for _, f := range segmentsOf(t, d) {
					if _, err := f.WriteAt(b[0:8], 8); err != nil {
						t.Fatal(err)
					}
					if _, err := f.WriteAt(b[16:24], 24); err != nil {
						t.Fatal(err)
					}
					f.Close()
				}
			}
			change(v.major, v.minor, v.incompat)
			judge := func(who, said string, failed bool) {
				t.Helper()
				if failed != (v.want != nil) {
					t.Errorf("%s: refused %v, and said: %s", who, failed, said)
				}
				for _, w := range v.want {
					if !strings.Contains(said, w) {
						t.Errorf("%s does not say %q: %s", who, w, said)
					}
				}
			}

			r, err := shm.Attach(context.Background(), shm.Options{Region: d.Name, Socket: d.Socket, Produce: []string{"jobs"}})
			if err == nil {
				r.Close()
			}
			judge("shm.Attach", fmt.Sprint(err), err != nil)
			_, said, code := d.Shmctl("ps")
			judge("shmctl ps", said, code != 0)

			d.Cmd.Process.Signal(syscall.SIGSTOP) // now through /proc
			_, said, code = d.Shmctl("ps")
			judge("shmctl ps beside a stopped daemon", said, code != 0)
			if v.want != nil {
				_, said, code = d.Shmctl("stop", "--timeout", "5s")
				judge("shmctl stop beside a stopped daemon", said, code != 0)
			}
			d.Cmd.Process.Signal(syscall.SIGCONT)

			for _, w := range before {
				syscall.Kill(w.Pid, syscall.SIGKILL)
			}
			for _, w := range before {
				if v.want == nil {
					d.WaitWorkers("ready again", func(now []protocol.Worker) bool {
						for _, n := range now {
							if n.Name == w.Name {
								return n.State == protocol.StateReady && n.Pid != w.Pid
							}
						}
						return false
					})
					continue
				}
				d.WaitLog(append([]string{`"worker":"` + w.Name + `"`}, v.want...)...)
			}
			change(protocol.LayoutMajor, protocol.LayoutMinor, 0)
			d.WaitReady()
		})
	}
}

// segmentsOf opens the segments of a region anew, from the descriptors of its daemon.
func segmentsOf(t *testing.T, d *testregion.Region) (files []*os.File) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", d.Cmd.Process.Pid)
	seen := map[string]bool{}
	for _, name := range entries(dir) {
		link, err := os.Readlink(dir + "/" + name)
		if err != nil || !strings.HasPrefix(link, "/memfd:shmd:"+d.Name+":") || seen[link] {
			continue
		}
		f, err := os.OpenFile(dir+"/"+name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		seen[link] = true
		files = append(files, f)
	}
	if len(files) < 4 {
		t.Fatalf("%d segments: %v", len(files), seen)
	}
	return files
}
