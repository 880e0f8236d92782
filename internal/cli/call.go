package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// calls attaches to a channel of kind call.
func (a *app) calls(ctx context.Context, verb, channel string, produce bool) (*shm.Region, *shm.Call, error) {
	r, err := a.attachOne(ctx, verb, channel, produce)
	if err != nil {
		return nil, nil, err
	}
	if kind := r.Kind(channel); kind != protocol.KindCall {
		r.Close()
		return nil, nil, wrongKind(verb, channel, kind, "nobody answers there; "+verbsFor(kind))
	}
	c, err := r.Call(channel)
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, c, nil
}

func (a *app) reqCommand() *cobra.Command {
	var raw bool
	c := a.verb(cobra.Command{
		Use:   "req [--raw] CHANNEL [REQUEST|-]",
		Short: "send a request and print the answer",
		Long: `req sends REQUEST, or all of standard input, to whoever serves a channel of
kind call, waits for the answer, and prints it with a newline behind it. A
newline at the end of standard input is not part of the request. With --raw
both are taken as they are.

It fails with what the server says if that answers with an error, and when the
server died and the channel does not say to try another. --timeout bounds the
wait (exit code 124); a server that has the request then works in vain.`,
		Example: `  shmctl req sum '1 2 3'
  shmctl req --timeout 2s --raw resize <large.png >small.png`,
		ValidArgsFunction: a.ofKind(protocol.KindCall),
	}, valueArgs, func(ctx context.Context, args []string) error { return a.req(ctx, args, raw) })
	c.Flags().BoolVar(&raw, "raw", false, "take the bytes of request and answer as they are")
	return c
}

func (a *app) req(ctx context.Context, args []string, raw bool) error {
	r, c, err := a.calls(ctx, "req", args[0], true)
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := a.given(ctx, r, args, raw, c.SlotSize())
	if err != nil {
		return ended(ctx, err, "nothing was sent: standard input has not ended")
	}
	began := time.Now()
	b, err = c.Do(ctx, b, nil)
	took := time.Since(began)
	switch {
	case errors.Is(err, shm.ErrServerDied):
		return fmt.Errorf("channel %q: %w", args[0], err)
	case err != nil:
		return ended(ctx, err, fmt.Sprintf("no answer from channel %q; shmctl ch info %s tells whether somebody serves it", args[0], args[0]))
	}
	if a.json() {
		return a.printJSON(struct {
			Schema  int    `json:"schema"`
			Channel string `json:"channel"`
			TookNs  int64  `json:"took_ns"`
			payloadJSON
		}{schema, args[0], took.Nanoseconds(), payload(b)})
	}
	if !raw {
		b = append(b, '\n')
	}
	_, err = a.stdout.Write(b)
	return err
}

// replyOptions is the command line of reply.
type replyOptions struct {
	channel string
	command []string
	n       int64
	keep    bool
	nul     bool
	raw     bool
}

func (a *app) replyCommand() *cobra.Command {
	var o replyOptions
	c := a.verb(cobra.Command{
		Use:   "reply [-n N] [--raw | --keep [-0]] [--wait HOW] CHANNEL -- COMMAND...",
		Short: "answer requests with a command",
		Long: `reply serves a channel of kind call: it runs COMMAND for each request, which
gets the request on standard input, and whose standard output is the answer;
a newline at its end is left out, unless with --raw. If COMMAND exits with
another status than 0, its caller gets an error with that status as code and the
last line of standard error as text.

With --keep one COMMAND serves all requests: it gets each as a line, and answers
with one line (-0: both end with a NUL byte). It must write each answer at once:
sed -u, jq --unbuffered, awk with fflush() (mawk, Debian's awk: -W interactive
as well). A request with a newline in it is answered with an error. When COMMAND
ends, reply ends, also if a process that it started goes on; when COMMAND writes
a line that no request asked for, reply ends too, with an error.

A request that COMMAND was at when it ended, with --keep, or when reply was
interrupted, goes to another server, or fails, as the channel's on_server_death
says. A reply that is killed (SIGKILL) leaves its COMMAND running.

It serves one request at a time: start several for more. It ends with 0 when the
region is stopped, when it is interrupted, and after N requests (-n).`,
		Example: `  shmctl reply sum -- awk '{ for (i = 1; i <= NF; i++) s += $i; print s }'
  shmctl reply --raw resize -- convert - -resize 50% -
  shmctl reply --keep upper -- sed -u 's/.*/\U&/'`,
		ValidArgsFunction: a.ofKind(protocol.KindCall),
	}, func(cmd *cobra.Command, args []string) error {
		if n := cmd.ArgsLenAtDash(); n >= 0 {
			args, o.command = args[:n], args[n:]
		}
		if err := oneChannel(cmd, args); err != nil {
			return err
		}
		o.channel = args[0]
		switch {
		case len(o.command) == 0:
			return usagef("reply: which command answers? reply CHANNEL -- COMMAND...")
		case o.nul && !o.keep:
			return usagef("reply: -0 divides the requests of --keep; without it each has a command of its own")
		case o.raw && o.keep:
			return usagef("reply: --keep goes by lines, or with -0 by NUL bytes; --raw is for a command for each request")
		case o.n < 0 && cmd.Flags().Changed("number"):
			return usagef("reply: -n %d: give the number of requests, 0 or more", o.n)
		}
		return nil
	}, func(ctx context.Context, _ []string) error { return a.reply(ctx, o) })
	a.waitFlag(c)
	f := c.Flags()
	f.Int64VarP(&o.n, "number", "n", -1, "end after `N` requests")
	allOfThem(f.Lookup("number"))
	f.BoolVar(&o.keep, "keep", false, "one command serves all requests, a line each")
	f.BoolVarP(&o.nul, "null", "0", false, "with --keep: requests and answers end with a NUL byte")
	f.BoolVar(&o.raw, "raw", false, "a newline at the end of standard output is part of the answer")
	c.RegisterFlagCompletionFunc("number", cobra.NoFileCompletions)
	return c
}

func (a *app) reply(ctx context.Context, o replyOptions) error {
	if _, err := exec.LookPath(o.command[0]); err != nil { // before a request is taken for it
		return err
	}
	r, c, err := a.calls(ctx, "reply", o.channel, false)
	if err != nil {
		return err
	}
	defer r.Close()
	answer := func(m *shm.Incoming) error { return a.answer(ctx, o, m, c.SlotSize()) }
	if o.keep {
		k, err := a.keep(o, c.SlotSize())
		if err != nil {
			return err
		}
		defer k.close()
		// A filter that ends ends reply, also while no request comes.
		serving, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		go func() {
			<-k.ended
			cancel(errFilter)
		}()
		ctx = serving
		answer = func(m *shm.Incoming) error { return k.answer(serving, m) }
	}
	for n := int64(0); o.n < 0 || n < o.n; n++ {
		var m *shm.Incoming
		err := ctx.Err() // Accept takes a request that is there all the same: the one that was just given back, until it has no deliveries left
		if err == nil {
			m, err = c.Accept(ctx)
		}
		switch {
		case errors.Is(context.Cause(ctx), errFilter):
			if err == nil {
				m.GiveBack()
			}
			return fmt.Errorf("command %s ended", o.command[0])
		case errors.Is(err, shm.ErrQuit), errors.Is(err, context.Canceled):
			if o.n < 0 {
				return nil
			}
			return fmt.Errorf("ended after %d of %s", n, count(int(o.n), "request"))
		case errors.Is(err, context.DeadlineExceeded):
			return explain(context.Cause(ctx), fmt.Sprintf("%s answered", count(int(n), "request")))
		case err != nil:
			return err
		}
		err = answer(m)
		if c.FailOnDeath() { // the command may have done what it was asked for: nobody else shall
			m.Fail(1, fmt.Sprintf("command %s ended, or was to end, before it answered", o.command[0]))
		}
		m.GiveBack() // if it was not answered
		if err != nil && !errors.Is(err, shm.ErrCallerLeft) {
			return err
		}
	}
	return nil
}

// errFilter ends reply --keep when its command ends.
var errFilter = errors.New("the command ended")

// answer runs the command for one request.
func (a *app) answer(ctx context.Context, o replyOptions, m *shm.Incoming, limit int) error {
	c := exec.CommandContext(ctx, o.command[0], o.command[1:]...)
	out, said := &limited{limit: limit + 1}, &lastLine{}
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(m.Bytes()), out, io.MultiWriter(a.stderr, said)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = commandPatience
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil && err != nil:
		return nil // for another server, if the channel has it so
	case errors.As(err, &exit):
		text := said.String()
		if text == "" {
			text = exit.String()
		}
		return m.Fail(int32(max(exit.ExitCode(), 1)), text)
	case err != nil:
		return fmt.Errorf("command %s: %w", o.command[0], err)
	}
	b := out.Bytes()
	if n := len(b); !o.raw && n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
	}
	if len(b) > limit || out.more {
		return m.Fail(1, fmt.Sprintf("the answer of %s is larger than the %d bytes of a slot", o.command[0], limit))
	}
	return m.Answer(copy(m.Room(), b))
}

// limited keeps the first bytes that are written to it.
type limited struct {
	bytes.Buffer
	limit int
	more  bool // there were more
}

func (l *limited) Write(p []byte) (int, error) {
	keep := min(len(p), l.limit-l.Len())
	l.more = l.more || keep < len(p)
	l.Buffer.Write(p[:keep])
	return len(p), nil
}

// lastLine keeps the last line that is written to it, up to a length.
type lastLine struct{ b []byte }

func (l *lastLine) Write(p []byte) (int, error) {
	const most = 4096
	l.b = append(l.b, p...)
	l.b = l.b[max(len(l.b)-most, 0):]
	return len(p), nil
}

func (l *lastLine) String() string {
	s := strings.TrimRight(string(l.b), "\n")
	return printable(s[strings.LastIndexByte(s, '\n')+1:])
}

// kept is the one command of reply --keep.
type kept struct {
	o     replyOptions
	c     *exec.Cmd
	in    *os.File
	out   *os.File
	end   byte
	limit int
	gone  chan struct{} // closed when it has ended
	ended chan struct{} // closed when its standard output has, or it has itself and what it wrote before is in lines
	lines chan []byte   // answers; of one that is too long the beginning, more than limit bytes
}

func (a *app) keep(o replyOptions, limit int) (*kept, error) {
	k := &kept{o: o, c: exec.Command(o.command[0], o.command[1:]...), end: '\n', limit: limit, gone: make(chan struct{}), ended: make(chan struct{}), lines: make(chan []byte)}
	if o.nul {
		k.end = 0
	}
	k.c.Stderr, k.c.WaitDelay = a.stderr, commandPatience
	stdin, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer stdout.Close()
	k.c.Stdin, k.c.Stdout, k.in, k.out = stdin, stdout, in, out
	if err := k.c.Start(); err != nil {
		in.Close()
		out.Close()
		return nil, fmt.Errorf("command %s: %w", o.command[0], err)
	}
	go func() {
		defer close(k.gone)
		k.c.Wait()
		out.SetReadDeadline(time.Now().Add(lastAnswers)) // a process that it started may have standard output open for ever
	}()
	go func() {
		defer close(k.ended)
		for r := bufio.NewReader(out); ; {
			line, err := k.line(r)
			if err != nil {
				return
			}
			k.lines <- line
		}
	}()
	return k, nil
}

// lastAnswers is how long it may take to read what a command wrote before it ended: that is in the pipe already.
const lastAnswers = 100 * time.Millisecond

// line reads a line without its end, and keeps of one that is too long more than limit bytes, but not all.
func (k *kept) line(r *bufio.Reader) (line []byte, err error) {
	for {
		piece, err := r.ReadSlice(k.end)
		if len(line) <= k.limit+1 {
			line = append(line, piece...)
		}
		switch {
		case err == nil:
			return line[:len(line)-1], nil // of a long one some other byte
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// answer has the command answer one request.
func (k *kept) answer(ctx context.Context, m *shm.Incoming) error {
	b := m.Bytes()
	if bytes.IndexByte(b, k.end) >= 0 {
		return m.Fail(1, "the request has the byte in it that ends requests for the command")
	}
	select {
	case <-k.lines: // this request, and each after it, would get the answer to another
		m.GiveBack() // the command has not seen it
		return fmt.Errorf("command %s wrote a line that no request asked for; with --keep it answers each request with one line, and writes nothing else", k.o.command[0])
	default:
	}
	ended := fmt.Errorf("command %s ended before it answered", k.o.command[0])
	stop := context.AfterFunc(ctx, func() { k.in.SetWriteDeadline(time.Unix(1, 0)) }) // a command that does not read must not hold up the end
	_, err := k.in.Write(append(append([]byte(nil), b...), k.end))
	stop()
	if err != nil {
		m.GiveBack() // it has not got the end of the line
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errFilter) {
			return nil
		}
		return ended
	}
	select {
	case line := <-k.lines:
		if len(line) > k.limit {
			return m.Fail(1, fmt.Sprintf("the answer of %s is larger than the %d bytes of a slot", k.o.command[0], k.limit))
		}
		return m.Answer(copy(m.Room(), line))
	case <-k.ended:
		return ended
	case <-ctx.Done(): // for another server, if the channel has it so
		if errors.Is(context.Cause(ctx), errFilter) {
			return ended
		}
		return nil
	}
}

// close ends the command by the end of its input; one that goes on is killed.
func (k *kept) close() {
	k.in.Close()
	defer k.out.Close()
	patience := time.After(commandPatience)
	for {
		select {
		case <-k.lines: // nobody asked
		case <-k.gone:
			return
		case <-patience:
			k.c.Process.Kill()
			<-k.gone
			return
		}
	}
}
