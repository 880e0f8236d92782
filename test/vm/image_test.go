package vm

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/shmd/shmd/test/vm/cpio"
)

// image is the root of the virtual machine: a tree of files, most of them this machine's own.
type image struct{ cpio.Image }

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
		m.Link(at, to)
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
			m.Dir(p)
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
	m.File(path, uint32(info.Mode().Perm()), data)
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

// programs are those of this machine that the systemd of the image, the tests and the workers call.
var programs = []string{"/lib/systemd/systemd", "/lib/systemd/systemd-journald", "systemctl", "journalctl", "systemd-sysusers", "systemd-tmpfiles", "dbus-daemon",
	"bash", "sh", "env", "sleep", "cat", "ls", "mkdir", "rm", "setpriv"}

// makeImage makes the root: this test's program as init, systemd with journald and D-Bus, shmd as `make install` installs it, and a unit that runs the
// tests with args.
func makeImage(args []string) ([]byte, error) {
	m := &image{}
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
		m.Dir(dir)
	}
	for _, link := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if to, err := os.Readlink(link); err == nil {
			m.Link(link, to)
		}
	}
	m.Link("/var/run", "/run")
	m.Device("/dev/console", 5, 1) // before there is a /dev
	m.File("/args", 0o644, []byte(strings.Join(args, "\x00")))
	m.File("/etc/machine-id", 0o644, []byte("5db3a0f1c6e94a0f9e2b7d4c8a6f1e30\n")) // there is: this is no first boot
	m.File("/etc/os-release", 0o644, []byte("ID=shmd-vm\nPRETTY_NAME=\"the virtual machine of test/vm\"\n"))
	m.File("/etc/systemd/system/tests.service", 0o644, []byte(testsUnit))
	m.File("/etc/systemd/journald.conf", 0o644, []byte("[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nForwardToSyslog=no\nForwardToWall=no\n"))
	m.File("/etc/systemd/system.conf", 0o644, []byte("[Manager]\nDefaultTimeoutStopSec=20s\nShowStatus=no\nLogTarget=journal\n"))
	return m.Bytes(), nil
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
