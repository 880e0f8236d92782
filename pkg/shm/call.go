package shm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// Call is one end of a channel of kind call: a caller's request goes to one server, and the answer comes back in the same slot.
// A process that holds the channel may call, serve, or both. It is safe for concurrent use.
type Call struct {
	r *Region
	c *protocol.Call
	s *region.Segment

	trips atomic.Pointer[Histogram] // of Do, if somebody asked for it

	// The slot of the last Do is kept for the next, so that a call writes no more lines than it has to, until somebody wants it.
	busy   atomic.Bool      // somebody uses what follows
	kept   protocol.Request // if holds
	holds  bool
	asked  bool          // lend runs
	closed atomic.Bool   // keep nothing any more
	free   atomic.Uint64 // a slot that was freed here a while ago: where to look first

	calling, serving, waiting spinner

	name string
}

// A CallError is what a server answered instead of a reply.
type CallError struct {
	Code int32 // above 0; its meaning is between caller and server
	Text string
}

func (e *CallError) Error() string { return fmt.Sprintf("%s (code %d)", e.Text, e.Code) }

// codeOther is the code of an error of a server's function that is no CallError.
const codeOther = 1

// Call returns a channel of kind call. Errors: ErrNoChannel, with the names of those that there are; *protocol.KindError.
func (r *Region) Call(name string) (*Call, error) {
	p, err := channelOf[*protocol.Call](r, name, protocol.KindCall)
	if err != nil {
		return nil, err
	}
	c := &Call{r: r, c: p, s: r.segments[name], name: name}
	if have, loaded := r.calls.LoadOrStore(name, c); loaded { // one for the process: it keeps a slot
		return have.(*Call), nil
	}
	c.s.OnClose(func() {
		c.closed.Store(true)
		c.dropKept()
	})
	return c, nil
}

// Name returns the channel's name.
func (c *Call) Name() string { return c.name }

// FailOnDeath reports whether a request whose server dies fails (on_server_death = "fail"), so that none is served twice; else another server gets it.
func (c *Call) FailOnDeath() bool { return c.c.FailOnDeath() }

// SlotSize returns the largest payload of a request and of a reply, in bytes.
func (c *Call) SlotSize() int { return c.c.SlotSize() }

// Slots returns how many calls may be under way at once.
func (c *Call) Slots() int { return c.c.Slots() }

// Stat takes a snapshot of the channel.
func (c *Call) Stat() (protocol.CallStat, error) {
	if err := c.r.enter(c.s); err != nil {
		return protocol.CallStat{}, err
	}
	defer c.s.Release()
	return c.c.Stat(), nil
}

// ObserveTrips has Do observe in h how long each answered request took from its sending to the answer, in nanoseconds. It costs two readings
// of the clock a call. Nil: not any more.
func (c *Call) ObserveTrips(h *Histogram) { c.trips.Store(h) }

// Do sends a request, waits for the answer, appends it to buf and returns the extended buffer. It waits for a free slot first if all
// are in use. When ctx ends, or the process is asked to quit, it returns at once, and a server that has the request already works in
// vain. A request whose server died is served again or not, as the channel's on_server_death says; so a server may see it more than
// once.
//
// Errors: *CallError (the server's), *TooLargeError, ErrServerDied, ctx.Err(), ErrQuit, ErrClosed, *protocol.CorruptError.
func (c *Call) Do(ctx context.Context, req []byte, buf []byte) ([]byte, error) {
	if limit := c.c.SlotSize(); len(req) > limit {
		return buf, &TooLargeError{c.name, len(req), limit}
	}
	if err := c.r.enter(c.s); err != nil {
		return buf, err
	}
	if !c.busy.CompareAndSwap(false, true) {
		return c.doBeside(ctx, req, buf)
	}
	var err error
	if !c.holds {
		err = c.keep(ctx)
	}
	if err == nil {
		if buf, err = c.exchange(ctx, &c.kept, req, buf); err != nil {
			c.leave(&c.kept)
			c.holds = false
		}
	}
	c.unkeep()
	return buf, err
}

// doBeside is Do while another goroutine uses the slot that is kept. It ends the segment's lease.
func (c *Call) doBeside(ctx context.Context, req, buf []byte) ([]byte, error) {
	defer c.s.Release()
	q, err := c.request(ctx)
	if err != nil {
		return buf, err
	}
	buf, err = c.exchange(ctx, &q, req, buf)
	c.leave(&q)
	return buf, err
}

// keep claims the slot that is to be kept.
func (c *Call) keep(ctx context.Context) (err error) {
	if c.kept, err = c.claim(ctx); err != nil {
		return err
	}
	c.holds = true
	if !c.asked {
		c.asked = true
		c.r.own.Add(1)
		go c.lend()
	}
	return nil
}

// exchange sends the request with q and takes the reply. It leaves q with the caller.
func (c *Call) exchange(ctx context.Context, q *protocol.Request, req, buf []byte) ([]byte, error) {
	var began time.Time
	h := c.trips.Load()
	if h != nil {
		began = time.Now()
	}
	if err := c.c.SendCopy(q, req); err != nil {
		return buf, err
	}
	if err := c.wait(ctx, q); err != nil {
		return buf, err
	}
	p, err := c.reply(q)
	if h != nil && err == nil {
		h.Since(began)
	}
	return append(buf, p...), err
}

// unkeep ends the use of kept, and the segment's lease. Who wants the slot, or closes the region, and met busy, has said so before.
func (c *Call) unkeep() {
	c.busy.Store(false)
	if c.closed.Load() || c.c.Callers.Sleepers() != 0 {
		c.dropKept()
	}
	c.s.Release()
}

// dropKept frees the slot that is kept. The segment is still mapped.
func (c *Call) dropKept() {
	if c.busy.CompareAndSwap(false, true) {
		if c.holds {
			c.leave(&c.kept)
			c.holds = false
		}
		c.busy.Store(false)
	}
}

// lend gives the kept slot back when another process finds none. It sleeps until one does, and ends with the region.
func (c *Call) lend() {
	defer c.r.own.Add(-1)
	for {
		if c.s.Lease() != nil {
			return
		}
		wanted := c.c.Wanted()
		v := wanted.Load()
		if c.c.Callers.Sleepers() != 0 {
			c.dropKept()
		}
		err := c.r.hub.WaitLong(c.r.quit, wanted, v, nil)
		if err != nil { // nobody would give it back any more
			c.closed.Store(true)
			c.dropKept()
		}
		c.s.Release()
		if err != nil {
			return
		}
	}
}

func (c *Call) leave(q *protocol.Request) {
	c.free.Store(q.Slot())
	c.c.Leave(q) // ErrLost: a repair took it
}

// request takes the kept slot or claims one, waiting for one. The caller holds the segment's lease.
func (c *Call) request(ctx context.Context) (protocol.Request, error) {
	if c.busy.CompareAndSwap(false, true) {
		q, ok := c.kept, c.holds
		c.holds = false
		c.busy.Store(false)
		if ok {
			return q, nil
		}
	}
	return c.claim(ctx)
}

// claim claims a free slot, waiting for one. The caller holds the segment's lease.
func (c *Call) claim(ctx context.Context) (q protocol.Request, err error) {
	look := func() bool {
		q, err = c.c.TryRequest(c.r.id, c.free.Load())
		return err != ErrFull
	}
	if look() {
		return q, err
	}
	sleep := c.r.sleep
	if c.r.how(&c.waiting) == WaitSpin { // who keeps a slot gives it back for one that is registered as a sleeper
		sleep = c.r.changed
	} else if c.r.spins(&c.waiting) && c.r.spin(ctx, &c.waiting, 1, look) {
		return q, err
	}
	bell := &c.c.Callers
	for {
		value := bell.Value()
		ticket := bell.Register()                                           // S
		c.c.Want()                                                          // after it: who keeps a slot sees the sleeper
		if q, err = c.c.TryRequest(c.r.id, c.free.Load()); err != ErrFull { // T
			bell.Unregister(ticket)
			return q, err
		}
		err = sleep(ctx, bell.Word(), value)
		bell.Unregister(ticket)
		if err != nil {
			bell.Ring(1) // a wake may have been meant for this sleeper: pass it on
			return q, err
		}
	}
}

// wait returns when the request is settled.
func (c *Call) wait(ctx context.Context, q *protocol.Request) error {
	settled, err := c.c.Settled(q)
	if settled || err != nil {
		return err
	}
	return c.waitLong(ctx, q)
}

// waitLong is wait for an answer that is not there at once.
func (c *Call) waitLong(ctx context.Context, q *protocol.Request) error {
	var settled bool
	var err error
	if c.r.alone && c.r.yield(&c.calling, mostUnyielded) {
		if settled, err = c.c.Settled(q); settled || err != nil {
			return err
		}
	}
	if c.r.spins(&c.calling) && c.r.spin(ctx, &c.calling, callerPauses, func() bool {
		settled, err = c.c.Settled(q)
		return settled || err != nil
	}) {
		return err
	}
	for {
		if bell, v, ok := c.c.Doze(q); ok {
			err := c.r.sleep(ctx, bell, v)
			if settled, lost := c.c.Settled(q); settled || lost != nil {
				return lost
			}
			if err != nil {
				return err
			}
		} else if settled, err := c.c.Settled(q); settled || err != nil {
			return err
		}
	}
}

// How many pauses come between two looks at a slot. Each look takes the slot's line from the CPU that is writing there: a caller that looks without a rest takes it
// between the server's claim and its answer, and each time the line is fetched again.
const (
	callerPauses = 4
	serverPauses = 3
)

// spins reports whether an end is to wait by spin before it sleeps.
func (r *Region) spins(s *spinner) bool {
	how := r.how(s)
	return how == WaitSpin || how == WaitAdaptive && r.many
}

// spin calls look until it returns true, as the end waits: for as long as has paid, if nobody else in this process does; or until the call is to end. The
// caller has looked once; there are pauses times a pause between looks. Who goes to sleep when it returns false sleeps, or hears why it is to end.
func (r *Region) spin(ctx context.Context, s *spinner, pauses int32, look func() bool) bool {
	if r.how(s) == WaitSpin {
		return r.keepLooking(ctx, pauses, look) == nil
	}
	if !r.spinning.CompareAndSwap(false, true) {
		return false
	}
	looks := s.begin()
	found := false
	for !found && looks.more(ctx, r) {
		for range pauses {
			sys.Pause()
		}
		found = look()
	}
	r.spinning.Store(false)
	looks.end(found)
	return found
}

// reply returns the reply of a settled request, in place.
func (c *Call) reply(q *protocol.Request) ([]byte, error) {
	p, code, err := c.c.Reply(*q)
	if err == nil && code != 0 {
		return nil, &CallError{code, string(p)}
	}
	return p, err
}

// Request is a request that the caller writes in place. It is used by one goroutine at a time, and ends with Send or Abort.
type Request struct {
	c    *Call
	q    protocol.Request
	done bool
}

// Request takes a slot to write a request in place. It waits while all slots are in use. Errors: ctx.Err(), ErrQuit, ErrClosed.
func (c *Call) Request(ctx context.Context) (*Request, error) {
	if err := c.r.enter(c.s); err != nil {
		return nil, err
	}
	q, err := c.request(ctx)
	if err != nil {
		c.s.Release()
		return nil, err
	}
	return &Request{c: c, q: q}, nil
}

// Bytes returns the room for the request, SlotSize bytes of undefined contents, valid until Send or Abort.
func (q *Request) Bytes() []byte { return q.c.c.RequestRoom(q.q) }

// Send sends the first n bytes and returns what the reply will be. It does not wait: a caller may have many requests under way.
// Errors: *TooLargeError (the request goes on), ErrLost.
func (q *Request) Send(n int) (*Reply, error) {
	if limit := q.c.c.SlotSize(); n < 0 || n > limit {
		return nil, &TooLargeError{q.c.name, n, limit}
	}
	if q.done {
		return nil, ErrLost
	}
	q.done = true
	if err := q.c.c.Send(&q.q, n); err != nil {
		q.c.leave(&q.q)
		q.c.s.Release()
		return nil, err
	}
	return &Reply{c: q.c, q: q.q}, nil
}

// Abort gives the slot back. After Send it does nothing and returns ErrLost, so it can be deferred.
func (q *Request) Abort() error {
	if q.done {
		return ErrLost
	}
	q.done = true
	defer q.c.s.Release()
	q.c.leave(&q.q)
	return nil
}

// Reply is the answer to a request, or will be. It is used by one goroutine at a time, and ends with Done.
type Reply struct {
	c    *Call
	q    protocol.Request
	done bool
}

// Wait waits for the answer and returns it in place, valid until Done. After ctx.Err() or ErrQuit the call goes on: Wait again, or leave
// it with Done. Errors: those of Do but *TooLargeError; ErrLost after Done.
func (p *Reply) Wait(ctx context.Context) ([]byte, error) {
	if p.done {
		return nil, ErrLost
	}
	if err := p.c.wait(ctx, &p.q); err != nil {
		return nil, err
	}
	return p.c.reply(&p.q)
}

// Done ends the call and frees the slot; a server that works at the request frees it when it has done. Once is enough:
// after it Done does nothing and returns ErrLost, so it can be deferred.
func (p *Reply) Done() error {
	if p.done {
		return ErrLost
	}
	p.done = true
	defer p.c.s.Release()
	p.c.leave(&p.q)
	return nil
}

// Incoming is a request that this process serves. It is used by one goroutine at a time, and ends with Answer, Fail or GiveBack.
type Incoming struct {
	c    *Call
	v    protocol.Serving
	done bool
}

// Accept takes the oldest request, and waits for one. If the process dies before Answer, the request goes to another server or fails, as the
// channel's on_server_death says. Errors: ctx.Err(), ErrQuit (also when requests are there: a worker that is asked to
// quit takes no more), ErrClosed, *protocol.CorruptError (its caller was told).
func (c *Call) Accept(ctx context.Context) (*Incoming, error) {
	if err := c.r.enter(c.s); err != nil {
		return nil, err
	}
	v, err := c.accept(ctx, 0)
	if err != nil {
		c.s.Release()
		return nil, err
	}
	return &Incoming{c: c, v: v}, nil
}

// TryAccept is Accept that does not wait. Errors: ErrEmpty beside those of Accept.
func (c *Call) TryAccept() (*Incoming, error) {
	if err := c.r.asked(); err != nil {
		return nil, err
	}
	if err := c.r.enter(c.s); err != nil {
		return nil, err
	}
	v, err := c.c.TryAccept(c.r.id, 0)
	if err != nil {
		c.s.Release()
		return nil, err
	}
	return &Incoming{c: c, v: v}, nil
}

// accept takes a request, waiting for one. The caller holds the segment's lease.
func (c *Call) accept(ctx context.Context, from uint64) (v protocol.Serving, err error) {
	c.r.beat()
	if err := c.r.asked(); err != nil {
		return v, err
	}
	if v, err = c.c.TryAccept(c.r.id, from); !protocol.Empty(err) {
		return v, err
	}
	if c.r.spins(&c.serving) {
		if v, err = c.lookOut(ctx, from); !protocol.Empty(err) {
			return v, err
		}
	}
	bell := &c.c.Servers
	for {
		value := bell.Value()
		ticket := bell.Register()                                       // S
		if v, err = c.c.TryAccept(c.r.id, from); !protocol.Empty(err) { // T
			bell.Unregister(ticket)
			return v, err
		}
		err = c.r.sleep(ctx, bell.Word(), value)
		bell.Unregister(ticket)
		if err != nil {
			bell.Ring(1) // a wake may have been meant for this sleeper: pass it on
			return v, err
		}
		if v, err = c.c.TryAccept(c.r.id, from); !protocol.Empty(err) { // before it registers again
			return v, err
		}
	}
}

// lookOut is the part of accept that spins.
func (c *Call) lookOut(ctx context.Context, from uint64) (v protocol.Serving, err error) {
	err = ErrEmpty
	c.r.spin(ctx, &c.serving, serverPauses, func() bool {
		v, err = c.c.LookOut(c.r.id, from)
		return !protocol.Empty(err)
	})
	return v, err
}

// Bytes returns the request, valid until Answer, Fail or GiveBack. It must not be written to.
func (m *Incoming) Bytes() []byte { return m.c.c.RequestBytes(m.v) }

// Room returns the room for the answer, SlotSize bytes of undefined contents beside the request in its slot, valid until Answer.
func (m *Incoming) Room() []byte { return m.c.c.AnswerRoom(m.v) }

// Deliveries returns how many servers took this request before and gave no answer.
func (m *Incoming) Deliveries() int { return m.v.Deliveries() }

// Answer hands the first n bytes of Room to the caller. Errors: *TooLargeError (the request goes on); ErrCallerLeft (nobody waits for the
// answer any more); ErrLost.
func (m *Incoming) Answer(n int) error {
	if limit := m.c.c.SlotSize(); n < 0 || n > limit {
		return &TooLargeError{m.c.name, n, limit}
	}
	return m.end(func() error { return m.c.c.Answer(m.v, n, 0) })
}

// Fail answers with an error, which the caller gets as *CallError. Code must be above 0; a text longer than a slot is cut.
// Errors: as Answer.
func (m *Incoming) Fail(code int32, text string) error {
	if code <= 0 {
		return fmt.Errorf("error with code %d: a code is above 0", code)
	}
	return m.end(func() error { return m.c.fail(m.v, code, text) })
}

// GiveBack gives the request back for another try, by whoever comes first, also if the channel has on_server_death = "fail": then give back only what was not
// begun, and let the rest Fail. After the channel's max_deliveries its caller gets ErrServerDied. Errors: ErrLost; after Answer it does nothing, so it can be deferred.
func (m *Incoming) GiveBack() error {
	return m.end(func() error { return m.c.c.GiveBack(m.v) })
}

func (m *Incoming) end(how func() error) error {
	if m.done {
		return ErrLost
	}
	m.done = true
	defer m.c.s.Release()
	return how()
}

func (c *Call) fail(v protocol.Serving, code int32, text string) error {
	room := c.c.AnswerRoom(v)
	if len(text) > len(room) {
		n := len(room)
		for n > 0 && !utf8.RuneStart(text[n]) {
			n--
		}
		text = text[:n]
	}
	return c.c.Answer(v, copy(room, text), code)
}

// Answer is where a function that Serve calls puts its answer. It is valid until the function returns.
type Answer struct {
	c *Call
	v protocol.Serving
	n int
}

// Room returns the room for the answer, SlotSize bytes beside the request in its slot. SetLen says how many count.
func (a *Answer) Room() []byte { return a.c.c.AnswerRoom(a.v) }

// SetLen sets the length of the answer, 0 at first. Errors: *TooLargeError.
func (a *Answer) SetLen(n int) error {
	if limit := a.c.c.SlotSize(); n < 0 || n > limit {
		return &TooLargeError{a.c.name, n, limit}
	}
	a.n = n
	return nil
}

// Write appends p to the answer. Errors: *TooLargeError, and then nothing was appended.
func (a *Answer) Write(p []byte) (int, error) {
	room := a.Room()
	if limit := len(room); len(p) > limit-a.n {
		return 0, &TooLargeError{a.c.name, a.n + len(p), limit}
	}
	a.n += copy(room[a.n:], p)
	return len(p), nil
}

// Deliveries returns how many servers took this request before and gave no answer.
func (a *Answer) Deliveries() int { return a.v.Deliveries() }

// Serve accepts requests and calls fn with each, one after the other, until ctx ends or the process is asked to quit; several goroutines
// may serve at once. What fn wrote to reply is the answer. An error that fn returns goes to the caller instead: a *CallError as it is, another with
// code 1 and its text. Errors: ctx.Err(), ErrQuit, ErrClosed, *protocol.CorruptError. A panic of fn is to its request what the server's death would be:
// it is served again, or fails, as on_server_death and max_deliveries say.
func (c *Call) Serve(ctx context.Context, fn func(req []byte, reply *Answer) error) error {
	if err := c.r.enter(c.s); err != nil {
		return err
	}
	defer c.s.Release()
	a := &Answer{c: c}
	working, answered := false, false
	defer func() {
		if working {
			c.c.Break(a.v)
		}
	}()
	for {
		err := ctx.Err() // accept looks at it only when it waits
		if err != nil {
			return err
		}
		if c.r.alone && answered {
			c.r.yield(&c.serving, serverUnyielded)
		}
		if a.v, err = c.accept(ctx, a.v.Slot()); err != nil {
			return err
		}
		answered = true
		a.n = 0
		working = true
		err = fn(c.c.RequestBytes(a.v), a)
		working = false
		if err == nil {
			err = c.c.Answer(a.v, a.n, 0)
		} else {
			err = c.fail(a.v, code(err), errText(err))
		}
		if err != nil && !errors.Is(err, ErrCallerLeft) {
			return err
		}
	}
}

// code returns the code with which an error travels.
func code(err error) int32 {
	var e *CallError
	if errors.As(err, &e) && e.Code > 0 && e.Code < math.MaxInt32 { // the largest is protocol.CallCorrupt
		return e.Code
	}
	return codeOther
}

func errText(err error) string {
	var e *CallError
	if errors.As(err, &e) {
		return e.Text
	}
	return err.Error()
}

// manyProcs reports whether spinning can pay at all.
func manyProcs() bool { return runtime.GOMAXPROCS(0) > 1 }
