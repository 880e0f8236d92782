package protocol

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// newInstanceLog makes the log of an instance in ordinary memory, whose first position is start, a multiple of the ring.
func newInstanceLog(t interface{ Fatal(...any) }, size int64, start uint64) (*InstanceLog, []byte) {
	o := GroupConfig{Instances: 1, LogSize: size}
	b := heap(GroupSize(o))
	g, err := FormatGroup(b, header("group/w"), o)
	if err != nil {
		t.Fatal(err)
	}
	l := g.Log(0)
	l.info.Head.Store(start)
	l.info.Limit.Store(start)
	return l, b
}

// entryOf is record number n: every field depends on it.
func entryOf(n uint64, size int) *LogEntry {
	e := &LogEntry{UnixNs: int64(n), Level: int(n % 8), Text: strings.Repeat(string(rune('a'+n%26)), size/2), Source: fmt.Sprintf("f.go:%d", n%10)}
	for len(e.Attrs) < size-len(e.Text) {
		e.Attrs = append(e.Attrs, byte('A'+n%26))
	}
	return e
}

func checkEntry(r Record, size int) error {
	want := entryOf(r.Seq, size)
	if r.Text != want.Text || r.Attrs != string(want.Attrs) || r.Source != want.Source || r.Time.UnixNano() != want.UnixNs || r.Level != want.Level || r.Number != uint32(r.Seq) {
		return fmt.Errorf("torn: %.200v", r)
	}
	return nil
}

// A plain model: what is written is read by readers that begin anywhere and are as slow as they like, in order, each record as a whole; what is missing
// is counted; instances follow each other.
func TestInstanceLogModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.SampledFrom([]uint64{0, MinInstanceLog * 3, 1<<63 - MinInstanceLog}).Draw(t, "start")
		l, _ := newInstanceLog(t, MinInstanceLog, start)
		w := l.Resume(1)
		var sizes []int // of record number i+1
		type reader struct {
			c    *InstanceCursor
			next uint64
		}
		readers := []*reader{{c: l.From(l.Head())}} // it may be overtaken before its first record, and cannot know by how many
		if start == 0 {
			readers = append(readers, &reader{l.Oldest(), 1})
		}
		written := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				n := rapid.SampledFrom([]int{0, 1, 7, 8, 60, 300, l.MaxEntry() - 6}).Draw(t, "size")
				sizes = append(sizes, n)
				written++
				w.Write(entryOf(written, n))
				if l.info.Limit.Load()-l.Head() >= l.chunk() || w.head != l.Head() {
					t.Fatalf("limit %d, head %d", l.info.Limit.Load(), l.Head())
				}
			},
			"resume": func(t *rapid.T) {
				w = l.Resume(2)
				if w.seq != written || w.head != l.Head() {
					t.Fatalf("the next instance goes on behind number %d at %d, want %d at %d", w.seq, w.head, written, l.Head())
				}
			},
			"join": func(t *rapid.T) { readers = append(readers, &reader{c: l.Oldest()}) },
			"read": func(t *rapid.T) {
				r := readers[rapid.IntRange(0, len(readers)-1).Draw(t, "reader")]
				for range rapid.IntRange(1, 100).Draw(t, "records") {
					got, lost, ok, err := r.c.Next()
					if err != nil {
						t.Fatal(err)
					}
					if !ok {
						if r.next != 0 && r.next != written+1 {
							t.Fatalf("the reader is at its end before number %d of %d", r.next, written)
						}
						break
					}
					if r.next != 0 && got.Seq != r.next+lost {
						t.Fatalf("number %d came and %d were lost, %d was next", got.Seq, lost, r.next)
					}
					if err := checkEntry(got, sizes[got.Seq-1]); err != nil {
						t.Fatal(err)
					}
					r.next = got.Seq + 1
				}
			},
		})
	})
}

// A reader that is overtaken all the time beside several goroutines that write: nothing is torn.
func TestInstanceLogStress(t *testing.T) {
	l, _ := newInstanceLog(t, MinInstanceLog, 0)
	w := l.Resume(1)
	c := l.Oldest() // before the first record: one that came later would not know what it has missed
	const each = 20000
	var writers sync.WaitGroup
	for g := range 3 {
		writers.Go(func() {
			for i := range each {
				n := (i*31 + g) % 500
				w.Write(&LogEntry{UnixNs: int64(n), Text: strings.Repeat("x", n), Attrs: []byte(strings.Repeat("y", n/3))})
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	var next, lost uint64 = 1, 0
	for next <= 3*each {
		r, n, ok, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			select {
			case <-done:
				if !c.More() {
					t.Fatalf("the last record is number %d", next-1)
				}
			default:
			}
			continue
		}
		if size := int(r.Time.UnixNano()); len(r.Text) != size || strings.Trim(r.Text, "x") != "" || len(r.Attrs) != size/3 || strings.Trim(r.Attrs, "y") != "" || r.Seq != next+n {
			t.Fatalf("torn, or out of order: %.200v, %d lost, %d was next", r, n, next)
		}
		next, lost = r.Seq+1, lost+n
	}
	t.Logf("%d of %d lost", lost, 3*each)
}

// Whatever the memory says, readers end, and the next instance goes on.
func FuzzInstanceLog(f *testing.F) {
	f.Add(uint16(8192), []byte{8}, uint16(8448), []byte{255, 255, 255, 255})
	f.Add(uint16(8192), []byte{255, 255, 255, 255, 255, 255, 255, 255, 1}, uint16(8448), []byte{0})
	f.Add(uint16(8448), []byte{0, 0, 0, 0}, uint16(256+112), []byte{0, 48})
	f.Fuzz(func(t *testing.T, at1 uint16, p1 []byte, at2 uint16, p2 []byte) {
		l, b := newInstanceLog(t, MinInstanceLog, 0)
		w := l.Resume(1)
		for i := range uint64(100) {
			w.Write(entryOf(i+1, int(i*37%900)))
		}
		read := func(c *InstanceCursor) {
			errs := 0
			for n := 0; ; n++ {
				_, _, ok, err := c.Next()
				if !ok && err == nil {
					return
				}
				if err != nil {
					errs++
				}
				if n > 2000 || errs > 2*logChunks {
					t.Fatal("the log never ends")
				}
			}
		}
		old := l.Oldest()
		corrupt(b, at1, p1)
		read(old)
		w.Write(entryOf(101, 100))
		corrupt(b, at2, p2)
		g, err := OpenGroup(b)
		if err != nil || g.Cap() == 0 || g.Log(0) == nil {
			return
		}
		l = g.Log(0)
		read(l.Oldest())
		next := l.Resume(2)
		c := l.From(next.head)
		next.Write(&LogEntry{Text: "of the next"})
		if r, _, ok, err := c.Next(); err != nil || !ok || r.Text != "of the next" {
			t.Fatalf("the next instance's record: %v, %v, %v", r, ok, err)
		}
	})
}

// A writer rings once when the daemon sleeps, and when half the ring is full when it naps.
func TestInstanceLogRings(t *testing.T) {
	l, _ := newInstanceLog(t, MinInstanceLog, 0)
	w := l.Resume(1)
	rang := func() bool { return l.bell.Swap(0) != 0 }
	w.Write(&LogEntry{Text: "awake"})
	if rang() {
		t.Error("rang a daemon that is awake")
	}
	l.nap.Store(uint32(LogNapSleeps))
	w.Write(&LogEntry{Text: "asleep"})
	if !rang() || LogNap(l.nap.Load()) != LogNapAwake {
		t.Error("did not wake a daemon that sleeps")
	}
	w.Write(&LogEntry{Text: "once"})
	if rang() {
		t.Error("rang twice")
	}
	l.nap.Store(uint32(LogNapNaps))
	var at []int
	for i := range 40 {
		w.Write(&LogEntry{Text: strings.Repeat("x", 900)})
		if rang() {
			at = append(at, i)
			l.nap.Store(uint32(LogNapNaps))
		}
	}
	if len(at) < 3 || len(at) > 6 || at[0] < 6 {
		t.Errorf("rang after records %d", at)
	}
}

// Records of every size up to the largest, and one byte more.
func TestInstanceLogSizes(t *testing.T) {
	l, _ := newInstanceLog(t, MinInstanceLog, 0)
	w := l.Resume(1)
	c := l.Oldest()
	for _, n := range slices.Concat([]int{0, 1, 2, 3, 7, 8, 9}, []int{l.MaxEntry() - 1, l.MaxEntry(), l.MaxEntry() + 1, 100_000}, rand.Perm(l.MaxEntry())[:200]) {
		text := strings.Repeat("z", n)
		w.Write(&LogEntry{Text: text, UnixNs: time.Now().UnixNano()})
		r, lost, ok, err := c.Next()
		if err != nil || !ok || lost != 0 || n <= l.MaxEntry() && r.Text != text || n > l.MaxEntry() && (!strings.HasPrefix(text, r.Text) || r.Attrs == "") {
			t.Fatalf("text of %d bytes: %.100v, %d lost, %v, %v", n, r, lost, ok, err)
		}
	}
}
