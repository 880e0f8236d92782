// Package badinput is the table of what a user can hand to shmd that is wrong, and what it says. Configurations have a longer table
// in internal/config, command lines in internal/cli; here are segments, sockets and one of each of the others, through the real parts.
package badinput

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
	"github.com/shmd/shmd/pkg/shm"
)

func TestMain(m *testing.M) {
	if os.Getenv("BADINPUT_ROLE") == "attach" {
		attachRole()
		os.Exit(0)
	}
	code := m.Run()
	testregion.Cleanup()
	os.Exit(code)
}

// group returns the bytes of a group segment that is as it should be.
func group(t *testing.T) []byte {
	t.Helper()
	boot, err := sys.BootID()
	if err != nil {
		t.Fatal(err)
	}
	s, err := region.Create(region.Options{Name: "good", Size: protocol.GroupSize(protocol.GroupConfig{Instances: 1})})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := protocol.FormatGroup(s.Bytes(), protocol.Header{Name: "group/w", Region: "test", Generation: 7, BootID: boot, Created: time.Now()}, protocol.GroupConfig{Instances: 1}); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(s.Bytes())
}

// memfd returns a memfd with these bytes.
func memfd(t *testing.T, p []byte, seals int) *os.File {
	t.Helper()
	f, err := sys.MemfdCreate("bad")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(p); err != nil {
		t.Fatal(err)
	}
	if seals != 0 {
		if err := sys.AddSeals(f, seals); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestSegments(t *testing.T) {
	const sealed = sys.SealShrink | sys.SealGrow | sys.SealSeal
	changed := func(at int, p ...byte) func(t *testing.T) *os.File {
		return func(t *testing.T) *os.File {
			b := group(t)
			copy(b[at:], p)
			return memfd(t, b, sealed)
		}
	}
	foreign := uint32(4242)
	for _, c := range []struct {
		name  string
		file  func(t *testing.T) *os.File
		owner *uint32
		is    error  // errors.Is
		want  string // part of the message
	}{
		{"not sealed", func(t *testing.T) *os.File { return memfd(t, group(t), 0) }, nil, region.ErrUnsealed, ""},
		{"sealed against shrinking alone", func(t *testing.T) *os.File { return memfd(t, group(t), sys.SealShrink) }, nil, region.ErrUnsealed, ""},
		{"short", func(t *testing.T) *os.File { return memfd(t, group(t)[:64], sealed) }, nil, region.ErrTooShort, ""},
		{"empty", func(t *testing.T) *os.File { return memfd(t, nil, sealed) }, nil, region.ErrTooShort, ""},
		{"a file", func(t *testing.T) *os.File {
			f, err := os.Create(t.TempDir() + "/file")
			if err != nil {
				t.Fatal(err)
			}
			f.Write(group(t))
			return f
		}, nil, region.ErrNotMemfd, ""},
		{"a directory", func(t *testing.T) *os.File { f, _ := os.Open(t.TempDir()); return f }, nil, nil, "memfd"},
		{"a pipe", func(t *testing.T) *os.File { r, w, _ := os.Pipe(); w.Close(); return r }, nil, nil, "memfd"},
		{"another user's", changed(0), &foreign, region.ErrForeignOwner, ""},
		{"not ready", changed(0, 0, 0, 0, 0, 0, 0, 0, 0), nil, protocol.ErrNotReady, "has not published the header"},
		{"another program's", changed(0, []byte("NOT SHMD")...), nil, protocol.ErrForeign, "not a shmd segment"},
		{"another version", changed(8, 2, 0, 0, 0, 3), nil, nil, `segment "group/w" has layout version 2.3, this program knows 1.0: use the shmctl and libraries of the daemon's release`},
		{"an unknown feature", changed(24, 4), nil, nil, `segment "group/w" uses incompatible features 0x4 that this program does not know: use a newer release`},
		{"another kind", changed(36, 4), nil, nil, `segment "group/w" is a queue, not a group`},
		{"a size that is not its own", changed(40, 1), nil, nil, `segment "group/w" is damaged at offset 0x28: segment size 8193, the memory has 8192`},
		{"another boot's", changed(64, 1, 2, 3, 4, 5), nil, protocol.ErrOtherBoot, "before the last boot"},
		{"another generation's", changed(48, 9), nil, protocol.ErrGeneration, "attach again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := region.Open(c.file(t), region.OpenOptions{MinSize: protocol.SizeofSegmentHeader, Check: protocol.Check(protocol.KindGroup, 7), Owner: c.owner})
			if err == nil {
				s.Close()
				t.Fatal("it was accepted")
			}
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("it says: %v\nwant: %v %s", err, c.is, c.want)
			}
		})
	}
	s, err := region.Open(memfd(t, group(t), sealed), region.OpenOptions{MinSize: protocol.SizeofSegmentHeader, Check: protocol.Check(protocol.KindGroup, 7)})
	if err != nil {
		t.Fatalf("a good one was refused: %v", err)
	}
	s.Close()
	if n := region.Mapped(); n != 0 {
		t.Errorf("%d mappings were left", n)
	}
}

func TestSockets(t *testing.T) {
	dead := t.TempDir() + "/dead.sock"
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: dead, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	file := t.TempDir() + "/file.sock"
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		is         error
		want       string
	}{
		{"no socket", t.TempDir() + "/none.sock", shm.ErrNoDaemon, "start one"},
		{"dead socket", dead, shm.ErrDeadSocket, ""},
		{"no socket at all", file, nil, "not the socket of a shmd daemon"},
	} {
		_, err := shm.Attach(context.Background(), shm.Options{Region: "test", Socket: c.path})
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Another user is refused, with what to do, by both commands.
func TestPermission(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("run it as root: it becomes another user")
	}
	d := testregion.Start(t, "[region]\nname = \"test\"\n[channel.jobs]\n[worker.w]\nbuiltin = \"idle\"\n")
	os.Chmod(d.Dir, 0o755)
	os.Chmod(d.Socket, 0o666) // so that the daemon itself has to refuse
	cmd := exec.Command(filepath.Join(testregion.Binaries(t), "shmctl"), "-r", d.Name, "-s", d.Socket, "status")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != 5 || !bytes.Contains(out, []byte("see observe in [access]")) {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// One configuration of each kind of mistake, through the binary.
func TestConfigurations(t *testing.T) {
	for _, c := range []struct{ name, toml, want string }{
		{"unknown key", "[worker.w]\nbuiltin = \"idle\"\ncoutn = 3\n", `did you mean "count"?`},
		{"wrong type", "[worker.w]\nbuiltin = \"idle\"\ncount = \"four\"\n", "shmd.toml:3:"},
		{"not TOML", "[worker.w\n", "shmd.toml:1:"},
		{"unknown channel", "[worker.w]\nbuiltin = \"idle\"\nconsume = [\"jbos\"]\n[channel.jobs]\n", `did you mean "jobs"?`},
		{"slots", "[channel.jobs]\nslots = 1000\n[worker.w]\nbuiltin = \"idle\"\n", "512"},
		{"a filter's channel", "[worker.w]\ncommand = [\"cat\"]\nstdin = \"jbos\"\nstdout = \"results\"\n[channel.jobs]\n[channel.results]\n", `did you mean "jobs"?`},
		{"a sink that acks nothing", "[worker.w]\ncommand = [\"cat\"]\nstdin = \"jobs\"\n[channel.jobs]\n", `add ack = "written"`},
		{"a filter and its channels", "[worker.w]\ncommand = [\"cat\"]\nstdin = \"jobs\"\nstdout = \"results\"\nconsume = [\"jobs\"]\n[channel.jobs]\n[channel.results]\n", "shmd.toml:5:"},
		{"a window of nothing", "[worker.w]\ncommand = [\"cat\"]\nstdin = \"jobs\"\nstdout = \"results\"\nfilter_window = 0\n[channel.jobs]\n[channel.results]\n", "use 1 to 65536"},
		{"a built-in filter", "[worker.w]\nbuiltin = \"idle\"\nstdin = \"jobs\"\n[channel.jobs]\n", "reads and writes no lines"},
		{"no command", "[worker.w]\ncommand = [\"/no/such/thing\"]\n", "/no/such/thing"},
		{"more than there is", "[channel.jobs]\nslots = 1024\nslot_size = \"1GiB\"\n[worker.w]\nbuiltin = \"idle\"\n", "memory"},
	} {
		path := t.TempDir() + "/shmd.toml"
		if err := os.WriteFile(path, []byte(c.toml), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(testregion.Binaries(t), "shmd"), "check", "-c", path)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v\n%s", c.name, err, out)
		}
	}
}
