package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/version"
)

// Exit codes of shmd.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError marks an error of the command line itself.
type usageError struct{ error }

// Main runs the command line of shmd and returns its exit code.
func Main(args []string, stdout, stderr *os.File) int {
	cmd := Command(stdout, stderr)
	cmd.SetArgs(args)
	err := cmd.Execute()
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "shmd: %v\nTry \"shmd --help\".\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "shmd: %v\n", err)
	return exitFailed
}

// Command returns shmd's command line.
func Command(stdout, stderr *os.File) *cobra.Command {
	var path, level string
	root := &cobra.Command{
		Use:   "shmd",
		Short: "run a region: shared memory, and the workers that use it",
		Long: `shmd makes anonymous shared memory, starts worker processes that inherit it by file descriptor, and supervises them.
It runs in the foreground and logs to standard error: text on a terminal, JSON otherwise, native fields if that is the journal.

SIGTERM and SIGINT stop the region in order: quit flags, then SIGTERM, then SIGKILL, each after the group's stop_timeout; a second one kills at
once. shmctl stop does the same without a signal.`,
		Example:       "  shmd                       an embedded configuration: two idle workers and a queue\n  shmd -c /etc/shmd/web.toml\n  shmd check -c web.toml",
		Args:          noArgs,
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(*cobra.Command, []string) error {
			l := hclog.LevelFromString(level)
			if l == hclog.NoLevel {
				return usageError{fmt.Errorf("log level %q: there are trace, debug, info, warn, error", level)}
			}
			c, err := load(path)
			if err != nil {
				return err
			}
			return Run(context.Background(), Options{Config: c, Version: version.Version, Log: stderr, Level: l})
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVarP(&path, "config", "c", "", "configuration `file`; without it an embedded one")
	root.Flags().StringVar(&level, "log-level", "info", "least `level` that is logged: trace, debug, info, warn, error")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		&cobra.Command{
			Use: "check", Short: "check a configuration and say everything that is wrong with it", Args: noArgs,
			Long: "check reads a configuration as shmd would, and also looks whether commands, directories and users exist and whether the memory suffices.\nExit code 0: nothing is wrong. 1: the problems are on standard output, one a line.",
			RunE: func(*cobra.Command, []string) error { return check(path, stdout) },
		},
		&cobra.Command{
			Use: "version", Short: "print the version", Args: noArgs,
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprintln(stdout, version.String("shmd"))
				return err
			},
		},
	)
	return root
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

// load reads the configuration; an empty path means the embedded one.
func load(path string) (*config.Config, error) {
	if path == "" {
		return config.Default(), nil
	}
	return config.Load(path)
}

func check(path string, out io.Writer) error {
	c, err := load(path)
	if err != nil {
		fmt.Fprintln(out, err)
		return errors.New("the configuration is wrong")
	}
	problems := c.Check()
	for _, p := range problems {
		fmt.Fprintln(out, p)
	}
	if n := len(problems); n > 0 {
		return fmt.Errorf("the configuration has %d problems", n)
	}
	name := c.Path
	if name == "" {
		name = "the embedded configuration"
	}
	_, err = fmt.Fprintf(out, "%s is fine: region %q, %d channels, %d worker groups\n", name, c.Region.Name, len(c.Channels), len(c.Groups))
	return err
}
