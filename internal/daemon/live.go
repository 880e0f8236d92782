package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/pkg/protocol"
)

// What is shared between the supervisor, which changes it, and the goroutines around it.

// view is the configuration and the segments as the server sees them. It is never changed: the supervisor publishes another.
type view struct {
	conf     *config.Config
	groups   []string // in the order of the configuration, then those that are on their way out
	names    []string // of the channels, as in memory
	channels map[string]*channel
	segments map[string]*segment
}

// publishView makes the server see what there is now.
func (d *Daemon) publishView() {
	v := &view{conf: d.conf, names: slices.Clone(d.mem.names), channels: maps.Clone(d.mem.channels), segments: maps.Clone(d.mem.segments)}
	for _, g := range d.conf.Groups {
		v.groups = append(v.groups, g.Name)
	}
	for _, g := range d.living() {
		if g.removed {
			v.groups = append(v.groups, g.conf.Name)
		}
	}
	d.view.Store(v)
	if d.metrics != nil {
		d.metrics.look(d.statSource())
	}
}

// watches are the goroutines that sleep on words in the memory.
type watches struct {
	mu      sync.Mutex
	ended   bool
	all     sync.WaitGroup
	running map[string]watch // by segment
}

type watch struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// watch runs fn in a goroutine until unwatch, or until ctx ends.
func (d *Daemon) watch(ctx context.Context, segment string, fn func(ctx context.Context)) {
	d.watches.mu.Lock()
	defer d.watches.mu.Unlock()
	if d.watches.ended {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	w := watch{cancel, make(chan struct{})}
	if d.watches.running == nil {
		d.watches.running = map[string]watch{}
	}
	d.watches.running[segment] = w
	d.watches.all.Go(func() {
		defer close(w.done)
		fn(ctx)
	})
}

// unwatch ends a watch, and has the supervisor run then once it has ended. It does not wait: the watch may be waiting for the supervisor.
func (d *Daemon) unwatch(segment string, then func()) {
	d.watches.mu.Lock()
	w, ok := d.watches.running[segment]
	delete(d.watches.running, segment)
	d.watches.mu.Unlock()
	if !ok {
		then()
		return
	}
	w.cancel()
	go func() {
		<-w.done
		d.post(then)
	}()
}

// end waits for all watches, whose context has ended.
func (w *watches) end() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.all.Wait()
}

// bells waits on the doorbells of the command segment and of every group, and on the channels that have dead letters to move.
func (d *Daemon) bells(ctx context.Context) error {
	d.post(func() {
		d.ringing = ctx
		for _, g := range d.living() {
			d.watchGroup(g)
		}
		for _, name := range d.mem.names {
			d.watchChannel(name)
		}
	})
	bell := d.mem.command.Bell()
	for v := bell.Load(); ; v = bell.Load() {
		d.post(d.reconcileAll)
		if d.hub.Wait(ctx, bell, v) != nil {
			break
		}
	}
	d.watches.end()
	return nil
}

// watchGroup waits on the doorbell of a group.
func (d *Daemon) watchGroup(g *group) {
	if d.ringing == nil { // bells has not begun, and will do it
		return
	}
	bell := g.segment.Bell()
	d.watch(d.ringing, groupSegment(g.conf.Name), func(ctx context.Context) {
		var drained sync.WaitGroup
		defer drained.Wait()
		drained.Go(func() { g.drain.run(ctx) })
		for v := bell.Load(); ; v = bell.Load() {
			done := make(chan struct{})
			d.post(func() {
				defer close(done)
				for _, w := range g.instances {
					d.reconcile(w)
				}
			})
			select {
			case <-done: // what rang meanwhile is one more look, not many
			case <-d.finished:
				return
			}
			if d.hub.Wait(ctx, bell, v) != nil {
				return
			}
		}
	})
}

// watchChannel moves the dead letters of a channel that has any, tells of evictions from a topic, and looks for stalls if it is to.
func (d *Daemon) watchChannel(name string) {
	c := d.mem.channels[name]
	limit := c.conf.StallAfter
	if c.dead == nil && c.topic == nil && limit == 0 || d.ringing == nil {
		return
	}
	d.watch(d.ringing, name, func(ctx context.Context) {
		var all sync.WaitGroup
		defer all.Wait()
		if limit > 0 {
			all.Go(func() { d.watchStalls(ctx, name, c.Channel, limit) })
		}
		if c.topic != nil {
			all.Go(func() { d.watchEvictions(ctx, name, c) })
		}
		if c.dead != nil {
			d.moveDeadLetters(ctx, name, c)
		}
	})
}

// addSegment puts a segment that was made while the region runs into the directory and the fd store.
func (d *Daemon) addSegment(name string) error {
	i, err := d.mem.list(name)
	if err != nil {
		return err
	}
	d.systemd.remove(segmentName(i))
	d.systemd.store(segmentName(i), d.mem.segments[name].File())
	return nil
}

// removeSegments takes segments that nobody uses any more out of the directory and the fd store, and unmaps them, once the watch of the first of
// them has ended: it may work on all of them.
func (d *Daemon) removeSegments(names ...string) {
	rows, err := d.mem.roster.Segments()
	if err != nil {
		d.log.Error("roster", "error", err)
	}
	for i, row := range rows {
		if row.Name != "" && slices.Contains(names, row.Name) {
			if err := d.mem.roster.SetSegment(i, protocol.Segment{}); err != nil {
				d.log.Error("roster", "error", err)
			}
			d.systemd.remove(segmentName(i))
		}
	}
	var gone []*segment
	for _, name := range names {
		if s := d.mem.segments[name]; s != nil {
			gone = append(gone, s)
		}
		delete(d.mem.segments, name)
		delete(d.mem.channels, name)
	}
	d.mem.names = slices.DeleteFunc(slices.Clone(d.mem.names), func(n string) bool { return slices.Contains(names, n) })
	d.publishView()
	d.heldMore = true
	d.unwatch(names[0], func() {
		for _, s := range gone {
			d.hub.Forget(s.Bytes())
			s.readOnly.Close()
			s.Close()
		}
	})
}

// allocatePage makes sure that a worker's page has memory.
func (d *Daemon) allocatePage(w *worker) error {
	s, n := w.group.segment, w.instance+1
	if n <= s.Instances() {
		return nil
	}
	if n > s.Cap() {
		return fmt.Errorf("the segment of group %q has room for %d instances: stop the region and start it anew for more", w.group.conf.Name, s.Cap())
	}
	return d.mem.allocate(s, n, d.conf.Region.Mlock)
}
