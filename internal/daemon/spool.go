package daemon

import (
	"fmt"
	"sync"
	"time"
)

// spool hands log records to whoever takes them (standard error, the journal) from a goroutine of its own, in order: a reader that
// does not read must not stop the supervisor. It holds a limited amount: then workers' lines wait, and with them the workers once
// their pipes are full, and records from workers' logs are dropped and counted; the daemon's own come later to that. The log segment has all of them.
type spool struct {
	mu      sync.Mutex
	more    *sync.Cond // records came, or it ends
	less    *sync.Cond // records went, or nobody is to wait any more
	records []spooled
	held    int // bytes
	dropped int
	hurried bool
	ended   bool
	done    chan struct{}
}

type spooled struct {
	size int
	give func()
}

const (
	spoolForLines = 1 << 20 // bytes held above which workers' lines wait
	spoolForAll   = 4 << 20 // bytes held above which records are dropped
	spoolRecord   = 100     // bytes that a record takes beside its text
)

func newSpool() *spool {
	s := &spool{done: make(chan struct{})}
	s.more, s.less = sync.NewCond(&s.mu), sync.NewCond(&s.mu)
	go s.run()
	return s
}

// put takes a record, whose text has size bytes and which give hands over, if what is held is no more than room then. It never waits.
func (s *spool) put(size, room int, give func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size += spoolRecord
	if s.held+size > room || s.ended {
		s.dropped++
		return
	}
	s.records, s.held = append(s.records, spooled{size, give}), s.held+size
	s.more.Signal()
}

// room waits until there is room for a worker's line.
func (s *spool) room() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.held > spoolForLines && !s.hurried {
		s.less.Wait()
	}
}

// hasRoom reports whether room would not wait.
func (s *spool) hasRoom() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held <= spoolForLines || s.hurried
}

// flush waits until everything that is held has been handed over.
func (s *spool) flush(within time.Duration) error {
	late := false
	defer time.AfterFunc(within, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		late = true
		s.less.Broadcast()
	}).Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.held > 0 {
		if late {
			return fmt.Errorf("whoever reads the daemon's log does not keep up (%d records wait): try again later", len(s.records))
		}
		s.less.Wait()
	}
	return nil
}

// hurry ends all waiting for room.
func (s *spool) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hurried = true
	s.less.Broadcast()
}

// lost returns how many records were dropped since the last call, once there is room again.
func (s *spool) lost() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held <= spoolForLines {
		n, s.dropped = s.dropped, 0
	}
	return n
}

func (s *spool) run() {
	defer close(s.done)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.records) == 0 {
			if s.ended {
				return
			}
			s.more.Wait()
		}
		r := s.records[0]
		s.records[0] = spooled{}
		s.records = s.records[1:]
		s.mu.Unlock()
		r.give()
		s.mu.Lock()
		s.held -= r.size
		s.less.Broadcast()
	}
}

// end takes no more records, and waits a moment until those that it has are handed over.
func (s *spool) end() {
	s.mu.Lock()
	s.ended = true
	s.more.Signal()
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-time.After(lastWords):
	}
}
