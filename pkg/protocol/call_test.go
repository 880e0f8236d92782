package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// failer is a testing.TB or a rapid.T.
type failer interface {
	Helper()
	Fatal(...any)
}

func newCall(t failer, o CallOptions) *Call {
	t.Helper()
	size, err := CallSize(o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := FormatCall(heap(size), header("calls"), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// callOne sends v from caller.
func callOne(t testing.TB, c *Call, caller uint16, v uint64) Request {
	t.Helper()
	q, err := c.TryRequest(caller, 0)
	if err != nil {
		t.Fatal(err)
	}
	if v%2 == 0 {
		err = c.SendCopy(&q, binary.LittleEndian.AppendUint64(nil, v))
	} else {
		binary.LittleEndian.PutUint64(c.RequestRoom(q), v)
		err = c.Send(&q, 8)
	}
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// accept takes the next request and returns what it says.
func accept(t testing.TB, c *Call, server uint16) (Serving, uint64) {
	t.Helper()
	v, err := c.TryAccept(server, 0)
	if err != nil {
		t.Fatal(err)
	}
	return v, binary.LittleEndian.Uint64(c.RequestBytes(v))
}

// answerOf is what a server answers to v.
func answerOf(v uint64) uint64 { return v*0x9e3779b97f4a7c15 ^ 0x5bd1e995 }

func answer(c *Call, s Serving, v uint64) error {
	binary.LittleEndian.PutUint64(c.AnswerRoom(s), answerOf(v))
	return c.Answer(s, 8, 0)
}

func TestCallWord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := CallPhase(rapid.IntRange(0, 15).Draw(t, "phase"))
		caller, server := rapid.Uint16().Draw(t, "caller"), rapid.Uint16().Draw(t, "server")
		n := rapid.IntRange(0, 63).Draw(t, "deliveries")
		seq := rapid.Uint32Range(0, callSeqMask).Draw(t, "seq")
		w := MakeCallWord(p, caller, server, n, seq)
		if w.Asleep() {
			t.Error("asleep")
		}
		for _, w := range []CallWord{w, w | callAsleepBit} {
			if w.Phase() != p || w.Caller() != caller || w.Server() != server || w.Deliveries() != n || w.Seq() != seq {
				t.Errorf("%#x: %v %d %d %d %d", w, w.Phase(), w.Caller(), w.Server(), w.Deliveries(), w.Seq())
			}
		}
		if v := (w | callAsleepBit).with(CallPhaseServing, 1, 2); !v.Asleep() || v.Seq() != seq || v.Deliveries() != n || v.Caller() != 1 || v.Server() != 2 {
			t.Errorf("with: %#x", v)
		}
	})
}

func TestCallGeometry(t *testing.T) {
	for _, o := range []CallOptions{{Slots: 3, SlotSize: 8}, {Slots: 1, SlotSize: 8}, {Slots: 1 << 21, SlotSize: 8}, {Slots: 2}, {Slots: 2, SlotSize: 1<<30 + 1}, {Slots: 2, SlotSize: 8, MaxDeliveries: 64}} {
		if _, err := CallSize(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	for _, size := range []int{1, 7, 8, 31, 32, 33, 64, 1000, 4096, 64 << 10, 1 << 20} {
		c := newCall(t, CallOptions{Slots: 2, SlotSize: size})
		if c.Slots() != 2 || c.SlotSize() != size || c.stride%64 != 0 || size >= 64<<10 && c.stride%4096 != 0 {
			t.Errorf("size %d: %d slots of %d, stride %d", size, c.Slots(), c.SlotSize(), c.stride)
		}
		for n := 0; n <= size; n += max(1, size/97) { // the reply lies behind the request and within the slot
			at := callReplyAt(n)
			if at < SizeofCallSlot+uint64(n) || at%8 != 0 || at >= 64 && at%64 != 0 || at+uint64(size) > c.stride {
				t.Fatalf("size %d, request of %d bytes: reply at %d", size, n, at)
			}
		}
	}
	for field, v := range map[int64]uint32{OffsetofCallInfoSlots: 3, OffsetofCallInfoSlotSize: 0, OffsetofCallInfoStride: 64, OffsetofCallInfoSlotsOffset: 64, OffsetofCallInfoMaxDeliveries: 64} {
		c := newCall(t, CallOptions{Slots: 2, SlotSize: 64})
		binary.LittleEndian.PutUint32(c.b[bodyOffset+field:], v)
		var corrupt *CorruptError
		if _, err := OpenCall(c.b); !errors.As(err, &corrupt) {
			t.Errorf("field %d = %d: %v", field, v, err)
		}
	}
	if _, err := OpenCall(newQueue(t, QueueOptions{Slots: 2, SlotSize: 8}).b); !errors.As(err, new(*KindError)) {
		t.Errorf("a queue opened as a call channel: %v", err)
	}
}

func TestCallSizes(t *testing.T) {
	c := newCall(t, CallOptions{Slots: 2, SlotSize: 100})
	for n := 0; n <= 100; n++ {
		q, err := c.TryRequest(2, 0)
		if err != nil {
			t.Fatal(err)
		}
		req := bytes.Repeat([]byte{byte(n + 1)}, n)
		copy(c.RequestRoom(q), req)
		if err := c.Send(&q, n); err != nil {
			t.Fatal(err)
		}
		v, err := c.TryAccept(3, 1)
		if err != nil || !bytes.Equal(c.RequestBytes(v), req) {
			t.Fatalf("%d bytes: %x, %v", n, c.RequestBytes(v), err)
		}
		reply := bytes.Repeat([]byte{byte(200 - n)}, 100-n)
		copy(c.AnswerRoom(v), bytes.Repeat([]byte{0xff}, 100))
		copy(c.AnswerRoom(v), reply)
		if !bytes.Equal(c.RequestBytes(v), req) {
			t.Fatalf("%d bytes: the answer lies over the request", n)
		}
		if err := c.Answer(v, 100-n, 7); err != nil {
			t.Fatal(err)
		}
		if settled, err := c.Settled(&q); !settled || err != nil {
			t.Fatal(settled, err)
		}
		if p, code, err := c.Reply(q); err != nil || code != 7 || !bytes.Equal(p, reply) {
			t.Fatalf("%d bytes back: %x, %d, %v", 100-n, p, code, err)
		}
		if err := c.Leave(&q); err != nil {
			t.Fatal(err)
		}
	}
	q, _ := c.TryRequest(2, 0)
	if err := c.Send(&q, 101); err == nil || !strings.Contains(err.Error(), "holds 100") {
		t.Errorf("a request of 101 bytes: %v", err)
	}
	if err := c.SendCopy(&q, make([]byte, 101)); err == nil || !strings.Contains(err.Error(), "holds 100") {
		t.Errorf("a copy of 101 bytes: %v", err)
	}
	if err := c.Send(&q, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.SendCopy(&q, nil); !errors.Is(err, ErrLost) {
		t.Errorf("a copy sent beside a request: %v", err)
	}
	v, _ := c.TryAccept(3, 0)
	if err := c.Answer(v, 101, 0); err == nil || !strings.Contains(err.Error(), "holds 100") {
		t.Errorf("an answer of 101 bytes: %v", err)
	}
	if err := c.Answer(v, 0, -1); err == nil {
		t.Error("an answer with code -1 was accepted")
	}
	if err := c.Answer(v, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Answer(v, 0, 0); !errors.Is(err, ErrLost) {
		t.Errorf("answered twice: %v", err)
	}
}

// Requests come in the order in which they were sent, whichever slots they lie in and wherever the server looks first; also across
// the wrap of the tickets.
func TestCallOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.SampledFrom([]uint64{0, 1<<31 - 5, 1<<32 - 5}).Draw(t, "start")
		c := newCall(t, CallOptions{Slots: 8, SlotSize: 8, Start: start})
		free := rapid.Permutation([]uint64{0, 1, 2, 3, 4, 5, 6, 7}).Draw(t, "slots")
		var qs []Request
		for i := range free {
			q, err := c.TryRequest(2, free[i])
			if err != nil {
				t.Fatal(err)
			}
			qs = append(qs, q)
		}
		order := rapid.Permutation([]int{0, 1, 2, 3, 4, 5, 6, 7}).Draw(t, "order")
		for _, k := range order {
			binary.LittleEndian.PutUint64(c.RequestRoom(qs[k]), uint64(k))
			if err := c.Send(&qs[k], 8); err != nil {
				t.Fatal(err)
			}
		}
		for _, k := range order {
			v, err := c.TryAccept(3, rapid.Uint64Range(0, 9).Draw(t, "from"))
			if err != nil {
				t.Fatal(err)
			}
			if got := binary.LittleEndian.Uint64(c.RequestBytes(v)); got != uint64(k) {
				t.Fatalf("got %d, want %d of %v", got, k, order)
			}
		}
	})
}

// What a slot is at each death, and after the repair.
func TestCallDeaths(t *testing.T) {
	const caller, server, other = 2, 3, 4
	for _, fail := range []bool{false, true} {
		c := newCall(t, CallOptions{Slots: 2, SlotSize: 8, MaxDeliveries: 2, FailOnDeath: fail})
		free := func(what string) {
			t.Helper()
			if st := c.Stat(); st.Free != 2 || c.Holds(func(o uint16) bool { return true }) {
				t.Fatalf("%s: %+v", what, st)
			}
		}
		c.TryRequest(caller, 0)
		c.Repair(only(caller))
		free("caller died before Send")
		callOne(t, c, caller, 1)
		c.Repair(only(caller))
		free("caller died with a request")
		callOne(t, c, caller, 1)
		v, _ := accept(t, c, server)
		c.Repair(only(caller))
		if st := c.Stat(); st.InService != 1 {
			t.Fatalf("caller died while served: %+v", st)
		}
		if err := answer(c, v, 1); !errors.Is(err, ErrCallerLeft) {
			t.Fatal(err)
		}
		free("answer to a dead caller")
		callOne(t, c, caller, 1)
		accept(t, c, server)
		c.Repair(only(caller))
		c.Repair(only(server))
		free("both died, the caller first")
		callOne(t, c, caller, 1)
		accept(t, c, server)
		c.Repair(func(o uint16) bool { return o == caller || o == server })
		free("both died")
		callOne(t, c, caller, 1)
		v, _ = accept(t, c, server)
		answer(c, v, 1)
		c.Repair(only(caller))
		free("caller died with a reply")

		q := callOne(t, c, caller, 5)
		accept(t, c, server)
		c.Repair(only(server))
		if !fail {
			v, n := accept(t, c, other)
			if n != 5 || v.Deliveries() != 1 {
				t.Fatalf("request %d after a death, delivered %d times before", n, v.Deliveries())
			}
			c.Repair(only(other))
		}
		if settled, err := c.Settled(&q); !settled || err != nil {
			t.Fatal(settled, err)
		}
		if _, _, err := c.Reply(q); !errors.Is(err, ErrServerDied) {
			t.Fatal(err)
		}
		// The slot is good for another request.
		if err := c.Send(&q, 0); err != nil {
			t.Fatal(err)
		}
		if v, err := c.TryAccept(server, 0); err != nil || v.Deliveries() != 0 || c.Answer(v, 0, 0) != nil {
			t.Fatal(v, err)
		}
		c.Leave(&q)
		free("after all")
	}
}

// A request that a hostile peer damaged is told to its caller and to the server.
func TestCallDamage(t *testing.T) {
	c := newCall(t, CallOptions{Slots: 2, SlotSize: 64})
	q := callOne(t, c, 2, 1)
	c.slot(q.slot).Request.Store(65 << 32)
	var corrupt *CorruptError
	if _, err := c.TryAccept(3, 0); !errors.As(err, &corrupt) || corrupt.Offset != int64(c.offset)+OffsetofCallSlotRequest {
		t.Fatal(err)
	}
	if settled, err := c.Settled(&q); !settled || err != nil {
		t.Fatal(settled, err)
	}
	if p, code, err := c.Reply(q); code != CallCorrupt || err != nil || len(p) == 0 {
		t.Fatal(string(p), code, err)
	}
	long, err := c.TryRequest(2, 1) // whose answers lie elsewhere
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SendCopy(&long, make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	c.slot(long.slot).Request.Store(65 << 32)
	if _, err := c.TryAccept(3, 0); !errors.As(err, &corrupt) {
		t.Fatal(err)
	}
	if settled, err := c.Settled(&long); !settled || err != nil {
		t.Fatal(settled, err)
	}
	if p, code, err := c.Reply(long); code != CallCorrupt || err != nil || !strings.Contains(string(p), "damaged") {
		t.Errorf("%q, %d, %v", p, code, err)
	}
	c.slot(q.slot).Reply.Store(65 << 32)
	if _, _, err := c.Reply(q); !errors.As(err, &corrupt) {
		t.Fatal(err)
	}
	c.info.Reach.Store(1 << 40)
	if st := c.Stat(); st.Reach != 2 {
		t.Errorf("reach %d", st.Reach)
	}
}

// callMachine compares a call channel with a plain list of calls.
type callMachine struct {
	c     *Call
	fail  bool
	max   int
	ids   uint16
	value uint64
	calls []*modelCall
}

type modelCall struct {
	q              Request
	v              Serving
	value          uint64
	caller, server uint16 // 0: none
	state          string // calling, request, serving, answered, broken
	died           int
	order          int
}

func (m *callMachine) pick(t *rapid.T, what string, ok func(*modelCall) bool) *modelCall {
	var some []*modelCall
	for _, x := range m.calls {
		if ok(x) {
			some = append(some, x)
		}
	}
	if len(some) == 0 {
		t.Skip("none")
	}
	return rapid.SampledFrom(some).Draw(t, what)
}

func (m *callMachine) drop(x *modelCall) {
	m.calls = slices.DeleteFunc(m.calls, func(y *modelCall) bool { return y == x })
}

func in(states ...string) func(*modelCall) bool {
	return func(x *modelCall) bool { return slices.Contains(states, x.state) && x.caller != 0 }
}

func TestCallMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &callMachine{fail: rapid.Bool().Draw(t, "fail"), max: rapid.IntRange(0, 3).Draw(t, "max"), ids: 10}
		start := rapid.SampledFrom([]uint64{0, 1<<31 - 9, 1<<32 - 9}).Draw(t, "start")
		slots := rapid.SampledFrom([]int{2, 4}).Draw(t, "slots")
		m.c = newCall(t, CallOptions{Slots: slots, SlotSize: 8, MaxDeliveries: m.max, FailOnDeath: m.fail, Start: start})
		c := m.c
		order := 0
		t.Repeat(map[string]func(*rapid.T){
			"request": func(t *rapid.T) {
				caller := uint16(rapid.IntRange(2, 4).Draw(t, "caller"))
				q, err := c.TryRequest(caller, rapid.Uint64Range(0, 5).Draw(t, "from"))
				if (err == nil) != (len(m.calls) < slots) || err != nil && err != ErrFull {
					t.Fatalf("%d calls in %d slots: %v", len(m.calls), slots, err)
				}
				if err == nil {
					m.calls = append(m.calls, &modelCall{q: q, caller: caller, state: "calling"})
				}
			},
			"send": func(t *rapid.T) {
				x := m.pick(t, "call", in("calling", "answered", "broken"))
				m.value++
				order++
				x.value, x.order, x.state, x.died = m.value, order, "request", 0
				binary.LittleEndian.PutUint64(c.RequestRoom(x.q), x.value)
				if err := c.Send(&x.q, 8); err != nil {
					t.Fatal(err)
				}
			},
			"accept": func(t *rapid.T) {
				server := uint16(rapid.IntRange(5, 7).Draw(t, "server"))
				v, err := c.TryAccept(server, rapid.Uint64Range(0, 5).Draw(t, "from"))
				var first *modelCall
				for _, x := range m.calls {
					if x.state == "request" && (first == nil || x.order < first.order) {
						first = x
					}
				}
				if first == nil {
					if err != ErrEmpty {
						t.Fatal(err)
					}
					return
				}
				if err != nil || v.slot != first.q.slot || binary.LittleEndian.Uint64(c.RequestBytes(v)) != first.value || v.Deliveries() != first.died {
					t.Fatalf("accepted %+v, %v, want %+v", v, err, first)
				}
				first.v, first.server, first.state = v, server, "serving"
			},
			"answer": func(t *rapid.T) {
				x := m.pick(t, "call", func(x *modelCall) bool { return x.state == "serving" })
				binary.LittleEndian.PutUint64(c.AnswerRoom(x.v), answerOf(x.value))
				err := c.Answer(x.v, 8, 0)
				x.server, x.state = 0, "answered"
				if x.caller == 0 {
					if err != ErrCallerLeft {
						t.Fatal(err)
					}
					m.drop(x)
				} else if err != nil {
					t.Fatal(err)
				}
			},
			"give back": func(t *rapid.T) {
				x := m.pick(t, "call", func(x *modelCall) bool { return x.state == "serving" })
				if err := c.GiveBack(x.v); err != nil {
					t.Fatal(err)
				}
				m.back(x, false)
			},
			"doze": func(t *rapid.T) {
				x := m.pick(t, "call", in("request", "serving", "answered", "broken"))
				_, _, ok := c.Doze(&x.q)
				if ok != (x.state == "request" || x.state == "serving") {
					t.Fatalf("doze in state %s: %v", x.state, ok)
				}
			},
			"leave": func(t *rapid.T) {
				x := m.pick(t, "call", func(x *modelCall) bool { return x.caller != 0 })
				q := x.q
				if err := c.Leave(&q); err != nil {
					t.Fatal(err)
				}
				m.left(x)
			},
			"die": func(t *rapid.T) {
				id := uint16(rapid.IntRange(2, 7).Draw(t, "id"))
				c.Repair(only(id))
				if c.Holds(only(id)) {
					t.Fatalf("%d is still named", id)
				}
				for _, x := range slices.Clone(m.calls) {
					if x.server == id {
						m.back(x, true)
					} else if x.caller == id {
						m.left(x)
					}
				}
			},
			"": func(t *rapid.T) {
				want := map[string]int{}
				for _, x := range m.calls {
					want[x.state]++
					if x.caller == 0 {
						continue
					}
					settled, err := c.Settled(&x.q)
					if err != nil && x.state != "calling" || settled != (x.state == "answered" || x.state == "broken") {
						t.Fatalf("%+v: settled %v, %v", x, settled, err)
					}
					if x.state == "answered" {
						if p, code, err := c.Reply(x.q); err != nil || code != 0 || binary.LittleEndian.Uint64(p) != answerOf(x.value) {
							t.Fatalf("reply to %d: %x, %d, %v", x.value, p, code, err)
						}
					}
				}
				st := c.Stat()
				got := map[string]int{"calling": st.Calling, "request": st.Waiting, "serving": st.InService, "answered": st.Answered, "broken": st.Broken}
				maps.DeleteFunc(got, func(_ string, n int) bool { return n == 0 })
				if !maps.Equal(got, want) || st.Free != slots-len(m.calls) {
					t.Fatalf("%v, %d free, want %v", got, st.Free, want)
				}
			},
		})
	})
}

// back is what becomes of a call whose server gave no answer.
func (m *callMachine) back(x *modelCall, died bool) {
	x.server = 0
	x.died++
	switch {
	case x.caller == 0:
		m.drop(x)
	case died && m.fail, m.max > 0 && x.died >= m.max:
		x.state = "broken"
	default:
		x.state = "request"
	}
}

// left is what becomes of a call whose caller left.
func (m *callMachine) left(x *modelCall) {
	if x.state == "serving" {
		x.caller = 0
		return
	}
	m.drop(x)
}

func (x *modelCall) String() string {
	return fmt.Sprintf("{%s, value %d, caller %d, server %d, order %d, died %d}", x.state, x.value, x.caller, x.server, x.order, x.died)
}
