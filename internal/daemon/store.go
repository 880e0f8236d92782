package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// What a daemon must not lose when it dies lies in systemd's fd store, under names of five characters: all names together have to fit into
// one environment variable of the next daemon. A name says what a descriptor is; whose it is says the memory.
//
//	sNNNN  segment NNNN of the roster's directory
//	pNNNN  pidfd of attachment NNNN
//	oNNNN  reading end of the standard output of attachment NNNN
//	eNNNN  reading end of its standard error
//	c0000  text of the configuration
//
// NNNN is hexadecimal. Attachment ids are given out in turn, so a name does not come to mean another process while an earlier removal of it is
// still on its way.
func segmentName(i int) string      { return fmt.Sprintf("s%04x", i) }
func pidfdName(id uint16) string    { return fmt.Sprintf("p%04x", id) }
func outputName(id uint16) string   { return fmt.Sprintf("o%04x", id) }
func errorName(id uint16) string    { return fmt.Sprintf("e%04x", id) }
func storeNames(id uint16) []string { return []string{pidfdName(id), outputName(id), errorName(id)} }

// rosterName is the name of the roster, which describe lists first.
var rosterName = segmentName(0)

// storeSegments puts the segments into the fd store, before anything uses them. What a dead daemon left there of them stays, and what the program before an upgrade put
// there: between a removal and the next message a kill would leave the store without them.
func (d *Daemon) storeSegments() error {
	rows, err := d.mem.roster.Segments()
	if err != nil {
		return err
	}
	for i, row := range rows {
		name := segmentName(i)
		if s := d.mem.segments[row.Name]; s != nil && (!d.systemd.has(name) || d.handed == nil && d.stored[name] != s.Inode()) {
			d.systemd.remove(name)
			d.systemd.store(name, s.File())
		}
	}
	return nil
}

// dropStored takes out of the fd store what belongs to nothing any more: a dead daemon had no time to, or systemd did not hear of it. An adoption
// calls it before any id can be given out again.
func (d *Daemon) dropStored() {
	rows, _ := d.mem.roster.Segments()
	mine := map[string]bool{}
	for i, row := range rows {
		mine[segmentName(i)] = d.mem.segments[row.Name] != nil
	}
	for _, w := range d.workers {
		for _, name := range storeNames(w.row.Attachment) {
			mine[name] = w.row.Attachment != 0
		}
	}
	for id := range d.outsiders {
		mine[pidfdName(id)] = true
	}
	mine[configName] = true
	for _, name := range d.systemd.all() {
		if !mine[name] {
			d.systemd.remove(name)
		}
	}
}

// checkStore compares the number of descriptors in systemd's fd store with that of what was put there. systemd drops what is too much
// without telling the sender, and has no other way to ask.
func (d *Daemon) checkStore(ctx context.Context) {
	unit := unitName()
	if unit == "" {
		return
	}
	before := d.systemd.all()
	if err := d.systemd.flush(ctx, 10*time.Second); err != nil {
		return // it ends, or systemd has other troubles
	}
	have, err := askSystemd(ctx, unit, "NFileDescriptorStore")
	if err != nil {
		d.log.Debug("systemd does not say how many descriptors its fd store has", "unit", unit, "error", err)
		return
	}
	was := make(map[string]bool, len(before))
	for _, name := range before {
		was[name] = true
	}
	want := 0 // what was put there or removed meanwhile does not count: shmctl attaches and leaves at any time
	for _, name := range d.systemd.all() {
		if was[name] {
			want++
		}
	}
	if have < want {
		d.log.Warn("the fd store does not have all that was put into it: a next daemon has to find the rest through /proc, and what no living process holds is lost",
			"stored", have, "missing", want-have, "next", "raise FileDescriptorStoreMax= in the unit (systemctl edit "+unit+")")
	}
}

// restarted reports whether systemd started this daemon because the one before had failed (Restart=), and nobody asked for a start; likely is what is taken for true where
// nobody can say.
func (d *Daemon) restarted(likely bool) bool {
	unit := unitName()
	if unit == "" {
		return likely
	}
	n, err := askSystemd(context.Background(), unit, "NRestarts") // in a row: a start that was asked for begins with 0
	if err != nil {
		d.log.Warn("systemd does not say whether it has restarted this unit by itself", "unit", unit, "taken_for", likely, "error", err)
		return likely
	}
	return n > 0
}

// askSystemd returns a property of a unit that is a number.
func askSystemd(ctx context.Context, unit, property string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", "show", "-P", property, unit)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it is of the unit, and a stop leaves nothing of that
	runtime.LockOSThread()                                             // of Pdeathsig
	defer runtime.UnlockOSThread()
	out, failed := cmd.Output() // ECHILD if it was reaped as an orphan: what it printed counts
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		return 0, fmt.Errorf("systemctl show -P %s %s: %w", property, unit, cmp.Or(failed, err))
	}
	return n, nil
}

// unitName is the systemd unit that this process is the daemon of, "" if none: somebody else may listen to what it says.
func unitName() string {
	if os.Getenv("INVOCATION_ID") == "" {
		return ""
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			for _, part := range strings.Split(path, "/") {
				if strings.HasSuffix(part, ".service") {
					return part
				}
			}
		}
	}
	return ""
}

// missing names what a dead daemon should have left in the fd store and is not there. It is found elsewhere, or lost.
func (e *estate) missing(roster *protocol.Roster) (list []string) {
	if len(e.names) == 0 {
		return nil
	}
	rows, _ := roster.Segments()
	for _, row := range rows {
		if row.Name != "" && e.segments[row.Name] == nil {
			list = append(list, "segment "+row.Name)
		}
	}
	have := map[string]bool{}
	for _, name := range e.names {
		have[name] = true
	}
	for id := uint16(daemonID + 1); int(id) < roster.AttachmentCap(); id++ {
		a, err := roster.Attachment(id)
		if err != nil || a.State != protocol.AttachmentLive {
			continue
		}
		if !have[pidfdName(id)] {
			list = append(list, "process of "+a.Name)
		}
		if a.Worker >= 0 && !have[outputName(id)] {
			list = append(list, "standard output of "+a.Name)
		}
		if a.Worker >= 0 && !have[errorName(id)] {
			list = append(list, "standard error of "+a.Name)
		}
	}
	return list
}

// forgetAll empties the fd store at the end of the region, but for the roster: by it a next daemon knows that the region has stopped, if this one is killed before its exit, at which
// systemd empties the store.
func (d *Daemon) forgetAll() {
	for _, name := range d.systemd.all() {
		if name != rosterName {
			d.systemd.remove(name)
		}
	}
}

// errOver: the region has stopped, and the daemon before died in the last step of that.
var errOver = errors.New("the region has stopped")

// over returns the roster of a region that has stopped, and can no longer be adopted: what else was in the fd store has begun to leave it. Else it returns nil: then its end is carried out as any.
func (d *Daemon) over(e *estate) *protocol.Roster {
	s := e.segments["roster"]
	if s == nil || e.segments["command"] != nil || len(e.names) == 0 {
		return nil
	}
	roster, err := protocol.OpenRoster(s.Bytes())
	if err != nil || roster.Dir() != control.CanonicalDir(d.dir) || roster.Daemon().State != protocol.DaemonStateStopped {
		return nil
	}
	return roster
}

// afterOver returns errOver if this daemon is to end, too: somebody has stopped the region, and nobody has asked for another. What is left of it leaves the fd store; the roster only where
// another region begins.
func (d *Daemon) afterOver(roster *protocol.Roster) error {
	// A daemon that is killed does not give up its row. One that has, and was killed on the way to its exit, is rare beside one that somebody restarts.
	row, err := roster.Attachment(daemonID)
	killed := err != nil || row.State != protocol.AttachmentFree
	restarted := d.restarted(killed)
	for _, name := range d.systemd.all() {
		if !restarted || name != rosterName {
			d.systemd.remove(name)
		}
	}
	if restarted {
		return errOver
	}
	return nil
}

// remember puts what belongs to a process that was started into the fd store.
func (d *Daemon) remember(id uint16, p *process) {
	d.systemd.store(pidfdName(id), p.pidfd)
	for i, name := range []string{outputName(id), errorName(id)} {
		if p.outputs[i] != nil {
			d.systemd.store(name, p.outputs[i])
		}
	}
}

// forget takes what belonged to an attachment that has ended out of the fd store.
func (d *Daemon) forget(id uint16) {
	if id == 0 {
		return
	}
	for _, name := range storeNames(id) {
		d.systemd.remove(name)
	}
}

// An estate is what a dead daemon left.
type estate struct {
	from     string                     // where it was found, for people
	segments map[string]*region.Segment // by name, writable
	stored   map[string]*os.File        // pidfds and outputs, by their names in the fd store
	others   []*region.Segment          // whose names others have, too
	names    []string                   // all names that it has in the fd store
	twice    []string                   // those of them that stand there for more than one descriptor
	sure     map[uint16]bool            // attachments whose pidfd it has: what it has of their outputs is theirs
	handed   *handover                  // nil: a daemon died
	damaged  []damage                   // what was not fit to be taken over
}

// Close closes what was not taken over.
func (e *estate) Close() {
	for _, s := range e.segments {
		s.Close()
	}
	for _, s := range e.others {
		s.Close()
	}
	for _, f := range e.stored {
		f.Close()
	}
}

// inherit sorts what systemd handed to this process: sockets, and an estate if there is one.
func (d *Daemon) inherit() *estate {
	e := &estate{from: "the fd store", segments: map[string]*region.Segment{}, stored: map[string]*os.File{}, sure: map[uint16]bool{}}
	for _, f := range activation.Files(true) {
		name := f.Name()
		if name == configName {
			d.systemd.holds(name, true)
			if d.storedConfig == nil && d.last != nil {
				d.storedConfig = d.last.Text()
			}
			f.Close()
			continue
		}
		id, err := strconv.ParseUint(strings.TrimLeft(name, "spoe"), 16, 16)
		if err != nil || len(name) != 5 || fmt.Sprintf("%c%04x", name[0], id) != name {
			d.sockets = append(d.sockets, f)
			continue
		}
		if slices.Contains(e.names, name) { // what was stored last comes first, and counts
			f.Close()
			e.twice = append(e.twice, name)
			continue
		}
		e.names = append(e.names, name)
		d.systemd.holds(name, true)
		if name[0] != 's' {
			e.stored[name] = f
			continue
		}
		s, h, err := d.openLeft(f, true)
		if err != nil {
			d.log.Warn("what the fd store has under this name is no segment of this region", "name", name, "error", err)
			continue
		}
		if d.stored[name] = s.Inode(); e.segments[h.Name] != nil {
			e.others = append(e.others, s)
			continue
		}
		e.segments[h.Name] = s
	}
	if len(e.names) == 0 {
		return nil
	}
	for _, name := range e.twice { // which of them the name stands for nobody could tell the next daemon
		delete(d.stored, name)
	}
	return e
}

// choose leaves in an estate those segments that the roster names. There may be others of the same name, if systemd was not told any more that they were removed, or that another
// one has taken their place.
func (e *estate) choose(roster *protocol.Roster) {
	rows, _ := roster.Segments()
	for i, row := range rows {
		s := e.segments[row.Name]
		if _, err := roster.Segment(i); err != nil || s == nil || s.Inode() == row.Inode || row.Kind != protocol.KindGroup && !protocol.IsChannel(row.Kind) {
			continue
		}
		e.others = append(e.others, s)
		delete(e.segments, row.Name)
		if k := slices.IndexFunc(e.others, func(o *region.Segment) bool { return o.Inode() == row.Inode }); k >= 0 {
			e.segments[row.Name] = e.others[k]
			e.others = slices.Delete(e.others, k, k+1)
		}
	}
}

// openLeft maps a segment that an earlier daemon left. It takes f.
func (d *Daemon) openLeft(f *os.File, write bool) (*region.Segment, protocol.Header, error) {
	var h protocol.Header
	uid := uint32(os.Geteuid())
	s, err := region.Open(f, region.OpenOptions{Write: write, MinSize: protocol.SizeofSegmentHeader, Owner: &uid, DontDump: d.conf.Region.DontDump, Check: func(b []byte) (err error) {
		if h, err = protocol.ReadHeader(b); err != nil {
			return err
		}
		boot, err := sys.BootID()
		if err == nil && boot != h.BootID {
			err = errors.New("it is of another boot")
		}
		if err == nil && h.Region != d.conf.Region.Name {
			err = fmt.Errorf("it belongs to region %q", h.Region)
		}
		return err
	}})
	return s, h, err
}

// findEstate takes the region from the processes that hold it, where there is no fd store; nil if nobody does.
func (d *Daemon) findEstate() (*estate, error) {
	owner, err := sys.StatPath(d.dir)
	if err != nil {
		return nil, err
	}
	all, err := control.FindAll(d.conf.Region.Name, d.dir, owner.UID)
	if err != nil {
		return nil, fmt.Errorf("look for an earlier region %q: %w", d.conf.Region.Name, err)
	}
	defer func() {
		for _, l := range all {
			l.Close()
		}
	}()
	if len(all) == 0 {
		return nil, nil
	}
	e := &estate{from: "the processes that hold it", segments: map[string]*region.Segment{}, stored: map[string]*os.File{}, sure: map[uint16]bool{}}
	if err := d.takeFrom(all[0], e); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// takeFrom takes those segments from living processes that the estate does not have.
func (d *Daemon) takeFrom(l *control.Living, e *estate) error {
	for name, err := range l.Missing {
		if e.segments[name] == nil && !errors.Is(err, control.ErrNotHeld) { // somebody has it, and it is of no use
			e.damaged = append(e.damaged, damage{name, err})
		}
	}
	for name, s := range l.Segments {
		if e.segments[name] != nil {
			continue
		}
		f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", s.File().Fd()), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		left, _, err := d.openLeft(f, true)
		if err != nil {
			return err
		}
		e.segments[name] = left
	}
	return nil
}

// complete looks for what the fd store should have had in the processes of the region, and tells what it was.
func (d *Daemon) complete(e *estate) {
	if e.segments["roster"] == nil {
		d.findRoster(e)
	}
	s := e.segments["roster"]
	if s == nil {
		return
	}
	roster, err := protocol.OpenRoster(s.Bytes())
	if err != nil {
		return
	}
	e.choose(roster)
	list := e.missing(roster)
	if len(list) == 0 {
		return
	}
	const most = 20
	names := strings.Join(list[:min(len(list), most)], ", ")
	if len(list) > most {
		names += fmt.Sprintf(" and %d more", len(list)-most)
	}
	d.log.Warn("descriptors were not in the fd store: they are looked for in the processes of the region", "missing", len(list), "names", names,
		"next", "none, if the daemon died in the middle of a start; else raise FileDescriptorStoreMax= in the unit")
	all, err := control.FindAll(d.conf.Region.Name, d.dir, uint32(os.Geteuid()))
	for _, l := range all {
		if l.Generation == roster.Header().Generation && err == nil {
			err = d.takeFrom(l, e)
		}
		l.Close()
	}
	if err != nil {
		d.log.Warn("not all processes of the region could be looked into", "error", err)
	}
}

// findRoster takes the roster, by which all else is found, from the processes of the region that the other segments are of: a daemon was killed between two messages to systemd. At the end of a
// region it is the last to leave the store, so without it none has ended.
func (d *Daemon) findRoster(e *estate) {
	var generation uint64
	for _, s := range e.segments {
		if h, err := protocol.ReadHeader(s.Bytes()); err == nil {
			generation = h.Generation
		}
	}
	all, err := control.FindAll(d.conf.Region.Name, d.dir, uint32(os.Geteuid()))
	for i, l := range all {
		if err == nil && (l.Generation == generation || generation == 0 && i == 0) { // 0: it has none at all
			err = d.takeFrom(l, e)
		}
		l.Close()
	}
	if err != nil {
		d.log.Warn("not all processes of the region could be looked into", "error", err)
	}
	d.log.Warn("the roster was not in the fd store: it is taken from the processes of the region", "found", e.segments["roster"] != nil)
}
