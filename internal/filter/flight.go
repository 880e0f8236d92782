package filter

import (
	"context"
	"sync"
	"time"

	"github.com/shmd/shmd/pkg/shm"
)

// flight is the messages in flight, oldest first. The feeder adds, the collector takes (with ack = "written", the feeder itself).
type flight struct {
	mu    sync.Mutex
	ring  []inFlight
	first uint64        // number of the oldest since the start
	next  uint64        // number of the next to be added
	left  chan struct{} // of capacity 1: some have left
	begun chan struct{} // of capacity 1: one was added, and the watch is off
	watch bool          // somebody looks at the age of the oldest
}

// inFlight is one message in flight.
type inFlight struct {
	m     *shm.Message
	since time.Time
}

func newFlight(most int) *flight {
	return &flight{ring: make([]inFlight, most), left: make(chan struct{}, 1), begun: make(chan struct{}, 1)}
}

func (f *flight) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(f.next - f.first)
}

// add notes a message. If it is the only one, quiet is asked before, while nobody reads what the filter writes; an error of it ends
// the call.
func (f *flight) add(m *shm.Message, now time.Time, quiet func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == f.next {
		if err := quiet(); err != nil {
			return err
		}
	}
	f.ring[f.next%uint64(len(f.ring))] = inFlight{m, now}
	f.next++
	if !f.watch {
		f.watch = true
		notify(f.begun)
	}
	return nil
}

// take removes the oldest.
func (f *flight) take() *shm.Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == f.next {
		return nil
	}
	at := &f.ring[f.first%uint64(len(f.ring))]
	m := at.m
	*at = inFlight{}
	f.first++
	return m
}

// room waits until fewer than limit are in flight. Errors: ctx's.
func (f *flight) room(ctx context.Context, limit int) error {
	for f.len() >= limit {
		select {
		case <-f.left:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// oldest returns the number of the oldest, its age, and its position in its channel; ok is false if there is none, and then the watch is off until the next add.
func (f *flight) oldest(now time.Time) (number uint64, age time.Duration, position uint64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == f.next {
		f.watch = false
		return 0, 0, 0, false
	}
	at := f.ring[f.first%uint64(len(f.ring))]
	return f.first, now.Sub(at.since), at.m.Position(), true
}

// notify makes a channel of capacity 1 readable.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
