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
	eventEvict      = "evict"       // a subscriber was evicted from a topic
	eventAttach     = "attach"      // an outsider
	eventDetach     = "detach"      // an outsider
	eventUpgrade    = "upgrade"     // another program took the daemon's place, in the same process
	eventReload     = "reload"      // another configuration holds
	eventRollout    = "rollout"     // a rolling restart of a group begins, is done, or is given up
	eventDump       = "dump"        // the memory was written to a file, because a group failed; or was not
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
	if pid == 0 && c.To != protocol.StateStarting { // that of the process whose end this is; one that starts has none yet
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

// watchEvictions tells of a topic's evictions, until ctx ends: publishers and operators evict by themselves, leave in memory whom and why, and wake whoever waits
// here. What there was before it began, while no daemon lived, is told at once.
func (d *Daemon) watchEvictions(ctx context.Context, name string, c *channel) {
	word := c.topic.EvictedWord()
	for {
		v := word.Load()
		d.tellEvictions(name, c)
		if d.hub.Wait(ctx, word, v) != nil {
			d.tellEvictions(name, c)
			return
		}
	}
}

// tellEvictions writes an event for each eviction that has none. It is called too before an attachment is forgotten, while its id still says whose it was. A daemon
// that dies in the middle leaves in memory which event tells of which eviction; recallEvictions looks whether it is there.
func (d *Daemon) tellEvictions(name string, c *channel) {
	c.telling.Lock()
	defer c.telling.Unlock()
	for _, e := range c.topic.Evictions() {
		fields := []any{"subscribers", e.Count, "row", e.Row}
		if e.Owner != 0 {
			if a, err := d.mem.roster.Attachment(e.Owner); err == nil && a.State != 0 {
				fields = append(fields, "name", a.Name, "pid", a.Pid)
			}
		}
		d.eventLog.write(d.eventRecord(eventEvict, name, e.Cause.String(), fields...), func(number uint64) { c.topic.Telling(e, number) })
		c.topic.ToldOf(e)
	}
}

// recallEvictions finds out which evictions an earlier daemon has told of. It comes before the first event of this one.
func (d *Daemon) recallEvictions() {
	for _, c := range d.mem.channels {
		if c.topic != nil {
			c.topic.Recall(d.eventLog.last())
		}
	}
}
