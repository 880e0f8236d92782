package daemon

import (
	"context"
	"fmt"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/shmd/shmd/pkg/protocol"
)

// notify tells systemd, if it listens.
func (d *Daemon) notify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		d.log.Warn("cannot tell systemd", "state", state, "error", err)
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
	if !d.ready && !d.stopping && len(d.readyGroups) == len(d.conf.Groups) {
		d.ready = true
		status = "READY=1\n" + status
	}
	if status != d.status {
		d.status = status
		d.notify(status)
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
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			d.post(func() { d.notify("WATCHDOG=1") })
		}
	}
}
