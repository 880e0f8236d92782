package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/unit"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// session is a region's memory in shmctl's hands, whoever gave it.
type session struct {
	control.Set
	segments map[string]*region.Segment // by name; the headers of all but roster and command are still to be checked
	missing  map[string]error           // segments of the directory that could not be had, and why

	conn       *attach.Conn    // the daemon that answers, or nil
	attachment uint16          // then: this process's attachment id
	living     *control.Living // where the memory was taken from if no daemon answers, or nil
	why        error           // then: why no daemon answers

	was protocol.DaemonState // then: what it said of itself before it did not answer
}

// answers reports whether a daemon gave the memory, so that it can be expected to act.
func (s *session) answers() bool { return s.conn != nil }

// refused reports whether the daemon answered, but gave no attachment.
func (s *session) refused() bool {
	var refused *attach.RefusedError
	return errors.As(s.why, &refused)
}

// removed reports whether the daemon's socket is not there though it should be. A daemon listens before it says that it runs, and says that it stops before it
// listens no more: that it ran before and after makes the difference from one that starts or ends.
func (s *session) removed() bool {
	return errors.Is(s.why, attach.ErrNoDaemon) && s.was == protocol.DaemonStateRunning && s.Roster.Daemon().State == protocol.DaemonStateRunning
}

// comesUp reports whether the daemon does not answer because it has only just started.
func (s *session) comesUp() bool {
	d := s.Daemon()
	return !s.answers() && d.Alive && !d.Stopped && s.was == protocol.DaemonStateStarting
}

// Close unmaps everything.
func (s *session) Close() {
	if s.conn != nil {
		for _, seg := range s.segments {
			seg.Close()
		}
		s.conn.Close()
	}
	if s.living != nil {
		s.living.Close()
	}
}

func (a *app) socketPath() string {
	if a.socket != "" {
		return a.socket
	}
	return attach.SocketPath(a.region)
}

// attachWithin is how long a daemon that answers a ping may take to hand out descriptors: the ping is answered by the socket, an
// attachment is made by the supervisor.
const attachWithin = 2 * time.Second

// open attaches to the region: through the daemon's socket, or, when no daemon answers there, by taking the segments from a
// living process of the region. operate asks for the command segment writable. It warns of what the user should know.
//
// Errors: those of attach.Dial and control.Find; attach.ErrHungUp is among them if a daemon was there and ended meanwhile.
func (a *app) open(ctx context.Context, operate bool) (*session, error) {
	s, err := a.openQuietly(ctx, operate)
	if err == nil {
		a.remark(s)
	}
	return s, err
}

// openQuietly is open without the warnings.
func (a *app) openQuietly(ctx context.Context, operate bool) (*session, error) {
	s, err := a.throughDaemon(ctx, operate, attach.Dial)
	if err == nil {
		return s, nil
	}
	if !withoutDaemon(err) {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, explain(context.Cause(ctx), plainCause(err))
	}
	s, err2 := a.throughProcesses()
	var refused *attach.RefusedError
	switch {
	case err2 == nil:
		s.why, s.was = err, s.Roster.Daemon().State
		// Once more, unless it cannot answer, or was waited for: it may just have begun to listen.
		if d := s.Daemon(); d.Alive && !d.Stopped && !errors.As(err, &refused) && !errors.Is(err, attach.ErrSilent) {
			now, err := a.throughDaemon(ctx, operate, attach.Dial)
			switch {
			case err == nil:
				s.Close()
				return now, nil
			case withoutDaemon(err):
				s.why = err
			}
		}
		return s, nil
	case errors.Is(err, attach.ErrSilent) && (errors.Is(err2, control.ErrPermission) || errors.Is(err2, control.ErrNoRegion)):
		// There is no other way: have patience with it.
		soon, cancel := context.WithTimeout(ctx, attachWithin)
		defer cancel()
		if s, err := a.throughDaemon(soon, operate, attach.DialWait); err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, explain(context.Cause(ctx), plainCause(err))
		}
		return nil, fmt.Errorf("%w; %w", err, err2)
	case errors.As(err, &refused) && errors.Is(err2, control.ErrPermission): // the daemon is there, and said what to do
		return nil, err
	case errors.Is(err2, control.ErrNoRegion), errors.Is(err2, control.ErrPermission):
		return nil, fmt.Errorf("%w; %w", err, err2)
	}
	return nil, err2
}

// throughDaemon has the daemon give the memory.
func (a *app) throughDaemon(ctx context.Context, operate bool, dial func(context.Context, string) (*attach.Conn, error)) (*session, error) {
	conn, err := dial(ctx, a.socketPath())
	if err != nil {
		return nil, err
	}
	if conn, err = a.expectRegion(conn); err != nil {
		return nil, err
	}
	s, err := attached(ctx, conn, operate)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// expectRegion returns a connection that was just made, or closes it if the daemon is of another region than the one that the user named beside its socket.
func (a *app) expectRegion(conn *attach.Conn) (*attach.Conn, error) {
	if name := conn.Hello().Region; a.meant != "" && name != a.meant {
		conn.Close()
		return nil, fmt.Errorf("socket %s is that of region %q, not of %q: name the one (-r) or the other (-s)", a.socketPath(), name, a.meant)
	}
	return conn, nil
}

// throughProcesses takes the memory from the processes that hold it. Errors: those of control.Find.
func (a *app) throughProcesses() (*session, error) {
	owner, err := control.Owner(filepath.Dir(a.socketPath()), uint32(os.Geteuid()))
	if err != nil {
		return nil, err
	}
	living, err := control.Find(a.region, filepath.Dir(a.socketPath()), owner)
	if err != nil {
		return nil, err
	}
	return &session{Set: living.Set, segments: living.Segments, missing: living.Missing, living: living}, nil
}

// withoutDaemon reports whether err means that no daemon gives the memory, which its processes still may have.
func withoutDaemon(err error) bool {
	for _, e := range []error{attach.ErrNoDaemon, attach.ErrDeadSocket, attach.ErrSilent, attach.ErrHungUp} {
		if errors.Is(err, e) {
			return true
		}
	}
	var refused *attach.RefusedError
	return errors.As(err, &refused) && refused.Code == attach.CodeBusy // it is stopping, or has no attachment id left
}

// remark warns, once a run, that the daemon is of another version, or that and how shmctl does without one.
func (a *app) remark(s *session) {
	if a.remarked {
		return
	}
	a.remarked = true
	if s.living != nil {
		a.warnNoDaemon(s)
		return
	}
	a.remarkVersion(s.conn.Hello().Version)
}

// warnNoDaemon says that and how shmctl does without a daemon.
func (a *app) warnNoDaemon(s *session) {
	var pids []string
	for _, pid := range s.living.Pids() {
		pids = append(pids, fmt.Sprint(pid))
	}
	if n := len(pids); n > 6 {
		pids = append(pids[:5], fmt.Sprintf("… (%d in all)", n))
	}
	d := s.Daemon()
	what := fmt.Sprintf("the daemon (pid %d) is dead", d.Pid)
	var refused *attach.RefusedError
	switch {
	case errors.As(s.why, &refused):
		what = fmt.Sprintf("the daemon (pid %d) gives no attachment (%s)", d.Pid, refused.Text)
	case d.Alive && d.Stopped:
		what = fmt.Sprintf("the daemon (pid %d) is stopped and does not answer", d.Pid)
	case s.comesUp():
		what = fmt.Sprintf("the daemon (pid %d) is only starting, and does not answer yet", d.Pid)
	case d.Alive && s.removed():
		what = fmt.Sprintf("the socket of the daemon (pid %d), %s, was removed: %s", d.Pid, a.socketPath(), restartIt(a.region, d.Pid))
	case d.Alive:
		what = fmt.Sprintf("the daemon (pid %d) does not answer", d.Pid)
	}
	processes := "process "
	if len(pids) > 1 {
		processes = "processes "
	}
	a.warn("%s; took the memory of region %q from %s%s", what, a.region, processes, strings.Join(pids, ", "))
}

// restartIt is what to do about a daemon that nobody can reach.
func restartIt(region string, pid int) string {
	return fmt.Sprintf("kill -9 %d: the next daemon makes one and takes the region over (systemd starts it, after systemctl stop %s.socket where that unit is in use; else shmd -c FILE)", pid, unit.Name(region))
}

// replaceIt is what to do about a daemon that hangs.
func replaceIt(pid int) string {
	return fmt.Sprintf("kill -9 %d: the next daemon takes the region over (systemd starts it; else shmd -c FILE)", pid)
}

// without is a daemon of this region that runs, and whose socket is not there, or is that of one before it.
type without struct {
	pid   int // 0: there is none, as far as this process may see
	state protocol.DaemonState
}

// unreachable looks for such a daemon: by its memory, and while it has none yet by its lock.
func (a *app) unreachable() without {
	s, err := a.throughProcesses()
	if err != nil {
		return without{a.lockedBy(), protocol.DaemonStateStarting}
	}
	defer s.Close()
	d := s.Daemon()
	s.was = s.Roster.Daemon().State
	if _, s.why = os.Lstat(a.socketPath()); errors.Is(s.why, fs.ErrNotExist) {
		s.why = attach.ErrNoDaemon
	}
	switch {
	case !d.Alive: // the next one may be about to take over
		return without{a.lockedBy(), protocol.DaemonStateStarting}
	case s.removed():
		return without{d.Pid, protocol.DaemonStateRunning}
	case s.was == protocol.DaemonStateStarting, s.was == protocol.DaemonStateStopping:
		return without{d.Pid, s.was}
	}
	return without{}
}

// lockedBy is the pid of the daemon that has the region's lock, 0 if none has it, or that cannot be seen. It looks at who has the file open: to try the lock
// would be to take it for a moment.
func (a *app) lockedBy() int {
	path := strings.TrimSuffix(a.socketPath(), ".sock") + ".lock"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	lock, err := os.Stat(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil || pid <= 0 {
		return 0
	}
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if st, err := os.Stat(dir + e.Name()); err == nil && os.SameFile(st, lock) {
			return pid
		}
	}
	return 0
}

// attached asks the daemon for the segments and maps them. A segment that cannot be mapped is missing; without roster and
// command there is no session.
func attached(ctx context.Context, conn *attach.Conn, operate bool) (*session, error) {
	role := attach.RoleObserve
	if operate {
		role = attach.RoleOperate
	}
	soon, cancel := context.WithTimeoutCause(ctx, attachWithin, fmt.Errorf("%w: it gave no attachment within %v", attach.ErrSilent, attachWithin))
	defer cancel()
	got, err := conn.Attach(soon, attach.Request{Role: role, Name: "shmctl"})
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, attachment: got.Attachment, segments: map[string]*region.Segment{}, missing: map[string]error{}}
	for name, f := range got.Files {
		write, err := sys.AccessMode(f)
		if err != nil {
			f.Close()
			s.missing[name] = err
			continue
		}
		seg, err := region.Open(f, region.OpenOptions{Write: write, MinSize: protocol.SizeofSegmentHeader})
		if err != nil {
			s.missing[name] = err
			continue
		}
		s.segments[name] = seg
	}
	if s.Set, err = control.OpenSet(s.segments); err != nil {
		for _, name := range []string{"roster", "command"} {
			if why := s.missing[name]; why != nil {
				err = why
			}
		}
		for _, seg := range s.segments {
			seg.Close()
		}
		return nil, fmt.Errorf("region %q: %w", got.Region, err)
	}
	return s, nil
}
