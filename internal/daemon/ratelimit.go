package daemon

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/shmd/shmd/internal/config"
)

// rateLimit is what one worker may log: log_rate and log_burst of its group. It says what it dropped, a second after the first at the latest.
// A nil rateLimit has no limit.
type rateLimit struct {
	throttle
	none   atomic.Bool // there is no limit now
	log    hclog.Logger
	worker string
}

func newRateLimit(g *config.Group, worker string, log hclog.Logger) *rateLimit {
	l := &rateLimit{log: log, worker: worker}
	l.set(g)
	return l
}

// set makes it the limit of a group from now on.
func (l *rateLimit) set(g *config.Group) {
	if g.LogRate > 0 {
		l.pace(time.Second/time.Duration(g.LogRate), g.LogBurst)
	}
	l.none.Store(g.LogRate == 0)
}

// tellAfter is how long a drop may go untold.
const tellAfter = time.Second

// allow reports whether a record or line may be kept.
func (l *rateLimit) allow() bool {
	if l == nil || l.none.Load() {
		return true
	}
	ok, first := l.take(time.Now())
	if first {
		time.AfterFunc(tellAfter, l.tell)
	}
	return ok
}

// tell says what was dropped.
func (l *rateLimit) tell() {
	if n, since := l.report(); n > 0 {
		l.log.Warn("log records were dropped: the worker logs faster than log_rate", "worker", l.worker, "records", n, "since", since.Format(time.RFC3339Nano))
	}
}
