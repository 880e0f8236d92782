package supervise

import (
	"slices"
	"strings"

	"github.com/shmd/shmd/pkg/protocol"
)

// End says that everything is to stop: of groups that come after each other the last comes first. Desired of each instance follows.
func (m *Machine) End() { m.ending = true }

// waitsFor says what an instance has to wait for before it is started; "" if it may start.
func (m *Machine) waitsFor(w *instance) (Cause, string) {
	if l := w.group.leader; l != nil {
		return CauseReset, l.name + isReset
	}
	for _, i := range w.group.After {
		if m.groups[i].good == 0 {
			return CauseWait, "waits for group " + m.groups[i].Name
		}
	}
	return "", ""
}

// good reports whether an instance is one for which what comes after its group may start: it is ready, or ended by itself as it should.
func (w *instance) good() bool { return w.state == protocol.StateReady || w.done }

// recount keeps the group's count of good instances, given whether this one was good before.
func (w *instance) recount(was bool) {
	switch is := w.good(); {
	case is && !was:
		w.group.good++
	case was && !is:
		w.group.good--
	}
}

// neededBy reports whether another instance is to stop before w does: one of a group that comes after w's, and is to stop too.
func (m *Machine) neededBy(w *instance) bool {
	for _, g := range m.groups {
		for _, i := range g.After {
			if m.groups[i] != w.group {
				continue
			}
			for _, o := range g.members {
				if o.process && (m.ending || !o.desired.Run) {
					return true
				}
			}
		}
	}
	return false
}

// hold takes down whether an instance is to stop later.
func (m *Machine) hold(w *instance, held bool) {
	switch {
	case held && !w.held:
		m.blocked++
	case !held && w.held:
		m.blocked--
	}
	w.held = held
}

// reset ends all instances of a group after a crash of one, if that is its policy. It comes before what becomes of that one is written down: a daemon that dies in between leaves a row
// that says that it runs, so the next one sees the crash.
func (m *Machine) reset(w *instance) {
	if !w.group.ResetGroup || w.group.leader != nil {
		return
	}
	w.group.leader = w
	m.blocked++
	for _, o := range w.group.members {
		if o != w && o.process && !o.preparing {
			m.stop(o, CauseReset, w.name+isReset)
		}
	}
}

// isReset ends the reason of an instance that stops, or waits, because another one crashed, whose name is before it. A next daemon goes on by it.
const isReset = " crashed: its group is reset"

// resetBy names the instance whose crash resets the group, by the state and the reason of another one; "" if none does.
func resetBy(state protocol.State, reason string) string {
	if name, ok := strings.CutSuffix(reason, isReset); ok && (state == protocol.StateStopping || state == protocol.StateWaiting) {
		return name
	}
	return ""
}

// resume goes on with the reset that an adopted instance was in, unless the one that crashed runs again.
func (m *Machine) resume(w *instance) {
	i := slices.IndexFunc(w.group.members, func(o *instance) bool { return o.name == w.resetBy && !o.process && o != w })
	if w.resetBy == "" || i < 0 || !w.group.ResetGroup {
		return
	}
	l := w.group.members[i]
	if w.group.leader == nil {
		w.group.leader = l
		m.blocked++
		for _, o := range w.group.members { // who was not asked before that daemon died
			if o.process && !o.preparing {
				m.stop(o, CauseReset, l.name+isReset)
			}
		}
	}
	if w.state == 0 && w.group.leader == l { // it waited, or was about to
		m.change(w, protocol.StateWaiting, CauseReset, l.name+isReset)
	}
}

// release goes on with what was waiting for something that may have happened.
func (m *Machine) release() {
	for _, g := range m.groups {
		m.endReset(g)
	}
	for _, w := range m.instances {
		switch {
		case w.held && !m.neededBy(w):
			w.unwanted = true
			m.stop(w, CauseStop, "stop asked for")
		case w.state == protocol.StateWaiting && !w.preparing && w.desired.Run:
			m.start(w)
		}
	}
}

// endReset ends the reset of a group when no instance of it has a process any more and the one that crashed is not in backoff any more.
// If that one is given up, so are the others: without it the group is not whole.
func (m *Machine) endReset(g *group) {
	l := g.leader
	if l == nil || l.state == protocol.StateBackoff || slices.ContainsFunc(g.members, func(w *instance) bool { return w.process || w.preparing }) {
		return
	}
	g.leader = nil
	m.blocked--
	if l.state != protocol.StateFailed {
		return
	}
	for _, w := range g.members {
		if w.state == protocol.StateWaiting {
			m.change(w, protocol.StateFailed, CauseCrashLimit, l.name+" was given up, and with it its group: "+l.reason)
		}
	}
}
