// Package daemon is shmd: it makes a region, starts its workers, keeps what runs equal to what is wanted, gives back what dead
// processes held, and hands out descriptors. Messages never go through it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/oklog/run"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/cgroup"
	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// Options are what the command line says.
type Options struct {
	Config  *config.Config
	Last    *config.Config // that a daemon ran with whose region systemd hands to this one; nil: none
	Refused error          // why Last is Config, where the file's was refused; nil: it was not
	Version string
	Log     *os.File    // where the log goes
	Level   hclog.Level // the least that is logged
}

// Daemon is a running daemon. It is made by Run and not used outside of it.
type Daemon struct {
	conf         *config.Config
	last         *config.Config // that the daemon before ran with; nil: it is not known
	refused      error          // why it is conf
	storedConfig []byte         // text of the configuration that the fd store has
	version      string
	log          hclog.InterceptLogger
	sink         *sink
	eventLog     eventLog
	dumps        *failureDumps

	dir      string // of the socket and the lock
	sockPath string
	lock     *lock
	sockets  []*os.File // that systemd opened
	handed   *handover  // nil: this process was no daemon before
	adopted  *adopted   // nil: the region is new
	mem      *memory
	hub      *sys.Hub
	deaths   *sys.Epoll // pidfds of workers and outsiders, token: attachment id
	lines    lines
	systemd  notifier
	stored   map[string]uint64 // inodes of the segments that the fd store had at the start, by the names that they have there
	server   *server

	// The supervisor's goroutine alone uses what follows.
	workers   []*worker
	machine   *supervise.Machine
	events    []happened // that the machine does not know of yet
	stepping  bool
	heldMore  bool // the guard holds segments that are no more
	unsettled bool // a worker's state has changed since reportStatus
	ids       *ids
	outsiders map[uint16]*outsider
	stopping  bool
	info      protocol.DaemonInfo
	ready     bool     // READY=1 was sent
	status    string   // STATUS as it was sent last
	groups    []*group // by row; nil: free

	posted    chan func()
	finished  chan struct{}
	asked     chan os.Signal // SIGTERM, SIGINT, SIGHUP
	children  chan os.Signal // SIGCHLD
	once      sync.Once
	guard     *guardProcess   // nil: it could not be started
	guardDue  bool            // it is tried again in a while
	wentOn    chan struct{}   // closed when an upgrade is done
	pause     time.Duration   // then: for so long nobody supervised
	starts    int             // processes that were started in the function that runs now
	reloading sync.Mutex      // held by who reloads
	deferred  bool            // another look at every worker was posted
	cgroups   *cgroup.Tree    // nil: no group has had one of its own so far
	ringing   context.Context // of the watches, once there are any
	watches   watches
	metrics   *metricsServer       // nil: none
	view      atomic.Pointer[view] // what the server sees
}

// Run runs a region until it is stopped: by a signal, by shmctl stop, or by ctx. It returns nil after an orderly stop.
// Errors: ErrRunning; those of making the memory and the socket.
func Run(ctx context.Context, o Options) (err error) {
	d := &Daemon{
		conf: o.Config, last: o.Last, refused: o.Refused, version: o.Version, hub: sys.NewHub(), stored: map[string]uint64{}, dumps: newFailureDumps(), outsiders: map[uint16]*outsider{},
		posted: make(chan func(), 64), finished: make(chan struct{}),
		asked: make(chan os.Signal, 8), children: make(chan os.Signal, 1), wentOn: make(chan struct{}),
	}
	var handedErr error
	if d.handed, handedErr = readHandover(upgradeVariable); d.handed != nil {
		signal.Notify(d.asked, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP) // the region is there: a stop must not end it out of order
		d.handed.arrive()
	}
	dropInherited()
	// Who reads the log may go away: that is no reason to die. Ignoring the signal would be handed down to the workers.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	d.log, d.sink = newLogger(o.Log, o.Config.Region.Name, o.Level)
	defer d.sink.spool.end()
	d.systemd.log = d.log
	defer d.lines.close()
	d.systemd.check = d.checkStore
	if d.handed == nil { // else nothing waits for a start
		d.mayTake(prepareLimit)
	}
	if err = errors.Join(handedErr, d.lines.begin(d.log, d.sink.spool)); err == nil {
		err = d.prepare()
	}
	if err == errOver {
		d.log.Info("the region has stopped: the daemon before died at the end of that")
		d.sayReady()
		d.systemd.end()
		d.release()
		return nil
	}
	if err != nil {
		err = d.conf.OutOfFiles(err)
		d.log.Error("cannot start", "error", err)
		if d.adopted == nil { // else it has workers to look after
			d.endGuard()
		}
		d.release()
		return err
	}
	defer d.release()
	d.tellRefused()
	d.warnOfDir()
	for _, p := range d.conf.CheckLimits() {
		d.log.Warn("workers of a group cannot be started with its limit", "reason", p.Error())
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g run.Group
	g.Add(func() error { d.supervise(); return nil }, func(error) {
		d.post(func() { d.beginShutdown("the daemon ends") })
		<-d.finished // until the last worker has ended, the other actors are needed
	})
	if w := d.watchNames(); w != nil {
		g.Add(func() error { return d.namesLost(w) }, func(error) { w.Close() }) // before the server: it ends before the names are given up
	}
	g.Add(func() error { return d.reap() }, func(error) { d.deaths.Close() })
	g.Add(func() error { return d.server.serve() }, func(error) { d.server.close() })
	g.Add(func() error { return d.signals(ctx) }, func(error) { cancel() })
	g.Add(func() error { return d.bells(ctx) }, func(error) { cancel() })
	if m := d.listenMetrics(); m != nil {
		d.metrics = m
		g.Add(m.serve, func(error) { m.close() })
	}
	if interval := watchdogInterval(); interval > 0 {
		g.Add(func() error { return d.watchdog(ctx, interval) }, func(error) { cancel() })
	}
	err = g.Run()
	if err == nil {
		d.endGuard()
		d.endLeftBehind()
		d.forgetAll()
		if d.cgroups != nil {
			d.cgroups.Leave()
		}
	}
	d.endDumps()
	d.carryLast()
	d.lines.end()
	d.systemd.end()
	if err == nil {
		d.log.Info("region stopped")
		d.event(eventRegion, d.conf.Region.Name, "stopped")
		d.setAttachment(daemonID, protocol.Attachment{}) // last: afterOver
	}
	return err
}

// carryLast carries what workers that have ended have logged last. How much that may be is their choice, so it has an end.
func (d *Daemon) carryLast() {
	soon, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	for _, g := range d.living() {
		for g.drain.look(soon) {
		}
		if soon.Err() != nil && g.drain.more() {
			d.log.Warn("workers had logged more than could be carried in time: the rest is lost", "group", g.conf.Name, "within", lastWords.String())
		}
	}
}

// warnOfDir warns if others may put a socket of their own in the place of the daemon's.
func (d *Daemon) warnOfDir() {
	st, err := os.Stat(d.dir)
	if err != nil {
		return
	}
	if st.Mode().Perm()&0o002 != 0 {
		d.log.Warn("everybody may write to the runtime directory, and so pretend to be the daemon", "dir", d.dir, "next", "chmod o-w "+d.dir)
	}
	if owner, ok := st.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid() {
		d.log.Warn("the runtime directory belongs to another user, who may pretend to be the daemon", "dir", d.dir, "user", owner.Uid, "next", fmt.Sprintf("chown %d %s", os.Geteuid(), d.dir))
	}
}

// place says where socket and lock are.
func (d *Daemon) place() {
	d.sockPath = attach.ListenPath(d.conf.Region.Name)
	d.dir = filepath.Dir(d.sockPath)
}

// makeDir makes the runtime directory, if it is not there.
func (d *Daemon) makeDir() error {
	mode := os.FileMode(0o750)
	if d.conf.Open() {
		mode = 0o755
	}
	if err := os.MkdirAll(d.dir, mode); err != nil {
		return fmt.Errorf("runtime directory: %w; %s", err, elsewhere)
	}
	return nil
}

// prepare makes everything that the actors need.
func (d *Daemon) prepare() (err error) {
	name := d.conf.Region.Name
	d.place()
	if err := d.makeDir(); err != nil {
		return err
	}
	if d.handed != nil {
		d.lock = d.handed.takeLock(d.dir, name)
	} else if d.lock, err = takeLock(d.dir, name); err != nil {
		return err
	}
	if err := sys.SetSubreaper(); err != nil {
		return fmt.Errorf("become the parent of what workers leave behind: %w", err)
	}
	if d.deaths, err = sys.NewEpoll(); err != nil {
		return fmt.Errorf("watch for the ends of processes: %w", err)
	}
	ticks, err := sys.StartTicks(os.Getpid())
	if err != nil {
		return err
	}
	now := time.Now()
	d.info = protocol.DaemonInfo{Pid: os.Getpid(), StartTicks: ticks, State: protocol.DaemonStateStarting, Started: now, Version: d.version, Config: d.conf.Path}
	if err := d.succeed(now); err != nil {
		return err
	}
	if d.adopted == nil {
		if err := d.stopLeftovers(); err != nil {
			return err
		}
		if d.mem, err = newMemory(d.conf, d.dir, now); err != nil {
			return err
		}
		d.ids = newIDs(d.mem.roster.AttachmentCap())
	}
	d.setAttachment(daemonID, protocol.Attachment{State: protocol.AttachmentLive, Pid: os.Getpid(), UID: uint32(os.Getuid()), StartTicks: ticks,
		Worker: -1, Role: protocol.RoleDaemon, Name: "shmd"})
	if d.adopted == nil {
		if err := d.addGroups(); err != nil {
			return err
		}
	}
	d.publishView()
	d.storeConfig()
	if err := d.storeSegments(); err != nil {
		return err
	}
	if d.adopted != nil { // before the guard of the daemon before sees this one
		d.startGuard()
	}
	if d.handed == nil { // from here on a SIGTERM of systemd's, whose patience is over, would stop the region
		d.mayTake(startLimit)
	}
	d.info.ConfigRefused = d.refused != nil
	d.mem.roster.SetDaemon(d.info)                                          // last: without it the region counts as not there yet (control.Find)
	signal.Notify(d.asked, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP) // before anybody can know that the region is there
	signal.Notify(d.children, syscall.SIGCHLD)
	if d.adopted == nil { // of a region that was never there nothing is left
		d.startGuard()
	}
	if d.server, err = listen(d, d.sockPath); err != nil {
		return err
	}
	if d.adopted != nil {
		return nil
	}
	d.event(eventRegion, name, "created", "pid", os.Getpid(), "version", d.version, "workers", len(d.workers))
	d.log.Info("region created", "region", name, "pid", os.Getpid(), "version", d.version, "socket", d.sockPath, "config", d.conf.Path, "workers", len(d.workers), "channels", len(d.mem.names))
	return nil
}

// succeed adopts the region of a daemon that died, if there is one that can be adopted, or of the program that this one takes the place of.
func (d *Daemon) succeed(now time.Time) error {
	if h := d.handed; h != nil {
		e, err := d.estateOf(h, true)
		if err == nil {
			defer e.Close()
			d.adopted, err = d.adopt(e, now)
		}
		if err != nil { // nothing is set aside: the next daemon adopts it, or says why not
			return fmt.Errorf("take over from %s: %w", h.From, err)
		}
		return nil
	}
	e := d.inherit()
	switch {
	case e == nil:
		var err error
		if e, err = d.findEstate(); err != nil || e == nil {
			return err
		}
	case d.over(e) == nil:
		d.complete(e)
	}
	defer e.Close()
	if err := d.awaitDeath(e); err != nil {
		return err
	}
	if roster := d.over(e); roster != nil {
		return d.afterOver(roster)
	}
	d.chooseConfig(e)
	var err error
	if d.adopted, err = d.adopt(e, now); err == nil {
		return nil
	}
	if err == errAsked {
		d.log.Info("the region of an earlier daemon was asked to stop: what is left of it ends, and a new region begins", "region", d.conf.Region.Name, "found_in", e.from)
	} else {
		d.log.Warn("the region of an earlier daemon cannot be adopted: it is set aside, its workers are asked to quit, and a new region begins", "region", d.conf.Region.Name,
			"found_in", e.from, "reason", err)
	}
	for _, name := range e.names {
		d.systemd.remove(name)
	}
	d.sink.detach()
	d.eventLog.detach()
	if d.mem != nil {
		d.mem.Close()
	}
	d.mem, d.workers, d.groups, d.outsiders = nil, nil, nil, map[uint16]*outsider{}
	return nil
}

// stopLeftovers ends what a dead predecessor left running: there are never two regions of one name. The workers quit as they
// would by shmctl stop.
func (d *Daemon) stopLeftovers() error {
	name := d.conf.Region.Name
	owner, err := sys.StatPath(d.dir)
	if err != nil {
		return err
	}
	living, err := control.FindAll(name, d.dir, owner.UID)
	if err != nil {
		return fmt.Errorf("look for an earlier region %q: %w", name, err)
	}
	for _, l := range living {
		d.log.Warn("an earlier daemon of this region died and its workers live on: they are asked to quit", "region", name, "processes", len(l.Holders))
		d.mayTake(control.StopTakes(l.Set.Roster))
		_, err := control.StopLeftovers(context.Background(), l)
		l.Close()
		if err != nil {
			return fmt.Errorf("stop the workers of the earlier region %q: %w", name, err)
		}
	}
	return nil
}

// release undoes prepare.
func (d *Daemon) release() {
	if d.server != nil {
		d.server.close()
	}
	d.sink.detach()
	d.eventLog.detach()
	for _, o := range d.outsiders {
		o.pidfd.Close()
	}
	if d.deaths != nil {
		d.deaths.Close()
	}
	d.hub.Close()
	d.dumps.end()
	if d.mem != nil {
		d.mem.Close()
	}
	if d.lock != nil {
		d.lock.release()
	}
}

// dropInherited keeps descriptors that the daemon's parent left open from workers, which would hold them for as long as they live.
func dropInherited() {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			sys.SetCloexec(fd) // fails for the descriptor of the directory alone, which is closed
		}
	}
}

// post hands a function to the supervisor. After the supervisor has ended it does nothing.
func (d *Daemon) post(fn func()) {
	select {
	case d.posted <- fn:
	case <-d.finished:
	}
}

// finish ends the supervisor.
func (d *Daemon) finish() { d.once.Do(func() { close(d.finished) }) }

// supervise is the supervisor.
func (d *Daemon) supervise() {
	d.setDaemonState(protocol.DaemonStateRunning)
	if d.adopted != nil {
		d.goOn(d.adopted)
		d.setCgroups()
	}
	d.reconcileAll()
	d.limitStart()
	d.reportStatus()
	d.checkStopped()
	for {
		select {
		case <-d.finished: // what was posted after the end is not run: whoever posted it may have gone on
			return
		default:
		}
		select {
		case fn := <-d.posted:
			d.starts = 0
			fn()
			d.settle()
		case <-d.finished:
			return
		}
	}
}

// tokenOf is the epoll token of an attachment's pidfd.
func tokenOf(id uint16) uint64 { return uint64(id) }

// reap waits for deaths.
func (d *Daemon) reap() error {
	for {
		tokens, err := d.deaths.Wait(-1)
		if errors.Is(err, sys.ErrClosed) {
			return nil
		}
		if err != nil { // a daemon that sees no deaths is none: the workers are left to the next one
			d.finish()
			return fmt.Errorf("wait for deaths: %w", err)
		}
		// The pidfds stay readable until the supervisor has removed them: wait for it before the next look.
		done := make(chan struct{})
		d.post(func() {
			defer close(done)
			for _, t := range tokens {
				if t == guardToken {
					d.guardEnded()
				} else {
					d.died(uint16(t))
				}
			}
		})
		select {
		case <-done:
		case <-d.finished:
			return nil
		}
	}
}

// died is called when the process of an attachment has ended. Between that and now the attachment may have ended otherwise, and
// its id be another's, so it looks again.
func (d *Daemon) died(id uint16) {
	ended := func(pidfd *os.File) bool {
		ok, err := sys.PidfdReadable(pidfd)
		return ok && err == nil
	}
	for _, w := range d.workers {
		if w.proc != nil && w.row.Attachment == id {
			if ended(w.proc.pidfd) {
				d.workerDied(w)
			}
			return
		}
	}
	if o := d.outsiders[id]; o != nil && ended(o.pidfd) {
		d.outsiderGone(o, "ended")
		d.server.hangUp(o)
	}
}

// impatience is how long after the first signal a second one means "at once". Before that it is the same one twice: timeout(1)
// signals its child and then the child's process group.
const impatience = 500 * time.Millisecond

// signals turns signals into commands: the first SIGTERM or SIGINT stops the region in order, the second kills.
func (d *Daemon) signals(ctx context.Context) error {
	var asked time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.finished:
			return nil
		case <-d.children: // a worker has its pidfd; this is for orphans that the subreaper inherits
			d.post(func() {
				d.noticeStops()
				sys.ReapOrphans(d.isWorker)
				d.dropCgroups() // the last of one may have been such an orphan
			})
		case s := <-d.asked:
			switch {
			case s == syscall.SIGHUP:
				go d.reloadOnSignal()
			case asked.IsZero():
				asked = time.Now()
				d.post(func() { d.beginShutdown(s.String()) })
			case time.Since(asked) > impatience:
				d.post(d.killAll)
			}
		}
	}
}

func (d *Daemon) setDaemonState(s protocol.DaemonState) {
	d.info.State = s
	d.mem.roster.SetDaemon(d.info)
}

func restartOf(s string) protocol.Restart {
	switch s {
	case "on-failure":
		return protocol.RestartOnFailure
	case "never":
		return protocol.RestartNever
	}
	return protocol.RestartAlways
}

// policyOf is what the machine has to know of a group.
func policyOf(g *config.Group) *supervise.Policy {
	return &supervise.Policy{Name: g.Name, Restart: restartOf(g.Restart), ReadyAtExec: g.ReadyAtExec(), ReadyTimeout: g.ReadyTimeout, StopTimeout: g.StopTimeout,
		BackoffMin: g.BackoffMin, BackoffMax: g.BackoffMax, CrashLimit: g.CrashLimit, CrashWindow: g.CrashWindow, Watchdog: g.Watchdog,
		ResetGroup: g.OnCrash == config.OnCrashReset}
}

func commandOf(g *config.Group) string {
	if g.Builtin != "" {
		return "builtin:" + g.Builtin
	}
	return strings.Join(g.Command, " ")
}

func (d *Daemon) workerUID(w *worker) uint32 {
	if u, err := lookupUser(w.conf.User); err == nil && u != nil {
		return uint32(u.UID)
	}
	return uint32(os.Getuid())
}
