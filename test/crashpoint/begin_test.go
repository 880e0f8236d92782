package crashpoint

import (
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// TestBegin kills a daemon while it makes a region and starts its workers for the first time, before messages to the fd store and before stores, and has systemd hear nothing
// from a message on. The next daemon, with what systemd has then, has all workers, one process each, and in the fd store what belongs to the region and nothing else. In the end
// the region is stopped, and then nothing is left but the roster in the fd store.
func TestBegin(t *testing.T) {
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	count := newTally(t)
	defer count.report("a new region, daemon killed")
	adoptOrphans(t)
	d := newDomainOf(t, newFDStore(t), team{"stay", 2, ""}, team{"user", 1, useJobs})
	names := []string{"stay.0", "stay.1", "user.0"}
	var never atomic.Bool
	if err := d.settle(d.Cmd.Process.Pid, names, &never); err != nil {
		t.Fatal(err)
	}
	d.anew = true
	d.Stop()
	round := func(at, parked point) (*storeTracer, error) {
		x, err := d.traced(at, parked, names)
		if err != nil {
			return x, err
		}
		err = d.next(names, nil)
		d.Stop()
		if err == nil {
			err = d.store.await(func(have []entry) error {
				if len(have) != 1 || have[0].name != "s0000" {
					return fmt.Errorf("the region is stopped, and the fd store has %v, not the roster alone", have)
				}
				return nil
			})
		}
		d.store.drop() // as its unit is down
		if err == nil {
			err = d.none()
		}
		return x, err
	}
	x, err := round(point{}, point{})
	if err != nil {
		t.Fatal(err)
	}
	all := x.points
	sent, stores := messagesOf(all)
	if !torture() {
		var some []point
		for i := range 4 {
			some = append(some, sent[i*(len(sent)-1)/3])
		}
		sent, stores = some, chosen(stores, 4)
	}
	missed := 0
	for _, at := range append(slices.Clone(sent), stores...) {
		x, err := round(at, point{})
		count.killed++
		if count.point(err, "killed %v", at); err != nil {
			return
		}
		if !x.hit {
			missed++
		}
	}
	for _, at := range sent {
		_, err := round(point{}, at)
		count.killed++
		if count.point(err, "killed when all was done, with nothing heard from the moment on %v", at); err != nil {
			return
		}
	}
	t.Logf("%d points, %d of which did not come", len(all), missed)
}

// none checks that no worker lives.
func (d *domain) none() error {
	return d.noProcessBut(map[string]protocol.Worker{})
}
