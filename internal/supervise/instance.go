package supervise

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// reconcile takes the next step to what is wanted of an instance.
func (m *Machine) reconcile(w *instance) {
	run, restart := w.desired.Run, w.desired.Restart != w.restarted
	if run {
		m.hold(w, false)
	}
	switch {
	case w.preparing: // the answer comes first
	case w.process && !run && w.stage == notStopping && m.neededBy(w):
		m.hold(w, true)
	case w.process && !run:
		w.unwanted = true
		m.stop(w, CauseStop, "stop asked for")
	case w.process && restart:
		m.stop(w, CauseRestart, "restart asked for")
	case w.process:
	case !run:
		if w.state != protocol.StateExited {
			m.stopTimer(w)
			m.change(w, protocol.StateExited, CauseStop, Stopped)
		}
	case restart:
		w.restarted = w.desired.Restart
		m.forgive(w)
		m.start(w)
	case w.state == protocol.StateExited && w.reason == Stopped, w.state == 0: // it was stopped or is new, and is wanted now
		m.start(w)
	}
}

// start begins a start of an instance that has no process, as soon as it may. How it goes on depends on the answer.
func (m *Machine) start(w *instance) {
	m.stopTimer(w)
	if cause, why := m.waitsFor(w); why != "" {
		if w.state != protocol.StateWaiting || w.reason != why {
			m.change(w, protocol.StateWaiting, cause, why)
		}
		return
	}
	w.preparing = true
	m.do(w, Action{Do: Prepare})
}

// ready takes an instance from starting to ready.
func (m *Machine) ready(w *instance) {
	if w.state != protocol.StateStarting {
		return
	}
	m.stopTimer(w)
	m.change(w, protocol.StateReady, CauseReady, "")
	m.watch(w)
}

// stop asks a process to quit.
func (m *Machine) stop(w *instance, cause Cause, why string) {
	if w.stage != notStopping || w.ended {
		return
	}
	m.hold(w, false)
	w.stage, w.cause = flagged, cause
	m.change(w, protocol.StateStopping, cause, why)
	m.do(w, Action{Do: SetFlag})
	m.setTimer(w, w.group.StopTimeout)
}

// escalate takes the next, harder stage of a stop.
func (m *Machine) escalate(w *instance, why string) {
	switch w.stage {
	case flagged:
		w.stage = terminated
		m.do(w, Action{Do: Terminate, Why: why})
		m.setTimer(w, w.group.StopTimeout)
	case aborted, terminated:
		w.stage = killed
		m.stopTimer(w)
		m.do(w, Action{Do: Kill, Why: why})
	}
}

// dueNow does what the timer of the state was set for.
func (m *Machine) dueNow(w *instance) {
	switch {
	case w.state == protocol.StateStarting:
		m.stop(w, CauseNotReady, fmt.Sprintf("not ready after %v", w.group.ReadyTimeout))
	case w.state == protocol.StateReady:
		m.do(w, Action{Do: Look})
	case w.stage == flagged:
		m.escalate(w, fmt.Sprintf("it did not obey the quit flag within %v", w.group.StopTimeout))
	case w.stage == aborted:
		m.escalate(w, fmt.Sprintf("it did not end within %v of SIGABRT", w.group.StopTimeout))
	case w.stage == terminated:
		m.escalate(w, fmt.Sprintf("it did not obey SIGTERM within %v", w.group.StopTimeout))
	case w.state == protocol.StateBackoff:
		w.restarts++
		m.start(w)
	}
}

// altered sets the timer of an instance again whose time is another in the new policy.
func (m *Machine) altered(w *instance, before *Policy) {
	p := w.group
	switch {
	case w.state == protocol.StateStarting && w.process && p.ReadyTimeout != before.ReadyTimeout:
		m.setTimer(w, p.ReadyTimeout)
	case w.state == protocol.StateReady && p.Watchdog != before.Watchdog:
		w.silent = time.Time{}
		m.watch(w)
	case w.state == protocol.StateStopping && w.stage != killed && !w.ended && p.StopTimeout != before.StopTimeout:
		m.setTimer(w, p.StopTimeout)
	}
}

// exited decides what becomes of an instance whose process has ended.
func (m *Machine) exited(w *instance, e Exited) {
	m.stopTimer(w)
	m.hold(w, false)
	m.do(w, Action{Do: Repair}) // before anything else is started
	stopped, took := w.stage != notStopping, m.now.Sub(w.started)
	signalled := !stopped && e.Flagged // a stop, and a start before the stop was seen here
	w.process, w.ended, w.stage = false, false, notStopping
	switch {
	case !e.Run:
		m.change(w, protocol.StateExited, CauseStop, Stopped)
	case w.unwanted || signalled || e.Restart != w.restarted: // and is wanted again by now
		w.restarts++
		w.restarted = e.Restart
		m.forgive(w)
		m.start(w)
	case stopped && w.cause == CauseReset:
		w.restarts++
		m.start(w)
	case e.Never != "":
		m.again(w, CauseNoStart, e.Never)
	case stopped: // it was not ready in time, or it hung: however it ended, it failed
		if !e.Clean {
			m.reset(w)
		}
		m.again(w, w.cause, w.reason+"; "+e.How)
	case w.group.Restart == protocol.RestartNever, w.group.Restart == protocol.RestartOnFailure && e.Clean:
		m.change(w, protocol.StateExited, CauseExit, e.How)
		w.done = e.Clean
		w.recount(false)
	case e.Clean && took >= Steady:
		w.restarts++
		m.start(w)
	default:
		if took >= Steady {
			w.delay = 0
		}
		if !e.Clean {
			m.reset(w)
		}
		m.again(w, CauseExit, e.How)
	}
}

// again starts an instance again after a delay that doubles from try to try, or gives it up when it ended too often.
func (m *Machine) again(w *instance, cause Cause, reason string) {
	p := w.group
	if p.Restart == protocol.RestartNever {
		m.change(w, protocol.StateFailed, cause, reason)
		return
	}
	w.crashes = slices.DeleteFunc(w.crashes, func(t time.Time) bool { return m.now.Sub(t) > p.CrashWindow })
	w.crashes = append(w.crashes, m.now)
	if p.CrashLimit > 0 && len(w.crashes) > p.CrashLimit {
		m.change(w, protocol.StateFailed, CauseCrashLimit, fmt.Sprintf("ended %d times within %v, last: %s", len(w.crashes), p.CrashWindow, reason))
		return
	}
	w.delay = min(max(2*w.delay, p.BackoffMin), p.BackoffMax)
	delay := w.delay + time.Duration(m.random.Int64N(int64(w.delay)/4+1)) // jitter: not all at once
	m.change(w, protocol.StateBackoff, cause, fmt.Sprintf("%s%s%v", reason, startsIn, delay.Round(time.Millisecond)))
	m.setTimer(w, delay)
}

// startsIn is before what is true for a moment of the reason of an instance that waits to be started again.
const startsIn = "; starts again in "

// Lasting is a reason without what is true for a moment only, for who keeps it longer than the instance does.
func Lasting(reason string) string {
	reason, _, _ = strings.Cut(reason, startsIn)
	return reason
}

// forgive forgets the series of crashes: somebody asked for a start.
func (m *Machine) forgive(w *instance) { w.crashes, w.delay = nil, 0 }

// adopt goes on with an instance that an earlier daemon supervised.
func (m *Machine) adopt(w *instance, a Adopted) {
	was := w.good()
	w.state, w.reason, w.restarts, w.restarted, w.started = a.State, a.Reason, a.Restarts, a.Restarted, a.Since
	w.process, w.ended = a.Alive || a.Ended, a.Ended
	w.done = a.State == protocol.StateExited && a.Reason != Stopped && a.Clean
	w.recount(was)
	w.resetBy = resetBy(a.State, a.Reason)
	switch {
	case a.Ended && w.resetBy != "" && a.State == protocol.StateStopping:
		w.stage, w.cause = flagged, CauseReset
	case a.Ended:
	case a.Alive && a.State == protocol.StateStopping && w.resetBy != "":
		w.unwanted = !a.Run
		m.stop(w, CauseAdoption, a.Reason)
		w.cause = CauseReset
	case a.Alive && a.State == protocol.StateReady:
		m.watch(w)
	case a.Alive && a.State == protocol.StateStopping: // the clock of the stop begins anew
		w.unwanted = !a.Run
		m.stop(w, CauseAdoption, a.Reason)
	case a.Alive:
		if a.State != protocol.StateStarting {
			m.change(w, protocol.StateStarting, CauseAdoption, "")
		}
		m.setTimer(w, w.group.ReadyTimeout)
	case a.State == protocol.StateBackoff:
		m.setTimer(w, max(w.group.BackoffMin, time.Millisecond))
	case a.State != protocol.StateExited && a.State != protocol.StateFailed: // it waited, or the daemon died in the middle of a start that had not come to a process
		was := w.good()
		w.state = 0
		w.recount(was)
	}
}

// change puts an instance into a state.
func (m *Machine) change(w *instance, to protocol.State, cause Cause, reason string) {
	c := Change{Worker: w.id, From: w.state, To: to, Cause: cause, Reason: reason, At: m.now}
	if c.From == protocol.StateWaiting {
		m.blocked--
	}
	if to == protocol.StateWaiting {
		m.blocked++
	}
	was := w.good()
	w.state, w.reason, w.silent, w.done = to, reason, time.Time{}, false
	w.recount(was)
	m.do(w, Action{Do: Write, Change: c, Restarts: w.restarts, Restarted: w.restarted})
}

// setTimer sets the instance's timer, instead of one that is set. 0: no timer.
func (m *Machine) setTimer(w *instance, after time.Duration) {
	m.stopTimer(w)
	if after <= 0 {
		return
	}
	if m.timers++; m.timers == 0 { // it went once around
		m.timers++
	}
	w.timer, w.due = m.timers, m.now.Add(after)
	m.do(w, Action{Do: SetTimer, Timer: w.timer, After: after})
}

func (m *Machine) stopTimer(w *instance) {
	if w.timer != 0 {
		m.do(w, Action{Do: StopTimer, Timer: w.timer})
		w.timer = 0
	}
}

func (m *Machine) do(w *instance, a Action) {
	a.Worker = w.id
	m.out = append(m.out, a)
}
