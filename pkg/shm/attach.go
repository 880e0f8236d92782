package shm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// Options say how to attach. The zero value: as the worker that the environment describes (SHMD_FDS), else as an outsider
// of region "default".
type Options struct {
	// Region is the region's name. Default: $SHMD_REGION, else "default". Naming one makes the process an outsider.
	Region string
	// Socket is the path of the daemon's socket. Default: the region's usual place. Naming one makes the process an outsider. If it is of another region than
	// the one that was named beside it, that is an error.
	Socket string
	// Name is what an outsider is called in shmctl ps and in the roster. Default: the program's name.
	Name string
	// Produce and Consume name the channels that an outsider wants to hold. A worker holds those of its configuration.
	Produce, Consume []string
	// Operate asks for the command segment writable, which lets an outsider stop and start workers.
	Operate bool
	// Wait is how the ends of this process wait, unless SetWait says another way for one. Default: $SHMD_WAIT, else WaitAdaptive.
	Wait Wait
}

// Region is one process's attachment to a region. It is safe for concurrent use.
type Region struct {
	// What a call and a wait look at, in one line of memory: who sleeps between two messages finds nothing in the nearest cache.
	ask      *atomic.Uint32         // Ask of the page; nil for an outsider
	page     *protocol.InstancePage // nil for an outsider
	answered atomic.Uint32          // the value of Ask that was answered
	own      atomic.Int32           // goroutines of the library that wait in the kernel, the hub's too
	procs    int32                  // GOMAXPROCS
	id       uint16
	many     bool        // processors: spinning can pay
	wait     Wait        // of ends without one of their own
	alone    bool        // the process has one CPU: yielding can pay
	ending   atomic.Bool // quit has ended or is about to
	yields   yields
	naps     naps

	hub      *sys.Hub
	spinning atomic.Bool // one goroutine of the process spins, the others sleep at once

	name   string
	worker string // "" for an outsider

	roster   *protocol.Roster
	command  *protocol.Command
	group    *protocol.GroupSegment // nil for an outsider
	asking   *region.Segment        // the group segment again, to read Ask; it stays mapped
	instance int                    // of a worker
	index    int                    // of the worker's row; -1 for an outsider
	groupRow int
	logRing  *logRing // nil for an outsider

	segments map[string]*region.Segment
	log      *os.File // of the log segment; nil if it was not handed out
	channels map[string]protocol.Channel
	broken   map[string]error // channels that cannot be used, and why
	calls    sync.Map         // *Call by name

	mu      sync.Mutex
	queues  map[string]*Queue // that were given out
	closed  bool              // those that are given out from now on are
	latests sync.Map          // name to *Latest: one for all goroutines
	topics  sync.Map          // name to *Topic, likewise

	quit      context.Context
	endQuit   context.CancelCauseFunc
	watching  sync.WaitGroup
	selecting spinner
	turn      atomic.Uint32 // of Select: where it begins

	metrics metrics
	change  atomic.Uint32 // value of the roster's change word at the last call of Workers

	conn  *attach.Conn // outsider: its attachment
	once  sync.Once
	close error
}

// Attach makes the process part of a region.
//
// As a worker it takes the descriptors that the daemon handed down, removes SHMD_FDS from the environment and marks the descriptors
// close-on-exec, so that children of the worker inherit nothing. As an outsider it asks the daemon's socket.
//
// ctx bounds the attaching only. Errors: ErrNoDaemon, ErrDeadSocket, ErrSilent, ErrPermission, ErrAttached; those of region.Open
// and protocol.Check for a segment that cannot be used.
func Attach(ctx context.Context, o Options) (*Region, error) {
	wait, err := o.waitOf()
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	o.Wait = wait
	fds := os.Getenv("SHMD_FDS")
	if fds != "" && o.Region == "" && o.Socket == "" {
		r, err := attachWorker(strings.Split(fds, ","), o.Wait)
		if err != nil {
			return nil, fmt.Errorf("attach as worker %q: %w", os.Getenv("SHMD_WORKER"), err)
		}
		return r, nil
	}
	r, err := attachOutsider(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	return r, nil
}

func newRegion(name string, wait Wait) *Region {
	r := &Region{name: name, wait: wait, hub: sys.NewHub(), index: -1, procs: int32(runtime.GOMAXPROCS(0)), many: manyProcs(), alone: !manyProcs() && runtime.NumCPU() == 1, segments: map[string]*region.Segment{}, channels: map[string]protocol.Channel{}, broken: map[string]error{}, queues: map[string]*Queue{}}
	r.yields.ticks, r.yields.ns = sys.Ticks(), sys.MonotonicNs()
	r.hub.CountIn(&r.own)
	quit, end := context.WithCancelCause(context.Background())
	r.quit, r.endQuit = quit, func(cause error) {
		r.ending.Store(true)
		end(cause)
		r.naps.end()
	}
	return r
}

// firstFD is the number of the first descriptor that a worker inherits.
const firstFD = 3

func attachWorker(names []string, wait Wait) (_ *Region, err error) {
	r := newRegion(os.Getenv("SHMD_REGION"), wait)
	r.worker = os.Getenv("SHMD_WORKER")
	defer func() {
		if err != nil {
			r.abandon()
		}
	}()
	files := map[string]*os.File{}
	for i, name := range names {
		f, err := region.FromFD(firstFD+i, name)
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files[name] = f
	}
	os.Unsetenv("SHMD_FDS")
	if err := r.open(files); err != nil {
		return nil, err
	}
	if r.group == nil {
		return nil, errors.New("SHMD_FDS names no group segment: start the program through shmd")
	}
	i, w, err := ownRow(r.roster, r.worker)
	if err != nil {
		return nil, err
	}
	if i >= 0 {
		r.index, r.groupRow, r.id = i, w.Group, w.Attachment
		if w.Instance >= r.group.Instances() || i >= r.command.Workers() || w.Group >= r.command.Groups() {
			return nil, fmt.Errorf("the roster's row %d (instance %d of group %d) does not fit the group and command segments", i, w.Instance, w.Group)
		}
		r.page, r.instance = r.group.Page(w.Instance), w.Instance
	}
	switch {
	case r.page == nil:
		return nil, fmt.Errorf("the roster of region %q has no such worker", r.name)
	case r.id == 0:
		return nil, fmt.Errorf("the daemon gave this worker no attachment id; it was not started by the living daemon")
	case !r.page.AttachedPid.CompareAndSwap(0, uint32(os.Getpid())):
		p := r.page
		r.page = nil // it is the other one's
		return nil, fmt.Errorf("%w (pid %d)", ErrAttached, p.AttachedPid.Load())
	}
	if err := r.listen(); err != nil {
		return nil, err
	}
	r.openLog(r.instance)
	r.Beat()
	r.watchQuit()
	r.watchDaemon()
	return r, nil
}

// ownRow finds the row of a worker, -1 if there is none. Another row may be one that a daemon was writing when it died.
func ownRow(roster *protocol.Roster, name string) (int, protocol.Worker, error) {
	for i := range roster.WorkerCount() {
		w, err := roster.Worker(i) // beside an error: what lies there
		if w.Name == name && w.State != protocol.StateGone {
			return i, w, err
		}
	}
	return -1, protocol.Worker{}, nil
}

func attachOutsider(ctx context.Context, o Options) (_ *Region, err error) {
	meant := o.Region // "": that of the socket
	if o.Region == "" {
		if o.Region = os.Getenv("SHMD_REGION"); o.Region == "" {
			o.Region = "default"
		}
	}
	if o.Socket == "" {
		o.Socket = attach.SocketPath(o.Region)
	}
	if o.Name == "" {
		o.Name = programName()
	}
	role := attach.RoleObserve
	if o.Operate {
		role = attach.RoleOperate
	}
	dialing, cancel := context.WithCancelCause(ctx)
	within := patience // the timer's goroutine may come late
	timer := time.AfterFunc(within, func() {
		cancel(fmt.Errorf("%s: %w within %v: it is stopped or hung; see its log", o.Socket, ErrSilent, within))
	})
	// Not Stop, which a deadline of the context would amount to: a timer that was stopped stays where it is, and wakes an idle process when its time
	// comes. It is used up now.
	defer timer.Reset(0)
	conn, err := attach.DialWait(dialing, o.Socket)
	if err != nil {
		return nil, err
	}
	timer.Reset(within) // for the next answer
	name := conn.Hello().Region
	if meant != "" && name != meant {
		conn.Close()
		return nil, fmt.Errorf("socket %s is that of region %q, not of %q: name the one or the other", o.Socket, name, meant)
	}
	r := newRegion(name, o.Wait)
	defer func() {
		if err != nil {
			r.abandon()
			giveUp(conn, err)
		}
	}()
	got, err := conn.Attach(dialing, attach.Request{Role: role, Name: o.Name, Produce: o.Produce, Consume: o.Consume})
	if errors.Is(err, attach.ErrHungUp) {
		err = attach.Ended(o.Socket, err)
	}
	if err != nil {
		return nil, err
	}
	r.id = got.Reply.Attachment
	if err := r.open(got.Files); err != nil {
		return nil, err
	}
	r.conn = conn
	r.watchQuit()
	return r, nil
}

// giveUp ends a connection that failed with err. The daemon may have attached the process, or be about to, and the end of a connection would tell it nothing.
func giveUp(conn *attach.Conn, err error) {
	defer conn.Close()
	var refused *attach.RefusedError
	if errors.As(err, &refused) {
		return
	}
	if p, err := (attach.Request{Op: attach.OpDetach}).Encode(); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn.Send(ctx, p, nil) // the answer is not waited for: it may never come
	}
}

// patience is how long an outsider waits for the daemon's answer: long enough for one that has no CPU for a while.
var patience = 10 * time.Second

func programName() string {
	name := os.Args[0]
	return name[strings.LastIndexByte(name, '/')+1:]
}

// open maps the segments that the library uses. It takes ownership of the files, also on error. A channel that cannot be used is no error
// here: its other users may have damaged it, and that is no reason to do without the rest. Who asks for it is told.
func (r *Region) open(files map[string]*os.File) (err error) {
	defer closeAll(files) // what was not reached, or is of no use
	for name, f := range files {
		if name == "log" { // it is held, not used: who looks for the region after the daemon's death gets it from here
			r.log = f
			delete(files, name)
			continue
		}
		if strings.HasPrefix(name, "group/") {
			continue
		}
		var kind protocol.Kind // 0: a channel, whose header tells
		switch {
		case name == "roster":
			kind = protocol.KindRoster
		case name == "command":
			kind = protocol.KindCommand
		case name == "group":
			kind = protocol.KindGroup
		}
		var check func([]byte) error // of a channel: below
		if kind != 0 {
			check = protocol.Check(kind, 0)
		}
		write, err := sys.AccessMode(f)
		if err != nil {
			return fmt.Errorf("descriptor of segment %q: %w", name, err)
		}
		delete(files, name)
		write = write || name == "group" // a worker writes its page
		s, err := region.Open(f, region.OpenOptions{Write: write, MinSize: protocol.SizeofSegmentHeader, Check: check})
		if err != nil {
			return fmt.Errorf("segment %q: %w", name, err)
		}
		r.segments[name] = s
		s.OnClose(func() { r.hub.Forget(s.Bytes()) })
		switch kind {
		case protocol.KindRoster:
			r.roster, err = protocol.OpenRoster(s.Bytes())
		case protocol.KindCommand:
			r.command, err = protocol.OpenCommand(s.Bytes())
		case protocol.KindGroup:
			r.group, err = protocol.OpenGroup(s.Bytes())
		case 0:
			if !write {
				break
			}
			var c protocol.Channel
			why := protocol.CheckChannel(0)(s.Bytes())
			if why == nil {
				c, why = protocol.OpenChannel(s.Bytes())
			}
			if why != nil {
				r.broken[name] = fmt.Errorf("segment %q: %w", name, why)
				break
			}
			r.channels[name] = c
		}
		if err != nil {
			return fmt.Errorf("segment %q: %w", name, err)
		}
	}
	if r.roster == nil || r.command == nil {
		return errors.New("got no roster or no command segment")
	}
	if g := r.roster.Header().Generation; g != r.command.Header().Generation {
		return fmt.Errorf("roster and command segment: %w", protocol.ErrGeneration)
	}
	return nil
}

func closeAll(files map[string]*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// abandon undoes a half-done attach.
func (r *Region) abandon() {
	if r.page != nil {
		r.page.AttachedPid.Store(0)
	}
	r.endQuit(ErrClosed)
	r.watching.Wait()
	for _, s := range r.segments {
		s.Close()
	}
	r.hub.Close()
	if r.log != nil {
		r.log.Close()
	}
}
