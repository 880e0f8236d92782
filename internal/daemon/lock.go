package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
)

// elsewhere is what to do about a runtime directory that cannot be used.
const elsewhere = "set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR to a directory of yours"

// ErrRunning: another daemon has this region.
var ErrRunning = errors.New("the region already has a daemon")

// lock makes sure that a region has one daemon. The kernel drops it when the process ends, however it ends.
type lock struct{ f *os.File }

// takeLock takes the region's lock file in dir. Errors: ErrRunning.
func takeLock(dir, region string) (*lock, error) {
	path := filepath.Join(dir, region+".lock")
	deadline := time.Now().Add(2 * time.Second)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock of region %q: %w; %s", region, err, elsewhere)
		}
		ok, err := sys.Flock(f)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !ok {
			pid, _ := io.ReadAll(io.LimitReader(f, 32))
			f.Close()
			n, err := strconv.Atoi(string(pid))
			if (err != nil || errors.Is(syscall.Kill(n, 0), syscall.ESRCH)) && time.Now().Before(deadline) {
				time.Sleep(5 * time.Millisecond) // it is about to write its pid, or died between fork and exec of a worker, which still has its descriptors
				continue
			}
			return nil, fmt.Errorf("%w: %q is run by pid %s (lock %s); stop it with `shmctl -r %s stop`, or give this one another [region] name", ErrRunning, region, pid, path, region)
		}
		have, err := sys.Fstat(f)
		var named sys.Stat
		if err == nil {
			named, err = sys.StatPath(path)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && have.Inode != named.Inode: // the daemon before removed it between open and flock
			f.Close()
			continue
		case err != nil:
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		f.Truncate(0)
		f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
		return &lock{f}, nil
	}
}

// release removes the file while it is still locked, so nobody can lock a file that has no name.
func (l *lock) release() {
	os.Remove(l.f.Name())
	l.f.Close()
}
