package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// TestTopicStress has publishers at work while subscribers join, read, are evicted and leave: every message is whole and the one that was
// published at its position, and nobody misses one without being told.
func TestTopicStress(t *testing.T) {
	for _, single := range []bool{false, true} {
		for _, drop := range overwriting {
			t.Run(fmt.Sprintf("single=%v,drop=%v", single, drop), func(t *testing.T) { stressTopic(t, single, drop) })
		}
	}
}

func stressTopic(t *testing.T, single, drop bool) {
	const words, subscribers = 5, 3
	const enough = 20_000 // messages read
	o := TopicOptions{Slots: 8, SlotSize: 8 * words, Cursors: subscribers + 1, Single: single, DropOldest: drop, Fenced: single, Start: 1<<32*8 - 16}
	c := newTopic(t, o)
	owners := []uint16{2}
	if !single {
		owners = []uint16{2, 5}
	}
	var left atomic.Int32
	left.Store(int32(len(owners)))
	var publishing, reading sync.WaitGroup
	var read, lost, evicted, lapped, committed atomic.Uint64
	for _, owner := range owners {
		p := newPublisher(t, c, owner)
		publishing.Go(func() {
			defer left.Add(-1)
			for seq := uint64(1); read.Load() < enough && !t.Failed(); {
				if seq%64 == 0 {
					runtime.Gosched()
				}
				l, err := p.TryLoan()
				if errors.Is(err, ErrFull) {
					runtime.Gosched()
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if seq%17 == 0 && !single && p.Abort(l) == nil {
					seq++
					continue
				}
				b := p.LoanBytes(l)
				for w := range uint64(words) {
					binary.LittleEndian.PutUint64(b[8*w:], l.position+w*seq)
				}
				if err := p.Commit(l, 8*words); err != nil {
					t.Error(err)
					return
				}
				committed.Add(1)
				seq++
			}
		})
	}
	for i := range subscribers {
		reading.Go(func() {
			for round := 0; left.Load() > 0; round++ {
				s, err := c.Subscribe(uint16(10+i), From(round%3))
				if err != nil {
					t.Error(err)
					return
				}
				for n := 0; n < 200 && left.Load() > 0; {
					b, err := s.Next()
					var gap *LostError
					switch {
					case errors.Is(err, ErrEmpty):
						runtime.Gosched()
						continue
					case errors.As(err, &gap) && drop:
						lost.Add(gap.Count)
						continue
					case errors.Is(err, ErrEvicted):
						evicted.Add(1)
						n = 200
						continue
					case err != nil:
						t.Error(err)
						return
					}
					var m [words]uint64
					whole := len(b) == 8*words
					for w := range m {
						if whole {
							m[w] = binary.LittleEndian.Uint64(b[8*w:])
						}
					}
					at := s.Position()
					switch err := s.Done(); {
					case errors.Is(err, ErrLapped) && drop:
						lapped.Add(1)
						continue
					case errors.Is(err, ErrEvicted):
						evicted.Add(1)
						n = 200
						continue
					case err != nil:
						t.Error(err)
						return
					}
					step := m[1] - m[0]
					for w := range uint64(words) {
						whole = whole && m[w] == at+w*step
					}
					if !whole {
						t.Errorf("torn or misplaced at %#x: %x", at, m)
						return
					}
					read.Add(1)
					if n++; n%3 == 0 {
						s.Flush()
					}
					if n%90 == 60 && i == 0 && !raceEnabled {
						c.Evict(s.index)
					}
				}
				if err := s.Close(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	publishing.Wait()
	reading.Wait()
	st := c.Stat()
	t.Logf("%d read, %d lost, %d times overwritten while it was read, %d evicted", read.Load(), lost.Load(), lapped.Load(), evicted.Load())
	if want := committed.Load(); st.Published != want || len(st.Subscribers) != 0 || st.Received < read.Load() {
		t.Errorf("%+v, want %d published", st, want)
	}
}
