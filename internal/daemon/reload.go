package daemon

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/pkg/protocol"
)

// Reload: the file is read again, compared with the configuration that holds, and the difference applied. The plan is checked whole before the
// first step, and what can fail comes first: new segments. They are made beside the supervisor, which goes on meanwhile: memory takes a third of a second a GiB,
// and then the plan is checked again. docs/operations.md says what a death between two steps leaves.

// errReload is why nothing was done.
type errReload struct{ error }

// errReloadStopping: the configuration is not at fault.
var errReloadStopping = errReload{errors.New("the region is stopping, and reads its configuration no more: the next daemon does, when it starts")}

// reload reads the configuration again and applies what is new, unless dry. It runs in any goroutine but the supervisor's. Errors: errReload.
func (d *Daemon) reload(dry bool) (plan []config.Step, applied bool, err error) {
	path := d.view.Load().conf.Path
	if path == "" {
		return nil, false, errReload{errors.New("the region runs with the embedded configuration: there is no file to read again; start shmd with -c FILE")}
	}
	d.reloading.Lock() // one at a time: the supervisor does other things in between, and what was read first must not hold last
	defer d.reloading.Unlock()
	next, err := config.Load(path)
	if err == nil {
		if problems := next.CheckStarts(); len(problems) > 0 {
			err = config.Errors(problems)
		}
	}
	if err != nil {
		return nil, false, errReload{err}
	}
	made := newStage(protocol.Header{})
	defer func() { made.Close() }() // what was not taken over
	for {
		var lacking []string
		done := make(chan error, 1)
		d.post(func() {
			if d.stopping {
				done <- errReloadStopping
				return
			}
			plan = d.plan(next)
			if slices.ContainsFunc(plan, func(s config.Step) bool { return s.Action == config.ActionImpossible }) {
				done <- nil
				return
			}
			made.header = d.mem.header
			if lacking = d.lacking(next, made); len(lacking) > 0 || dry {
				done <- nil
				return
			}
			err := d.apply(next, made)
			applied = err == nil
			done <- err
		})
		select {
		case err = <-done:
		case <-d.finished:
			return plan, false, errReloadStopping
		}
		if len(lacking) == 0 || err != nil {
			return plan, applied, err
		}
		if problems := next.CheckMemory(lacking); len(problems) > 0 {
			return nil, false, errReload{config.Errors(problems)}
		}
		if dry {
			return plan, false, nil
		}
		d.log.Info("segments are made for the new configuration", "of", lacking)
		stage := made
		go func() { done <- stage.make(next, lacking) }()
		select {
		case err = <-done:
		case <-d.finished: // the process ends, and does not wait for its memory
			made = newStage(protocol.Header{})
			return plan, false, errReloadStopping
		}
		if err != nil {
			return plan, false, errReload{err}
		}
	}
}

// newStage is a memory for segments that are made beside the region's, and become part of it later.
func newStage(header protocol.Header) *memory {
	return &memory{header: header, groups: map[string]*protocol.GroupSegment{}, channels: map[string]*channel{}, segments: map[string]*segment{}}
}

// lacking are the tables of a configuration whose segments are neither in the region nor in stage: "[worker.NAME]", "[channel.NAME]".
func (d *Daemon) lacking(next *config.Config, stage *memory) (tables []string) {
	for i := range next.Groups {
		if conf := &next.Groups[i]; d.groupNamed(conf.Name) == nil && stage.groups[conf.Name] == nil {
			tables = append(tables, "[worker."+conf.Name+"]")
		}
	}
	for _, c := range next.Channels {
		if d.mem.channels[c.Name] == nil && stage.channels[c.Name] == nil {
			tables = append(tables, "[channel."+c.Name+"]")
		}
	}
	return tables
}

// make makes the segments of tables.
func (m *memory) make(next *config.Config, tables []string) error {
	for i := range next.Groups {
		if conf := &next.Groups[i]; slices.Contains(tables, "[worker."+conf.Name+"]") {
			if err := m.addGroup(next.Region, conf); err != nil {
				return err
			}
		}
	}
	for _, c := range next.Channels {
		if slices.Contains(tables, "[channel."+c.Name+"]") {
			if err := m.addChannel(next.Region, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// plan is what has to be done, and what is in the way of it.
func (d *Daemon) plan(next *config.Config) []config.Step {
	plan := config.Diff(d.conf, next)
	impossible := func(at, format string, args ...any) {
		plan = append(plan, config.Step{Action: config.ActionImpossible, Table: at, Text: fmt.Sprintf(format, args...)})
	}
	known := channelsOf(d.conf)
	for _, c := range next.Channels {
		if old := d.mem.channels[c.Name]; old != nil && old.retired && (old.conf.Kind != c.Kind || old.Slots() != c.Slots || old.SlotSize() != int(c.SlotSize)) {
			impossible("[channel."+c.Name+"]", "an earlier channel of this name is still there, another one: wait until nobody uses it and it is empty (shmctl ch ls)")
		}
		delete(known, c.Name)
	}
	for name := range known { // is to go
		if who := d.outsidersOn(name); who != "" {
			impossible("[channel."+name+"]", "%s: end that first", who)
		}
		for _, n := range []string{name, name + deadSuffix} {
			if c := d.mem.channels[n]; c != nil && c.queue != nil && c.Summary().Depth > 0 {
				what := "1 message waits in %s: receive it"
				if depth := c.Summary().Depth; depth > 1 {
					what = fmt.Sprint(depth) + " messages wait in %s: receive them"
				}
				impossible("[channel."+name+"]", what+" (shmctl sub), or drop what waits (shmctl ch purge)", n)
			}
		}
	}
	workers := 0
	for i := range next.Groups {
		conf := &next.Groups[i]
		if err := d.mayHaveCgroup(conf); err != nil {
			impossible("[worker."+conf.Name+"]", "%v", err)
		}
		g := d.groupNamed(conf.Name)
		n := conf.Count
		switch {
		case g == nil:
		case g.removed:
			impossible("[worker."+conf.Name+"]", "workers of an earlier group of this name are still quitting: wait for their end (shmctl ps %s)", conf.Name)
		case conf.Count == g.conf.Count: // it keeps the number that an operator gave it
			n = d.wantedCount(g)
		}
		if workers += n; n > next.Most(conf) {
			impossible("[worker."+conf.Name+"]", "it has %d instances by shmctl scale, and a channel of it would have one such end: scale it to 1 first", n)
		}
		if g != nil && d.outdated(g) && startHash(conf) == g.hash && !slices.ContainsFunc(plan, func(s config.Step) bool {
			return s.Action == config.ActionRestart && s.Table == "[worker."+conf.Name+"]"
		}) {
			plan = append(plan, config.Step{Action: config.ActionRestart, Table: "[worker." + conf.Name + "]", Text: "instances still run with an earlier configuration"})
		}
	}
	if most := d.rows(); workers > most {
		impossible("[worker]", "all groups together would have %d workers, and a region has %d at most, what shmctl scale says included", workers, most)
	}
	if n, most := len(next.Groups)+len(d.groups)-len(d.living()), d.mem.roster.GroupCap(); n > most {
		impossible("[worker]", "%d groups are more than the %d that there is room for", n, most)
	}
	return plan
}

// outdated reports whether an instance runs with another configuration than its group has.
func (d *Daemon) outdated(g *group) bool {
	return slices.ContainsFunc(g.instances, func(w *worker) bool {
		return w.proc != nil && !w.leaving && w.row.ConfigHash != 0 && w.row.ConfigHash != g.hash
	})
}

// apply makes a configuration hold that plan has found nothing in the way of, with the segments of stage. On an error nothing has changed.
func (d *Daemon) apply(next *config.Config, stage *memory) error {
	made, err := d.takeSegments(stage)
	if err != nil {
		return errReload{err}
	}
	old := d.conf
	d.conf = next
	for name, c := range d.mem.channels {
		conf, ok := channelsOf(next)[strings.TrimSuffix(name, deadSuffix)]
		if c.retired = !ok; ok && strings.HasSuffix(name, deadSuffix) {
			conf = config.Channel{Name: name, Kind: conf.Kind, AllowConsume: conf.AllowConsume}
		}
		if ok {
			changed := *c // the server may be reading the one before
			changed.conf = conf
			d.mem.channels[name] = &changed
		}
	}
	policies := map[*group]supervise.Policy{}
	for i := range next.Groups {
		conf := &next.Groups[i]
		g := d.groupNamed(conf.Name)
		if g == nil {
			continue
		}
		policies[g] = *g.policy
		before, hash := g.row, g.hash
		rescaled := conf.Count != g.conf.Count
		d.configure(g, conf)
		changed := g.hash != hash
		afresh := d.outdated(g) || changed && slices.ContainsFunc(g.instances, (*worker).down) // what could not run has its turn at once
		if changed && !afresh && g.row.RolloutState == protocol.RolloutStopped {               // what runs does so with it already: why that was given up does not matter any more
			g.row.RolloutState, g.row.RolloutNote = protocol.RolloutNone, ""
		}
		for _, w := range g.instances {
			if w.limit != nil {
				w.limit.set(conf)
			}
		}
		if g.row != before {
			d.writeGroup(g)
		}
		if rescaled { // the file says another number than it did: it is newer than what an operator said
			d.mem.command.Scale(g.index, 0)
		}
		if afresh {
			d.mem.command.AskRollout(g.index, 1)
		}
	}
	for _, g := range d.living() {
		if !slices.ContainsFunc(next.Groups, func(c config.Group) bool { return c.Name == g.conf.Name }) {
			g.removed = true
			d.log.Info("group is not in the configuration any more: its workers quit, and then it is removed", "group", g.conf.Name)
		}
	}
	for i := range next.Groups {
		if conf := &next.Groups[i]; d.groupNamed(conf.Name) == nil {
			g, err := d.addGroup(conf)
			if err != nil { // plan has counted them
				d.log.Error("group could not be added", "group", conf.Name, "error", err)
				continue
			}
			d.watchGroup(g)
		}
	}
	for _, name := range made {
		if d.mem.channels[name] != nil {
			d.watchChannel(name)
		}
	}
	if old.Open() != next.Open() && !d.server.unit {
		if err := d.server.setMode(d.sockPath); err != nil {
			d.log.Error("who may connect has not changed", "error", err)
		}
	}
	d.setCgroups()
	if len(made) > 0 || old.Region.OrphanTimeout != next.Region.OrphanTimeout { // before anybody can put something into what is new
		d.renewGuard()
	}
	d.publishView()
	d.refused, d.info.ConfigRefused = nil, false
	d.mem.roster.SetDaemon(d.info)
	d.storeConfig()
	d.log.Info("configuration reloaded", "config", next.Path)
	d.event(eventReload, next.Region.Name, "reloaded", "config", next.Path)
	d.reconcileAll()
	for _, w := range d.workers {
		if before, ok := policies[w.group]; ok && !w.gone() {
			d.step(w, supervise.Altered{Before: before})
		}
	}
	d.unsettled = true
	return nil
}

// down reports whether an instance could not run: it is started again later, or was given up, or failed and is left so.
func (w *worker) down() bool {
	switch w.row.State {
	case protocol.StateBackoff, protocol.StateFailed:
		return true
	case protocol.StateExited:
		return w.row.Reason != supervise.Stopped && (w.row.ExitCode != 0 || w.row.ExitSignal != 0)
	}
	return false
}

// takeSegments makes the segments of stage part of the region, with their rows and places in the fd store. On an error it has undone everything.
func (d *Daemon) takeSegments(stage *memory) (made []string, err error) {
	made = slices.Sorted(maps.Keys(stage.segments))
	maps.Copy(d.mem.segments, stage.segments)
	maps.Copy(d.mem.groups, stage.groups)
	maps.Copy(d.mem.channels, stage.channels)
	d.mem.names = append(slices.Clone(d.mem.names), stage.names...)
	*stage = *newStage(stage.header)
	for _, name := range made {
		if err == nil {
			err = d.addSegment(name)
		}
	}
	if err == nil {
		return made, nil
	}
	for _, name := range made {
		delete(d.mem.groups, strings.TrimPrefix(name, groupSegment("")))
		d.removeSegments(name) // nobody watches them yet
	}
	return nil, err
}

// dropChannels removes the channels that the configuration has no more, once nobody uses them and no message waits in them.
func (d *Daemon) dropChannels() {
	for _, name := range slices.Clone(d.mem.names) {
		c := d.mem.channels[name]
		if c == nil || !c.retired || strings.HasSuffix(name, deadSuffix) && d.mem.channels[strings.TrimSuffix(name, deadSuffix)] != nil {
			continue
		}
		names := []string{name}
		if d.mem.channels[name+deadSuffix] != nil {
			names = append(names, name+deadSuffix)
		}
		if slices.ContainsFunc(names, d.inUse) {
			continue
		}
		d.log.Info("channel removed", "channel", name)
		d.removeSegments(names...)
	}
}

// inUse reports whether anybody holds a channel, or a message waits in it.
func (d *Daemon) inUse(name string) bool {
	c := d.mem.channels[name]
	if c.queue != nil && c.Summary().Depth > 0 || d.outsidersOn(name) != "" {
		return true
	}
	return slices.ContainsFunc(d.workers, func(w *worker) bool { return !w.gone() && w.proc != nil && slices.Contains(w.conf.Channels(), name) })
}

// outsidersOn says which outsider uses a channel, or may, "" if none does.
func (d *Daemon) outsidersOn(name string) string {
	for _, o := range d.outsiders {
		for _, channel := range []string{name, name + deadSuffix} {
			switch uses, err := d.uses(o, channel); {
			case err != nil:
				return fmt.Sprintf("%q (pid %d) may use it: a daemon before this one let it in, and this one cannot look into processes of that user", o.name, o.pid)
			case uses:
				return fmt.Sprintf("%q (pid %d) uses it", o.name, o.pid)
			}
		}
	}
	return ""
}

// uses reports whether an outsider has a channel. What one that attached to a daemon before this one was given is not known, but what it holds can be seen. Errors: or not.
func (d *Daemon) uses(o *outsider, channel string) (bool, error) {
	s := d.mem.segments[channel]
	switch {
	case !slices.Contains(o.channels, channel):
		return false, nil
	case o.visitor != nil:
		return true, nil
	case s == nil:
		return false, nil
	}
	return control.HoldsSegment(o.pid, d.conf.Region.Name, channel, s.Inode())
}

func (d *Daemon) groupNamed(name string) *group {
	i := slices.IndexFunc(d.groups, func(g *group) bool { return g != nil && g.conf.Name == name })
	if i < 0 {
		return nil
	}
	return d.groups[i]
}

// channelsOf are the channels of a configuration, by name.
func channelsOf(c *config.Config) map[string]config.Channel {
	all := map[string]config.Channel{}
	for _, ch := range c.Channels {
		all[ch.Name] = ch
	}
	return all
}

// reloadOnSignal is what SIGHUP does: its answer is in the log.
func (d *Daemon) reloadOnSignal() {
	plan, applied, err := d.reload(false)
	for _, s := range plan {
		d.log.Info("reload", "step", s.Action, "table", s.Table, "text", s.Text)
	}
	switch {
	case err != nil:
		d.log.Error("the configuration is not reloaded: the one before still holds", "error", err)
	case len(plan) == 0:
		d.log.Info("the configuration has not changed")
	case !applied:
		d.log.Error("the configuration is not reloaded: the one before still holds", "error", "a step is impossible while the region runs")
	}
}

// reload answers a request for it.
func (s *server) reload(p peer, r attach.Request) attach.Reply {
	if !trusted(p) && !listed(s.d.view.Load().conf.Access.Operate, p) {
		return attach.Reply{Code: attach.CodePermission, Error: fmt.Sprintf("user %d may not operate region %q: see operate in [access], or become root or the daemon's user",
			p.uid, s.d.view.Load().conf.Region.Name)}
	}
	plan, applied, err := s.d.reload(r.DryRun)
	switch {
	case errors.Is(err, errReloadStopping):
		return attach.Refusal(&attach.RefusedError{Code: attach.CodeBusy, Text: err.Error()})
	case err != nil:
		return attach.Refusal(&attach.RefusedError{Code: attach.CodeConfig, Text: err.Error()})
	}
	reply := s.hello()
	reply.Applied = applied
	for _, step := range plan {
		text := step.Text
		if len(text) > attach.MaxText {
			text = strings.ToValidUTF8(text[:attach.MaxText-3], "") + "…"
		}
		reply.Plan = append(reply.Plan, attach.Step{Action: step.Action, Table: step.Table, Text: text})
	}
	return reply
}
