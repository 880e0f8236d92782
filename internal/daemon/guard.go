package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// The guard is a small process beside the daemon. It holds every segment, so that the next daemon finds also those that no worker has, with what waits in
// them: a queue that only outsiders use, dead letters. And when no daemon has lived for orphan_timeout, it stops what is left of the region, as
// shmctl stop does: workers that attach through pkg/shm, builtins and filters see to it themselves, commands that know nothing of shmd do not. When the region
// is stopped and its daemon dies over that, or had died before, the guard ends the workers that shmctl must not signal: those that hold nothing of the region any
// more. A guard belongs to one daemon and one set of segments: it ends when another daemon lives, which has one of its own, and with the region.
type guardSpec struct {
	Region string        `json:"region"`
	Dir    string        `json:"dir"`
	Pid    int           `json:"pid"`   // of the daemon
	After  time.Duration `json:"after"` // 0: however long it takes
}

// guardVariable makes shmd a guard, and carries its spec. The roster is descriptor 3, the command segment 4; the others follow.
const guardVariable = control.GuardVariable

// startGuard starts the daemon's guard, before anybody can know that the daemon is there. A region does without rather than not start.
func (d *Daemon) startGuard() {
	if h := d.handed; h != nil && h.Guard > 0 { // its orphan_timeout and its segments may be others
		if p, err := os.FindProcess(h.Guard); err == nil {
			defer func() { p.Kill(); p.Wait() }()
		}
	}
	d.renewGuard()
}

// renewGuard puts another guard into the place of the one that there is: it holds the segments of now. The one before ends when the new one
// has all of them.
func (d *Daemon) renewGuard() {
	before := d.guard
	if err := d.launchGuard(); err != nil {
		d.log.Warn("the guard could not be started: if the daemon is killed, what waits in channels that no worker has may be lost, and if no other follows, workers that do not attach stay",
			"error", err, "again_in", guardRetry.String())
		if !d.guardDue {
			d.guardDue = true
			time.AfterFunc(guardRetry, func() { d.post(d.retryGuard) })
		}
		return
	}
	d.guardDue = false
	before.end(d)
}

// retryGuard is renewGuard some time after it could not be done, unless it was since.
func (d *Daemon) retryGuard() {
	if d.guardDue && !d.stopping {
		d.guardDue = false
		d.renewGuard()
	}
}

// guardEnded starts another guard in the place of one that somebody killed.
func (d *Daemon) guardEnded() {
	g := d.guard
	if g == nil {
		return
	}
	if ended, err := sys.PidfdReadable(g.pidfd); !ended || err != nil {
		return
	}
	d.guard = nil
	g.end(d) // in any case: its pidfd would be reported again and again

	if d.stopping || d.mem.command.RegionDesired() == protocol.DesiredStop { // it ends with the region
		return
	}
	d.log.Warn("the guard has ended: another one is started", "pid", g.process.Pid)
	d.event(eventRegion, d.conf.Region.Name, "guard", "pid", g.process.Pid)
	if wait := guardRest - time.Since(g.began); wait > 0 { // whatever ends it may end the next one, too
		time.AfterFunc(wait, func() {
			d.post(func() {
				if d.guard == nil && !d.stopping {
					d.renewGuard()
				}
			})
		})
		return
	}
	d.renewGuard()
}

func (d *Daemon) launchGuard() error {
	spec, err := json.Marshal(guardSpec{d.conf.Region.Name, d.dir, os.Getpid(), d.conf.Region.OrphanTimeout})
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	files := []*os.File{null, null, null, d.mem.segments["roster"].readOnly, d.mem.segments["command"].readOnly}
	for name, s := range d.mem.segments {
		if name != "roster" && name != "command" {
			files = append(files, s.readOnly)
		}
	}
	p, err := os.StartProcess("/proc/self/exe", []string{"shmd", "guard", d.conf.Region.Name}, &os.ProcAttr{
		Env: append(os.Environ(), guardVariable+"="+string(spec)), Files: files, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return err
	}
	g := &guardProcess{process: p, began: time.Now()}
	if g.pidfd, err = sys.PidfdOpen(p.Pid); err == nil {
		err = d.deaths.Add(g.pidfd, guardToken)
	}
	if err != nil { // it does what it is for; only its end is not seen
		d.log.Warn("the guard is not watched", "pid", p.Pid, "error", err)
	}
	d.guard = g
	return nil
}

// guardProcess is the guard as its daemon has it.
type guardProcess struct {
	process *os.Process
	pidfd   *os.File // nil: its end is not seen
	began   time.Time
}

// guardToken is the epoll token of the guard's pidfd: no attachment has the id 0.
const guardToken = 0

// guardRest is how far apart the starts of guards are that end by themselves.
const guardRest = time.Second

// guardRetry is when a guard is tried again that could not be started.
const guardRetry = 5 * time.Second

// endGuard ends the guard with the region.
func (d *Daemon) endGuard() {
	d.guard.end(d)
	d.guard = nil
}

// end kills a guard, if there is one.
func (g *guardProcess) end(d *Daemon) {
	if g == nil {
		return
	}
	if err := g.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		syscall.Kill(g.process.Pid, syscall.SIGKILL) // a child that nobody else reaps: the number is its own
	}
	g.process.Wait() // the error is that it was reaped already
	if g.pidfd != nil {
		d.deaths.Remove(g.pidfd) // the error is that nobody waits for deaths any more
		g.pidfd.Close()
	}
}

// Guard is the guard's main function. ok is false if this process is to be none.
func Guard() (code int, ok bool) {
	text, ok := os.LookupEnv(guardVariable)
	if !ok {
		return 0, false
	}
	var s guardSpec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return exitUsage, true
	}
	if err := s.guard(); err != nil {
		return exitFailed, true // nobody is there to be told
	}
	return exitOK, true
}

func (s guardSpec) guard() error {
	dropInherited()
	open := func(fd int) (*region.Segment, error) {
		return region.Open(os.NewFile(uintptr(fd), "segment"), region.OpenOptions{MinSize: protocol.SizeofSegmentHeader})
	}
	rosterSeg, err := open(3)
	if err != nil {
		return err
	}
	commandSeg, err := open(4)
	if err != nil {
		return err
	}
	roster, err := protocol.OpenRoster(rosterSeg.Bytes())
	if err != nil {
		return err
	}
	command, err := protocol.OpenCommand(commandSeg.Bytes())
	if err != nil {
		return err
	}
	hub := sys.NewHub()
	ctx, stopping := context.WithCancel(context.Background())
	go func() {
		for word := command.RegionQuit(); ; {
			v := word.Load()
			if protocol.Flagged(word) || hub.WaitLong(ctx, word, v, nil) != nil {
				stopping()
				return
			}
		}
	}()
	ends, err := sys.NewEpoll()
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(rosterSeg)
	defer runtime.KeepAlive(commandSeg)
	daemon, err := sys.PidfdOpen(s.Pid)
	if err == nil && os.Getppid() == s.Pid { // asked after the opening: the pidfd is of that process
		if err := ends.Add(daemon, 0); err != nil {
			return err
		}
		if _, err := ends.Wait(-1); err != nil { // a daemon that ends in order ends its guard first
			return err
		}
	}
	for after := s.After; ; {
		if followed := s.awaitDaemon(ctx, hub, roster, after); followed {
			return nil
		}
		stopped := ctx.Err() != nil
		err := s.end(roster.Header().Generation, stopped)
		if !errors.Is(err, ErrRunning) {
			return err
		}
		// Who has the lock is a daemon that is about to adopt the region: it has that time again.
		if stopped {
			ctx, after = context.Background(), adoptionPatience
		}
	}
}

// adoptionPatience is how long a daemon may take to adopt a region that is to stop, before the guard goes on without it.
const adoptionPatience = 10 * time.Second

// awaitDaemon waits for another daemon, as long as after says (0: however long it takes) and the region is not stopped.
func (s guardSpec) awaitDaemon(ctx context.Context, hub *sys.Hub, roster *protocol.Roster, after time.Duration) bool {
	soon := ctx
	if after > 0 {
		var cancel context.CancelFunc
		soon, cancel = context.WithTimeout(ctx, after)
		defer cancel()
	}
	for word := roster.ChangeWord(); ; {
		v := word.Load()
		if d := roster.Daemon(); d.Pid != s.Pid {
			if alive, _ := control.Alive(d.Pid, d.StartTicks); alive {
				return true
			}
		}
		if hub.WaitLong(soon, word, v, nil) != nil {
			return false
		}
	}
}

// end ends what is left of the region, which stays wanted: where its memory lies in an fd store, a daemon that comes late goes on with it. Of one that somebody stops it ends what nobody else can. Errors: ErrRunning; the kernel's.
func (s guardSpec) end(generation uint64, stopped bool) error {
	owner, err := control.Owner(s.Dir, uint32(os.Geteuid()))
	if err != nil {
		return err
	}
	all, err := control.FindOwn(s.Region, s.Dir, owner)
	defer func() {
		for _, l := range all {
			l.Close()
		}
	}()
	for _, l := range all {
		if l.Generation != generation || !l.Own {
			continue
		}
		var held *lock
		take := func() (err error) {
			held, err = takeLock(s.Dir, s.Region)
			return err
		}
		if stopped {
			err = control.StopRest(context.Background(), l.Set, take)
		} else if err = take(); err == nil {
			_, err = control.Dismiss(context.Background(), l)
		}
		if held != nil {
			removeDeadSocket(held.before)
			removeDeadSocket(filepath.Join(s.Dir, s.Region+".sock"))
			held.release()
		}
		if err != nil {
			err = fmt.Errorf("stop the workers of region %q: %w", s.Region, err)
		}
	}
	return err
}
