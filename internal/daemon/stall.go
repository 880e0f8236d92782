package daemon

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// Stalls: slots that one process holds for longer than stall_after of the channel. Nothing is written on the way of a message for it: the daemon
// looks twice in that time, and what it sees unchanged, the state word with its owner, from one look to another that is stall_after later, was held
// all the time. Nothing is taken from anybody.

// heldSlot is who holds what; another lease of the same slot is another.
type heldSlot struct {
	held protocol.Held
	loan bool
}

// stall is a slot that is held for too long.
type stall struct {
	heldSlot
	since int64 // CLOCK_MONOTONIC when it was seen first
	told  bool
}

// stallWatch is what the looks at one channel have seen.
type stallWatch struct {
	channel protocol.Channel
	limit   time.Duration
	seen    map[heldSlot]*stall
	claims  [2]uint64 // before the last look at the slots
	skipped int       // looks since then
}

// skippedLooks is how many looks at the slots of a channel in which nobody takes one are spared: then who was stopped between a claim and the hint that tells
// of it is found.
const skippedLooks = 15

// look returns what has been held for too long at now. Where nothing was held, and nobody has taken anything since, the slots are not read: a region has
// hundreds of channels with thousands of slots each, and most of them are idle.
func (w *stallWatch) look(now int64) (stalls []*stall, looked bool) {
	claims, ok := protocol.Claims(w.channel) // before the slots
	if ok && w.seen != nil && len(w.seen) == 0 && claims == w.claims && w.skipped < skippedLooks {
		w.skipped++
		return nil, false
	}
	held := map[heldSlot]*stall{}
	each := func(loan bool) func(protocol.Held) {
		return func(h protocol.Held) {
			k := heldSlot{h, loan}
			s := w.seen[k]
			if s == nil {
				s = &stall{heldSlot: k, since: now}
			}
			if held[k] = s; now-s.since >= int64(w.limit) {
				stalls = append(stalls, s)
			}
		}
	}
	protocol.Leases(w.channel, each(false))
	protocol.Loans(w.channel, each(true))
	w.seen, w.claims, w.skipped = held, claims, 0
	slices.SortFunc(stalls, func(a, b *stall) int { return cmp.Compare(a.since, b.since) })
	return stalls, true
}

// watchStalls looks at a channel twice in its stall_after, until ctx ends.
func (d *Daemon) watchStalls(ctx context.Context, name string, c protocol.Channel, limit time.Duration) {
	t := time.NewTicker(limit / 2)
	defer t.Stop()
	w := &stallWatch{channel: c, limit: limit}
	stalled := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		stalls, _ := w.look(sys.MonotonicNs())
		if len(stalls)+stalled > 0 {
			d.post(func() { d.tellStalls(name, stalls) })
		}
		stalled = len(stalls)
	}
}

// mostTold is how many stalls of one process are told one by one at a time. A process may hold all slots of a channel: log and events would have nothing else.
const mostTold = 16

// tellStalls tells of the stalls of a channel, the oldest first: each once in the log, many of one process together, all of them in the rows of the channel
// and of the workers.
func (d *Daemon) tellStalls(channel string, stalls []*stall) {
	now := sys.MonotonicNs()
	what, told := map[uint16]string{}, map[uint16]int{}
	for _, s := range stalls {
		kind := "message"
		if s.loan {
			kind = "loan"
		}
		id := s.held.Owner
		a, err := d.mem.roster.Attachment(id)
		if err != nil || a.State != protocol.AttachmentLive {
			continue // it is dead, and is repaired
		}
		if what[id] == "" { // not how long: the row would change with each look
			what[id] = fmt.Sprintf("holds a %s of channel %q", kind, channel)
		}
		if s.told {
			continue
		}
		s.told = true
		if told[id]++; told[id] <= mostTold {
			held := time.Duration(now - s.since).Round(time.Millisecond)
			d.log.Warn("a process holds a slot for longer than stall_after", "channel", channel, "slot", s.held.Slot, "holds", kind, "name", a.Name, "pid", a.Pid, "at_least", held.String())
			d.event(eventStall, channel, "held", "name", a.Name, "pid", a.Pid, "slot", s.held.Slot, "holds", kind, "at_least", held.String())
		}
	}
	for id, n := range told {
		if n -= mostTold; n > 0 {
			a, _ := d.mem.roster.Attachment(id)
			d.log.Warn("a process holds more slots for longer than stall_after", "channel", channel, "slots", n, "name", a.Name, "pid", a.Pid)
			d.event(eventStall, channel, "held", "name", a.Name, "pid", a.Pid, "more", n)
		}
	}
	for _, w := range d.workers {
		if w.gone() || w.proc == nil || w.conf.Filter() || w.row.State != protocol.StateReady {
			continue
		}
		reason, others := what[w.row.Attachment], w.row.Stalled && w.proc.stalledOn != channel
		if others || w.row.Reason == reason { // one channel at a time is told
			continue
		}
		w.row.Stalled, w.row.Reason, w.proc.stalledOn = reason != "", reason, channel
		d.writeRow(w)
	}
	d.tellChannel(channel, stalls)
}

// tellChannel writes the stalls into the channel's row.
func (d *Daemon) tellChannel(channel string, stalls []*stall) {
	rows, err := d.mem.roster.Segments()
	i := slices.IndexFunc(rows, func(r protocol.Segment) bool { return r.Name == channel })
	if err != nil || i < 0 {
		return
	}
	row := rows[i]
	row.Stalled, row.Staller, row.StalledNs = len(stalls), 0, 0
	if len(stalls) > 0 {
		row.Staller, row.StalledNs = stalls[0].held.Owner, stalls[0].since
	}
	if row == rows[i] {
		return
	}
	if err := d.mem.roster.SetSegment(i, row); err != nil {
		d.log.Error("roster", "error", err)
	}
}
