package daemon

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/pkg/protocol"
)

// group is a worker group. The supervisor's goroutine alone uses it.
type group struct {
	index     int           // of its row in the roster and in the command segment
	conf      *config.Group // what instances are started with from now on; it is replaced, never changed
	hash      uint64        // of what of it a process is started with
	policy    *supervise.Policy
	machine   int // its number there
	segment   *protocol.GroupSegment
	drain     *drain         // of what its instances log
	row       protocol.Group // as it was last written
	instances []*worker      // by number, those on their way out included
	ready     bool           // an instance has been ready, or has done its work
	late      string         // of one that is not: why none is to be expected soon. "": it has shown nothing so far
	told      bool           // the log says so
	removed   bool           // it is no longer in the configuration, and ends with its last instance
	looking   bool           // another look at its rolling restart is on its way
}

// regionRows are how many rows of each kind the roster of a new region has: what is not used costs memory, but little.
func regionRows(c *config.Config) (r protocol.RosterConfig) {
	return protocol.RosterConfig{
		Segments:    max(1024, 2*(3+len(c.Groups)+2*len(c.Channels))),
		Groups:      max(256, 2*len(c.Groups)),
		Workers:     config.MaxWorkers,
		Attachments: daemonID + config.MaxWorkers + c.Region.MaxAttachments,
	}
}

// addGroups makes a group of each that the configuration has, for a new region.
func (d *Daemon) addGroups() error {
	d.machine = supervise.New(rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	for i := range d.conf.Groups {
		g, err := d.addGroup(&d.conf.Groups[i])
		if err != nil {
			return err
		}
		for n := range d.wantedCount(g) { // they are started once all is ready
			if d.addInstance(g, n) == nil {
				return fmt.Errorf("there is no room for worker %s.%d: the region has room for %s", g.conf.Name, n, plural(d.rows(), "worker"))
			}
		}
	}
	d.order()
	d.nameWorkers()
	return nil
}

// addGroup makes a group without instances; its segment is there.
func (d *Daemon) addGroup(conf *config.Group) (*group, error) {
	i := slices.Index(d.groups, nil)
	if i < 0 {
		i = len(d.groups)
	}
	if i >= d.mem.roster.GroupCap() || i >= d.mem.command.Groups() {
		return nil, fmt.Errorf("there is no room for group %q: the region has room for %s", conf.Name, plural(d.mem.roster.GroupCap(), "group"))
	}
	g := &group{index: i, segment: d.mem.groups[conf.Name], policy: new(supervise.Policy)}
	g.drain = newDrain(d, g.segment)
	g.machine = d.machine.AddGroup(g.policy)
	if i == len(d.groups) {
		d.groups = append(d.groups, g)
	} else {
		d.groups[i] = g
	}
	d.mem.command.EnlistGroup(i)
	d.configure(g, conf)
	g.row.Rollout, _ = d.mem.command.GroupRollout(i)
	g.row.Count = g.row.Configured
	return g, d.mem.roster.SetGroup(i, g.row)
}

// configure gives a group its configuration: the policy holds at once, the rest from the next start of an instance on. The row is not written.
func (d *Daemon) configure(g *group, conf *config.Group) {
	g.conf, g.hash = conf, startHash(conf)
	*g.policy = *policyOf(conf)
	d.order()
	g.row.Name, g.row.Restart, g.row.Configured, g.row.Most = conf.Name, restartOf(conf.Restart), conf.Count, d.conf.Most(conf)
	g.row.StopTimeout, g.row.Command, g.row.Rank = conf.StopTimeout, commandOf(conf), d.conf.Rank(conf)
}

// order tells the machine which groups come after which. A group that is gone holds up nobody.
func (d *Daemon) order() {
	byName := map[string]*group{}
	for _, g := range d.living() {
		if g.conf != nil && !g.removed {
			byName[g.conf.Name] = g
		}
	}
	for _, g := range byName {
		g.policy.After = nil
		for _, name := range g.conf.After {
			if o := byName[name]; o != nil {
				g.policy.After = append(g.policy.After, o.machine)
			}
		}
	}
}

// startHash identifies what of a group's configuration a process is started with. It is never 0.
func startHash(conf *config.Group) uint64 {
	h := fnv.New64a()
	for _, kv := range config.StartKeys(conf) {
		fmt.Fprintf(h, "%s=%s\x00", kv[0], kv[1])
	}
	return max(h.Sum64(), 1)
}

// writeGroup writes a group's row.
func (d *Daemon) writeGroup(g *group) {
	if err := d.mem.roster.SetGroup(g.index, g.row); err != nil {
		d.log.Error("roster", "error", err)
	}
}

// page is a worker's page. It has memory as soon as the worker was started once.
func (w *worker) page() *protocol.InstancePage { return w.group.segment.Page(w.instance) }

// keepRestarts puts down in the group's segment how often an instance was started again: its row may be another's one day.
func (w *worker) keepRestarts() {
	if w.instance < w.group.segment.Instances() {
		w.group.segment.SetRestarts(w.instance, w.row.RestartsBy)
	}
}

// living lists the groups that there are.
func (d *Daemon) living() []*group {
	return slices.DeleteFunc(slices.Clone(d.groups), func(g *group) bool { return g == nil })
}

// wantedCount is how many instances a group is to have.
func (d *Daemon) wantedCount(g *group) int {
	if g.removed {
		return 0
	}
	n := d.mem.command.GroupCount(g.index)
	if n <= 0 {
		n = g.conf.Count
	}
	return min(n, g.row.Most)
}

// resize makes a group have as many instances as are wanted: the missing ones are new, those above quit and are gone then. It reports
// whether anything has changed.
func (d *Daemon) resize(g *group) (changed bool) {
	n := d.wantedCount(g)
	for i := len(g.instances) - 1; i >= n; i-- {
		if w := g.instances[i]; !w.leaving {
			w.leaving, changed = true, true
			d.reconcile(w)
		}
	}
	for i := range min(n, len(g.instances)) {
		if w := g.instances[i]; w.leaving {
			w.leaving, changed = false, true
			d.reconcile(w)
		}
	}
	for len(g.instances) < n {
		w := d.addInstance(g, len(g.instances))
		if w == nil {
			if g.row.Count != len(g.instances) {
				d.log.Warn("the region has no room for another worker: it waits until one is gone", "group", g.conf.Name, "workers", len(d.workers))
			}
			break
		}
		changed = true
		d.reconcile(w)
	}
	if count := min(n, len(g.instances)); g.row.Count != count {
		d.log.Info("group scaled", "group", g.conf.Name, "from", g.row.Count, "to", count)
		d.event(eventScale, g.conf.Name, "scale", "from", g.row.Count, "to", count)
		g.row.Count, changed = count, true
		d.writeGroup(g)
	}
	return changed
}

// addInstance makes an instance of a group, without starting it; nil if there is no row for it. A row that was used before is used again
// as late as possible, and first by the worker that had it: records of the log name their worker by its row.
func (d *Daemon) addInstance(g *group, instance int) *worker {
	w := &worker{group: g, instance: instance, conf: g.conf}
	name := fmt.Sprintf("%s.%d", g.conf.Name, w.instance)
	row := protocol.Worker{Name: name, Group: g.index, Instance: w.instance, Since: time.Now()}
	var old *worker
	for _, o := range d.workers {
		if o.gone() && (o.row.Name == name || old == nil || old.row.Name != name && o.row.Since.Before(old.row.Since)) {
			old = o
		}
	}
	switch {
	case old != nil && old.row.Name == name, old != nil && len(d.workers) >= d.rows():
		w.index = old.index
		d.workers[w.index] = w
		d.machine.Reuse(w.index, g.machine, name)
		if old.row.Name != name { // how far the log is carried is nobody's while it is neither's
			d.sink.reuse(d.mem.log, w.index)
			w.row = protocol.Worker{State: protocol.StateGone, Since: old.row.Since}
			d.writeRow(w)
			d.mem.roster.SetDrained(w.index, g.drain.end(instance), 0)
		}
		w.row = row
		w.row.State = protocol.StateGone // who reads the row while its owner changes, or finds it torn, sees nobody
		d.writeRow(w)
	case len(d.workers) < d.rows():
		w.index = d.machine.Add(g.machine, name)
		d.workers = append(d.workers, w)
		d.mem.roster.SetDrained(w.index, g.drain.end(instance), 0)
	default:
		return nil
	}
	d.mem.command.Enlist(w.index)
	row.Rolled, _ = d.mem.command.GroupRollout(g.index)
	row.Restarted = d.mem.command.RestartCount(w.index) + row.Rolled
	if instance < g.segment.Instances() { // it may have been there before
		row.RestartsBy = g.segment.Restarts(instance)
		for _, n := range row.RestartsBy {
			row.Restarts += uint64(n)
		}
		d.machine.Count(w.index, row.Restarts)
	}
	w.row = row
	d.writeRow(w)
	g.put(w)
	position, number := d.mem.roster.Drained(w.index)
	g.drain.carry(w, position, number)
	return w
}

// put places a worker among the instances of its group.
func (g *group) put(w *worker) {
	for len(g.instances) <= w.instance {
		g.instances = append(g.instances, nil)
	}
	g.instances[w.instance] = w
}

// rows is how many workers the region has room for.
func (d *Daemon) rows() int { return min(d.mem.roster.WorkerCap(), d.mem.command.Workers()) }

// gone reports whether a row's worker is no instance any more.
func (w *worker) gone() bool { return w.row.State == protocol.StateGone }

// dismiss ends the instances at the upper end of a group that are on their way out and have no process any more, and the group if it
// is removed and has none left. It reports whether there were any.
func (d *Daemon) dismiss(g *group) (any bool) {
	for n := len(g.instances); n > 0; n = len(g.instances) {
		w := g.instances[n-1]
		if !w.leaving || w.proc != nil || w.row.State != protocol.StateExited {
			break
		}
		w.row.State, w.row.Reason, w.row.Since = protocol.StateGone, "scaled down", time.Now()
		d.writeRow(w)
		d.machine.Remove(w.index)
		g.drain.drop(w)
		g.instances = g.instances[:n-1]
		any = true
	}
	if g.removed && len(g.instances) == 0 {
		d.endGroup(g)
	}
	return any
}

// nameWorkers tells the log which row is whose.
func (d *Daemon) nameWorkers() {
	names := map[string]int{}
	for _, w := range d.workers {
		if !w.gone() {
			names[w.row.Name] = w.index
		}
	}
	d.sink.attach(d.mem.log, names)
	d.eventLog.attach(d.mem.events)
}

// scale looks at what is wanted of all groups.
func (d *Daemon) scale() {
	if d.stopping {
		return
	}
	changed := false
	for _, g := range d.living() {
		changed = d.resize(g) || changed
		changed = d.dismiss(g) || changed
		if d.groups[g.index] == g { // else it is gone
			d.roll(g)
		}
	}
	d.dropChannels()
	d.dropCgroups()
	if changed {
		d.nameWorkers()
		d.unsettled = true
	}
}

// endGroup frees the row of a group without instances, and its segment.
func (d *Daemon) endGroup(g *group) {
	d.log.Info("group removed", "group", g.conf.Name)
	g.row = protocol.Group{Rollout: g.row.Rollout}
	d.writeGroup(g)
	d.groups[g.index] = nil
	delete(d.mem.groups, g.conf.Name)
	d.removeSegments(groupSegment(g.conf.Name))
}

func groupSegment(name string) string { return "group/" + name }

// producers are the groups that produce a channel, by name.
func (d *Daemon) producers(channel string) (names []string) {
	for _, g := range d.living() {
		if slices.Contains(g.conf.Produce, channel) {
			names = append(names, g.conf.Name)
		}
	}
	return names
}
