package control

import (
	"slices"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// What is stopped together stops in waves: of groups that come after each other the last comes first, with a daemon or without.

// waves sorts workers: of groups that come after each other the last comes first. There is one wave at least.
func (s *stopper) waves(workers []int) [][]int {
	ranks := map[int]int{} // by group
	for i := range s.Roster.GroupCap() {
		if g, err := s.Roster.Group(i); err == nil {
			ranks[i] = g.Rank
		}
	}
	byRank := map[int][]int{}
	for _, i := range workers {
		w, _ := s.Roster.Worker(i) // whose row is torn goes with the last
		byRank[ranks[w.Group]] = append(byRank[ranks[w.Group]], i)
	}
	var order []int
	for rank := range byRank {
		order = append(order, rank)
	}
	slices.Sort(order)
	waves := make([][]int, 0, len(order)+1)
	for _, rank := range slices.Backward(order) {
		waves = append(waves, byRank[rank])
	}
	if len(waves) == 0 { // flags of groups without instances, and of the region
		waves = append(waves, nil)
	}
	return waves
}

// note makes targets of all who run before the first of them is asked to quit. That a worker's wave comes late does not keep it: the daemon, which knows by
// then that it is to stop, asks it as soon as nothing that comes after its group runs any more, and others of its wave may have ended meanwhile.
func (s *stopper) note(waves [][]int, timeouts map[string]time.Duration) error {
	for n, wave := range waves {
		s.wave = n
		for _, i := range wave {
			w, err := s.Roster.Worker(i)
			if err != nil {
				continue
			}
			if err := s.watch(i, w); err != nil {
				return err
			}
		}
	}
	for _, t := range s.targets { // for one whose wave never comes
		t.timeout, t.flagged, t.asked = timeoutOf(t.name, timeouts), s.began, s.began
	}
	return nil
}

// noteEarly opens the processes of workers whose turn comes later. A daemon at work asks them by the same order as soon as it knows of the stop, and may be done with
// one before its turn comes here.
func (s *stopper) noteEarly(waves [][]int) error {
	s.early = map[int]*target{}
	for _, i := range slices.Concat(waves...) {
		w, err := s.Roster.Worker(i)
		if err != nil {
			continue // its turn comes, and says so
		}
		t, err := s.open(i, w)
		if err != nil {
			return err
		}
		if t != nil {
			s.early[i] = t
		}
	}
	return nil
}

// ask makes workers targets and asks them to quit. Who runs is noted before the flag, since it may be gone a microsecond after it, and again
// after it: the daemon may have been in the middle of a launch.
func (s *stopper) ask(workers []int, stop func(), timeouts map[string]time.Duration) error {
	earlier := map[int]int64{} // workers that saw an earlier flag, and when that was set
	for _, i := range workers {
		w, err := s.Roster.Worker(i)
		if err != nil {
			continue
		}
		page, at := s.page(w), s.Command.WorkerFlaggedNs(i)
		if protocol.Flagged(s.Command.WorkerQuit(i)) && (page != nil && page.QuitSeenNs.Load() != 0 || at >= s.began) {
			earlier[i] = at
		}
		if err := s.watch(i, w); err != nil {
			return err
		}
	}
	s.started = sys.MonotonicNs()
	stop()
	for _, i := range workers {
		if w, err := s.Roster.Worker(i); err == nil {
			if err := s.watch(i, w); err != nil {
				return err
			}
		}
	}
	for _, t := range s.targets {
		if t.stage == "" && t.wave == s.wave {
			s.begin(t, timeouts, earlier)
		}
	}
	return nil
}
