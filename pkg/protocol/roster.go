package protocol

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/shmd/shmd/internal/sys"
)

// Roster is a view of the roster segment. The daemon alone writes it, from one goroutine at a time; everybody
// may read it at any time, also in the middle of a write: rows are read whole or reported as torn.
type Roster struct {
	b    []byte
	h    Header
	info *RosterInfo

	segments, groups, workers, attachments rows
}

// RosterConfig gives the number of rows of each table, and where the region is. Attachments does not count row 0, which is never
// used. Dir is the daemon's runtime directory.
type RosterConfig struct {
	Segments, Groups, Workers, Attachments int

	Dir string
}

// DaemonInfo is what the roster says of the daemon.
type DaemonInfo struct {
	Pid        int
	StartTicks uint64 // with Pid the identity of the process
	State      DaemonState
	Started    time.Time
	Version    string
	Config     string

	ConfigRefused bool // the file's was refused, and the region goes on with that of the daemon before
}

// Segment is a row of the roster's directory.
type Segment struct {
	Name  string
	Kind  Kind
	Size  int64 // bytes
	Inode uint64

	// Of a channel with stall_after, as the daemon saw it last.
	Stalled   int    // slots that are held for longer
	Staller   uint16 // attachment id of who has held one for longest
	StalledNs int64  // CLOCK_MONOTONIC when that was seen first
}

// Group is a row of the group table. One without a name is free: there is no such group.
type Group struct {
	Name        string
	Restart     Restart
	Configured  int // instances that the configuration asks for
	Count       int // instances that are wanted
	Most        int // instances that there may be
	StopTimeout time.Duration
	Command     string // for people; cut
	Rank        int    // of what is stopped together the highest stops first

	Rollout      uint32 // the number of the rolling restart that RolloutState tells of
	RolloutState RolloutState
	RolloutNote  string // why it was given up; cut
}

// Worker is a row of the worker table: the actual state of one instance. One in StateGone is no instance any more, and whoever lists
// instances passes it over.
type Worker struct {
	Name                 string // GROUP.INSTANCE
	Group                int    // index of the group
	Instance             int
	State                State
	Pid                  int    // 0 when no process runs
	ShimPid              int    // of a filter: the process that the daemon started and that is attached; Pid is the filter's then
	StartTicks           uint64 // with Process the identity of the process
	Attachment           uint16
	Since                time.Time
	Restarts             uint64
	RestartsBy           [NumCauses]uint32 // of Restarts, how many by each Cause
	Cause                Cause             // why the last process ended, 0 while none has
	Restarted            uint32            // the command segment's restart count, plus Rolled, that was carried out last
	Rolled               uint32            // the rolling restart of its group whose turn it had last
	ConfigHash           uint64            // of the configuration that its process was started with
	ExitCode, ExitSignal int
	Trial                bool // it counts as ready since its command was executed, for a rolling restart that has not seen it run for a second
	Stalled              bool // a filter that does not answer, or it holds a slot for too long
	Reason               string
	Event                uint64 // number of the event of the last change of State
}

// NumCauses is one more than the last Cause.
const NumCauses = int(CauseReset) + 1

// restartsBy returns the words that count restarts by cause; that of cause 0 is none.
func (p *WorkerRow) restartsBy() [NumCauses]*atomic.Uint32 {
	return [NumCauses]*atomic.Uint32{CauseExit: &p.RestartsExit, CauseFailure: &p.RestartsFailure, CauseSignal: &p.RestartsSignal, CauseNotReady: &p.RestartsNotReady,
		CauseNotStarted: &p.RestartsNotStarted, CauseOperator: &p.RestartsOperator, CauseWatchdog: &p.RestartsWatchdog, CauseUnknown: &p.RestartsUnknown,
		CauseReset: &p.RestartsReset}
}

// restartsBy is the same in the page of an instance.
func (p *InstancePage) restartsBy() [NumCauses]*atomic.Uint32 {
	return [NumCauses]*atomic.Uint32{CauseExit: &p.RestartsExit, CauseFailure: &p.RestartsFailure, CauseSignal: &p.RestartsSignal, CauseNotReady: &p.RestartsNotReady,
		CauseNotStarted: &p.RestartsNotStarted, CauseOperator: &p.RestartsOperator, CauseWatchdog: &p.RestartsWatchdog, CauseUnknown: &p.RestartsUnknown,
		CauseReset: &p.RestartsReset}
}

// ExitUnknown is the ExitCode of a process of which nobody could tell how it ended: it was no child of the daemon that noticed.
const ExitUnknown = -1

// Process returns the pid of the process that is the worker to the region: of a filter the shim, else Pid.
func (w Worker) Process() int {
	if w.ShimPid != 0 {
		return w.ShimPid
	}
	return w.Pid
}

// Attachment is a row of the attachment table; its index is the id that stamps slots.
type Attachment struct {
	State      AttachmentState
	Pid        int
	UID        uint32
	StartTicks uint64
	Worker     int // index of the worker, -1 for an outsider
	Role       Role
	Name       string
}

const rosterTables = 4096 // offset of the first table

// RosterSize returns the bytes that a roster needs.
func RosterSize(c RosterConfig) int64 { return rosterOffsets(c)[4] }

// rosterOffsets returns the offsets of the segment, group, worker and attachment tables, and the end.
func rosterOffsets(c RosterConfig) [5]int64 {
	var o [5]int64
	o[0] = rosterTables
	o[1] = o[0] + int64(c.Segments)*SizeofSegmentRow
	o[2] = o[1] + int64(c.Groups)*SizeofGroupRow
	o[3] = o[2] + int64(c.Workers)*SizeofWorkerRow
	o[4] = o[3] + int64(c.Attachments+1)*SizeofAttachmentRow
	return o
}

// FormatRoster makes a roster in b, which must be zero. Errors: ErrTooShort.
func FormatRoster(b []byte, h Header, c RosterConfig) (*Roster, error) {
	h.Kind = KindRoster
	if err := format(b, h, RosterSize(c)); err != nil {
		return nil, err
	}
	o := rosterOffsets(c)
	info := overlayRosterInfo(b, bodyOffset)
	info.SegmentCap.Store(uint32(c.Segments))
	info.GroupCap.Store(uint32(c.Groups))
	info.WorkerCap.Store(uint32(c.Workers))
	info.AttachmentCap.Store(uint32(c.Attachments + 1))
	info.SegmentOffset.Store(uint64(o[0]))
	info.GroupOffset.Store(uint64(o[1]))
	info.WorkerOffset.Store(uint64(o[2]))
	info.AttachmentOffset.Store(uint64(o[3]))
	SetText(info.Dir[:], c.Dir)
	publish(b)
	return OpenRoster(b)
}

// OpenRoster checks the header and the tables' places, once: the places are not read again.
// Errors: those of ReadHeader, *KindError, *CorruptError.
func OpenRoster(b []byte) (*Roster, error) {
	h, err := open(b, KindRoster)
	if err != nil {
		return nil, err
	}
	r := &Roster{b: b, h: h, info: overlayRosterInfo(b, bodyOffset)}
	if r.info == nil {
		return nil, fmt.Errorf("roster of region %q: %w", h.Region, ErrTooShort)
	}
	i := r.info
	for _, t := range []struct {
		table  *rows
		what   string
		field  int64
		offset uint64
		count  uint32
		size   int64
	}{
		{&r.segments, "segment", OffsetofRosterInfoSegmentOffset, i.SegmentOffset.Load(), i.SegmentCap.Load(), SizeofSegmentRow},
		{&r.groups, "group", OffsetofRosterInfoGroupOffset, i.GroupOffset.Load(), i.GroupCap.Load(), SizeofGroupRow},
		{&r.workers, "worker", OffsetofRosterInfoWorkerOffset, i.WorkerOffset.Load(), i.WorkerCap.Load(), SizeofWorkerRow},
		{&r.attachments, "attachment", OffsetofRosterInfoAttachmentOffset, i.AttachmentOffset.Load(), i.AttachmentCap.Load(), SizeofAttachmentRow},
	} {
		if err := table(h.Name, b, bodyOffset+t.field, t.offset, t.count, uint64(t.size)); err != nil {
			return nil, err
		}
		*t.table = rows{t.what, int64(t.offset), int(t.count), t.size}
	}
	return r, nil
}

// Header returns the segment's header.
func (r *Roster) Header() Header { return r.h }

// rows is where a table lies.
type rows struct {
	what   string
	offset int64
	cap    int
	size   int64
}

// used returns how many rows a count of the memory says are in use, at most those that there are.
func (t rows) used(count *atomic.Uint32) int { return min(int(count.Load()), t.cap) }

// Dir returns the runtime directory of the daemon.
func (r *Roster) Dir() string { return Text(r.info.Dir[:]) }

// row returns the overlay of row i of a table of which n rows can be asked for.
func row[T any](r *Roster, overlay func([]byte, int64) *T, t rows, i, n int) (*T, error) {
	if i < 0 || i >= n {
		return nil, fmt.Errorf("roster: there is no %s %d (%d rows)", t.what, i, n)
	}
	return overlay(r.b, t.offset+int64(i)*t.size), nil
}

// Daemon returns what the roster says of the daemon.
func (r *Roster) Daemon() DaemonInfo {
	i := r.info
	return DaemonInfo{
		Pid:        int(int32(i.DaemonPid.Load())),
		StartTicks: i.DaemonStartTicks.Load(),
		State:      DaemonState(i.DaemonState.Load()),
		Started:    time.Unix(0, int64(i.StartedUnixNs.Load())),
		Version:    Text(i.Version[:]),
		Config:     Text(i.Config[:]),

		ConfigRefused: i.ConfigRefused.Load() != 0,
	}
}

// SetDaemon writes what the roster says of the daemon, and tells waiters.
func (r *Roster) SetDaemon(d DaemonInfo) {
	i := r.info
	i.DaemonStartTicks.Store(d.StartTicks)
	i.StartedUnixNs.Store(uint64(d.Started.UnixNano()))
	SetText(i.Version[:], d.Version)
	SetText(i.Config[:], d.Config)
	refused := uint32(0)
	if d.ConfigRefused {
		refused = 1
	}
	i.ConfigRefused.Store(refused)
	i.DaemonPid.Store(uint32(d.Pid))
	i.DaemonState.Store(uint32(d.State))
	r.Changed()
}

// daemonLives reports whether the process that writes the rows exists, as far as this process can see it.
func (r *Roster) daemonLives() bool {
	d := r.Daemon()
	ticks, err := sys.StartTicks(d.Pid)
	return d.Pid > 0 && err == nil && ticks == d.StartTicks
}

// Adopting counts a daemon that begins to adopt the region, and returns how many have begun in a row and not finished, itself included.
func (r *Roster) Adopting() int { return int(r.info.Adopting.Add(1)) }

// Adopted says that the adoption has ended well.
func (r *Roster) Adopted() { r.info.Adopting.Store(0) }

// ChangeWord is the futex that Changed raises; it may be waited on in a read-only mapping.
func (r *Roster) ChangeWord() *atomic.Uint32 { return &r.info.Change }

// Changed tells everybody who waits on ChangeWord that the roster has changed.
func (r *Roster) Changed() {
	r.info.Change.Add(1)
	sys.FutexWake(&r.info.Change, 1<<30)
}

// Segments returns the directory. Of a row whose writer died in the middle it has what lies there, which is believed only if a segment has that name and inode; the
// error beside the whole directory tells of the first one.
func (r *Roster) Segments() ([]Segment, error) { return all(r.SegmentCount(), r.Segment) }

// all reads n rows, and returns the first error beside all of them.
func all[T any](n int, read func(i int) (T, error)) ([]T, error) {
	var first error
	out := make([]T, n)
	for i := range out {
		var err error
		if out[i], err = read(i); first == nil {
			first = err
		}
	}
	return out, first
}

// SegmentCount returns the number of rows of the directory in use or free again, at most the number that there are.
func (r *Roster) SegmentCount() int { return r.segments.used(&r.info.SegmentCount) }

// Segment returns row i of the directory. Beside an error for a row whose writer died in the middle it returns what lies there.
func (r *Roster) Segment(i int) (Segment, error) {
	p, err := row(r, overlaySegmentRow, r.segments, i, r.segments.cap)
	if err != nil {
		return Segment{}, err
	}
	var s Segment
	err = readRow(&p.Seq, r.daemonLives, func() {
		s = Segment{Name: Text(p.Name[:]), Kind: Kind(p.Kind.Load()), Size: int64(p.Size.Load()), Inode: p.Inode.Load(),
			Stalled: int(p.Stalled.Load()), Staller: uint16(p.Staller.Load()), StalledNs: int64(p.StalledNs.Load())}
	})
	if err != nil {
		return s, fmt.Errorf("roster: segment %d: %w", i, err)
	}
	return s, nil
}

// SegmentOffset is where row i of the directory lies.
func (r *Roster) SegmentOffset(i int) int64 { return r.segments.offset + int64(i)*r.segments.size }

// Damage says why no daemon can have written a row of the directory like that; "" for one that may be.
func (s Segment) Damage() string {
	switch {
	case s.Name == "": // free
	case s.Kind < KindRoster || s.Kind > KindCall:
		return fmt.Sprintf("is a %v, which is no kind of segment that this program knows", s.Kind)
	case s.Size < SizeofSegmentHeader || s.Size > maxSegmentSize:
		return fmt.Sprintf("has %d bytes, which no segment can have", s.Size)
	}
	return ""
}

// maxSegmentSize is more than any address space has room for.
const maxSegmentSize = 1 << 52

// AddSegment appends a row to the directory.
func (r *Roster) AddSegment(s Segment) error { return r.SetSegment(int(r.info.SegmentCount.Load()), s) }

// SetSegment writes row i of the directory, and extends it if i is the next row.
func (r *Roster) SetSegment(i int, s Segment) error {
	p, err := row(r, overlaySegmentRow, r.segments, i, r.segments.cap)
	if err != nil {
		return err
	}
	writeRow(&p.Seq, func() {
		p.Kind.Store(uint32(s.Kind))
		p.Size.Store(uint64(s.Size))
		p.Inode.Store(s.Inode)
		p.Stalled.Store(uint32(s.Stalled))
		p.Staller.Store(uint32(s.Staller))
		p.StalledNs.Store(uint64(s.StalledNs))
		SetText(p.Name[:], s.Name)
	})
	if n := r.info.SegmentCount.Load(); uint32(i) == n {
		r.info.SegmentCount.Store(n + 1)
	}
	r.Changed()
	return nil
}

// Groups returns the group table; rows without a name are free. Of a row whose writer died in the middle it has what lies there; the error beside the whole table
// tells of the first one.
func (r *Roster) Groups() ([]Group, error) { return all(r.GroupCount(), r.Group) }

// GroupCap and WorkerCap return how many rows there are, used or not.
func (r *Roster) GroupCap() int { return r.groups.cap }

// WorkerCap returns how many worker rows there are, used or not.
func (r *Roster) WorkerCap() int { return r.workers.cap }

// GroupCount returns the number of group rows in use or free again, at most the number that there are.
func (r *Roster) GroupCount() int { return r.groups.used(&r.info.GroupCount) }

// Group returns row i of the group table. Beside an error for a row whose writer died in the middle it returns what lies there.
func (r *Roster) Group(i int) (Group, error) {
	p, err := row(r, overlayGroupRow, r.groups, i, r.groups.cap)
	if err != nil {
		return Group{}, err
	}
	var g Group
	err = readRow(&p.Seq, r.daemonLives, func() {
		g = Group{Name: Text(p.Name[:]), Restart: Restart(p.Restart.Load()), Configured: int(p.Configured.Load()), Count: int(p.Count.Load()), Most: int(p.Most.Load()),
			StopTimeout: time.Duration(p.StopTimeoutNs.Load()), Rank: int(p.Rank.Load()), Command: Text(p.Command[:]),
			Rollout: p.Rollout.Load(), RolloutState: RolloutState(p.RolloutState.Load()), RolloutNote: Text(p.RolloutNote[:])}
	})
	if err != nil {
		return g, fmt.Errorf("roster: group %d: %w", i, err)
	}
	return g, nil
}

// AddGroup appends a row to the group table and returns its index.
func (r *Roster) AddGroup(g Group) (int, error) {
	i := int(r.info.GroupCount.Load())
	return i, r.SetGroup(i, g)
}

// SetGroup writes row i of the group table, extends the table if i is the next row, and tells waiters.
func (r *Roster) SetGroup(i int, g Group) error {
	p, err := row(r, overlayGroupRow, r.groups, i, r.groups.cap)
	if err != nil {
		return err
	}
	writeRow(&p.Seq, func() {
		p.Restart.Store(uint32(g.Restart))
		p.Configured.Store(uint32(g.Configured))
		p.Count.Store(uint32(g.Count))
		p.Most.Store(uint32(g.Most))
		p.StopTimeoutNs.Store(uint64(g.StopTimeout))
		p.Rank.Store(uint32(g.Rank))
		p.Rollout.Store(g.Rollout)
		p.RolloutState.Store(uint32(g.RolloutState))
		SetText(p.Name[:], g.Name)
		SetText(p.Command[:], g.Command)
		SetText(p.RolloutNote[:], g.RolloutNote)
	})
	if n := r.info.GroupCount.Load(); uint32(i) == n {
		r.info.GroupCount.Store(n + 1)
	}
	r.Changed()
	return nil
}

// WorkerCount returns the number of rows in use, at most the number that there are.
func (r *Roster) WorkerCount() int {
	return r.workers.used(&r.info.WorkerCount)
}

// WorkerOffset returns where row i of the worker table lies in the segment.
func (r *Roster) WorkerOffset(i int) int64 { return r.workers.offset + int64(i)*r.workers.size }

// Worker returns row i of the worker table. Beside an error for a row whose writer died in the middle it returns what lies there.
func (r *Roster) Worker(i int) (Worker, error) {
	p, err := row(r, overlayWorkerRow, r.workers, i, r.workers.used(&r.info.WorkerCount))
	if err != nil {
		return Worker{}, err
	}
	var w Worker
	err = readRow(&p.Seq, r.daemonLives, func() {
		w = Worker{Name: Text(p.Name[:]), Group: int(p.Group.Load()), Instance: int(p.Instance.Load()), State: State(p.State.Load()),
			Pid: int(int32(p.Pid.Load())), ShimPid: int(int32(p.ShimPid.Load())), StartTicks: p.StartTicks.Load(), Attachment: uint16(p.Attachment.Load()),
			Since: time.Unix(0, int64(p.SinceUnixNs.Load())), Restarts: p.Restarts.Load(), Restarted: p.Restarted.Load(),
			Rolled: p.Rolled.Load(), Trial: p.Trial.Load() != 0, ConfigHash: p.ConfigHash.Load(),
			ExitCode: int(int32(p.ExitCode.Load())), ExitSignal: int(int32(p.ExitSignal.Load())),
			Stalled: p.Stalled.Load() != 0, Reason: Text(p.Reason[:]), Cause: Cause(p.Cause.Load()), Event: p.Event.Load()}
		for c, n := range p.restartsBy() {
			if n != nil {
				w.RestartsBy[c] = n.Load()
			}
		}
	})
	if err != nil {
		return w, fmt.Errorf("roster: worker %d: %w", i, err)
	}
	if int64(w.Cause) >= int64(NumCauses) { // of a newer daemon
		w.Cause = CauseUnknown
	}
	return w, nil
}

// Workers returns the worker table. A torn row ends it with an error beside the rows before it.
func (r *Roster) Workers() ([]Worker, error) {
	n := r.WorkerCount()
	out := make([]Worker, 0, n)
	for i := range n {
		w, err := r.Worker(i)
		if err != nil {
			return out, err
		}
		out = append(out, w)
	}
	return out, nil
}

// SetWorker writes row i of the worker table, extends the table if i is the next row, and tells waiters.
func (r *Roster) SetWorker(i int, w Worker) error {
	p, err := row(r, overlayWorkerRow, r.workers, i, r.workers.cap)
	if err != nil {
		return err
	}
	writeRow(&p.Seq, func() {
		p.State.Store(uint32(w.State))
		p.Pid.Store(uint32(w.Pid))
		p.ShimPid.Store(uint32(w.ShimPid))
		stalled := uint32(0)
		if w.Stalled {
			stalled = 1
		}
		p.Stalled.Store(stalled)
		trial := uint32(0)
		if w.Trial {
			trial = 1
		}
		p.Trial.Store(trial)
		p.Group.Store(uint32(w.Group))
		p.Instance.Store(uint32(w.Instance))
		p.Attachment.Store(uint32(w.Attachment))
		p.StartTicks.Store(w.StartTicks)
		p.SinceUnixNs.Store(uint64(w.Since.UnixNano()))
		p.Restarts.Store(w.Restarts)
		p.Restarted.Store(w.Restarted)
		p.Rolled.Store(w.Rolled)
		p.ConfigHash.Store(w.ConfigHash)
		p.Event.Store(w.Event)
		p.ExitCode.Store(uint32(w.ExitCode))
		p.ExitSignal.Store(uint32(w.ExitSignal))
		p.Cause.Store(uint32(w.Cause))
		for c, n := range p.restartsBy() {
			if n != nil {
				n.Store(w.RestartsBy[c])
			}
		}
		SetText(p.Name[:], w.Name)
		SetText(p.Reason[:], shorten(w.Reason, len(p.Reason)*8))
	})
	if n := r.info.WorkerCount.Load(); uint32(i) == n {
		r.info.WorkerCount.Store(n + 1)
	}
	r.Changed()
	return nil
}

// Drained returns up to where the log of worker i was put into the region's log: the position, and the low half of the number of the record
// before it. It is no part of what SetWorker writes.
func (r *Roster) Drained(i int) (position uint64, number uint32) {
	p, err := row(r, overlayWorkerRow, r.workers, i, r.workers.cap)
	if err != nil {
		return 0, 0
	}
	return p.Drained.Load(), p.DrainedNumber.Load()
}

// SetDrained stores what Drained returns.
func (r *Roster) SetDrained(i int, position uint64, number uint32) {
	if p, err := row(r, overlayWorkerRow, r.workers, i, r.workers.cap); err == nil {
		p.DrainedNumber.Store(number)
		p.Drained.Store(position)
	}
}

// AttachmentCap returns the number of rows of the attachment table, row 0 included.
func (r *Roster) AttachmentCap() int { return r.attachments.cap }

// Attachment returns row id of the attachment table.
func (r *Roster) Attachment(id uint16) (Attachment, error) {
	p, err := row(r, overlayAttachmentRow, r.attachments, int(id), r.attachments.cap)
	if err != nil {
		return Attachment{}, err
	}
	var a Attachment
	err = readRow(&p.Seq, r.daemonLives, func() {
		a = Attachment{State: AttachmentState(p.State.Load()), Pid: int(int32(p.Pid.Load())), UID: p.Uid.Load(),
			StartTicks: p.StartTicks.Load(), Worker: int(p.Worker.Load()) - 1, Role: Role(p.Role.Load()), Name: Text(p.Name[:])}
	})
	if err != nil {
		return a, fmt.Errorf("roster: attachment %d: %w", id, err)
	}
	return a, nil
}

// SetAttachment writes row id of the attachment table.
func (r *Roster) SetAttachment(id uint16, a Attachment) error {
	p, err := row(r, overlayAttachmentRow, r.attachments, int(id), r.attachments.cap)
	if err != nil {
		return err
	}
	if id == 0 {
		return fmt.Errorf("roster: attachment id 0 is never used")
	}
	writeRow(&p.Seq, func() {
		p.State.Store(uint32(a.State))
		p.Pid.Store(uint32(a.Pid))
		p.Uid.Store(a.UID)
		p.StartTicks.Store(a.StartTicks)
		p.Worker.Store(uint32(a.Worker + 1))
		p.Role.Store(uint32(a.Role))
		SetText(p.Name[:], a.Name)
	})
	r.Changed()
	return nil
}
