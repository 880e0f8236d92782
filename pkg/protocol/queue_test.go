package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/shmd/shmd/internal/sys"
)

func header(name string) Header {
	boot, err := sys.BootID()
	if err != nil {
		panic(err)
	}
	return Header{Name: name, Region: "test", Generation: 7, BootID: boot, Created: time.Unix(1_700_000_000, 0)}
}

func newQueue(t testing.TB, o QueueOptions) *Queue {
	t.Helper()
	n, err := QueueSize(o)
	if err != nil {
		t.Fatal(err)
	}
	q, err := FormatQueue(heap(n), header("jobs"), o)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func send(t testing.TB, q *Queue, owner uint16, v uint64) error {
	l, err := q.TryLoan(owner)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(q.LoanBytes(l), v)
	if err := q.Commit(l, 8); err != nil {
		t.Fatal(err)
	}
	return nil
}

func receive(t testing.TB, q *Queue, owner uint16) (uint64, error) {
	l, err := q.TryReceive(owner)
	if err != nil {
		return 0, err
	}
	b := q.LeaseBytes(l)
	if len(b) != 8 {
		t.Fatalf("payload of %d bytes", len(b))
	}
	v := binary.LittleEndian.Uint64(b)
	if err := q.Ack(l); err != nil {
		t.Fatal(err)
	}
	return v, nil
}

// starts are first positions worth testing: zero, and shortly before the lap's sign changes and before the lap wraps. Positions
// themselves have 64 bits and do not wrap: at 100 million messages a second that takes 5,800 years.
func starts(slots int) []uint64 {
	n := uint64(slots)
	return []uint64{0, 1<<31*n - 2*n, 1<<32*n - 2*n, 1<<32*n - 2*n + 1}
}

func TestQueueFIFOAcrossWraps(t *testing.T) {
	for _, slots := range []int{2, 8} {
		for _, start := range starts(slots) {
			q := newQueue(t, QueueOptions{Slots: slots, SlotSize: 48, Start: start})
			var next uint64
			for round := range uint64(6 * slots) {
				if err := send(t, q, 2, round); err != nil {
					t.Fatalf("start %#x: send %d: %v", start, round, err)
				}
				if round%3 == 2 || round%uint64(slots) == uint64(slots)-1 {
					for {
						v, err := receive(t, q, 3)
						if errors.Is(err, ErrEmpty) {
							break
						}
						if v != next {
							t.Fatalf("start %#x: got %d, want %d", start, v, next)
						}
						next++
					}
				}
			}
		}
	}
}

func TestQueueFullAndEmpty(t *testing.T) {
	for _, start := range starts(4) {
		q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8, Start: start})
		if _, err := receive(t, q, 3); !errors.Is(err, ErrEmpty) {
			t.Fatalf("a new queue: %v", err)
		}
		for lap := range 3 {
			for i := range uint64(4) {
				if err := send(t, q, 2, i); err != nil {
					t.Fatalf("lap %d, message %d: %v", lap, i, err)
				}
			}
			if err := send(t, q, 2, 9); !errors.Is(err, ErrFull) {
				t.Fatalf("fifth message into four slots: %v", err)
			}
			for i := range uint64(4) {
				if v, err := receive(t, q, 3); v != i || err != nil {
					t.Fatalf("got %d, %v; want %d", v, err, i)
				}
			}
		}
	}
}

// A lease held over many laps stops nobody, and its message comes back in the end.
func TestQueueHeldSlotStopsNobody(t *testing.T) {
	for _, start := range starts(4) {
		for _, how := range []string{"ack", "nack", "commit", "abort"} {
			q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8, Start: start})
			var loan Loan
			var lease Lease
			var err error
			if how == "commit" || how == "abort" {
				if loan, err = q.TryLoan(2); err != nil {
					t.Fatal(err)
				}
			} else {
				if err := send(t, q, 2, 99); err != nil {
					t.Fatal(err)
				}
				if lease, err = q.TryReceive(3); err != nil {
					t.Fatal(err)
				}
			}
			for i := range uint64(4000) {
				if err := send(t, q, 4, i); err != nil {
					t.Fatalf("%s: send %d beside a held slot: %v", how, i, err)
				}
				if v, err := receive(t, q, 5); err != nil || v != i {
					t.Fatalf("%s: receive %d beside a held slot: %d, %v", how, i, v, err)
				}
			}
			want := uint64(99)
			switch how {
			case "ack":
				err, want = q.Ack(lease), 0
			case "nack":
				err = q.Nack(lease)
			case "commit":
				binary.LittleEndian.PutUint64(q.LoanBytes(loan), 99)
				err = q.Commit(loan, 8)
			case "abort":
				err, want = q.Abort(loan), 0
			}
			if err != nil {
				t.Fatal(err)
			}
			v, err := receive(t, q, 5)
			if want == 0 && !errors.Is(err, ErrEmpty) || want != 0 && (err != nil || v != want) {
				t.Fatalf("%s after 1000 laps: got %d, %v", how, v, err)
			}
			for i := range uint64(4) { // full capacity again
				if err := send(t, q, 2, i); err != nil {
					t.Fatalf("%s: capacity after: %v", how, err)
				}
			}
			checkQueue(t, q)
		}
	}
}

func TestQueueAllHeldIsFull(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8})
	for range 4 {
		if _, err := q.TryLoan(2); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if _, err := q.TryLoan(2); !errors.Is(err, ErrFull) {
			t.Fatalf("all slots are loaned: %v", err)
		}
	}
	if r := q.Repair(func(o uint16) bool { return o == 2 }); r.Loans != 4 {
		t.Fatalf("repair: %+v", r)
	}
	for i := range uint64(4) {
		if err := send(t, q, 3, i); err != nil {
			t.Fatal(err)
		}
	}
}

func TestQueueDeadLetters(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8, MaxDeliveries: 3})
	dead := newQueue(t, QueueOptions{Slots: 2, SlotSize: 8 + SizeofDeadLetter, DeadLetter: true})
	for v := range uint64(3) {
		if err := send(t, q, 2, 40+v); err != nil {
			t.Fatal(err)
		}
	}
	for range 9 {
		l, err := q.TryReceive(3)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Nack(l); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := q.TryReceive(3); !errors.Is(err, ErrEmpty) {
		t.Fatalf("after three deliveries of each: %v", err)
	}
	n, err := q.MoveDead(dead, 1)
	if n != 2 || !errors.Is(err, ErrFull) {
		t.Fatalf("moved %d into two slots: %v", n, err)
	}
	for want := uint64(40); want < 43; want++ {
		l, err := dead.TryReceive(5)
		if err != nil {
			t.Fatal(err)
		}
		info, payload, err := dead.ReadDead(l)
		if err != nil || info.Deliveries != 3 || info.Position != want-40 || binary.LittleEndian.Uint64(payload) != want {
			t.Fatalf("dead letter %+v %x, %v", info, payload, err)
		}
		if err := dead.Ack(l); err != nil {
			t.Fatal(err)
		}
		if _, err := q.MoveDead(dead, 1); err != nil {
			t.Fatal(err)
		}
	}
	if s := q.Stat(); s.Free != 4 || s.DeadLettered != 3 {
		t.Fatalf("%+v", s)
	}
}

// checkQueue checks what docs/queue.md calls (I), when nothing is under way.
func checkQueue(t testing.TB, q *Queue) {
	t.Helper()
	head, tail := q.info.Head.Load(), q.info.Tail.Load()
	if int64(tail-head) < 0 {
		t.Errorf("head %d is beyond tail %d", head, tail)
	}
	for i := range q.mask + 1 {
		p := tail - 1 - ((tail - 1 - i) & q.mask)
		if w := Word(q.slot(i).State.Load()); w.Phase() == PhaseReady && int64(head-p) > 0 {
			t.Errorf("slot %d is READY at position %d, head is %d", i, p, head)
		}
	}
}

// The queue against a plain model, one step at a time: sends, loans out of order, leases out of order, deaths.
func TestQueueModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		slots := 1 << rapid.IntRange(1, 3).Draw(rt, "log2 slots")
		max := rapid.IntRange(0, 3).Draw(rt, "max deliveries")
		start := rapid.SampledFrom(starts(slots)).Draw(rt, "start")
		q := newQueue(t, QueueOptions{Slots: slots, SlotSize: 16, MaxDeliveries: max, Start: start})
		type held[T any] struct {
			l     T
			owner uint16
			v     uint64
		}
		var next uint64
		ready := map[uint64]int{} // committed and not leased: deliveries
		var loans []held[Loan]
		var leases []held[Lease]
		dead := 0
		owner := func(rt *rapid.T) uint16 { return uint16(rapid.IntRange(2, 4).Draw(rt, "owner")) }
		giveBack := func(v uint64, n int) {
			if n++; max > 0 && n >= max {
				dead++
				return
			}
			ready[v] = n
		}
		rt.Repeat(map[string]func(*rapid.T){
			"loan": func(rt *rapid.T) {
				o := owner(rt)
				l, err := q.TryLoan(o)
				if errors.Is(err, ErrFull) {
					if len(ready) == 0 && len(loans)+len(leases)+dead < slots {
						rt.Fatalf("full with %d loans, %d leases, %d dead of %d slots", len(loans), len(leases), dead, slots)
					}
					return
				}
				binary.LittleEndian.PutUint64(q.LoanBytes(l), next)
				loans = append(loans, held[Loan]{l, o, next})
				next++
			},
			"commit": func(rt *rapid.T) {
				if len(loans) == 0 {
					return
				}
				i := rapid.IntRange(0, len(loans)-1).Draw(rt, "loan")
				if err := q.Commit(loans[i].l, 8); err != nil {
					rt.Fatal(err)
				}
				ready[loans[i].v] = 0
				loans = append(loans[:i], loans[i+1:]...)
			},
			"abort": func(rt *rapid.T) {
				if len(loans) == 0 {
					return
				}
				i := rapid.IntRange(0, len(loans)-1).Draw(rt, "loan")
				if err := q.Abort(loans[i].l); err != nil {
					rt.Fatal(err)
				}
				loans = append(loans[:i], loans[i+1:]...)
			},
			"receive": func(rt *rapid.T) {
				o := owner(rt)
				l, err := q.TryReceive(o)
				if errors.Is(err, ErrEmpty) {
					// Behind a single loan at the end of the queue a consumer waits; nothing ready can be behind it.
					if len(ready) != 0 {
						rt.Fatalf("empty with %d ready", len(ready))
					}
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				v := binary.LittleEndian.Uint64(q.LeaseBytes(l))
				n, ok := ready[v]
				if !ok || l.Deliveries() != n {
					rt.Fatalf("got %d with %d deliveries; ready: %v", v, l.Deliveries(), ready)
				}
				delete(ready, v)
				leases = append(leases, held[Lease]{l, o, v})
			},
			"ack": func(rt *rapid.T) {
				if len(leases) == 0 {
					return
				}
				i := rapid.IntRange(0, len(leases)-1).Draw(rt, "lease")
				if err := q.Ack(leases[i].l); err != nil {
					rt.Fatal(err)
				}
				if err := q.Ack(leases[i].l); !errors.Is(err, ErrLost) {
					rt.Fatalf("second ack: %v", err)
				}
				leases = append(leases[:i], leases[i+1:]...)
			},
			"nack": func(rt *rapid.T) {
				if len(leases) == 0 {
					return
				}
				i := rapid.IntRange(0, len(leases)-1).Draw(rt, "lease")
				if err := q.Nack(leases[i].l); err != nil {
					rt.Fatal(err)
				}
				giveBack(leases[i].v, leases[i].l.Deliveries())
				leases = append(leases[:i], leases[i+1:]...)
			},
			"death": func(rt *rapid.T) {
				o := owner(rt)
				q.Repair(func(x uint16) bool { return x == o })
				var liveLoans []held[Loan]
				for _, l := range loans {
					if l.owner == o {
						if err := q.Commit(l.l, 8); !errors.Is(err, ErrLost) {
							rt.Fatalf("commit of a repaired loan: %v", err)
						}
						continue
					}
					liveLoans = append(liveLoans, l)
				}
				loans = liveLoans
				var liveLeases []held[Lease]
				for _, l := range leases {
					if l.owner == o {
						giveBack(l.v, l.l.Deliveries())
						continue
					}
					liveLeases = append(liveLeases, l)
				}
				leases = liveLeases
				if q.Holds(func(x uint16) bool { return x == o }) {
					rt.Fatal("a repaired owner still holds a slot")
				}
			},
			"": func(*rapid.T) {
				checkQueue(t, q)
				s := q.Stat()
				if s.Ready != len(ready) || s.Writing != len(loans) || s.Reading != len(leases) || s.Dead != dead {
					rt.Fatalf("stat %+v; want %d ready, %d loans, %d leases, %d dead", s, len(ready), len(loans), len(leases), dead)
				}
			},
		})
	})
}

// Producers, consumers and a repairer of deaths that never happened to anybody else, all at once: nothing is lost or doubled.
func TestQueueStress(t *testing.T) {
	for _, c := range []struct{ slots, producers, consumers int }{{2, 1, 1}, {2, 3, 3}, {8, 2, 4}, {64, 4, 2}} {
		for _, start := range []uint64{0, starts(c.slots)[2]} {
			t.Run(fmt.Sprintf("%d slots %d:%d from %#x", c.slots, c.producers, c.consumers, start), func(t *testing.T) {
				const each = 4000
				q := newQueue(t, QueueOptions{Slots: c.slots, SlotSize: 16, Start: start})
				seen := make([]atomic.Uint32, c.producers*each)
				var done atomic.Int64
				var wg sync.WaitGroup
				for p := range c.producers {
					wg.Go(func() {
						for i := 0; i < each; {
							l, err := q.TryLoan(uint16(2 + p))
							if err != nil {
								runtime.Gosched()
								continue
							}
							if i%7 == 3 && l.suspect { // aborts among them
								q.Abort(l)
								continue
							}
							binary.LittleEndian.PutUint64(q.LoanBytes(l), uint64(p*each+i))
							binary.LittleEndian.PutUint64(q.LoanBytes(l)[8:], ^uint64(p*each+i))
							if err := q.Commit(l, 16); err != nil {
								t.Error(err)
							}
							i++
						}
					})
				}
				stop := make(chan struct{})
				wg.Go(func() { // a repair of somebody who holds nothing disturbs nobody
					for {
						select {
						case <-stop:
							return
						default:
							q.Repair(func(o uint16) bool { return o == 999 })
							runtime.Gosched()
						}
					}
				})
				for i := range c.consumers {
					wg.Go(func() {
						for n := 0; done.Load() < int64(len(seen)); n++ {
							l, err := q.TryReceive(uint16(100 + i))
							if err != nil {
								runtime.Gosched()
								continue
							}
							b := q.LeaseBytes(l)
							v := binary.LittleEndian.Uint64(b)
							if w := binary.LittleEndian.Uint64(b[8:]); v != ^w {
								t.Errorf("torn: %x %x", v, w)
							}
							if n%5 == 4 && l.Deliveries() < 3 {
								if err := q.Nack(l); err != nil {
									t.Error(err)
								}
								continue
							}
							seen[v].Add(1)
							if err := q.Ack(l); err != nil {
								t.Error(err)
							}
							if done.Add(1) == int64(len(seen)) {
								close(stop)
							}
						}
					})
				}
				wg.Wait()
				for v := range seen {
					if n := seen[v].Load(); n != 1 {
						t.Fatalf("message %d was acked %d times", v, n)
					}
				}
				checkQueue(t, q)
				if s := q.Stat(); s.Free != c.slots {
					t.Fatalf("at rest: %+v", s)
				}
			})
		}
	}
}

// producerAsleep makes a producer sleep, as far as q can tell. It returns a function that reports whether it was rung since.
func producerAsleep(t *testing.T, q *Queue) func() bool {
	t.Helper()
	q.Senders.Register()
	if _, err := q.TryLoan(20); !errors.Is(err, ErrFull) {
		t.Fatalf("the queue is not full: %v", err)
	}
	v := q.Senders.Value()
	return func() bool { return q.Senders.Value() != v }
}

// A producer sleeps because of a READY slot, behind which one is free: whoever leases the READY slot wakes it, at once.
func TestQueueLeaseWakesProducer(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 2, SlotSize: 8})
	first, err := q.TryLoan(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := send(t, q, 3, 1); err != nil {
		t.Fatal(err)
	}
	if v, err := receive(t, q, 4); v != 1 || err != nil {
		t.Fatal(v, err)
	}
	if err := q.Commit(first, 8); err != nil {
		t.Fatal(err)
	}
	rung := producerAsleep(t, q)
	if _, err := q.TryReceive(4); err != nil {
		t.Fatal(err)
	}
	if !rung() {
		t.Error("a slot is free, the consumer holds the other one, and the producer sleeps on")
	}
	if err := send(t, q, 3, 2); err != nil {
		t.Errorf("the producer, had it been woken: %v", err)
	}
}

// Two slots become free by one wake-up: the producer that takes the first wakes one for the second.
func TestQueueClaimWakesProducer(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8})
	first, err := q.TryLoan(2)
	if err != nil {
		t.Fatal(err)
	}
	for v := range uint64(3) {
		if err := send(t, q, 3, v); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if _, err := receive(t, q, 4); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Commit(first, 8); err != nil {
		t.Fatal(err)
	}
	woken := q.Senders.Register()
	producerAsleep(t, q)
	if _, err := q.TryReceive(4); err != nil { // wakes one, for three free slots
		t.Fatal(err)
	}
	v := q.Senders.Value()
	q.Senders.Unregister(woken)
	if _, err := q.TryLoan(5); err != nil {
		t.Fatal(err)
	}
	if q.Senders.Value() == v {
		t.Error("the producer that was woken took one of three free slots, and the next one sleeps on")
	}
}

// ringing returns what rings the receivers of a queue or does not: a commit and a lease, and a check of either.
func ringing(t *testing.T, q *Queue) (rung func(what string, want bool, do func()), commit, lease func()) {
	rung = func(what string, want bool, do func()) {
		t.Helper()
		v := q.Receivers.Value()
		do()
		if (q.Receivers.Value() != v) != want {
			t.Errorf("%s: rung %v, want %v", what, !want, want)
		}
	}
	n := uint64(0)
	commit = func() {
		t.Helper()
		if err := send(t, q, 3, n); err != nil {
			t.Fatal(err)
		}
		n++
	}
	lease = func() {
		t.Helper()
		if _, err := q.TryReceive(4); err != nil {
			t.Fatal(err)
		}
	}
	return rung, commit, lease
}

// A wake-up under way stands for those that would follow, until the sleeper that got it looks; it passes on what it does not take.
func TestQueueWakeUnderWay(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 16, SlotSize: 8})
	q.Receivers.late = 1 << 62
	sleeper := q.Receivers.Register()
	q.Receivers.Register()
	q.Receivers.Register()
	rung, commit, lease := ringing(t, q)
	rung("first message", true, commit)
	rung("second, with a consumer on its way", false, commit)
	q.Receivers.late = 0
	rung("third, beside one that is late", true, commit)
	q.Receivers.late = 1 << 62
	rung("somebody else receives", false, lease)
	q.Receivers.Unregister(sleeper)
	if n := q.Receivers.Sleepers(); n != 2 {
		t.Errorf("%d sleepers, want 2", n)
	}
	rung("the woken one receives and leaves one", true, lease)
	rung("one more receives the last", false, lease)
	rung("a message, while the next one is on its way", false, commit)
	q.Receivers.Register()
	rung("it was taken by somebody else, who sleeps again", true, func() { lease(); commit() })
	q.Receivers.RingAll()
	q.Receivers.Register()
	rung("a message after a repair", true, commit)
}

// A repair forgets the sleepers that were counted, so that a dead one does not cost a system call a message for ever; one that lives on
// does not count itself out twice.
func TestQueueRepairForgetsSleepers(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 2, SlotSize: 8})
	old := q.Receivers.Register()
	q.Senders.Register()
	v := q.Receivers.Value()
	q.Repair(func(uint16) bool { return false })
	if q.Receivers.Sleepers() != 0 || q.Senders.Sleepers() != 0 || q.Receivers.Value() == v {
		t.Errorf("after a repair: %d and %d sleepers, bell %d, was %d", q.Receivers.Sleepers(), q.Senders.Sleepers(), q.Receivers.Value(), v)
	}
	now := q.Receivers.Register()
	q.Receivers.Unregister(old)
	if n := q.Receivers.Sleepers(); n != 1 {
		t.Errorf("a sleeper of before the repair left: %d sleepers are counted, want 1", n)
	}
	q.Receivers.Unregister(now)
	if n := q.Receivers.Sleepers(); n != 0 {
		t.Errorf("%d sleepers", n)
	}
}
