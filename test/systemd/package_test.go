package systemd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// packages builds the packages of the tree in dir, as of a version, into a directory of that name.
func packages(t *testing.T, dir, version, name string) (deb, rpm string) {
	t.Helper()
	out := filepath.Join(binDir(), name)
	cmd := exec.Command("packaging/build.sh", out)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "VERSION="+version, "GOFLAGS=-buildvcs=false")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("packaging/build.sh: %v\n%s", err, text)
	}
	debs, _ := filepath.Glob(out + "/*.deb")
	rpms, _ := filepath.Glob(out + "/*.rpm")
	if len(debs) != 1 || len(rpms) != 1 {
		t.Fatalf("packages %v %v", debs, rpms)
	}
	return debs[0], rpms[0]
}

// The package: installed, it starts nothing; upgraded under traffic, it restarts no worker and loses no message; purged, it leaves nothing. And the same
// tree at another place gives the same bytes.
func TestPackage(t *testing.T) {
	first, rpm := packages(t, repo(), "v1.0.0", "first")
	next, _ := packages(t, repo(), "v1.0.1", "next")

	copied := filepath.Join(t.TempDir(), "elsewhere")
	run(t, "cp", "-a", repo(), copied)
	deb2, rpm2 := packages(t, copied, "v1.0.0", "again")
	for a, b := range map[string]string{first: deb2, rpm: rpm2} {
		if !bytes.Equal([]byte(read(t, a)), []byte(read(t, b))) {
			t.Errorf("%s built at another place differs", filepath.Base(a))
		}
	}

	// What TestMain installed goes, and comes back at the end.
	run(t, "make", "-C", repo(), "BIN="+binDir(), "DESTDIR=", "PREFIX=/usr", "uninstall")
	run(t, "dpkg", "-i", first)
	for _, command := range []string{"is-enabled", "is-active"} {
		if out, code := try("systemctl", command, "shmd.service", "shmd.socket"); code == 0 {
			t.Errorf("systemctl %s after an installation: %s", command, out)
		}
	}
	if _, err := os.Stat("/usr/share/man/man1/shmctl-stop.1.gz"); err != nil {
		t.Error(err)
	}
	if out := run(t, "dpkg", "--verify", "shmd"); out != "" {
		t.Errorf("dpkg --verify: %s", out)
	}

	text := read(t, "/etc/shmd/default.toml") + relays
	if err := os.WriteFile("/etc/shmd/default.toml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s := start(t, unit, "default")
	t.Cleanup(func() {
		if err := install(); err != nil {
			t.Error(err)
		}
	})
	s.waitReady()
	before, main := s.workers(), s.show("MainPID")
	traffic := pass(s, "numbers", "out")
	traffic.flows()
	out := run(t, "dpkg", "-i", next)
	if !strings.Contains(out, "v1.0.0") || !strings.Contains(out, "v1.0.1") {
		t.Errorf("the upgrade says\n%s", out)
	}
	traffic.flows()
	traffic.end()
	s.expectSame(before)
	s.expectOneRegion()
	var status struct{ Daemon struct{ Version string } }
	s.shmctlJSON(&status, "status")
	if s.show("MainPID") != main || status.Daemon.Version != "v1.0.1" {
		t.Errorf("MainPID %s then %s, version %s", main, s.show("MainPID"), status.Daemon.Version)
	}
	if read(t, "/etc/shmd/default.toml") != text {
		t.Error("the upgrade changed the configuration")
	}

	run(t, "systemctl", "enable", "shmd@idle") // and it never ran
	run(t, "dpkg", "--purge", "shmd")
	s.expectNothingLeft()
	for _, path := range []string{"/usr/bin/shmd", "/usr/bin/shmctl", "/etc/shmd", "/var/lib/shmd", "/usr/lib/systemd/system/shmd.service", "/usr/share/doc/shmd",
		"/etc/systemd/system/multi-user.target.wants/shmd@idle.service"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("purged, and %s is there", path)
		}
	}
}
