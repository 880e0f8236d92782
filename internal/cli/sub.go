package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// Values of --ack.
const (
	ackAuto   = "auto"
	ackManual = "manual"
)

// subOptions is the command line of sub.
type subOptions struct {
	channel    string
	n          int64 // messages; -1: no limit
	silence    time.Duration
	raw        bool
	nul        bool
	untilEmpty bool
	group      string
	ack        string
	command    []string // run for each message; nil: print

	all, last, fresh bool // where in a topic to begin
}

func (a *app) subCommand() *cobra.Command {
	var o subOptions
	c := a.verb(cobra.Command{
		Use:   "sub [-n N] [--timeout D] [--until-empty] [-0|--raw] [--ack auto|manual] [--wait HOW] CHANNEL [-- COMMAND...]",
		Short: "receive messages from a channel and print them",
		Long: `sub receives messages and prints each with a newline behind it. Of a queue each
message goes to one of all that receive from it, sub or worker; of a topic every
subscriber gets every message.

It ends with 0 when the region is stopped, when the channel was drained (ch
drain), when it is interrupted, after N messages (-n), and with --until-empty as
soon as nothing waits in the channel; it ends with 124 when no message came for
D (--timeout). With -n, whatever ends it before N messages is a failure.

A message is acked when standard output has taken it. Until then it is sub's,
and comes back for another consumer if sub is killed, so that one may be
printed twice, and none is lost on the way; but what a pipe has taken is gone
when its reader ends: sub CHANNEL | head -1 receives more than one message,
sub -n 1 CHANNEL does not. Output is written in large blocks, and at once when
nothing waits in the channel.

With COMMAND it runs that once for each message, with the message on standard
input. With --ack=manual the message is acked if COMMAND exits with 0, and is
else given back for another try, by whoever comes first; after the channel's
max_deliveries it is a dead letter. Without --ack=manual it is acked when
COMMAND has ended, and sub fails at the end if one failed. An interrupt tells
COMMAND to end (SIGTERM); if it fails then, its message goes back. A sub that is
killed (SIGKILL) leaves its COMMAND running, beside the next try of its message.
With -n each try counts.

All that receive from a queue compete; --group NAME only says how ps -a lists
this one. A topic begins with the next message, with --last with the newest one,
with --all with the oldest that is kept. Messages that were overwritten before
sub read them (overflow = "drop-oldest") are counted on standard error. Nothing
is acked there: a subscriber that ends leaves nothing behind. Of a dead-letter
channel (NAME.dead) sub takes the dead letters and prints what was sent; ch dead
shows where from and why, and takes nothing.

-o json prints an object a line: position and index (which identify it),
deliveries (how often it was delivered before), bytes, and the message as text,
or as base64 if it is not UTF-8.

sub is an outsider of the region: the daemon lets in root, its own user, and
whom the channel names in allow_consume.`,
		Example: `  shmctl sub results
  shmctl sub -n 10 --timeout 5s results
  shmctl sub --until-empty numbers | sort -n
  shmctl sub --raw -n 1 frames >picture.png
  shmctl sub --ack=manual jobs -- ./convert.sh
  shmctl sub -o json jobs | jq -r .text`,
		ValidArgsFunction: a.ofKind(protocol.KindQueue, protocol.KindTopic),
	}, func(cmd *cobra.Command, args []string) error {
		if n := cmd.ArgsLenAtDash(); n >= 0 {
			args, o.command = args[:n], args[n:]
			if len(o.command) == 0 {
				return usagef("sub: which command? There is none behind --")
			}
		}
		if err := oneChannel(cmd, args); err != nil {
			return err
		}
		o.channel = args[0]
		switch {
		case o.ack != ackAuto && o.ack != ackManual:
			return usagef("sub: --ack %s: there are auto and manual", cut(o.ack))
		case o.ack == ackManual && o.command == nil:
			return usagef("sub: --ack=manual goes by the exit status of a command: sub --ack=manual CHANNEL -- COMMAND...")
		case o.command != nil && (o.raw || o.nul || a.json()):
			return usagef("sub: the command gets the bytes of each message; -0, --raw and -o json are for printing")
		case o.all && o.last || o.all && o.fresh || o.last && o.fresh:
			return usagef("sub: --all, --last and --new say where to begin: one of them")
		case o.group != "" && !regionName.MatchString(o.group):
			return usagef("sub: --group %s: 1 to 31 of a-z, 0-9, - and _, the first a letter or digit", cut(o.group))
		case o.n < 0 && cmd.Flags().Changed("number"):
			return usagef("sub: -n %d: give the number of messages, 0 or more", o.n)
		case o.silence < 0:
			return usagef("sub: timeout %v is below zero; 0 means no limit", o.silence)
		case o.raw && o.nul:
			return usagef("sub: --raw puts nothing behind a message, -0 a NUL byte: one of them")
		case a.json() && (o.raw || o.nul):
			return usagef("sub: -o json prints an object a line; -0 and --raw are for the bytes of messages")
		}
		return nil
	}, func(ctx context.Context, _ []string) error { return a.sub(ctx, o) })
	f := c.Flags()
	f.Int64VarP(&o.n, "number", "n", -1, "end after `N` messages")
	allOfThem(f.Lookup("number"))
	f.DurationVar(&o.silence, "timeout", 0, "end when no message came for this `time`, 10s say (exit code 124); 0 for never")
	f.BoolVar(&o.untilEmpty, "until-empty", false, "end as soon as nothing waits in the channel")
	f.StringVar(&o.ack, "ack", ackAuto, "`when` a message is done: auto, or manual by the exit status of COMMAND")
	f.StringVar(&o.group, "group", "", "`name` under which ps -a lists this consumer")
	f.BoolVarP(&o.nul, "null", "0", false, "put a NUL byte behind each message, not a newline")
	f.BoolVar(&o.raw, "raw", false, "put nothing behind a message")
	f.BoolVar(&o.all, "all", false, "of a topic: begin with the oldest message that is kept")
	f.BoolVar(&o.last, "last", false, "of a topic: begin with the newest message that there is")
	f.BoolVar(&o.fresh, "new", false, "of a topic: begin with the next message; the default")
	a.waitFlag(c)
	c.RegisterFlagCompletionFunc("ack", cobra.FixedCompletions([]string{ackAuto, ackManual}, cobra.ShellCompDirectiveNoFileComp))
	for _, name := range []string{"number", "timeout", "group"} {
		c.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return c
}

func (a *app) sub(ctx context.Context, o subOptions) error {
	if o.command != nil {
		if _, err := exec.LookPath(o.command[0]); err != nil { // before a message is taken for it
			return err
		}
	}
	name := "shmctl sub"
	if o.group != "" {
		name = o.group
	}
	attaching, attached := within(ctx, o.silence) // nothing comes before
	r, err := a.attach(attaching, name, nil, []string{o.channel})
	attached()
	if err != nil {
		return err
	}
	from, err := a.consumer(r, o)
	if err != nil {
		r.Close()
		return err
	}
	s := &subRun{a: a, o: o, from: from, out: newSink(a.stdout, from.slots()), end: o.end()}
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := make(chan struct{})
	go func() {
		defer close(watch)
		if from.drained(running) == nil {
			cancel(errDrained)
		}
	}()
	end := func() {
		cancel(nil)
		<-watch
		from.close()
		r.Close()
	}
	if o.command != nil {
		defer end()
		return s.run(running)
	}
	defer onHangup(a.stdout, func() { cancel(errHungUp) })()
	ended := make(chan error, 1)
	go func() { ended <- s.run(running) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		select {
		case err = <-ended:
		case <-time.After(outputPatience): // without Close: what it holds goes back when this process has ended
			return errors.New("interrupted while standard output takes nothing: what it did not take goes back to the channel")
		}
	}
	end()
	return err
}

// outputPatience is how long an interrupted sub waits for what standard output is just taking.
const outputPatience = time.Second

// subRun is one run of sub.
type subRun struct {
	a    *app
	o    subOptions
	from consumer
	out  *sink
	end  string // behind each message
	got  int64

	empty   time.Time // since when nothing could be had; zero: something could
	settled bool      // nothing could be had, and then nothing was on its way

	interrupt context.Context // ends what the command does
	failed    int64           // commands
}

func (o subOptions) end() string {
	switch {
	case o.raw:
		return ""
	case o.nul:
		return "\x00"
	}
	return "\n"
}

// run receives and prints until the end, and says how it ended.
func (s *subRun) run(ctx context.Context) error {
	s.interrupt = ctx
	err := s.receive(ctx)
	flushed := s.out.flush()
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, errHungUp):
		return cause
	case flushed != nil:
		return fmt.Errorf("standard output: %w", flushed)
	}
	missing := fmt.Sprintf("%d of %s came", s.got, count(int(s.o.n), "message"))
	switch {
	case err == nil, s.got == s.o.n:
		if s.failed > 0 && s.o.ack == ackAuto {
			return fmt.Errorf("%d of %s failed", s.failed, count(int(s.got), "command"))
		}
		return nil
	case errors.Is(err, errSilence):
		if s.o.n < 0 {
			missing = fmt.Sprintf("no message more; %s came", count(int(s.got), "message"))
		}
		return timeoutError{s.o.silence, missing}
	case errors.Is(err, shm.ErrQuit):
		err = stopped(missing)
	case errors.Is(cause, errDrained):
		err = fmt.Errorf("the channel was drained: %s", missing)
	case errors.Is(err, errEmpty):
		err = fmt.Errorf("the channel is empty: %s", missing)
	case errors.Is(err, context.Canceled):
		err = fmt.Errorf("interrupted: %s", missing)
	case errors.Is(err, shm.ErrEvicted):
		return fmt.Errorf("channel %q: %w, after %s; shmctl events evict says why, and sub --all begins again with the oldest that is kept", s.o.channel, err, count(int(s.got), "message"))
	default:
		return err
	}
	switch {
	case s.o.n >= 0:
		return err
	case s.failed > 0 && s.o.ack == ackAuto:
		return fmt.Errorf("%d of %s failed", s.failed, count(int(s.got), "command"))
	}
	return nil
}

// movePatience is how long --until-empty waits for dead letters on their way: of one for which its channel has no room, nobody knows when it goes.
const movePatience = time.Second

var (
	errSilence = errors.New("silence") // ends sub at --timeout
	errEmpty   = errors.New("empty")   // ends sub at --until-empty
	errDrained = errors.New("drained") // ends sub when the channel was drained
)

// receive receives until the end; nil is the end by -n.
func (s *subRun) receive(ctx context.Context) error {
	for s.o.n < 0 || s.got < s.o.n {
		if err := ctx.Err(); err != nil {
			return err
		}
		take := s.takeBatch
		if s.o.command != nil {
			take = s.runCommand
		} else if s.a.json() || s.o.n >= 0 && s.o.n-s.got < shm.MaxBatch {
			take = s.takeMessage
		}
		err := take(ctx, false)
		if err == nil {
			s.empty, s.settled = time.Time{}, false
		}
		if errors.Is(err, shm.ErrEmpty) {
			held := len(s.out.held) > 0
			if err := s.out.flush(); err != nil {
				return err
			}
			if held && s.o.untilEmpty { // the rest of a batch that is delivered one at a time comes back with what was held
				continue
			}
			if s.empty.IsZero() {
				s.empty = time.Now()
			}
			if s.o.untilEmpty && s.from.moving() && time.Since(s.empty) < movePatience {
				s.settled = false
				if err := s.a.nap(ctx, time.Millisecond); err != nil {
					return err
				}
				continue
			}
			if s.o.untilEmpty && !s.settled { // what was on its way when nothing could be had may have come before the look for it
				s.settled = true
				continue
			}
			if s.o.untilEmpty {
				return errEmpty
			}
			err = s.wait(ctx, take)
		}
		if errors.Is(err, shm.ErrLeases) && len(s.out.held) > 0 { // what is held is only not written yet
			err = s.out.flush()
		}
		var gap *shm.LostError
		if errors.As(err, &gap) {
			err = s.lost(gap)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lost tells of a gap in a topic.
func (s *subRun) lost(gap *shm.LostError) error {
	if !s.a.json() {
		s.a.warn("lost %s: they were overwritten before they could be read", count(int(gap.Count), "message"))
		return nil
	}
	s.out.add(fmt.Appendf(nil, `{"lost":%d}`, gap.Count), "\n")
	return s.out.flush()
}

// wait waits for what is next, for as long as --timeout says.
func (s *subRun) wait(ctx context.Context, take func(context.Context, bool) error) error {
	if s.o.silence <= 0 {
		return take(ctx, true)
	}
	soon, cancel := context.WithTimeout(ctx, s.o.silence)
	defer cancel()
	err := take(soon, true)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = errSilence
	}
	return err
}

// takeBatch receives and prints what is in the next slot.
func (s *subRun) takeBatch(ctx context.Context, wait bool) error {
	d, err := s.from.batch(ctx, wait)
	if err != nil {
		return err
	}
	for b := range d.All() {
		if b == nil {
			s.a.warn("a message of a batch lies outside of its slot: the channel is damaged; going on with the next")
			continue
		}
		s.got++
		s.out.add(b, s.end)
	}
	return s.out.hold(d)
}

// takeMessage receives and prints one message.
func (s *subRun) takeMessage(ctx context.Context, wait bool) error {
	m, err := s.from.message(ctx, wait)
	if err != nil {
		return err
	}
	s.got++
	if s.a.json() {
		line, err := describe(m)
		if err != nil {
			m.Nack()
			return err
		}
		s.out.add(line, "") // it has its end
	} else {
		s.out.add(m.Bytes(), s.end)
	}
	return s.out.hold(one{m})
}

// commandPatience is how long a command may go on after an interrupt, which it is told of by SIGTERM.
const commandPatience = 5 * time.Second

// runCommand receives one message, and runs the command with it.
func (s *subRun) runCommand(ctx context.Context, wait bool) error {
	m, err := s.from.message(ctx, wait)
	if err != nil {
		return err
	}
	s.got++
	c := exec.CommandContext(s.interrupt, s.o.command[0], s.o.command[1:]...)
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(m.Bytes()), s.a.stdout, s.a.stderr
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = commandPatience
	err = c.Run()
	var exit *exec.ExitError
	switch {
	case c.ProcessState != nil && c.ProcessState.Success(): // also if it was told of an interrupt
		m.Ack() // ErrLost: another consumer has it too: at least once
		return nil
	case !errors.As(err, &exit):
		m.Nack()
		return fmt.Errorf("command %s: %w", s.o.command[0], err)
	}
	if s.interrupt.Err() != nil { // it was told to end
		s.a.warn("%s: %v, as sub was interrupted: the message at position %s goes back to the channel", s.o.command[0], exit, positionName(m.Position(), m.Index()))
		m.Nack()
		return nil
	}
	s.failed++
	if s.o.ack == ackManual {
		fate := fmt.Sprintf("goes back to the channel, delivered %s before", count(m.Deliveries(), "time"))
		if s.from.last(m) {
			fate = fmt.Sprintf("is a dead letter now, delivered %s: shmctl ch dead %s", count(m.Deliveries()+1, "time"), s.o.channel)
		}
		s.a.warn("%s: %v: the message at position %s %s", s.o.command[0], exit, positionName(m.Position(), m.Index()), fate)
		m.Nack()
		return nil
	}
	s.a.warn("%s: %v: message at position %s", s.o.command[0], exit, positionName(m.Position(), m.Index()))
	m.Ack()
	return nil
}

// payloadJSON is what a message consists of: text, or base64 if it is not UTF-8.
type payloadJSON struct {
	Bytes  int     `json:"bytes"`
	Text   *string `json:"text,omitempty"`
	Base64 []byte  `json:"base64,omitempty"`
}

// payload copies what it is given: a hostile peer may change it between two looks.
func payload(b []byte) payloadJSON {
	b = append([]byte(nil), b...)
	if text := string(b); utf8.Valid(b) {
		return payloadJSON{Bytes: len(b), Text: &text}
	}
	return payloadJSON{Bytes: len(b), Base64: b}
}

// messageJSON is a message in a stream of objects.
type messageJSON struct {
	Position   uint64 `json:"position"`
	Index      int    `json:"index"` // within its batch
	Deliveries int    `json:"deliveries"`
	payloadJSON
}

// describe returns a message as a line of JSON.
func describe(m message) ([]byte, error) {
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	err := e.Encode(messageJSON{m.Position(), m.Index(), m.Deliveries(), payload(m.Bytes())})
	return line.Bytes(), err
}
