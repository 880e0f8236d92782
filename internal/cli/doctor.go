package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/cgroup"
	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/unit"
	"github.com/shmd/shmd/internal/version"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

func (a *app) doctorCommand() *cobra.Command {
	return a.verb(cobra.Command{
		Use:   "doctor",
		Short: "check the kernel, the limits, the socket and the daemon",
		Long: `doctor checks what shmd needs of this machine and of this user: features of
the kernel, limits, memory, the runtime directory and the socket, the daemon,
and what earlier daemons may have left. Each check gets as far as it can; each
that is not ok comes with what to do.

ok: fine. warn: something is missing that can be done without. fail: it does
not work like this. Exit code 1 if any check fails.`,
		Example: `  shmctl doctor
  shmctl doctor -o json | jq -r '.checks[] | select(.status == "fail") | .fix'`,
	}, noArgs, func(ctx context.Context, _ []string) error { return a.doctor(ctx) })
}

// Statuses of a check.
const (
	checkOK   = "ok"
	checkWarn = "warn"
	checkFail = "fail"
)

// finding is the outcome of one check.
type finding struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Text   string `json:"text"`          // what was found
	Fix    string `json:"fix,omitempty"` // what to do, unless ok
}

func fine(name, format string, args ...any) finding {
	return finding{Name: name, Status: checkOK, Text: fmt.Sprintf(format, args...)}
}

func (f finding) warn(fix string, args ...any) finding {
	f.Status, f.Fix = checkWarn, fmt.Sprintf(fix, args...)
	return f
}

func (f finding) fail(fix string, args ...any) finding {
	f.Status, f.Fix = checkFail, fmt.Sprintf(fix, args...)
	return f
}

func (a *app) doctor(ctx context.Context) error {
	checks := []finding{}
	for _, check := range []func(context.Context) []finding{checkKernel, checkLimits, checkMemory, a.checkPlace, a.checkDaemon} {
		checks = append(checks, check(ctx)...)
	}
	n := map[string]int{}
	for _, c := range checks {
		n[c.Status]++
	}
	if a.json() {
		if err := a.printJSON(struct {
			Schema int       `json:"schema"`
			Region string    `json:"region"`
			OK     int       `json:"ok"`
			Warn   int       `json:"warn"`
			Fail   int       `json:"fail"`
			Checks []finding `json:"checks"`
		}{schema, a.region, n[checkOK], n[checkWarn], n[checkFail], checks}); err != nil {
			return err
		}
	} else {
		var out strings.Builder
		for _, c := range checks {
			colors := map[string]color{checkOK: green, checkWarn: yellow, checkFail: red}
			fmt.Fprintf(&out, "%s  %-20s %s\n", a.paint(colors[c.Status], fmt.Sprintf("%-4s", c.Status)), c.Name, printable(c.Text))
			if c.Fix != "" {
				fmt.Fprintf(&out, "%27s→ %s\n", "", printable(c.Fix))
			}
		}
		fmt.Fprintf(&out, "\n%d ok, %d warn, %d fail\n", n[checkOK], n[checkWarn], n[checkFail])
		if _, err := a.stdout.WriteString(out.String()); err != nil {
			return err
		}
	}
	if n[checkFail] > 0 {
		return errSilent
	}
	return nil
}

// checkKernel looks for the features of the kernel that shmd uses.
func checkKernel(context.Context) []finding {
	var list []finding
	release := sys.KernelRelease()
	var major, minor int
	fmt.Sscanf(release, "%d.%d", &major, &minor)
	f := fine("kernel", "Linux %s", release)
	if major < 5 || major == 5 && minor < 10 {
		f = f.fail("shmd needs Linux 5.10 or newer")
	}
	list = append(list, f)

	f = fine("memfd and seals", "shared memory can be made, sealed against resizing, and handed out read-only")
	exec := true
	if err := tryMemory(&exec); err != nil {
		f.Text = err.Error()
		f = f.fail("memory comes from memfd_create(2), and is opened again through /proc: mount /proc, and let the sandbox (seccomp, SystemCallFilter=) allow it")
	}
	list = append(list, f)
	if f.Status == checkOK {
		f = fine("MFD_NOEXEC_SEAL", "memory can never be executed")
		if exec {
			f.Text = "not known to this kernel: memory is not marked as never to be executed"
			f = f.warn("nothing depends on it; Linux 6.3 has it")
		}
		list = append(list, f)
	}

	f = fine("futex_waitv", "one thread waits on up to 127 words")
	if !sys.HaveFutexWaitv() {
		f.Text = "not known to this kernel, or refused: each word that is waited on takes a thread"
		f = f.warn("nothing is wrong but the number of threads; Linux 5.16 has it, and a seccomp filter may have to allow it")
	}
	list = append(list, f)

	f = fine("pidfd", "the death of a process is an event")
	if p, err := sys.PidfdOpen(os.Getpid()); err != nil {
		f.Text = err.Error()
		f = f.fail("shmd needs pidfd_open(2): Linux 5.3, and a sandbox that allows it")
	} else {
		p.Close()
	}
	list = append(list, f)

	f = fine("SO_PEERPIDFD", "who attaches is known by a pidfd, also from another pid namespace")
	if err := tryPeerPidfd(); err != nil {
		f.Text = fmt.Sprintf("not to be had (%v): who attaches is known by pid and start time, and a process of another pid namespace is refused", err)
		f = f.warn("containers need the host's pid namespace (--pid=host) to attach; Linux 6.5 has it")
	}
	return append(list, f)
}

// tryMemory makes a segment and opens it again read-only. exec: it could be executed.
func tryMemory(exec *bool) error {
	s, err := region.Create(region.Options{Name: "shmd:doctor", Size: int64(sys.PageSize())})
	if err != nil {
		return err
	}
	defer s.Close()
	if got, err := sys.Seals(s.File()); err == nil {
		*exec = got&sys.SealExec == 0
	}
	f, err := s.ReadOnly()
	if err != nil {
		return err
	}
	ro, err := region.Open(f, region.OpenOptions{})
	if err != nil {
		return err
	}
	return ro.Close()
}

func tryPeerPidfd() error {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fds[1])
	f := os.NewFile(uintptr(fds[0]), "socketpair")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return err
	}
	defer c.Close()
	p, err := sys.PeerPidfd(c.(*net.UnixConn))
	if err != nil {
		return err
	}
	return p.Close()
}

// checkLimits looks at resource limits.
func checkLimits(context.Context) []finding {
	var list []finding
	amount := func(n uint64, isSize bool) string {
		switch {
		case n == sys.Unlimited:
			return "unlimited"
		case isSize && n < 1<<62:
			return size(int64(n))
		}
		return fmt.Sprint(n)
	}
	for _, l := range []struct {
		name   string
		kind   sys.Limit
		isSize bool
		least  uint64
		what   string
		fix    string
	}{
		{"open files", sys.LimitNofile, false, 1024, "a daemon has 3 for each worker, 2 for each segment",
			"raise it: LimitNOFILE= in the unit, ulimit -n in a shell"},
		{"processes", sys.LimitNproc, false, 256, "each worker is one, each of its threads too",
			"raise it: LimitNPROC= in the unit, ulimit -u in a shell"},
		{"locked memory", sys.LimitMemlock, true, 0, "for mlock = true in [region] only", ""},
	} {
		_, most, err := sys.Getrlimit(l.kind)
		if err != nil {
			list = append(list, finding{l.name, checkWarn, err.Error(), "look at ulimit -a"})
			continue
		}
		f := fine(l.name, "at most %s (%s)", amount(most, l.isSize), l.what)
		if most < l.least {
			f = f.warn("%s", l.fix)
		}
		list = append(list, f)
	}
	return list
}

// checkMemory looks how much memory there is, and of what kind.
func checkMemory(context.Context) []finding {
	var list []finding
	limit, source, err := sys.MemoryLimit()
	f := fine("memory", "%s left by %s", size(limit), source)
	switch {
	case err != nil:
		f.Text = err.Error()
		f = f.warn("mount /proc: shmd asks it before it allocates")
	case limit < 64<<20:
		f = f.warn("free some, or raise MemoryMax= of the unit: a region is allocated in full at start")
	}
	list = append(list, f)
	list = append(list, fine("/dev/shm", "not used: a region has no name in the file system and needs no mount"))

	n, pageSize, err := sys.HugePagesFree()
	switch {
	case err != nil, pageSize == 0:
		list = append(list, fine("huge pages", "this kernel has none (for huge_pages = true in [region] only)"))
	case n == 0:
		list = append(list, fine("huge pages", "none of %s are free (for huge_pages = true in [region] only; vm.nr_hugepages reserves them)", size(pageSize)))
	default:
		list = append(list, fine("huge pages", "%d of %s are free", n, size(pageSize)))
	}
	switch have, err := cgroup.Controllers(); {
	case err != nil:
		list = append(list, fine("cgroup v2", "%v (for cgroup = true of a group only)", err))
	case len(have) == 0:
		list = append(list, fine("cgroup v2", "mounted, without controllers: cgroup_limits of a group cannot be had"))
	default:
		list = append(list, fine("cgroup v2", "cgroup_limits of a group can be those of %s", strings.Join(have, ", ")))
	}
	if b, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/shmem_enabled"); err == nil {
		mode := strings.TrimSpace(string(b))
		if i, j := strings.IndexByte(mode, '['), strings.IndexByte(mode, ']'); i >= 0 && j > i {
			mode = mode[i+1 : j]
		}
		list = append(list, fine("transparent huge", "%s for shared memory (nothing depends on it)", mode))
	}
	return list
}

// checkPlace looks at the runtime directory and the socket.
func (a *app) checkPlace(context.Context) []finding {
	var list []finding
	var d without
	path := a.socketPath()
	dir := filepath.Dir(path)
	st, err := os.Stat(dir)
	f := fine("runtime directory", "%s", dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Text += " is not there yet"
		f = f.warn("a daemon makes it; if yours keeps its socket elsewhere, give its path with -s")
		return append(list, f)
	case err != nil:
		f.Text = err.Error()
		return append(list, f.fail("be root, the daemon's user, or in the group that owns %s", dir))
	}
	owner, _ := st.Sys().(*syscall.Stat_t)
	f.Text = fmt.Sprintf("%s, mode %04o, user %d", dir, st.Mode().Perm(), owner.Uid)
	switch {
	case !st.IsDir():
		f = f.fail("it is no directory: move it away")
	case st.Mode().Perm()&0o002 != 0:
		f = f.fail("everybody may write there, and so pretend to be the daemon: chmod o-w %s", dir)
	case owner.Uid != 0 && owner.Uid != uint32(os.Geteuid()):
		f.Text += " (another user's: what shmctl takes from processes must be that user's)"
	}
	list = append(list, f)

	f = fine("socket", "%s", path)
	sst, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		d = a.unreachable()
	}
	switch {
	case d.pid > 0 && d.state == protocol.DaemonStateRunning:
		f.Text += " was removed"
		return append(list, f.fail("%s", restartIt(a.region, d.pid)))
	case d.pid > 0:
		f.Text += fmt.Sprintf(" is not there: the daemon (pid %d) is %v", d.pid, d.state)
		return append(list, f)
	case errors.Is(err, fs.ErrNotExist) && readOnly(dir):
		f.Text += " is not there, and no daemon can make it: the file system is read-only"
		return append(list, f.fail("mount it read-write, or set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR to a directory that can be written to"))
	case errors.Is(err, fs.ErrNotExist):
		f.Text += " is not there: no daemon of this region runs here"
		return append(list, f.warn("start one: %s; or name another region with -r", unit.Start(a.region)))
	case err != nil:
		f.Text = err.Error()
		return append(list, f.fail("be root, the daemon's user, or in the group that owns %s", dir))
	case sst.Mode()&fs.ModeSocket == 0:
		f.Text += " is no socket"
		return append(list, f.fail("move it away; a daemon makes its own"))
	}
	f.Text = fmt.Sprintf("%s, mode %04o", path, sst.Mode().Perm())
	return append(list, f)
}

// readOnly reports whether a directory is on a file system that nobody can write to.
func readOnly(dir string) bool {
	const flag = 1 // ST_RDONLY of statfs(2)
	var st syscall.Statfs_t
	return syscall.Statfs(dir, &st) == nil && st.Flags&flag != 0
}

// checkUser looks whether the runtime directory belongs to who the daemon is.
func checkUser(pid int, dir string) []finding {
	daemon, err := sys.StatPath(fmt.Sprintf("/proc/%d", pid))
	place, err2 := sys.StatPath(dir)
	if err != nil || err2 != nil || place.UID == 0 || place.UID == daemon.UID {
		return nil
	}
	f := fine("user", "the daemon is user %d, its runtime directory belongs to user %d, who may pretend to be the daemon", daemon.UID, place.UID)
	return []finding{f.fail("chown %d %s", daemon.UID, dir)}
}

// checkDaemon talks to the daemon, and looks at what runs without one.
func (a *app) checkDaemon(ctx context.Context) []finding {
	var list []finding
	path := a.socketPath()
	conn, err := attach.Dial(ctx, path)
	f := fine("daemon", "")
	var silent *attach.SilentError
	var d without
	if errors.Is(err, attach.ErrNoDaemon) || errors.Is(err, attach.ErrDeadSocket) {
		d = a.unreachable()
	}
	switch {
	case err == nil:
		h := conn.Hello()
		conn.Close()
		f.Text = fmt.Sprintf("answers, pid %d, region %s", h.Pid, h.Region)
		if h.Region != a.region {
			f = f.warn("the socket is that of region %s, and you asked for %s: say -r %s", h.Region, a.region, h.Region)
		}
		list = append(list, f)
		list = append(list, checkUser(h.Pid, filepath.Dir(path))...)
		f = fine("version", "%s, like this shmctl", h.Version)
		if h.Version != version.Version {
			f.Text = fmt.Sprintf("the daemon is %s, this shmctl %s", h.Version, version.Version)
			f = f.warn("use the shmctl of the daemon's release, or restart the region with the new shmd")
		}
	case d.pid > 0 && d.state == protocol.DaemonStateRunning:
		f.Text = fmt.Sprintf("pid %d runs, and cannot be reached: its socket was removed", d.pid)
		f = f.fail("%s", restartIt(a.region, d.pid))
	case d.pid > 0 && d.state == protocol.DaemonStateStopping:
		f.Text = fmt.Sprintf("pid %d is stopping the region, and does not answer any more", d.pid)
		f = f.warn("wait for its end; if that takes long, shmctl -r %s ps says for whom it waits", a.region)
	case d.pid > 0:
		f.Text = fmt.Sprintf("pid %d is starting, and does not answer yet", d.pid)
		f = f.warn("wait for it: shmctl -r %s wait; if that takes long, see its log (%s)", a.region, unit.Log(a.region))
	case errors.Is(err, attach.ErrNoDaemon):
		f.Text = "none runs"
		f = f.warn("start one: %s", unit.Start(a.region))
	case errors.Is(err, attach.ErrDeadSocket):
		f.Text = "dead: its socket is still there, and nobody listens"
		f = f.fail("start a new one (%s), it takes the place over; what lives on of the old one ends by shmctl -r %s stop", unit.Start(a.region), a.region)
	case errors.As(err, &silent):
		f.Text = "does not answer" + silent.Within()
		f = f.fail("if it is stopped (state T in ps): kill -CONT its pid; if it hangs: kill -9 its pid, and the next daemon takes the region over; or stop the region, through the memory: shmctl -r %s stop", a.region)
	case errors.Is(err, attach.ErrPermission):
		f.Text = "permission denied"
		f = f.fail("be root, the daemon's user, or in the group that owns %s; [access] says who else may", filepath.Dir(path))
	default:
		f.Text = err.Error()
		f = f.fail("look at its log (%s)", unit.Log(a.region))
	}
	list = append(list, f)

	s, openErr := a.openQuietly(ctx, false)
	if openErr == nil {
		defer s.Close()
		list = append(list, checkRegion(s)...)
		list = append(list, checkConfiguration(s)...)
	} else if !errors.Is(openErr, control.ErrNoRegion) {
		list = append(list, fine("region", "%v", openErr).fail("what the error says"))
	}
	return append(list, a.checkOrphans(s)...)
}

// checkRegion looks at the memory and the workers.
func checkRegion(s *session) []finding {
	var list []finding
	f := fine("segments", "%s, all sealed and whole", count(len(s.segments), "segment"))
	var bad, unseen []string
	for name, err := range s.missing {
		if errors.Is(err, syscall.ENOMEM) { // this process had no room for it: that says nothing of the segment
			unseen = append(unseen, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		bad = append(bad, fmt.Sprintf("%s: %v", name, err))
	}
	for name, seg := range s.segments {
		if _, errs := (image{name, seg.File(), seg.Size()}).sections(); len(errs) > 0 {
			bad = append(bad, errs[0].Error())
		}
	}
	slices.Sort(bad)
	slices.Sort(unseen)
	switch {
	case len(bad) > 0:
		f.Text = strings.Join(append(bad, unseen...), "; ")
		f = f.fail("stop the region and start it anew: shmctl -r %s stop", s.name())
	case len(unseen) > 0:
		f.Text = "not all looked at: " + strings.Join(unseen, "; ")
		f = f.warn("give this shmctl the memory to look: raise the limit, or free some; the region needs nothing")
	}
	list = append(list, f)

	var failed, restarting, stalled, which []string
	filters, workers := 0, 0
	kept := s.kept()
	for i := range s.Roster.WorkerCount() {
		w, err := s.worker(i, kept)
		if err == nil && w.State == protocol.StateGone {
			continue
		}
		workers++
		if w.ShimPid > 0 {
			filters++
		}
		if w.Stalled {
			stalled = append(stalled, fmt.Sprintf("%s %s", w.Name, w.Reason))
		}
		switch {
		case err != nil:
			failed = append(failed, err.Error())
		case w.State == protocol.StateFailed:
			failed, which = append(failed, fmt.Sprintf("%s failed: %s", w.Name, w.Reason)), append(which, w.Name)
		case w.State == protocol.StateBackoff:
			restarting, which = append(restarting, fmt.Sprintf("%s waits to be started again: %s", w.Name, w.Reason)), append(which, w.Name)
		}
	}
	f = fine("workers", "%s, none failed", count(workers, "worker"))
	if all := append(failed, restarting...); len(all) > 0 {
		f.Text = strings.Join(all, "; ")
		switch {
		case len(which) == 0:
			f = f.warn("see shmctl -r %s verify", s.name())
		case len(which) > maxNotices:
			f = f.warn("see shmctl -r %s ps, the logs of one of them, and then shmctl -r %s start WORKER", s.name(), s.name())
		default:
			who := strings.Join(which, " ")
			f = f.warn("see shmctl -r %s logs %s, and then shmctl -r %s start %s", s.name(), who, s.name(), who)
		}
	}
	list = append(list, f)
	if filters == 0 {
		return list
	}
	f = fine("filters", "%s, none stalled", count(filters, "filter"))
	if len(stalled) > 0 {
		f.Text = strings.Join(stalled, "; ")
		f = f.warn("%s", flushing)
	}
	return append(list, f)
}

// flushing is what a filter that does not answer may want.
const flushing = `a filter has to write and flush one line for each: sed -u, jq --unbuffered, grep --line-buffered, awk with fflush() ` +
	`(mawk: -W interactive as well), Python print(..., flush=True), others under stdbuf -oL; one that drops or multiplies lines wants ack = "written"`

// checkOrphans looks for what earlier daemons left running.
func (a *app) checkOrphans(s *session) []finding {
	f := fine("left over", "nothing of earlier daemons runs")
	owner, err := control.Owner(filepath.Dir(a.socketPath()), uint32(os.Geteuid()))
	if err != nil {
		f.Text = err.Error()
		return []finding{f.warn("be root, or the daemon's user, to look")}
	}
	all, err := control.FindAll(a.region, filepath.Dir(a.socketPath()), owner)
	defer func() {
		for _, l := range all {
			l.Close()
		}
	}()
	switch {
	case errors.Is(err, control.ErrPermission):
		f.Text = "not looked for: " + err.Error()
		return []finding{f.warn("be root, or user %d, to look", owner)}
	case err != nil && !errors.Is(err, control.ErrDamaged):
		f.Text = "not looked for: " + err.Error()
		return []finding{f.warn("what the error says")}
	case err != nil:
		f.Text = err.Error()
		return []finding{f.fail("what the error says")}
	}
	for i, l := range all {
		d := l.Daemon()
		switch {
		case s != nil && s.answers() && l.Generation == s.Roster.Header().Generation:
		case d.Alive && d.Stopped:
			f.Text = fmt.Sprintf("daemon %d is stopped by a signal", d.Pid)
			return []finding{f.fail("let it go on: kill -CONT %d", d.Pid)}
		case d.Alive: // said above
		default:
			f.Text = fmt.Sprintf("%s of a dead daemon (pid %d): %s", count(len(l.Holders), "process"), d.Pid, strings.Trim(fmt.Sprint(l.Pids()), "[]"))
			if i > 0 || l.Command.RegionDesired() == protocol.DesiredStop { // no daemon adopts that
				return []finding{f.fail("start a daemon, which has them quit first; or stop them: shmctl -r %s stop", a.region)}
			}
			return []finding{f.fail("start a daemon (%s): it takes them over, and they go on; to end them instead, shmctl -r %s stop", unit.Start(a.region), a.region)}
		}
	}
	return []finding{f}
}
