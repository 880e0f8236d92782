package daemon

import (
	"sync"
	"time"
)

// throttle lets a few things happen at once and then some a second. The zero value lets 20 happen at once and then one a second; it is safe for
// concurrent use.
type throttle struct {
	every time.Duration // between two that may happen; 0: a second
	burst int           // how many may happen at once; 0: 20

	mu      sync.Mutex
	full    time.Time // when the allowance is complete again
	dropped int
	since   time.Time // when the first of them was dropped
}

// allowance is how many may happen at once.
const allowance = 20

// allow reports whether one more may happen now, and how many were not allowed to since the last that was.
func (t *throttle) allow(now time.Time) (ok bool, dropped int) {
	if ok, _ = t.take(now); ok {
		dropped, _ = t.report()
	}
	return ok, dropped
}

// pace changes how often something may happen.
func (t *throttle) pace(every time.Duration, burst int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.every, t.burst = every, burst
}

// take reports whether one more may happen now, and if not, whether it is the first since the last report.
func (t *throttle) take(now time.Time) (ok, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	every, burst := t.every, t.burst
	if every == 0 {
		every, burst = time.Second, allowance
	}
	if t.full.Before(now) {
		t.full = now
	}
	if t.full.Sub(now) > time.Duration(burst-1)*every {
		if t.dropped++; t.dropped == 1 {
			t.since = now
		}
		return false, t.dropped == 1
	}
	t.full = t.full.Add(every)
	return true, false
}

// report returns how many were dropped since the last report, and when the first was.
func (t *throttle) report() (dropped int, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	dropped, t.dropped = t.dropped, 0
	return dropped, t.since
}
