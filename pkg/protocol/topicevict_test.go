package protocol

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
)

func evictionTopic(t *testing.T, cursors int) *Topic {
	t.Helper()
	o := TopicOptions{Slots: 4, SlotSize: 48, Cursors: cursors}
	n, err := TopicSize(o)
	noErr(t, err)
	c, err := FormatTopic(heap(n), header("news"), o)
	noErr(t, err)
	return c
}

// told tells of all evictions, as the daemon does, and returns them in words.
func told(c *Topic) (all []string) {
	for _, e := range c.Evictions() {
		all = append(all, fmt.Sprintf("%d: %d by %v of %d", e.Row, e.Count, e.Cause, e.Owner))
		c.Telling(e, 1)
		c.ToldOf(e)
	}
	return all
}

// join subscribes and evicts, and closes if it is to.
func evicted(t *testing.T, c *Topic, owner uint16, why EvictCause, closes bool) *Subscriber {
	t.Helper()
	s, err := c.Subscribe(owner, FromNew)
	noErr(t, err)
	if !c.evict(s.index, s.state, why) {
		t.Fatal("not evicted")
	}
	if closes {
		noErr(t, s.Close())
	}
	return s
}

func TestEvictionsSayWhoAndWhy(t *testing.T) {
	c := evictionTopic(t, 2)
	wantEqual(t, len(told(c)), 0)
	slow := evicted(t, c, 7, EvictCauseTooSlow, false)
	evicted(t, c, 8, EvictCauseOperator, true)
	wantEqual(t, told(c), []string{"0: 1 by too-slow of 7", "1: 1 by operator of 8"})
	wantEqual(t, len(told(c)), 0)
	noErr(t, slow.Close())
	wantEqual(t, len(told(c)), 0)

	// One who was not evicted leaves no trace, and several of a row are told in their order.
	s, err := c.Subscribe(9, FromNew)
	noErr(t, err)
	noErr(t, s.Close())
	for _, o := range []uint16{10, 11, 12} {
		evicted(t, c, o, EvictCauseTooSlow, true)
	}
	evicted(t, c, 13, EvictCauseOperator, true)
	wantEqual(t, told(c), []string{"0: 1 by too-slow of 10", "0: 1 by too-slow of 11", "0: 1 by too-slow of 12", "0: 1 by operator of 13"})
	wantEqual(t, int(c.Evicted()), 6)
}

// Where nobody looks, as many are kept as there is room for, by the other rows too; of the rest it is known how many, and why.
func TestEvictionsThatNobodyLooksAt(t *testing.T) {
	c := evictionTopic(t, 2)
	for i := range 2*keptEvictions + 3 {
		why := EvictCauseTooSlow
		if i%5 == 1 {
			why = EvictCauseOperator
		}
		evicted(t, c, uint16(20+i), why, true)
	}
	wantEqual(t, told(c), []string{"0: 2 by too-slow of 0", "0: 1 by operator of 0",
		"0: 1 by too-slow of 23", "0: 1 by too-slow of 28", "0: 1 by too-slow of 29", "0: 1 by too-slow of 30",
		"1: 1 by too-slow of 24", "1: 1 by too-slow of 25", "1: 1 by operator of 26", "1: 1 by too-slow of 27"})
	wantEqual(t, len(told(c)), 0)
	// The counts wrap.
	row := c.cursor(0)
	full := row.Noted.Load()&^0xffffffff | 0xffff_ffff
	row.Noted.Store(full)
	row.Told.Store(full)
	evicted(t, c, 40, EvictCauseTooSlow, true)
	evicted(t, c, 41, EvictCauseOperator, true)
	evicted(t, c, 42, EvictCauseOperator, true)
	wantEqual(t, told(c), []string{"0: 1 by too-slow of 40", "0: 1 by operator of 41", "0: 1 by operator of 42"})
}

// An evictor that dies after its compare-and-swap has left all in the state word: whoever frees or looks at the row counts it, once.
func TestEvictorDiesBeforeItCounts(t *testing.T) {
	for name, next := range map[string]func(c *Topic, s *Subscriber){
		"looked at": func(c *Topic, s *Subscriber) {},
		"closed":    func(c *Topic, s *Subscriber) { s.Close() },
		"repaired":  func(c *Topic, s *Subscriber) { c.Repair(func(owner uint16) bool { return owner == 7 }) },
	} {
		c := evictionTopic(t, 2)
		s, err := c.Subscribe(7, FromNew)
		noErr(t, err)
		w := s.state&^cursorPhaseMask | uint64(CursorPhaseEvicted) | uint64(EvictCauseOperator)<<evictCauseShift
		s.row.State.Store(w)
		next(c, s)
		if got := told(c); len(got) != 1 || got[0] != "0: 1 by operator of 7" {
			t.Errorf("%s: %v", name, got)
		}
		s.row.note(w) // one that was stopped before it counted
		if got := told(c); got != nil {
			t.Errorf("%s: then %v", name, got)
		}
	}
}

// A daemon that dies while it tells has told once: Recall says whether by the number of the event.
func TestRecallEvictions(t *testing.T) {
	for _, d := range []struct {
		died  string
		last  uint64 // of the events, at the adoption
		steps func(c *Topic, e Eviction)
		told  bool
	}{
		{"before all", 10, func(c *Topic, e Eviction) {}, false},
		{"after the number", 10, func(c *Topic, e Eviction) { c.cursor(e.Row).TellingEvent.Store(11) }, false},
		{"before the event", 10, func(c *Topic, e Eviction) { c.Telling(e, 11) }, false},
		{"after the event", 11, func(c *Topic, e Eviction) { c.Telling(e, 11) }, true},
		{"long after the event", 20, func(c *Topic, e Eviction) { c.Telling(e, 11) }, true},
		{"after all", 11, func(c *Topic, e Eviction) { c.Telling(e, 11); c.ToldOf(e) }, true},
	} {
		c := evictionTopic(t, 2)
		evicted(t, c, 6, EvictCauseOperator, true)
		e := c.Evictions()[0]
		c.Telling(e, 5)
		c.ToldOf(e)
		evicted(t, c, 7, EvictCauseTooSlow, true)
		evicted(t, c, 8, EvictCauseTooSlow, true)
		d.steps(c, c.Evictions()[0])
		c.Recall(d.last)
		c.Recall(d.last + 100) // this one dies too, before it tells: what it found holds, whatever has the number by then
		want := []string{"0: 1 by too-slow of 7", "0: 1 by too-slow of 8"}
		if d.told {
			want = want[1:]
		}
		if got := told(c); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("died %s: told of %v then, want %v", d.died, got, want)
		}
	}
}

// Evictors, owners that close, a daemon that looks, and repairs, all at once: each eviction is told once, by its cause, and of whoever it was.
func TestEvictionsAtOnce(t *testing.T) {
	c := evictionTopic(t, 3)
	const owners, rounds = 6, 3000
	var mu sync.Mutex
	want, got := map[string]int{}, map[string]int{}
	look := func() {
		for _, e := range c.Evictions() {
			owner := fmt.Sprint(e.Owner)
			if e.Owner == 0 {
				owner = "somebody"
			}
			got[fmt.Sprint(owner, " ", e.Cause)] += e.Count
			c.Telling(e, 1)
			c.ToldOf(e)
		}
	}
	done := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			look()
			select {
			case <-done:
				return
			default:
				runtime.Gosched()
			}
		}
	})
	evict := func(i int, w uint64, why EvictCause) {
		if c.evict(i, w, why) {
			mu.Lock()
			want[fmt.Sprint(cursorOwner(w), " ", why)]++
			mu.Unlock()
		}
	}
	var all sync.WaitGroup
	for k := range owners {
		owner := uint16(10 + k)
		all.Go(func() {
			for round := range rounds {
				s, err := c.Subscribe(owner, FromNew)
				if err != nil {
					continue // others have all rows, or somebody evicted it in the middle
				}
				var both sync.WaitGroup
				for i := range 2 {
					both.Go(func() { evict(s.index, s.state, EvictCause(1+(round+i)%2)) })
				}
				both.Go(func() { // somebody else who meets it
					w := s.row.State.Load()
					for ; w == s.state; w = s.row.State.Load() {
						runtime.Gosched()
					}
					if CursorPhase(w&cursorPhaseMask) == CursorPhaseEvicted {
						s.row.note(w)
					}
				})
				if k%2 == 0 {
					both.Wait()
				}
				if k == 0 {
					c.Repair(func(o uint16) bool { return o == owner })
				} else {
					s.Close()
				}
				both.Wait()
			}
		})
	}
	all.Wait()
	close(done)
	looking.Wait()
	look()
	byCause := func(m map[string]int) map[string]int {
		sum := map[string]int{}
		for k, n := range m {
			var owner, why string
			fmt.Sscan(k, &owner, &why)
			sum[why] += n
		}
		return sum
	}
	if a, b := byCause(want), byCause(got); fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("evicted %v, told %v", a, b)
	}
	for k, n := range got {
		if k != "somebody too-slow" && k != "somebody operator" && n > want[k] {
			t.Errorf("%s: told of %d, of %d", k, n, want[k])
		}
	}
	t.Logf("evicted %v, of which of somebody %d and %d", byCause(want), got["somebody too-slow"], got["somebody operator"])
}
