package supervise

import (
	"slices"
	"strings"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// This is what the daemon and its processes are in the simulation.

// do carries an action out, as internal/daemon does.
func (s *world) do(w *simWorker, a Action) {
	s.note("    %d %v %v %q%s %v", a.Worker, a.Do, a.Change.To, a.Change.Reason, a.Why, a.After)
	switch a.Do {
	case Write:
		s.write(w, a)
	case Prepare:
		s.prepare(w)
	case Launch:
		s.launch(w)
	case SetFlag:
		s.setFlag(w)
		if s.ending && w.row.reason == "stop asked for" {
			s.lastFirst(w)
		}
		if w.proc != nil && w.proc.deaf {
			s.answer(w, Deaf{})
		}
	case Look:
		p := w.proc
		if p == nil {
			s.fail(w, "look at no process")
			return
		}
		if p.hung || p.busy {
			s.answer(w, Pulse{Alive: p.answered})
			p.answered = !p.hung
		} else {
			p.ring = true
			s.answer(w, Pulse{Asleep: true})
		}
	case Abort:
		p := w.proc
		s.seen["hang"]++
		switch silent := s.now.Sub(p.hungAt); {
		case !p.hung:
			s.fail(w, "aborted, and is not hung")
		case silent < w.group.policy.Watchdog:
			s.fail(w, "aborted after a silence of %v", silent)
		}
		p.aborted = true
		s.die(w, p, s.span(0, time.Second), s.chance(0.7), false)
	case Terminate:
		s.die(w, w.proc, s.span(0, time.Second), !w.proc.stubborn, s.chance(0.5))
	case Kill:
		s.seen["kill"]++
		s.die(w, w.proc, s.span(0, 10*time.Millisecond), true, false)
	case Repair:
		s.repair(w)
	case SetTimer:
		s.setTimer(w, a)
	case StopTimer:
		if _, ok := s.timers[a.Timer]; !ok {
			s.fail(w, "stops a timer that is not set")
		}
		delete(s.timers, a.Timer)
		w.timer = 0
	}
}

func (s *world) setTimer(w *simWorker, a Action) {
	if w.timer != 0 {
		s.fail(w, "sets a second timer")
	}
	s.timers[a.Timer], w.timer, w.due = w.id, a.Timer, s.now.Add(a.After)
	m := s.m
	if p := w.group.policy; w.row.state == protocol.StateBackoff { // the bounds of the backoff, and that it doubles
		if a.After < p.BackoffMin || a.After > p.BackoffMax*5/4 || a.After < min(w.last*2*4/5, p.BackoffMax) {
			s.fail(w, "starts again after %v, %v the time before", a.After, w.last)
		}
		if w.anew && a.After > p.BackoffMin*5/4 {
			s.fail(w, "starts again after %v, as one of a series, and ran for %v or more", a.After, Steady)
		}
		if w.anew {
			s.seen["anew"]++
		}
		if !s.partway { // else it is the least there is, whatever it was
			w.last = a.After
		}
	}
	s.after(a.After+s.span(0, time.Millisecond), func() {
		if s.m != m {
			return
		}
		_, set := s.timers[a.Timer]
		if !set && s.chance(0.9) { // the rest is late: it was on its way when it was stopped
			return
		}
		if delete(s.timers, a.Timer); w.timer == a.Timer {
			w.timer = 0
		}
		s.tell(w, Due{a.Timer})
	})
}

// legal are the changes of state that there are, from 0 on.
var legal = map[protocol.State][]protocol.State{
	0: {protocol.StateStarting, protocol.StateWaiting, protocol.StateExited, protocol.StateBackoff, protocol.StateFailed},
	protocol.StateStarting: {protocol.StateReady, protocol.StateStopping, protocol.StateExited, protocol.StateBackoff, protocol.StateFailed, protocol.StateWaiting,
		protocol.StateStarting},
	protocol.StateReady:    {protocol.StateStopping, protocol.StateExited, protocol.StateBackoff, protocol.StateFailed, protocol.StateStarting, protocol.StateWaiting},
	protocol.StateStopping: {protocol.StateExited, protocol.StateBackoff, protocol.StateFailed, protocol.StateStarting, protocol.StateWaiting},
	protocol.StateExited:   {protocol.StateStarting, protocol.StateWaiting, protocol.StateBackoff, protocol.StateFailed, protocol.StateExited},
	protocol.StateBackoff:  {protocol.StateStarting, protocol.StateWaiting, protocol.StateBackoff, protocol.StateFailed, protocol.StateExited},
	protocol.StateFailed:   {protocol.StateStarting, protocol.StateWaiting, protocol.StateBackoff, protocol.StateFailed, protocol.StateExited},
	protocol.StateWaiting:  {protocol.StateStarting, protocol.StateWaiting, protocol.StateBackoff, protocol.StateFailed, protocol.StateExited},
}

func (s *world) write(w *simWorker, a Action) {
	c := a.Change
	if c.From != w.row.state && c.From != 0 || c.Cause != CauseAdoption && !slices.Contains(legal[c.From], c.To) {
		s.fail(w, "from %v (the row says %v) to %v because of %v", c.From, w.row.state, c.To, c.Cause)
	}
	if c.Cause == "" || c.At != s.now {
		s.fail(w, "a change without a cause or time: %+v", c)
	}
	if a.Restarted != w.row.restarted { // somebody asked for it
		w.series, w.last = nil, 0
	}
	w.row.state, w.row.reason, w.row.since, w.row.restarts, w.row.restarted, w.row.id = c.To, c.Reason, c.At, a.Restarts, a.Restarted, w.held
	switch c.To {
	case protocol.StateBackoff:
		if w.goesOn {
			s.fail(w, "was stopped by a reset that another daemon went on with, and waits as after a crash")
		}
		s.seen["backoff"]++
		window := w.group.policy.CrashWindow
		w.series = slices.DeleteFunc(w.series, func(t time.Time) bool { return s.now.Sub(t) > window })
		if w.series = append(w.series, s.now); w.group.policy.CrashLimit > 0 && len(w.series) > w.group.policy.CrashLimit {
			s.fail(w, "is started again after %d failures within %v", len(w.series), window)
		}
	case protocol.StateFailed:
		s.seen["failed"]++
	case protocol.StateWaiting:
		s.seen["waiting"]++
	}
	switch {
	case c.From == protocol.StateBackoff || c.From == protocol.StateWaiting || c.To == protocol.StateBackoff:
	case c.To == protocol.StateStarting, c.To == protocol.StateWaiting, c.To == protocol.StateExited: // somebody asked for it, or it ran long
		w.series, w.last = nil, 0
	}
	if c.Cause == CauseReset && c.To == protocol.StateStopping {
		s.seen["reset"]++
		w.group.old = append(w.group.old, w.proc)
	}
	if c.To == protocol.StateReady || c.To == protocol.StateStopping {
		if w.proc == nil {
			s.fail(w, "%v without a process", c.To)
		}
		return
	}
	if c.To != protocol.StateStarting && w.proc != nil {
		s.fail(w, "%v with a process", c.To)
	}
}

func (s *world) prepare(w *simWorker) {
	w.goesOn, w.anew = false, false
	for _, before := range w.group.policy.After {
		if g := s.groups[before]; !slices.ContainsFunc(g.workers, func(o *simWorker) bool {
			return o.row.state == protocol.StateReady || o.row.state == protocol.StateExited && o.row.reason != Stopped && o.row.clean
		}) {
			s.fail(w, "is prepared before group %s is ready", g.policy.Name)
		}
	}
	if w.row.state != protocol.StateBackoff && w.row.state != protocol.StateWaiting { // somebody asked for it, or it ran long
		w.series, w.last = nil, 0
	}
	for _, p := range w.group.old {
		if !p.dead {
			s.fail(w, "is prepared while a process lives that the reset of its group ends")
		}
	}
	w.group.old = w.group.old[:0]
	restart := w.restart
	switch {
	case w.held != 0:
		s.fail(w, "is prepared twice, or before the repair of %d", w.held)
	case !w.run:
		s.seen["unwanted"]++
		s.answer(w, Unwanted{restart})
		return
	case s.chance(0.01):
		s.seen["no id"]++
		s.answer(w, NoStart{"no id"})
		return
	}
	w.flag = false
	for range s.ids {
		if s.nextID++; s.nextID >= len(s.ids) {
			s.nextID = 1
		}
		if s.ids[s.nextID] == nil {
			break
		}
	}
	if s.ids[s.nextID] != nil {
		s.fail(w, "no id is free: one was not given back")
		return
	}
	s.ids[s.nextID], w.held = w, s.nextID
	s.answer(w, Prepared{restart})
}

func (s *world) launch(w *simWorker) {
	s.seen["launch"]++
	if w.proc != nil {
		s.fail(w, "is launched and has a process")
	}
	if w.row.id == 0 || w.row.state != protocol.StateStarting {
		s.fail(w, "is launched before its row says so")
	}
	if s.chance(0.02) {
		s.seen["no process"]++
		s.ids[w.held], w.held = nil, 0
		s.answer(w, NoStart{"no process"})
		return
	}
	p := &simProcess{born: s.now, deaf: s.chance(0.1), stubborn: s.chance(0.1), busy: s.chance(0.5), answered: true}
	w.proc = p
	s.answer(w, Started{})
	if s.chance(0.02) {
		s.seen["never ran"]++
		p.never = "no such program"
		s.die(w, p, s.span(0, time.Millisecond), true, false)
		return
	}
	s.after(s.span(0, time.Millisecond), func() {
		if p.ran = !p.dead; p.ran {
			s.tell(w, Running{})
		}
	})
	if s.chance(0.95) { // else never
		s.after(s.span(0, 2*w.group.policy.ReadyTimeout/3), func() {
			if p.ready = !p.dead; p.ready {
				s.tell(w, SaidReady{})
			}
		})
	}
	if w.group.policy.Watchdog > 0 && s.chance(0.3) {
		s.after(s.span(time.Second, time.Minute), func() { s.hang(w, p) })
	}
	if s.seen["calm"] == 0 && s.chance(0.8) {
		life := s.span(0, time.Second)
		if s.chance(0.7) {
			life = s.span(0, 2*time.Minute)
		}
		s.seen["crash"]++
		s.die(w, p, life, true, s.chance(0.3))
	}
	if w.flag { // a stop between Prepare and Launch
		s.obey(w, p)
	}
}

// hang: the process goes to work and does nothing any more. If it was asleep it rang before.
func (s *world) hang(w *simWorker, p *simProcess) {
	if p.dead || p.hung {
		return
	}
	p.hung, p.hungAt = true, s.now
	if p.ring {
		p.ring = false
		s.tell(w, Awake{})
	}
}

func (s *world) setFlag(w *simWorker) {
	w.flag = true
	if w.proc != nil && !w.proc.dead {
		s.obey(w, w.proc)
	}
}

func (s *world) obey(w *simWorker, p *simProcess) {
	if !p.deaf && !p.hung && s.chance(0.9) {
		s.die(w, p, s.span(0, time.Second), true, true)
	}
}

// die ends a process after a while, if it is so.
func (s *world) die(w *simWorker, p *simProcess, after time.Duration, so, clean bool) {
	if !so {
		return
	}
	s.after(after, func() {
		if p.dead {
			return
		}
		p.dead, p.clean = true, clean
		s.after(s.span(0, time.Millisecond), func() { s.died(w, p) })
	})
}

// died: the daemon sees it, if there is one; else the next does.
func (s *world) died(w *simWorker, p *simProcess) {
	if !s.alive || w.proc != p {
		return
	}
	if p.never == "" {
		s.tell(w, Running{})
	}
	if !s.alive {
		return
	}
	if s.now.Sub(p.born) >= Steady {
		w.last = 0
	}
	switch {
	case p.aborted: // it was seen to live until the look before it hung
		w.anew = p.hungAt.Sub(p.born) >= Steady+w.group.policy.Watchdog
	case w.row.state != protocol.StateStopping:
		w.anew = s.now.Sub(p.born) >= Steady
	}
	w.proc, w.row.clean = nil, p.clean
	s.tell(w, Exited{Desired: Desired{w.run, w.restart}, Flagged: w.flag, Clean: p.clean, How: "ended", Never: p.never})
}

func (s *world) repair(w *simWorker) {
	if w.proc != nil {
		s.fail(w, "is repaired and has a process")
	}
	if w.held != 0 {
		if s.ids[w.held] != w {
			s.fail(w, "id %d is another's", w.held)
		}
		s.ids[w.held], w.held = nil, 0
	}
}

func (s *world) daemonDies() {
	if s.seen["calm"] > 0 {
		return
	}
	s.daemonDied()
	s.after(s.span(time.Second, 20*time.Minute), s.daemonDies)
}

// daemonDied: what it had in its own memory is gone. After a while another one comes.
func (s *world) daemonDied() {
	if !s.alive {
		return
	}
	s.note("daemon dies")
	s.alive, s.m = false, nil
	clear(s.timers)
	s.after(s.span(0, 20*time.Second), s.adopt)
}

// adopt is the next daemon: it has the rows and the processes.
func (s *world) adopt() {
	s.note("daemon comes")
	s.seen["adoption"]++
	s.alive, s.partway = true, true
	s.newMachine()
	if s.ending {
		s.m.End()
	}
	for _, g := range s.groups {
		g.old = nil
		for _, w := range g.workers {
			leader := func(o *simWorker) bool {
				return o != w && o.proc == nil && o.held == 0 && s.m.instances[o.id].name == resetBy(w.row.state, w.row.reason)
			}
			if w.proc != nil && w.row.state == protocol.StateStopping && slices.ContainsFunc(g.workers, leader) {
				g.old = append(g.old, w.proc)
			}
		}
	}
	var ended []*simWorker
	for _, w := range s.workers {
		w.timer, w.series, w.last, w.anew = 0, nil, 0, false
		if w.held != 0 && (w.proc == nil || w.proc.dead) { // repaired before anything is started
			if w.row.id != w.held { // prepared, and not written down: nobody knows
				s.ids[w.held], w.held = nil, 0
				continue
			}
			ended = append(ended, w)
		}
	}
	for _, w := range s.workers {
		was := Adopted{Desired: Desired{w.run, w.restart}, State: w.row.state, Reason: w.row.reason, Restarts: w.row.restarts, Restarted: w.row.restarted,
			Since: w.row.since, Clean: w.row.clean, Alive: w.proc != nil && !w.proc.dead, Ended: slices.Contains(ended, w) || w.proc != nil && w.proc.dead}
		if was.Ended && !slices.Contains(ended, w) {
			ended = append(ended, w)
		}
		if w.goesOn = (was.Alive || was.Ended) && was.State == protocol.StateStopping && resetBy(was.State, was.Reason) != ""; w.goesOn {
			s.seen["reset goes on"]++
		}
		s.tell(w, was)
		if p := w.proc; was.Alive {
			p.answered, p.ring = true, false
			if p.ran {
				s.tell(w, Running{})
			}
			if p.ready {
				s.tell(w, SaidReady{})
			}
		}
	}
	for _, w := range s.workers {
		if s.alive {
			s.tell(w, Resumed{})
		}
	}
	for _, w := range ended {
		if !s.alive {
			return
		}
		p := w.proc
		if p == nil {
			p = &simProcess{never: "the daemon died while it started it"}
		}
		w.proc, w.row.clean = nil, p.clean
		s.tell(w, Exited{Desired: Desired{w.run, w.restart}, Flagged: w.flag, Clean: p.clean, How: "ended", Never: p.never})
	}
	s.look()
}

// lastFirst: in the end of the region a process is asked to quit after those of the groups that come after its own.
func (s *world) lastFirst(w *simWorker) {
	mine := slices.Index(s.groups, w.group)
	for _, g := range s.groups {
		if slices.Contains(g.policy.After, mine) {
			for _, o := range g.workers {
				if o.proc != nil && !o.proc.dead {
					s.fail(w, "is stopped before worker %d, which comes after it", o.id)
				}
			}
		}
	}
}

// check compares an instance with what the machine promises when it has no more to do.
func (s *world) check(w *simWorker) {
	if !s.alive || s.partway || s.wrong != "" {
		return
	}
	st, p := w.row.state, w.group.policy
	process := w.proc != nil
	if got := s.m.State(w.id); got != st && got != 0 {
		s.fail(w, "the machine says %v, the row %v", got, st)
	}
	if s.m.instances[w.id].held {
		s.seen["held"]++
	}
	good := 0
	for _, o := range s.m.instances[w.id].group.members {
		if o.good() {
			good++
		}
	}
	if n := s.m.instances[w.id].group.good; n != good {
		s.fail(w, "%d of its group count as ready, and %d are", n, good)
	}
	timer := w.timer != 0
	want := false
	switch {
	case s.m.State(w.id) == 0:
	case st == protocol.StateStarting:
		want = p.ReadyTimeout > 0
	case st == protocol.StateBackoff:
		want = true
	case st == protocol.StateStopping:
		want = s.m.instances[w.id].stage != killed
	case st == protocol.StateReady:
		want = p.Watchdog > 0 && !w.proc.ring
		if w.proc.dead {
			want = timer
		}
	}
	switch {
	case want != timer:
		s.fail(w, "%v (%s), timer: %v", st, w.row.reason, timer)
	case timer && s.timers[w.timer] != w.id:
		s.fail(w, "its timer %d is not set", w.timer)
	case timer && w.due.After(s.now.Add(time.Minute)):
		s.fail(w, "%v until %v", st, w.due.Sub(s.now))
	case !process && w.told.Run && (s.m.State(w.id) == 0 || st == protocol.StateExited && w.row.reason == Stopped) && s.m.instances[w.id].desired.Run:
		s.fail(w, "is wanted and %v", st)
	case !process && !w.told.Run && st != protocol.StateExited && s.m.State(w.id) != 0:
		s.fail(w, "is not wanted and %v", st)
	case process && !w.told.Run && st != protocol.StateStopping && !s.m.instances[w.id].held:
		s.fail(w, "is not wanted and %v", st)
	case process && w.told.Run && w.told.Restart != w.row.restarted && st != protocol.StateStopping && w.row.id != 0:
		s.fail(w, "restart %d was asked for and it is %v", w.told.Restart, st)
	case st == protocol.StateWaiting && strings.HasPrefix(w.row.reason, "waits for group ") && w.told.Run:
		name := strings.TrimPrefix(w.row.reason, "waits for group ")
		for _, g := range s.groups {
			if g.policy.Name == name && slices.ContainsFunc(g.workers, func(o *simWorker) bool { return o.row.state == protocol.StateReady }) {
				s.fail(w, "%s, which is ready", w.row.reason)
			}
		}
	case st == protocol.StateWaiting && w.told.Run:
		if !slices.ContainsFunc(w.group.workers, func(o *simWorker) bool { return o.proc != nil || o.row.state == protocol.StateBackoff }) {
			s.fail(w, "%s, and nothing of it is under way", w.row.reason)
		}
	}
}
