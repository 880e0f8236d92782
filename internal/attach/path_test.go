package attach

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestPaths(t *testing.T) {
	dir := t.TempDir()
	system, own := filepath.Join(dir, "run/shmd"), filepath.Join(dir, "user/shmd")
	for _, d := range []string{system, own} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{system + "/both.sock", own + "/both.sock", system + "/theirs.sock"} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	user := map[string]string{"XDG_RUNTIME_DIR": filepath.Join(dir, "user")}
	nowhere := map[string]string{"XDG_RUNTIME_DIR": filepath.Join(dir, "nowhere")}
	unit := map[string]string{"XDG_RUNTIME_DIR": "/x", "RUNTIME_DIRECTORY": own + ":" + system}
	closed := func(path string) (os.FileInfo, error) {
		if filepath.Dir(path) == system {
			return nil, &fs.PathError{Op: "stat", Path: path, Err: fs.ErrPermission}
		}
		return os.Stat(path)
	}
	for _, c := range []struct {
		name           string
		uid            int
		env            map[string]string
		stat           func(string) (os.FileInfo, error)
		region         string
		listen, client string
	}{
		{"root", 0, user, os.Stat, "both", system + "/both.sock", system + "/both.sock"},
		{"root under systemd", 0, unit, os.Stat, "theirs", own + "/theirs.sock", own + "/theirs.sock"},
		{"user with a socket", 1000, user, os.Stat, "both", own + "/both.sock", own + "/both.sock"},
		{"user without", 1000, user, os.Stat, "theirs", own + "/theirs.sock", system + "/theirs.sock"},
		{"user, nobody has one", 1000, user, os.Stat, "none", own + "/none.sock", own + "/none.sock"},
		{"user, closed directory", 1000, nowhere, closed, "none", dir + "/nowhere/shmd/none.sock", system + "/none.sock"},
		{"user whose daemon starts, closed directory", 1000, user, closed, "none", own + "/none.sock", own + "/none.sock"},
		{"user under systemd", 1000, unit, os.Stat, "both", own + "/both.sock", own + "/both.sock"},
		{"user without a session", 1234567, nil, os.Stat, "none", "/run/user/1234567/shmd/none.sock", "/run/user/1234567/shmd/none.sock"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := where{c.uid, func(k string) string { return c.env[k] }, c.stat, system}
			if got := w.listenPath(c.region); got != c.listen {
				t.Errorf("listen at %s, want %s", got, c.listen)
			}
			if got := w.socketPath(c.region); got != c.client {
				t.Errorf("connect to %s, want %s", got, c.client)
			}
		})
	}
}

func TestPathsHere(t *testing.T) {
	t.Setenv("RUNTIME_DIRECTORY", "/some/where:/else")
	if got := ListenPath("default"); got != "/some/where/default.sock" {
		t.Error(got)
	}
	if got := RuntimeDir(); got != "/some/where" {
		t.Error(got)
	}
	if os.Geteuid() == 0 {
		t.Setenv("RUNTIME_DIRECTORY", "")
		if got := SocketPath("default"); got != "/run/shmd/default.sock" {
			t.Error(got)
		}
	}
}
