package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) restartCommand() *cobra.Command {
	var noWait, all bool
	c := a.verb(cobra.Command{
		Use:   "restart [--no-wait] (--all | NAME...)",
		Short: "stop workers and start them again",
		Long: `restart has the named workers, and all workers of the named groups, quit and
started again, and waits until the new processes are ready. Workers that do
not run are started. All of them quit at the same time.

The daemon carries it out. Without a daemon that answers, shmctl only writes
the wish, and says that the next daemon carries it out.`,
		Example: `  shmctl restart parser.2
  shmctl restart parser
  shmctl restart --all --timeout=30s`,
		ValidArgsFunction: a.complete(workerNames),
	}, func(cmd *cobra.Command, names []string) error {
		switch {
		case all && len(names) > 0:
			return usagef("restart: give names or --all, not both")
		case !all && len(names) == 0:
			return usagef("restart: which workers? Give names, or --all for every one")
		}
		return anyNames(cmd, names)
	}, func(ctx context.Context, names []string) error { return a.start(ctx, names, true, noWait) })
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the new ones are ready")
	c.Flags().BoolVar(&all, "all", false, "restart every worker of the region")
	return c
}
