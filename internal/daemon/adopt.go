package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// Adoption: a daemon that starts takes over the region of one that died, with the workers that live. The memory says what was; the
// processes say what is. docs/adoption.md says what happens for a death between any two stores.

// maxAdoptions is how many daemons in a row may die while they adopt a region before it is set aside.
const maxAdoptions = 3

// adopted is what an adoption found, for the log and for the supervisor.
type adopted struct {
	from    string
	ended   []*worker // their processes ended while nobody watched
	living  int
	unknown int // outsiders that live
	damaged []damage
}

// damage is a segment that could not be taken over.
type damage struct {
	segment string
	err     error
}

// adopt makes this daemon the one of the region that e is. On an error nothing in the memory has changed but the count of adoptions; what e
// has is still to be closed.
func (d *Daemon) adopt(e *estate, now time.Time) (*adopted, error) {
	roster, err := d.checkEstate(e)
	if err != nil {
		return nil, err
	}
	if n := roster.Adopting(); n > maxAdoptions {
		return nil, fmt.Errorf("%d daemons in a row died while they adopted it", n-1)
	}
	if err := sys.RegisterFence(); err != nil && e.fenced() {
		return nil, fmt.Errorf("its channels need membarrier: %w", err)
	}
	if d.mem, err = makeMemory(d.conf, d.dir, roster.Header(), e.segments); err != nil {
		return nil, err
	}
	rows := directory(roster, e.segments)
	for _, name := range d.mem.anew {
		switch {
		case slices.ContainsFunc(e.damaged, func(x damage) bool { return x.segment == name }):
		case slices.ContainsFunc(rows, func(r protocol.Segment) bool { return r.Name == name }):
			d.log.Warn("nobody held this segment any more: it is made anew, and empty", "segment", name)
		default:
			d.log.Info("the configuration has what the region had not: it is made", "segment", name)
		}
	}
	for _, x := range e.damaged {
		d.log.Error("a segment was damaged by a process that may write to it: it is made anew, and empty, and the workers that use it are started again", "segment", x.segment, "damage", x.err)
	}
	for _, err := range d.mem.unlocked {
		d.log.Warn("a segment is not locked into memory: it may be swapped out", "error", err)
	}
	d.changedKeys()
	if err := d.mem.log.Resume(); err != nil {
		d.log.Warn("the log begins anew", "error", err)
	}
	if err := d.mem.events.Resume(); err != nil {
		d.log.Warn("the events begin anew", "error", err)
	}
	return d.takeOver(e, now)
}

// errAsked: somebody has asked the region to stop, and afterwards for another.
var errAsked = errors.New("it was asked to stop")

// checkEstate says whether the region can be adopted under this configuration. It only reads.
func (d *Daemon) checkEstate(e *estate) (*protocol.Roster, error) {
	for _, name := range []string{"roster", "command"} {
		if e.segments[name] == nil {
			return nil, fmt.Errorf("segment %q is not among what %s has", name, e.from)
		}
	}
	roster, err := protocol.OpenRoster(e.segments["roster"].Bytes())
	if err != nil {
		return nil, err
	}
	switch info := roster.Daemon(); {
	case roster.Dir() != control.CanonicalDir(d.dir):
		return nil, fmt.Errorf("it belongs to the runtime directory %s", roster.Dir())
	case info.State == 0:
		return nil, errors.New("its daemon had not finished making it")
	}
	if command, err := protocol.OpenCommand(e.segments["command"].Bytes()); err != nil {
		return nil, err
	} else if command.RegionDesired() != protocol.DesiredRun && e.handed == nil && (len(e.names) == 0 || !d.restarted(true)) {
		// Somebody starts it again, before the stop is done. Where systemd does so by itself, it is the end of the stop.
		return nil, errAsked
	}
	generation := roster.Header().Generation
	rows := directory(roster, e.segments)
	for name, s := range e.segments { // one that was removed, and not from the fd store yet
		if !slices.ContainsFunc(rows, func(r protocol.Segment) bool { return r.Name == name }) {
			s.Close()
			delete(e.segments, name)
		}
	}
	for _, row := range rows {
		s := e.segments[row.Name]
		if s == nil {
			continue
		}
		if err := openable(row.Kind, s.Bytes()); err != nil && s.Inode() == row.Inode {
			if row.Kind != protocol.KindGroup && !protocol.IsChannel(row.Kind) {
				return nil, fmt.Errorf("segment %q: %w", row.Name, err)
			}
			s.Close() // who could write to it has damaged it: it alone is lost
			delete(e.segments, row.Name)
			e.damaged = append(e.damaged, damage{row.Name, err})
			continue
		}
		h, err := protocol.ReadHeader(s.Bytes())
		if err != nil {
			return nil, fmt.Errorf("segment %q: %w", row.Name, err)
		}
		if h.Generation != generation || s.Inode() != row.Inode {
			return nil, fmt.Errorf("segment %q is not the one that the roster names", row.Name)
		}
	}
	return roster, d.sameShape(roster, e.segments)
}

// directory is the roster's directory. A row that a daemon died over counts if it names a segment that is there, as for one whose stall was being told of; if it
// does not, the segment was being made or removed, so nobody uses it and nothing is in it.
func directory(roster *protocol.Roster, segments map[string]*region.Segment) []protocol.Segment {
	rows, _ := roster.Segments()
	for i, row := range rows {
		if _, err := roster.Segment(i); err == nil {
			continue
		}
		if s := segments[row.Name]; s != nil && s.Inode() == row.Inode {
			if h, err := protocol.ReadHeader(s.Bytes()); err == nil {
				rows[i].Kind = h.Kind
				continue
			}
		}
		rows[i] = protocol.Segment{}
	}
	return rows
}

// openable says whether a segment that workers can write still has a head that fits to its size. Another version of the layout is no damage.
func openable(kind protocol.Kind, b []byte) (err error) {
	switch {
	case kind == protocol.KindGroup:
		_, err = protocol.OpenGroup(b)
	case protocol.IsChannel(kind):
		_, err = protocol.OpenChannel(b)
	default:
		_, err = protocol.ReadHeader(b)
	}
	var version *protocol.VersionError
	var feature *protocol.FeatureError
	if errors.As(err, &version) || errors.As(err, &feature) {
		return nil // ReadHeader says so for all
	}
	return err
}

// changedKeys tells of keys that lie in the memory and are not what the configuration says. They stay what they are.
func (d *Daemon) changedKeys() {
	for _, x := range []struct {
		key  string
		is   int64
		conf *int64
	}{{"log_size", d.mem.log.Size(), &d.conf.Region.LogSize}, {"events_size", d.mem.events.Size(), &d.conf.Region.EventsSize}} {
		if x.is != *x.conf {
			d.log.Warn("the region keeps what its memory says: the configuration says otherwise", "key", x.key, "is", config.FormatSize(x.is), "configured", config.FormatSize(*x.conf),
				"next", "to change it, begin the region anew (shmctl stop, then start the daemon)")
			*x.conf = x.is // what a reload compares with
		}
	}
	for _, name := range d.mem.names {
		ch := d.mem.channels[name]
		if ch.queue != nil && ch.queue.Flags()&protocol.QueueFlagDeadLetter != 0 {
			continue
		}
		key := func(key string, is, wanted any) {
			if is != wanted {
				d.log.Warn("a channel keeps what its memory says: the configuration says otherwise", "channel", name, "key", key, "is", is, "configured", wanted,
					"next", "to change it, begin the region anew (shmctl stop, then start the daemon)")
			}
		}
		c := ch.conf
		switch have := ch.Channel.(type) {
		case *protocol.Queue:
			key("max_deliveries", have.MaxDeliveries(), c.MaxDeliveries)
			key("max_leases", have.MaxLeases(), c.MaxLeases)
			if ch.dead != nil {
				key("dead_slots", ch.dead.Slots(), c.DeadSlots)
			}
			key("producers = 1 and consumers = 1", have.Flags()&protocol.QueueFlagLane != 0, c.Lane() && sys.RegisterFence() == nil)
			key("sparse", have.Flags()&protocol.QueueFlagSparse != 0, c.Sparse)
		case *protocol.Topic:
			key("overflow = \"drop-oldest\"", have.Flags()&protocol.TopicFlagDropOldest != 0, c.Overflow == config.OverflowDropOldest)
			key("publishers = 1", have.Flags()&protocol.TopicFlagSingle != 0, c.Publishers == 1)
			key("evict_after", have.EvictAfter(), c.EvictAfter)
			key("sparse", have.Flags()&protocol.TopicFlagSparse != 0, c.Sparse)
		case *protocol.Call:
			key("max_deliveries", have.MaxDeliveries(), c.MaxDeliveries)
			key("on_server_death = \"fail\"", have.Flags()&protocol.CallFlagFailOnDeath != 0, c.OnServerDeath == config.OnServerDeathFail)
			key("sparse", have.Flags()&protocol.CallFlagSparse != 0, c.Sparse)
		}
	}
}

// sameShape compares the channels of the memory with the configuration: one that both have must be the same.
func (d *Daemon) sameShape(roster *protocol.Roster, segments map[string]*region.Segment) error {
	want := map[string]config.Channel{}
	for _, c := range d.conf.Channels {
		want[c.Name] = c
		if c.Kind == config.KindQueue && c.MaxDeliveries > 0 {
			want[c.Name+deadSuffix] = config.Channel{Kind: c.Kind}
		}
	}
	for _, row := range directory(roster, segments) {
		c, ok := want[row.Name]
		s := segments[row.Name]
		if !protocol.IsChannel(row.Kind) || !ok || s == nil { // not in the configuration any more, or made anew
			continue
		}
		have, err := protocol.OpenChannel(s.Bytes())
		switch {
		case err != nil:
			return fmt.Errorf("channel %q: %w", row.Name, err)
		case have.Header().Kind.String() != c.Kind:
			return fmt.Errorf("its channel %q is a %v, in the configuration a %s", row.Name, have.Header().Kind, c.Kind)
		case strings.HasSuffix(row.Name, deadSuffix):
		case have.Slots() != c.Slots || have.SlotSize() != int(c.SlotSize):
			return fmt.Errorf("its channel %q has slots = %d and slot_size = %d, in the configuration %d and %d", row.Name, have.Slots(), have.SlotSize(), c.Slots, c.SlotSize)
		}
	}
	return nil
}

// fenced reports whether there are channels whose ends count on membarrier in every process.
func (e *estate) fenced() bool {
	for _, s := range e.segments {
		if q, err := protocol.OpenQueue(s.Bytes()); err == nil && q.Flags()&protocol.QueueFlagLane != 0 {
			return true
		}
		if t, err := protocol.OpenTopic(s.Bytes()); err == nil && t.Flags()&protocol.TopicFlagFenced != 0 {
			return true
		}
	}
	return false
}

// takeOver looks at every process that the roster names. What ended is repaired here, before anything is started.
func (d *Daemon) takeOver(e *estate, now time.Time) (*adopted, error) {
	a := &adopted{from: e.from, damaged: e.damaged}
	roster := d.mem.roster
	d.ids = newIDs(roster.AttachmentCap())
	rows := map[uint16]protocol.Attachment{}
	byWorker := map[int]uint16{}
	for id := uint16(daemonID + 1); int(id) < roster.AttachmentCap(); id++ {
		row, err := roster.Attachment(id)
		if err != nil { // its writer died in the middle: whoever it is about is found, or ended, by the worker's row
			row.State = protocol.AttachmentRepairing
		}
		if row.State == 0 {
			continue
		}
		d.ids.used[id] = true
		rows[id] = row
		if row.Worker >= 0 {
			byWorker[row.Worker] = id
		}
	}
	torn, err := d.adoptGroups()
	if err != nil {
		return nil, err
	}
	d.recallEvictions()
	d.restartUsers(e.damaged, torn)
	if err := d.mem.describeAnew(); err != nil {
		return nil, err
	}
	d.sink.handOn()
	for _, w := range d.workers {
		if torn[w.index] { // its writer died in the middle
			w.row.Attachment, w.row.Since = byWorker[w.index], now
		}
		id := w.row.Attachment
		if id == 0 {
			continue
		}
		d.ids.used[id] = true
		row, ok := rows[id]
		delete(rows, id)
		if !ok || row.State != protocol.AttachmentLive { // the daemon died between giving out the id and writing down the process, or while it repaired
			row.Pid, row.StartTicks = w.row.Process(), w.row.StartTicks
			if row.Pid == 0 {
				d.endUnrecorded(w)
			}
		}
		w.proc = &process{pid: row.Pid, ticks: row.StartTicks, started: sinceWhen(w.row.Since, time.Now()), running: true, adopted: true}
		w.proc.pidfd = d.livingOrEnded(e, id, row)
		w.proc.adopted = !isChild(w.proc)
		for i := range w.proc.outputs {
			w.proc.outputs[i] = d.outputLeft(e, w.proc, i+1, id)
		}
		if w.proc.pidfd == nil || isEnded(w.proc.pidfd) {
			a.ended = append(a.ended, w)
			d.giveBack(id, w.conf.Channels())
			for i, r := range w.proc.outputs { // before they are forgotten; goOn captures the rest
				if r != nil {
					d.lines.drain(&output{source: outputSource(w, w.proc, i), from: r}, false)
				}
			}
			d.forget(id)
			w.row.Attachment = 0
			continue
		}
		if torn[w.index] {
			w.row.Pid, w.row.StartTicks = w.proc.pid, w.proc.ticks
			d.writeRow(w)
		}
		a.living++
	}
	for id, row := range rows { // outsiders, and what was being repaired
		if row.State == protocol.AttachmentLive {
			pidfd := d.livingOrEnded(e, id, row)
			if pidfd != nil && e.handed == nil { // it may have detached while no daemon lived; another user's cannot be looked into
				if holds, err := control.Holds(row.Pid, roster); err == nil && !holds {
					d.log.Info("an outsider holds nothing of the region any more: its attachment ends", "name", row.Name, "pid", row.Pid)
					pidfd.Close()
					pidfd = nil
				}
			}
			if pidfd != nil && !isEnded(pidfd) {
				d.outsiders[id] = &outsider{id: id, name: row.Name, pid: row.Pid, uid: row.UID, pidfd: pidfd, channels: d.mem.names, told: true}
				a.unknown++
				continue
			} else if pidfd != nil {
				pidfd.Close()
			}
		}
		d.giveBack(id, d.mem.names)
		d.forget(id)
		if row.State == protocol.AttachmentLive && row.Worker < 0 {
			d.event(eventDetach, row.Name, "while no daemon lived", "pid", row.Pid, "attachment", id)
		}
	}
	d.repair(daemonID, protocol.Attachment{Name: "shmd", Pid: roster.Daemon().Pid}, d.mem.names) // the dead letter that it was moving, and the slot that this goes to
	d.dropStored()
	d.mem.command.Recall() // a guard may have dismissed everybody
	return a, nil
}

// livingOrEnded returns a pidfd of an attachment's process, from the fd store or by its pid; nil if it has ended and nobody kept one.
func (d *Daemon) livingOrEnded(e *estate, id uint16, a protocol.Attachment) *os.File {
	name := pidfdName(id)
	if f := e.stored[name]; f != nil {
		delete(e.stored, name)
		if pid, err := sys.PidfdPid(f); err == nil && (pid == a.Pid || pid <= 0 && !lives(a)) {
			e.sure[id] = true
			d.keepStored(e, name, f)
			return f
		}
		f.Close() // of the process that had the id before: systemd did not hear any more that it is another's now
		d.forget(id)
		for _, name := range storeNames(id) {
			if f := e.stored[name]; f != nil {
				f.Close()
				delete(e.stored, name)
			}
		}
	}
	if a.Pid <= 0 {
		return nil
	}
	f, err := sys.PidfdOpen(a.Pid)
	if err != nil {
		return nil
	}
	if !lives(a) { // the number is another's by now
		f.Close()
		return nil
	}
	d.keepStored(e, name, f)
	return f
}

// lives reports whether the process of an attachment is there, if only as a zombie.
func lives(a protocol.Attachment) bool {
	ticks, err := sys.StartTicks(a.Pid)
	return err == nil && ticks == a.StartTicks
}

// keepStored has the fd store hold f under a name, and nothing else.
func (d *Daemon) keepStored(e *estate, name string, f *os.File) {
	if e.handed != nil || d.systemd.has(name) && !slices.Contains(e.twice, name) {
		return
	}
	d.systemd.remove(name)
	d.systemd.store(name, f)
}

// outputLeft returns the reading end of a worker's standard output (1) or error (2): from the fd store, where it has the name, or from its process. If the fd store did not have
// the pidfd, what it has may be of the process that had the id before, and its process knows better.
func (d *Daemon) outputLeft(e *estate, p *process, fd int, id uint16) *os.File {
	name := [...]string{1: outputName(id), 2: errorName(id)}[fd]
	left := e.stored[name]
	delete(e.stored, name)
	if e.handed != nil || left != nil && e.sure[id] {
		if left != nil {
			d.keepStored(e, name, left)
		}
		return left
	}
	if p.pidfd == nil || isEnded(p.pidfd) {
		return left
	}
	own := outputOf(p, fd)
	if own == nil {
		return left
	}
	if left != nil {
		left.Close()
	}
	d.systemd.remove(name)
	d.systemd.store(name, own)
	return own
}

// isChild reports whether a process is a child of this one that was not reaped: an earlier program in this process started it.
func isChild(p *process) bool {
	if p.pidfd == nil {
		return false
	}
	if pid, err := sys.PidfdPid(p.pidfd); err != nil || pid != p.pid { // -1: it was reaped
		return false
	}
	parent, err := sys.Parent(p.pid)
	return err == nil && parent == os.Getpid()
}

func isEnded(pidfd *os.File) bool {
	ended, err := sys.PidfdReadable(pidfd)
	return err == nil && ended
}

// outputOf opens the reading end of a living worker's standard output (1) or error (2) through /proc: a pipe that it holds for reading
// and writing is one that a daemon gave it. Nil if it is something else by now, or belongs to another user.
func outputOf(p *process, fd int) *os.File {
	if p.pid <= 0 {
		return nil
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", p.pid, fd))
	if err != nil {
		return nil
	}
	for _, line := range strings.Split(string(info), "\n") {
		if v, ok := strings.CutPrefix(line, "flags:"); ok {
			var flags int
			if _, err := fmt.Sscanf(v, "%o", &flags); err != nil || flags&syscall.O_ACCMODE != syscall.O_RDWR {
				return nil
			}
		}
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", p.pid, fd), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	if st, err := f.Stat(); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
		f.Close()
		return nil
	}
	return f
}

// endUnrecordedWithin is how long a process may take to end after SIGKILL before it is not waited for.
const endUnrecordedWithin = 5 * time.Second

// endUnrecorded ends the process of a worker that was started and not written down: it may exist, and nobody knows its pid.
func (d *Daemon) endUnrecorded(w *worker) {
	all, err := control.FindAll(d.conf.Region.Name, d.dir, uint32(os.Geteuid()))
	if err != nil {
		d.log.Error("look for a process that was not written down", "worker", w.row.Name, "error", err)
	}
	for _, l := range all {
		for _, h := range l.Holders {
			environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", h.Pid))
			if strings.Contains("\x00"+string(environ), "\x00SHMD_WORKER="+w.row.Name+"\x00") {
				sys.PidfdSignalGroup(h.Pidfd, syscall.SIGKILL)
				sys.PidfdSignal(h.Pidfd, syscall.SIGKILL)
				if ended, err := sys.PollReadable([]*os.File{h.Pidfd}, endUnrecordedWithin); err == nil && !ended[0] { // in the kernel, on a device or a network that hangs
					d.log.Error("a process that was not written down has not ended after SIGKILL: it may still hold messages", "worker", w.row.Name, "pid", h.Pid, "after", endUnrecordedWithin.String())
				}
			}
		}
		l.Close()
	}
}

// goOn is the supervisor's first step after an adoption: it watches what lives, and deals with what has ended.
func (d *Daemon) goOn(a *adopted) {
	d.missedEvents()
	for _, w := range d.workers {
		if w.gone() {
			continue
		}
		w.keepRestarts() // the daemon before may have been another version
		if w.proc == nil {
			d.resumeWaiting(w)
			continue
		}
		d.capture(w, w.proc)
		if w.row.Attachment != 0 {
			d.resumeRunning(w)
		} else {
			if w.row.State == protocol.StateReady { // it was
				w.group.ready = true
			}
			d.step(w, d.asItWas(w, false, true))
		}
	}
	for _, w := range d.workers {
		if !w.gone() {
			d.step(w, supervise.Resumed{})
		}
	}
	for _, o := range d.outsiders {
		if err := d.deaths.Add(o.pidfd, tokenOf(o.id)); err != nil {
			d.log.Error("cannot watch an outsider as others: a thread waits for its end", "name", o.name, "pid", o.pid, "error", err)
			go func() {
				sys.PollReadable([]*os.File{o.pidfd}, -1)
				d.post(func() { d.died(o.id) })
			}()
		}
	}
	for _, w := range a.ended {
		d.workerDied(w)
	}
	d.mem.roster.Adopted()
	if h := d.handed; h != nil {
		d.captureHanded(h)
		sys.ReapOrphans(d.isWorker)
		d.pause = time.Duration(sys.MonotonicNs() - h.Begun)
		close(d.wentOn)
		d.event(eventUpgrade, d.conf.Region.Name, h.From, "pid", os.Getpid(), "version", d.version, "pause", d.pause.Round(time.Microsecond).String(), "living", a.living, "ended", len(a.ended))
		d.log.Info("daemon upgraded", "region", d.conf.Region.Name, "pid", os.Getpid(), "from_version", h.From, "version", d.version, "pause", d.pause.Round(time.Microsecond).String(),
			"living", a.living, "ended", len(a.ended), "outsiders", a.unknown)
		return
	}
	d.event(eventAdopt, d.conf.Region.Name, a.from, "pid", os.Getpid(), "version", d.version, "living", a.living, "ended", len(a.ended), "outsiders", a.unknown)
	d.log.Info("region adopted", "region", d.conf.Region.Name, "pid", os.Getpid(), "version", d.version, "from", a.from, "living", a.living, "ended", len(a.ended),
		"outsiders", a.unknown, "channels", len(d.mem.names))
}

// restartUsers asks for a restart of the workers that have the old memory of segments that were made anew, as an operator would. It comes before the directory names the new ones: after that
// nothing tells the next daemon that some have the old ones.
func (d *Daemon) restartUsers(damaged []damage, torn map[int]bool) {
	var users []int
	for _, w := range d.workers {
		if w.gone() || !torn[w.index] && !lives(protocol.Attachment{Pid: w.row.Process(), StartTicks: w.row.StartTicks}) {
			continue
		}
		if slices.ContainsFunc(damaged, func(x damage) bool {
			return x.segment == "group/"+w.conf.Name || slices.Contains(w.conf.Channels(), strings.TrimSuffix(x.segment, deadSuffix))
		}) {
			users = append(users, w.index)
		}
	}
	if len(users) > 0 {
		d.mem.command.AskRestart(users)
	}
}

// resumeRunning goes on with a worker that runs.
func (d *Daemon) resumeRunning(w *worker) {
	d.watchWorker(w)
	row := w.row
	if w.conf.Filter() {
		w.row.ShimPid = w.proc.pid
	}
	if w.row.Process() != w.proc.pid { // the daemon died before it wrote the row
		w.row.Pid, w.row.StartTicks = w.proc.pid, w.proc.ticks
	}
	if w.row != row {
		d.writeRow(w)
	}
	if w.row.State == protocol.StateReady {
		w.group.ready = true
	}
	d.step(w, d.asItWas(w, true, false))
	d.notice(w)
}

// sinceWhen makes of a time that an earlier daemon wrote down, by the wall clock, one of this process: how long ago it is does not change when the clock is set
// from here on. What was set before cannot be known: a time that is yet to come was just now.
func sinceWhen(t, now time.Time) time.Time { return now.Add(-max(0, now.Sub(t))) }

// asItWas is what an earlier daemon wrote down of a worker.
func (d *Daemon) asItWas(w *worker, alive, ended bool) supervise.Adopted {
	return supervise.Adopted{Desired: d.desired(w), State: w.row.State, Reason: w.row.Reason, Restarts: w.row.Restarts, Restarted: w.row.Restarted,
		Since: sinceWhen(w.row.Since, time.Now()), Clean: w.row.ExitCode == 0 && w.row.ExitSignal == 0, Alive: alive, Ended: ended}
}

// resumeWaiting goes on with a worker that has no process.
func (d *Daemon) resumeWaiting(w *worker) {
	if w.row.State == protocol.StateFailed || w.row.State == protocol.StateExited && w.row.Reason != supervise.Stopped {
		w.group.ready = true // as it was
	}
	if w.row.State == protocol.StateBackoff && !w.group.ready {
		w.group.late = w.row.Name + ": " + supervise.Lasting(w.row.Reason)
	}
	d.step(w, d.asItWas(w, false, false))
}
