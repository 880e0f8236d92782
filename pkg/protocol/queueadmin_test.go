package protocol

import (
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A drain refuses messages and says when the queue is empty; also to a producer that claimed its slot just before.
func TestDrain(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8})
	if err := send(t, q, 2, 1); err != nil {
		t.Fatal(err)
	}
	early, err := q.TryLoan(2)
	if err != nil || q.Admit(early) != nil {
		t.Fatal(err)
	}
	if err := q.Drain(true); err != nil {
		t.Fatal(err)
	}
	if !q.Draining() {
		t.Fatal("not draining")
	}
	late, err := q.TryLoan(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Admit(late); err != ErrDraining {
		t.Fatalf("a loan during the drain: %v", err)
	}
	if err := q.Commit(late, 8); err != ErrLost {
		t.Fatalf("the refused loan: %v", err)
	}
	if st := q.Stat(); st.Rest() != 2 || st.Writing != 1 {
		t.Fatalf("one message and one loan: %+v", st)
	}
	if err := q.Commit(early, 8); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := receive(t, q, 3); err != nil {
			t.Fatal(err)
		}
	}
	if st := q.Stat(); st.Rest() != 0 {
		t.Fatalf("all is done: %+v", st)
	}
	q.Drain(false)
	if err := send(t, q, 2, 3); err != nil || q.Draining() {
		t.Fatalf("after the drain: %v", err)
	}
}

// However a drain and two producers interleave, call by call: once the drain saw the queue at rest, nothing comes any more. test/crashpoint has it instruction by
// instruction (TestDrainParked).
func TestDrainInterleaved(t *testing.T) {
	// A schedule says who is next: a producer (claim, admit, commit) or the drain (begin, and then look until it is at rest).
	for schedule := range 3 * 3 * 3 * 3 * 3 * 3 * 3 * 3 {
		q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8})
		var loans [2]Loan
		var steps [2]int
		got, sent, atRest, begun := 0, 0, -1, false
		turn := func(who int) {
			if who == 2 {
				if !begun {
					q.Drain(true)
					begun = true
					return
				}
				for {
					l, err := q.TryReceive(5)
					if err != nil {
						break
					}
					got++
					q.Ack(l)
				}
				if st := q.Stat(); atRest < 0 && st.Rest() == 0 {
					atRest = got
				}
				return
			}
			switch l := &loans[who]; steps[who] {
			case 0:
				var err error
				if *l, err = q.TryLoan(uint16(2 + who)); err != nil {
					t.Fatal(err)
				}
			case 1:
				if q.Admit(*l) != nil {
					steps[who] = 9
				}
			case 2:
				if err := q.Commit(*l, 8); err != nil {
					t.Fatal(err)
				}
				sent++
			}
			steps[who]++
		}
		for n := schedule; n > 0; n /= 3 {
			turn(n % 3)
		}
		for _, who := range []int{2, 2, 0, 0, 0, 1, 1, 1, 2} { // what the schedule left
			turn(who)
		}
		if st := q.Stat(); got != sent || got != atRest || st.Rest() != 0 {
			t.Fatalf("schedule %d: at rest %d had come, in the end %d, of %d that were sent; %+v", schedule, atRest, got, sent, st)
		}
	}
}

func TestPurge(t *testing.T) {
	for _, start := range starts(8) {
		q := newQueue(t, QueueOptions{Slots: 8, SlotSize: 64, Start: start})
		for i := range uint64(5) {
			if err := send(t, q, 2, i); err != nil {
				t.Fatal(err)
			}
		}
		held, err := q.TryReceive(3)
		if err != nil {
			t.Fatal(err)
		}
		l, err := q.TryLoan(2)
		if err != nil {
			t.Fatal(err)
		}
		f := NewFrame(q.LoanBytes(l))
		for range 3 {
			f.Next(8)
		}
		if err := q.CommitFrame(l, &f); err != nil {
			t.Fatal(err)
		}
		if n, err := q.Purge(4); n != 4+3 || err != nil {
			t.Fatalf("start %#x: purged %d, %v", start, n, err)
		}
		if st := q.Stat(); st.Ready != 0 || st.Reading != 1 {
			t.Fatalf("start %#x: %+v", start, st)
		}
		if err := q.Nack(held); err != nil {
			t.Fatal(err)
		}
		if v, err := receive(t, q, 3); v != 0 || err != nil {
			t.Fatalf("start %#x: what was held: %d, %v", start, v, err)
		}
	}
}

func TestBefore(t *testing.T) {
	for _, start := range starts(8) {
		q := newQueue(t, QueueOptions{Slots: 8, SlotSize: 8, Start: start})
		for p := start; p != start+24; p++ {
			l := Lease{slot: p & 7, word: MakeWord(PhaseReading, 3, 0, q.lap(p))}
			if q.before(l, p) || !q.before(l, p+1) || !q.before(l, p+9) || q.before(l, p-1) || q.before(l, p-9) {
				t.Fatalf("position %#x", p)
			}
		}
	}
}

// Whoever trims and is taken for dead has lost its slot: it must not put back what was there before.
func TestTrimLost(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 2, SlotSize: 3 * 4096, Sparse: true})
	if err := send(t, q, 2, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := receive(t, q, 3); err != nil {
		t.Fatal(err)
	}
	var after Word
	_, err := q.Trim(4, func([]byte) (int64, error) {
		q.Repair(func(o uint16) bool { return o == 4 })
		after = q.SlotAt(0).Word
		return 0, nil
	})
	if now := q.SlotAt(0).Word; err != ErrLost || now != after {
		t.Errorf("%v, and the slot is %#x; the repair left %#x", err, now, after)
	}
}

func TestTrim(t *testing.T) {
	for _, start := range starts(4) {
		q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 3 * 4096, Sparse: true, Start: start})
		if err := send(t, q, 2, 1); err != nil {
			t.Fatal(err)
		}
		held, err := q.TryLoan(2)
		if err != nil {
			t.Fatal(err)
		}
		var pieces, bytes int
		punch := func(b []byte) (int64, error) {
			pieces++
			bytes += len(b)
			clear(b)
			return int64(len(b)), nil
		}
		free := 2
		if start == 0 { // on the first lap what was never claimed has no memory
			free = 1
		}
		n, err := q.Trim(3, punch)
		if err != nil || pieces != free || n != int64(free)*3*4096 || bytes != int(n) {
			t.Fatalf("start %#x: %d pieces, %d bytes, told %d, %v", start, pieces, bytes, n, err)
		}
		if err := q.Commit(held, 8); err != nil {
			t.Fatal(err)
		}
		q.Trim(3, punch) // again
		for lap := range uint64(3) {
			for i := range uint64(4) {
				if lap == 0 && i < 2 {
					continue
				}
				if err := send(t, q, 2, 10*lap+i); err != nil {
					t.Fatalf("start %#x, lap %d, message %d: %v", start, lap, i, err)
				}
			}
			if err := send(t, q, 2, 9); err != ErrFull {
				t.Fatalf("start %#x: fifth message into four slots: %v", start, err)
			}
			for range 4 {
				if _, err := receive(t, q, 3); err != nil {
					t.Fatalf("start %#x, lap %d: %v", start, lap, err)
				}
			}
			if n, err := q.Trim(3, punch); n != 4*3*4096 || err != nil {
				t.Fatalf("start %#x: empty: %d bytes, %v", start, n, err)
			}
		}
	}
	for _, o := range []QueueOptions{{Slots: 4, SlotSize: 3 * 4096}, {Slots: 4, SlotSize: 1024, Sparse: true}} {
		if _, err := newQueue(t, o).Trim(3, nil); err == nil {
			t.Errorf("%+v can be trimmed", o)
		}
	}
}

// Trimming beside producers and consumers damages no message and loses none: punch overwrites what it is given.
func TestTrimStress(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8000, Sparse: true})
	const each = 4000
	var wg, producers, consumers sync.WaitGroup
	var stop atomic.Bool
	var sum, got atomic.Uint64
	wg.Go(func() {
		for !stop.Load() {
			q.Trim(9, func(b []byte) (int64, error) {
				runtime.Gosched() // a slot that is not ours changes hands meanwhile
				for i := range b {
					b[i] = 0xff
				}
				return 0, nil
			})
			runtime.Gosched()
		}
	})
	for p := range uint64(2) {
		producers.Go(func() {
			for i := range uint64(each) {
				for {
					l, err := q.TryLoan(uint16(2 + p))
					if err != nil {
						runtime.Gosched()
						continue
					}
					b := q.LoanBytes(l)
					binary.LittleEndian.PutUint64(b[7000:], p*each+i)
					q.Commit(l, 7008)
					break
				}
			}
		})
		consumers.Go(func() {
			for {
				ended := stop.Load()
				l, err := q.TryReceive(uint16(4 + p))
				if err != nil {
					if ended {
						return
					}
					runtime.Gosched()
					continue
				}
				sum.Add(binary.LittleEndian.Uint64(q.LeaseBytes(l)[7000:]))
				got.Add(1)
				q.Ack(l)
			}
		})
	}
	producers.Wait()
	stop.Store(true)
	consumers.Wait()
	wg.Wait()
	if want := uint64(2*each) * (2*each - 1) / 2; sum.Load() != want || got.Load() != 2*each {
		t.Errorf("%d messages with sum %d, want %d with %d", got.Load(), sum.Load(), 2*each, want)
	}
}

func TestMaxLeases(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 8, SlotSize: 8, MaxLeases: 2})
	other, err := OpenQueue(q.b) // another process
	if err != nil || other.MaxLeases() != 2 {
		t.Fatalf("%d, %v", other.MaxLeases(), err)
	}
	for i := range uint64(6) {
		if err := send(t, q, 2, i); err != nil {
			t.Fatal(err)
		}
	}
	take := func(q *Queue) Lease {
		l, err := q.TryReceive(3)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	full := func() {
		t.Helper()
		if _, err := q.TryReceive(3); err != ErrLeases {
			t.Fatalf("a third lease: %v", err)
		}
	}
	a, b := take(q), take(q)
	full()
	take(other)
	for _, end := range []func(Lease) error{q.Ack, q.Nack, q.Return} {
		if err := end(a); err != nil {
			t.Fatal(err)
		}
		a = take(q)
		full()
	}
	if err := q.Ack(a); err != nil {
		t.Fatal(err)
	}
	if err := q.Ack(b); err != nil {
		t.Fatal(err)
	}
	for { // an empty queue takes no lease
		l, err := q.TryReceive(3)
		if err == ErrEmpty {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		q.Ack(l)
	}
	for range 5 {
		if _, err := q.TryReceive(3); err != ErrEmpty {
			t.Fatal(err)
		}
	}
	if _, err := QueueSize(QueueOptions{Slots: 8, SlotSize: 8, MaxLeases: 9}); err == nil {
		t.Error("more leases than slots are accepted")
	}
}

// A lane's ends alone know what is in flight.
func TestLaneIsNotAdministered(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8000, Sparse: true, Lane: true})
	if q.Drain(true) == nil || q.Draining() {
		t.Error("a lane is drained")
	}
	if _, err := q.Purge(3); err == nil {
		t.Error("a lane is purged")
	}
	if _, err := q.Trim(3, nil); err == nil {
		t.Error("a lane is trimmed")
	}
	if _, err := QueueSize(QueueOptions{Slots: 4, SlotSize: 8, Lane: true, MaxLeases: 1}); err == nil {
		t.Error("a lane has max_leases")
	}
}

func TestLetters(t *testing.T) {
	q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 16, MaxDeliveries: 1})
	d := newQueue(t, QueueOptions{Slots: 4, SlotSize: 16 + SizeofDeadLetter, DeadLetter: true})
	if _, err := q.Letters(); err == nil {
		t.Error("letters of a queue that has none")
	}
	before := time.Now().Add(-time.Second)
	for i := range uint64(2) {
		if err := send(t, q, 2, i); err != nil {
			t.Fatal(err)
		}
		l, err := q.TryReceive(3)
		if err != nil {
			t.Fatal(err)
		}
		q.Nack(l)
	}
	if n, err := q.MoveDead(d, 1); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	l, err := d.TryReceive(3)
	if err != nil {
		t.Fatal(err)
	}
	letters, err := d.Letters()
	if err != nil || len(letters) != 2 {
		t.Fatalf("%+v, %v", letters, err)
	}
	for i, x := range letters {
		if x.Position != uint64(i) || x.Deliveries != 1 || x.Reason != DeadReasonMaxDeliveries || x.Moved.Before(before) ||
			len(x.Payload) != 8 || binary.LittleEndian.Uint64(x.Payload) != uint64(i) || x.Slot != i {
			t.Errorf("letter %d: %+v", i, x)
		}
	}
	if letters[0].Phase != PhaseReading || letters[1].Phase != PhaseReady {
		t.Errorf("phases %v, %v", letters[0].Phase, letters[1].Phase)
	}
	d.Ack(l)
	if letters, _ := d.Letters(); len(letters) != 1 {
		t.Errorf("after an ack: %+v", letters)
	}
}

// A trim that is killed: it makes two stores a slot, so there are three places, of which the one between them is special. Its repair
// leaves a queue that holds as much as before, in order.
func TestTrimKilled(t *testing.T) {
	for _, start := range starts(4) {
		for kill := range 4 {
			q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 8000, Sparse: true, Start: start})
			for i := range uint64(4) { // all slots were used
				if err := send(t, q, 2, i); err != nil {
					t.Fatal(err)
				}
				if _, err := receive(t, q, 3); err != nil {
					t.Fatal(err)
				}
			}
			if err := send(t, q, 2, 100); err != nil {
				t.Fatal(err)
			}
			func() {
				defer func() { recover() }()
				n := 0
				q.Trim(9, func(b []byte) (int64, error) {
					if n == kill {
						panic("killed")
					}
					n++
					clear(b)
					return 0, nil
				})
			}()
			held := 0
			if kill < 3 {
				held = 1
			}
			if st := q.Stat(); st.Writing != held {
				t.Fatalf("killed at %d: %+v", kill, st)
			}
			if r := q.Repair(func(o uint16) bool { return o == 9 }); r.Loans != held {
				t.Fatalf("killed at %d: repaired %+v", kill, r)
			}
			next, sent := uint64(100), uint64(101)
			for round := range 3 {
				n := 0
				for ; send(t, q, 2, sent) == nil; n++ {
					sent++
				}
				want := 4
				if round == 0 {
					want = 3 - held // the position of the slot that was held is given up, as by Abort
				}
				if n != want {
					t.Fatalf("start %#x, killed at %d, round %d: %d messages fit, want %d", start, kill, round, n, want)
				}
				for {
					v, err := receive(t, q, 3)
					if err != nil {
						break
					}
					if v != next {
						t.Fatalf("start %#x, killed at %d: message %d came, not %d", start, kill, v, next)
					}
					next++
				}
			}
			if next != sent {
				t.Fatalf("start %#x, killed at %d: %d of %d messages came", start, kill, next, sent)
			}
		}
	}
}
