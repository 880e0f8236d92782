package control

import (
	"context"
	"os"
	"time"

	"github.com/shmd/shmd/internal/sys"
)

// A worker that has closed what it inherited holds no memory of the region. Who stops a region without its daemon, and found its roster in some process, sends it no
// signal: a roster may say what it likes. The region's guard has the roster from the daemon itself, and ends such a worker.

// GuardVariable is in the environment of a region's guard.
const GuardVariable = "SHMD_GUARD"

// StopRest ends the workers that hold no memory of the region, in a stop whose daemon has died: SIGTERM to those that never attached, to others after the group's
// stop timeout, SIGKILL after that time again. s is the guard's own Set, which need not be writable. before is called before anything is done, if there are such
// workers; its error ends it.
func StopRest(ctx context.Context, s Set, before func() error) error {
	st := &stopper{Set: s, o: StopOptions{Known: true}, inodes: s.inodes(), escalates: true}
	var err error
	if st.ep, err = sys.NewEpoll(); err != nil {
		return err
	}
	defer st.ep.Close()
	defer func() {
		for _, t := range st.targets {
			t.close()
		}
	}()
	for i := range min(s.Roster.WorkerCount(), s.Command.Workers()) {
		w, err := s.Roster.Worker(i)
		if err != nil || w.Process() <= 0 || w.StartTicks == 0 {
			continue
		}
		if held, err := holds(w.Process(), s.region(), st.inodes); held || err != nil { // the error: it has ended
			continue
		}
		if err := st.watch(i, w); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(endPatience); st.left > 0; { // an ending process holds nothing any more, a moment before it has ended
		left := time.Until(deadline)
		if left <= 0 {
			break
		}
		tokens, err := st.ep.Wait(left)
		if err == nil {
			err = st.ended(tokens)
		}
		if err != nil {
			return err
		}
	}
	if st.left == 0 {
		return nil
	}
	if err := before(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { st.ep.Close() })()
	st.started = sys.MonotonicNs()
	timeouts := st.timeouts()
	for _, t := range st.targets {
		if t.exit == 0 {
			st.begin(t, timeouts, nil)
		}
	}
	return st.wait()
}

// hand leaves a worker that holds nothing to the guard, which begins when the daemon has died. false: nobody is there who could end it.
func (s *stopper) hand(t *target, now int64) bool {
	if !s.all || !s.escalates || s.o.Known {
		return false
	}
	if s.guard == nil {
		s.guard = s.findGuard()
	}
	if s.guard == nil {
		return false
	}
	if t.handed, t.deadline = now, 0; t.deaf() {
		t.handed = s.started // it was at once
	}
	return true
}

// handed counts the workers that were left to the guard and run.
func (s *stopper) handed() (n int) {
	for _, t := range s.targets {
		if t.handed != 0 && t.exit == 0 {
			n++
		}
	}
	return n
}

// findGuard finds the guard among those that hold the region's memory.
func (s *stopper) findGuard() *process {
	descriptors, err := scan(s.region(), false)
	if err != nil {
		return nil
	}
	var pids []int
	for _, h := range descriptors {
		if h.segment == "roster" && h.stat.Inode == s.inodes["roster"] {
			pids = append(pids, h.pid)
		}
	}
	for _, pid := range unique(pids) {
		if s.daemon != nil && pid == s.daemon.pid || s.isTarget(pid) || environ(pid, GuardVariable) == "" {
			continue
		}
		if p, err := openProcess(pid, 0); err == nil {
			return p
		}
	}
	return nil
}

// waitGuard waits until the guard has ended those that were left to it, and for its own end: it has the region's lock until then. sys.ErrClosed: the context has
// ended.
func (s *stopper) waitGuard() error {
	if s.guard == nil {
		return nil
	}
	var patience time.Duration
	for _, t := range s.targets {
		if t.handed != 0 && t.exit == 0 {
			if s.report.Daemon != nil { // it has begun only now
				t.handed = sys.MonotonicNs()
			}
			patience = max(patience, 2*t.timeout+killPatience)
		}
	}
	for deadline := time.Now().Add(patience); s.handed() > 0; {
		left := time.Until(deadline)
		ended, err := s.guard.ended()
		if err != nil {
			return err
		}
		if left <= 0 || ended {
			break
		}
		tokens, err := s.ep.Wait(min(left, guardLook))
		if err != nil {
			return err
		}
		if err := s.ended(tokens); err != nil {
			return err
		}
	}
	s.sweep()
	for _, t := range s.targets {
		if t.handed != 0 && t.exit == 0 {
			t.trouble = "no signal was sent: " + errHoldsNothing.Error() + ", and the region's guard has not ended it"
		}
	}
	_, err := sys.PollReadable([]*os.File{s.guard.pidfd}, guardLook)
	return err
}

// guardLook is how often it is looked whether the guard lives, and how long it may take to end after its last worker.
const guardLook = time.Second
