package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"
)

// corrupt overlays a fuzzer's bytes on memory at an offset: what a hostile or crashed peer may have left.
func corrupt(b []byte, at uint16, p []byte) {
	if len(b) > 0 {
		copy(b[int(at)%len(b):], p)
	}
}

// aligned returns a copy of p in memory that is aligned as mapped memory is.
func aligned(p []byte) []byte {
	b := heap(int64(len(p)+7) &^ 7)
	copy(b, p)
	return b[:len(p)]
}

func FuzzSegmentHeader(f *testing.F) {
	b := heap(4096)
	if _, err := FormatGroup(heap(GroupSize(GroupConfig{Instances: 1, Metrics: 16})), header("g"), GroupConfig{Instances: 1, Metrics: 16}); err != nil {
		f.Fatal(err)
	}
	writeHeader(b, header("x"))
	publish(b)
	f.Add(bytes.Clone(b[:SizeofSegmentHeader]))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		b := aligned(p)
		h, err := ReadHeader(b)
		if err == nil && h.Size != uint64(len(b)) {
			t.Fatalf("accepted a header of %d bytes for %d", h.Size, len(b))
		}
		for k := KindRoster; k <= KindLog; k++ {
			if err := Check(k, 0)(b); err == nil && h.Kind != k {
				t.Fatalf("%v passed as %v", h.Kind, k)
			}
		}
		// Open functions must not panic either, whatever the tables say.
		OpenRoster(b)
		OpenCommand(b)
		OpenGroup(b)
		OpenQueue(b)
		OpenLog(b)
		OpenLatest(b)
		OpenCall(b)
		OpenChannel(b)
	})
}

func FuzzRoster(f *testing.F) {
	c := RosterConfig{Segments: 3, Groups: 2, Workers: 3, Attachments: 4}
	f.Add(uint16(256), []byte{1, 2, 3}, uint16(4096), []byte{255, 255, 255, 255})
	f.Add(uint16(256+28), []byte{255, 255, 255, 255, 255, 255, 255, 255}, uint16(256+56), []byte{255, 255, 255, 255, 255, 255, 255, 127})
	f.Fuzz(func(t *testing.T, at1 uint16, p1 []byte, at2 uint16, p2 []byte) {
		b := heap(RosterSize(c))
		r, err := FormatRoster(b, header("roster"), c)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := r.SetWorker(i, Worker{Name: "w", Reason: "why"}); err != nil {
				t.Fatal(err)
			}
		}
		r.AddSegment(Segment{Name: "roster", Kind: KindRoster})
		r.AddGroup(Group{Name: "w", Count: 3})
		corrupt(b, at1, p1)
		read := func(r *Roster) { // a reader that had opened it before, and one that opens it now
			r.Daemon()
			r.Segments()
			r.Groups()
			r.Workers()
			for i := range 8 {
				r.Worker(i - 1)
				r.Attachment(uint16(i))
			}
		}
		read(r)
		corrupt(b, at2, p2)
		read(r)
		if r, err := OpenRoster(b); err == nil {
			read(r)
		}
	})
}

func FuzzCommand(f *testing.F) {
	f.Add(uint16(256), []byte{1}, uint16(1024), []byte{1, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, at1 uint16, p1 []byte, at2 uint16, p2 []byte) {
		b := heap(CommandSize(2, 3))
		c, err := FormatCommand(b, header("command"), 2, 3)
		if err != nil {
			t.Fatal(err)
		}
		use := func(c *Command) {
			for i := range c.Workers() {
				if c.Groups() > 0 { // a damaged count may say 0
					c.Arm(i, 0)
				}
				c.WorkerDesired(i)
				Flagged(c.WorkerQuit(i))
				c.RestartCount(i)
			}
			for i := range c.Groups() {
				c.GroupDesired(i)
				Flagged(c.GroupQuit(i))
			}
			c.RegionDesired()
		}
		corrupt(b, at1, p1)
		use(c)
		corrupt(b, at2, p2)
		if c, err := OpenCommand(b); err == nil {
			use(c)
			if c.Workers() > 1000 || c.Groups() > 1000 {
				t.Fatalf("%d workers, %d groups in %d bytes", c.Workers(), c.Groups(), len(b))
			}
		}
	})
}

// Whatever stands in the words of a queue: every operation returns, in bounded time, with a result or an error.
func FuzzQueueWords(f *testing.F) {
	f.Add(uint16(256+64), []byte{255, 255, 255, 255, 255, 255, 255, 127}, uint16(4096), []byte{0x13, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255})
	f.Add(uint16(256+128), []byte{9}, uint16(4096), []byte{2, 0, 0, 0, 0, 0, 0, 0, 57, 0, 0, 0})
	f.Add(uint16(256+192), []byte{255, 255, 255, 255, 255, 255, 255, 255}, uint16(4160), []byte{15})
	f.Fuzz(func(t *testing.T, at1 uint16, p1 []byte, at2 uint16, p2 []byte) {
		o := QueueOptions{Slots: 4, SlotSize: 48, MaxDeliveries: 2}
		n, _ := QueueSize(o)
		b := heap(n)
		q, err := FormatQueue(b, header("jobs"), o)
		if err != nil {
			t.Fatal(err)
		}
		do := QueueOptions{Slots: 2, SlotSize: 48 + SizeofDeadLetter, DeadLetter: true}
		dn, _ := QueueSize(do)
		dead, err := FormatQueue(heap(dn), header("jobs.dead"), do)
		if err != nil {
			t.Fatal(err)
		}
		corrupt(b, at1, p1)
		use := func(q *Queue) {
			for i := range 12 {
				if l, err := q.TryLoan(2); err == nil {
					if got := len(q.LoanBytes(l)); got != 48 {
						t.Fatalf("a loan of %d bytes", got)
					}
					if i%3 == 2 {
						q.Abort(l)
					} else {
						q.Commit(l, i)
					}
				}
				l, err := q.TryReceive(3)
				var c *CorruptError
				switch {
				case err == nil:
					if got := len(q.LeaseBytes(l)); got > 48 {
						t.Fatalf("a message of %d bytes", got)
					}
					if i%4 == 1 {
						q.Nack(l)
					} else {
						q.Ack(l)
					}
				case errors.As(err, &c):
					if c.Offset < 0 || c.Offset >= int64(len(b)) {
						t.Fatalf("damage outside of the segment: %v", c)
					}
				}
				if i == 5 {
					corrupt(b, at2, p2)
				}
				q.MoveDead(dead, 1)
				q.Stat()
			}
			q.Repair(func(o uint16) bool { return o != 0 })
			ticket := q.Receivers.Register()
			q.Receivers.Ring(1)
			q.Receivers.Unregister(ticket)
		}
		begin := time.Now()
		use(q)
		if q, err := OpenQueue(b); err == nil {
			if q.slotSize > len(b) {
				t.Fatalf("slots of %d bytes in %d", q.slotSize, len(b))
			}
			q.Stat()
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("an operation took seconds")
		}
	})
}

// Whatever stands in the words of a lane, before its ends are taken and while they are at work: every operation returns, in bounded time,
// with a result or an error with a place.
func FuzzLaneWords(f *testing.F) {
	const info = bodyOffset
	all := []byte{255, 255, 255, 255, 255, 255, 255, 255}
	f.Add(uint16(info+OffsetofQueueInfoHead), all, uint16(info+OffsetofQueueInfoTail), []byte{9})
	f.Add(uint16(info+OffsetofQueueInfoTail), all, uint16(info+OffsetofQueueInfoAcked), []byte{0, 0, 1})
	f.Add(uint16(info+OffsetofQueueInfoAcked), []byte{200}, uint16(info+OffsetofQueueInfoReturned), []byte{7})
	f.Add(uint16(info+OffsetofQueueInfoSendOwner), []byte{9}, uint16(info+OffsetofQueueInfoReceiveOwner), []byte{9, 0, 1})
	f.Add(uint16(queueSlots), []byte{0x32, 0, 0, 4, 0, 0, 0, 0, 56, 0, 0, 0, 3, 3, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255}, uint16(queueSlots+8), []byte{57})
	f.Add(uint16(queueSlots+64), []byte{0x23, 0, 0, 0, 1}, uint16(queueSlots+128), []byte{4, 0, 0, 8, 9, 9, 9, 9, 255, 255, 0, 0, 127, 1})
	f.Fuzz(func(t *testing.T, at1 uint16, p1 []byte, at2 uint16, p2 []byte) {
		o := QueueOptions{Slots: 4, SlotSize: 48, MaxDeliveries: 2, Lane: true}
		n, _ := QueueSize(o)
		b := heap(n)
		q, err := FormatQueue(b, header("jobs"), o)
		if err != nil {
			t.Fatal(err)
		}
		do := QueueOptions{Slots: 2, SlotSize: 48 + SizeofDeadLetter, DeadLetter: true}
		dn, _ := QueueSize(do)
		dead, err := FormatQueue(heap(dn), header("jobs.dead"), do)
		if err != nil {
			t.Fatal(err)
		}
		check := func(err error) {
			var c *CorruptError
			var end *EndError
			switch {
			case err == nil, errors.Is(err, ErrEmpty), errors.Is(err, ErrFull), errors.Is(err, ErrLost), errors.As(err, &end):
			case errors.As(err, &c):
				if c.Offset < 0 || c.Offset >= int64(len(b)) {
					t.Fatalf("damage outside of the segment: %v", c)
				}
			default:
				t.Fatal(err)
			}
		}
		lane := func() *Lane {
			l, err := NewLane(q)
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		use := func(in, out *Lane) {
			var loans []Loan
			var leases []Lease
			for i := range 16 {
				check(in.Send(2, make([]byte, i)))
				if l, err := in.TryLoan(2); err == nil {
					if got := len(q.LoanBytes(l)); got != 48 {
						t.Fatalf("a loan of %d bytes", got)
					}
					loans = append(loans, l)
				} else {
					check(err)
				}
				if n := len(loans); n > i%3 { // now the newest, now the oldest
					k := i % 2 * (n - 1)
					l := loans[k]
					loans = append(loans[:k], loans[k+1:]...)
					switch i % 4 {
					case 0:
						check(in.Commit(l, i))
					case 1:
						check(in.Abort(l))
					default:
						w := NewFrame(q.LoanBytes(l))
						w.Next(4)
						w.Next(i % 5)
						check(in.CommitFrame(l, &w))
					}
				}
				p, lease, err := out.ReceiveTo(3, nil)
				check(err)
				if len(p) > 48 {
					t.Fatalf("a message of %d bytes", len(p))
				}
				if lease.Open() > 0 {
					leases = append(leases, lease)
				}
				if lease, err := out.TryReceive(3); err == nil {
					leases = append(leases, lease)
				} else {
					check(err)
				}
				if n := len(leases); n > i%3 {
					k := i % 2 * (n - 1)
					lease := leases[k]
					leases = append(leases[:k], leases[k+1:]...)
					if got := len(q.LeaseBytes(lease)); got > 48 {
						t.Fatalf("a message of %d bytes", got)
					}
					fr, err := q.Frame(lease)
					check(err)
					switch {
					case i%4 == 0:
						check(out.Nack(lease))
					case i%4 == 1 && err == nil:
						for k := range fr.Len() {
							if len(fr.At(k)) > 48 {
								t.Fatal("a message outside of its slot")
							}
							check(out.AckMessage(&lease, &fr, k))
						}
					case i%4 == 2:
						check(out.Return(lease))
					default:
						check(out.Ack(lease))
					}
				}
				if i == 7 {
					corrupt(b, at2, p2)
				}
				_, err = q.MoveDead(dead, 1)
				check(err)
				q.Stat()
				q.Summary()
			}
		}
		// The ends for one goroutine, if nothing is out.
		ends := func(in, out *Lane) {
			p, err1 := in.Producer(2)
			c, err2 := out.Consumer(3)
			if err1 != nil || err2 != nil {
				return
			}
			for i := range 16 {
				_, err := p.SendRun(make([]byte, 3*(i+1)), 3)
				check(err)
				if n := p.Room(); n < 0 || n > 4 {
					t.Fatalf("room for %d", n)
				}
				if l, err := p.TryLoan(); err != nil {
					check(err)
				} else if i%2 == 0 {
					_, err := p.CommitRun(l, make([]byte, 40), 20)
					check(err)
				} else {
					check(p.Commit(l, i))
				}
				c.Pending()
				lease, b, n, err := c.TryReceive()
				if check(err); err != nil {
					continue
				}
				if len(b) > 48 || n < 0 || n > MaxFrame || n > 1 && len(b)%n != 0 {
					t.Fatalf("a run of %d messages in %d bytes", n, len(b))
				}
				f, err := c.l.q.Frame(lease)
				if check(err); err == nil && i%3 == 0 {
					check(c.AckMessage(&lease, &f, f.FirstOpen(0)))
				} else {
					check(c.Ack(lease))
				}
				if i == 7 {
					corrupt(b, at2, p2)
				}
			}
		}
		begin := time.Now()
		in, out := lane(), lane()
		corrupt(b, at1, p1)
		use(in, out)
		use(lane(), lane())
		ends(lane(), lane())
		q.Repair(func(o uint16) bool { return o != 0 })
		if q, err := OpenQueue(b); err == nil {
			q.Stat()
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("an operation took seconds")
		}
	})
}

// Whatever stands in the words of a latest value: every operation returns, in bounded time, with a result or an error, and a reader gets
// no more than a slot holds.
func FuzzLatestWords(f *testing.F) {
	f.Add(uint16(256+64), []byte{255, 1}, uint16(4096), []byte{0x21, 0, 0x10, 0, 0, 0, 0, 0, 255, 255, 255, 255})
	f.Add(uint16(256+64), []byte{1, 255, 255, 255, 255, 255, 255, 255}, uint16(4160), []byte{1})
	f.Add(uint16(256+128), []byte{255, 255, 255, 255, 255, 255, 255, 255}, uint16(4096), []byte{15, 1})
	f.Fuzz(func(t *testing.T, at1 uint16, p1 []byte, at2 uint16, p2 []byte) {
		o := LatestOptions{Slots: 4, SlotSize: 48}
		n, _ := LatestSize(o)
		b := heap(n)
		l, err := FormatLatest(b, header("price"), o)
		if err != nil {
			t.Fatal(err)
		}
		check := func(err error) {
			var c *CorruptError
			var full *FullError
			switch {
			case err == nil, errors.Is(err, ErrEmpty), errors.Is(err, ErrOvertaken), errors.Is(err, ErrStale), errors.Is(err, ErrLost):
			case errors.As(err, &c):
				if c.Offset < 0 || c.Offset >= int64(len(b)) {
					t.Fatalf("damage outside of the segment: %v", c)
				}
			case errors.As(err, &full):
				if len(full.Owners) == 0 {
					t.Fatal("full, and nobody holds a slot")
				}
			default:
				t.Fatal(err)
			}
		}
		use := func(l *Latest) {
			for i := range 12 {
				_, err := l.Put(2, make([]byte, i))
				check(err)
				p, v, err := l.Get(nil)
				check(err)
				if len(p) > 48 {
					t.Fatalf("a value of %d bytes", len(p))
				}
				_, err = l.View(func(p []byte) error {
					if len(p) > 48 {
						t.Fatalf("a value of %d bytes in place", len(p))
					}
					return nil
				})
				check(err)
				_, err = l.CompareAndSet(3, v, p)
				check(err)
				if d, err := l.TryDraft(4); err == nil && i%3 == 0 {
					check(l.Discard(d))
				}
				if i == 5 {
					corrupt(b, at2, p2)
				}
				l.Stat()
			}
			l.Repair(func(o uint16) bool { return o == 4 })
			l.Repair(func(uint16) bool { return true })
			if l.Holds(func(uint16) bool { return true }) {
				t.Fatal("a slot is held after all owners' death")
			}
			ticket := l.Changes.Register()
			l.Changes.Broadcast()
			l.Changes.Unregister(ticket)
			// One good put ends all damage that is no geometry.
			v, err := l.Put(2, []byte("good"))
			if err != nil {
				t.Fatal(err)
			}
			if p, got, err := l.Get(nil); err != nil || got != v || string(p) != "good" {
				t.Fatalf("after a good put: %q, version %d, %v; want version %d", p, got, err, v)
			}
		}
		begin := time.Now()
		corrupt(b, at1, p1)
		use(l)
		if l, err := OpenLatest(b); err == nil {
			if l.slotSize > len(b) {
				t.Fatalf("slots of %d bytes in %d", l.slotSize, len(b))
			}
			l.Stat()
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("an operation took seconds")
		}
	})
}

func FuzzLog(f *testing.F) {
	f.Add(uint16(256+64), []byte{8}, uint16(4096), []byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, at1 uint16, p1 []byte, at2 uint16, p2 []byte) {
		b := heap(LogSize(64<<10, 64<<10))
		l, err := FormatLog(b, header("log"), 64<<10, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			l.Write(Record{Time: time.Now(), Level: 6, Text: string(make([]byte, i*9))})
		}
		read := func(c *LogCursor) {
			for range 20000 {
				if _, _, ok, err := c.Next(); !ok || err != nil {
					return
				}
			}
			t.Fatal("the log never ends")
		}
		old := l.Oldest()
		corrupt(b, at1, p1)
		read(old)
		corrupt(b, at2, p2)
		if l, err := OpenLog(b); err == nil {
			read(l.Oldest())
			read(l.Newest())
		}
	})
}

// A word of the fuzzer's may be any word: composing and taking apart loses nothing.
func FuzzWord(f *testing.F) {
	f.Add(uint64(0x1234_5678_9abc_def0))
	f.Fuzz(func(t *testing.T, v uint64) {
		w := Word(v)
		back := MakeWord(w.Phase(), w.Owner(), w.Deliveries(), w.Lap())
		const passed = Word((1<<SlotPassedBits - 1)) << SlotPassedShift
		if back != w&^passed {
			t.Fatalf("%#x became %#x", w, back)
		}
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], v)
		_ = w.Phase().String()
	})
}
