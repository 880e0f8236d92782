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

// Unyielded returns how many times an end would not yield after yields that took so long.
func Unyielded(ns ...int64) int {
	r := newRegion("test", WaitAdaptive)
	defer r.hub.Close()
	for _, ns := range ns {
		r.yields.took(ns, mostUnyielded)
	}
	n := 0
	for !r.yield(new(spinner), mostUnyielded) {
		n++
	}
	return n
}

// Yields reports whether an end with a way to wait of its own yields.
func Yields(own Wait) bool {
	r, s := newRegion("test", WaitAdaptive), new(spinner)
	defer r.hub.Close()
	s.set(own)
	return r.yield(s, mostUnyielded)
}
