package shm

import (
	"testing"
	"time"
)

// Spare is spare, for tests.
func (r *Region) Spare() bool { return r.spare() }

// SetPatience has Attach wait so long for the daemon until the test ends.
func SetPatience(t *testing.T, d time.Duration) {
	before := patience
	patience = d
	t.Cleanup(func() { patience = before })
}
