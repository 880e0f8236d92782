package daemon

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// notifier tells systemd, if it listens. The supervisor does not wait for it: a systemd that does not read makes the kernel block
// the sender.
type notifier struct {
	log  hclog.Logger
	mu   sync.Mutex
	say  []saying      // what is still to be said; of what is no matter of the fd store, of each kind the latest
	wake chan struct{} // nil: nothing has been said yet
	done chan struct{}
	over bool            // nothing is said any more
	held map[string]bool // names that the fd store has, or will have when all is said

	check    func(context.Context) // looks whether the fd store has them
	checks   bool                  // it is about to
	checked  time.Time             // when it did last
	checking sync.WaitGroup        // while it looks
	endCheck func()                // makes it end at once
}

// A saying is one datagram, with copies of descriptors.
type saying struct {
	text  string
	files []*os.File
}

// notify says something to systemd: "KIND=VALUE", and perhaps more lines.
func (n *notifier) notify(state string) {
	kind, _, _ := strings.Cut(state, "=")
	n.enqueue(saying{text: state}, func(s saying) bool { return strings.HasPrefix(s.text, kind+"=") })
}

// store puts a descriptor into systemd's fd store, under a name of its own. FDPOLL=0: it stays when its other end or its process is
// gone, until it is removed.
func (n *notifier) store(name string, f *os.File) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	own, err := sys.Dup(f)
	if err != nil {
		n.log.Warn("cannot put a descriptor into the fd store", "name", name, "error", err)
		return
	}
	n.enqueue(saying{"FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, []*os.File{own}}, nil)
	n.holds(name, true) // after it: what is held is said before a barrier that is asked for then
}

// holds notes that the fd store has a name, or not.
func (n *notifier) holds(name string, yes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.held == nil {
		n.held = map[string]bool{}
	}
	if yes {
		n.held[name] = true
		if n.check != nil && !n.checks { // a while after the first: more will follow
			n.checks = true
			time.AfterFunc(max(time.Second, time.Minute-time.Since(n.checked)), n.checkNow)
		}
	} else {
		delete(n.held, name)
	}
}

// checkNow has the fd store looked at, unless the notifier ends.
func (n *notifier) checkNow() {
	n.mu.Lock()
	n.checks, n.checked = false, time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if n.endCheck = cancel; n.over {
		n.mu.Unlock()
		return
	}
	n.checking.Add(1)
	n.mu.Unlock()
	defer n.checking.Done()
	n.check(ctx)
}

// has reports whether the fd store has a name, or will have it.
func (n *notifier) has(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held[name]
}

// all are the names that the fd store should have.
func (n *notifier) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.held))
}

// remove takes what has the name out of the fd store.
func (n *notifier) remove(name string) {
	n.holds(name, false)
	n.enqueue(saying{text: "FDSTOREREMOVE=1\nFDNAME=" + name}, nil)
}

// enqueue says something when it is its turn, instead of what it replaces.
func (n *notifier) enqueue(what saying, replaces func(saying) bool) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.over {
		for _, f := range what.files {
			f.Close()
		}
		return
	}
	if replaces != nil {
		n.say = slices.DeleteFunc(n.say, replaces)
	}
	n.say = append(n.say, what)
	if n.wake == nil {
		n.wake, n.done = make(chan struct{}, 1), make(chan struct{})
		go n.run()
	}
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *notifier) run() {
	defer close(n.done)
	for range n.wake {
		for {
			n.mu.Lock()
			if len(n.say) == 0 {
				n.mu.Unlock()
				break
			}
			what := n.say[0]
			n.say = n.say[1:]
			n.mu.Unlock()
			if err := sys.SendDatagram(os.Getenv("NOTIFY_SOCKET"), []byte(what.text), what.files...); err != nil {
				n.log.Warn("cannot tell systemd", "state", what.text, "error", err)
			}
			for _, f := range what.files {
				f.Close()
			}
		}
	}
}

// flush waits until systemd has dealt with all that was said: it closes the descriptor of BARRIER=1 when it has.
func (n *notifier) flush(ctx context.Context, within time.Duration) error {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	r, w, err := sys.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	r.SetReadDeadline(time.Now().Add(within))
	defer context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })()
	n.enqueue(saying{"BARRIER=1", []*os.File{w}}, nil)
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		return fmt.Errorf("systemd has not read within %v what it was told: try again later", within)
	}
	return nil
}

// end waits a moment until all is said and systemd has dealt with it (BARRIER=1: it closes the descriptor when it has). Nothing may be said
// afterwards, and no process lives that looked after the fd store.
func (n *notifier) end() {
	if n.wake == nil {
		return
	}
	deadline := time.Now().Add(lastWords)
	r, w, err := sys.Pipe()
	if err == nil {
		n.enqueue(saying{"BARRIER=1", []*os.File{w}}, nil)
	}
	n.mu.Lock()
	n.over = true
	close(n.wake)
	if n.endCheck != nil {
		n.endCheck()
	}
	n.mu.Unlock()
	n.checking.Wait()
	select {
	case <-n.done:
	case <-time.After(time.Until(deadline)):
	}
	if err == nil {
		r.SetReadDeadline(deadline)
		r.Read(make([]byte, 1))
		r.Close()
	}
}

// reportStatus tells systemd how many workers are in which state, which groups are late, and that the region is ready once systemd need
// not wait for it any more (startup.go).
func (d *Daemon) reportStatus() {
	count := map[protocol.State]int{}
	workers := 0
	for _, w := range d.workers {
		if !w.gone() {
			count[w.row.State]++
			workers++
		}
	}
	status := fmt.Sprintf("STATUS=%d workers", workers)
	sep := ": "
	for _, s := range []protocol.State{protocol.StateReady, protocol.StateStarting, protocol.StateStopping, protocol.StateWaiting, protocol.StateBackoff, protocol.StateFailed, protocol.StateExited} {
		if count[s] > 0 {
			status += fmt.Sprintf("%s%d %v", sep, count[s], s)
			sep = ", "
		}
	}
	if d.refused != nil {
		status += "; the configuration is refused, and the one before holds: see the log"
	}
	over := false
	if !d.stopping {
		var late string
		over, late = d.startOver()
		status += late
	}
	isReady := over && !d.ready
	if status == d.status && !isReady {
		return
	}
	d.status = status
	if isReady {
		d.ready = true
		status = "READY=1\n" + status
	}
	d.systemd.notify(status)
}

// sayReady tells systemd that the start is over, before an end in order that comes before that: a daemon that exits with 0 and has never been ready counts as
// failed (result "protocol"), and Restart= would bring back the region that somebody has stopped.
func (d *Daemon) sayReady() {
	if !d.ready {
		d.ready = true
		d.systemd.notify("READY=1")
	}
}

// watchdogInterval returns how often systemd wants a sign of life, 0 for never.
func watchdogInterval() time.Duration {
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		return 0
	}
	return interval / 2
}

// watchdog gives the sign of life through the supervisor, so that a supervisor that hangs is noticed.
func (d *Daemon) watchdog(ctx context.Context, interval time.Duration) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		d.post(func() { d.systemd.notify("WATCHDOG=1") }) // at once: an upgrade is no reason to miss one
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}
