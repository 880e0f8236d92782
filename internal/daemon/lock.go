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

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
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

// awaitDeath refuses a region whose daemon lives, although its lock could be had: somebody has removed the file, or the runtime directory. Two daemons would repair
// each other's workers. Of one that is about to end it waits for the end: the kernel drops its lock a little earlier. Errors: ErrRunning.
func (d *Daemon) awaitDeath(e *estate) error {
	s := e.segments["roster"]
	if s == nil {
		return nil
	}
	roster, err := protocol.OpenRoster(s.Bytes())
	if err != nil || roster.Dir() != control.CanonicalDir(d.dir) { // not to be adopted anyway
		return nil
	}
	info := roster.Daemon()
	if info.Pid == os.Getpid() {
		return nil
	}
	p, err := sys.PidfdOpen(info.Pid)
	switch {
	case errors.Is(err, syscall.ESRCH), errors.Is(err, syscall.EINVAL): // EINVAL: no pid, or that of a thread by now
		return nil
	case err != nil: // whether it lives is not known: to take over beside it would be worse than not to start
		return fmt.Errorf("does the daemon of region %q, pid %d, live? %w", d.conf.Region.Name, info.Pid, err)
	}
	defer p.Close()
	if alive, _ := control.Alive(info.Pid, info.StartTicks); !alive {
		return nil
	}
	if ended, err := sys.PollReadable([]*os.File{p}, 2*time.Second); err != nil || ended[0] {
		return err
	}
	return fmt.Errorf("%w: %q is run by pid %d, which lives, though its lock %s was removed; end it alone with `kill -9 %[3]d`, and the next daemon takes the region over, or it and the region with `kill %[3]d`",
		ErrRunning, d.conf.Region.Name, info.Pid, d.lock.f.Name())
}

// watchNames begins to watch lock and socket, which others may remove. nil: that cannot be.
func (d *Daemon) watchNames() *sys.NameWatch {
	w, err := sys.WatchNames(d.lock.f.Name(), d.sockPath)
	if err != nil {
		d.log.Warn("nobody would notice a removal of the region's lock or socket", "error", err)
		return nil
	}
	return w
}

// namesLost tells of the removal of lock and socket, until the watch ends.
func (d *Daemon) namesLost(w *sys.NameWatch) error {
	for {
		path, err := w.Next()
		if err != nil {
			<-d.finished
			return nil
		}
		d.post(func() {
			d.log.Error("somebody has removed a file of this region, which lives on: without its socket nobody can attach; end this daemon alone (kill -9) and start another, which takes the region over, and see who cleans the runtime directory",
				"file", path, "pid", os.Getpid())
			d.event(eventRegion, d.conf.Region.Name, "lost", "file", path)
		})
	}
}

// release removes the file while it is still locked, so nobody can lock a file that has no name.
func (l *lock) release() {
	os.Remove(l.f.Name())
	l.f.Close()
}
