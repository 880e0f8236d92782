package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// server is the attach socket. It hands out descriptors; messages never go through it.
type server struct {
	d        *Daemon
	listener *net.UnixListener
	unit     bool // the listener is a socket unit's
	ctx      context.Context
	cancel   context.CancelFunc
	conns    sync.WaitGroup
	mu       sync.Mutex     // of what follows, and of listener once it serves
	idle     []*visitor     // connections without an attachment, the oldest first
	evicted  map[uint32]int // by user: connections that were closed for others and have not ended
	warnings throttle       // of what anybody who can connect can cause

	upgrading bool
	busy      int   // goroutines that accept or talk
	rest      *rest // nil: they do
}

// maxIdle is how many connections without an attachment may be open at once. One more ends the oldest of the user who has most, so
// nobody can keep others from being served.
const maxIdle = 256

// maxEvicted is how many connections of a user may take their time to end after they were closed. As a rule that is no time; what the peer has put into the
// socket may make it as long as it likes, and each takes a thread.
const maxEvicted = 64

// maxPath is the longest path of a socket, in bytes: the kernel's sun_path without its final NUL.
const maxPath = 107

// visitor is a connection.
type visitor struct {
	*attach.Conn
	uid  uint32
	over chan struct{} // closed when nobody serves it any more
}

func newVisitor(c *attach.Conn, uid uint32) *visitor {
	return &visitor{Conn: c, uid: uid, over: make(chan struct{})}
}

// outsider is an attached process that is not a worker.
type outsider struct {
	id       uint16
	name     string
	pid      int
	uid      uint32
	pidfd    *os.File
	channels []string
	visitor  *visitor // nil: it attached to a daemon before this one
	told     bool     // there is an event of its attaching, and will be one of its end
}

// peer is who is at the other end of a connection.
type peer struct {
	pid   int
	uid   uint32
	gid   uint32
	ticks uint64
	pidfd *os.File
}

// listen opens the region's socket, or takes the one that systemd opened.
func listen(d *Daemon, path string) (*server, error) {
	s := &server{d: d, evicted: map[uint32]int{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if h := d.handed; h != nil {
		return s, s.inherit(h)
	}
	for _, f := range d.sockets {
		l, err := net.FileListener(f)
		f.Close()
		if u, ok := l.(*net.UnixListener); err == nil && ok && u.Addr().String() == path {
			s.listener, s.unit = u, true
			u.SetUnlinkOnClose(false) // the socket unit's
			return s, nil
		}
	}
	if len(path) > maxPath {
		return nil, fmt.Errorf("attach socket: %s: the path of a socket has at most %d bytes, this one has %d: use a shorter runtime directory", path, maxPath, len(path))
	}
	os.Remove(path) // a dead daemon's: this one holds the region's lock
	l, err := sys.ListenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("attach socket: %s: %w", path, err)
	}
	if err := s.setMode(path); err != nil {
		l.Close()
		return nil, err
	}
	s.listener = l
	return s, nil
}

// setMode says who may connect: credentials decide, not the file's mode.
func (s *server) setMode(path string) error {
	mode := os.FileMode(0o660)
	if s.d.conf.Open() {
		mode = 0o666
	}
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("attach socket: %w", err)
	}
	if st, err := os.Stat(s.d.dir); s.d.conf.Open() && err == nil && st.Mode().Perm()&0o001 == 0 {
		s.d.log.Warn("users named by allow_produce, allow_consume or [access] may not get to the socket: its directory lets only its owner and group in; chmod a+x it, or RuntimeDirectoryMode=0755",
			"directory", s.d.dir, "mode", fmt.Sprintf("%04o", st.Mode().Perm()))
	}
	return nil
}

// relisten makes the socket anew, whose name is lost, with the owner and the mode that it had. own: what has the name now, if anything has, may be removed. Who is
// connected notices nothing. The supervisor calls it. Errors: errRest during an upgrade; those of the kernel.
func (s *server) relisten(was sys.Stat, own bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rest != nil && s.rest.begun {
		return errRest
	}
	path := s.d.sockPath
	if err := s.d.makeDir(); err != nil {
		return err
	}
	if own {
		os.Remove(path)
	}
	l, err := sys.ListenUnix(path)
	if err != nil {
		return fmt.Errorf("attach socket: %s: %w", path, err)
	}
	if was == (sys.Stat{}) {
		err = s.setMode(path)
	} else if err = os.Chmod(path, os.FileMode(was.Mode&0o777)); err == nil && (was.UID != uint32(os.Geteuid()) || was.GID != uint32(os.Getegid())) {
		err = os.Chown(path, int(was.UID), int(was.GID))
	}
	if err != nil {
		s.d.log.Warn("the attach socket is there again, but not everybody who could connect can", "error", err)
	}
	old := s.listener
	s.listener = l
	for _, c := range sys.Retire(old) {
		s.greet(c)
	}
	return nil
}

// greet serves a connection. s.mu is held.
func (s *server) greet(c *net.UnixConn) {
	s.busy++
	s.conns.Go(func() {
		defer s.done()
		s.talk(attach.NewConn(c))
	})
}

// current is the listener.
func (s *server) current() *net.UnixListener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener
}

func (s *server) serve() error {
	s.begin()
	defer s.done()
	for {
		l := s.current()
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			if s.current() != l { // another one took its place
				continue
			}
			return nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.sleep(resting{})
			continue
		}
		if err != nil { // out of descriptors, say
			s.warn("attach socket", "error", err)
			s.mu.Lock()
			s.evict()
			s.mu.Unlock()
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
				return nil
			}
			continue
		}
		s.mu.Lock()
		s.greet(c)
		s.mu.Unlock()
	}
}

// admit counts a connection as one without an attachment. It reports false if its user has too many that do not end.
func (s *server) admit(v *visitor) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.evicted[v.uid] >= maxEvicted {
		s.warn("too many connections of a user do not end: no more of it are served until they do", "uid", v.uid)
		return false
	}
	s.idle = append(s.idle, v)
	if len(s.idle) > maxIdle {
		s.evict()
	}
	return true
}

// dismiss undoes admit: the connection ends, or has an attachment now.
func (s *server) dismiss(v *visitor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.idle, v); i >= 0 {
		s.idle = slices.Delete(s.idle, i, i+1)
	}
}

// end closes a connection, in its own time: the peer decides how long that takes, see attach.Conn.ReceiveRequest. s.mu is held.
func (s *server) end(v *visitor) {
	s.evicted[v.uid]++
	go func() {
		v.Close()
		<-v.over
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.evicted[v.uid]--; s.evicted[v.uid] == 0 {
			delete(s.evicted, v.uid)
		}
	}()
}

// hangUp closes the connection of an attached process that has ended: whoever else has the other end could keep any number of them open. The supervisor
// calls it.
func (s *server) hangUp(o *outsider) {
	if o.visitor == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(o.visitor)
}

// evict closes the oldest connection of the user who has most of those without an attachment. s.mu is held.
func (s *server) evict() {
	count := map[uint32]int{}
	most := 0
	for _, v := range s.idle {
		count[v.uid]++
		most = max(most, count[v.uid])
	}
	for i, v := range s.idle {
		if count[v.uid] == most {
			s.idle = slices.Delete(s.idle, i, i+1)
			s.end(v)
			s.warn("too many connections without an attachment: the oldest was closed", "uid", v.uid)
			return
		}
	}
}

// warn logs what a peer caused, unless peers have caused too much of late.
func (s *server) warn(msg string, args ...any) {
	ok, dropped := s.warnings.allow(time.Now())
	if !ok {
		return
	}
	if dropped > 0 {
		args = append(args, "not_logged", dropped)
	}
	s.d.log.Warn(msg, args...)
}

// close ends the socket and every connection. Attachments go on: the end of the socket is not death. What holds up the end of a connection must not hold up
// that of the daemon: nothing in it touches memory without the supervisor.
func (s *server) close() {
	s.cancel()
	s.current().Close()
	ended := make(chan struct{})
	go func() { s.conns.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(lastWords):
	}
}

// talk serves one connection until it ends.
func (s *server) talk(c *attach.Conn) {
	p, err := identify(c.Unix())
	s.converse(newVisitor(c, p.uid), p, err, nil)
}

// converse is talk with a peer that is known, and that may have an attachment. err says why it is not known.
func (s *server) converse(c *visitor, p peer, err error, held *outsider) {
	defer close(c.over)
	defer func() {
		if held == nil && p.pidfd != nil {
			p.pidfd.Close()
		}
	}()
	if held == nil && !s.admit(c) {
		c.Close()
		return
	}
	defer s.dismiss(c)
	defer c.Close()
	stop := context.AfterFunc(s.ctx, func() { c.Close() })
	defer stop()
	if err != nil {
		c.ReceiveRequest(s.ctx) // an answer before the question would be lost with the connection
		s.answer(c.Conn, attach.Reply{Code: attach.CodePermission, Error: err.Error()}, nil)
		return
	}
	for {
		r, err := c.ReceiveRequest(s.awake())
		switch {
		case err == nil:
		case errors.Is(err, errRest):
			s.sleep(resting{conn: c.Conn, held: held})
			continue
		case errors.Is(err, io.EOF), errors.Is(err, attach.ErrHungUp), errors.Is(err, net.ErrClosed), s.ctx.Err() != nil:
			return
		default:
			s.warn("refused a request", "pid", p.pid, "uid", p.uid, "error", err)
			if s.answer(c.Conn, attach.Refusal(err), nil) != nil {
				return
			}
			continue
		}
		var reply attach.Reply
		var files []*os.File
		switch r.Op {
		case attach.OpPing:
			reply = s.hello()
		case attach.OpChannels:
			reply = s.channels(p)
		case attach.OpAttach:
			if held != nil {
				reply = attach.Reply{Code: attach.CodeBusy, Error: "this connection has an attachment already: detach first, or open another connection"}
				break
			}
			if reply, files, held = s.attach(c, p, r); held != nil {
				s.dismiss(c)
			}
		case attach.OpDetach:
			if held == nil {
				reply = attach.Reply{Code: attach.CodeBadRequest, Error: "this connection has no attachment"}
				break
			}
			reply = s.hello()
			s.release(held, "detached")
			held = nil
			if p, err = identify(c.Unix()); err != nil { // the pidfd went with the attachment
				s.answer(c.Conn, reply, nil)
				return
			}
			if !s.admit(c) {
				return
			}
		case attach.OpReload:
			reply = s.reload(p, r)
		case attach.OpUpgrade:
			reply = s.upgrade(p, r, resting{conn: c.Conn, held: held, asked: true})
		}
		if s.answer(c.Conn, reply, files) != nil {
			if files != nil { // it never learnt that it is attached
				s.release(held, "did not take the answer")
			}
			return
		}
	}
}

// release ends an attachment before its process has ended.
func (s *server) release(o *outsider, how string) {
	s.onSupervisor(func() {
		if s.d.outsiders[o.id] == o {
			s.d.outsiderGone(o, how)
		}
	})
}

func (s *server) answer(c *attach.Conn, r attach.Reply, files []*os.File) error {
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second) // a peer that does not read is its own problem
	defer cancel()
	return c.SendReply(ctx, r, files)
}

// onSupervisor runs fn in the supervisor and waits for it. It reports false if the supervisor has ended.
func (s *server) onSupervisor(fn func()) bool {
	done := make(chan struct{})
	s.d.post(func() { fn(); close(done) })
	select {
	case <-done:
		return true
	case <-s.d.finished:
		return false
	}
}

func (s *server) hello() attach.Reply {
	return attach.Reply{OK: true, Pid: os.Getpid(), Version: s.d.version, Region: s.d.view.Load().conf.Region.Name}
}

func (s *server) channels(p peer) attach.Reply {
	r := s.hello()
	v := s.d.view.Load()
	for _, name := range v.names {
		c := v.channels[name]
		r.Channels = append(r.Channels, attach.Channel{Name: name, Kind: c.conf.Kind, Slots: uint32(c.Slots()), SlotSize: uint32(c.SlotSize()),
			Produce: s.mayProduce(p, c), Consume: s.mayConsume(p, c)})
	}
	return r
}

// identify says who the peer is, in a way that survives the reuse of its pid. Errors: the peer cannot be named.
func identify(u *net.UnixConn) (peer, error) {
	pid, uid, gid, err := sys.PeerCred(u)
	if err != nil {
		return peer{}, err
	}
	p := peer{pid: pid, uid: uid, gid: gid}
	p.pidfd, err = sys.PeerPidfd(u)
	if errors.Is(err, sys.ErrNoSys) { // before Linux 6.5: pid and start time name the process
		if pid == 0 {
			return p, errors.New("your process is in another pid namespace and this kernel has no SO_PEERPIDFD (Linux 6.5): the daemon could not see your death, so it gives out nothing; share the pid namespace (docker run --pid=host), or use a newer kernel")
		}
		before, err1 := sys.StartTicks(pid)
		p.pidfd, err = sys.PidfdOpen(pid)
		after, err2 := sys.StartTicks(pid)
		if err == nil && (err1 != nil || err2 != nil || before != after) {
			p.pidfd.Close()
			return p, fmt.Errorf("process %d ended while it connected", pid)
		}
	}
	if err != nil {
		return p, fmt.Errorf("who is process %d: %w", pid, err)
	}
	p.ticks, _ = sys.StartTicks(pid)
	return p, nil
}

// trusted peers may do everything: root, and the daemon's own user, who could read its memory anyway.
func trusted(p peer) bool { return p.uid == 0 || p.uid == uint32(os.Geteuid()) }

// listed reports whether a list of the configuration names the peer: "*", a user's name or number, or "@group".
func listed(list []string, p peer) bool {
	return slices.ContainsFunc(list, func(who string) bool {
		if who == "*" || who == strconv.Itoa(int(p.uid)) {
			return true
		}
		if name, ok := strings.CutPrefix(who, "@"); ok {
			g, err := user.LookupGroup(name)
			if err != nil {
				return false
			}
			if g.Gid == strconv.Itoa(int(p.gid)) {
				return true
			}
			u, err := user.LookupId(strconv.Itoa(int(p.uid)))
			if err != nil {
				return false
			}
			ids, err := u.GroupIds()
			return err == nil && slices.Contains(ids, g.Gid)
		}
		u, err := user.Lookup(who)
		return err == nil && u.Uid == strconv.Itoa(int(p.uid))
	})
}

func (s *server) mayProduce(p peer, c *channel) bool {
	if c.queue != nil && c.queue.Flags()&protocol.QueueFlagDeadLetter != 0 { // only the daemon writes there
		return false
	}
	return trusted(p) || listed(c.conf.AllowProduce, p)
}

func (s *server) mayConsume(p peer, c *channel) bool {
	return trusted(p) || listed(c.conf.AllowConsume, p)
}

// attach decides about an attach request and makes the attachment: by the configuration that holds when it is made.
func (s *server) attach(c *visitor, p peer, r attach.Request) (reply attach.Reply, files []*os.File, o *outsider) {
	for current := false; !current; {
		reply, files, o, current = s.attachBy(s.d.view.Load(), c, p, r)
	}
	return reply, files, o
}

// attachBy is attach as a view has it. current is false if that was another one when the supervisor came to the attachment: a channel may be gone, or
// a grant. Nothing has happened then.
func (s *server) attachBy(v *view, c *visitor, p peer, r attach.Request) (_ attach.Reply, _ []*os.File, _ *outsider, current bool) {
	d := s.d
	a := v.conf.Access
	operate := trusted(p) || listed(a.Operate, p)
	observe := operate || listed(a.Observe, p)
	refuse := func(code, format string, args ...any) (attach.Reply, []*os.File, *outsider, bool) {
		text := fmt.Sprintf(format, args...)
		s.warn("refused an attachment", "pid", p.pid, "uid", p.uid, "name", r.Name, "why", text)
		return attach.Reply{Code: code, Error: text}, nil, nil, true
	}
	grants := map[string]bool{}
	for _, want := range []struct {
		what  string
		names []string
		may   func(peer, *channel) bool
	}{{"produce", r.Produce, s.mayProduce}, {"consume", r.Consume, s.mayConsume}} {
		for _, name := range want.names {
			c := v.channels[name]
			if c == nil {
				return refuse(attach.CodeNoChannel, "region %q has no channel %q; there are: %s", v.conf.Region.Name, name, strings.Join(v.names, ", "))
			}
			if base, dead := strings.CutSuffix(name, deadSuffix); dead && want.what == "produce" && !want.may(p, c) {
				return refuse(attach.CodePermission, "nobody may produce on channel %q: the daemon alone moves dead letters of %q there", name, base)
			} else if !want.may(p, c) {
				return refuse(attach.CodePermission, "user %d may not %s on channel %q: see allow_%s in [channel.%s]", p.uid, want.what, name, want.what, base)
			}
			grants[name] = true
		}
	}
	if r.Role == attach.RoleOperate && !operate {
		return refuse(attach.CodePermission, "user %d may not operate region %q: see operate in [access], or become root or the daemon's user", p.uid, v.conf.Region.Name)
	}
	if !observe && len(grants) == 0 {
		return refuse(attach.CodePermission, "user %d may not observe region %q: see observe in [access]", p.uid, v.conf.Region.Name)
	}

	reply := s.hello()
	var files []*os.File
	hand := func(name string, f *os.File) {
		reply.FDs = append(reply.FDs, name)
		files = append(files, f)
	}
	hand("roster", v.segments["roster"].readOnly)
	role := protocol.RoleObserve
	if command := v.segments["command"]; r.Role == attach.RoleOperate {
		role = protocol.RoleOperate
		hand("command", command.File())
	} else {
		hand("command", command.readOnly)
	}
	if observe {
		hand("log", v.segments["log"].readOnly)
		for _, g := range v.groups {
			hand(groupSegment(g), v.segments[groupSegment(g)].readOnly)
		}
	}
	var channels []string
	for _, name := range v.names {
		switch s := v.segments[name]; {
		case grants[name]:
			channels = append(channels, name)
			hand(name, s.File())
		case len(grants) == 0 && trusted(p): // to look at; who may not read payloads does not get it
			hand(name, s.readOnly)
		}
	}

	o := &outsider{name: r.Name, pid: p.pid, uid: p.uid, pidfd: p.pidfd, channels: channels, visitor: c}
	var err error
	stale := false
	ok := s.onSupervisor(func() {
		if stale = d.view.Load() != v; stale {
			return
		}
		if d.stopping && len(channels) > 0 {
			err = errors.New("the region is stopping")
			return
		}
		if most := d.conf.Region.MaxAttachments; len(d.outsiders) >= most { // the other ids are for workers
			err = fmt.Errorf("all %d attachments of outsiders are in use: end some of them (shmctl ps --all lists them), or raise max_attachments in [region]", most)
			return
		}
		if most := d.conf.Region.PerUser(); !trusted(p) && d.outsidersOf(p.uid) >= most {
			err = fmt.Errorf("all %d attachments that one user may have are in use by user %d: end some of them (shmctl ps --all lists them), or raise max_attachments_per_user in [region]", most, p.uid)
			return
		}
		if err = d.mayPublish(r.Produce); err != nil {
			return
		}
		if o.id, err = d.ids.take(); err != nil {
			return
		}
		d.setAttachment(o.id, protocol.Attachment{State: protocol.AttachmentLive, Pid: p.pid, UID: p.uid, StartTicks: p.ticks, Worker: -1, Role: role, Name: r.Name})
		if err = d.deaths.Add(o.pidfd, tokenOf(o.id)); err != nil {
			d.setAttachment(o.id, protocol.Attachment{})
			d.ids.free(o.id)
			return
		}
		d.admit(o.id, r.Produce)
		d.outsiders[o.id] = o
		d.systemd.store(pidfdName(o.id), o.pidfd)
		d.log.Debug("attached", "attachment", o.id, "name", o.name, "pid", o.pid, "uid", p.uid, "role", role.String(), "channels", strings.Join(channels, ","))
		if o.told = len(channels) > 0 || role == protocol.RoleOperate; o.told {
			d.event(eventAttach, o.name, role.String(), "pid", o.pid, "uid", p.uid, "attachment", o.id, "channels", strings.Join(channels, ","))
		}
	})
	if !ok {
		err = errors.New("the region is stopping")
	}
	switch {
	case ok && stale:
		return attach.Reply{}, nil, nil, false
	case err != nil:
		return refuse(attach.CodeBusy, "%v", err)
	}
	reply.Attachment = o.id
	return reply, files, o, true
}

// outsidersOf counts the attachments of a user. The supervisor calls it.
func (d *Daemon) outsidersOf(uid uint32) (n int) {
	for _, o := range d.outsiders {
		if o.uid == uid {
			n++
		}
	}
	return n
}

// outsiderGone gives back what an outsider held. The supervisor calls it.
func (d *Daemon) outsiderGone(o *outsider, how string) {
	delete(d.outsiders, o.id)
	d.deaths.Remove(o.pidfd)
	o.pidfd.Close()
	d.giveBack(o.id, o.channels)
	d.forget(o.id)
	d.log.Debug("outsider gone", "attachment", o.id, "name", o.name, "pid", o.pid, "how", how)
	if o.told {
		d.event(eventDetach, o.name, how, "pid", o.pid, "attachment", o.id)
	}
	d.dropChannels() // it may have been the last to use one
}
