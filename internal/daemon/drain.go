package daemon

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// drain carries what the instances of one group log from the rings in their pages into the region's log. While records flow it looks every few
// milliseconds, and an instance makes a system call only if it fills half its ring between two looks; then it sleeps, and the next record
// wakes it. docs/log.md argues the meeting of the two.
type drain struct {
	d     *Daemon
	group *protocol.GroupSegment
	nap   *atomic.Uint32
	bell  *atomic.Uint32

	mu   sync.Mutex // one carries at a time
	logs []*drained // by instance
}

// drained is one instance's log and how far it is carried.
type drained struct {
	log      *protocol.InstanceLog
	instance int
	from     uint64                   // where to begin
	c        *protocol.InstanceCursor // nil: it has no memory yet, or was not looked at
	number   uint32                   // low half of the number of the last record that is carried
	worker   int
	name     string
	limit    *rateLimit
	broken   throttle
}

const (
	drainNap    = 10 * time.Millisecond
	drainIdle   = 5           // looks that found nothing before it sleeps
	drainLong   = time.Minute // no wake-up is lost; each look beside none takes some 10 µs an instance, most of it for cold pages
	drainUnsure = time.Second // instead, where the kernel refuses the daemon membarrier
	drainAtOnce = 1 << 12     // records of one instance before the others' turn
	drainAtEnd  = 1 << 10     // records of one that has ended while the supervisor waits: a whole ring of log_size's default. The rest follows
)

// newDrain makes the drain of a group, for which carry says where to begin.
func newDrain(d *Daemon, group *protocol.GroupSegment) *drain {
	dr := &drain{d: d, group: group}
	dr.nap, dr.bell = group.LogNap()
	return dr
}

// carry takes up the log of an instance, behind what is in the region's log already: the position behind the last record that is, and
// its number.
func (dr *drain) carry(w *worker, position uint64, number uint32) {
	dr.mu.Lock()
	defer dr.mu.Unlock()
	dr.logs = slices.DeleteFunc(dr.logs, func(l *drained) bool { return l.instance == w.instance })
	if l := dr.group.Log(w.instance); l != nil {
		dr.logs = append(dr.logs, &drained{log: l, instance: w.instance, from: position, number: number, worker: w.index, name: w.row.Name, limit: w.limit})
	}
}

// limit takes over what a worker may log from now on.
func (dr *drain) limit(w *worker) {
	dr.mu.Lock()
	defer dr.mu.Unlock()
	for _, l := range dr.logs {
		if l.worker == w.index {
			l.limit = w.limit
		}
	}
}

// drop ends the carrying of a worker that has none to log any more.
func (dr *drain) drop(w *worker) {
	dr.mu.Lock()
	defer dr.mu.Unlock()
	dr.logs = slices.DeleteFunc(dr.logs, func(l *drained) bool { return l.worker == w.index })
}

// end is the end of an instance's log.
func (dr *drain) end(instance int) uint64 {
	if instance >= dr.group.Instances() {
		return 0
	}
	if l := dr.group.Log(instance); l != nil {
		return l.Head()
	}
	return 0
}

// cursor returns the place in a log, nil while it has no memory. The daemon's lock is held.
func (dr *drain) cursor(l *drained) *protocol.InstanceCursor {
	if l.c == nil && l.instance < dr.group.Instances() {
		if int64(l.log.Head()-l.from) < 0 { // the segment was made anew
			l.from, l.number = 0, 0
		}
		l.c = l.log.From(l.from)
	}
	return l.c
}

// run carries until ctx ends.
func (dr *drain) run(ctx context.Context) {
	for idle := 0; ctx.Err() == nil; {
		if dr.look(ctx) {
			idle = 0
		} else {
			idle++
		}
		kind, long := protocol.LogNapNaps, drainNap
		if idle > drainIdle {
			kind, long = protocol.LogNapSleeps, drainLong+rand.N(drainLong/4)
		}
		v := dr.bell.Load()
		dr.nap.Store(uint32(kind)) // D: an instance that does not see it has published before the next look
		if kind == protocol.LogNapSleeps {
			if sys.RegisterFence() == nil {
				sys.FenceAll() // for those that log without a lock: they make no barrier between the two
			} else {
				long = drainUnsure
			}
			if dr.more() {
				long = drainNap // not at once: a ring that makes no sense could keep it busy
			}
		}
		soon, cancel := context.WithTimeout(ctx, long)
		dr.d.hub.Wait(soon, dr.bell, v)
		cancel()
		dr.nap.Store(uint32(protocol.LogNapAwake))
	}
}

// more reports whether an instance has logged something since the last look.
func (dr *drain) more() bool {
	dr.mu.Lock()
	defer dr.mu.Unlock()
	for _, l := range dr.logs {
		if c := dr.cursor(l); c != nil && c.More() {
			return true
		}
	}
	return false
}

// look carries everything that there is, and reports whether there was something. Between two instances it is the turn of the supervisor, which must not wait
// for all of them, and it may be over. Who is passed over since the list changes then is found by the next look, or by more.
func (dr *drain) look(ctx context.Context) (found bool) {
	for i := 0; ; i++ {
		dr.mu.Lock()
		if i >= len(dr.logs) || ctx.Err() != nil {
			dr.mu.Unlock()
			return found
		}
		if c := dr.cursor(dr.logs[i]); c != nil && c.More() {
			dr.one(dr.logs[i], drainAtOnce)
			found = true
		}
		dr.mu.Unlock()
	}
}

// ended carries the last records of a worker whose process has ended, before anything is said of its end.
func (dr *drain) ended(w *worker) {
	dr.mu.Lock()
	for _, l := range dr.logs {
		if l.worker == w.index && dr.cursor(l) != nil {
			dr.one(l, drainAtEnd)
		}
	}
	dr.mu.Unlock()
	// It may have died between taking down that the drain sleeps and waking it.
	dr.bell.Add(1)
	sys.FutexWake(dr.bell, 1<<30)
}

// one carries what one instance has logged, most records at most.
func (dr *drain) one(l *drained, most int) {
	sink := dr.d.sink
	for range most {
		r, _, ok, err := l.c.Next()
		if err != nil {
			if ok, _ := l.broken.allow(time.Now()); ok {
				dr.d.log.Warn("a worker's log makes no sense: it goes on at the next chunk", "worker", l.name, "error", err)
			}
			break
		}
		if !ok {
			break
		}
		if lost := int32(r.Number - l.number - 1); lost > 0 && (l.number != 0 || l.from == 0) {
			dr.d.log.Warn("log records were lost: the worker logs faster than its ring is read, see log_size", "worker", l.name, "lost", lost)
		}
		l.number = r.Number
		if r.Worker = l.worker; l.limit.allow() {
			if r.Time.UnixNano() == 0 {
				r.Time = time.Now()
			}
			sink.record(r)
		}
	}
	dr.d.mem.roster.SetDrained(l.worker, l.c.Position(), l.number)
	if n := sink.spool.lost(); n > 0 {
		dr.d.log.Warn(spoolLost, "records", n)
	}
}

// drainedIn returns up to where the workers' logs are in the region's log already: what the roster says, or what the log itself has, which may be
// newer.
func drainedIn(log *protocol.Log, roster *protocol.Roster) func(worker int) (position uint64, number uint32) {
	type place struct {
		position uint64
		number   uint32
	}
	newest := map[int]place{}
	for c := log.Oldest(); ; {
		r, _, ok, err := c.Next()
		if !ok || err != nil {
			break
		}
		switch {
		case r.Stream == protocol.StreamLog:
			newest[r.Worker] = place{r.Position, r.Number}
		case r.Text == rowReused && r.Stream == protocol.StreamDaemon:
			delete(newest, r.Worker)
		}
	}
	return func(worker int) (position uint64, number uint32) {
		position, number = roster.Drained(worker)
		if n, ok := newest[worker]; ok && int64(n.position-position) > 0 {
			position, number = n.position, n.number
		}
		return position, number
	}
}
