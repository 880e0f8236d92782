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

// ask makes workers targets and asks them to quit. Who runs is noted before the flag, since it may be gone a microsecond after it, and again
// after it: the daemon may have been in the middle of a launch.
func (s *stopper) ask(workers []int, stop func(), timeouts map[string]time.Duration) error {
	earlier := map[int]int64{} // workers that saw an earlier flag, and when that was set
	for _, i := range workers {
		w, err := s.Roster.Worker(i)
		if err != nil {
			continue
		}
		if page := s.page(w); protocol.Flagged(s.Command.WorkerQuit(i)) && page != nil && page.QuitSeenNs.Load() != 0 {
			earlier[i] = s.Command.WorkerFlaggedNs(i)
		}
		if err := s.watch(i, w); err != nil {
			return err
		}
	}
	begun := len(s.targets)
	for begun > 0 && s.targets[begun-1].stage == "" {
		begun--
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
	for _, t := range s.targets[begun:] {
		s.begin(t, timeouts, earlier)
	}
	return nil
}
