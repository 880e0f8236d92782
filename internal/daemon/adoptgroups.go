package daemon

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/pkg/protocol"
)

// The configuration may be another than that of the daemon that died: a reload may have been under way. What both have goes on; groups and
// channels that are new are made; those that the configuration has no more quit, and are removed as after a reload.

// adoptGroups makes groups and workers of the rows of the roster, and of the configuration what is not there yet. torn are the workers whose rows
// were being written when their daemon died: of them only who they are is known.
func (d *Daemon) adoptGroups() (torn map[int]bool, err error) {
	d.machine = supervise.New(rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	roster := d.mem.roster
	if err := d.adoptChannels(); err != nil {
		return nil, err
	}
	rows := make([]protocol.Worker, roster.WorkerCount())
	torn = map[int]bool{}
	for i := range rows {
		if rows[i], err = roster.Worker(i); err != nil {
			torn[i] = true // a row never changes its owner without being gone, so the owner is the same before, in and after any other change
		}
	}
	lost := map[int]bool{} // groups of which nothing is left
	for i := range roster.GroupCount() {
		row, broken := roster.Group(i)
		if broken != nil { // the name does not change while there are instances
			k := slices.IndexFunc(rows, func(w protocol.Worker) bool { return w.Group == i && w.State != protocol.StateGone })
			if row.Name = ""; k >= 0 {
				row.Name = rows[k].Name[:max(strings.LastIndexByte(rows[k].Name, '.'), 0)]
			}
		}
		g, err := d.adoptGroup(i, row)
		if err != nil {
			return nil, err
		}
		switch {
		case broken != nil && g != nil:
			d.writeGroup(g)
		case broken != nil:
			if err := roster.SetGroup(i, protocol.Group{Rollout: row.Rollout}); err != nil {
				return nil, err
			}
		}
		d.groups = append(d.groups, g)
		lost[i] = g == nil && row.Name != ""
	}
	nobody := d.machine.AddGroup(new(supervise.Policy))
	for i, row := range rows {
		w := &worker{index: d.machine.Add(nobody, row.Name), instance: row.Instance, row: row}
		d.machine.Remove(w.index)
		d.workers = append(d.workers, w)
		if row.State == protocol.StateGone {
			if torn[i] { // it was becoming another's
				w.row.Name = ""
				d.writeRow(w)
			}
			continue
		}
		if lost[row.Group] { // what it held is given back by its attachment, as that of a process that nobody knows
			w.row.State, w.row.Reason, w.row.Attachment, w.row.Pid, w.row.ShimPid, w.row.StartTicks = protocol.StateGone, "removed", 0, 0, 0, 0
			d.writeRow(w)
			delete(torn, i)
			continue
		}
		if row.Group < 0 || row.Group >= len(d.groups) || d.groups[row.Group] == nil || row.Instance < 0 || row.Instance >= config.MaxWorkers {
			return nil, fmt.Errorf("worker %q, row %d, is instance %d of group %d, which there is not", row.Name, i, row.Instance, row.Group)
		}
		w.group = d.groups[row.Group]
		d.machine.Reuse(w.index, w.group.machine, row.Name)
		w.group.put(w)
		w.leaving = w.group.removed
		w.conf = d.confOf(w)
	}
	for i := range d.conf.Groups {
		conf := &d.conf.Groups[i]
		if slices.ContainsFunc(d.groups, func(g *group) bool { return g != nil && g.conf.Name == conf.Name }) {
			continue
		}
		g, err := d.addGroup(conf)
		if err != nil {
			return nil, err
		}
		d.log.Info("group added: it is in the configuration now", "group", g.conf.Name)
	}
	for _, g := range d.living() {
		for k, w := range g.instances {
			if w == nil && d.addInstance(g, k) == nil {
				return nil, fmt.Errorf("there is no row for worker %s.%d", g.conf.Name, k)
			}
		}
	}
	drained := drainedIn(d.mem.log, roster)
	for _, g := range d.living() {
		for _, w := range g.instances {
			w.limit = newRateLimit(w.conf, w.row.Name, d.log)
			position, number := drained(w.index)
			roster.SetDrained(w.index, position, number) // the region's log, which may know better, forgets
			g.drain.carry(w, position, number)
		}
	}
	d.order()
	d.nameWorkers()
	return torn, d.forgetLost()
}

// forgetLost takes out of the directory what nobody held any more and the configuration does not have, and writes the rows anew that a daemon died over.
func (d *Daemon) forgetLost() error {
	rows, _ := d.mem.roster.Segments()
	for i, row := range rows {
		s := d.mem.segments[row.Name]
		if _, err := d.mem.roster.Segment(i); err != nil && s != nil && s.Inode() == row.Inode {
			if _, err := d.mem.listAt(i, row.Name); err != nil {
				return err
			}
		} else if err != nil || row.Name != "" && s == nil {
			if err := d.mem.roster.SetSegment(i, protocol.Segment{}); err != nil {
				return err
			}
			d.systemd.remove(segmentName(i))
		}
	}
	return nil
}

// adoptGroup makes a group of its row; nil if the row is free.
func (d *Daemon) adoptGroup(i int, row protocol.Group) (*group, error) {
	if row.Name == "" {
		return nil, nil
	}
	g := &group{index: i, policy: new(supervise.Policy), row: row, segment: d.mem.groups[row.Name]}
	defer func() {
		if g.segment != nil {
			g.drain = newDrain(d, g.segment)
		}
	}()
	g.machine = d.machine.AddGroup(g.policy)
	k := slices.IndexFunc(d.conf.Groups, func(c config.Group) bool { return c.Name == row.Name })
	if k < 0 {
		g.removed = true
		if row.StopTimeout <= 0 { // torn
			row.StopTimeout = config.DefaultStopTimeout
		}
		// What its processes hold is not known, so it may be anything.
		conf := &config.Group{Name: row.Name, Restart: config.RestartNever, StopTimeout: row.StopTimeout, Consume: d.mem.names}
		d.configure(g, conf)
		s := d.mem.left[groupSegment(row.Name)]
		if s == nil { // all of its processes have ended, and nobody else held it
			d.log.Info("group removed: it is not in the configuration any more, and nothing of it lives", "group", row.Name)
			return nil, d.mem.roster.SetGroup(i, protocol.Group{Rollout: row.Rollout})
		}
		var err error
		if g.segment, err = protocol.OpenGroup(s.Bytes()); err != nil {
			return nil, err
		}
		if err := d.mem.takeLeft(groupSegment(row.Name)); err != nil {
			return nil, err
		}
		d.mem.groups[row.Name] = g.segment
		d.log.Info("group is not in the configuration any more: its workers quit, and then it is removed", "group", row.Name)
	} else {
		d.configure(g, &d.conf.Groups[k])
	}
	if g.row != row {
		d.writeGroup(g)
	}
	return g, nil
}

// confOf is the configuration of a worker whose process an earlier daemon started. If it is not today's, what the process holds is not known.
func (d *Daemon) confOf(w *worker) *config.Group {
	g := w.group
	if w.row.ConfigHash == g.hash || w.row.ConfigHash == 0 {
		return g.conf
	}
	conf := *g.conf
	conf.Consume, conf.Produce = d.mem.names, nil
	switch {
	case w.row.ShimPid == 0:
		conf.Stdin, conf.Stdout = "", ""
	case !conf.Filter() && len(d.mem.names) > 0:
		conf.Stdin = d.mem.names[0]
	}
	return &conf
}

// adoptChannels takes over the channels that the configuration does not have any more: until nobody uses them, and they are empty.
func (d *Daemon) adoptChannels() error {
	var names []string
	for name, s := range d.mem.left {
		if h, err := protocol.ReadHeader(s.Bytes()); err == nil && protocol.IsChannel(h.Kind) {
			names = append(names, name)
		}
	}
	slices.Sort(names) // a dead-letter channel comes after its channel
	for _, name := range names {
		c, err := protocol.OpenChannel(d.mem.left[name].Bytes())
		if err != nil {
			return fmt.Errorf("channel %q: %w", name, err)
		}
		ch := &channel{Channel: c, conf: config.Channel{Name: name, Kind: c.Header().Kind.String()}, retired: true}
		switch c := c.(type) {
		case *protocol.Queue:
			ch.queue = c
			if base := d.mem.channels[strings.TrimSuffix(name, deadSuffix)]; base != nil && base != ch && strings.HasSuffix(name, deadSuffix) {
				base.dead = c
			}
		case *protocol.Topic:
			ch.topic, ch.telling = c, new(sync.Mutex)
		}
		if err := d.mem.takeLeft(name); err != nil {
			return err
		}
		d.mem.add(ch)
	}
	return nil
}

// takeLeft makes a segment that a dead daemon left one of this region.
func (m *memory) takeLeft(name string) error {
	ro, err := m.left[name].ReadOnly()
	if err != nil {
		return fmt.Errorf("segment %q: %w", name, err)
	}
	m.segments[name] = &segment{m.left[name], ro}
	delete(m.left, name)
	return nil
}
