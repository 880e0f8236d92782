package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// oneChannel is the check of the arguments of a verb that takes one channel.
func oneChannel(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0 || args[0] == "":
		return usagef("%s: which channel? Give one name; shmctl ch ls lists them", cmd.CommandPath())
	case len(args) > 1:
		return usagef("%s: one channel at a time; what is %q?", cmd.CommandPath(), cut(args[1]))
	}
	return nil
}

// ofKind completes the name of a channel of one of the kinds; all if there is none.
func (a *app) ofKind(kinds ...protocol.Kind) cobra.CompletionFunc {
	names := a.complete(func(s *session) []string {
		return segmentsOf(s, func(g protocol.Segment) bool {
			if len(kinds) == 0 {
				return protocol.IsChannel(g.Kind)
			}
			for _, k := range kinds {
				if g.Kind == k {
					return true
				}
			}
			return false
		})
	})
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(cmd, args, begun)
	}
}

// waitFlag adds --wait, how the ends of this process wait, to a verb that waits for what others send.
func (a *app) waitFlag(c *cobra.Command) {
	c.Flags().Var((*waitValue)(&a.waiting), "wait", "`how` to wait: adaptive, block (sleep at once) or spin (never sleep; takes a CPU)")
	c.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions(waitNames, cobra.ShellCompDirectiveNoFileComp))
}

// waitNames are the values of --wait.
var waitNames = []string{shm.WaitAdaptive.String(), shm.WaitBlock.String(), shm.WaitSpin.String()}

// waitValue is the value of --wait.
type waitValue shm.Wait

func (v *waitValue) Set(s string) error {
	w, err := shm.ParseWait(s)
	if err == nil && w == shm.WaitUsual {
		err = errors.New("give adaptive, block or spin")
	}
	*v = waitValue(w)
	return err
}

func (v *waitValue) Type() string { return "how" }

func (v *waitValue) String() string {
	if *v == waitValue(shm.WaitUsual) {
		return ""
	}
	return shm.Wait(*v).String()
}

// attach makes this process an outsider of the region, called name in ps -a, that holds the channels it says. Without a daemon there
// is none: an attachment is the daemon's to give.
//
// Errors: those of shm.Attach.
func (a *app) attach(ctx context.Context, name string, produce, consume []string) (*shm.Region, error) {
	answered := a.tellSilence(tellAfter, false)
	r, err := shm.Attach(ctx, shm.Options{Region: a.meant, Socket: a.socketPath(), Name: name, Produce: produce, Consume: consume, Wait: a.waiting})
	answered()
	if err == nil {
		return r, nil
	}
	var refused *attach.RefusedError
	switch {
	case errors.As(err, &refused) && refused.Code == attach.CodeNoChannel:
		return nil, errors.New(refused.Text)
	case errors.Is(err, shm.ErrNoDaemon), errors.Is(err, shm.ErrDeadSocket):
		s, err2 := a.throughProcesses()
		if err2 != nil {
			return nil, fmt.Errorf("%w; %w", err, err2)
		}
		s.Close()
		return nil, fmt.Errorf("%w; the workers live and exchange messages, but only a daemon lets others in", err)
	}
	return nil, a.unanswered(ctx, err)
}

// attachOne is attach to one channel, to produce or to consume there.
func (a *app) attachOne(ctx context.Context, verb, channel string, produce bool) (*shm.Region, error) {
	if produce {
		return a.attach(ctx, "shmctl "+verb, []string{channel}, nil)
	}
	return a.attach(ctx, "shmctl "+verb, nil, []string{channel})
}

// verbsFor are the verbs for what lies in a channel of a kind.
func verbsFor(kind protocol.Kind) string {
	switch kind {
	case protocol.KindQueue, protocol.KindTopic:
		return "shmctl pub sends messages there, and sub receives them"
	case protocol.KindLatest:
		return "shmctl put sets its value, get prints it, and watch each change"
	case protocol.KindCall:
		return "shmctl req sends a request, and reply serves them"
	}
	return "this shmctl does not know it; use the one of the daemon's release"
}

// unknownKind says why a channel that this process attached to is of no kind that it knows.
func unknownKind(verb string, r *shm.Region, channel string) error {
	kind := r.Kind(channel)
	if kind != 0 {
		return wrongKind(verb, channel, kind, verbsFor(kind))
	}
	_, err := r.Queue(channel) // says why it could not be opened
	if errors.Is(err, protocol.ErrForeign) || errors.Is(err, protocol.ErrNotReady) {
		return fmt.Errorf("%s: the head of the channel's memory is damaged: %w; shmctl status says what to do", verb, err)
	}
	return fmt.Errorf("%s: %w", verb, err)
}

// wrongKind says which verb is for a channel of this kind.
func wrongKind(verb, channel string, kind protocol.Kind, use string) error {
	return fmt.Errorf("%s: channel %q is of kind %v: %s", verb, channel, kind, use)
}

// stopped is the end of a verb by a stop of the region.
func stopped(done string) error {
	return fmt.Errorf("the region is asked to stop: %s", done)
}

// progress shows on standard error, if that is a terminal, what a long transfer has done.
type progress struct {
	a     *app
	end   chan struct{}
	ended chan struct{}
}

// progressAfter is how long a transfer takes before it is called long.
const progressAfter = time.Second

// showProgress begins to show what tell returns. It is ended with close.
func (a *app) showProgress(tell func(took time.Duration) string) *progress {
	if a.quiet || !isatty.IsTerminal(a.stderr.Fd()) {
		return nil
	}
	p := &progress{a: a, end: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		began := time.Now()
		tick := time.NewTicker(progressAfter)
		defer tick.Stop()
		shown := false
		for {
			select {
			case <-tick.C:
				shown = true
				fmt.Fprintf(a.stderr, "\r%s\x1b[K", tell(time.Since(began)))
			case <-p.end:
				if shown {
					fmt.Fprint(a.stderr, "\r\x1b[K")
				}
				return
			}
		}
	}()
	return p
}

// close removes it from the terminal.
func (p *progress) close() {
	if p != nil {
		close(p.end)
		<-p.ended
	}
}

// transferred is a line about messages and bytes.
func transferred(messages, bytes uint64, in time.Duration) string {
	return fmt.Sprintf("%d messages, %s, %.3g messages/s, %s/s", messages, size(int64(bytes)), float64(messages)/in.Seconds(), size(int64(float64(bytes)/in.Seconds())))
}
