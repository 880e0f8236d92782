package daemon

import (
	"sync"
	"time"
)

// throttle lets a few things happen at once and then one a second. The zero value is ready; it is safe for concurrent use.
type throttle struct {
	mu      sync.Mutex
	full    time.Time // when the allowance is complete again
	dropped int
}

// allowance is how many may happen at once.
const allowance = 20

// allow reports whether one more may happen now, and how many were not allowed to since the last that was.
func (t *throttle) allow(now time.Time) (ok bool, dropped int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.full.Before(now) {
		t.full = now
	}
	if t.full.Sub(now) > (allowance-1)*time.Second {
		t.dropped++
		return false, 0
	}
	t.full = t.full.Add(time.Second)
	dropped, t.dropped = t.dropped, 0
	return true, dropped
}
