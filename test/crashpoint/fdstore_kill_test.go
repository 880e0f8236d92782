package crashpoint

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/shmd/shmd/pkg/shm"
)

// TestFDStore kills a daemon that takes over a region from systemd's fd store, as in TestAdoptionStores: before each message to the fd store, and before each store into the
// memory. It also has systemd hear nothing from each message on, while the daemon does all that it has to do, and then dies: it does not wait for systemd. The next daemon gets
// what systemd has then, and comes to the same end, with what belongs to the region in the fd store, and nothing else.
func TestFDStore(t *testing.T) {
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	count := newTally(t)
	defer count.report("adoption from the fd store, daemon killed")
	adoptOrphans(t)
	d := newDomainUnder(t, newFDStore(t))
	home := []string{"left.0", "left.1", "right.0", "stay.0", "user.0"}
	d.populate(home)
	r := &trial{domain: d, count: count, before: d.reapedUser, names: home, survivors: []string{"left.0", "left.1", "right.0", "stay.0"}, after: func() {}}
	all := r.first()
	sent, stores := messagesOf(all)
	if len(sent) == 0 {
		t.Fatal("nothing was said to systemd")
	}
	some := -1
	if !torture() {
		some = 5
	}
	if !r.kill(all, append(slices.Clone(sent), chosen(stores, some)...)) || !r.unheard(sent) {
		return
	}
	d.follow()
	d.drained("user")
}

// messagesOf parts points into messages to systemd and stores.
func messagesOf(all []point) (sent, stores []point) {
	for _, p := range all {
		if p.message() {
			sent = append(sent, p)
		} else {
			stores = append(stores, p)
		}
	}
	return sent, stores
}

// unheard has systemd hear nothing of a daemon from each of the messages on; the daemon is killed when all is done. It reports false if the region is of no use any more.
func (r *trial) unheard(sent []point) bool {
	for _, at := range sent {
		err := r.round(point{}, at)
		r.count.killed++
		r.count.point(err, "killed when all was done, with nothing heard from the moment on %v", at)
		if err != nil {
			return false
		}
	}
	return true
}

// drained stops the groups that use the queue, and checks that each message is there, once.
func (d *domain) drained(groups ...string) {
	d.t.Helper()
	if text, errs, code := d.Shmctl(append([]string{"stop"}, groups...)...); code != 0 {
		d.t.Fatalf("stop: %s%s", text, errs)
	}
	q := must(d.Attach(shm.Options{Consume: []string{"jobs"}}).Queue("jobs"))
	var have []string
	for {
		m, err := q.TryReceive()
		if err != nil {
			break
		}
		have = append(have, string(m.Bytes()))
		check(m.Ack())
	}
	slices.Sort(have)
	var want []string
	for i := range estateMessages {
		want = append(want, fmt.Sprintf("message %d", i))
	}
	if !slices.Equal(have, want) {
		d.t.Errorf("the queue has %q, not %q", have, want)
	}
}

// adoptOrphans makes this process what PID 1 is: the parent of workers whose daemon has died.
func adoptOrphans(t *testing.T) {
	check(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	t.Cleanup(func() { check(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)) })
}

// reapedUser is deadUser, after who has become the parent of the dead process has reaped it: then its pidfd does not tell its pid any more.
func (d *domain) reapedUser() {
	user := d.pids("user.0")["user.0"]
	d.deadUser()
	for {
		if _, err := unix.Wait4(user, nil, unix.WALL, nil); err != unix.EINTR {
			return
		}
	}
}

// TestRosterKeptOut has a daemon die while its roster, or all segments, are not in the fd store: the next one finds them in its workers, and goes on with those. And an
// upgrade takes none of them out of the store, not for a moment.
func TestRosterKeptOut(t *testing.T) {
	adoptOrphans(t)
	d := newDomainOf(t, newFDStore(t), team{"stay", 2, ""}, team{"user", 1, useJobs})
	names := []string{"stay.0", "stay.1", "user.0"}
	var never atomic.Bool
	if err := d.settle(d.Cmd.Process.Pid, names, &never); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{"s0000", "s0001", "s"} { // the roster, the command segment, all
		pids := d.pids(names...)
		d.Kill()
		d.store.sync()
		d.store.mu.Lock()
		d.store.keep(func(e entry) bool { return !strings.HasPrefix(e.name, out) })
		d.store.mu.Unlock()
		if err := d.next(names, pids); err != nil {
			t.Fatalf("without %s: %v", out, err)
		}
		d.store.sync()
		d.store.mu.Lock()
		before := d.store.removals
		d.store.mu.Unlock()
		if text, errs, code := d.Shmctl("upgrade"); code != 0 {
			t.Fatalf("upgrade: %s%s", text, errs)
		}
		d.store.sync()
		d.store.mu.Lock()
		after := d.store.removals
		d.store.mu.Unlock()
		if after != before {
			t.Errorf("an upgrade took %d segments out of the fd store", after-before)
		}
	}
}
