//go:build amd64 || arm64

package sys

// Ticks reads the counter of the processor that runs at a constant rate (the TSC, CNTVCT_EL0): a few nanoseconds and one line of code, where MonotonicNs goes
// through several places that a thread which has slept finds in no near cache. The rate is the machine's own, and the counters of two CPUs may differ: it is good
// for short times on one CPU, and for a decision that may be wrong once.
//
//go:noescape
func Ticks() uint64

// Yield lets a thread run that waits for this CPU, and takes a fraction of a microsecond if there is none. It returns how long it took, in Ticks. The kernel counts
// it as a whole time slice that the caller has had: beside threads that compute, who yields often gets less than its share. The scheduler is not told: it never
// blocks.
//
//go:noescape
func Yield() (ticks uint64)
