package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/unit"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) scaleCommand() *cobra.Command {
	var noWait bool
	c := a.verb(cobra.Command{
		Use:   "scale [--no-wait] GROUP=N...",
		Short: "change how many instances a group has",
		Long: `scale asks for N instances of a group, or with GROUP=+N and GROUP=-N for so
many more or fewer, and waits until the new ones are ready and the others
gone. The instances with the highest numbers quit, as by shmctl stop, and
vanish from ps. GROUP=config goes back to what the configuration says.

The number is written into the memory and the daemon carries it out; a daemon
that starts later does it then. It holds until it is changed, also across the
daemon's death, and until reload finds another count in the configuration.`,
		Example: `  shmctl scale web=8
  shmctl scale web=+2 db=1
  shmctl scale web=config`,
		ValidArgsFunction: a.complete(func(s *session) []string {
			var names []string
			groups, _ := s.Roster.Groups()
			for _, g := range groups {
				if g.Name != "" {
					names = append(names, g.Name+"=")
				}
			}
			return names
		}),
	}, func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("scale: which group to how many? Give GROUP=N")
		}
		_, err := parseScales(args)
		return err
	}, func(ctx context.Context, args []string) error { return a.scale(ctx, args, noWait) })
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the instances are ready or gone")
	return c
}

// scaling is one argument of scale.
type scaling struct {
	group string
	sign  int // +1, -1: by n; 0: to n, and n = 0 is what the configuration says
	n     int
	index int // of the group
	was   int
	count int // that is wanted now
}

func parseScales(args []string) ([]scaling, error) {
	var all []scaling
	seen := map[string]bool{}
	for _, arg := range args {
		name, text, ok := strings.Cut(arg, "=")
		if !ok || name == "" {
			return nil, usagef("scale: %q is not GROUP=N", arg)
		}
		if seen[name] {
			return nil, usagef("scale: group %q is there twice", name)
		}
		seen[name] = true
		s := scaling{group: name}
		if text == "config" {
			all = append(all, s)
			continue
		}
		digits := text
		switch {
		case strings.HasPrefix(text, "+"):
			s.sign, digits = 1, text[1:]
		case strings.HasPrefix(text, "-"):
			s.sign, digits = -1, text[1:]
		}
		n, err := strconv.ParseUint(digits, 10, 31)
		switch {
		case err != nil:
			return nil, usagef("scale: %q is no number of instances: write %s=8, %s=+2, %s=-1 or %s=config", text, name, name, name, name)
		case n == 0 && s.sign == 0:
			return nil, usagef("scale: a group has at least one instance; to have none run, shmctl stop %s", name)
		}
		s.n = int(n)
		all = append(all, s)
	}
	return all, nil
}

func (a *app) scale(ctx context.Context, args []string, noWait bool) error {
	all, err := parseScales(args)
	if err != nil {
		return err
	}
	s, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer s.Close()
	names, err := s.checkScales(all)
	if err != nil {
		return err
	}
	if s.Command.RegionDesired() == protocol.DesiredStop {
		return fmt.Errorf("region %q is stopping, and starts no worker any more: when it has stopped, start it anew (%s)", s.name(), unit.Start(s.name()))
	}
	began := sys.MonotonicNs()
	for _, sc := range all {
		n := sc.count
		if sc.sign == 0 && sc.n == 0 {
			n = 0
		}
		s.Command.Scale(sc.index, n)
	}
	pending := a.warnUnattended(s)
	var took int64
	if !noWait && !pending {
		w := waiter{s: s, names: names, what: forReady, scaled: all, unstopped: true}
		if err := a.awaitWorkers(ctx, s, &w); err != nil {
			return explain(err, w.missing)
		}
		took = sys.MonotonicNs() - began
	}
	for _, sc := range all {
		if s.Command.GroupDesired(sc.index) == protocol.DesiredStop {
			a.warn("group %q is stopped: none of its instances runs until shmctl start %s", sc.group, sc.group)
		}
	}
	return a.printScales(s, all, took, pending)
}

// checkScales finds the groups, and what they are to have now. Nothing is written.
func (s *session) checkScales(all []scaling) (names []string, err error) {
	groups, err := s.Roster.Groups()
	if err != nil {
		return nil, err
	}
	total := 0
	for _, g := range groups {
		total += g.Count
	}
	for i := range all {
		sc := &all[i]
		targets, err := control.Resolve(s.Roster, []string{sc.group})
		if err != nil {
			return nil, err
		}
		if len(targets.Groups) == 0 {
			return nil, fmt.Errorf("%q is a worker, and groups are scaled: shmctl scale %s=N", sc.group, sc.group[:strings.LastIndexByte(sc.group, '.')])
		}
		sc.index = targets.Groups[0]
		g := groups[sc.index]
		sc.was = s.Command.GroupCount(sc.index) // also of an earlier scale that nobody has carried out
		if sc.was == 0 {
			sc.was = g.Configured
		}
		switch {
		case sc.sign != 0:
			sc.count = sc.was + sc.sign*sc.n
		case sc.n == 0:
			sc.count = g.Configured
		default:
			sc.count = sc.n
		}
		total += sc.count - g.Count
		switch most := s.Roster.WorkerCap(); {
		case sc.count < 1:
			return nil, fmt.Errorf("group %q has %s: %d fewer is not possible, it has at least one; to have none run, shmctl stop %s", sc.group, count(sc.was, "instance"), sc.n, sc.group)
		case sc.count > g.Most && g.Most == 1:
			return nil, fmt.Errorf("group %q can have one instance only: a channel of it has one producer, consumer or publisher; see producers, consumers and publishers in the configuration", sc.group)
		case sc.count > g.Most:
			return nil, fmt.Errorf("group %q can have %d instances at most", sc.group, g.Most)
		case total > most:
			return nil, fmt.Errorf("all groups together would have %d workers, and a region has %d at most: scale another group down first", total, most)
		}
		names = append(names, sc.group)
	}
	return names, nil
}

// warnUnattended says so if no daemon is at work that would carry out what was just written. One that has no attachment for this process is.
func (a *app) warnUnattended(s *session) bool {
	switch d := s.Daemon(); {
	case s.answers(), d.Alive && s.refused():
		return false
	case d.Alive && d.Stopped:
		a.warn("the daemon (pid %d) is stopped by a signal: it carries this out when it goes on (kill -CONT %d)", d.Pid, d.Pid)
	case d.Alive:
		a.warn("the daemon (pid %d) does not answer: it carries this out when it can", d.Pid)
	default:
		a.warn("no daemon runs: the next one carries this out (%s)", unit.Start(s.name()))
	}
	return true
}

// awaitWorkers waits for what a waiter waits for, as long as the region is not stopped.
func (a *app) awaitWorkers(ctx context.Context, s *session, w *waiter) error {
	t := newTeller(a, s)
	err := s.await(ctx, func() (bool, error) {
		done, err := w.check()
		if err == nil && !done {
			t.look(w.missing, w.groups())
		}
		if err == nil && !done && s.Command.RegionDesired() == protocol.DesiredStop {
			err = errors.New("the region was stopped meanwhile")
		}
		return done, err
	})
	if errors.Is(err, errNoDaemonWorks) {
		err = errors.New("the daemon died meanwhile: the next one carries this out")
	}
	return err
}

// notScaled says what a scale still misses, "" if nothing: the number of instances, for those that are there are looked at one by one.
func (s *session) notScaled(all []scaling, list []worker) string {
	have := map[int]int{}
	for _, w := range list {
		have[w.Group]++
	}
	for _, sc := range all {
		if n := have[sc.index]; n != sc.count {
			return fmt.Sprintf("group %s has %s, not %d", sc.group, count(n, "instance"), sc.count)
		}
	}
	return ""
}

// rescaled is an error if a group is to have another number of instances by now than was asked for: that one will not come.
func (s *session) rescaled(all []scaling) error {
	groups, err := s.Roster.Groups()
	if err != nil {
		return nil // the daemon may be in the middle of a change
	}
	for _, sc := range all {
		n := s.Command.GroupCount(sc.index)
		if n == 0 && sc.index < len(groups) {
			n = groups[sc.index].Configured
		}
		if n != sc.count {
			return fmt.Errorf("group %q is to have %s by now, not %d: another scale or a reload has said so meanwhile", sc.group, count(n, "instance"), sc.count)
		}
	}
	return nil
}

// notThere says which of the groups do not have the instances yet that were asked for.
func (s *session) notThere(groups []int, list []worker) (missing []string) {
	rows, _ := s.Roster.Groups()
	have := map[int]int{}
	for _, w := range list {
		have[w.Group]++
	}
	for _, i := range groups {
		if i >= len(rows) || i >= s.Command.Groups() {
			continue
		}
		want := s.Command.GroupCount(i)
		if want == 0 {
			want = rows[i].Configured
		}
		if want = min(want, rows[i].Most); have[i] < want {
			missing = append(missing, fmt.Sprintf("group %s has %d of %s", rows[i].Name, have[i], count(want, "instance")))
		}
	}
	return missing
}

func (a *app) printScales(s *session, all []scaling, ns int64, pending bool) error {
	type groupJSON struct {
		Name  string `json:"name"`
		Was   int    `json:"was"`
		Count int    `json:"count"`
	}
	doc := struct {
		Schema  int         `json:"schema"`
		Region  string      `json:"region"`
		Groups  []groupJSON `json:"groups"`
		TookNs  int64       `json:"took_ns"` // until all were ready or gone; 0: that was not waited for
		Pending bool        `json:"pending"` // no daemon is at work: the next one does it
	}{schema, s.name(), []groupJSON{}, ns, pending}
	is := "IS"
	if pending {
		is = "TO BE"
	}
	t := a.newTable("GROUP", "WAS", is)
	for _, sc := range all {
		doc.Groups = append(doc.Groups, groupJSON{sc.group, sc.was, sc.count})
		t.add(sc.group, sc.was, sc.count)
	}
	if a.json() {
		return a.printJSON(doc)
	}
	if a.quiet {
		return nil
	}
	return t.print()
}
