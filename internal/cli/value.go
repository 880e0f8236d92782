package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// valueJSON is a value of a channel of kind latest.
type valueJSON struct {
	Schema  int    `json:"schema,omitempty"` // not in a stream
	Channel string `json:"channel,omitempty"`
	Version uint64 `json:"version"`
	payloadJSON
}

func (a *app) getCommand() *cobra.Command {
	var raw bool
	c := a.verb(cobra.Command{
		Use:   "get [--raw] CHANNEL",
		Short: "print the newest value of a channel",
		Long: `get prints the newest value of a channel of kind latest, with a newline behind
it; with --raw its bytes alone. -o json tells its version, too, for
put --if-version. A channel that nobody has put a value into is a failure.`,
		Example: `  shmctl get config
  shmctl get --raw frame >frame.png
  shmctl get config -o json | jq .version`,
		ValidArgsFunction: a.ofKind(protocol.KindLatest),
	}, oneChannel, func(ctx context.Context, args []string) error { return a.get(ctx, args[0], raw) })
	c.Flags().BoolVar(&raw, "raw", false, "put nothing behind the value")
	return c
}

// latest attaches to a channel of kind latest.
func (a *app) latest(ctx context.Context, verb, channel string, produce bool) (*shm.Region, *shm.Latest, error) {
	r, err := a.attachOne(ctx, verb, channel, produce)
	if err != nil {
		return nil, nil, err
	}
	if kind := r.Kind(channel); kind != protocol.KindLatest {
		r.Close()
		return nil, nil, wrongKind(verb, channel, kind, "it keeps no value; "+verbsFor(kind))
	}
	l, err := r.Latest(channel)
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, l, nil
}

func (a *app) get(ctx context.Context, channel string, raw bool) error {
	r, l, err := a.latest(ctx, "get", channel, false)
	if err != nil {
		return err
	}
	defer r.Close()
	b, version, err := l.Get(nil)
	if errors.Is(err, shm.ErrEmpty) {
		return fmt.Errorf("channel %q has no value yet: shmctl put sets one, watch -n 1 waits for one", channel)
	}
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(valueJSON{schema, channel, version, payload(b)})
	}
	if !raw {
		b = append(b, '\n')
	}
	_, err = a.stdout.Write(b)
	return err
}

func (a *app) putCommand() *cobra.Command {
	var raw bool
	var version uint64
	var c *cobra.Command
	c = a.verb(cobra.Command{
		Use:   "put [--raw] [--if-version N] CHANNEL [VALUE|-]",
		Short: "make a value the newest one of a channel",
		Long: `put makes VALUE, or all of standard input, the newest value of a channel of
kind latest. A newline at the end of standard input is not part of it, unless
with --raw. Of several writers the last one wins.

--if-version N puts it only if the present version is N (0: there is no value
yet), and fails else: so that nothing is overwritten that was not seen.
-o json tells the new version.`,
		Example: `  shmctl put config '{"level": 3}'
  shmctl put --raw frame <frame.png
  shmctl put --if-version 7 config '{"level": 4}'`,
		ValidArgsFunction: a.ofKind(protocol.KindLatest),
	}, valueArgs, func(ctx context.Context, args []string) error {
		return a.put(ctx, args, raw, c.Flags().Changed("if-version"), version)
	})
	c.Flags().BoolVar(&raw, "raw", false, "a newline at the end of standard input is part of the value")
	c.Flags().Uint64Var(&version, "if-version", 0, "only if the present version is `N`")
	c.RegisterFlagCompletionFunc("if-version", cobra.NoFileCompletions)
	return c
}

// valueArgs is the check of a channel with what is to be sent there.
func valueArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 2 {
		return usagef("%s: one at a time; what is %q? Quote what has several words", cmd.CommandPath(), cut(args[2]))
	}
	return oneChannel(cmd, args[:min(len(args), 1)])
}

// given returns what the command line says to send: an argument, or all of standard input up to limit bytes.
func (a *app) given(ctx context.Context, r *shm.Region, args []string, raw bool, limit int) ([]byte, error) {
	if len(args) == 2 && args[1] != "-" {
		return []byte(args[1]), nil
	}
	var b []byte
	for c := range read(ctx, r, a.stdin) {
		if c.err != nil {
			return nil, c.err
		}
		if b = append(b, c.b...); len(b) > limit+1 {
			return nil, fmt.Errorf("standard input is too large: a slot of channel %q holds %d bytes", args[0], limit)
		}
		c.done()
	}
	if n := len(b); !raw && n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
	}
	return b, nil
}

func (a *app) put(ctx context.Context, args []string, raw, conditional bool, version uint64) error {
	r, l, err := a.latest(ctx, "put", args[0], true)
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := a.given(ctx, r, args, raw, l.SlotSize())
	if err != nil {
		return ended(ctx, err, "nothing was put: standard input has not ended")
	}
	if conditional {
		version, err = l.CompareAndSet(version, b)
	} else {
		version, err = l.Put(b)
	}
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(struct {
			Schema  int    `json:"schema"`
			Channel string `json:"channel"`
			Version uint64 `json:"version"`
		}{schema, args[0], version})
	}
	return nil
}

// ended says what was not done when --timeout or a stop of the region ended a verb.
func ended(ctx context.Context, err error, missing string) error {
	switch {
	case errors.Is(err, shm.ErrQuit):
		return stopped(missing)
	case ctx.Err() != nil:
		return explain(context.Cause(ctx), missing)
	}
	return err
}

func (a *app) watchCommand() *cobra.Command {
	var o subOptions
	c := a.verb(cobra.Command{
		Use:   "watch [-n N] [--timeout D] [-0|--raw] CHANNEL",
		Short: "print the value of a channel whenever it changes",
		Long: `watch prints the value of a channel of kind latest, if there is one, and then
each change, with a newline behind it. Values that are replaced before watch
has printed the one before are passed over: it is always at the newest.

It ends with 0 when the region is stopped, when it is interrupted, and after N
values (-n); it ends with 124 when the value did not change for D (--timeout).
-o json prints an object a line, with the version.`,
		Example: `  shmctl watch config
  shmctl watch -n 1 --timeout 10s config
  shmctl watch -o json config | jq -r .text`,
		ValidArgsFunction: a.ofKind(protocol.KindLatest),
	}, func(cmd *cobra.Command, args []string) error {
		switch {
		case o.n < 0 && cmd.Flags().Changed("number"):
			return usagef("watch: -n %d: give the number of values, 0 or more", o.n)
		case o.silence < 0:
			return usagef("watch: timeout %v is below zero; 0 means no limit", o.silence)
		case o.raw && o.nul:
			return usagef("watch: --raw puts nothing behind a value, -0 a NUL byte: one of them")
		}
		return oneChannel(cmd, args)
	}, func(ctx context.Context, args []string) error { return a.watch(ctx, args[0], o) })
	f := c.Flags()
	f.Int64VarP(&o.n, "number", "n", -1, "end after `N` values")
	allOfThem(f.Lookup("number"))
	f.DurationVar(&o.silence, "timeout", 0, "end when the value did not change for this `time`, 10s say (exit code 124); 0 for never")
	f.BoolVarP(&o.nul, "null", "0", false, "put a NUL byte behind each value, not a newline")
	f.BoolVar(&o.raw, "raw", false, "put nothing behind a value")
	for _, name := range []string{"number", "timeout"} {
		c.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return c
}

func (a *app) watch(ctx context.Context, channel string, o subOptions) error {
	attaching, attached := within(ctx, o.silence) // nothing changes before
	r, l, err := a.latest(attaching, "watch", channel, false)
	attached()
	if err != nil {
		return err
	}
	defer r.Close()
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer onHangup(a.stdout, func() { cancel(errHungUp) })()
	var b []byte
	var version uint64
	missing := func(n int64) string { return fmt.Sprintf("%d of %s came", n, count(int(o.n), "value")) }
	for n := int64(0); o.n < 0 || n < o.n; n++ {
		soon, stop := running, func() {}
		if o.silence > 0 {
			soon, stop = context.WithTimeout(running, o.silence)
		}
		_, err := l.Wait(soon, version)
		stop()
		if err == nil {
			b, version, err = l.Get(b[:0])
		}
		switch {
		case err == nil:
		case errors.Is(context.Cause(running), errHungUp):
			return errHungUp
		case errors.Is(err, context.DeadlineExceeded):
			return timeoutError{o.silence, "the value did not change"}
		case errors.Is(err, shm.ErrQuit), ctx.Err() != nil:
			if o.n >= 0 {
				return ended(ctx, err, missing(n))
			}
			return nil
		default:
			return err
		}
		if err := a.printValue(version, b, o); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printValue(version uint64, b []byte, o subOptions) error {
	if a.json() {
		return a.printJSON(valueJSON{Version: version, payloadJSON: payload(b)})
	}
	_, err := a.stdout.Write(slices.Concat(b, []byte(o.end())))
	return err
}
