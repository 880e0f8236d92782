package supervise

import (
	"fmt"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// The watchdog looks at the heartbeat of a ready process twice in its time. It asks at each look, and the process answers at its next call
// of the library; one that has not answered for the whole time, and was not asleep, is hung. So a process is never taken for hung that was
// silent for less than the time, and always when it was for one and a half. While a process sleeps there is no timer: it rings when it wakes up.

// watch sets the timer of the next look.
func (m *Machine) watch(w *instance) { m.setTimer(w, w.group.Watchdog/2) }

// pulse is what a look has shown.
func (m *Machine) pulse(w *instance, p Pulse) {
	limit := w.group.Watchdog
	late := m.now.Sub(w.due) > limit/4 // this daemon was held up, and so perhaps was everything
	switch {
	case w.state != protocol.StateReady || limit == 0:
	case p.Asleep:
		w.silent = time.Time{}
	case p.Alive || w.silent.IsZero() || late:
		w.silent = m.now
		m.watch(w)
	case m.now.Sub(w.silent) < limit:
		m.setTimer(w, min(limit/2, limit-m.now.Sub(w.silent)))
	default:
		why := fmt.Sprintf("no heartbeat for %v", m.now.Sub(w.silent).Round(time.Millisecond))
		m.hold(w, false)
		if w.silent.Sub(w.started) >= Steady { // until it hung
			w.delay = 0
		}
		w.stage, w.cause = aborted, CauseHang
		m.change(w, protocol.StateStopping, CauseHang, why)
		m.do(w, Action{Do: Abort, Why: why})
		m.setTimer(w, w.group.StopTimeout)
	}
}

// awake goes on with the looks at a process that was asleep.
func (m *Machine) awake(w *instance) {
	if w.state == protocol.StateReady && w.timer == 0 && w.group.Watchdog > 0 {
		w.silent = m.now // it rang, which is a sign of life; a stopped one has the whole time from now on
		m.watch(w)
	}
}
