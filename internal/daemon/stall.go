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

// watchStalls looks at a channel twice in its stall_after, until ctx ends.
func (d *Daemon) watchStalls(ctx context.Context, name string, c protocol.Channel, limit time.Duration) {
	t := time.NewTicker(limit / 2)
	defer t.Stop()
	seen := map[heldSlot]*stall{}
	stalled := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now, held := sys.MonotonicNs(), map[heldSlot]*stall{}
		var stalls []*stall
		look := func(loan bool) func(protocol.Held) {
			return func(h protocol.Held) {
				k := heldSlot{h, loan}
				s := seen[k]
				if s == nil {
					s = &stall{heldSlot: k, since: now}
				}
				if held[k] = s; now-s.since >= int64(limit) {
					stalls = append(stalls, s)
				}
			}
		}
		protocol.Leases(c, look(false))
		protocol.Loans(c, look(true))
		seen = held
		if len(stalls)+stalled > 0 {
			slices.SortFunc(stalls, func(a, b *stall) int { return cmp.Compare(a.since, b.since) })
			d.post(func() { d.tellStalls(name, stalls) })
		}
		stalled = len(stalls)
	}
}

// tellStalls tells of the stalls of a channel, the oldest first: each once in the log, all of them in the rows of the channel and of the workers.
func (d *Daemon) tellStalls(channel string, stalls []*stall) {
	now := sys.MonotonicNs()
	what := map[uint16]string{}
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
		if !s.told {
			s.told = true
			held := time.Duration(now - s.since).Round(time.Millisecond)
			d.log.Warn("a process holds a slot for longer than stall_after", "channel", channel, "slot", s.held.Slot, "holds", kind, "name", a.Name, "pid", a.Pid, "at_least", held.String())
			d.event(eventStall, channel, "held", "name", a.Name, "pid", a.Pid, "slot", s.held.Slot, "holds", kind, "at_least", held.String())
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
