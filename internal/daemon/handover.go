package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// A handover is what a daemon gives to the program that takes its place in the same process, as JSON in a memfd whose number is in the
// environment: which open descriptor is what, and what only the old program knew. All else is in the region. A candidate gets one too, with
// the segments alone, read-only, to say whether it could (Candidate).
type handover struct {
	Schema   int          `json:"schema"`
	From     string       `json:"from"`  // version of the program that gives it
	Begun    int64        `json:"begun"` // CLOCK_MONOTONIC in nanoseconds, since when nobody supervises
	Lock     int          `json:"lock"`
	Listener int          `json:"listener"`
	Unit     bool         `json:"unit"`     // the listener belongs to a socket unit
	Segments []handed     `json:"segments"` // names are those of the roster's directory
	Pidfds   []handed     `json:"pidfds"`   // names are those of the fd store
	Outputs  []handedPipe `json:"outputs"`
	Conns    []handedConn `json:"conns"`
	Guard    int          `json:"guard"`             // its pid, 0 for none
	Stored   []string     `json:"stored"`            // names in the fd store
	Metrics  string       `json:"metrics,omitempty"` // path of the socket of metrics
}

// handedSchema is of this program. One that means something else gets another number.
const handedSchema = 1

type handed struct {
	Name string `json:"name"`
	FD   int    `json:"fd"`
}

// handedPipe is a reading end of a worker's output.
type handedPipe struct {
	FD     int    `json:"fd"`
	Worker int    `json:"worker"`
	Name   string `json:"name"`
	Group  string `json:"group"`
	Pid    int    `json:"pid"`
	Stream int    `json:"stream"`
	Begun  []byte `json:"begun,omitempty"` // of a line whose end was not there yet
}

// handedConn is a connection to the attach socket.
type handedConn struct {
	FD         int    `json:"fd"`
	Attachment uint16 `json:"attachment,omitempty"`
	Asked      bool   `json:"asked,omitempty"` // for the upgrade: it waits for the answer
}

// The variables in whose values the number of the memfd is.
const (
	upgradeVariable   = "SHMD_UPGRADE"
	selfCheckVariable = "SHMD_SELF_CHECK"
)

// write puts it into a memfd.
func (h *handover) write() (*os.File, error) {
	f, err := sys.MemfdCreate("shmd:handover")
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(f).Encode(h); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readHandover reads the handover that a variable of the environment names, and removes the variable; nil if there is none.
func readHandover(variable string) (*handover, error) {
	v, ok := os.LookupEnv(variable)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(variable)
	fd, err := strconv.Atoi(v)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%q: not the number of a descriptor; only an upgrade sets it", variable, v)
	}
	f := os.NewFile(uintptr(fd), "handover")
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<26))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", variable, err)
	}
	var h handover
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&h); err != nil {
		return nil, fmt.Errorf("%s: %w", variable, err)
	}
	if h.Schema != handedSchema {
		return nil, fmt.Errorf("the running daemon (%s) hands over in form %d, this program knows %d: restart the daemon with it instead (systemctl restart shmd)", h.From, h.Schema, handedSchema)
	}
	return &h, nil
}

// A keeper makes descriptors survive an exec, and undoes it if there was none.
type keeper struct{ fds []int }

// numberOf returns the number of a descriptor.
func numberOf(c syscall.Conn) (n int, err error) {
	rc, err := c.SyscallConn() // not Fd: it changes the file's mode
	if err != nil {
		return 0, err
	}
	err = rc.Control(func(fd uintptr) { n = int(fd) })
	return n, err
}

// keep returns the number of a descriptor, which the next exec leaves open.
func (k *keeper) keep(c syscall.Conn) (int, error) {
	n, err := numberOf(c)
	if err != nil {
		return 0, err
	}
	if err := sys.ClearCloexec(n); err != nil {
		return 0, err
	}
	k.fds = append(k.fds, n)
	return n, nil
}

func (k *keeper) undo() {
	for _, fd := range k.fds {
		sys.SetCloexec(fd)
	}
}

// handOver lists what this daemon has. Everything in it survives the next exec until k is undone. The supervisor calls it, and nobody reads
// outputs or requests any more.
func (d *Daemon) handOver(k *keeper, begun int64, left []unread, conns []resting) (*handover, error) {
	h := &handover{Schema: handedSchema, From: d.version, Begun: begun, Unit: d.server.unit}
	var errs []error
	keep := func(what string, c syscall.Conn) int {
		fd, err := k.keep(c)
		if err != nil {
			errs = append(errs, fmt.Errorf("hand over %s: %w", what, err))
		}
		return fd
	}
	h.Stored = d.systemd.all()
	if d.guard != nil {
		h.Guard = d.guard.process.Pid
	}
	if network, address := d.conf.Metrics.Address(); network == "unix" && d.metrics != nil {
		h.Metrics = address
	}
	h.Lock = keep("the lock", d.lock.f)
	h.Listener = keep("the attach socket", d.server.listener)
	for name, s := range d.mem.segments {
		h.Segments = append(h.Segments, handed{name, keep("segment "+name, s.File())})
	}
	for _, w := range d.workers {
		if w.proc != nil && w.proc.pidfd != nil {
			h.Pidfds = append(h.Pidfds, handed{pidfdName(w.row.Attachment), keep("the pidfd of "+w.row.Name, w.proc.pidfd)})
		}
	}
	for _, o := range d.outsiders {
		h.Pidfds = append(h.Pidfds, handed{pidfdName(o.id), keep("the pidfd of "+o.name, o.pidfd)})
	}
	for _, u := range left {
		h.Outputs = append(h.Outputs, handedPipe{keep("the output of "+u.name, u.from), u.worker, u.name, u.group, u.pid, int(u.stream), u.begun})
	}
	for _, c := range conns {
		hc := handedConn{FD: keep("a connection", c.conn.Unix()), Asked: c.asked}
		if c.held != nil {
			hc.Attachment = c.held.id
		}
		h.Conns = append(h.Conns, hc)
	}
	return h, errors.Join(errs...)
}

// estateOf maps what was handed over.
func (d *Daemon) estateOf(h *handover, write bool) (*estate, error) {
	e := &estate{from: "the program before, " + h.From, segments: map[string]*region.Segment{}, stored: map[string]*os.File{}, sure: map[uint16]bool{}, handed: h}
	for _, s := range h.Segments {
		f := os.NewFile(uintptr(s.FD), s.Name)
		seg, head, err := d.openLeft(f, write)
		if err == nil && head.Name != s.Name {
			err = fmt.Errorf("its header says that it is %q", head.Name)
		}
		if err != nil {
			e.Close()
			return nil, fmt.Errorf("segment %q: %w", s.Name, err)
		}
		e.segments[s.Name] = seg
	}
	for _, name := range h.Stored {
		d.systemd.holds(name, true)
	}
	for _, p := range h.Pidfds {
		e.stored[p.Name] = os.NewFile(uintptr(p.FD), p.Name)
	}
	return e, nil
}

// takeLock takes over the lock.
func (h *handover) takeLock(dir, region string) *lock {
	return &lock{f: os.NewFile(uintptr(h.Lock), filepath.Join(dir, region+".lock"))}
}

// captureHanded goes on with the outputs of workers.
func (d *Daemon) captureHanded(h *handover) {
	for _, p := range h.Outputs {
		s := source{worker: p.Worker, name: p.Name, group: p.Group, pid: p.Pid, stream: protocol.Stream(p.Stream)}
		if p.Worker >= 0 && p.Worker < len(d.workers) {
			s.limit = d.workers[p.Worker].limit
		}
		d.lines.capture(os.NewFile(uintptr(p.FD), p.Name), s, p.Begun)
	}
}

// unixConn makes a connection of a descriptor that was handed over.
func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close() // the connection has a descriptor of its own
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("it is no Unix socket")
	}
	return u, nil
}
