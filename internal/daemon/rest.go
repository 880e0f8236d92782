package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/shmd/shmd/internal/attach"
)

// What an upgrade needs of the server: that it rests, with every request either answered or not yet read, so that the next program can go on with
// the same connections.

// errRest ends the reading of a request.
var errRest = errors.New("the server rests")

// rest is one rest of the server.
type rest struct {
	awake  context.Context // until it begins
	begin  context.CancelCauseFunc
	begun  bool
	conns  []resting
	asleep int           // of those that are busy
	all    chan struct{} // closed when all but one are asleep
	over   chan struct{} // closed at its end
}

// resting is a connection that rests. The zero value stands for the goroutine that accepts.
type resting struct {
	conn  *attach.Conn
	held  *outsider // its attachment, or nil
	asked bool      // for the upgrade
}

// begin counts a goroutine that works for the server, done its end.
func (s *server) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy++
}

func (s *server) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	s.checkRest()
}

// newRest is the rest that comes next. s.mu is held.
func (s *server) nextRest() *rest {
	if s.rest == nil {
		s.rest = &rest{all: make(chan struct{}), over: make(chan struct{})}
		s.rest.awake, s.rest.begin = context.WithCancelCause(s.ctx)
	}
	return s.rest
}

// awake is the context of reading requests.
func (s *server) awake() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nextRest().awake
}

// sleep is called when the rest has begun, and returns at its end.
func (s *server) sleep(r resting) {
	s.mu.Lock()
	now := s.nextRest()
	if !now.begun { // it is over already
		s.mu.Unlock()
		return
	}
	now.asleep++
	if r.conn != nil {
		now.conns = append(now.conns, r)
	}
	s.checkRest()
	s.mu.Unlock()
	select {
	case <-now.over:
	case <-s.ctx.Done():
	}
}

// checkRest is called after a change of s.busy and s.rest.asleep. s.mu is held.
func (s *server) checkRest() {
	if r := s.rest; r != nil && r.begun && r.asleep == s.busy-1 { // the last one is who asked for it
		select {
		case <-r.all:
		default:
			close(r.all)
		}
	}
}

// lull has the server rest. Who is in the middle of an answer to a peer that does not read is not waited for for long: it is not among the connections.
func (s *server) lull(asked resting) (conns []resting, resume func()) {
	s.mu.Lock()
	r := s.nextRest()
	r.begun = true
	r.begin(errRest)
	s.checkRest()
	s.listener.SetDeadline(time.Unix(1, 0))
	s.mu.Unlock()
	select {
	case <-r.all:
	case <-time.After(quietWithin):
	case <-s.ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]resting{asked}, r.conns...), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.listener.SetDeadline(time.Time{})
		s.rest = nil
		close(r.over)
	}
}

// upgrade carries out the request. It returns the refusal; the answer to one that succeeds comes from the next program.
func (s *server) upgrade(p peer, r attach.Request, asked resting) attach.Reply {
	if !trusted(p) {
		s.warn("refused an upgrade", "pid", p.pid, "uid", p.uid)
		return attach.Reply{Code: attach.CodePermission, Error: fmt.Sprintf("user %d may not replace the daemon's program: become root or the daemon's user", p.uid)}
	}
	s.mu.Lock()
	already := s.upgrading
	s.upgrading = true
	s.mu.Unlock()
	if already {
		return attach.Reply{Code: attach.CodeBusy, Error: "an upgrade is under way already"}
	}
	err := s.d.upgrade(r.Binary, func() ([]resting, func()) { return s.lull(asked) })
	s.mu.Lock()
	s.upgrading = false
	s.mu.Unlock()
	return attach.Refusal(&attach.RefusedError{Code: attach.CodeUpgrade, Text: err.Error()})
}

// inherit takes over the listener, and goes on with the connections when the region does.
func (s *server) inherit(h *handover) error {
	f := os.NewFile(uintptr(h.Listener), "attach socket")
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("attach socket of the program before: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return errors.New("attach socket of the program before: it is no Unix socket")
	}
	s.listener, s.unit = u, h.Unit
	u.SetUnlinkOnClose(!h.Unit)
	if !h.Unit {
		// The configuration may be another. A socket whose name was lost before is made anew as soon as the names are watched.
		if err := s.setMode(s.d.sockPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
			u.Close()
			return err
		}
	}
	for _, hc := range h.Conns {
		s.goOnWith(hc, h)
	}
	return nil
}

// goOnWith serves a connection that the program before had.
func (s *server) goOnWith(hc handedConn, h *handover) {
	u, err := unixConn(hc.FD)
	if err != nil {
		s.warn("a connection could not be taken over", "error", err)
		return
	}
	c := attach.NewConn(u)
	p, err := identify(u)
	v := newVisitor(c, p.uid)
	held := s.d.outsiders[hc.Attachment]
	if held != nil {
		held.visitor = v
	}
	if held != nil && p.pidfd != nil { // its attachment has one
		p.pidfd.Close()
		p.pidfd = held.pidfd
	}
	s.begin()
	s.conns.Go(func() {
		defer s.done()
		if hc.Asked {
			select {
			case <-s.d.wentOn:
			case <-s.ctx.Done():
			}
			r := s.hello()
			r.From, r.PauseNs = h.From, int64(s.d.pause)
			if s.answer(c, r, nil) != nil {
				c.Close()
				close(v.over)
				return
			}
		}
		s.converse(v, p, err, held)
	})
}
