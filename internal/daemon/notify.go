package daemon

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"

	"github.com/shmd/shmd/pkg/protocol"
)

// notifier tells systemd, if it listens. The supervisor does not wait for it: a systemd that does not read makes the kernel block
// the sender.
type notifier struct {
	log  hclog.Logger
	mu   sync.Mutex
	say  []string      // what is still to be said, of each kind the latest
	wake chan struct{} // nil: nothing has been said yet
	done chan struct{}
}

// notify says something to systemd: "KIND=VALUE", and perhaps more lines.
func (n *notifier) notify(state string) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	kind, _, _ := strings.Cut(state, "=")
	n.mu.Lock()
	defer n.mu.Unlock()
	n.say = append(slices.DeleteFunc(n.say, func(s string) bool { return strings.HasPrefix(s, kind+"=") }), state)
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
			state := n.say[0]
			n.say = n.say[1:]
			n.mu.Unlock()
			if _, err := sd.SdNotify(false, state); err != nil {
				n.log.Warn("cannot tell systemd", "state", state, "error", err)
			}
		}
	}
}

// end waits a moment until all is said. Nothing may be said afterwards.
func (n *notifier) end() {
	if n.wake == nil {
		return
	}
	close(n.wake)
	select {
	case <-n.done:
	case <-time.After(time.Second):
	}
}

// reportStatus tells systemd how many workers are in which state, and that the region is ready once an instance of each group has
// been.
func (d *Daemon) reportStatus() {
	count := map[protocol.State]int{}
	for _, w := range d.workers {
		count[w.row.State]++
	}
	status := fmt.Sprintf("STATUS=%d workers", len(d.workers))
	sep := ": "
	for _, s := range []protocol.State{protocol.StateReady, protocol.StateStarting, protocol.StateStopping, protocol.StateBackoff, protocol.StateFailed, protocol.StateExited} {
		if count[s] > 0 {
			status += fmt.Sprintf("%s%d %v", sep, count[s], s)
			sep = ", "
		}
	}
	if status == d.status {
		return
	}
	d.status = status
	if !d.ready && !d.stopping && len(d.readyGroups) == len(d.conf.Groups) {
		d.ready = true
		status = "READY=1\n" + status
	}
	d.systemd.notify(status)
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
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			d.post(func() { d.systemd.notify("WATCHDOG=1") })
		}
	}
}
