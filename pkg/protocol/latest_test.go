package protocol

import (
	"bytes"
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

func newLatest(t testing.TB, o LatestOptions) *Latest {
	t.Helper()
	n, err := LatestSize(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := FormatLatest(heap(n), header("price"), o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// latestStarts are first versions worth testing: none, and shortly before the 44 bits of a slot's word, their sign, and the 56 bits of
// Current wrap.
func latestStarts(slots int) []uint64 {
	n := uint64(slots)
	return []uint64{0, 1<<43 - 2*n, 1<<44 - 2*n, 1<<56 - 2*n, 1<<56 - 2*n + 1}
}

// after returns the version n after v.
func after(v, n uint64) uint64 {
	const most = 1<<56 - 1
	if v > most-n {
		return v - (most - n)
	}
	return v + n
}

func mustPut(t testing.TB, l *Latest, owner uint16, p []byte, want uint64) {
	t.Helper()
	if v, err := l.Put(owner, p); v != want || err != nil {
		t.Fatalf("put: version %d, %v; want %d", v, err, want)
	}
}

func mustGet(t testing.TB, l *Latest, p []byte, want uint64) {
	t.Helper()
	b, v, err := l.Get([]byte("head"))
	if string(b) != "head"+string(p) || v != want || err != nil {
		t.Fatalf("get: %.40q, version %d, %v; want %.40q, version %d", b, v, err, p, want)
	}
	var seen []byte
	v, err = l.View(func(p []byte) error {
		seen = bytes.Clone(p)
		return nil
	})
	if !bytes.Equal(seen, p) || v != want || err != nil {
		t.Fatalf("view: %.40q, version %d, %v; want %.40q, version %d", seen, v, err, p, want)
	}
}

func TestLatestVersions(t *testing.T) {
	for _, slots := range []int{4, 16} {
		for _, size := range []int{1, 48, 5000, copyChunk + 1} {
			for _, start := range latestStarts(slots) {
				l := newLatest(t, LatestOptions{Slots: slots, SlotSize: size, Start: start})
				if _, _, err := l.Get(nil); start == 0 && !errors.Is(err, ErrEmpty) {
					t.Fatalf("a new value: %v", err)
				}
				for n := range uint64(4 * slots) {
					p := bytes.Repeat([]byte{byte(n) | 1}, int(n*7919)%(size+1))
					mustPut(t, l, 2, p, after(start, n+1))
					mustGet(t, l, p, after(start, n+1))
				}
				if s := l.Stat(); s.Held != 0 || s.Aborted != 0 || s.Version != after(start, uint64(4*slots)) {
					t.Fatalf("at rest: %+v", s)
				}
			}
		}
	}
	l := newLatest(t, LatestOptions{Slots: 4, SlotSize: 8})
	if _, err := l.Put(2, make([]byte, 9)); err == nil {
		t.Error("9 bytes went into a slot of 8")
	}
}

func TestLatestGeometryIsRefused(t *testing.T) {
	for _, o := range []LatestOptions{{Slots: 2, SlotSize: 8}, {Slots: 5, SlotSize: 8}, {Slots: 512, SlotSize: 8}, {Slots: 4}, {Slots: 4, SlotSize: 1<<30 + 1}} {
		if _, err := LatestSize(o); err == nil {
			t.Errorf("%+v is a geometry", o)
		}
	}
}

func TestLatestCompareAndSet(t *testing.T) {
	for _, start := range latestStarts(4) {
		l := newLatest(t, LatestOptions{Slots: 4, SlotSize: 8, Start: start})
		v := start
		for n := range 12 {
			p := []byte{byte(n)}
			if now, err := l.CompareAndSet(2, v+7, p); !errors.Is(err, ErrStale) || now != v {
				t.Fatalf("for version %d at version %d: %d, %v", v+7, v, now, err)
			}
			now, err := l.CompareAndSet(2, v, p)
			if err != nil || now != after(v, 1) {
				t.Fatalf("for version %d: %d, %v", v, now, err)
			}
			v = now
			mustGet(t, l, p, v)
			// One that is overtaken after it looked gives its slot back.
			d, err := l.TryDraft(3)
			if err != nil {
				t.Fatal(err)
			}
			mustPut(t, l, 2, p, after(v, 1))
			if now, err := l.PublishIf(d, 0, v); !errors.Is(err, ErrStale) || now != after(v, 1) {
				t.Fatalf("overtaken: %d, %v", now, err)
			}
			v = after(v, 1)
			mustGet(t, l, p, v)
			if s := l.Stat(); s.Held != 0 || s.Aborted != uint64(n+1) {
				t.Fatalf("%+v", s)
			}
		}
	}
}

// Writers that stopped in the middle cost a slot each, and nothing else.
func TestLatestStoppedWritersCostASlotEach(t *testing.T) {
	for _, start := range latestStarts(8) {
		l := newLatest(t, LatestOptions{Slots: 8, SlotSize: 8, Start: start})
		v, n := start, byte(0)
		put := func() {
			n++
			v = after(v, 1)
			mustPut(t, l, 2, []byte{n}, v)
			mustGet(t, l, []byte{n}, v)
		}
		put()
		var held []Draft
		for owner := range uint16(7) {
			for range 20 {
				put()
			}
			if owner == 6 {
				break // one slot is left beside the newest value's
			}
			d, err := l.TryDraft(10 + owner)
			if err != nil {
				t.Fatalf("with %d held: %v", len(held), err)
			}
			held = append(held, d)
		}
		last, err := l.TryDraft(99)
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.Put(2, []byte{1})
		var full *FullError
		if !errors.Is(err, ErrFull) || !errors.As(err, &full) || len(full.Owners) != 7 || full.Segment != "price" {
			t.Fatalf("with all held: %v", err)
		}
		mustGet(t, l, []byte{n}, v)
		for k, d := range held { // they go on after all that time, and the last wins
			l.DraftBytes(d)[0] = 100 + byte(k)
			v = after(v, 1)
			if got, err := l.Publish(d, 1); got != v || err != nil {
				t.Fatalf("held draft %d: version %d, %v; want %d", k, got, err, v)
			}
			n = 100 + byte(k)
			mustGet(t, l, []byte{n}, v)
			if _, err := l.Publish(d, 1); !errors.Is(err, ErrLost) {
				t.Fatalf("published twice: %v", err)
			}
			put()
		}
		if err := l.Discard(last); err != nil {
			t.Fatal(err)
		}
		if err := l.Discard(last); !errors.Is(err, ErrLost) {
			t.Fatalf("discarded twice: %v", err)
		}
		put()
	}
}

func TestLatestRepair(t *testing.T) {
	for _, start := range latestStarts(4) {
		l := newLatest(t, LatestOptions{Slots: 4, SlotSize: 8, Start: start})
		mustPut(t, l, 2, []byte("old"), after(start, 1))
		d, err := l.TryDraft(3)
		if err != nil {
			t.Fatal(err)
		}
		copy(l.DraftBytes(d), "half a va")
		if r := l.Repair(func(o uint16) bool { return o == 4 }); r != (Repaired{}) {
			t.Fatalf("repaired %+v for one who holds nothing", r)
		}
		dead := func(o uint16) bool { return o == 3 }
		if r := l.Repair(dead); r.Loans != 1 || l.Holds(dead) {
			t.Fatalf("repaired %+v", r)
		}
		if r := l.Repair(dead); r != (Repaired{}) {
			t.Fatalf("a second repair: %+v", r)
		}
		mustGet(t, l, []byte("old"), after(start, 1))
		if _, err := l.Publish(d, 1); !errors.Is(err, ErrLost) {
			t.Fatalf("publish of what repair took: %v", err)
		}
		mustPut(t, l, 2, []byte("new"), after(start, 2))
		mustGet(t, l, []byte("new"), after(start, 2))
	}
}

// A reader is overtaken when its version's slot is claimed again, and takes the next version; it gives up after ReadTries.
func TestLatestOvertaken(t *testing.T) {
	l := newLatest(t, LatestOptions{Slots: 4, SlotSize: 8})
	mustPut(t, l, 2, []byte("1"), 1)
	calls := 0
	v, err := l.View(func(p []byte) error {
		if calls++; calls > 1 {
			return nil
		}
		for i := range 3 { // the slot is claimed again by the fourth
			mustPut(t, l, 2, []byte("x"), uint64(2+i))
		}
		if string(p) != "1" {
			t.Errorf("version 1 became %q while three others were put", p)
		}
		mustPut(t, l, 2, []byte("y"), 5)
		return errors.New("does not count")
	})
	if v != 5 || err != nil || calls != 2 {
		t.Fatalf("view: version %d, %v, %d calls", v, err, calls)
	}
	calls = 0
	_, err = l.View(func([]byte) error {
		calls++
		for range 4 {
			if _, err := l.Put(2, nil); err != nil {
				t.Fatal(err)
			}
		}
		return nil
	})
	if !errors.Is(err, ErrOvertaken) || calls != ReadTries {
		t.Fatalf("view: %v after %d calls", err, calls)
	}
	if want := errors.New("fn's own"); true {
		if _, err := l.View(func([]byte) error { return want }); err != want {
			t.Fatalf("view: %v", err)
		}
	}
}

func TestLatestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		slots := 4 << rapid.IntRange(0, 1).Draw(rt, "slots")
		start := rapid.SampledFrom(latestStarts(slots)).Draw(rt, "start")
		l := newLatest(t, LatestOptions{Slots: slots, SlotSize: 16, Start: start})
		version, value := start, []byte{}
		var drafts []Draft
		payload := func(rt *rapid.T) []byte {
			return rapid.SliceOfN(rapid.Byte(), 0, 16).Draw(rt, "value")
		}
		owner := func(rt *rapid.T) uint16 { return uint16(rapid.IntRange(2, 4).Draw(rt, "owner")) }
		expect := func(v uint64, err error, p []byte) {
			version = after(version, 1)
			if v != version || err != nil {
				rt.Fatalf("version %d, %v; want %d", v, err, version)
			}
			value = p
		}
		full := func() bool {
			n := len(drafts)
			if version == 0 {
				return n == slots
			}
			return n == slots-1
		}
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				p := payload(rt)
				v, err := l.Put(owner(rt), p)
				if full() {
					if !errors.Is(err, ErrFull) {
						rt.Fatalf("all slots are held, and put says %d, %v", v, err)
					}
					return
				}
				expect(v, err, p)
			},
			"compare and set": func(rt *rapid.T) {
				p, for_ := payload(rt), version
				if rapid.Bool().Draw(rt, "for another") {
					for_ = after(version, uint64(rapid.IntRange(1, 9).Draw(rt, "by")))
				}
				v, err := l.CompareAndSet(owner(rt), for_, p)
				switch {
				case for_ != version:
					if !errors.Is(err, ErrStale) || v != version {
						rt.Fatalf("stale: version %d, %v; want %d", v, err, version)
					}
				case full():
					if !errors.Is(err, ErrFull) {
						rt.Fatalf("full: %v", err)
					}
				default:
					expect(v, err, p)
				}
			},
			"draft": func(rt *rapid.T) {
				d, err := l.TryDraft(owner(rt))
				if full() != errors.Is(err, ErrFull) {
					rt.Fatalf("draft number %d: %v", len(drafts)+1, err)
				}
				if err == nil {
					drafts = append(drafts, d)
				}
			},
			"publish": func(rt *rapid.T) {
				if len(drafts) == 0 {
					return
				}
				i := rapid.IntRange(0, len(drafts)-1).Draw(rt, "which")
				d, p := drafts[i], payload(rt)
				drafts = append(drafts[:i:i], drafts[i+1:]...)
				copy(l.DraftBytes(d), p)
				if rapid.Bool().Draw(rt, "if") {
					if v, err := l.PublishIf(d, len(p), after(version, 1)); !errors.Is(err, ErrStale) || v != version {
						rt.Fatalf("stale: version %d, %v", v, err)
					}
					return
				}
				v, err := l.Publish(d, len(p))
				expect(v, err, p)
			},
			"discard": func(rt *rapid.T) {
				if n := len(drafts); n > 0 {
					if err := l.Discard(drafts[n-1]); err != nil {
						rt.Fatal(err)
					}
					drafts = drafts[:n-1]
				}
			},
			"a writer dies": func(rt *rapid.T) {
				who := owner(rt)
				var rest []Draft
				for _, d := range drafts {
					if d.word.Owner() != who {
						rest = append(rest, d)
					}
				}
				if r := l.Repair(func(o uint16) bool { return o == who }); r.Loans != len(drafts)-len(rest) {
					rt.Fatalf("repair gave back %+v of %d slots", r, len(drafts)-len(rest))
				}
				drafts = rest
			},
			"": func(rt *rapid.T) {
				b, v, err := l.Get(nil)
				if version == 0 {
					if !errors.Is(err, ErrEmpty) {
						rt.Fatalf("empty: %v", err)
					}
				} else if v != version || err != nil || !bytes.Equal(b, value) {
					rt.Fatalf("get: %x, version %d, %v; want %x, version %d", b, v, err, value, version)
				}
				if s := l.Stat(); s.Held != len(drafts) || s.Version != version {
					rt.Fatalf("%+v; want %d held, version %d", s, len(drafts), version)
				}
			},
		})
	})
}

// fillValue writes value n over size bytes so that any mixture of two values shows.
func fillValue(p []byte, n uint64) {
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], n*0x9e3779b97f4a7c15+uint64(i))
	}
}

// valueOf returns n of what fillValue wrote, and false if it is a mixture.
func valueOf(p []byte) (uint64, bool) {
	const inverse = 0xf1de83e19937733d // of 0x9e37… modulo 1<<64
	n := binary.LittleEndian.Uint64(p) * inverse
	for i := 0; i+8 <= len(p); i += 8 {
		if binary.LittleEndian.Uint64(p[i:]) != n*0x9e3779b97f4a7c15+uint64(i) {
			return n, false
		}
	}
	return n, true
}

// Writers at full speed, one of which keeps losing its slot to a repair, and readers that look at every byte.
func TestLatestStress(t *testing.T) {
	for _, size := range []int{64, 4096, 256 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			l := newLatest(t, LatestOptions{Slots: 4, SlotSize: size, Start: 1<<44 - 50})
			d, err := l.TryDraft(2)
			if err != nil {
				t.Fatal(err)
			}
			fillValue(l.DraftBytes(d), 0)
			if _, err := l.Publish(d, size); err != nil {
				t.Fatal(err)
			}
			var next atomic.Uint64
			var stop atomic.Bool
			var wg, readers sync.WaitGroup
			const writers = 3
			for w := range writers {
				wg.Go(func() {
					p := make([]byte, size)
					for n := 0; !stop.Load(); n++ {
						if w == 0 && n%3 == 0 {
							if d, err := l.TryDraft(9); err == nil {
								copyShared(l.DraftBytes(d)[:size/2], p)
								l.Repair(func(o uint16) bool { return o == 9 })
							}
						}
						fillValue(p, next.Add(1))
						if _, err := l.Put(uint16(2+w), p); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			var whole, overtaken atomic.Uint64
			for range 2 {
				readers.Go(func() {
					var buf []byte
					var last uint64
					for range max(200, 2_000_000/size) {
						b, v, err := l.Get(buf[:0])
						if errors.Is(err, ErrOvertaken) {
							overtaken.Add(1)
							runtime.Gosched()
							continue
						}
						if err != nil {
							t.Error(err)
							return
						}
						if n, ok := valueOf(b); !ok || len(b) != size {
							t.Errorf("torn: version %d, value %d", v, n)
							return
						}
						if v < last {
							t.Errorf("version %d after %d", v, last)
							return
						}
						last, buf = v, b
						whole.Add(1)
					}
				})
			}
			readers.Wait()
			stop.Store(true)
			wg.Wait()
			t.Logf("%d values put, %d read whole, %d times overtaken for good", next.Load(), whole.Load(), overtaken.Load())
			if whole.Load() == 0 {
				t.Error("nothing was read")
			}
			if s := l.Stat(); s.Held != 0 {
				t.Errorf("at rest: %+v", s)
			}
		})
	}
}

// A put makes a system call only if somebody sleeps, and wakes all of them.
func TestLatestWakesAll(t *testing.T) {
	l := newLatest(t, LatestOptions{Slots: 4, SlotSize: 8})
	mustPut(t, l, 2, nil, 1)
	if v := l.Changes.Value(); v != 0 {
		t.Fatalf("the bell was rung %d times and nobody sleeps", v)
	}
	const sleepers = 5
	var wg sync.WaitGroup
	for range sleepers {
		wg.Go(func() {
			for v := uint64(1); v < 20; {
				bell := l.Changes.Value()
				ticket := l.Changes.Register()
				if l.Version() == v {
					if err := sys.FutexWait(l.Changes.Word(), bell, 20*time.Second); err != nil && !errors.Is(err, sys.ErrAgain) {
						t.Error(err)
					}
				}
				l.Changes.Unregister(ticket)
				v = l.Version()
			}
		})
	}
	for v := uint64(2); v <= 20; v++ {
		for l.Changes.Sleepers() == 0 {
			runtime.Gosched()
		}
		mustPut(t, l, 2, nil, v)
	}
	wg.Wait()
	if l.Changes.Sleepers() != 0 { // registered after the last wake, and saw the version
		mustPut(t, l, 2, nil, 21)
	}
	if n := l.Changes.Sleepers(); n != 0 {
		t.Errorf("%d are counted as asleep after a wake of all", n)
	}
}
