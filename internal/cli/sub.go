package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// subOptions is the command line of sub.
type subOptions struct {
	channel    string
	n          int64 // messages; -1: no limit
	silence    time.Duration
	raw        bool
	nul        bool
	untilEmpty bool
}

func (a *app) subCommand() *cobra.Command {
	var o subOptions
	c := a.verb(cobra.Command{
		Use:   "sub [-n N] [--timeout D] [--until-empty] [-0|--raw] CHANNEL",
		Short: "receive messages from a channel and print them",
		Long: `sub receives messages and prints each with a newline behind it. Of a queue each
message goes to one of all that receive from it, sub or worker.

It ends with 0 when the region is stopped, when it is interrupted, after N
messages (-n), and with --until-empty as soon as nothing waits in the channel;
it ends with 124 when no message came for D (--timeout). With -n, whatever ends
it before N messages is a failure.

A message is acked when standard output has taken it. Until then it is sub's,
and comes back for another consumer if sub is killed, so that one may be
printed twice, and none is lost on the way; but what a pipe has taken is gone
when its reader ends: sub CHANNEL | head -1 receives more than one message,
sub -n 1 CHANNEL does not. Output is written in large blocks, and at once when
nothing waits in the channel.

-o json prints an object a line: position, deliveries (how often it was
delivered before), bytes, and the message as text, or as base64 if it is not
UTF-8.

sub is an outsider of the region: the daemon lets in root, its own user, and
whom the channel names in allow_consume.`,
		Example: `  shmctl sub results
  shmctl sub -n 10 --timeout 5s results
  shmctl sub --until-empty numbers | sort -n
  shmctl sub --raw -n 1 frames >picture.png
  shmctl sub -o json jobs.dead`,
		ValidArgsFunction: a.ofKind(protocol.KindQueue),
	}, func(cmd *cobra.Command, args []string) error {
		if err := oneChannel(cmd, args); err != nil {
			return err
		}
		o.channel = args[0]
		switch {
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
	f.DurationVar(&o.silence, "timeout", 0, "end when no message came for this `time`, 10s say (exit code 124); 0 for never")
	f.BoolVar(&o.untilEmpty, "until-empty", false, "end as soon as nothing waits in the channel")
	f.BoolVarP(&o.nul, "null", "0", false, "put a NUL byte behind each message, not a newline")
	f.BoolVar(&o.raw, "raw", false, "put nothing behind a message")
	return c
}

// delivery is a message in sub's hands, of whichever kind of channel.
type delivery interface {
	Bytes() []byte
	Position() uint64
	Deliveries() int
	Ack() error
	Nack() error
}

// consumer is the receiving end of a channel of whichever kind that sub serves.
type consumer interface {
	next(ctx context.Context, wait bool) (delivery, error) // shm.ErrEmpty if it is not to wait
	slots() int
}

type queueConsumer struct{ q *shm.Queue }

func (c queueConsumer) next(ctx context.Context, wait bool) (delivery, error) {
	if wait {
		return received(c.q.Receive(ctx))
	}
	return received(c.q.TryReceive())
}

func (c queueConsumer) slots() int { return c.q.Slots() }

// received keeps a nil pointer from becoming a delivery that is not nil.
func received(m *shm.Message, err error) (delivery, error) {
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (a *app) sub(ctx context.Context, o subOptions) error {
	r, err := a.attach(ctx, "shmctl sub", nil, []string{o.channel})
	if err != nil {
		return err
	}
	from, err := a.consumer(r, o.channel)
	if err != nil {
		r.Close()
		return err
	}
	s := &subRun{a: a, o: o, from: from, out: newSink(a.stdout, from.slots())}
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer onHangup(a.stdout, func() { cancel(errSilent) })()
	ended := make(chan error, 1)
	go func() { ended <- s.run(running) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		select {
		case err = <-ended:
		case <-time.After(outputPatience): // what it holds goes back when this process has ended
			return errors.New("interrupted while standard output takes nothing: what it did not take goes back to the channel")
		}
	}
	r.Close()
	return err
}

// outputPatience is how long an interrupted sub waits for what standard output is just taking.
const outputPatience = time.Second

func (a *app) consumer(r *shm.Region, channel string) (consumer, error) {
	q, err := r.Queue(channel)
	if err != nil {
		return nil, err
	}
	return queueConsumer{q}, nil
}

// subRun is one run of sub.
type subRun struct {
	a    *app
	o    subOptions
	from consumer
	out  *sink
	got  int64
}

// run receives and prints until the end, and says how it ended.
func (s *subRun) run(ctx context.Context) error {
	err := s.receive(ctx)
	if flushed := s.out.flush(); flushed != nil {
		return fmt.Errorf("standard output: %w", flushed)
	}
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		return cause
	}
	missing := fmt.Sprintf("%d of %s came", s.got, count(int(s.o.n), "message"))
	switch {
	case err == nil, s.got == s.o.n:
		return nil
	case errors.Is(err, errSilence):
		if s.o.n < 0 {
			missing = fmt.Sprintf("no message more; %s came", count(int(s.got), "message"))
		}
		return timeoutError{s.o.silence, missing}
	case errors.Is(err, shm.ErrQuit):
		err = stopped(missing)
	case errors.Is(err, errEmpty):
		err = fmt.Errorf("the channel is empty: %s", missing)
	case errors.Is(err, context.Canceled):
		err = fmt.Errorf("interrupted: %s", missing)
	default:
		return err
	}
	if s.o.n < 0 {
		return nil
	}
	return err
}

var (
	errSilence = errors.New("silence") // ends sub at --timeout
	errEmpty   = errors.New("empty")   // ends sub at --until-empty
)

// receive receives until the end; nil is the end by -n.
func (s *subRun) receive(ctx context.Context) error {
	for s.o.n < 0 || s.got < s.o.n {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, err := s.from.next(ctx, false)
		if errors.Is(err, shm.ErrEmpty) {
			if err := s.out.flush(); err != nil {
				return err
			}
			if s.o.untilEmpty {
				return errEmpty
			}
			m, err = s.wait(ctx)
		}
		if err != nil {
			return err
		}
		s.got++
		if err := s.print(m); err != nil {
			return err
		}
	}
	return nil
}

// wait waits for the next message, for as long as --timeout says.
func (s *subRun) wait(ctx context.Context) (delivery, error) {
	if s.o.silence <= 0 {
		return s.from.next(ctx, true)
	}
	soon, cancel := context.WithTimeout(ctx, s.o.silence)
	defer cancel()
	m, err := s.from.next(soon, true)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = errSilence
	}
	return m, err
}

// messageJSON is a message in a stream of objects.
type messageJSON struct {
	Position   uint64  `json:"position"`
	Deliveries int     `json:"deliveries"`
	Bytes      int     `json:"bytes"`
	Text       *string `json:"text,omitempty"`
	Base64     []byte  `json:"base64,omitempty"`
}

func (s *subRun) print(m delivery) error {
	b := m.Bytes()
	switch {
	case s.a.json():
		v := messageJSON{Position: m.Position(), Deliveries: m.Deliveries(), Bytes: len(b)}
		if b = append([]byte(nil), b...); utf8.Valid(b) { // a copy: a hostile peer may change it
			text := string(b)
			v.Text = &text
		} else {
			v.Base64 = b
		}
		var line bytes.Buffer
		e := json.NewEncoder(&line)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			return err
		}
		return s.out.put(m, line.Bytes(), "") // the encoder ends the line
	case s.o.raw:
		return s.out.put(m, b, "")
	case s.o.nul:
		return s.out.put(m, b, "\x00")
	}
	return s.out.put(m, b, "\n")
}

// sink collects output and writes it in large blocks. A message is acked when all of it is written; what cannot be written is given
// back.
type sink struct {
	out  *os.File
	buf  []byte
	held []delivery
	most int // messages that may be held
	err  error
}

// writeSize is the size of a block: as much as a pipe takes.
const writeSize = 64 << 10

func newSink(out *os.File, slots int) *sink {
	// A quarter of the slots: the others are for who sends meanwhile.
	return &sink{out: out, buf: make([]byte, 0, writeSize), most: max(slots/4, 1)}
}

// put takes a message over, to be printed as b and then end.
func (s *sink) put(m delivery, b []byte, end string) error {
	s.held = append(s.held, m)
	if len(b) >= writeSize { // in place, without a copy
		if err := s.write(s.buf); err != nil {
			return err
		}
		s.buf = s.buf[:0]
		if err := s.write(b); err != nil {
			return err
		}
	} else {
		s.buf = append(s.buf, b...)
	}
	s.buf = append(s.buf, end...)
	if len(s.buf) >= writeSize || len(s.held) >= s.most || len(b) >= writeSize {
		return s.flush()
	}
	return nil
}

func (s *sink) write(b []byte) error {
	if s.err == nil && len(b) > 0 {
		_, s.err = s.out.Write(b)
	}
	return s.err
}

// flush writes what was collected, and acks it. After an error, which it returns again, it gives back what it holds.
func (s *sink) flush() error {
	err := s.write(s.buf)
	for _, m := range s.held {
		if err != nil {
			m.Nack() // ErrLost: a repair took it, which gave it back as well
			continue
		}
		m.Ack() // ErrLost: another consumer has it too: at least once
	}
	clear(s.held)
	s.held, s.buf = s.held[:0], s.buf[:0]
	return err
}
