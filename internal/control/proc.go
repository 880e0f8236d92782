package control

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

const (
	memfdPrefix = "/memfd:"    // how /proc shows a memfd
	deleted     = " (deleted)" // and what it adds: it has no directory entry
)

// segmentOf returns the segment that a link of /proc/PID/fd, or a path of /proc/PID/maps, names; false if it is none of
// the region's.
func segmentOf(link, region string) (string, bool) {
	s, ok := strings.CutPrefix(link, memfdPrefix+"shmd:"+region+":")
	if !ok {
		return "", false
	}
	return strings.TrimSuffix(s, deleted), true
}

// held is one descriptor of some process that says it is a segment of the region.
type held struct {
	pid, fd int
	segment string
	stat    sys.Stat
}

func (h held) path() string { return fmt.Sprintf("/proc/%d/fd/%d", h.pid, h.fd) }

// scan looks for descriptors of a region's segments in all processes that this user may look into, this one only if own. Errors: EMFILE and the like, so that what was
// not looked into is not taken for what is not there.
func scan(region string, own bool) ([]held, error) {
	pids, err := processes()
	if err != nil {
		return nil, err
	}
	var all []held
	self := os.Getpid()
	for _, pid := range pids {
		if pid == self && !own || pid == 1 && isSystemd() {
			continue
		}
		some, err := scanProcess(pid, region)
		if outOfFiles(err) {
			return nil, err
		}
		if err != nil {
			continue // it ended, or is another user's
		}
		all = append(all, some...)
	}
	return all, nil
}

// isSystemd reports whether process 1 is systemd, which holds the memory of regions in its fd store and is none of theirs.
func isSystemd() bool {
	comm, err := os.ReadFile("/proc/1/comm")
	return err == nil && string(comm) == "systemd\n"
}

func processes() ([]int, error) {
	names, err := names("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

func scanProcess(pid int, region string) ([]held, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := names(dir)
	if err != nil {
		return nil, err
	}
	var out []held
	for _, n := range fds {
		link, err := os.Readlink(dir + "/" + n)
		if err != nil {
			continue // closed meanwhile
		}
		segment, ok := segmentOf(link, region)
		if !ok {
			continue
		}
		fd, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		h := held{pid: pid, fd: fd, segment: segment}
		if h.stat, err = sys.StatPath(h.path()); err == nil && h.stat.IsRegular {
			out = append(out, h)
		}
	}
	return out, nil
}

func names(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// open takes the descriptor: the same memory, opened anew. O_NONBLOCK, because what was a memfd a moment ago could be a
// FIFO by now.
func (h held) open(write bool) (*os.File, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(h.path(), flags|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if st, err := sys.Fstat(f); err != nil || st.Inode != h.stat.Inode || st.Dev != h.stat.Dev {
		f.Close()
		return nil, fmt.Errorf("%s: %w", h.path(), fs.ErrNotExist) // another file by now
	}
	return f, nil
}

// Holds reports whether a process holds memory of a region, whose roster names the segments. Errors: the process has ended, or is another user's.
func Holds(pid int, roster *protocol.Roster) (bool, error) {
	return holds(pid, roster.Header().Region, Set{Roster: roster}.inodes())
}

// HoldsSegment reports whether a process holds one segment of a region, known by name and inode. Errors: as Holds.
func HoldsSegment(pid int, region, segment string, inode uint64) (bool, error) {
	return holds(pid, region, map[string]uint64{segment: inode})
}

// holds reports whether a process holds memory of the region: a descriptor or a mapping of a segment, by name and inode.
func holds(pid int, region string, inodes map[string]uint64) (bool, error) {
	some, err := scanProcess(pid, region)
	if err != nil {
		return false, err
	}
	for _, h := range some {
		if inode, ok := inodes[h.segment]; ok && inode == h.stat.Inode {
			return true, nil
		}
	}
	return maps(pid, region, inodes)
}

// maps is holds for mappings: a process may close a descriptor once it has mapped it.
func maps(pid int, region string, inodes map[string]uint64) (bool, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false, err
	}
	want := []byte(memfdPrefix + "shmd:" + region + ":")
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() { // a line: addresses permissions offset device inode path
		if !bytes.Contains(s.Bytes(), want) {
			continue
		}
		line := s.Text()
		i := strings.Index(line, memfdPrefix)
		segment, ok := segmentOf(line[i:], region)
		fields := strings.Fields(line[:i])
		if !ok || len(fields) != 5 {
			continue
		}
		inode, err := strconv.ParseUint(fields[4], 10, 64)
		if want, ok := inodes[segment]; err == nil && ok && inode == want {
			return true, nil
		}
	}
	return false, s.Err()
}

// environ returns one variable of the environment that a process was started with. In the middle of an exec a process shows
// none: that is waited for.
func environ(pid int, name string) string {
	var b []byte
	for deadline := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		var err error
		if b, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil {
			return ""
		}
		if len(b) > 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, kv := range bytes.Split(b, []byte{0}) {
		if v, ok := bytes.CutPrefix(kv, []byte(name+"=")); ok {
			return string(v)
		}
	}
	return ""
}

// errGone: the process has ended, or its pid is another's by now.
var errGone = errors.New("process has ended")

// process is a process that cannot be mistaken for another.
type process struct {
	pid   int
	pidfd *os.File
}

// openProcess opens the process with that pid and start time (0: whatever has the pid). errGone if there is none that
// runs.
func openProcess(pid int, ticks uint64) (*process, error) {
	if pid <= 0 || pid == os.Getpid() {
		return nil, errGone
	}
	f, err := sys.PidfdOpen(pid)
	switch {
	case errors.Is(err, syscall.ESRCH), errors.Is(err, syscall.EINVAL): // EINVAL: it is the pid of a thread by now
		return nil, errGone
	case err != nil:
		return nil, fmt.Errorf("pid %d: %w", pid, err)
	}
	p := &process{pid, f}
	now, err := sys.StartTicks(pid)
	if err == nil && ticks != 0 && now != ticks {
		err = errGone
	}
	if err == nil { // what was read of the pid was this process's if it has not ended
		var ended bool
		if ended, err = p.ended(); ended {
			err = errGone
		}
	}
	if err != nil {
		p.close()
		if errors.Is(err, fs.ErrNotExist) {
			err = errGone
		}
		return nil, err
	}
	return p, nil
}

func (p *process) ended() (bool, error) { return sys.PidfdReadable(p.pidfd) }

func (p *process) close() { p.pidfd.Close() }

// Alive reports whether the process with that pid and start time (as in the roster) runs, and whether it is stopped
// (SIGSTOP, debugger). A zombie does not run.
func Alive(pid int, startTicks uint64) (alive, stopped bool) {
	if pid <= 0 {
		return false, false
	}
	ticks, err := sys.StartTicks(pid)
	if err != nil || ticks != startTicks {
		return false, false
	}
	switch state, err := sys.ProcState(pid); {
	case err != nil, state == 'Z', state == 'X':
		return false, false
	case state == 'T', state == 't':
		return true, true
	}
	return true, false
}
