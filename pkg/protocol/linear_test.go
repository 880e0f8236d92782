package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// What a history is made of. A send that found the queue full is not recorded: full is a hint (a slot elsewhere may be free).
type queueInput struct {
	op string // send, receive, nack
	v  uint64 // of send and nack
}

// queueOutput is a receive's: a value, or that the queue is empty.
type queueOutput struct {
	v     uint64
	empty bool
}

// bag is what several producers and consumers see: receive returns any message that is there, and empty only if none is.
var bag = porcupine.Model{
	Init: func() any { return []uint64(nil) },
	Step: func(state, input, output any) (bool, any) {
		s, in := state.([]uint64), input.(queueInput)
		switch in.op {
		case "send", "nack":
			s = slices.Clone(s)
			s = append(s, in.v)
			slices.Sort(s)
			return true, s
		}
		out := output.(queueOutput)
		if out.empty {
			return len(s) == 0, s
		}
		i := slices.Index(s, out.v)
		if i < 0 {
			return false, s
		}
		return true, slices.Delete(slices.Clone(s), i, i+1)
	},
	Equal: func(a, b any) bool { return slices.Equal(a.([]uint64), b.([]uint64)) },
}

// fifo is what one producer and one consumer see: the messages in order.
var fifo = porcupine.Model{
	Init: bag.Init,
	Step: func(state, input, output any) (bool, any) {
		s, in := state.([]uint64), input.(queueInput)
		if in.op == "send" {
			return true, append(slices.Clone(s), in.v)
		}
		out := output.(queueOutput)
		if out.empty {
			return len(s) == 0, s
		}
		return len(s) > 0 && s[0] == out.v, s[min(1, len(s)):]
	},
	Equal: bag.Equal,
}

// An end is what a Queue and a Lane have in common.
type end interface {
	TryLoan(owner uint16) (Loan, error)
	Commit(l Loan, n int) error
	TryReceive(owner uint16) (Lease, error)
	Ack(l Lease) error
	Nack(l Lease) error
}

// record runs producers and consumers on a queue, through in and out, and returns what they saw. Consumers give some messages back.
func record(t *testing.T, q *Queue, in, out end, producers, consumers, each int, nacks bool) []porcupine.Operation {
	var mu sync.Mutex
	var history []porcupine.Operation
	begin := time.Now()
	note := func(client int, in queueInput, call time.Time, out queueOutput) {
		end := time.Now()
		mu.Lock()
		defer mu.Unlock()
		history = append(history, porcupine.Operation{ClientId: client, Input: in, Call: call.Sub(begin).Nanoseconds(), Output: out, Return: end.Sub(begin).Nanoseconds()})
	}
	var wg, sending sync.WaitGroup
	sent := make(chan struct{})
	for p := range producers {
		sending.Go(func() {
			for i := range each {
				v := uint64(p*each + i)
				for {
					call := time.Now()
					l, err := in.TryLoan(uint16(2 + p))
					if err == nil {
						binary.LittleEndian.PutUint64(q.LoanBytes(l), v)
						if err := in.Commit(l, 8); err != nil {
							t.Error(err)
						}
						note(p, queueInput{"send", v}, call, queueOutput{})
						break
					}
					runtime.Gosched()
				}
			}
		})
	}
	for c := range consumers {
		wg.Go(func() {
			owner := uint16(100 + c)
			for n, empties := 0, 0; ; n++ {
				call := time.Now()
				l, err := out.TryReceive(owner)
				if errors.Is(err, ErrEmpty) {
					if empties++; empties <= 10 { // a few are enough; the more, the longer the check
						note(producers+c, queueInput{op: "receive"}, call, queueOutput{empty: true})
					}
					select {
					case <-sent:
						if q.Stat().Depth() == 0 {
							return
						}
					default:
					}
					runtime.Gosched()
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				v := binary.LittleEndian.Uint64(q.LeaseBytes(l))
				note(producers+c, queueInput{op: "receive"}, call, queueOutput{v: v})
				if nacks && n%4 == 3 && l.Deliveries() < 2 {
					call := time.Now()
					if err := out.Nack(l); err != nil {
						t.Error(err)
					}
					note(producers+c, queueInput{"nack", v}, call, queueOutput{})
					continue
				}
				if err := out.Ack(l); err != nil {
					t.Error(err)
				}
			}
		})
	}
	sending.Wait()
	close(sent)
	wg.Wait()
	return history
}

func TestQueueIsLinearizable(t *testing.T) {
	for _, c := range []struct {
		name                 string
		producers, consumers int
		each                 int
		model                porcupine.Model
	}{
		{"fifo 1:1", 1, 1, 60, fifo},
		{"bag 2:2", 2, 2, 25, bag},
		{"bag 3:2", 3, 2, 15, bag},
	} {
		t.Run(c.name, func(t *testing.T) {
			for round := range 30 {
				slots := 2 << (round % 3)
				q := newQueue(t, QueueOptions{Slots: slots, SlotSize: 8, Start: starts(slots)[round%4]})
				history := record(t, q, q, q, c.producers, c.consumers, c.each, c.producers > 1)
				switch porcupine.CheckOperationsTimeout(c.model, history, 20*time.Second) {
				case porcupine.Illegal:
					t.Fatalf("round %d, %d slots: no order of these %d operations explains what was seen:\n%s", round, slots, len(history), describe(history))
				case porcupine.Unknown:
					t.Logf("round %d: %d operations were too many to check", round, len(history))
				}
			}
		})
	}
}

func TestLaneIsLinearizable(t *testing.T) {
	for round := range 30 {
		slots := 2 << (round % 3)
		l := newLane(t, QueueOptions{Slots: slots, SlotSize: 8, Start: starts(slots)[round%4]})
		history := record(t, l.q, l, l.peer(t), 1, 1, 60, false)
		if porcupine.CheckOperationsTimeout(fifo, history, 20*time.Second) == porcupine.Illegal {
			t.Fatalf("round %d, %d slots: no order of these %d operations explains what was seen:\n%s", round, slots, len(history), describe(history))
		}
	}
}

func describe(history []porcupine.Operation) string {
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var s string
	for _, o := range history {
		s += fmt.Sprintf("%8d-%8d client %d %+v %+v\n", o.Call, o.Return, o.ClientId, o.Input, o.Output)
	}
	return s
}
