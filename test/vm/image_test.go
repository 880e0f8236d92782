package vm

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// image is the root of the virtual machine: a tree of files, most of them this machine's own, that becomes an initramfs.
type image struct {
	entries map[string]entry // by path without the leading slash
}

type entry struct {
	mode uint32 // of stat(2)
	data []byte // of a file; of a link where it goes
	dev  [2]uint32
}

// The formats of st_mode.
const (
	directory = 0o040000
	regular   = 0o100000
	symlink   = 0o120000
	charDev   = 0o020000
)

func (m *image) put(path string, mode uint32, data []byte) {
	path = strings.Trim(path, "/")
	if dir := filepath.Dir(path); dir != "." {
		if _, ok := m.entries[dir]; !ok {
			m.put(dir, directory|0o755, nil)
		}
	}
	m.entries[path] = entry{mode: mode, data: data}
}

func (m *image) file(path, text string) { m.put(path, regular|0o644, []byte(text)) }

// host takes a file, or a directory with all that is in it, from this machine, where it is; links on the way to it are links in the image too.
func (m *image) host(path string) error {
	at := "/"
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		to, err := os.Readlink(at)
		if err != nil {
			return err
		}
		m.put(at, symlink|0o777, []byte(to))
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(at), to)
		}
		return m.host(to + strings.TrimPrefix(path, at))
	}
	return filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Type()&fs.ModeSymlink != 0:
			return m.host(p)
		case d.IsDir():
			m.put(p, directory|0o755, nil)
			return nil
		}
		return m.copy(p, p)
	})
}

// copy puts a file of this machine into the image under another path.
func (m *image) copy(from, path string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	m.put(path, regular|uint32(info.Mode().Perm()), data)
	return nil
}

var library = regexp.MustCompile(`(?m)(/\S+) \(0x`)

// needs takes the libraries of a program of this machine, and the loader.
func (m *image) needs(program string) error {
	out, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil {
		if bytes.Contains(out, []byte("not a dynamic executable")) {
			return nil
		}
		return fmt.Errorf("ldd %s: %w\n%s", program, err, out)
	}
	for _, l := range library.FindAllSubmatch(out, -1) {
		if err := m.host(string(l[1])); err != nil {
			return err
		}
	}
	return nil
}

// program takes a program of this machine and what it needs.
func (m *image) program(name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("%w; scripts/deps.sh installs what the tests need", err)
	}
	if err := m.host(path); err != nil {
		return err
	}
	return m.needs(path)
}

// cpio gives the image in the format "newc", which the kernel reads.
func (m *image) cpio() []byte {
	var b bytes.Buffer
	pad := func() {
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	member := func(i int, name string, e entry) {
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", i, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, e.dev[0], e.dev[1], len(name)+1, 0)
		b.WriteString(name + "\x00")
		pad()
		b.Write(e.data)
		pad()
	}
	for i, name := range slices.Sorted(maps.Keys(m.entries)) { // what a file is in comes before it
		member(i+1, name, m.entries[name])
	}
	member(0, "TRAILER!!!", entry{})
	return b.Bytes()
}

// programs are those of this machine that the systemd of the image, the tests and the workers call.
var programs = []string{"/lib/systemd/systemd", "/lib/systemd/systemd-journald", "systemctl", "journalctl", "systemd-sysusers", "systemd-tmpfiles", "dbus-daemon",
	"bash", "sh", "env", "sleep", "cat", "ls", "mkdir", "rm", "setpriv"}

// makeImage makes the root: this test's program as init, systemd with journald and D-Bus, shmd as `make install` installs it, and a unit that runs the
// tests with args.
func makeImage(args []string) ([]byte, error) {
	m := &image{map[string]entry{}}
	for _, p := range programs {
		if err := m.program(p); err != nil {
			return nil, err
		}
	}
	units, err := filepath.Glob("/lib/systemd/system/*")
	if err != nil {
		return nil, err
	}
	paths := []string{"/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/usr/share/dbus-1/system.conf", "/usr/share/dbus-1/system.d"}
	for _, u := range units { // what systemd itself is made of, and nothing that this machine has besides
		name := filepath.Base(u)
		if strings.HasSuffix(name, ".target") || strings.HasSuffix(name, ".slice") || strings.HasPrefix(name, "systemd-journald") || name == "dbus.service" || name == "dbus.socket" {
			paths = append(paths, u)
		}
	}
	for _, p := range paths {
		if err := m.host(p); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := m.copy(self, "/init"); err != nil {
		return nil, err
	}
	if err := m.needs(self); err != nil {
		return nil, err
	}
	if err := m.shmd(); err != nil {
		return nil, err
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run", "/tmp", "/var/tmp", "/var/lib", "/root", "/home", "/etc/systemd/system", "/etc/shmd"} {
		m.put(dir, directory|0o755, nil)
	}
	for _, link := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if to, err := os.Readlink(link); err == nil {
			m.put(link, symlink|0o777, []byte(to))
		}
	}
	m.put("/var/run", symlink|0o777, []byte("/run"))
	m.entries["dev/console"] = entry{mode: charDev | 0o600, dev: [2]uint32{5, 1}} // before there is a /dev
	m.file("/args", strings.Join(args, "\x00"))
	m.file("/etc/machine-id", "5db3a0f1c6e94a0f9e2b7d4c8a6f1e30\n") // there is: this is no first boot
	m.file("/etc/os-release", "ID=shmd-vm\nPRETTY_NAME=\"the virtual machine of test/vm\"\n")
	m.file("/etc/systemd/system/tests.service", testsUnit)
	m.file("/etc/systemd/journald.conf", "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nForwardToSyslog=no\nForwardToWall=no\n")
	m.file("/etc/systemd/system.conf", "[Manager]\nDefaultTimeoutStopSec=20s\nShowStatus=no\nLogTarget=journal\n")
	return m.cpio(), nil
}

// testsUnit runs the tests when the machine is up, with their output on the second serial line, and ends the machine when they have ended, in whatever way.
const testsUnit = `[Unit]
Requires=basic.target dbus.socket systemd-journald.socket systemd-journald-dev-log.socket
After=basic.target dbus.socket systemd-journald.socket systemd-journald-dev-log.socket

[Service]
Type=oneshot
Environment=SHMD_VM=tests
ExecStart=/init
ExecStopPost=/usr/bin/env SHMD_VM=end /init
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
TimeoutStartSec=infinity
`

// shmd takes what `make install` installs.
func (m *image) shmd() error {
	dir, err := os.MkdirTemp("", "shmd-vm.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	stage := filepath.Join(dir, "root")
	if out, err := exec.Command("make", "-C", "../..", "BIN="+filepath.Join(dir, "bin"), "DESTDIR="+stage, "PREFIX=/usr", "SYSCONFDIR=/etc", "install").CombinedOutput(); err != nil {
		return fmt.Errorf("make install: %w\n%s", err, out)
	}
	for _, p := range []string{"/usr/bin/shmd", "/usr/bin/shmctl"} {
		if err := m.needs(stage + p); err != nil {
			return err
		}
	}
	return filepath.WalkDir(stage, func(p string, d fs.DirEntry, err error) error {
		if path := strings.TrimPrefix(p, stage); err == nil && d.Type().IsRegular() && !strings.Contains(path, "/share/man/") {
			return m.copy(p, path)
		}
		return err
	})
}
