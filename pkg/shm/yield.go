package shm

import (
	"math"
	"sync/atomic"

	"github.com/shmd/shmd/internal/sys"
)

// Where a process has one CPU, looking again cannot help it: who is waited for runs on the same one, often, and has to get it. An end that has sent something, a
// request or an answer, and would sleep for the next message lets its peer run first, once. A caller then finds the answer when it runs again, and need not sleep and be
// woken. A server that was woken in the middle of its caller's wake-up gives the CPU back as soon as it has answered: what it does before it sleeps, with cold caches, the
// caller need not wait for.
//
// To the kernel a yield is a time slice that was used up. Beside a program that computes on the same CPU it may take that program's whole slice, thousands of times
// what it can save; so yields are timed, and after a slow one an end goes without for a thousand times: then it is about as fast as without all this. A server goes without for
// longer: if both yield such a program comes in between far more often than if only the caller does. One that nobody used costs a third of a microsecond, and is
// followed by 1, 3, 7, ... times without as long as nobody does.
type yields struct {
	sent  atomic.Bool   // by an end of a queue with one producer and one consumer, and the process has not yielded since
	pause atomic.Uint32 // after:16 | left:16: the next one in vain is followed by 2 * after + 1 times without; left are to come

	perNs atomic.Uint64 // ticks of sys.Yield a nanosecond, a float64; 0 until one was timed
	ticks uint64        // sys.Ticks and
	ns    int64         // sys.MonotonicNs when the process attached
}

const (
	mostUnyielded   = 1023    // of one that asks, or may
	serverUnyielded = 16383   // of one that serves calls
	slowYield       = 500_000 // ns
	vainYield       = 800     // ns: nobody has run; two switches and what is done between them take longer
)

// sent takes down that an end has sent something.
func (r *Region) sent() {
	if r.alone && !r.yields.sent.Load() { // a store costs more
		r.yields.sent.Store(true)
	}
}

// yield lets others run, if that has paid, and reports whether it did. The end waits as s says, and goes without most times after a slow one. The process has one CPU.
func (r *Region) yield(s *spinner, most uint32) bool {
	if r.how(s) != WaitAdaptive {
		return false
	}
	if p := r.yields.pause.Load(); p&0xffff != 0 {
		r.yields.pause.CompareAndSwap(p, p-1) // else another goroutine was here
		return false
	}
	y := &r.yields
	perNs := math.Float64frombits(y.perNs.Load())
	if perNs == 0 {
		perNs = y.rate()
	}
	y.took(int64(float64(sys.Yield())/perNs), most)
	return true
}

// rate finds out how fast sys.Ticks runs: once, some time after the process attached.
func (y *yields) rate() float64 {
	perNs := float64(max(sys.Ticks()-y.ticks, 1)) / float64(max(sys.MonotonicNs()-y.ns, 1))
	y.perNs.Store(math.Float64bits(perNs))
	return perNs
}

// took takes down whether a yield paid that took ns. After a suspension or a change of the CPU it may be any number, and one yield be taken for what it was not.
func (y *yields) took(ns int64, most uint32) {
	var after uint32
	switch p := y.pause.Load(); {
	case ns > slowYield:
		after = most
	case ns < vainYield:
		after = min(2*(p>>16)+1, mostUnyielded)
	case p == 0: // a store costs more
		return
	}
	y.pause.Store(after<<16 | after)
}
