// Package cli is shmctl: it attaches to a region's memory, looks at it, and controls it. One verb, one file.
//
// Standard output is what was asked for; everything else goes to standard error. Exit codes and JSON are interfaces.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/shm"
)

// Exit codes of shmctl.
const (
	ExitOK         = 0
	ExitFailed     = 1
	ExitUsage      = 2
	ExitNotRunning = 3   // the named worker is not running
	ExitNoRegion   = 4   // no daemon and no living process of the region
	ExitPermission = 5   // permission denied
	ExitTimeout    = 124 // as timeout(1)
	ExitPipe       = 141 // nobody reads standard output any more: what a shell says of one that SIGPIPE ended
)

// schema is the "schema" of every JSON document. It is raised when a field is removed or changes its meaning.
const schema = 1

// app is one run of shmctl: the global flags and the streams.
type app struct {
	stdin          io.Reader
	stdout, stderr *os.File
	help           printed // to stdout, by cobra

	region  string
	meant   string // the region that the user named, "" if the socket says which it is
	socket  string
	output  string
	timeout time.Duration
	quiet   bool
	noColor bool
	waiting shm.Wait // of the ends of channels; see waitFlag

	chosen    string          // how the region was chosen on the command line: "-r NAME", "-s PATH" or ""
	verbNames map[string]bool // if it was: what may follow shmctl in a hint

	remarked bool // the state of the daemon was remarked upon
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

// usageError marks an error of the command line itself.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Main runs the command line of shmctl and returns its exit code.
//
// A standard output that was closed (>&-) takes everything: Go's runtime opens /dev/null in its place before main, for reading and writing, which is just
// what subprocess.DEVNULL of Python and daemon(3) give on purpose, so that the one cannot be refused without the other.
func Main(args []string, stdin io.Reader, stdout, stderr *os.File) int {
	if err := sys.SpareFiles(); err != nil {
		fmt.Fprintf(stderr, "shmctl: %v\n", err)
		return ExitFailed
	}
	if spec, ok := os.LookupEnv(benchVariable); ok {
		return benchEnd(spec, stdin, stdout, stderr)
	}
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	cmd := a.command()
	cmd.SetArgs(args)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	ran, err := cmd.ExecuteContextC(ctx)
	if err == nil {
		err = a.help.err // cobra does not say
	}
	if err == nil {
		return ExitOK
	}
	var usage usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "shmctl: %s\nTry \"%s --help\".\n", a.hints(err.Error()), ran.CommandPath())
		return ExitUsage
	case errors.Is(err, errSilent), errors.Is(err, errHungUp):
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "shmctl: interrupted")
	default:
		fmt.Fprintf(stderr, "shmctl: %s\n", a.hints(err.Error()))
	}
	return exitCode(err)
}

// errSilent fails without a word: the verb has said all.
var errSilent = errors.New("failed")

// errHungUp ends a verb that has nothing to write when nobody reads standard output any more, as the next write would.
var errHungUp = errors.New("nobody reads standard output")

// exitCode says which code an error has.
func exitCode(err error) int {
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, errHungUp):
		return ExitPipe
	case errors.Is(err, context.DeadlineExceeded):
		return ExitTimeout
	case errors.Is(err, control.ErrNotRunning):
		return ExitNotRunning
	case errors.Is(err, control.ErrNoRegion):
		return ExitNoRegion
	case errors.Is(err, control.ErrPermission), errors.Is(err, attach.ErrPermission), errors.Is(err, fs.ErrPermission):
		return ExitPermission
	}
	return ExitFailed
}

// Command returns shmctl's command line, for the generator of the man pages.
func Command(stdout, stderr *os.File) *cobra.Command {
	return (&app{stdin: os.Stdin, stdout: stdout, stderr: stderr}).command()
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "shmctl",
		Short: "look at a region and control it, through its memory",
		Long: `shmctl attaches to the memory of a region (see shmd) and reads and writes it.
Commands are stores in that memory: stop flips a quit-flag byte and wakes the
worker, and works while the daemon hangs or is dead. Then the memory is taken
from a living process of the region, which takes the same user or root, and
shmctl says so.

Standard output is what was asked for: tables, or with -o json one document
with a "schema" number (a stream prints one object a line). All else goes to
standard error.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the named worker is not
running; 4 no daemon and no living process of the region; 5 permission denied;
124 timeout; 141 nobody reads standard output any more (shmctl ... | head).`,
		Example: `  shmctl status
  shmctl ps
  shmctl logs -f parser
  shmctl stop parser.2`,
		SilenceErrors: true, SilenceUsage: true,
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true}, // ours is verb "completion"
		Args:                       a.verbOf,
		RunE:                       a.noVerb,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if name, ok := strings.CutSuffix(filepath.Base(a.socket), ".sock"); ok && os.Getenv("SHMCTL_REGION") == "" && !cmd.Flags().Changed("region") {
				a.region = name // as the socket is called, the region is
			} else if a.socket == "" || cmd.Flags().Changed("region") || os.Getenv("SHMCTL_REGION") != "" {
				a.meant = a.region
			}
			a.choose(cmd.Root())
			if err := attach.CheckRuntimeDir(); err != nil && a.socket == "" {
				return usageError{err}
			}
			if err := noEmptyPath(cmd); err != nil {
				return err
			}
			switch {
			case !regionName.MatchString(a.region):
				return usagef("region %q is no name of a region: 1 to 31 of a-z, 0-9, - and _, the first a letter or digit", cut(a.region))
			case a.timeout < 0:
				return usagef("timeout %v is below zero; 0 means no limit", a.timeout)
			case a.output == "table", a.output == "json", (a.output == "short" || a.output == "cat") && cmd.Name() == "logs":
				return nil
			case a.output == "short", a.output == "cat":
				return usagef("output format %s is for logs; here there are table and json", a.output)
			}
			return usagef("output format %q: there are table and json (and short and cat, for logs)", a.output)
		},
	}
	root.SetIn(a.stdin)
	a.help.to = a.stdout
	root.SetOut(&a.help)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
	root.SetHelpCommand(a.helpCommand(root))
	region := os.Getenv("SHMCTL_REGION")
	if region == "" {
		region = "default"
	}
	f := root.PersistentFlags()
	f.StringVarP(&a.region, "region", "r", region, "`name` of the region; $SHMCTL_REGION")
	f.StringVarP(&a.socket, "socket", "s", "", "`path` of the daemon's socket, if it is not at the usual place")
	f.StringVarP(&a.output, "output", "o", "table", "`format` of the output: table, or json for programs")
	f.DurationVar(&a.timeout, "timeout", 0, "give up after this `time`, 10s say (exit code 124); 0 for never")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no warnings and no progress on standard error")
	f.BoolVar(&a.noColor, "no-color", false, "no colour, not on a terminal either; $NO_COLOR")
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	root.RegisterFlagCompletionFunc("region", completeRegions)
	root.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
	root.AddCommand(a.verbs()...)
	return root
}

// verbOf is the check of the arguments of a command that only has verbs below it.
func (a *app) verbOf(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef("unknown verb %q; did you mean %q?", cmd.CommandPath()+" "+args[0], cmd.CommandPath()+" "+near[0])
	}
	return usagef("unknown verb %q", cmd.CommandPath()+" "+args[0])
}

// noVerb is the run of such a command: help that nobody asked for is an error.
func (a *app) noVerb(cmd *cobra.Command, _ []string) error {
	cmd.SetOut(a.stderr)
	cmd.Help()
	return usagef("%s: which verb?", cmd.CommandPath())
}

func (a *app) helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [VERB]",
		Short:   "show the help of a verb",
		Long:    "help shows what shmctl VERB --help shows.",
		Example: "  shmctl help stop",
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, c := range root.Commands() {
				names = append(names, c.Name())
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("there is no verb %q", strings.Join(args, " "))
			}
			return c.Help()
		},
	}
}

// context applies --timeout.
func (a *app) context(ctx context.Context) (context.Context, context.CancelFunc) {
	return within(ctx, a.timeout)
}

// within ends a context after a --timeout; 0 is none.
func within(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout > 0 {
		return context.WithTimeoutCause(ctx, timeout, timeoutError{after: timeout})
	}
	return context.WithCancel(ctx)
}

// A timeoutError is the end of --timeout, and says what was not done by then. errors.Is(err, context.DeadlineExceeded).
type timeoutError struct {
	after   time.Duration
	missing string // "" if that is not known
}

func (e timeoutError) Error() string {
	text := fmt.Sprintf("timeout after %v", e.after)
	if e.missing != "" {
		text += ": " + e.missing
	}
	return text
}

func (timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// explain adds to the end of --timeout what was missing then; other errors stay as they are.
func explain(err error, missing string) error {
	if e, ok := err.(timeoutError); ok && e.missing == "" {
		e.missing = missing
		return e
	}
	return err
}

// warn writes a line to standard error, unless --quiet.
func (a *app) warn(format string, args ...any) {
	if !a.quiet {
		a.always(format, args...)
	}
}

// always writes a line to standard error, also with --quiet: it is a failure.
func (a *app) always(format string, args ...any) {
	fmt.Fprintf(a.stderr, "shmctl: %s\n", a.hints(fmt.Sprintf(format, args...)))
}

func (a *app) json() bool { return a.output == "json" }

// printJSON writes one document, or one object of a stream, on a line.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// regionName is what the configuration allows as a name.
var regionName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,30}$`)

// cut shortens what is repeated in an error.
func cut(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}
