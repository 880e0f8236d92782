package protocol

import (
	"encoding/binary"
	"errors"
	"runtime"

	"github.com/shmd/shmd/internal/sys"
)

// LogOwner writes to an instance's log without a lock, and without a locked instruction: for one goroutine at a time. The LogWriter goes on
// working for all others, who pay for both:
//
//	owner                                others, who hold the writer's mutex
//	  inside = 1                           wanted = 1
//	  wanted? then as the others do        FenceAll
//	  write the record                     while inside == 1: let others run
//	  inside = 0                           write the record; wanted = 0
//
// FenceAll is a barrier in the owner's thread too, so that one of the two sees the other's store. A process that dies takes all three words with it.
type LogOwner struct{ w *LogWriter }

// ErrLogHeld: there is a LogOwner already.
var ErrLogHeld = errors.New("the log has a writer without a lock already: use that, or close it")

// Own takes the way without a lock. ErrLogHeld while there is a LogOwner that was not closed; where the kernel refuses membarrier, an error that wraps sys.ErrNoSys.
func (w *LogWriter) Own() (*LogOwner, error) {
	if err := sys.RegisterFence(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.owned {
		return nil, ErrLogHeld
	}
	w.owned = true
	return &LogOwner{w}, nil
}

// Close gives it back. Nothing else of the owner is under way, or follows.
func (o *LogOwner) Close() {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	o.w.owned = false
}

// keepOut waits until the owner does not write, and will not until wanted is 0. The mutex is held.
func (w *LogWriter) keepOut() {
	w.wanted.Store(1)
	sys.FenceAll()
	for w.inside.Load() != 0 { // for a record, if it is not taken from its processor meanwhile
		runtime.Gosched()
	}
}

// Write is LogWriter.Write.
func (o *LogOwner) Write(e *LogEntry) {
	w := o.w
	l := w.l
	body := uint64(len(e.Text)) + uint64(len(e.Attrs)) + uint64(len(e.Source))
	n := (SizeofWorkerRecord + body + 7) &^ 7
	sys.StorePlain(&w.inside, 1)
	if w.wanted.Load() != 0 || n > l.chunk() || body > MaxLogText {
		sys.StoreRelease(&w.inside, 0)
		w.Write(e)
		return
	}
	if n > w.end-w.head {
		w.begin()
	}
	at := w.head
	w.seq++
	b := l.ring[at&(uint64(len(l.ring))-1):][:n]
	binary.LittleEndian.PutUint64(b, n|uint64(uint32(e.Level))<<32)
	binary.LittleEndian.PutUint64(b[8:], w.seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(e.UnixNs))
	binary.LittleEndian.PutUint64(b[24:], uint64(len(e.Text))|uint64(len(e.Attrs))<<32)
	binary.LittleEndian.PutUint64(b[32:], uint64(len(e.Source))|uint64(w.pid)<<32)
	w.head = at + n
	fills := w.head-w.rung > uint64(len(l.ring))/2
	if fills {
		w.rung = w.head
	}
	putEntry(b, e, &l.info.Head, at+n, &w.inside) // B

	// D: the daemon makes a barrier here too (FenceAll), between its store and its look.
	if nap := LogNap(l.nap.Load()); nap == LogNapSleeps || nap == LogNapNaps && fills {
		l.wake(nap)
	}
}
