package control

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// What a stop reports, once the workers have ended or the time is up.

// fill writes the report of the workers, in the order in which they were asked to quit.
func (s *stopper) fill() {
	s.report.Workers = make([]WorkerReport, 0, len(s.targets))
	order := slices.Clone(s.targets)
	slices.SortStableFunc(order, func(a, b *target) int { return cmp.Compare(a.wave, b.wave) })
	for _, t := range order {
		w := WorkerReport{Name: t.name, Pid: t.shown}
		if t.page != nil {
			if seen := int64(t.page.QuitSeenNs.Load()); seen >= t.flagged && seen != 0 {
				w.AckNs = max(seen-t.flagged, 1)
			}
		}
		if t.exit != 0 {
			w.ExitNs = max(t.exit-t.flagged, 1)
			w.How = s.how(t)
		}
		if t.trouble != "" {
			s.warn("worker %s (pid %d): %s", t.name, t.shown, t.trouble)
		}
		s.report.Workers = append(s.report.Workers, w)
	}
}

// how tells what ended a worker. The daemon, which reaps it, knows best: its row says by which signal it ended. Which signal a worker obeyed that
// ended by itself is inferred: from what was sent from here, or from the time it took, as the daemon keeps to the same timeouts.
func (s *stopper) how(t *target) string {
	steps := (t.exit - max(t.flagged, t.asked)) / int64(t.timeout)
	if t.deaf() {
		steps++
	}
	how := cmp.Or(t.stage, HowFlag)             // none: the daemon stopped it before its wave came
	if t.handed == 0 && t.doubted && t.deaf() { // the guard was quicker than the doubt
		t.handed = t.asked
	}
	if t.handed != 0 {
		how = HowTerm
		if time.Duration(t.exit-t.handed) >= t.timeout {
			how = HowKill
		}
	}
	if how == HowFlag && s.o.DaemonAnswers {
		how = [...]string{HowFlag, HowTerm, HowKill}[min(max(steps, 0), 2)]
	}
	switch row, known := s.collected(t); {
	case !known:
		return how
	case syscall.Signal(row.ExitSignal) == syscall.SIGKILL:
		return HowKill
	case syscall.Signal(row.ExitSignal) == syscall.SIGTERM:
		return HowTerm
	case how == HowKill: // it ended by itself before that came
		return HowTerm
	}
	return how
}

// collected returns the row of a worker that has ended, once the daemon has written down how. known: it did, and could tell.
func (s *stopper) collected(t *target) (row protocol.Worker, known bool) {
	row, err := s.Roster.Worker(t.index)
	return row, err == nil && row.Process() == 0 && row.ExitCode != protocol.ExitUnknown
}

// rowPatience is how long a daemon that answers may take to write down how a worker ended.
const rowPatience = time.Second

// settle waits until a daemon that answers has written down how the workers ended.
func (s *stopper) settle() {
	if !s.o.DaemonAnswers || s.daemon == nil {
		return
	}
	deadline := sys.MonotonicNs() + int64(rowPatience)
	for _, t := range s.targets {
		for t.exit != 0 && t.index >= 0 {
			seen := s.Roster.ChangeWord().Load()
			row, err := s.Roster.Worker(t.index)
			left := deadline - sys.MonotonicNs()
			if err != nil || row.Process() != t.pid || left <= 0 {
				break
			}
			sys.FutexWait(s.Roster.ChangeWord(), seen, time.Duration(left))
		}
	}
}

// running lists the processes that did not end, for people.
func (s *stopper) running() string {
	var list []string
	for _, t := range s.targets {
		if t.exit == 0 {
			list = append(list, fmt.Sprintf("%s (pid %d)", t.name, t.shown))
		}
	}
	if s.report.Daemon != nil && s.daemon != nil {
		list = append(list, fmt.Sprintf("the daemon (pid %d)", s.daemon.pid))
	}
	return strings.Join(list, ", ")
}
