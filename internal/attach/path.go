package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// systemDir is where a daemon of root, or of a systemd unit, keeps its sockets.
const systemDir = "/run/shmd"

// where is what decides the place of the sockets; tests have their own.
type where struct {
	uid    int
	getenv func(string) string
	stat   func(string) (os.FileInfo, error)
	system string
}

var here = where{os.Geteuid(), os.Getenv, os.Stat, systemDir}

// RuntimeDir is the directory in which a daemon started here and now keeps its sockets: the first of the
// colon-separated paths in $RUNTIME_DIRECTORY (set by systemd), else /run/shmd for root, else $XDG_RUNTIME_DIR/shmd,
// else /run/user/UID/shmd. It need not exist.
func RuntimeDir() string { return here.runtimeDir() }

// CheckRuntimeDir refuses a RuntimeDir that is relative: who stands in another directory would not find it.
func CheckRuntimeDir() error {
	if dir := RuntimeDir(); !filepath.IsAbs(dir) {
		return fmt.Errorf("the runtime directory %q ($RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR) is not absolute; begin it with /", dir)
	}
	return nil
}

// ListenPath is the socket of a daemon started here and now for a region: REGION.sock in RuntimeDir.
func ListenPath(region string) string { return here.listenPath(region) }

// SocketPath is the socket to which a client of a region connects: ListenPath, unless the user is not root, has no
// socket there, and /run/shmd/REGION.sock exists (or may exist: /run/shmd may be closed to the user, and then, if RuntimeDir
// does not exist, "permission denied" there says more than "no such file" here).
func SocketPath(region string) string { return here.socketPath(region) }

func (w where) runtimeDir() string {
	first, _, _ := strings.Cut(w.getenv("RUNTIME_DIRECTORY"), ":")
	switch {
	case first != "":
		return first
	case w.uid == 0:
		return w.system
	}
	if dir := w.getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "shmd")
	}
	return filepath.Join("/run/user", strconv.Itoa(w.uid), "shmd") // what a login session would have set
}

func (w where) listenPath(region string) string {
	return filepath.Join(w.runtimeDir(), region+".sock")
}

func (w where) socketPath(region string) string {
	own := w.listenPath(region)
	if w.uid == 0 {
		return own
	}
	if _, err := w.stat(own); !errors.Is(err, fs.ErrNotExist) {
		return own
	}
	system := filepath.Join(w.system, region+".sock")
	switch _, err := w.stat(system); {
	case err == nil:
		return system
	case errors.Is(err, fs.ErrPermission):
		if _, err := w.stat(filepath.Dir(own)); err != nil { // else a daemon of this user's is about to make its socket there
			return system
		}
	}
	return own
}
