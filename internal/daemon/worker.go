package daemon

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/launcher/spec"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// worker is one instance of a group: what the daemon knows of it beyond its row in the roster and what the machine knows. The supervisor's
// goroutine alone uses it.
type worker struct {
	index    int // of its row in the roster and in the command segment
	group    *group
	instance int
	conf     *config.Group   // what its process was started with, or is to be
	row      protocol.Worker // the row as it was last written
	leaving  bool            // its group is to have fewer instances

	proc    *process    // nil when no process runs
	lastPid int         // of the last process, for the events of its end
	timer   *time.Timer // that the machine set last
	limit   *rateLimit  // of what it logs; nil: none

	readySince time.Time // of one that is ready, as far as this daemon knows
}

// process is a running worker process.
type process struct {
	pid     int
	ticks   uint64
	pidfd   *os.File    // nil: it ended before this daemon could open one
	adopted bool        // an earlier daemon started it
	outputs [2]*os.File // until they are in the fd store, reading ends of its standard output and standard error
	started time.Time
	running bool        // the command runs: the launcher has done its part
	said    chan string // one text: why the launcher could not start the command, "" if it could
	failure string      // that text, once it was heard

	resting   bool // it was asleep at the last look at its heartbeat, and rings when it is not any more
	suspended bool // a signal has stopped it

	stalledOn string // the channel whose stall its row tells of

	filter   int      // pid of the filter that this shim runs, 0 for none
	filterFD *os.File // its pidfd, if there is one
}

// heard returns why the launcher could not start the command, "" if it could. It waits for the answer, which is there when the
// launcher has execed or ended.
func (p *process) heard() string {
	if p.said != nil {
		p.failure = <-p.said
		p.said = nil
	}
	return p.failure
}

// launch starts the process of a worker. The row already says which attachment id it has.
func (d *Daemon) launch(w *worker) (p *process, err error) {
	as, err := lookupUser(w.conf.User)
	if err != nil {
		return nil, err
	}
	in, err := d.inheritance(w, as)
	defer in.close()
	defer func() {
		if err != nil {
			for _, r := range in.outputs {
				r.Close()
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	statusR, statusW, err := sys.Pipe()
	if err != nil {
		return nil, err
	}
	in.closers = append(in.closers, statusW)
	defer func() {
		if err != nil {
			statusR.Close()
		}
	}()
	s := spec.Spec{Command: w.conf.Command, Builtin: w.conf.Builtin, Dir: w.conf.Dir, User: as, Status: len(in.files), Consume: w.conf.Consume, Produce: w.conf.Produce}
	s.Limits, s.Nice, s.CPUs, s.OOMScoreAdj = w.conf.Limits, w.conf.Nice, w.conf.CPUList(), w.conf.OOMScoreAdj
	if s.Cgroup, err = d.cgroupOf(w.conf); err != nil {
		return nil, err
	}
	if w.conf.Filter() {
		s.Filter = filterSpec(w.conf)
	}
	what := w.conf.Builtin
	if what == "" {
		what = strings.Join(w.conf.Command, " ")
	}
	pidfd := -1
	proc, err := os.StartProcess("/proc/self/exe", []string{"shmd", w.row.Name, what}, &os.ProcAttr{
		Env:   append(in.env, s.String()),
		Files: append(in.files, statusW),
		Sys:   &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd},
	})
	if err != nil {
		return nil, err
	}
	defer proc.Release()
	p = &process{pid: proc.Pid, started: time.Now(), said: make(chan string, 1)}
	if p.pidfd = os.NewFile(uintptr(pidfd), "pidfd"); pidfd < 0 {
		if p.pidfd, err = sys.PidfdOpen(p.pid); err != nil { // our child, not reaped yet: the pid is its own
			syscall.Kill(p.pid, syscall.SIGKILL)
			return nil, err
		}
	}
	p.ticks, _ = sys.StartTicks(p.pid)
	p.outputs = [2]*os.File(in.outputs)
	d.capture(w, p)
	said := p.said
	go func() { // ends when the launcher execs, reports an error, or dies
		defer statusR.Close()
		text, _ := io.ReadAll(io.LimitReader(statusR, 4096))
		said <- string(text)
		d.post(func() { d.launched(w, p) })
	}()
	return p, nil
}

// capture reads what a worker writes to its standard output and standard error.
func (d *Daemon) capture(w *worker, p *process) {
	for i, r := range p.outputs {
		if r != nil {
			d.lines.capture(r, outputSource(w, p, i), nil)
		}
	}
}

// outputSource is where the lines of one of a worker's two outputs come from.
func outputSource(w *worker, p *process, i int) source {
	stream := [...]protocol.Stream{protocol.StreamStdout, protocol.StreamStderr}[i]
	return source{worker: w.index, name: w.row.Name, group: w.conf.Name, pid: p.pid, stream: stream, limit: w.limit}
}

// inheritance is what a worker gets from the daemon.
type inheritance struct {
	env     []string
	files   []*os.File // descriptors 0 up
	outputs []*os.File // the daemon's ends of standard output and standard error
	closers []*os.File // to be closed in this process after the start
}

func (in *inheritance) close() {
	for _, f := range in.closers {
		f.Close()
	}
}

// inheritance makes the environment and descriptors of a worker that runs as another user, or as the daemon's own (nil). The
// caller closes it, and on an error its outputs too.
func (d *Daemon) inheritance(w *worker, as *spec.User) (in inheritance, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return in, err
	}
	in.closers = append(in.closers, null)
	in.files = append(in.files, null)
	for range 2 {
		r, both, err := outputPipe()
		if err != nil {
			return in, err
		}
		in.outputs = append(in.outputs, r)
		in.closers = append(in.closers, both)
		in.files = append(in.files, both)
	}
	names := []string{"roster", "command", "group"}
	group := d.mem.segments["group/"+w.conf.Name]
	in.files = append(in.files, d.mem.segments["roster"].readOnly, d.mem.segments["command"].readOnly, group.File())
	for _, name := range w.conf.Channels() {
		names = append(names, name)
		in.files = append(in.files, d.mem.segments[name].File())
	}
	if as == nil { // so that the log outlives the daemon; what runs as the daemon's user could read it anyway
		names = append(names, "log")
		in.files = append(in.files, d.mem.segments["log"].readOnly)
	}
	vars := map[string]string{}
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES": // the daemon's own
		default:
			vars[k] = v
		}
	}
	if as != nil {
		vars["HOME"], vars["USER"], vars["LOGNAME"] = as.Home, as.Name, as.Name
	}
	maps.Copy(vars, w.conf.Env)
	vars["SHMD_FDS"] = strings.Join(names, ",")
	vars["SHMD_WORKER"] = w.row.Name
	vars["SHMD_REGION"] = d.conf.Region.Name
	vars["SHMD_WAIT"] = w.conf.Wait
	vars["SHMD_ORPHAN_TIMEOUT_MS"] = strconv.FormatInt(d.conf.Region.OrphanTimeout.Milliseconds(), 10)
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		in.env = append(in.env, k+"="+vars[k])
	}
	return in, nil
}

// outputPipe makes a pipe for a worker's output. The worker's end is open for reading too, so that there is a reader for as
// long as there is a writer: a dead daemon means a full pipe, never a SIGPIPE.
func outputPipe() (r, both *os.File, err error) {
	r, w, err := sys.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	sys.SetPipeSize(r, 1<<20) // as large as this user may: only the time until it is full depends on it
	both, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", w.Fd()), os.O_RDWR, 0)
	if err != nil {
		r.Close()
		return nil, nil, fmt.Errorf("output pipe: %w", err)
	}
	return r, both, nil
}

// lookupUser resolves the key "user", a name or a uid; nil for an empty name.
func lookupUser(name string) (*spec.User, error) {
	if name == "" {
		return nil, nil
	}
	lookup := user.Lookup
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		lookup = user.LookupId
	}
	u, err := lookup(name)
	if err != nil {
		return nil, err
	}
	out := &spec.User{Name: u.Username, Home: u.HomeDir}
	if out.UID, err = strconv.Atoi(u.Uid); err != nil {
		return nil, err
	}
	if out.GID, err = strconv.Atoi(u.Gid); err != nil {
		return nil, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		n, err := strconv.Atoi(id)
		if err != nil {
			return nil, err
		}
		out.Groups = append(out.Groups, n)
	}
	return out, nil
}

// signal sends sig to the worker's process, and to its process group when that is to end for good.
func (p *process) signal(sig syscall.Signal) error {
	if p.pidfd == nil {
		return syscall.ESRCH
	}
	switch { // its descendants too; they hold no shmd memory, but must not outlive it
	case sig != syscall.SIGKILL:
	case p.adopted: // somebody else reaps it, so its number may be another's by now
		sys.PidfdSignalGroup(p.pidfd, sig)
	default:
		syscall.Kill(-p.pid, sig)
	}
	return sys.PidfdSignal(p.pidfd, sig)
}
