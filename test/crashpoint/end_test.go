package crashpoint

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
)

// TestEnd kills a daemon while its region is stopped (shmctl stop), before messages to the fd store and before stores. The next daemon, with what systemd has then, ends as that one would have:
// with exit code 0, no worker, no new region, and at most the roster in the fd store, by which the next one would know as much.
func TestEnd(t *testing.T) {
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	count := newTally(t)
	defer count.report("a region stopped, daemon killed")
	adoptOrphans(t)
	d := newDomainOf(t, newFDStore(t), team{"stay", 2, ""}, team{"user", 1, useJobs})
	names := []string{"stay.0", "stay.1", "user.0"}
	var never atomic.Bool
	if err := d.settle(d.Cmd.Process.Pid, names, &never); err != nil {
		t.Fatal(err)
	}
	d.Stop()
	d.anew, d.ends0 = true, true
	d.stir = func() { d.Shmctl("stop") }
	round := func(at point) (*storeTracer, error) {
		x, err := d.traced(at, point{}, names)
		if err != nil {
			return x, err
		}
		if len(d.store.names()) == 0 { // systemd has emptied it
			if x.hit { // a store that another run has made may not come
				err = errors.New("nothing tells of the region that was stopped")
			}
			return x, errors.Join(err, d.noProcessBut(nil))
		}
		if err := d.finish(); err != nil {
			return x, err
		}
		if left := d.store.names(); !slices.Equal(left, []string{"s0000"}) {
			return x, fmt.Errorf("the region is stopped, and the fd store has %v", left)
		}
		d.store.drop() // as its unit is down
		return x, d.noProcessBut(nil)
	}
	x, err := round(point{})
	if err != nil {
		t.Fatal(err)
	}
	var points []point
	for _, p := range x.points {
		if strings.HasSuffix(p.what, stirredUp) {
			points = append(points, p)
		}
	}
	sent, stores := messagesOf(points)
	segments := slices.DeleteFunc(slices.Clone(sent), func(p point) bool { return !strings.Contains(p.what, "segment") })
	if !torture() {
		sent, stores = append(segments[1:], sent[len(sent)-1]), chosen(stores, 4)
	}
	for _, at := range append(slices.Clone(sent), stores...) {
		_, err := round(at)
		count.killed++
		if count.point(err, "killed %v", at); err != nil {
			return
		}
	}
	t.Logf("%d points", len(points))
}

// finish runs a daemon that is to end by itself, as the region was stopped.
func (d *domain) finish() error {
	argv := testregion.Activated([]string{filepath.Join(testregion.Binaries(d.t), "shmd"), "-c", d.Dir + "/shmd.toml"}, d.store.names())
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(append(os.Environ(), "RUNTIME_DIRECTORY="+d.Dir), d.store.env()...)
	cmd.ExtraFiles = d.store.files()
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return err
	}
	timer := time.AfterFunc(patienceWithDaemon, func() { cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil || strings.Contains(log.String(), "region created") {
		return fmt.Errorf("the next daemon did not just end: %w; its log:\n%s", err, log.String())
	}
	return nil
}
