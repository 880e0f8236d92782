package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/cgroup"
	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/version"
)

// Exit codes of shmd.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 78 // EX_CONFIG: the configuration was refused, and there is no region that runs with another one. The unit does not restart on it
)

// usageError marks an error of the command line itself.
type usageError struct{ error }

// configError marks a configuration that was refused.
type configError struct{ error }

// Main runs the command line of shmd and returns its exit code.
func Main(args []string, stdout, stderr *os.File) int {
	if err := sys.SpareFiles(); err != nil {
		fmt.Fprintf(stderr, "shmd: %v\n", err)
		return exitFailed
	}
	cmd := Command(stdout, stderr)
	cmd.SetArgs(args)
	help := &printed{to: stdout}
	cmd.SetOut(help)
	err := cmd.Execute()
	if err == nil {
		err = help.err // cobra does not say
	}
	var usage usageError
	var refused configError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "shmd: %v\nTry \"shmd --help\".\n", err)
		return exitUsage
	case errors.As(err, &refused):
		fmt.Fprintf(stderr, "shmd: %v\n", err)
		return exitConfig
	}
	fmt.Fprintf(stderr, "shmd: %v\n", err)
	return exitFailed
}

// printed keeps the first error of what is written by somebody who does not look at it.
type printed struct {
	to  io.Writer
	err error
}

func (p *printed) Write(b []byte) (int, error) {
	n, err := p.to.Write(b)
	if p.err == nil {
		p.err = err
	}
	return n, err
}

// Command returns shmd's command line.
func Command(stdout, stderr *os.File) *cobra.Command {
	var path, level, region string
	var check bool
	root := &cobra.Command{
		Use:   "shmd",
		Short: "run a region: shared memory, and the workers that use it",
		Long: `shmd makes anonymous shared memory, starts worker processes that inherit it by file descriptor, and supervises them.
It runs in the foreground and logs to standard error: text on a terminal, JSON otherwise, native fields if that is the journal.

SIGTERM and SIGINT stop the region in order: quit flags, then SIGTERM, then SIGKILL, each after the group's stop_timeout; a second one, half a
second or more after the first, kills at once. shmctl stop does the same without a signal.

The socket, by which shmctl finds the region, is REGION.sock in $RUNTIME_DIRECTORY (systemd sets it); without that in /run/shmd for root, and in
$XDG_RUNTIME_DIR/shmd, or /run/user/UID/shmd, for other users. For root $XDG_RUNTIME_DIR does not count: set RUNTIME_DIRECTORY, for shmctl too.

Exit codes: 0 the region was stopped in order; 1 failed; 2 wrong usage; 78 the
configuration was refused. A daemon to which systemd hands the region of one that
died goes on with the configuration which that one had, if the file is refused.`,
		Example:       "  shmd                       an embedded configuration: two idle workers and a queue\n  shmd -c /etc/shmd/web.toml\n  shmd check -c web.toml",
		Args:          noArgs,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" && cmd.Flags().Changed("config") { // a variable that is not set; what holds without -c is not what was meant
				return usageError{errors.New("-c, --config: the path is empty; give one, or leave -c out")}
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			l := hclog.LevelFromString(level)
			if l == hclog.NoLevel {
				return usageError{fmt.Errorf("log level %q: there are trace, debug, info, warn, error", level)}
			}
			c, err := load(path)
			if err == nil {
				err = named(c, region)
			}
			last := lastConfig(cmp.Or(path, defaultPath()), region)
			problems := (config.Errors)(nil)
			if errors.As(err, &problems) {
				fmt.Fprintln(stderr, problems.Detail())
				err = wrong(problems)
			}
			if err != nil && (last == nil || check) {
				return configError{err}
			}
			refused := err
			if refused != nil {
				c = last
			}
			if err := attach.CheckRuntimeDir(); err != nil {
				return usageError{err}
			}
			if check {
				return selfCheck(c, version.Version, stdout)
			}
			return Run(context.Background(), Options{Config: c, Last: last, Refused: refused, Version: version.Version, Log: stderr, Level: l})
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVarP(&path, "config", "c", "", "configuration `file`; without it default.toml in $CONFIGURATION_DIRECTORY (set by systemd), or else an embedded one")
	root.PersistentFlags().StringVarP(&region, "region", "r", "", "refuse a configuration whose region has another `name`; the units give the one that their reload and stop look for")
	root.Flags().StringVar(&level, "log-level", "info", "least `level` that is logged: trace, debug, info, warn, error")
	root.Flags().BoolVar(&check, "self-check", false, "say whether this program could take over the region of the daemon that runs it: see shmctl upgrade")
	root.Flags().MarkHidden("self-check")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		&cobra.Command{
			Use: "check", Short: "check a configuration and say everything that is wrong with it", Args: noArgs,
			Long: "check reads a configuration as shmd would, and also looks whether commands, directories and users exist and whether the memory suffices.\nExit code 0: nothing is wrong. 1: the problems are on standard output, each as FILE:LINE:COLUMN: TEXT with an excerpt of the file below it.",
			RunE: func(*cobra.Command, []string) error { return checkConfig(path, region, stdout) },
		},
		&cobra.Command{
			Use: "let-in", Short: "let systemd start the daemon in a unit whose workers are in cgroups of their own", Args: noArgs, Hidden: true, // for ExecStopPost=
			RunE: func(*cobra.Command, []string) error { return cgroup.LetIn() },
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

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		if _, err := os.Stat(args[0]); err == nil && cmd.Flag("config") != nil {
			return usageError{fmt.Errorf("unexpected argument %q: a configuration is given with -c %s", args[0], args[0])}
		}
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

// load reads the configuration. An empty path means default.toml in a directory of CONFIGURATION_DIRECTORY, which systemd sets,
// and if there is none the embedded one.
func load(path string) (*config.Config, error) {
	if path = cmp.Or(path, defaultPath()); path == "" {
		return config.Default(), nil
	}
	return config.Load(path)
}

// defaultPath is the file that is meant without -c, "" for the embedded configuration.
func defaultPath() string {
	if dirs := filepath.SplitList(os.Getenv("CONFIGURATION_DIRECTORY")); len(dirs) > 0 {
		return config.FindDefault("default", dirs...)
	}
	return ""
}

// named refuses a configuration of another region than the wanted one; "": any will do.
func named(c *config.Config, region string) error {
	if problems := c.CheckName(region); region != "" && len(problems) > 0 {
		return config.Errors(problems)
	}
	return nil
}

// checkConfig prints what is wrong with a configuration to out. A file that cannot be read is no finding but an error.
func checkConfig(path, region string, out io.Writer) error {
	c, err := load(path)
	if err == nil {
		err = named(c, region)
	}
	var problems config.Errors
	switch {
	case errors.As(err, &problems):
	case err != nil:
		return err
	default:
		problems = c.Check()
	}
	if len(problems) > 0 {
		if _, err := fmt.Fprintln(out, problems.Detail()); err != nil {
			return err
		}
		return wrong(problems)
	}
	name := c.Path
	if name == "" {
		name = "the embedded configuration"
	}
	text := fmt.Sprintf("%s is fine: region %q, %s, %s\n", name, c.Region.Name, plural(len(c.Channels), "channel"), plural(len(c.Groups), "worker group"))
	if note := c.StopNote(); note != "" {
		text += note + "\n"
	}
	_, err = io.WriteString(out, text)
	return err
}

// wrong is the error of a configuration whose problems have been printed.
func wrong(problems config.Errors) error {
	return fmt.Errorf("the configuration has %s", plural(len(problems), "problem"))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
