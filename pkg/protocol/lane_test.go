package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/shmd/shmd/internal/sys"
)

func newLane(t testing.TB, o QueueOptions) *Lane {
	t.Helper()
	o.Lane = true
	l, err := NewLane(newQueue(t, o))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// peer returns what another process sees of the same memory.
func (l *Lane) peer(t testing.TB) *Lane {
	t.Helper()
	q, err := OpenQueue(l.q.b)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewLane(q)
	if err != nil {
		t.Fatal(err)
	}
	return other
}

func number(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

func laneSend(t testing.TB, l *Lane, v uint64) {
	t.Helper()
	if err := l.Send(2, number(v)); err != nil {
		t.Fatalf("send %d: %v", v, err)
	}
}

func laneReceive(t testing.TB, l *Lane, want uint64) {
	t.Helper()
	b, _, err := l.ReceiveTo(3, nil)
	if err != nil || binary.LittleEndian.Uint64(b) != want {
		t.Fatalf("received %v, %v; want %d", b, err, want)
	}
}

func laneLease(t testing.TB, l *Lane, want uint64) Lease {
	t.Helper()
	lease, err := l.TryReceive(3)
	if err != nil {
		t.Fatal(err)
	}
	if b := l.q.LeaseBytes(lease); binary.LittleEndian.Uint64(b) != want {
		t.Fatalf("leased %v; want %d", b, want)
	}
	return lease
}

func TestLaneFIFOAcrossWraps(t *testing.T) {
	for _, slots := range []int{2, 8} {
		for _, start := range starts(slots) {
			l := newLane(t, QueueOptions{Slots: slots, SlotSize: 48, Start: start})
			out := l.peer(t)
			var sent, got uint64
			for range 6 {
				for l.Send(2, number(sent)) == nil {
					sent++
				}
				if sent-got != uint64(slots) {
					t.Fatalf("start %d: full with %d of %d slots", start, sent-got, slots)
				}
				for b, _, err := out.ReceiveTo(3, nil); err == nil; b, _, err = out.ReceiveTo(3, nil) {
					if v := binary.LittleEndian.Uint64(b); v != got {
						t.Fatalf("start %d: got %d after %d", start, v, got)
					}
					got++
				}
				if got != sent {
					t.Fatalf("start %d: %d of %d came", start, got, sent)
				}
			}
			if s := l.q.Stat(); s.Free != slots || s.Sent != sent || s.Acked != sent || s.Received != sent {
				t.Fatalf("%+v", s)
			}
		}
	}
}

// A lease that its consumer keeps stops nobody, however often the ring goes round.
func TestLaneLeaseHeldOver1000Laps(t *testing.T) {
	const slots = 8
	l := newLane(t, QueueOptions{Slots: slots, SlotSize: 48})
	out := l.peer(t)
	laneSend(t, l, 1000)
	held := laneLease(t, out, 1000)
	for i := range uint64(1000 * slots) {
		laneSend(t, l, i)
		laneReceive(t, out, i)
	}
	if b := l.q.LeaseBytes(held); binary.LittleEndian.Uint64(b) != 1000 {
		t.Fatal("overwritten")
	}
	if err := out.Ack(held); err != nil {
		t.Fatal(err)
	}
	if out.Ack(held) != ErrLost || out.Nack(held) != ErrLost {
		t.Error("ended twice")
	}
	for i := range uint64(slots) {
		laneSend(t, l, i)
	}
	if err := l.Send(2, nil); err != ErrFull {
		t.Error(err)
	}
}

// A loan that its producer keeps stops nobody either: what was loaned later goes on, and it comes when it is committed.
func TestLaneLoanHeldOver1000Laps(t *testing.T) {
	const slots = 8
	l := newLane(t, QueueOptions{Slots: slots, SlotSize: 48})
	out := l.peer(t)
	held, err := l.TryLoan(2)
	if err != nil {
		t.Fatal(err)
	}
	aborted, err := l.TryLoan(2)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(1000 * slots) {
		laneSend(t, l, i)
		if i == 0 {
			if err := l.Abort(aborted); err != nil {
				t.Fatal(err)
			}
		}
		laneReceive(t, out, i)
	}
	if _, err := out.TryReceive(3); err != ErrEmpty {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint64(l.q.LoanBytes(held), 4711)
	if err := l.Commit(held, 8); err != nil {
		t.Fatal(err)
	}
	if l.Commit(held, 8) != ErrLost || l.Abort(held) != ErrLost || l.Abort(aborted) != ErrLost {
		t.Error("ended twice")
	}
	laneReceive(t, out, 4711)
	if s := l.q.Stat(); s.Free != slots {
		t.Errorf("%+v", s)
	}
}

func TestLaneIsNoOtherQueue(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 4, SlotSize: 48})
	laneSend(t, l, 1)
	if _, err := l.q.TryLoan(2); err != ErrLane {
		t.Error(err)
	}
	if _, err := l.q.TryReceive(3); err != ErrLane {
		t.Error(err)
	}
	laneReceive(t, l, 1)
}

func TestLaneEnds(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 4, SlotSize: 48})
	out := l.peer(t)
	laneSend(t, l, 1)
	laneReceive(t, out, 1)
	var end *EndError
	if err := out.Send(9, nil); !errors.As(err, &end) || end.Owner != 2 || end.End != "producer" {
		t.Error(err)
	}
	if _, err := l.TryReceive(9); !errors.As(err, &end) || end.Owner != 3 || end.End != "consumer" {
		t.Error(err)
	}
	if !l.q.Holds(func(o uint16) bool { return o == 3 }) {
		t.Error("the end's owner is in use")
	}
	l.q.Repair(func(o uint16) bool { return true })
	if err := out.Send(9, number(2)); err != nil {
		t.Error(err)
	}
	if b, _, err := l.ReceiveTo(9, nil); err != nil || len(b) != 8 {
		t.Error(b, err)
	}
}

// What a dead consumer had leased comes again, in order and with a delivery more; what it had acked does not.
func TestLaneConsumerDies(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 8, SlotSize: 48, MaxDeliveries: 2})
	dead := newQueue(t, QueueOptions{Slots: 4, SlotSize: 48 + SizeofDeadLetter, DeadLetter: true})
	out := l.peer(t)
	for i := range uint64(8) {
		laneSend(t, l, i)
	}
	var leases []Lease
	for i := range uint64(6) {
		leases = append(leases, laneLease(t, out, i))
	}
	for _, i := range []int{0, 3, 4} { // so 1 and 2 are stamped
		if err := out.Ack(leases[i]); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.q.Stat(); s.Reading != 3 || s.Ready != 2 {
		t.Errorf("%+v", s)
	}
	all := func(o uint16) bool { return o == 3 }
	if r := l.q.Repair(all); r.Leases != 3 {
		t.Errorf("%+v", r)
	}
	if r := l.q.Repair(all); r.Leases != 0 {
		t.Errorf("again: %+v", r)
	}
	out = l.peer(t)
	for i := range uint64(4) { // the three that are free
		if err := l.Send(2, number(8+i)); err != nil != (i == 3) {
			t.Fatal(i, err)
		}
	}
	for _, want := range []uint64{1, 2, 5, 6, 7, 8, 9, 10} {
		lease := laneLease(t, out, want)
		deliveries := 0
		if want < 6 {
			deliveries = 1
		}
		if lease.Deliveries() != deliveries {
			t.Errorf("%d was delivered %d times", want, lease.Deliveries())
		}
		if want == 2 {
			if err := out.Nack(lease); err != nil { // for the second time: it is dead
				t.Fatal(err)
			}
			if n, err := l.q.MoveDead(dead, 1); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			continue
		}
		if err := out.Ack(lease); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.q.Stat(); s.Free != 8 || s.DeadLettered != 1 || s.Redelivered != 3 {
		t.Errorf("%+v", s)
	}
	// Everything is held by dead letters that cannot be moved: full, and no turning of the ring.
	for i := range uint64(8) {
		laneSend(t, l, i)
		lease := laneLease(t, out, i)
		out.Nack(lease)
		lease = laneLease(t, out, i)
		out.Nack(lease)
	}
	tail := l.q.info.Tail.Load()
	if err := l.Send(2, nil); err != ErrFull || l.q.info.Tail.Load() != tail {
		t.Error(err)
	}
}

// A producer that died after its commit and before it published Tail has sent; one that died before its commit has not.
func TestLaneProducerDies(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 4, SlotSize: 48})
	out := l.peer(t)
	laneSend(t, l, 1)
	s := l.q.slot(1) // what Send does, cut short
	copy(l.q.payload(1), number(2))
	s.meta().Store(8)
	s.State.Store(uint64(l.q.ready(1)))
	copy(l.q.payload(2), number(3))
	s.meta().Store(8)
	l.q.Repair(func(o uint16) bool { return o == 2 })
	l = l.peer(t)
	laneReceive(t, out, 1)
	laneReceive(t, out, 2)
	if _, err := out.TryReceive(3); err != ErrEmpty {
		t.Fatal(err)
	}
	for i := range uint64(4) {
		if err := l.Send(7, number(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(4) {
		laneReceive(t, out, i)
	}
}

// Two goroutines, with the race detector's eyes.
func TestLaneTwoSides(t *testing.T) {
	l := newLane(t, QueueOptions{Slots: 16, SlotSize: 48})
	out := l.peer(t)
	const n = 20_000
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := uint64(0); i < n; {
			v := l.q.Senders.Value()
			switch err := l.Send(2, number(i)); err {
			case nil:
				i++
			case ErrFull:
				ticket := l.q.Senders.Register()
				if l.Send(2, number(i)) == nil {
					i++
				} else {
					sleepOn(&l.q.Senders, v)
				}
				l.q.Senders.Unregister(ticket)
			default:
				t.Error(err)
				return
			}
		}
	})
	wg.Go(func() {
		var held []Lease
		for i := uint64(0); i < n; {
			v := out.q.Receivers.Value()
			lease, err := out.TryReceive(3)
			if err == ErrEmpty {
				ticket := out.q.Receivers.Register()
				if lease, err = out.TryReceive(3); err == ErrEmpty {
					sleepOn(&out.q.Receivers, v)
				}
				out.q.Receivers.Unregister(ticket)
			}
			if err == ErrEmpty {
				continue
			}
			if err != nil {
				t.Error(err)
				return
			}
			if v := binary.LittleEndian.Uint64(out.q.LeaseBytes(lease)); v != i {
				t.Errorf("%d after %d", v, i)
				return
			}
			i++
			if held = append(held, lease); len(held) == 3 || i == n { // the newest first: overtakes the others
				for _, h := range slices.Backward(held) {
					if err := out.Ack(h); err != nil {
						t.Error(err)
						return
					}
				}
				held = held[:0]
			}
		}
	})
	wg.Wait()
	if s := l.q.Stat(); s.Free != 16 || s.Acked != n {
		t.Errorf("%+v", s)
	}
}

// Any sequence of operations and deaths, against a list of messages.
func TestLaneModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.SampledFrom([]int{2, 4, 8}).Draw(t, "slots")
		o := QueueOptions{Slots: slots, SlotSize: 48, Lane: true, Start: rapid.SampledFrom(starts(slots)).Draw(t, "start")}
		n, _ := QueueSize(o)
		b := heap(n)
		if _, err := FormatQueue(b, header("jobs"), o); err != nil {
			t.Fatal(err)
		}
		lane := func() *Lane {
			q, err := OpenQueue(b)
			if err != nil {
				t.Fatal(err)
			}
			l, err := NewLane(q)
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		in, out := lane(), lane()

		var (
			next   uint64
			live   = map[uint64]int{} // committed and not acked, with deliveries
			loans  = map[uint64]Loan{}
			leases = map[uint64]Lease{}
			sender = uint16(2)
			reader = uint16(30)
		)
		pick := func(m []uint64, what string) uint64 { return rapid.SampledFrom(m).Draw(t, what) }
		keys := func(m any) (out []uint64) {
			switch m := m.(type) {
			case map[uint64]Loan:
				for k := range m {
					out = append(out, k)
				}
			case map[uint64]Lease:
				for k := range m {
					out = append(out, k)
				}
			}
			slices.Sort(out)
			return out
		}
		held := func() int { return len(live) + len(loans) }
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				err := in.Send(sender, number(next))
				if err == nil {
					live[next] = 0
					next++
				} else if err != ErrFull || held() < 1 {
					t.Fatalf("%v with %d of %d held", err, held(), slots)
				}
			},
			"loan": func(t *rapid.T) {
				l, err := in.TryLoan(sender)
				if err == nil {
					binary.LittleEndian.PutUint64(in.q.LoanBytes(l), next)
					loans[next] = l
					next++
				} else if err != ErrFull || held() < 1 {
					t.Fatal(err)
				}
			},
			"commit": func(t *rapid.T) {
				if len(loans) == 0 {
					t.Skip()
				}
				k := pick(keys(loans), "loan")
				if err := in.Commit(loans[k], 8); err != nil {
					t.Fatal(err)
				}
				delete(loans, k)
				live[k] = 0
			},
			"abort": func(t *rapid.T) {
				if len(loans) == 0 {
					t.Skip()
				}
				k := pick(keys(loans), "loan")
				if err := in.Abort(loans[k]); err != nil {
					t.Fatal(err)
				}
				delete(loans, k)
			},
			"receive": func(t *rapid.T) {
				l, err := out.TryReceive(reader)
				if err == ErrEmpty {
					if len(live) != len(leases) {
						t.Fatalf("empty with %d live, %d leased", len(live), len(leases))
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				v := binary.LittleEndian.Uint64(out.q.LeaseBytes(l))
				d, ok := live[v]
				if _, twice := leases[v]; !ok || twice || d != l.Deliveries() {
					t.Fatalf("got %d: live %v, leased already %v, deliveries %d, want %d", v, ok, twice, l.Deliveries(), d)
				}
				leases[v] = l
			},
			"ack": func(t *rapid.T) {
				if len(leases) == 0 {
					t.Skip()
				}
				k := pick(keys(leases), "lease")
				if err := out.Ack(leases[k]); err != nil {
					t.Fatal(err)
				}
				if out.Ack(leases[k]) != ErrLost {
					t.Fatal("acked twice")
				}
				delete(leases, k)
				delete(live, k)
			},
			"nack": func(t *rapid.T) {
				if len(leases) == 0 {
					t.Skip()
				}
				k := pick(keys(leases), "lease")
				if err := out.Nack(leases[k]); err != nil {
					t.Fatal(err)
				}
				delete(leases, k)
				live[k] = min(live[k]+1, maxDeliveries)
			},
			"consumer dies": func(t *rapid.T) {
				out.q.Repair(func(o uint16) bool { return o == reader })
				for k := range leases {
					live[k] = min(live[k]+1, maxDeliveries)
				}
				clear(leases)
				out, reader = lane(), reader+1
			},
			"producer dies": func(t *rapid.T) {
				in.q.Repair(func(o uint16) bool { return o == sender })
				clear(loans)
				in, sender = lane(), sender+100
			},
			"": func(t *rapid.T) {
				if s := in.q.Stat(); s.Messages != len(live) || s.Reading != len(leases) {
					t.Fatalf("%+v: %d live, %d leased", s, len(live), len(leases))
				}
			},
		})
		// Drain: everything that is live comes, and then the whole ring is free.
		for _, k := range keys(loans) {
			in.Abort(loans[k])
		}
		for _, k := range keys(leases) {
			out.Return(leases[k])
		}
		for {
			b, _, err := out.ReceiveTo(reader, nil)
			if err == ErrEmpty {
				break
			}
			v := binary.LittleEndian.Uint64(b)
			if _, ok := live[v]; err != nil || !ok {
				t.Fatal(v, err)
			}
			delete(live, v)
		}
		if len(live) != 0 {
			t.Fatal("lost:", fmt.Sprint(live))
		}
		for range slots {
			if err := in.Send(sender, nil); err != nil {
				t.Fatal("the ring is not free:", err)
			}
		}
	})
}

// sleepOn waits until the bell is no longer v.
func sleepOn(d *Doorbell, v uint32) { sys.FutexWait(d.Word(), v, -1) }
