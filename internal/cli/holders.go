package cli

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

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// holder is a process that holds a segment, by a descriptor or a mapping.
type holder struct {
	Pid  int    `json:"pid"`
	Name string `json:"name"` // as in the attachment table, "" if it is not there
	Role string `json:"role"`
}

// holders looks through /proc for who holds the memory with these inodes; this process does not count. hidden is the number of
// processes that this user may not look into.
func (s *session) holders(inodes map[uint64]bool) (by map[uint64][]holder, hidden int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, 0, err
	}
	attached := s.attachedPids()
	prefix := []byte("/memfd:shmd:" + s.name() + ":")
	by = map[uint64][]holder{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		held, err := heldBy(pid, prefix)
		if errors.Is(err, fs.ErrPermission) {
			hidden++
		}
		for inode := range held {
			if inodes[inode] {
				h, ok := attached[pid]
				if h.Pid = pid; !ok && guards(pid, s.name()) {
					h.Name, h.Role = "guard", "guard"
				}
				by[inode] = append(by[inode], h)
			}
		}
	}
	for _, list := range by {
		slices.SortFunc(list, func(a, b holder) int { return a.Pid - b.Pid })
	}
	return by, hidden, nil
}

// guards reports whether a process is the guard of a region: it has no row in the attachment table.
func guards(pid int, region string) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && string(args) == "shmd\x00guard\x00"+region+"\x00"
}

// attachedPids is the attachment table by pid.
func (s *session) attachedPids() map[int]holder {
	m := map[int]holder{}
	for id := 1; id < s.Roster.AttachmentCap() && id <= 0xffff; id++ {
		if at, err := s.Roster.Attachment(uint16(id)); err == nil && at.State != protocol.AttachmentFree {
			m[at.Pid] = holder{at.Pid, at.Name, at.Role.String()}
		}
	}
	return m
}

// heldBy returns the inodes of the memfds with this prefix that a process has open or mapped, and of each whether it can write there.
// Errors: the process has ended, or is another user's.
func heldBy(pid int, prefix []byte) (writable map[uint64]bool, err error) {
	held := map[uint64]bool{}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		link, err := os.Readlink(dir + "/" + n)
		if err != nil || !strings.HasPrefix(link, string(prefix)) {
			continue
		}
		how, err := os.Lstat(dir + "/" + n)
		if err != nil {
			continue
		}
		if st, err := sys.StatPath(dir + "/" + n); err == nil {
			held[st.Inode] = held[st.Inode] || how.Mode()&0o200 != 0 // the mode of the link is that of the descriptor
		}
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return held, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(maps)); lines.Scan(); { // addresses permissions offset device inode path
		before, _, ok := bytes.Cut(lines.Bytes(), prefix)
		if f := bytes.Fields(before); ok && len(f) == 5 {
			if inode, err := strconv.ParseUint(string(f[4]), 10, 64); err == nil {
				held[inode] = held[inode] || bytes.ContainsRune(f[1], 'w')
			}
		}
	}
	return held, nil
}
