package crashpoint

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// TestDamage kills a daemon that adopts a region one channel of which was damaged, and so makes it anew, at messages and at stores. The next daemon has all who use the channel
// started again with the memory that is the channel now; others go on.
func TestDamage(t *testing.T) {
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	count := newTally(t)
	defer count.report("a channel made anew at the adoption, daemon killed")
	adoptOrphans(t)
	d := newDomainOf(t, newFDStore(t), team{"stay", 2, ""}, team{"user", 2, useJobs})
	names := []string{"stay.0", "stay.1", "user.0", "user.1"}
	d.populate(names)
	d.anew = true
	d.also = d.current
	r := &trial{domain: d, count: count, names: names, survivors: []string{"stay.0", "stay.1"}, before: func() {
		copy(d.mem["jobs"], strings.Repeat("\xa5", 64))
	}, after: func() {}}
	all := r.first()
	sent, stores := messagesOf(all)
	if !torture() {
		sent, stores = sent[:2], chosen(stores, 8)
	}
	if r.kill(all, append(slices.Clone(sent), stores...)) && r.unheard(sent[:1]) {
		d.follow()
	}
}

// current checks that workers have the memory of the region's segments that is theirs now.
func (d *domain) current(ws map[string]protocol.Worker) error {
	for _, w := range ws {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", w.Pid))
		if err != nil {
			return err
		}
		if len(maps) == 0 {
			return fmt.Errorf("%s, process %d, is about to end", w.Name, w.Pid)
		}
		for line := range strings.Lines(string(maps)) {
			_, name, ok := strings.Cut(line, "/memfd:"+d.segments())
			fields := strings.Fields(line)
			if name = strings.TrimSuffix(strings.TrimSpace(name), " (deleted)"); ok && fields[4] != fmt.Sprint(d.inodes[name]) {
				return fmt.Errorf("%s has %q with inode %s, not %d", w.Name, name, fields[4], d.inodes[name])
			}
		}
	}
	return nil
}
