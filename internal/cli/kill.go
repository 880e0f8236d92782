package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
)

// signalFlag is a flag that takes a signal, once: elsewhere -s is the socket, and one given for that must not be lost.
type signalFlag struct {
	sig   syscall.Signal
	given bool
}

func (f *signalFlag) String() string { return sys.SignalName(f.sig) }
func (f *signalFlag) Type() string   { return "string" }

func (f *signalFlag) Set(name string) error {
	sig, ok := sys.SignalByName(name)
	switch {
	case !ok:
		return fmt.Errorf("no signal is called so: there are HUP, USR1, TERM and so on (kill -l), RTMIN+1, and numbers; for kill, -s is the signal: write --socket for the socket")
	case f.given:
		return fmt.Errorf("a signal was given already: for kill, -s is the signal; write --socket for the socket")
	}
	f.sig, f.given = sig, true
	return nil
}

func (a *app) killCommand() *cobra.Command {
	flag := &signalFlag{sig: syscall.SIGTERM}
	c := a.verb(cobra.Command{
		Use:   "kill [-s SIGNAL] NAME...",
		Short: "send a signal to workers",
		Long: `kill sends a signal to the processes of the named workers, and of all workers
of the named groups that run. Of a filter it is the filter that gets it. The
process is known by its pidfd, so no other can be hit. What is needed is the
right to signal it, the worker's own user's or root's, and the right to look
(observe in [access]). No daemon is needed, but without one only the daemon's
user and root get at the region.

It says nothing about what is wanted: if the worker ends, its restart policy
decides, as after every death. To stop a worker use shmctl stop.

Exit code 3: a named worker is not running; then nobody got a signal. Here -s
is the signal, as for kill(1); the socket is --socket.`,
		Example: `  shmctl kill -s HUP nginx
  shmctl kill -s USR1 parser.2
  shmctl kill -s KILL parser.2`,
		ValidArgsFunction: a.complete(workerNames),
	}, func(cmd *cobra.Command, names []string) error {
		if len(names) == 0 {
			return usagef("kill: which workers? Give names")
		}
		return anyNames(cmd, names)
	}, func(ctx context.Context, names []string) error { return a.kill(ctx, names, flag.sig) })
	c.Flags().VarP(flag, "signal", "s", "`signal` to send: HUP, SIGHUP, 1, RTMIN+1")
	c.Flags().StringVar(&a.socket, "socket", "", "`path` of the daemon's socket, if it is not at the usual place") // without its short form
	c.RegisterFlagCompletionFunc("signal", cobra.FixedCompletions([]string{"HUP", "INT", "QUIT", "ABRT", "KILL", "USR1", "USR2", "TERM", "CONT", "STOP", "WINCH"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) kill(ctx context.Context, names []string, sig syscall.Signal) error {
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	done, err := control.Kill(s.Set, names, sig)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: become the worker's user, or root", err)
	}
	if err != nil && len(done) == 0 {
		return err
	}
	if a.json() {
		return errors.Join(a.printJSON(struct {
			Schema  int                 `json:"schema"`
			Region  string              `json:"region"`
			Signal  string              `json:"signal"`
			Workers []control.Signalled `json:"workers"`
		}{schema, s.name(), sys.SignalName(sig), done}), err)
	}
	if a.quiet {
		return err
	}
	t := a.newTable("NAME", "PID", "SIGNAL")
	for _, w := range done {
		t.add(w.Name, fmt.Sprint(w.Pid), sys.SignalName(sig))
	}
	return errors.Join(t.print(), err)
}
