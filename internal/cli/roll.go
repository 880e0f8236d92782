package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/unit"
	"github.com/shmd/shmd/pkg/protocol"
)

// rollout is the rolling restart of one group that is waited for.
type rollout struct {
	group  string
	index  int
	number uint32
	ready  map[int]bool // rows whose turn has come and that are ready again
}

// roll restarts groups a few instances at a time.
func (a *app) roll(ctx context.Context, names []string, most int, noWait bool) error {
	s, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer s.Close()
	all, err := rolloutsOf(s, names, "groups are restarted by rolling: leave out --rolling, or name the group")
	if err != nil {
		return err
	}
	if s.Command.RegionDesired() == protocol.DesiredStop {
		return fmt.Errorf("region %q is stopping, and starts no worker any more: when it has stopped, start it anew (%s)", s.name(), unit.Start(s.name()))
	}
	for _, r := range all {
		r.number = s.Command.AskRollout(r.index, most)
	}
	if a.warnUnattended(s) || noWait {
		return a.printRollouts(s, all, nil)
	}
	return a.awaitRollouts(ctx, s, all)
}

// rolloutsOf names the groups; none stands for all. groupsOnly is what a worker's name is answered with.
func rolloutsOf(s *session, names []string, groupsOnly string) (all []*rollout, err error) {
	targets, err := control.Resolve(s.Roster, names)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if t, err := control.Resolve(s.Roster, []string{name}); err == nil && len(t.Groups) == 0 {
			return nil, fmt.Errorf("%q is a worker, and %s", name, groupsOnly)
		}
	}
	groups, err := s.Roster.Groups()
	if err != nil {
		return nil, err
	}
	for _, i := range targets.Groups {
		all = append(all, &rollout{group: groups[i].Name, index: i, ready: map[int]bool{}})
	}
	return all, nil
}

// abortRollouts ends those of the rolling restarts of groups that are under way.
func (a *app) abortRollouts(ctx context.Context, names []string, noWait bool) error {
	s, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer s.Close()
	named, err := rolloutsOf(s, names, "a rolling restart is one of a group: name the group")
	if err != nil {
		return err
	}
	groups, err := s.Roster.Groups()
	if err != nil {
		return err
	}
	var all []*rollout
	for _, r := range named {
		if n, _ := s.Command.GroupRollout(r.index); groups[r.index].Rollout == n && groups[r.index].RolloutState != protocol.RolloutRunning {
			a.warn("no rolling restart of %s is under way: nothing is ended", r.group)
			continue
		}
		r.number = s.Command.AbortRollout(r.index)
		all = append(all, r)
	}
	switch {
	case len(all) == 0 && a.json():
		return a.printRollouts(s, nil, nil)
	case len(all) == 0:
		return nil
	}
	if a.warnUnattended(s) || noWait {
		return a.printRollouts(s, all, nil)
	}
	return a.printRollouts(s, all, a.awaitEnd(ctx, s, all))
}

// awaitEnd waits until none of the rolling restarts is under way any more.
func (a *app) awaitEnd(ctx context.Context, s *session, all []*rollout) error {
	return s.await(ctx, func() (bool, error) {
		groups, err := s.Roster.Groups()
		if err != nil {
			return false, nil // the daemon may be in the middle of a change
		}
		a.lookAtRollouts(s, all) // how many have had their turn
		for _, r := range all {
			if r.index < len(groups) && groups[r.index].Name == r.group && (groups[r.index].Rollout != r.number || groups[r.index].RolloutState == protocol.RolloutRunning) {
				return false, nil
			}
		}
		return true, nil
	})
}

// soon is how long the daemon has to end a rolling restart after an interrupt.
const soon = 5 * time.Second

// awaitRollouts waits for the end of rolling restarts, tells how far they are, and prints how they ended.
func (a *app) awaitRollouts(ctx context.Context, s *session, all []*rollout) error {
	missing := ""
	t := newTeller(a, s)
	err := s.await(ctx, func() (bool, error) {
		var err error
		missing, err = a.lookAtRollouts(s, all)
		switch {
		case err != nil:
			return false, err
		case missing == "":
			return true, nil
		case !s.Daemon().Alive:
			return false, errors.New("the daemon died meanwhile: the next one goes on with the rolling restart")
		case s.Command.RegionDesired() == protocol.DesiredStop:
			return false, errors.New("the region was stopped meanwhile")
		}
		t.look(missing, indexes(all))
		return false, nil
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		a.warn("the rolling restart goes on without shmctl; shmctl status tells how far it is, and shmctl restart --abort ends it")
	case errors.Is(err, context.Canceled):
		for _, r := range all {
			s.Command.AbortRollout(r.index)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), soon)
		defer cancel()
		if a.awaitEnd(ctx, s, all) != nil {
			a.warn("the daemon has not answered within %v: when it does, the rolling restart ends where it stands", soon)
		} else {
			a.warn("the rolling restart is ended where it stands: instances whose turn has not come are left as they are")
		}
	}
	return a.printRollouts(s, all, explain(err, missing))
}

// indexes are the rows of the groups of rolling restarts.
func indexes(all []*rollout) (groups []int) {
	for _, r := range all {
		groups = append(groups, r.index)
	}
	return groups
}

// lookAtRollouts returns what is missing, "" if all have ended. Errors: one was given up.
func (a *app) lookAtRollouts(s *session, all []*rollout) (missing string, err error) {
	groups, err := s.Roster.Groups()
	if err != nil {
		return "", err
	}
	workers, err := s.Roster.Workers()
	if err != nil {
		return err.Error(), nil // the daemon may be in the middle of a change
	}
	for _, r := range all {
		if r.index >= len(groups) || groups[r.index].Name != r.group {
			return "", fmt.Errorf("group %q was removed meanwhile", r.group)
		}
		g := groups[r.index]
		number := s.commandRollout(r)
		for i, w := range workers {
			if w.Group == r.index && r.ready[i] && (w.State == protocol.StateBackoff || w.State == protocol.StateFailed) { // it ended while the others had their turn
				delete(r.ready, i)
			}
			if r.ready[i] || !s.rolled(r, i, w) {
				continue
			}
			r.ready[i] = true
			a.warn("%s is ready (%d of %d)", w.Name, len(r.ready), g.Count)
		}
		switch {
		case g.Rollout != number || g.RolloutState == protocol.RolloutRunning:
			missing = fmt.Sprintf("%d of %d instances of group %s were restarted", len(r.ready), g.Count, r.group)
		case g.RolloutState == protocol.RolloutStopped:
			return "", fmt.Errorf("the rolling restart of group %q was given up after %d of %s: %s; the others were left as they are. See shmctl logs %s",
				r.group, len(r.ready), count(g.Count, "instance"), g.RolloutNote, r.group)
		}
	}
	return missing, nil
}

// rolled reports whether the turn of worker i has come in a rolling restart, and it is ready again, for longer than its trial.
func (s *session) rolled(r *rollout, i int, w protocol.Worker) bool {
	return w.Group == r.index && w.State == protocol.StateReady && !w.Trial && w.Rolled == r.number && w.Restarted == s.Command.RestartCount(i)+w.Rolled
}

// commandRollout is the number of the group's last rolling restart: ours, or one that another operator asked for since.
func (s *session) commandRollout(r *rollout) uint32 {
	if n, _ := s.Command.GroupRollout(r.index); int32(n-r.number) > 0 {
		r.number, r.ready = n, map[int]bool{}
	}
	return r.number
}

func (a *app) printRollouts(s *session, all []*rollout, failed error) error {
	type groupJSON struct {
		Name      string `json:"name"`
		State     string `json:"state"` // running, done or stopped
		Restarted int    `json:"restarted"`
		Count     int    `json:"count"`
		Note      string `json:"note"`
	}
	doc := struct {
		Schema int         `json:"schema"`
		Region string      `json:"region"`
		Groups []groupJSON `json:"groups"`
	}{schema, s.name(), []groupJSON{}}
	t := a.newTable("GROUP", "RESTARTED", "STATE")
	groups, _ := s.Roster.Groups()
	workers, _ := s.Roster.Workers()
	for _, r := range all {
		if r.index >= len(groups) {
			continue
		}
		g := groups[r.index]
		for i, w := range workers { // also those that nobody has waited for
			if s.rolled(r, i, w) {
				r.ready[i] = true
			}
		}
		state := g.RolloutState
		if g.Rollout != r.number {
			state = protocol.RolloutRunning // or is about to
		}
		doc.Groups = append(doc.Groups, groupJSON{r.group, state.String(), len(r.ready), g.Count, g.RolloutNote})
		t.add(r.group, fmt.Sprintf("%d of %d", len(r.ready), g.Count), state.String())
	}
	if a.json() {
		return errors.Join(failed, a.printJSON(doc))
	}
	if a.quiet {
		return failed
	}
	if err := t.print(); failed == nil {
		return err
	}
	return failed
}
