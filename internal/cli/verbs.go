package cli

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/pkg/protocol"
)

// verbs returns the commands, in the order of the help.
func (a *app) verbs() []*cobra.Command {
	return []*cobra.Command{
		a.statusCommand(),
		a.psCommand(),
		a.startCommand(),
		a.stopCommand(),
		a.restartCommand(),
		a.scaleCommand(),
		a.reloadCommand(),
		a.killCommand(),
		a.waitCommand(),
		a.logsCommand(),
		a.eventsCommand(),
		a.pubCommand(),
		a.subCommand(),
		a.getCommand(),
		a.putCommand(),
		a.watchCommand(),
		a.reqCommand(),
		a.replyCommand(),
		a.statCommand(),
		a.topCommand(),
		a.chCommand(),
		a.inspectCommand(),
		a.dumpCommand(),
		a.verifyCommand(),
		a.doctorCommand(),
		a.benchCommand(),
		a.upgradeCommand(),
		a.versionCommand(),
		a.completionCommand(),
	}
}

// verb makes a command whose run gets the context that --timeout bounds, and whose arguments are checked by args.
func (a *app) verb(c cobra.Command, args cobra.PositionalArgs, run func(ctx context.Context, args []string) error) *cobra.Command {
	c.Args = args
	c.DisableFlagsInUseLine = true
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := a.context(cmd.Context())
		defer cancel()
		return run(ctx, args)
	}
	return &c
}

// anyNames accepts names of workers and groups; what they stand for is looked up later, in the region.
func anyNames(_ *cobra.Command, args []string) error {
	for _, name := range args {
		if name == "" {
			return usagef("an empty name is neither a worker nor a group")
		}
	}
	return nil
}

// noArgs accepts nothing.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument, and got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// completing is how long the completion of a name may take.
const completing = time.Second

// complete offers what list makes of the region, sorted, without what is on the command line already.
func (a *app) complete(list func(s *session) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		a.quiet = true
		ctx, cancel := context.WithTimeout(cmd.Context(), completing)
		defer cancel()
		s, err := a.open(ctx, false)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer s.Close()
		var names []string
		for _, n := range list(s) {
			if strings.HasPrefix(n, begun) && !slices.Contains(args, n) {
				names = append(names, n)
			}
		}
		slices.Sort(names)
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// workerNames are the names of groups and workers.
func workerNames(s *session) []string {
	var names []string
	groups, _ := s.Roster.Groups()
	for _, g := range groups {
		if g.Name != "" {
			names = append(names, g.Name)
		}
	}
	workers, _ := s.Roster.Workers()
	for _, w := range workers {
		if w.State != protocol.StateGone {
			names = append(names, w.Name)
		}
	}
	return names
}

// completeRegions offers the regions that have a socket in the usual place.
func completeRegions(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	paths, _ := filepath.Glob(filepath.Join(filepath.Dir(attach.SocketPath("x")), "*.sock"))
	var names []string
	for _, p := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(p), ".sock"))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// channelNames are the names of channels.
func channelNames(s *session) []string {
	return segmentsOf(s, func(g protocol.Segment) bool { return protocol.IsChannel(g.Kind) })
}

// segmentsOf are the names of the segments in the roster's directory that pass.
func segmentsOf(s *session, pass func(protocol.Segment) bool) []string {
	var names []string
	segments, _ := s.Roster.Segments()
	for _, g := range segments {
		if g.Name != "" && pass(g) {
			names = append(names, g.Name)
		}
	}
	return names
}
