package main

import (
	"time"
)

// ticks reads the cycle counter, which costs a fraction of time.Now and can be compared between CPUs.
func ticks() uint64

// pause tells the CPU that the caller spins.
func pause()

// tickNs measures how long a tick is, in ns.
func tickNs() float64 {
	begin, t := time.Now(), ticks()
	time.Sleep(200 * time.Millisecond) // longer is more exact: 200 ms give 1 part in a million
	elapsed, n := time.Since(begin), ticks()-t
	return float64(elapsed.Nanoseconds()) / float64(n)
}
