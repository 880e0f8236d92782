package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/unit"
	"github.com/shmd/shmd/pkg/protocol"
)

// elsewhere is what to do about a runtime directory that cannot be used.
const elsewhere = "set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR to a directory of yours"

// ErrRunning: another daemon has this region.
var ErrRunning = errors.New("the region already has a daemon")

// lock makes sure that a region has one daemon. The kernel drops it when the process ends, however it ends.
type lock struct {
	f      *os.File
	before string // the metrics' socket that a daemon before has written into it
}

// takeLock takes the region's lock file in dir, its runtime directory. Errors: ErrRunning.
func takeLock(dir, region string) (*lock, error) {
	path, sockPath := filepath.Join(dir, region+".lock"), filepath.Join(dir, region+".sock")
	deadline, dying := time.Now().Add(2*time.Second), dyingWithin
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
			pid, _ := control.ReadLock(f)
			f.Close()
			n, err := strconv.Atoi(pid)
			if (err != nil || endsWithin(n, dying)) && time.Now().Before(deadline) {
				time.Sleep(5 * time.Millisecond) // it is about to write its pid, or died between fork and exec of a worker, which still has its descriptors
				continue
			}
			dying = 0
			if _, err := os.Lstat(sockPath); errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%w: %q is run by pid %s (lock %s), whose socket %s is not there: if it is neither just starting nor stopping, somebody has removed that; end the daemon alone with `kill -9 %[3]s`, "+
					"and the next one takes the region over, or it and the region with `shmctl -r %[2]s stop`, which needs no socket", ErrRunning, region, pid, path, sockPath)
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
		l := &lock{f: f}
		_, l.before = control.ReadLock(f)
		l.write(l.before) // until it is removed
		return l, nil
	}
}

// dyingWithin is how long the process with the lock has to end. One that somebody has just killed, to start another, has the lock until the kernel has
// taken its memory down.
const dyingWithin = 250 * time.Millisecond

// endsWithin reports whether a process has ended or does so within a time.
func endsWithin(pid int, within time.Duration) bool {
	p, err := sys.PidfdOpen(pid)
	if err != nil {
		return errors.Is(err, syscall.ESRCH)
	}
	defer p.Close()
	ended, err := sys.PollReadable([]*os.File{p}, within)
	return err == nil && ended[0]
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

// relistenPause is between two removals of the socket that are answered: who removes it again and again is not raced.
const relistenPause = time.Second

// namesLost tells of the removal of lock and socket, until the watch ends, and makes the socket anew. That of a socket unit is systemd's to make. A lock is not made anew: another
// daemon may have one of that name by now.
func (d *Daemon) namesLost(w *sys.NameWatch) error {
	var made time.Time
	for {
		path, was, err := w.Next()
		if err != nil {
			<-d.finished
			return nil
		}
		if path != d.sockPath || d.server.unit {
			d.post(func() { d.tellLost(path, nil) })
			continue
		}
		for again := true; again; {
			select {
			case <-time.After(time.Until(made.Add(relistenPause))):
			case <-d.finished:
				return nil
			}
			made = time.Now()
			done := make(chan bool, 1)
			d.post(func() { done <- d.restore(was, w) })
			select {
			case again = <-done:
			case <-d.finished:
				return nil
			}
		}
	}
}

// restore makes the socket anew, and watches it. again: that has to wait.
func (d *Daemon) restore(was sys.Stat, w *sys.NameWatch) (again bool) {
	err := d.server.relisten(was, d.lock.named())
	if errors.Is(err, errRest) { // the next program finds it missing
		return true
	}
	if err != nil {
		d.tellLost(d.sockPath, err)
		return false
	}
	d.log.Warn("somebody has removed the region's socket: it was made anew; see who cleans the runtime directory", "file", d.sockPath, "pid", os.Getpid())
	d.event(eventRegion, d.conf.Region.Name, "lost", "file", d.sockPath)
	d.event(eventRegion, d.conf.Region.Name, "restored", "file", d.sockPath)
	if err := w.Again(d.sockPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("nobody would notice another removal of the region's socket", "error", err)
	}
	return false
}

// tellLost tells of a file that this daemon has no more; why says why it could not be made anew, if that was tried.
func (d *Daemon) tellLost(path string, why error) {
	args := []any{"file", path, "pid", os.Getpid()}
	if why != nil {
		args = append(args, "error", why)
	}
	matters := "without its socket nobody can attach"
	if path == d.lock.f.Name() {
		matters = "without its lock it works as before, and its socket, if it is lost too, may not be made anew"
	}
	next := "end this daemon alone (kill -9) and start another, which takes the region over"
	if path == d.sockPath && d.server.unit { // the next one would get the same, which has no name any more
		socket := unit.Name(d.conf.Region.Name) + ".socket"
		next = "stop " + socket + " (systemctl stop " + socket + "), then end this daemon alone (kill -9): the next one makes a socket of its own and takes the region over"
	}
	d.log.Error("somebody has removed a file of this region, which lives on: "+matters+"; "+next+"; and see who cleans the runtime directory", args...)
	d.event(eventRegion, d.conf.Region.Name, "lost", "file", path)
}

// write writes who has the lock, and the socket of the metrics, if there is one: what stops the region of a daemon that was killed removes both. Nobody depends on it, so an error is none.
func (l *lock) write(metrics string) {
	l.f.Truncate(0)
	l.f.WriteAt([]byte(control.LockText(os.Getpid(), metrics)), 0)
}

// named reports whether the lock's file has its name still: then nobody else can be the region's daemon.
func (l *lock) named() bool {
	have, err := sys.Fstat(l.f)
	named, err2 := sys.StatPath(l.f.Name())
	return err == nil && err2 == nil && have.Inode == named.Inode && have.Dev == named.Dev
}

// release removes the file while it is still locked, so nobody can lock a file that has no name.
func (l *lock) release() {
	os.Remove(l.f.Name())
	l.f.Close()
}
