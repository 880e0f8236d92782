package protocol

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// What a topic counts is read while publishers and subscribers come, work and go: the number of messages never goes back, is never one that was not there,
// and no number is beyond what was counted.
func TestTopicCountsBesideTheWork(t *testing.T) {
	for _, drop := range overwriting {
		c := newTopic(t, TopicOptions{Slots: 256, SlotSize: 8, Cursors: 4, DropOldest: drop, Start: 1 << 40})
		var committed atomic.Uint64
		var work sync.WaitGroup
		end := make(chan struct{})
		running := func() bool {
			select {
			case <-end:
				return false
			default:
				runtime.Gosched()
				return true
			}
		}
		for owner := range uint16(3) {
			p := newPublisher(t, c, 2+owner)
			work.Go(func() {
				for running() {
					committed.Add(1) // so never below what is there
					for err := tell(p, 1); err != nil && running(); err = tell(p, 1) {
						if !errors.Is(err, ErrFull) {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		for owner := range uint16(3) {
			work.Go(func() {
				for running() {
					s, err := c.Subscribe(10+owner, FromOldest)
					if err != nil {
						t.Error(err)
						return
					}
					for range 20 {
						if _, err := s.Next(); err == nil {
							s.Done()
							s.Flush()
						} else if !running() {
							break
						}
					}
					s.Close()
				}
			})
		}
		var last TopicStat
		for range 20_000 {
			st := c.Stat()
			most := committed.Load()
			if st.Published < last.Published || st.Published > most {
				t.Errorf("%d messages were published, %d before, %d at most", st.Published, last.Published, most)
				break
			}
			if st.Received > 1<<40 || st.Lost > 1<<40 { // below 0
				t.Errorf("%d received and %d lost of %d", st.Received, st.Lost, most)
				break
			}
			last = st
			runtime.Gosched()
		}
		close(end)
		work.Wait()
	}
}

// A publisher that died after its claim and before it moved tail is not taken off the number of messages.
func TestTopicCountsNoLoanBehindTail(t *testing.T) {
	topics(t, 4, func(t *testing.T, o TopicOptions) {
		c := newTopic(t, o)
		if c.single {
			return // claims nothing
		}
		p := newPublisher(t, c, 2)
		for n := range uint64(6) {
			s := c.slot(c.info.Tail.Load())
			w := s.State.Load()
			s.State.Store(uint64(MakeWord(PhaseWriting, 7, 0, c.lap(c.info.Tail.Load())))) // E, and nothing more
			if st := c.Stat(); st.Published != n || st.Writing != 1 {
				t.Fatalf("%d messages and %d loans, want %d and 1", st.Published, st.Writing, n)
			}
			s.State.Store(w)
			noErr(t, tell(p, n))
			if st := c.Stat(); st.Published != n+1 || st.Writing != 0 {
				t.Fatalf("%d messages and %d loans, want %d and 0", st.Published, st.Writing, n+1)
			}
		}
	})
}

// A row in each state that its owner may leave it in when it dies: what the one before had counted is not counted twice, and nothing is below 0.
func TestTopicCountsOfTheDead(t *testing.T) {
	topics(t, 4, func(t *testing.T, o TopicOptions) {
		c := newTopic(t, o)
		p := newPublisher(t, c, 2)
		want := func(received uint64, what string) {
			t.Helper()
			if st := c.Stat(); st.Received != received || st.Lost != 0 {
				t.Fatalf("%s: %d received and %d lost, want %d and 0", what, st.Received, st.Lost, received)
			}
		}
		first := subscribe(t, c, 3, FromNew)
		for v := range uint64(2) {
			noErr(t, tell(p, v))
		}
		expect(t, first, 0, 1)
		row := first.row
		noErr(t, first.Close())
		want(2, "it has left")
		row.State.Store(makeCursorState(CursorPhaseJoining, 4, 2))
		want(2, "another joins")
		tail := c.info.Tail.Load()
		row.Position.Store(tail)
		row.Begun.Store(tail + 3)
		row.State.Store(makeCursorState(CursorPhaseOpen, 4, 2))
		want(2, "it goes on where more is kept, and has not said how far it is")
		c.Repair(func(owner uint16) bool { return owner == 4 })
		want(2, "it is dead")
	})
}
