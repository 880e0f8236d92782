package daemon

import "fmt"

// ids gives out attachment ids, in turn, so that one is used again as late as possible. The supervisor's goroutine alone uses it.
type ids struct {
	used []bool // by id; 0 is never used, daemonID is the daemon's
	next int
}

func newIDs(cap int) *ids {
	s := &ids{used: make([]bool, cap), next: daemonID}
	s.used[0], s.used[daemonID] = true, true
	return s
}

func (s *ids) take() (uint16, error) {
	for range s.used {
		if s.next++; s.next >= len(s.used) {
			s.next = daemonID + 1
		}
		if s.next < len(s.used) && !s.used[s.next] {
			s.used[s.next] = true
			return uint16(s.next), nil
		}
	}
	return 0, fmt.Errorf("all %d attachment ids are in use: raise max_attachments in [region]", len(s.used)-1)
}

func (s *ids) free(id uint16) { s.used[id] = false }
