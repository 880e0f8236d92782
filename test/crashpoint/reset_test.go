package crashpoint

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// TestReset kills a daemon at its stores and messages between the crash of an instance and the end of the reset of its group. The next daemon carries the reset out: each instance
// of the group is another process then, one each, those of other groups are the same, and no message is lost or there twice.
func TestReset(t *testing.T) {
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	count := newTally(t)
	defer count.report("reset of a group, daemon killed")
	adoptOrphans(t)
	d := newDomainOf(t, newFDStore(t), team{"stay", 1, ""}, team{"crew", 3, useJobs + "\non_crash = \"reset-group\""}, team{"user", 1, useJobs})
	names := []string{"crew.0", "crew.1", "crew.2", "stay.0", "user.0"}
	d.populate(names)
	var before map[string]int
	d.also = func(ws map[string]protocol.Worker) error {
		for name, pid := range before {
			if ws[name].Pid == pid {
				return fmt.Errorf("%s is process %d as before the crash", name, pid)
			}
		}
		return nil
	}
	d.stir = func() { syscall.Kill(before["crew.1"], syscall.SIGKILL) }
	r := &trial{domain: d, count: count, names: names, survivors: []string{"stay.0", "user.0"}, before: func() {
		before = d.pids("crew.0", "crew.1", "crew.2")
	}, after: func() {}}
	var points []point
	for _, p := range r.first() {
		if strings.HasSuffix(p.what, stirredUp) {
			points = append(points, p)
		}
	}
	sent, stores := messagesOf(points)
	some := -1
	if !torture() {
		some = 10
		sent = []point{sent[0], sent[len(sent)/2], sent[len(sent)-1]}
	}
	if r.kill(points, append(slices.Clone(sent), chosen(stores, some)...)) && r.unheard(sent) {
		d.follow()
		d.drained("crew", "user")
	}
}
