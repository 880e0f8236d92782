package protocol

import (
	"fmt"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// Command is a view of the command segment: quit words and desired state. Operators write it; workers and
// observers read it; the daemon clears quit flags. Any number of processes may use it at once.
//
// The order of stores that keeps stops and starts apart (docs/architecture.md, "Stop and start"):
//
//	stop:    desired = stop [K], flag = 1 [L], wake
//	launch:  desired is run? [M], flag = 0, desired is still run? [N], start the process
//
// If the launcher's clearing overwrote L, then K came before it, so N reads stop and nothing is started.
type Command struct {
	b      []byte
	h      Header
	info   *CommandInfo
	groups []*CommandRow
	rows   []*CommandRow
	// Where they begin, as they were found there.
	groupsAt, rowsAt int64
}

const commandRows = 1024 // offset of the first row

// CommandSize returns the bytes that a command segment for so many groups and workers needs.
func CommandSize(groups, workers int) int64 {
	return commandRows + int64(groups+workers)*SizeofCommandRow
}

// FormatCommand makes a command segment in b, which must be zero: everything is wanted to run. Errors: ErrTooShort.
func FormatCommand(b []byte, h Header, groups, workers int) (*Command, error) {
	h.Kind = KindCommand
	if err := format(b, h, CommandSize(groups, workers)); err != nil {
		return nil, err
	}
	info := overlayCommandInfo(b, bodyOffset)
	info.GroupCap.Store(uint32(groups))
	info.WorkerCap.Store(uint32(workers))
	info.GroupOffset.Store(commandRows)
	info.WorkerOffset.Store(commandRows + uint64(groups)*SizeofCommandRow)
	publish(b)
	return OpenCommand(b)
}

// OpenCommand checks the header and the tables' places, once: the places are not read again.
// Errors: those of ReadHeader, *KindError, *CorruptError.
func OpenCommand(b []byte) (*Command, error) {
	h, err := open(b, KindCommand)
	if err != nil {
		return nil, err
	}
	c := &Command{b: b, h: h, info: overlayCommandInfo(b, bodyOffset)}
	if c.info == nil {
		return nil, fmt.Errorf("command segment of region %q: %w", h.Region, ErrTooShort)
	}
	for _, t := range []struct {
		rows   *[]*CommandRow
		at     *int64
		field  int64
		offset uint64
		count  uint32
	}{
		{&c.groups, &c.groupsAt, OffsetofCommandInfoGroupOffset, c.info.GroupOffset.Load(), c.info.GroupCap.Load()},
		{&c.rows, &c.rowsAt, OffsetofCommandInfoWorkerOffset, c.info.WorkerOffset.Load(), c.info.WorkerCap.Load()},
	} {
		if err := table(h.Name, b, bodyOffset+t.field, t.offset, t.count, SizeofCommandRow); err != nil {
			return nil, err
		}
		*t.at = int64(t.offset)
		for i := range int64(t.count) {
			*t.rows = append(*t.rows, overlayCommandRow(b, int64(t.offset)+i*SizeofCommandRow))
		}
	}
	return c, nil
}

// Header returns the segment's header.
func (c *Command) Header() Header { return c.h }

// Groups and Workers return the number of rows.
func (c *Command) Groups() int { return len(c.groups) }

// Workers returns the number of worker rows.
func (c *Command) Workers() int { return len(c.rows) }

// Flagged reports whether a quit word's flag, its low byte, is set.
func Flagged(word *atomic.Uint32) bool { return word.Load()&0xff != 0 }

// RegionQuit is the region's quit word, a futex.
func (c *Command) RegionQuit() *atomic.Uint32 { return &c.info.Quit }

// GroupQuit is the quit word of group i, which must be below Groups.
func (c *Command) GroupQuit(i int) *atomic.Uint32 { return &c.groups[i].Quit }

// WorkerQuit is the quit word of worker i, which must be below Workers. A stop of its group or of the region
// rings this word too, so a worker that waits on it alone misses nothing.
func (c *Command) WorkerQuit(i int) *atomic.Uint32 { return &c.rows[i].Quit }

// RegionDesired says whether the region is wanted to run.
func (c *Command) RegionDesired() Desired { return Desired(c.info.Desired.Load()) }

// GroupDesired says whether group i is wanted to run.
func (c *Command) GroupDesired(i int) Desired { return Desired(c.groups[i].Desired.Load()) }

// WorkerDesired says whether worker i is wanted to run.
func (c *Command) WorkerDesired(i int) Desired { return Desired(c.rows[i].Desired.Load()) }

// GroupCount returns how many instances of group i are wanted; 0: as many as the configuration says.
func (c *Command) GroupCount(i int) int { return int(c.groups[i].Count.Load()) }

// GroupRollout returns how often a rolling restart of group i was asked for, and how many of its instances may be missing at a time.
func (c *Command) GroupRollout(i int) (count uint32, maxUnavailable int) {
	count = c.groups[i].Restart.Load() // first: it is raised last
	return count, max(1, int(c.groups[i].MaxUnavailable.Load()))
}

// RestartCount returns how often a restart of worker i was asked for.
func (c *Command) RestartCount(i int) uint32 { return c.rows[i].Restart.Load() }

// WorkerFlaggedNs returns CLOCK_MONOTONIC at the last store of worker i's quit flag.
func (c *Command) WorkerFlaggedNs(i int) int64 { return int64(c.rows[i].FlaggedNs.Load()) }

// Bell is the daemon's doorbell, a futex.
func (c *Command) Bell() *atomic.Uint32 { return &c.info.Bell }

// Ring rings the daemon's doorbell.
func (c *Command) Ring() {
	c.info.Bell.Add(1)
	sys.FutexWake(&c.info.Bell, 1<<30)
}

// raise sets the flag of a quit word and wakes everybody who waits on it.
func raise(word *atomic.Uint32) {
	word.Or(1)
	sys.FutexWake(word, 1<<30)
}

// Stop asks workers, whole groups, or the region to stop: desired state first [K], then the flags [L], then the
// wakes, then the daemon's doorbell. For a group or the region, workers must list all of its instances.
func (c *Command) Stop(workers, groups []int, region bool) {
	if region {
		c.info.Desired.Store(uint32(DesiredStop))
	}
	for _, g := range groups {
		c.groups[g].Desired.Store(uint32(DesiredStop))
	}
	for _, w := range workers {
		c.rows[w].Desired.Store(uint32(DesiredStop)) // K
	}
	if region {
		c.info.FlaggedNs.Store(uint64(sys.MonotonicNs()))
		raise(&c.info.Quit)
	}
	for _, g := range groups {
		c.groups[g].FlaggedNs.Store(uint64(sys.MonotonicNs()))
		raise(&c.groups[g].Quit)
	}
	for _, w := range workers {
		c.Flag(w) // L
	}
	c.Ring()
}

// Want asks workers, groups or the region to stop, desired state alone: what Stop does for those that are to quit later, when others have.
func (c *Command) Want(workers, groups []int, region bool) {
	if region {
		c.info.Desired.Store(uint32(DesiredStop))
	}
	for _, g := range groups {
		c.groups[g].Desired.Store(uint32(DesiredStop))
	}
	for _, w := range workers {
		c.rows[w].Desired.Store(uint32(DesiredStop)) // K
	}
	c.Ring()
}

// Flag sets the quit flag of worker i and wakes it; desired state is not touched. The daemon uses it for restarts.
func (c *Command) Flag(i int) {
	c.rows[i].FlaggedNs.Store(uint64(sys.MonotonicNs()))
	raise(&c.rows[i].Quit)
}

// Dismiss asks workers, and all who use the region, to quit, and leaves desired state as it is: nobody wants the region to end, but no daemon comes. The workers' flags come first: who ends
// by the region's has its own by then, by which the next daemon knows that it was asked, wherever this process dies.
func (c *Command) Dismiss(workers []int) {
	for _, w := range workers {
		c.Flag(w)
	}
	c.info.FlaggedNs.Store(uint64(sys.MonotonicNs()))
	raise(&c.info.Quit)
}

// Recall clears the region's quit flag if the region is wanted, for a daemon that adopts it: it was dismissed. A stop that comes meanwhile keeps its flag, as in Arm.
func (c *Command) Recall() {
	if c.RegionDesired() != DesiredRun {
		return
	}
	c.info.Quit.Store(0)
	if c.RegionDesired() != DesiredRun {
		raise(&c.info.Quit)
	}
}

// Start asks for workers and groups to run, and rings the daemon. It does not clear flags: the daemon does, when
// it launches.
func (c *Command) Start(workers, groups []int) {
	for _, g := range groups {
		c.groups[g].Desired.Store(uint32(DesiredRun))
	}
	for _, w := range workers {
		c.rows[w].Desired.Store(uint32(DesiredRun))
	}
	c.Ring()
}

// AskRestart asks for a restart of the workers, and rings the daemon.
func (c *Command) AskRestart(workers []int) {
	for _, w := range workers {
		c.rows[w].Restart.Add(1)
	}
	c.Ring()
}

// Scale asks for n instances of group i, or with 0 for as many as the configuration says, and rings the daemon.
func (c *Command) Scale(i, n int) {
	c.groups[i].Count.Store(uint32(n))
	c.Ring()
}

// AskRollout asks for a rolling restart of group i in which at most so many instances are missing at a time, rings the daemon, and returns
// the number of the rolling restart.
func (c *Command) AskRollout(i, maxUnavailable int) uint32 {
	c.groups[i].MaxUnavailable.Store(uint32(maxUnavailable))
	n := c.groups[i].Restart.Add(1)
	c.Ring()
	return n
}

// AbortRollout has the rolling restart of group i that was asked for last end where it stands, rings the daemon, and returns its number. One that
// another operator asks for meanwhile is not meant.
func (c *Command) AbortRollout(i int) uint32 {
	n := c.groups[i].Restart.Load()
	c.groups[i].Aborted.Store(n)
	c.Ring()
	return n
}

// RolloutAborted reports whether rolling restart number n of group i is to end where it stands.
func (c *Command) RolloutAborted(i int, n uint32) bool { return c.groups[i].Aborted.Load() == n }

// Enlist makes the row of worker i that of a new instance, for the daemon alone: what was wanted of the row's last owner is forgotten. It is
// before the instance's row in the roster is written: nobody means the new one yet.
func (c *Command) Enlist(i int) { c.rows[i].Desired.Store(uint32(DesiredRun)) }

// EnlistGroup makes the row of group i that of a new group, likewise.
func (c *Command) EnlistGroup(i int) {
	c.groups[i].Count.Store(0)
	c.groups[i].Desired.Store(uint32(DesiredRun))
	c.groups[i].Quit.Store(0)
}

// Wanted reports whether worker i of group g is to run: the region, its group and it are wanted. What stops a group stops an instance too that is made
// meanwhile; a start of one instance is a start of its group, whose other instances stay stopped by their own rows.
func (c *Command) Wanted(i, g int) bool {
	return c.RegionDesired() == DesiredRun && c.GroupDesired(g) == DesiredRun && c.WorkerDesired(i) == DesiredRun
}

// Arm prepares the launch of worker i of group g (below Workers and Groups), for the daemon alone: it clears the
// quit flags that belong to an earlier stop and reports whether the worker is still wanted [M N]. A false answer
// means: do not launch.
func (c *Command) Arm(i, g int) bool {
	if !c.Wanted(i, g) { // M
		return false
	}
	c.groups[g].Quit.Store(0)
	c.rows[i].Quit.Store(0)
	return c.Wanted(i, g) // N
}
