package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/control"
)

func (a *app) reloadCommand() *cobra.Command {
	var dry, noWait bool
	c := a.verb(cobra.Command{
		Use:   "reload [--dry-run] [--no-wait]",
		Short: "have the daemon read its configuration again",
		Long: `reload has the daemon read its file again, prints what is to be done, and does
it: only the difference is applied. New channels and groups are made while
everything runs, groups that a change takes new processes for are restarted by
rolling, groups that are not there any more quit. It returns when all of that
is done.

Steps: apply (holds at once), add, restart, scale, remove, impossible. If one
step is impossible while the region runs, or the file has an error, nothing at
all is done, and the exit code is 1. --dry-run only prints the steps.

The daemon's process gets no other identity: SIGHUP does the same, with the
answer in the log.`,
		Example: `  shmctl reload --dry-run
  shmctl reload
  shmctl reload -o json | jq -r '.plan[] | select(.action == "restart") | .table'`,
	}, noArgs, func(ctx context.Context, _ []string) error { return a.reload(ctx, dry, noWait) })
	c.Flags().BoolVar(&dry, "dry-run", false, "only print what would be done")
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until everything is done")
	return c
}

type reloadJSON struct {
	Schema  int           `json:"schema"`
	Region  string        `json:"region"`
	DryRun  bool          `json:"dry_run"`
	Applied bool          `json:"applied"` // it is done, or being done
	Plan    []attach.Step `json:"plan"`
}

func (a *app) reload(ctx context.Context, dry, noWait bool) error {
	conn, err := a.dialDaemon(ctx)
	if withoutDaemon(err) && !errors.Is(err, attach.ErrSilent) {
		return fmt.Errorf("%w; a reload takes the daemon's own hands, and the next daemon reads the file when it starts", err)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	answered := a.tellSilence(attachWithin, true)
	r, err := conn.Reload(ctx, dry)
	answered()
	var refused *attach.RefusedError
	switch {
	case errors.As(err, &refused) && refused.Code == attach.CodeConfig:
		for line := range strings.Lines(refused.Text) {
			a.always("%s", printable(strings.TrimSuffix(line, "\n")))
		}
		return fmt.Errorf("nothing was changed: the configuration is refused")
	case refused != nil:
		return fmt.Errorf("nothing was changed: %w", refused)
	case err != nil:
		return a.unanswered(ctx, err)
	}
	doc := reloadJSON{schema, r.Region, dry, r.Applied, r.Plan}
	if doc.Plan == nil {
		doc.Plan = []attach.Step{}
	}
	impossible := 0
	t := a.newTable("STEP", "WHERE", "WHAT")
	for _, s := range r.Plan {
		step := cell{text: printable(s.Action)}
		switch s.Action {
		case "impossible":
			step.color = red
			impossible++
		case "restart", "remove":
			step.color = yellow
		}
		t.add(step, printable(s.Table), printable(s.Text))
	}
	switch {
	case a.json():
		err = a.printJSON(doc)
	case len(r.Plan) == 0:
		a.warn("the configuration has not changed")
	case !a.quiet:
		err = t.print()
	}
	switch {
	case err != nil:
		return err
	case impossible > 0:
		return fmt.Errorf("nothing was changed: %s impossible while the region runs", isAre(impossible, "step"))
	case !r.Applied || noWait:
		return nil
	}
	return a.awaitReload(ctx, r.Plan)
}

// isAre is "1 step is" or "2 steps are".
func isAre(n int, what string) string {
	if n == 1 {
		return count(n, what) + " is"
	}
	return count(n, what) + " are"
}

// awaitReload waits until the steps of a plan that take time are done.
func (a *app) awaitReload(ctx context.Context, plan []attach.Step) error {
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	groups, err := s.Roster.Groups()
	if err != nil {
		return err
	}
	index := map[string]int{}
	for i, g := range groups {
		if g.Name != "" {
			index[g.Name] = i
		}
	}
	var rolls []*rollout
	var names, removed []string
	for _, step := range plan {
		name, ok := strings.CutPrefix(step.Table, "[worker.")
		if name = strings.TrimSuffix(name, "]"); !ok {
			continue
		}
		i, there := index[name]
		switch {
		case step.Action == "remove":
			removed = append(removed, name)
		case !there:
		case step.Action == "restart":
			n, _ := s.Command.GroupRollout(i)
			rolls = append(rolls, &rollout{name, i, n, map[int]bool{}})
			names = append(names, name)
		case step.Action == "add", step.Action == "scale":
			names = append(names, name)
		}
	}
	missing := ""
	t := newTeller(a, s)
	err = s.await(ctx, func() (bool, error) {
		if missing, err = a.lookAtRollouts(s, rolls); missing != "" || err != nil {
			t.look(missing, indexes(rolls))
			return false, err
		}
		for _, name := range removed {
			if _, err := control.Resolve(s.Roster, []string{name}); err == nil {
				missing = fmt.Sprintf("workers of group %s are still quitting", name)
				t.look(missing, nil)
				return false, nil
			}
		}
		if len(names) == 0 {
			return true, nil
		}
		w := waiter{s: s, names: names, what: forReady, unstopped: true}
		done, err := w.check()
		if missing = w.missing; err == nil && !done {
			t.look(missing, w.groups())
		}
		return done, err
	})
	if errors.Is(err, errNoDaemonWorks) {
		err = errors.New("the daemon died meanwhile: the next one goes on, with the new configuration")
	}
	return explain(err, missing)
}
