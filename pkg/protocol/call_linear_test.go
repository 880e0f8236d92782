package protocol

import (
	"encoding/binary"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// counter is a service that adds and tells what it had before.
var counter = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		n := state.(uint64)
		return output.(uint64) == n, n + input.(uint64)
	},
}

// doCall makes a call and spins for the answer.
func doCall(t *testing.T, c *Call, q *Request, v uint64) (uint64, error) {
	binary.LittleEndian.PutUint64(c.RequestRoom(*q), v)
	if err := c.Send(q, 8); err != nil {
		return 0, err
	}
	for {
		settled, err := c.Settled(q)
		if err != nil {
			return 0, err
		}
		if settled {
			p, _, err := c.Reply(*q)
			if err != nil {
				return 0, err
			}
			return binary.LittleEndian.Uint64(p), nil
		}
		runtime.Gosched()
	}
}

// TestCallIsLinearizable records what callers of a counter see: with one lock in the service itself, there must be one order of the calls
// that explains every answer. A reply to another's request, or one of the slot's last user, has none.
func TestCallIsLinearizable(t *testing.T) {
	for round := range 40 {
		callers, servers, slots := 1+round%4, 1+round%3, 2<<(round%2)
		c := newCall(t, CallOptions{Slots: slots, SlotSize: 8, Start: []uint64{0, 1<<31 - 20, 1<<32 - 20}[round%3]})
		var mu sync.Mutex
		var history []porcupine.Operation
		var total atomic.Uint64
		var done atomic.Bool
		begin := time.Now()
		var calling, serving sync.WaitGroup
		for s := range servers {
			serving.Go(func() {
				var from uint64
				for !done.Load() {
					v, err := c.TryAccept(uint16(100+s), from)
					if err == ErrEmpty {
						runtime.Gosched()
						continue
					} else if err != nil {
						t.Error(err)
						return
					}
					from = v.Slot()
					n := binary.LittleEndian.Uint64(c.RequestBytes(v))
					binary.LittleEndian.PutUint64(c.AnswerRoom(v), total.Add(n)-n)
					if err := c.Answer(v, 8, 0); err != nil && !errors.Is(err, ErrCallerLeft) {
						t.Error(err)
						return
					}
				}
			})
		}
		for i := range callers {
			calling.Go(func() {
				for k := range uint64(30) {
					q, err := c.TryRequest(uint16(2+i), k)
					if err != nil { // full
						runtime.Gosched()
						continue
					}
					for range 1 + k%3 { // the slot is used again
						call := time.Since(begin).Nanoseconds()
						n := uint64(i)<<40 + k + 1
						got, err := doCall(t, c, &q, n)
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						history = append(history, porcupine.Operation{ClientId: i, Input: n, Call: call, Output: got, Return: time.Since(begin).Nanoseconds()})
						mu.Unlock()
					}
					c.Leave(&q)
				}
			})
		}
		calling.Wait()
		done.Store(true)
		serving.Wait()
		switch porcupine.CheckOperationsTimeout(counter, history, 20*time.Second) {
		case porcupine.Illegal:
			t.Fatalf("round %d: no order of these %d calls explains what was seen:\n%s", round, len(history), describe(history))
		case porcupine.Unknown:
			t.Logf("round %d: %d calls were too many to check", round, len(history))
		}
		if st := c.Stat(); st.Free != slots {
			t.Fatalf("round %d: a slot is left: %+v", round, st)
		}
	}
}

// TestCallAtLeastOnce lets servers and callers die at any of the steps that the protocol has, each time under an id of its own, and repairs. Every
// answer is that to its own request; a request is served once for each server that took it, so once if none died; no slot leaks.
func TestCallAtLeastOnce(t *testing.T) {
	const slots, callers, servers, each = 4, 3, 3, 400
	c := newCall(t, CallOptions{Slots: slots, SlotSize: 8})
	var ids atomic.Uint32
	ids.Store(10)
	next := func() uint16 { return uint16(ids.Add(1)) }
	var done atomic.Bool
	var served [callers * each]atomic.Int32
	var died, answered atomic.Int64
	var calling, serving sync.WaitGroup
	for s := range servers {
		serving.Go(func() {
			id := next()
			for n := s; !done.Load(); n++ {
				v, err := c.TryAccept(id, uint64(n))
				if err == ErrEmpty {
					runtime.Gosched()
					continue
				} else if err != nil {
					t.Error(err)
					return
				}
				req := binary.LittleEndian.Uint64(c.RequestBytes(v))
				if n%5 != 0 {
					served[req].Add(1)
					binary.LittleEndian.PutUint64(c.AnswerRoom(v), answerOf(req))
				}
				if n%5 == 0 || n%7 == 0 { // dies before it has done it, or after
					died.Add(1)
					c.Repair(only(id))
					id = next()
					continue
				}
				if err := c.Answer(v, 8, 0); err != nil && !errors.Is(err, ErrCallerLeft) {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range callers {
		calling.Go(func() {
			id := next()
			for k := range each {
				var q Request
				for {
					var err error
					if q, err = c.TryRequest(id, uint64(k)); err == nil {
						break
					}
					runtime.Gosched()
				}
				v := uint64(i*each + k)
				switch {
				case k%11 == 3: // dies with a request
					binary.LittleEndian.PutUint64(c.RequestRoom(q), v)
					if err := c.Send(&q, 8); err != nil {
						t.Error(err)
					}
					if k%2 == 0 {
						runtime.Gosched()
					}
					c.Repair(only(id))
					id = next()
					continue
				case k%11 == 7: // gives up
					binary.LittleEndian.PutUint64(c.RequestRoom(q), v)
					if err := c.Send(&q, 8); err != nil {
						t.Error(err)
					}
					runtime.Gosched()
				default:
					got, err := doCall(t, c, &q, v)
					if err != nil || got != answerOf(v) {
						t.Errorf("call %d: %d, %v", v, got, err)
						return
					}
					answered.Add(1)
					if served[v].Load() == 0 {
						t.Errorf("call %d was answered and not served", v)
					}
				}
				if err := c.Leave(&q); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calling.Wait()
	for c.Stat().InService+c.Stat().Waiting > 0 { // what was given up while it was served
		runtime.Gosched()
	}
	done.Store(true)
	serving.Wait()
	if st := c.Stat(); st.Free != slots {
		t.Errorf("a slot is left: %+v", st)
	}
	var more int64
	for i := range served {
		more += int64(max(served[i].Load()-1, 0))
	}
	if more > died.Load() || died.Load() == 0 || answered.Load() == 0 {
		t.Errorf("%d calls were served again, with %d deaths; %d answers", more, died.Load(), answered.Load())
	}
}
