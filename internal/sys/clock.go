package sys

import (
	"time"

	"golang.org/x/sys/unix"
)

// MonotonicNs returns CLOCK_MONOTONIC in nanoseconds, the same clock that every process
// of this boot (and time namespace) reads, so that stamps in shared memory compare
// across processes; it agrees with clock_gettime to about a microsecond. It starts near
// zero at boot and stands still during suspend. Some 20 ns, no system call.
func MonotonicNs() int64 {
	return clockNs + int64(time.Since(clockBase))
}

// Go's time.Time carries CLOCK_MONOTONIC too, with an offset that it keeps to itself:
// clockNs is the kernel's reading at the instant clockBase.
var clockBase, clockNs = pairClocks()

// pairClocks reads both clocks next to each other, and takes the reading with the
// least time between its two ends, so that a preemption in the middle does not count.
func pairClocks() (base time.Time, ns int64) {
	best := time.Duration(1<<63 - 1)
	for range 16 {
		before := time.Now()
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			panic("sys: clock_gettime(CLOCK_MONOTONIC): " + err.Error()) // it cannot fail
		}
		took := time.Since(before)
		if took < best {
			best = took
			base, ns = before.Add(took/2), ts.Nano()
		}
	}
	return base, ns
}
