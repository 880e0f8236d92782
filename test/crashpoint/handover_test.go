package crashpoint

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// chosen picks points to kill a daemon at: before the first store of each step, which is a series of stores to one place, and as many in the middle of steps as there is room
// for, up to most. With most < 0 it is all points. A step that only tells waiters has none.
func chosen(all []point, most int) []point {
	if most < 0 {
		return all
	}
	var first, middle []point
	for i := 0; i < len(all); {
		n := 1
		for i+n < len(all) && all[i+n].place == all[i].place {
			n++
		}
		if n > 2 || !strings.HasPrefix(all[i].what, headOfRoster) {
			first = append(first, all[i])
		}
		if n > 8 {
			middle = append(middle, all[i+n/2])
		}
		i += n
	}
	evenly := func(from []point, n int) (some []point) {
		n = min(n, len(from))
		for i := range n {
			some = append(some, from[i*len(from)/n])
		}
		return some
	}
	some := evenly(first, most)
	return append(some, evenly(middle, most-len(some))...)
}

// trial is a region that daemons take over, over and over: one is killed, the next takes over what it left.
type trial struct {
	*domain
	count     *tally
	before    func()   // there is no daemon; what the next one is to find
	names     []string // the instances that there are to be
	survivors []string // those of them whose processes live on
	after     func()   // there is a daemon; back to how it was before

	want string       // what the region is like afterwards, by the first round
	last *storeTracer // of the last round
}

// round has a daemon take over the region and killed at a point, or when all is done if there is none, and then another one. From a message at the point parked on systemd
// hears nothing of the first.
func (r *trial) round(at, parked point) (err error) {
	defer func() {
		if r.Cmd.ProcessState == nil {
			r.Kill()
		}
	}()
	alive := r.pids(r.survivors...)
	r.before()
	if r.last, err = r.traced(at, parked, r.names); err != nil {
		return err
	}
	if err = r.next(r.names, alive); err != nil {
		return err
	}
	switch now := r.state(); {
	case r.want == "":
		r.want = now
	case now != r.want:
		err = fmt.Errorf("the region is not as after an adoption that nobody disturbed:\n%swant:\n%s", now, r.want)
	}
	r.after()
	return err
}

// first is a round that nobody disturbs: it returns the points that there are.
func (r *trial) first() []point {
	if err := r.round(point{}, point{}); err != nil {
		r.count.t.Fatal(err)
	}
	return r.last.points
}

// kill has a daemon killed before each of the points. It reports false if the region is of no use any more.
func (r *trial) kill(all, picked []point) bool {
	places := map[place]bool{}
	for _, p := range all {
		places[p.place] = true
	}
	missed := 0
	for _, at := range picked {
		err := r.round(at, point{})
		r.count.killed++
		r.count.point(err, "killed %v", at)
		if err != nil {
			return false
		}
		if !r.last.hit {
			missed++
		}
	}
	r.count.t.Logf("%d points at %d places; killed at %d of them, %d of which did not come", len(all), len(places), len(picked), missed)
	if missed > len(picked)/4 {
		r.count.t.Errorf("%d of %d points were not reached", missed, len(picked))
	}
	return true
}

// each kills daemons that take over the region, before one store after the other, and has the next daemon take over what they left.
func (d *domain) each(count *tally, most int, before func(), names []string, survivors []string, after func()) {
	r := &trial{domain: d, count: count, before: before, names: names, survivors: survivors, after: after}
	all := r.first()
	r.kill(all, chosen(all, most))
}

// TestHandOver kills a daemon before each store with which it hands the row of an instance that is gone to another one: left.1 was stopped and its group has one
// instance less, right has one more, and there is no other row.
func TestHandOver(t *testing.T) {
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	count := newTally(t)
	defer count.report("a worker's row handed to another, daemon killed")
	d := newDomain(t)
	home := []string{"left.0", "left.1", "right.0", "stay.0", "user.0"}
	away := []string{"left.0", "right.0", "right.1", "stay.0", "user.0"}
	d.populate(home)
	scaled := func(left, right int) {
		d.command.Scale(d.groups["left"], left)
		d.command.Scale(d.groups["right"], right)
	}
	d.each(count, most(), func() {
		ws, rows, _ := d.workers()
		d.command.Stop([]int{rows["left.1"]}, nil, false)
		d.ends(ws["left.1"].Pid)
		scaled(1, 2)
	}, away, []string{"left.0", "right.0", "stay.0", "user.0"}, func() { // and back: the row is given up first, or left.1 would get another
		var never atomic.Bool
		scaled(1, 1)
		if err := d.settle(d.Cmd.Process.Pid, slices.DeleteFunc(slices.Clone(away), func(name string) bool { return name == "right.1" }), &never); err != nil {
			t.Fatal(err)
		}
		scaled(2, 1)
		if err := d.settle(d.Cmd.Process.Pid, home, &never); err != nil {
			t.Fatal(err)
		}
	})
	d.follow()
}

// TestAdoptionStores kills a daemon before each store with which it takes over a region: of a worker that died with a message and a slot while nobody watched, and with rows
// of each table that the daemon before died over. The next daemon comes to the same end.
func TestAdoptionStores(t *testing.T) {
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	count := newTally(t)
	defer count.report("adoption, daemon killed")
	d := newDomain(t)
	home := []string{"left.0", "left.1", "right.0", "stay.0", "user.0"}
	d.populate(home)
	d.each(count, most(), d.deadUser, home, []string{"left.0", "left.1", "right.0", "stay.0"}, func() {})
	d.follow()
}

// deadUser has user.0 dead, with a message and a slot, and rows of each table such as a daemon leaves them that dies over them.
func (d *domain) deadUser() {
	ws, rows, err := d.workers()
	if err != nil {
		d.t.Fatal(err)
	}
	user := ws["user.0"]
	syscall.Kill(user.Pid, syscall.SIGKILL)
	d.ends(user.Pid)
	torn := []*atomic.Uint32{d.workerSeq(rows["stay.0"]), d.attachmentSeq(user.Attachment), d.groupSeq(d.groups["left"])}
	for i, s := range must(d.roster.Segments()) {
		if s.Name == "jobs" {
			torn = append(torn, d.segmentSeq(i))
		}
	}
	for _, seq := range torn {
		seq.Store(seq.Load() | 1)
	}
}

// most is how many points a test of daemons looks at.
func most() int {
	switch {
	case torture():
		return -1
	case quick():
		return 35
	}
	return 20
}

// populate has the region in order, with no daemon and no worker row that nobody has had.
func (d *domain) populate(names []string) {
	d.t.Helper()
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	q := must(r.Queue("jobs"))
	for i := range estateMessages {
		check(q.TrySend(fmt.Appendf(nil, "message %d", i)))
	}
	var never atomic.Bool
	if err := d.settle(d.Cmd.Process.Pid, names, &never); err != nil {
		d.t.Fatal(err)
	}
	r.Close()
	if d.store != nil {
		if err := d.kept(nil); err != nil {
			d.t.Fatal(err)
		}
	}
	d.Kill()
	for i := d.roster.WorkerCount(); i < d.roster.WorkerCap(); i++ {
		check(d.roster.SetWorker(i, protocol.Worker{Name: fmt.Sprintf("old.%d", i), State: protocol.StateGone, Since: time.Now().Add(time.Hour)}))
	}
}
