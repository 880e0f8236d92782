package control

import (
	"fmt"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// Set is what a region is controlled through. It is valid as long as its segments are open.
type Set struct {
	Roster  *protocol.Roster
	Command *protocol.Command        // writable for whoever is to stop something
	Groups  []*protocol.GroupSegment // by index of the roster's group table; nil where there is none
}

// groupPrefix is what the name of a group's segment begins with.
const groupPrefix = "group/"

// OpenSet makes a Set of mapped segments, by name: "roster", "command" and "group/NAME"; others are passed over. A group
// segment that is missing or damaged leaves a nil. Errors: those of protocol.OpenRoster and OpenCommand,
// protocol.ErrGeneration.
func OpenSet(segments map[string]*region.Segment) (Set, error) {
	var s Set
	var err error
	for _, name := range []string{"roster", "command"} {
		if segments[name] == nil {
			return s, fmt.Errorf("segment %q is missing", name)
		}
	}
	if s.Roster, err = protocol.OpenRoster(segments["roster"].Bytes()); err != nil {
		return s, err
	}
	if s.Command, err = protocol.OpenCommand(segments["command"].Bytes()); err != nil {
		return s, err
	}
	generation := s.Roster.Header().Generation
	if s.Command.Header().Generation != generation {
		return s, fmt.Errorf("segment %q: %w", "command", protocol.ErrGeneration)
	}
	groups, _ := s.Roster.Groups() // a row that a daemon died over counts if there is a segment of that name
	if n := s.Roster.WorkerCount(); n > s.Command.Workers() || len(groups) > s.Command.Groups() {
		return s, fmt.Errorf("roster has %d workers and %d groups, the command segment %d and %d", n, len(groups), s.Command.Workers(), s.Command.Groups())
	}
	s.Groups = make([]*protocol.GroupSegment, len(groups))
	for i, g := range groups {
		seg := segments[groupPrefix+g.Name]
		if seg == nil || g.Name == "" {
			continue
		}
		if gs, err := protocol.OpenGroup(seg.Bytes()); err == nil && gs.Header().Generation == generation {
			s.Groups[i] = gs
		}
	}
	return s, nil
}

// page is the page of a worker, nil if there is none.
func (s Set) page(w protocol.Worker) *protocol.InstancePage {
	if w.Group < 0 || w.Group >= len(s.Groups) || s.Groups[w.Group] == nil || w.Instance < 0 || w.Instance >= s.Groups[w.Group].Instances() {
		return nil
	}
	return s.Groups[w.Group].Page(w.Instance)
}

// region is the region's name.
func (s Set) region() string { return s.Roster.Header().Region }

// inodes are the region's memory: inodes by name of the segment.
func (s Set) inodes() map[string]uint64 {
	segments, _ := s.Roster.Segments() // a torn row ends it; the first ones are enough
	m := make(map[string]uint64, len(segments))
	for _, seg := range segments {
		m[seg.Name] = seg.Inode
	}
	return m
}

// DaemonStatus is what is known of a region's daemon.
type DaemonStatus struct {
	Pid     int
	Alive   bool // its process runs
	Stopped bool // it runs, but is stopped (SIGSTOP, debugger)
}

// Daemon looks after the daemon that the roster names.
func (s Set) Daemon() DaemonStatus {
	d := s.Roster.Daemon()
	alive, stopped := Alive(d.Pid, d.StartTicks)
	return DaemonStatus{d.Pid, alive, stopped}
}
