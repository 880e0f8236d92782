package protocol

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// One writes without a lock, others with it: beside a reader that is overtaken all the time, and into a ring that keeps everything. Numbers without gaps but for what is lost,
// nothing torn, all of each writer's in order.
func TestLogOwnerStress(t *testing.T) {
	for _, size := range []int64{MinInstanceLog, 64 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) { stressOwner(t, size) })
	}
}

func stressOwner(t *testing.T, size int64) {
	l, _ := newInstanceLog(t, size, 0)
	w := l.Resume(1)
	o, err := w.Own()
	if err != nil {
		t.Fatal(err)
	}
	const quick, others, most, sizes = 200_000, 2, 50_000, 60
	text, attrs := strings.Repeat("x", sizes), strings.Repeat("y", sizes)
	length := func(i, who int) int { return (i*31 + who) % sizes }
	c := l.Oldest()
	var writers sync.WaitGroup
	var total atomic.Uint64
	write := func(write func(*LogEntry), who int, goesOn func(i int) bool) {
		e := &LogEntry{Level: who, Source: "s"}
		i := 0
		for ; goesOn(i); i++ {
			k := length(i, who)
			e.UnixNs, e.Text, e.Attrs = int64(i), text[:k], []byte(attrs)[:k/3]
			write(e)
		}
		total.Add(uint64(i))
	}
	var ended atomic.Bool
	begun := make(chan struct{}, others) // the owner writes while both others do
	for k := range others {
		writers.Go(func() {
			write(w.Write, 1+k, func(i int) bool {
				if i == 1 {
					begun <- struct{}{}
				}
				return i < 2 || i < most && !ended.Load()
			})
		})
	}
	writers.Go(func() {
		for range others {
			<-begun
		}
		write(o.Write, 0, func(i int) bool { return i < quick })
		ended.Store(true)
	})
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	var next, lost uint64 = 1, 0
	last := [1 + others]int64{-1, -1, -1}
	for {
		r, n, ok, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			select {
			case <-done:
				if c.More() {
					continue
				}
			default:
				continue
			}
			break
		}
		i, who := r.Time.UnixNano(), r.Level
		if who < 0 || who > others {
			t.Fatalf("torn: %+v", r)
		}
		k := length(int(i), who)
		if r.Text != text[:k] || r.Attrs != attrs[:k/3] || r.Source != "s" || r.Seq != next+n || i <= last[who] || n == 0 && lost == 0 && i != last[who]+1 {
			t.Fatalf("torn, or out of order: %+v, %d lost, %d was next, %d was the last of writer %d", r, n, next, last[who], who)
		}
		next, lost, last[who] = r.Seq+1, lost+n, i
	}
	if next-1 != total.Load() || size > MinInstanceLog && lost > 0 {
		t.Errorf("the last record is number %d of %d, %d lost", next-1, total.Load(), lost)
	}
	t.Logf("%d of %d lost", lost, total.Load())
}

func TestLogOwner(t *testing.T) {
	l, _ := newInstanceLog(t, MinInstanceLog, 0)
	w := l.Resume(1)
	o, err := w.Own()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Own(); !errors.Is(err, ErrLogHeld) {
		t.Errorf("a second owner: %v", err)
	}
	c := l.Oldest()
	next := func(want string) {
		t.Helper()
		if r, lost, ok, err := c.Next(); err != nil || !ok || lost != 0 || !strings.HasPrefix(r.Text, want) {
			t.Errorf("%.50v, %d lost, %v, %v; want %q", r, lost, ok, err, want)
		}
	}
	o.Write(&LogEntry{Text: "own"})
	w.Write(&LogEntry{Text: "other"})
	next("own")
	next("other")
	for n := range l.MaxEntry() + 2 { // every place of a chunk's end, and what is cut
		o.Write(&LogEntry{Text: strings.Repeat("z", n)})
		next(strings.Repeat("z", min(n, l.MaxEntry()-200)))
	}
	l.bell.Store(0)
	l.nap.Store(uint32(LogNapSleeps))
	o.Write(&LogEntry{Text: "wakes"})
	if l.bell.Load() != 1 || LogNap(l.nap.Load()) != LogNapAwake {
		t.Error("the daemon was not woken")
	}
	o.Close()
	w.Write(&LogEntry{Text: "after"})
	next("wakes")
	next("after")
	if o, err = w.Own(); err != nil {
		t.Fatal(err)
	}
	o.Write(&LogEntry{Text: "again"})
	next("again")
}
