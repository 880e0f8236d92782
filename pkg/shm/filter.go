package shm

import "github.com/shmd/shmd/pkg/protocol"

// FilterStatus is what a shim says of the filter that it runs.
type FilterStatus struct {
	Pid     int    // of the filter; 0: it does not run
	Stalled bool   // it does not answer
	Note    string // the reason of the worker's state, for people; cut at 192 bytes
}

// SetFilterStatus tells the daemon about the filter that this worker stands for. shmd's own shim calls it, from one goroutine at a
// time; for an outsider it does nothing.
func (r *Region) SetFilterStatus(s FilterStatus) {
	if r.page == nil || r.segments["group"].Lease() != nil {
		return
	}
	defer r.segments["group"].Release()
	stalled := uint32(0)
	if s.Stalled {
		stalled = 1
	}
	protocol.SetText(r.page.Note[:], s.Note)
	r.page.Stalled.Store(stalled)
	r.page.FilterPid.Store(uint32(s.Pid))
	r.group.Ring() // the daemon reads after it: what it met half-written it reads again
}
