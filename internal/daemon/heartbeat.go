package daemon

import (
	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// The daemon's part of the watchdog; pkg/shm (beat.go) has the worker's, internal/supervise (hang.go) decides.

// look reads a worker's heartbeat and asks for another. A worker that sleeps in the library is asked to ring when it does not any more, so that
// nobody has to look at it until then. A worker that a signal stopped sleeps on and cannot ring: it counts as awake.
func (d *Daemon) look(w *worker) supervise.Pulse {
	page, p := w.page(), w.proc
	ask := page.Ask.Load()
	alive := page.Answered.Load() == ask
	next := ask&^1 + 2
	p.resting = false
	if page.HeartbeatNs.Load() == 0 || page.Asleep.Load() > 0 && !p.suspended { // never attached, or asleep
		page.Ask.Store(next | 1)                                                    // A
		if page.HeartbeatNs.Load() == 0 || page.Asleep.Load() > 0 && !p.suspended { // B
			p.resting = true
			return supervise.Pulse{Asleep: true}
		}
		return supervise.Pulse{Alive: true} // it woke up meanwhile
	}
	if alive {
		page.Ask.Store(next)
	}
	return supervise.Pulse{Alive: alive}
}

// noticeAwake tells the machine that a worker has woken up and rung.
func (d *Daemon) noticeAwake(w *worker) {
	if page := w.page(); w.proc.resting && page.Answered.Load() == page.Ask.Load() {
		w.proc.resting = false
		d.step(w, supervise.Awake{})
	}
}

// noticeStops takes down which workers a signal has stopped, or made go on. The kernel tells the parent only: of a worker that an earlier daemon
// started nobody knows it.
func (d *Daemon) noticeStops() {
	for {
		pid, stopped, ok := sys.StoppedChild()
		if !ok {
			return
		}
		for _, w := range d.workers {
			if w.proc == nil || w.proc.pid != pid || w.proc.adopted {
				continue
			}
			if w.proc.suspended = stopped; stopped && w.row.State == protocol.StateReady {
				d.log.Warn("a signal has stopped a worker", "worker", w.row.Name, "pid", pid)
				w.proc.resting = false
				d.step(w, supervise.Awake{})
			}
		}
	}
}
