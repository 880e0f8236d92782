package crashpoint

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// A call channel lies where the queue lies in the other tests.
const (
	callAt   = queueAt
	callRoom = queueRoom
)

// An operation is a whole call, both ends in one process under two ids: the process dies, and the test says whose death that was.
const (
	opCall       = 200 + iota // request, accept, answer, take the reply, leave
	opCallAgain               // the same, and again in the slot that was kept
	opCallCopy                // a call by SendCopy
	opCallBack                // the server gives the request back once
	opCallCancel              // the caller leaves before the request is served
	opCallLate                // the caller leaves while the request is served
	opCallMend                // repair
	opCallServe               // accept and answer alone
	opCallAbort               // request and leave
)

func init() {
	for op, name := range map[uint64]string{opCall: "call", opCallAgain: "two calls", opCallCopy: "call, by SendCopy", opCallBack: "call, given back", opCallCancel: "call, cancelled",
		opCallLate: "call, cancelled while served", opCallMend: "repair", opCallServe: "serve", opCallAbort: "request, abort"} {
		opNames[op] = name
	}
}

var tracedCall *protocol.Call

func openCall(b []byte) *protocol.Call {
	c, err := protocol.OpenCall(b[callAt : callAt+callRoom : callAt+callRoom])
	if err != nil {
		return nil
	}
	return c
}

func warmUpCall(b []byte) {
	copy(b[callAt:], callStates(0, false)[0].image)
	tracedCall = openCall(b)
	for op := uint64(opCall); op <= opCallAbort; op++ {
		set(b, wordOwner, victim)
		set(b, wordFor, second)
		set(b, wordValue, 1)
		operateCall(b, tracedCall, op)
	}
}

// replyTo is what a server answers to v.
func replyTo(v uint64) uint64 { return v ^ 0xabcdef }

// serve takes the oldest request and answers it, or gives it back. It returns what the request was.
func serve(c *protocol.Call, server uint16, back bool) (v uint64, result uint64) {
	s, err := c.TryAccept(server, 0)
	if err != nil {
		return 0, callResult(err)
	}
	v, whole := message(c.RequestBytes(s))
	if !whole {
		return v, resultTorn
	}
	if back {
		return v, callResult(c.GiveBack(s))
	}
	fill(c.AnswerRoom(s), replyTo(v))
	if err := c.Answer(s, length(replyTo(v)), 0); err != nil && !errors.Is(err, protocol.ErrCallerLeft) {
		return v, callResult(err)
	}
	return v, resultOK
}

func callResult(err error) uint64 { return result(err) }

// ask sends a request with q.
func ask(c *protocol.Call, q *protocol.Request, v uint64) error {
	fill(c.RequestRoom(*q), v)
	return c.Send(q, length(v))
}

// collect takes the reply: resultEmpty if there is none.
func collect(c *protocol.Call, q *protocol.Request, v uint64) uint64 {
	settled, err := c.Settled(q)
	if err != nil {
		return callResult(err)
	}
	if !settled {
		return resultEmpty
	}
	p, code, err := c.Reply(*q)
	if err != nil {
		return resultError
	}
	if got, whole := message(p); !whole || got != replyTo(v) || code != 0 {
		return resultTorn
	}
	return resultOK
}

func operateCall(b []byte, c *protocol.Call, op uint64) uint64 {
	caller, server, v := uint16(get(b, wordOwner)), uint16(get(b, wordFor)), get(b, wordValue)
	if op == opCallMend {
		c.Repair(func(o uint16) bool { return o == caller || o == server })
		return resultOK
	}
	if op == opCallServe {
		_, r := serve(c, caller, false)
		return r
	}
	q, err := c.TryRequest(caller, 1)
	if err != nil {
		return callResult(err)
	}
	if op == opCallAbort {
		return callResult(c.Leave(&q))
	}
	for round := range uint64(2) {
		var err error
		if op == opCallCopy {
			var p [64]byte
			fill(p[:], v+round)
			err = c.SendCopy(&q, p[:length(v+round)])
		} else {
			err = ask(c, &q, v+round)
		}
		if err != nil {
			return callResult(err)
		}
		switch op {
		case opCallCancel:
			return callResult(c.Leave(&q))
		case opCallLate:
			s, err := c.TryAccept(server, 0)
			if err != nil {
				return callResult(err)
			}
			if err := c.Leave(&q); err != nil {
				return callResult(err)
			}
			if err := c.Answer(s, 0, 0); err != nil && !errors.Is(err, protocol.ErrCallerLeft) {
				return callResult(err)
			}
			return resultOK
		}
		c.Doze(&q)
		for n := 0; ; n++ { // older requests of others come first
			if r := collect(c, &q, v+round); r != resultEmpty {
				if r != resultOK {
					return r
				}
				break
			}
			if _, r := serve(c, server, op == opCallBack && n == 0); r != resultOK && r != resultEmpty || n > 8 {
				return resultError
			}
		}
		if op != opCallAgain {
			break
		}
	}
	return callResult(c.Leave(&q))
}

// cstate is a call channel as it is before an operation, and what is known about it.
type cstate struct {
	name  string
	slots int
	fail  bool
	start uint64
	image []byte
	back  bool     // the operation gives a request back
	held  int      // slots that live peers keep
	older []uint64 // requests of a live peer that wait
}

func (s *cstate) String() string {
	return fmt.Sprintf("%s, %d slots, tickets from %#x, fail %v", s.name, s.slots, s.start, s.fail)
}

func callStates(start uint64, fail bool) []*cstate {
	var all []*cstate
	for _, k := range []struct {
		name string
		do   func(s *cstate, c *protocol.Call)
	}{
		{"idle, never used", func(s *cstate, c *protocol.Call) {}},
		{"used and idle", func(s *cstate, c *protocol.Call) { check(callLaps(c, s.slots, 2)) }},
		{"a peer's request waits", func(s *cstate, c *protocol.Call) {
			q := must(c.TryRequest(peer, 0))
			check(ask(c, &q, 500))
			s.held, s.older = 1, []uint64{500}
		}},
		{"a peer writes, another is served", func(s *cstate, c *protocol.Call) {
			must(c.TryRequest(peer, 0))
			q := must(c.TryRequest(peer, 0))
			check(ask(c, &q, 501))
			must(c.TryAccept(peer, 0))
			s.held = 2
		}},
		{"a peer keeps its slot", func(s *cstate, c *protocol.Call) {
			q := must(c.TryRequest(peer, 0))
			check(ask(c, &q, 502))
			if _, r := serve(c, peer, false); r != resultOK {
				panic(r)
			}
			s.held = 1
		}},
	} {
		s := &cstate{name: k.name, slots: 4, fail: fail, start: start}
		mem := anonymous()
		h := protocol.Header{Name: "call", Region: "crashpoint", Generation: 1, Created: time.Unix(1, 0)}
		c := must(protocol.FormatCall(mem[callAt:callAt+callRoom], h, protocol.CallOptions{Slots: s.slots, SlotSize: 64, FailOnDeath: fail, Start: start}))
		k.do(s, c)
		s.image = slices.Clone(mem[callAt : callAt+callRoom])
		all = append(all, s)
	}
	return all
}

// callLaps makes calls in n slots at once, several times, and checks that each gets its own answer. Requests of others that wait are served as well.
func callLaps(c *protocol.Call, n, times int) error {
	for lap := range times {
		qs := make([]protocol.Request, n)
		for i := range qs {
			var err error
			if qs[i], err = c.TryRequest(other, uint64(i)); err != nil {
				return fmt.Errorf("stuck: lap %d: slot %d of %d: %w", lap, i, n, err)
			}
			if err := ask(c, &qs[i], uint64(1000+100*lap+i)); err != nil {
				return err
			}
		}
		for {
			if v, r := serve(c, other, false); r == resultEmpty {
				break
			} else if r != resultOK {
				return fmt.Errorf("lap %d: request %d: result %d", lap, v, r)
			}
		}
		for i := range qs {
			if r := collect(c, &qs[i], uint64(1000+100*lap+i)); r != resultOK {
				return fmt.Errorf("lap %d: reply %d: result %d", lap, i, r)
			}
			if err := c.Leave(&qs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// The deaths that a point is judged by. The ids that live on are parked for good.
var callDeaths = []struct {
	name           string
	caller, server bool
}{{"both die", true, true}, {"the caller dies", true, false}, {"the server dies", false, true}}

// judge repairs after a death and says what became of the victim's request: whether it waits (or was served again by then), is answered, or failed.
func (s *cstate) judge(mem []byte, caller, server bool) (string, error) {
	c := openCall(mem)
	dead := func(o uint16) bool { return o == victim && caller || o == second && server }
	c.Repair(dead)
	if err := sound(mem[callAt:], dead); err != nil {
		return "", err
	}
	became, alive := "", 0
	for i := range s.slots { // also those beyond reach
		w := c.SlotAt(i).Word
		if dead(w.Caller()) || dead(w.Server()) {
			return "", fmt.Errorf("the dead are still named: slot %d is %#x, %+v", i, uint64(w), c.Stat())
		}
		if w.Caller() == victim || w.Server() == second {
			alive++
		}
		if w.Caller() == victim {
			became = w.Phase().String()
			if s.fail && server && w.Phase() == protocol.CallPhaseRequest && w.Deliveries() > 0 && !s.back {
				return "", fmt.Errorf("a request whose server died is served again")
			}
			if !s.fail && w.Phase() == protocol.CallPhaseBroken {
				return "", fmt.Errorf("a request whose server died fails")
			}
		}
	}
	// What is left of the victim keeps its slot; all others go round.
	if err := callLaps(c, s.slots-s.held-alive, 3); err != nil {
		return became, err
	}
	c.Repair(func(o uint16) bool { return o == victim || o == second })
	if st := c.Stat(); st.Free != s.slots-s.held {
		return became, fmt.Errorf("a slot leaks: %+v", st)
	}
	return became, nil
}

func callGeometries() (all []*cstate) {
	all = append(all, callStates(0, false)...)
	if !quick() {
		all = append(all, callStates(1<<32-3, true)...)
	}
	if torture() {
		all = append(all, callStates(1<<31-3, false)...)
		all = append(all, callStates(1<<32-3, false)...)
	}
	return all
}

func (x *tracee) beginCall(s *cstate, op uint64, v uint64) {
	s.back = op == opCallBack
	copy(x.mem[callAt:], s.image)
	x.beginFor(op, victim, v, second)
}

// order is how far a call is, by what a server's death leaves of it while its caller lives: it never goes back.
var callOrder = map[string]int{"": 0, "calling": 1, "request": 2, "serving": 2, "answered": 3, "broken": 2}

// TestCallKill kills caller, server or both at every instruction of whole calls, in every state.
func TestCallKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("call, kill")
	for _, s := range callGeometries() {
		for op := uint64(opCall); op <= opCallLate; op++ {
			if op >= opCallLate && len(s.older) > 0 {
				continue // its server takes the older request
			}
			if op == opCallCopy && s.held > 0 && !torture() {
				continue
			}
			x.beginCall(s, op, sent)
			var last uint64
			far := 0
			var where []int
			for i, more := 0, true; more; i++ {
				if h := maphash.Bytes(seed, mem[callAt:callAt+callRoom]); i == 0 || h != last {
					last = h
					for _, d := range callDeaths {
						copy(scratch, mem)
						became, err := s.judge(scratch, d.caller, d.server)
						if err == nil && !d.caller && (op == opCall || op == opCallCopy || op == opCallBack) {
							n := callOrder[became]
							if n < far && became != "" {
								err = fmt.Errorf("the call went back to %q", became)
							}
							far = max(far, n)
						}
						count.point(err, "%s, %s at %d, %s", s, opNames[op], i, d.name)
					}
				} else {
					count.points += len(callDeaths)
				}
				if count.points/len(callDeaths)%everyKill() == 0 && !quick() {
					where = append(where, i)
				}
				more = x.step()
			}
			r, _ := x.finish()
			var err error
			if r != resultOK {
				err = fmt.Errorf("it ends with result %d", r)
			}
			if err == nil {
				copy(scratch, mem)
				_, err = s.judge(scratch, false, false)
			}
			count.point(err, "%s, after %s", s, opNames[op])
			for _, i := range where {
				x.beginCall(s, op, sent)
				x.steps(i)
				x.kill()
				count.killed++
				_, err := s.judge(mem, true, true)
				count.point(err, "%s, %s killed with SIGKILL at %d", s, opNames[op], i)
				x.start()
			}
		}
	}
}

// TestCallRepairKilled kills the repair of such a death at every instruction, and repairs again.
func TestCallRepairKilled(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("call, repair killed")
	seen := map[uint64]bool{}
	for k, s := range callGeometries() {
		if !torture() && k != 1 && k != 7 {
			continue
		}
		for op := uint64(opCall); op <= opCallLate; op++ {
			x.beginCall(s, op, sent)
			var dying [][]byte
			for more := true; more; more = x.step() {
				if h := maphash.Bytes(seed, mem[callAt:callAt+callRoom]); !seen[h] && openCall(mem).Holds(func(o uint16) bool { return o == victim || o == second }) {
					seen[h] = true
					dying = append(dying, slices.Clone(mem[callAt:callAt+callRoom]))
				}
			}
			x.finish()
			for n, image := range dying {
				copy(mem[callAt:], image)
				x.beginFor(opCallMend, victim, 0, second)
				var last uint64
				for j, more := 0, true; more; j++ {
					if h := maphash.Bytes(seed, mem[callAt:callAt+callRoom]); j == 0 || h != last {
						last = h
						copy(scratch, mem)
						_, err := s.judge(scratch, true, true)
						count.point(err, "%s, %s, image %d, repair killed at %d", s, opNames[op], n, j)
					} else {
						count.points++
					}
					more = x.step()
				}
				x.finish()
			}
		}
	}
}

// TestCallParked stops caller and server at every instruction, lets their peers make calls, and then go on: they get their own answer, from whoever
// served them.
func TestCallParked(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("call, parked")
	for _, s := range callGeometries() {
		for op := uint64(opCall); op <= opCallBack; op++ {
			x.beginCall(s, op, sent)
			x.everyPoint(func(i int) {
				c := openCall(mem)
				err := callLaps(c, s.slots-s.held-1, 3) // one is the parked process's, or will be
				r, _ := x.finish()
				if err == nil && r != resultOK {
					err = fmt.Errorf("it ends with result %d", r)
				}
				if err == nil {
					_, err = s.judge(mem, false, false)
				}
				count.point(err, "%s, %s parked at %d", s, opNames[op], i)
			})
		}
	}
}

// TestCallPairs parks one process at every instruction of a call, kills another, which is caller and server as well, at every instruction of its own (those
// that leave the same memory count as one), repairs that death, and lets the first go on.
func TestCallPairs(t *testing.T) {
	f, mem := memfd(t)
	a, b := newTracee(t, f, mem), newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("call, pairs")
	covered := 0
	defer func() { t.Logf("call, pairs: these stand for %d pairs of instructions", covered) }()
	const callerB, serverB = 10, 11
	for k, s := range callGeometries() {
		if k != 1 && !(torture() && k < 5) {
			continue
		}
		ops := []uint64{opCall}
		if torture() {
			ops = []uint64{opCall, opCallBack, opCallCancel}
		}
		for _, opB := range ops {
			a.beginCall(s, opCall, sent)
			var z frozen
			type killed struct {
				images [][]byte
				points int
			}
			known := map[uint64]killed{}
			a.everyPoint(func(i int) {
				a.freeze(&z)
				h := maphash.Bytes(seed, mem[callAt:callAt+callRoom])
				kb, ok := known[h]
				if !ok {
					seen := map[uint64]bool{}
					b.beginFor(opB, callerB, sent+1, serverB)
					for more := true; more; more = b.step() {
						kb.points++
						if h := maphash.Bytes(seed, mem[callAt:callAt+callRoom]); !seen[h] {
							seen[h] = true
							kb.images = append(kb.images, slices.Clone(mem[callAt:callAt+callRoom]))
						}
					}
					b.finish()
					known[h] = kb
					copy(mem[:controlSize], z.mem)
				}
				covered += kb.points
				for j, image := range kb.images {
					if j > 0 {
						a.thaw(&z)
					}
					copy(mem[callAt:], image)
					c := openCall(mem)
					c.Repair(func(o uint16) bool { return o == callerB || o == serverB })
					r, _ := a.finish()
					var err error
					if r != resultOK {
						err = fmt.Errorf("it ends with result %d", r)
					} else {
						_, err = s.judge(mem, false, false)
					}
					count.point(err, "%s, call parked at %d, %s killed at image %d", s, i, opNames[opB], j)
				}
			})
		}
	}
}
