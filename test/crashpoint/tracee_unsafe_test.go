package crashpoint

import _ "unsafe" // for linkname

// procPin keeps the scheduler of Go away from this goroutine: without it, a tracee that is stepped looks so slow to the
// runtime that it is preempted every few dozen instructions.
//
//go:linkname procPin runtime.procPin
func procPin() int
