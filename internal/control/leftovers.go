package control

import (
	"context"
	"fmt"
)

// What a dead daemon left running, and no other has come for.

// StopLeftovers stops what a dead daemon left running, as Stop does without a daemon. Errors: ErrDaemonAlive; those of Stop.
func StopLeftovers(ctx context.Context, l *Living) (Report, error) {
	if d := l.Daemon(); d.Alive {
		return Report{}, fmt.Errorf("region %q: %w (pid %d): stop it first (shmctl -r %s stop)", l.Region, ErrDaemonAlive, d.Pid, l.Region)
	}
	return Stop(ctx, l.Set, StopOptions{Known: l.Own})
}

// Dismiss ends the processes of a region that no daemon has come for, as StopLeftovers does, and leaves the region wanted. Errors: as StopLeftovers.
func Dismiss(ctx context.Context, l *Living) (Report, error) {
	if d := l.Daemon(); d.Alive {
		return Report{}, fmt.Errorf("region %q: %w (pid %d)", l.Region, ErrDaemonAlive, d.Pid)
	}
	return Stop(ctx, l.Set, StopOptions{Known: l.Own, Dismiss: true})
}
