package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) restartCommand() *cobra.Command {
	var noWait, all, rolling, abort bool
	var most int
	c := a.verb(cobra.Command{
		Use:   "restart [--rolling [--max-unavailable=N] | --abort] [--no-wait] (--all | NAME...)",
		Short: "stop workers and start them again",
		Long: `restart has the named workers, and all workers of the named groups, quit and
started again, and waits until the new processes are ready. Workers that do
not run are started. All of them quit at the same time, unless --rolling says
otherwise: then the instances of a group quit one after the other, or N at a
time, each when those before it are ready again. A replacement that fails stops
that with its reason, and leaves the others as they are. Where a command counts
as ready as soon as it runs, it has to run for a second before the next one's
turn comes.

An interrupt (Ctrl-C, SIGTERM) ends a rolling restart where it stands, and so
does --abort, from anywhere: those whose turn has come finish, the others are
left as they are. With --timeout shmctl waits no longer, and it goes on.

The daemon carries it out, and with another daemon if that one dies. Without a
daemon that answers, shmctl only writes the wish, and says that the next daemon
carries it out.`,
		Example: `  shmctl restart parser.2
  shmctl restart parser
  shmctl restart --rolling --max-unavailable=2 web
  shmctl restart --abort web
  shmctl restart --all --timeout=30s`,
		ValidArgsFunction: a.complete(workerNames),
	}, func(cmd *cobra.Command, names []string) error {
		switch {
		case all && len(names) > 0:
			return usagef("restart: give names or --all, not both")
		case !all && len(names) == 0:
			return usagef("restart: which workers? Give names, or --all for every one")
		case cmd.Flags().Changed("max-unavailable") && !rolling:
			return usagef("restart: --max-unavailable is for --rolling")
		case abort && rolling:
			return usagef("restart: --rolling begins one, and --abort ends it: give one of them")
		case most < 1:
			return usagef("restart: --max-unavailable=%d: at least one has to be missing at a time", most)
		}
		return anyNames(cmd, names)
	}, func(ctx context.Context, names []string) error {
		if abort {
			return a.abortRollouts(ctx, names, noWait)
		}
		if rolling {
			return a.roll(ctx, names, most, noWait)
		}
		return a.start(ctx, names, true, noWait)
	})
	c.Flags().BoolVar(&rolling, "rolling", false, "instances of a group one after the other")
	c.Flags().IntVar(&most, "max-unavailable", 1, "`number` of a group's instances that may be missing at a time")
	c.Flags().BoolVar(&abort, "abort", false, "end the rolling restart of groups where it stands")
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the new ones are ready")
	c.Flags().BoolVar(&all, "all", false, "restart every worker of the region")
	return c
}
