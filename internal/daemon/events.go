package daemon

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/shmd/shmd/internal/attrs"
	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/pkg/protocol"
)

// Kinds of events: what shmctl events shows. docs/logs.md lists them with their fields.
const (
	eventScale      = "scale"       // a group has more or fewer instances
	eventRegion     = "region"      // it was created, stops, stopped
	eventAdopt      = "adopt"       // a daemon took over from one that died
	eventState      = "state"       // a worker changed its state
	eventRepair     = "repair"      // what a dead process held in a channel was given back
	eventDeadLetter = "dead-letter" // messages were moved to a dead-letter channel
	eventEvict      = "evict"       // subscribers were evicted from a topic
	eventAttach     = "attach"      // an outsider
	eventDetach     = "detach"      // an outsider
	eventUpgrade    = "upgrade"     // another program took the daemon's place, in the same process
	eventReload     = "reload"      // another configuration holds
	eventRollout    = "rollout"     // a rolling restart of a group begins, is done, or is given up
	eventStall      = "stall"       // a filter does not answer, or does again
)

// eventLog is the region's ring of events. It is numbered without gaps, over the deaths of daemons too.
type eventLog struct {
	mu  sync.Mutex
	log *protocol.Log // nil before the memory is there and after it is gone
}

// attach makes events go to a ring from now on.
func (e *eventLog) attach(log *protocol.Log) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log = log
}

// detach ends that, before the segment is unmapped.
func (e *eventLog) detach() { e.attach(nil) }

// write appends an event. before, which may be nil, is called with its number just before it is there: what it writes that number into
// tells the next daemon that the event is missing, if this one dies in between.
func (e *eventLog) write(r protocol.Record, before func(number uint64)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.log == nil {
		if before != nil {
			before(0)
		}
		return
	}
	if before != nil {
		before(e.log.Last() + 1)
	}
	e.log.Write(r)
}

// last returns the number of the last event.
func (e *eventLog) last() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.log.Last()
}

// event takes down that something happened to subject (a worker, a channel, an outsider, the region), and why. fields are pairs of keys and
// values. It may be called from any goroutine.
func (d *Daemon) event(kind, subject, cause string, fields ...any) {
	d.eventLog.write(d.eventRecord(kind, subject, cause, fields...), nil)
}

func (d *Daemon) eventRecord(kind, subject, cause string, fields ...any) protocol.Record {
	r := protocol.Record{Time: time.Now(), Level: 6, Stream: protocol.StreamEvent, Pid: os.Getpid(), Worker: -1, Text: kind,
		Attrs: attrs.Format(append([]any{"subject", subject, "cause", cause}, fields...))}
	return r
}

// stateEvent writes a worker's row with its new state, and the event of it.
func (d *Daemon) stateEvent(w *worker, c supervise.Change) {
	pid := w.row.Pid
	if pid == 0 {
		pid = w.lastPid
	}
	from := c.From.String()
	if c.From == 0 {
		from = "none"
	}
	r := d.eventRecord(eventState, w.row.Name, string(c.Cause), "from", from, "to", c.To, "reason", c.Reason, "pid", pid, "restarts", w.row.Restarts)
	r.Time, r.Worker = c.At, w.index
	if c.To == protocol.StateFailed {
		r.Level = 3
	} else if c.To == protocol.StateBackoff {
		r.Level = 4
	}
	d.eventLog.write(r, func(number uint64) {
		w.row.Event = number
		d.writeRow(w)
	})
}

// missedEvents writes the events of changes that an earlier daemon made and did not come to tell of: of those that it wrote down in the
// roster the last one at most is missing.
func (d *Daemon) missedEvents() {
	for _, w := range d.workers {
		if w.gone() || w.row.Event <= d.eventLog.last() {
			continue
		}
		r := d.eventRecord(eventState, w.row.Name, string(supervise.CauseAdoption), "to", w.row.State, "reason", w.row.Reason, "pid", w.row.Pid, "restarts", w.row.Restarts)
		r.Time, r.Worker = w.row.Since, w.index
		d.eventLog.write(r, func(number uint64) { w.row.Event = number })
	}
}

// watchEvictions takes down that a topic's subscribers are evicted, until ctx ends: publishers and operators do it themselves, and wake whoever waits
// here. Of those before it began there is no telling.
func (d *Daemon) watchEvictions(ctx context.Context, name string, t *protocol.Topic) {
	seen, word := t.Evicted(), t.EvictedWord()
	for {
		v := word.Load()
		if n := t.Evicted(); n != seen {
			d.event(eventEvict, name, "too-slow", "subscribers", n-seen)
			seen = n
		}
		if d.hub.Wait(ctx, word, v) != nil {
			return
		}
	}
}
