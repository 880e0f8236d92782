package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/unit"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// Living is a region that was found in the processes that hold it.
type Living struct {
	Set
	Region     string
	Generation uint64
	Created    time.Time
	Segments   map[string]*region.Segment // by name, those of the roster's directory that could be taken: the command segment is writable, the others are not
	Missing    map[string]error           // the others, and why
	Holders    []Holder                   // living processes that hold segments (this one not counted), by pid
	Older      []*Living                  // of a Find: other generations of the same name that live, newest first
	Own        bool                       // this process holds its roster, too: only of a FindOwn
}

// A Holder is a process that held memory of the region after its pidfd was opened.
type Holder struct {
	Pid   int
	Pidfd *os.File
}

// Pids are those of the holders, ascending.
func (l *Living) Pids() []int {
	pids := make([]int, len(l.Holders))
	for i, h := range l.Holders {
		pids[i] = h.Pid
	}
	return pids
}

// Close unmaps the segments and closes all descriptors, those of Older too.
func (l *Living) Close() error {
	var errs []error
	for _, s := range l.Segments {
		errs = append(errs, s.Close())
	}
	for _, h := range l.Holders {
		errs = append(errs, h.Pidfd.Close())
	}
	l.Segments, l.Holders = nil, nil
	for _, o := range l.Older {
		errs = append(errs, o.Close())
	}
	l.Older = nil
	return errors.Join(errs...)
}

// Find takes the segments of a region, known by its name and runtime directory, from the processes that hold them, without a daemon. Memory is trusted only if
// dirOwner, the owner of the region's runtime directory, owns its inode (see Owner). If several generations of the name
// live, it returns the newest with the others in Older. The caller closes it.
//
// Only dirOwner and root can. Errors: ErrNoRegion, ErrPermission, *DamagedError; those of the kernel, of which EMFILE is the likely one.
func Find(name, dir string, dirOwner uint32) (*Living, error) {
	all, err := FindAll(name, dir, dirOwner)
	if len(all) > 0 { // a damaged one beside it is no reason to do without
		all[0].Older = all[1:]
		return all[0], nil
	}
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("region %q: %w that belongs to the runtime directory %s (user %d): start it (%s)", name, ErrNoRegion, dir, dirOwner, unit.Start(name))
}

// FindAll returns all generations of a region that live, newest first: none is no error. The caller closes them. Beside
// regions that were found it may return the error of others. Errors: those of Find but ErrNoRegion.
func FindAll(name, dir string, dirOwner uint32) ([]*Living, error) {
	return findAll(name, dir, dirOwner, false)
}

// FindOwn is FindAll for a process that has inherited segments from the region's daemon: it looks at its own descriptors, too.
func FindOwn(name, dir string, dirOwner uint32) ([]*Living, error) {
	return findAll(name, dir, dirOwner, true)
}

func findAll(name, dir string, dirOwner uint32, own bool) ([]*Living, error) {
	dir = CanonicalDir(dir)
	var all []*Living
	var errs []error
	for try := 0; ; try++ {
		var again bool
		all, errs, again = find(name, dir, dirOwner, own)
		if !again || try == 2 {
			break
		}
		for _, l := range all { // a holder ended in the middle: look again
			l.Close()
		}
	}
	if len(all) == 0 && len(errs) == 0 {
		if uid := os.Geteuid(); uid != 0 && uid != int(dirOwner) {
			return nil, fmt.Errorf("region %q: %w: its memory can be taken only by user %d and root", name, ErrPermission, dirOwner)
		}
	}
	slices.SortStableFunc(all, func(a, b *Living) int { return b.Created.Compare(a.Created) })
	return all, errors.Join(errs...)
}

// errElsewhere: a region of this name, with another runtime directory: it is another region.
var errElsewhere = errors.New("the region of another runtime directory")

// CanonicalDir is how a roster names a runtime directory: absolute, symbolic links resolved where it exists.
func CanonicalDir(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	return dir
}

// find is one look. again says that what was found is not all there was.
func find(name, dir string, dirOwner uint32, own bool) (all []*Living, errs []error, again bool) {
	descriptors, err := scan(name, own)
	if err != nil {
		return nil, []error{notTaken(name, nil, dirOwner, err)}, false
	}
	type identity struct{ dev, inode uint64 }
	rosters := map[identity][]held{}
	var order []identity
	for _, h := range descriptors {
		if h.segment != "roster" || h.stat.UID != dirOwner {
			continue
		}
		id := identity{h.stat.Dev, h.stat.Inode}
		if rosters[id] == nil {
			order = append(order, id)
		}
		rosters[id] = append(rosters[id], h)
	}
	for _, id := range order {
		l, err := take(name, dir, dirOwner, rosters[id], descriptors)
		switch {
		case errors.Is(err, errGone):
			again = true
		case errors.Is(err, errElsewhere):
		case errors.Is(err, protocol.ErrNotReady): // a daemon that is just starting, or died while it was
		case err != nil:
			var pids []int
			for _, h := range rosters[id] {
				pids = append(pids, h.pid)
			}
			errs = append(errs, notTaken(name, unique(pids), dirOwner, err))
		default:
			all = append(all, l)
		}
	}
	return all, errs, again
}

// take makes a Living of a roster and the descriptors that were seen. errGone: a process ended meanwhile.
func take(name, dir string, owner uint32, rosters, descriptors []held) (_ *Living, err error) {
	l := &Living{Region: name, Segments: map[string]*region.Segment{}, Missing: map[string]error{}}
	l.Own = slices.ContainsFunc(rosters, func(h held) bool { return h.pid == os.Getpid() })
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	open := func(from []held, kind protocol.Kind, segment string) error {
		err := errGone
		for _, h := range from {
			var f *os.File
			if f, err = h.open(kind == protocol.KindCommand); err != nil {
				switch {
				case outOfFiles(err):
					return err
				case errors.Is(err, fs.ErrNotExist):
					err = errGone
				}
				continue // perhaps the next process still has it
			}
			var s *region.Segment
			s, err = region.Open(f, region.OpenOptions{Write: kind == protocol.KindCommand, MinSize: protocol.SizeofSegmentHeader, Owner: &owner,
				Check: func(b []byte) error {
					if err := protocol.Check(kind, l.Generation)(b); err != nil {
						return err
					}
					h, err := protocol.ReadHeader(b)
					if err == nil && (h.Region != name || h.Name != segment) {
						err = fmt.Errorf("its header says that it is segment %q of region %q", h.Name, h.Region)
					}
					return err
				}})
			if err != nil {
				return err // the next process has the same memory
			}
			l.Segments[segment] = s
			return nil
		}
		return err
	}

	if err := open(rosters, protocol.KindRoster, "roster"); err != nil {
		return nil, err
	}
	roster, err := protocol.OpenRoster(l.Segments["roster"].Bytes())
	if err != nil {
		return nil, err
	}
	if roster.Dir() != dir {
		return nil, errElsewhere
	}
	h := roster.Header()
	l.Generation, l.Created = h.Generation, h.Created
	directory, _ := roster.Segments() // a row that a daemon died over counts if what it says is there: the name and the inode are compared below
	command := false
	for _, d := range directory {
		if d.Name == "" { // free
			continue
		}
		command = command || d.Kind == protocol.KindCommand
		if d.Name == "roster" {
			if d.Inode != l.Segments["roster"].Inode() {
				return nil, fmt.Errorf("roster: its directory says inode %d, it has %d", d.Inode, l.Segments["roster"].Inode())
			}
			continue
		}
		var from []held
		for _, h := range descriptors {
			if h.segment == d.Name && h.stat.Inode == d.Inode && h.stat.UID == owner {
				from = append(from, h)
			}
		}
		if err := open(from, d.Kind, d.Name); err != nil {
			if outOfFiles(err) {
				return nil, err
			}
			if errors.Is(err, errGone) && len(from) == 0 {
				err = ErrNotHeld
			}
			l.Missing[d.Name] = err
		}
	}
	if !command { // the directory is written after the segments
		return nil, fmt.Errorf("roster: its directory names no command segment: %w", protocol.ErrNotReady)
	}
	if roster.Daemon().State == 0 { // and the daemon last, after the workers
		return nil, fmt.Errorf("roster: no daemon yet: %w", protocol.ErrNotReady)
	}

	// Who of those that were seen is still there, and still holds it?
	inodes := map[string]uint64{}
	for _, d := range directory {
		inodes[d.Name] = d.Inode
	}
	var pids []int
	for _, h := range descriptors {
		if inode, ok := inodes[h.segment]; ok && inode == h.stat.Inode {
			pids = append(pids, h.pid)
		}
	}
	for _, pid := range unique(pids) {
		p, err := openProcess(pid, 0)
		if errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if ok, err := holds(pid, name, inodes); err != nil || !ok {
			p.close()
			if outOfFiles(err) {
				return nil, err
			}
			continue
		}
		if ended, err := p.ended(); err != nil || ended { // then the pid may be another's already
			p.close()
			continue
		}
		l.Holders = append(l.Holders, Holder{pid, p.pidfd})
	}
	if len(l.Holders) == 0 && !l.Own {
		return nil, errGone
	}
	if l.Segments["command"] == nil {
		err := l.Missing["command"]
		if err == nil {
			err = errors.New(`the directory calls it by another name`)
		}
		return nil, fmt.Errorf("segment %q: %w", "command", err)
	}
	if l.Set, err = OpenSet(l.Segments); err != nil {
		return nil, err
	}
	return l, nil
}

// Owner is the user whose memory a region in this runtime directory has: the directory's owner. If there is no such
// directory (systemd removes it when the unit stops), it is fallback.
func Owner(dir string, fallback uint32) (uint32, error) {
	st, err := sys.StatPath(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fallback, nil
	case err != nil:
		return 0, fmt.Errorf("runtime directory: %w", err)
	}
	return st.UID, nil
}
