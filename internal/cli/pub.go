package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// pubOptions is the command line of pub.
type pubOptions struct {
	channel string
	message *string // nil: standard input
	raw     bool
	nul     bool
	rate    float64 // messages a second; 0: no limit
	count   int64   // -1: no limit
	batch   int     // messages to a slot; 0: as many as consumers take quickly
}

func (a *app) pubCommand() *cobra.Command {
	var o pubOptions
	c := a.verb(cobra.Command{
		Use:   "pub [-0|--raw] [--rate N] [--count N] [--batch N] CHANNEL [MESSAGE|-]",
		Short: "send messages to a channel",
		Long: `pub sends MESSAGE, or what it reads on standard input: each line is a message,
without its newline; a last line without one is a message too. It waits while
the channel is full. When it ends with 0 every message is committed: no death
of a process loses it any more.

Up to 64 small messages share a slot, and go to one consumer, if they come at
once, and consumers take so many within half a millisecond anyway. So neither
do slow consumers wait for each other, nor fast ones for pub. --batch N says
how many it shall be, --batch 1 that each message has its own slot.

A message that is larger than a slot of the channel is an error that names its
line and the limit; what stands before it was sent, what comes after it was
not.

In a topic every subscriber gets every message; pub waits while one that
messages are kept for lags a whole ring.

pub is an outsider of the region: the daemon lets in root, its own user, and
whom the channel names in allow_produce.`,
		Example: `  shmctl pub jobs hello
  seq 1000000 | shmctl pub numbers
  find /srv -type f -print0 | shmctl pub -0 files
  shmctl pub --raw frames <picture.png
  shmctl pub --rate 10 --count 100 jobs tick`,
		ValidArgsFunction: a.ofKind(protocol.KindQueue, protocol.KindTopic),
	}, func(cmd *cobra.Command, args []string) error {
		if len(args) > 2 {
			return usagef("pub: one message at a time; what is %q? Quote a message of several words", cut(args[2]))
		}
		if err := oneChannel(cmd, args[:min(len(args), 1)]); err != nil {
			return err
		}
		o.channel = args[0]
		if len(args) == 2 && args[1] != "-" {
			o.message = &args[1]
		}
		switch {
		case o.rate < 0 || cmd.Flags().Changed("rate") && o.rate == 0:
			return usagef("pub: --rate %v: give messages a second, more than 0", o.rate)
		case o.count < 0 && cmd.Flags().Changed("count"):
			return usagef("pub: --count %d: give the number of messages, 0 or more", o.count)
		case o.batch < 0 || o.batch > shm.MaxBatch || o.batch == 0 && cmd.Flags().Changed("batch"):
			return usagef("pub: --batch %d: a slot holds 1 to %d messages", o.batch, shm.MaxBatch)
		case o.raw && o.nul:
			return usagef("pub: --raw takes all of standard input as one message; -0 divides it")
		case o.message != nil && (o.raw || o.nul):
			return usagef("pub: -0 and --raw are about standard input; here the message is on the command line")
		}
		return nil
	}, func(ctx context.Context, _ []string) error { return a.pub(ctx, o) })
	f := c.Flags()
	f.BoolVarP(&o.nul, "null", "0", false, "messages on standard input end with a NUL byte, not with a newline")
	f.BoolVar(&o.raw, "raw", false, "all of standard input is one message")
	f.Float64Var(&o.rate, "rate", 0, "send at most `N` messages a second")
	f.IntVar(&o.batch, "batch", 0, "put `N` messages into a slot; without it, as many as consumers take quickly")
	f.Int64Var(&o.count, "count", -1, "end after `N` messages; MESSAGE is sent so often")
	allOfThem(f.Lookup("count"))
	return c
}

// publisher is the sending end of a channel of whichever kind that pub serves.
type publisher interface {
	SlotSize() int
	// send copies a message and sends it, perhaps together with later ones: at the latest when flush is called.
	send(ctx context.Context, p []byte) error
	flush(ctx context.Context) error
	close() error
}

func (a *app) publisher(r *shm.Region, o pubOptions) (publisher, error) {
	switch kind := r.Kind(o.channel); kind {
	case protocol.KindQueue:
		q, err := r.Queue(o.channel)
		if err != nil {
			return nil, err
		}
		return &queuePublisher{Queue: q, fixed: o.batch, batch: max(o.batch, 1)}, nil
	case protocol.KindTopic:
		t, err := r.Topic(o.channel)
		if err != nil {
			return nil, err
		}
		p, err := t.Publisher()
		if err != nil {
			return nil, err
		}
		most := o.batch
		if most == 0 {
			most = shm.MaxBatch
		}
		return &topicPublisher{p: p, limit: t.SlotSize(), most: most}, nil
	case protocol.KindLatest:
		return nil, wrongKind("pub", o.channel, kind, "shmctl put sets its value")
	case protocol.KindCall:
		return nil, wrongKind("pub", o.channel, kind, "shmctl req sends a request")
	default:
		return nil, unknownKind("pub", r, o.channel)
	}
}

// topicPublisher publishes in a topic. What it collects it publishes with one store; each subscriber gets all of it anyway.
type topicPublisher struct {
	p     *shm.Publisher
	limit int
	most  int
	buf   []byte
	msgs  [][]byte
}

// topicBuffer is how many bytes are collected.
const topicBuffer = 64 << 10

func (t *topicPublisher) SlotSize() int { return t.limit }

func (t *topicPublisher) send(ctx context.Context, p []byte) error {
	if len(p) > topicBuffer || t.most == 1 {
		if err := t.publish(ctx); err != nil {
			return err
		}
		return t.p.Publish(ctx, p)
	}
	if len(t.buf)+len(p) > topicBuffer || len(t.msgs) == t.most {
		if err := t.publish(ctx); err != nil {
			return err
		}
	}
	if t.buf == nil {
		t.buf = make([]byte, 0, topicBuffer)
	}
	at := len(t.buf)
	t.buf = append(t.buf, p...) // within its capacity: what msgs has stays where it is
	t.msgs = append(t.msgs, t.buf[at:])
	return nil
}

func (t *topicPublisher) publish(ctx context.Context) error {
	if len(t.msgs) == 0 {
		return nil
	}
	_, err := t.p.PublishBatch(ctx, t.msgs)
	t.buf, t.msgs = t.buf[:0], t.msgs[:0]
	return err
}

func (t *topicPublisher) flush(ctx context.Context) error { return t.publish(ctx) }
func (t *topicPublisher) close() error                    { return t.p.Close() }

// queuePublisher sends to a queue. It puts messages into one slot as long as consumers take them so quickly that no one waits for
// another: a batch goes to one consumer.
type queuePublisher struct {
	*shm.Queue
	fixed int // of --batch, or 0
	batch int // messages to a slot now
	open  *shm.BatchLoan

	sent  uint64
	began time.Time // of the present measurement
	first uint64    // sent then
}

// quickly is how long consumers may take for a batch.
const quickly = 500 * time.Microsecond

func (q *queuePublisher) send(ctx context.Context, p []byte) error {
	q.sent++
	if q.batch == 1 {
		q.adapt()
		return q.Send(ctx, p)
	}
	for range 2 {
		if q.open == nil {
			var err error
			if q.open, err = q.LoanBatch(ctx); err != nil {
				return err
			}
		}
		if place := q.open.Next(len(p)); place != nil {
			copy(place, p)
			if q.open.Len() >= q.batch {
				q.adapt()
				return q.flush(ctx)
			}
			return nil
		}
		if err := q.flush(ctx); err != nil {
			return err
		}
	}
	return q.Send(ctx, p) // it leaves no room for more
}

func (q *queuePublisher) close() error { return nil }

func (q *queuePublisher) flush(context.Context) error {
	l := q.open
	if q.open = nil; l == nil {
		return nil
	}
	return l.Commit()
}

// adapt sets the size of batches by how fast messages went lately. What was sent is what consumers took, but for what is in the slots: so
// it goes up after four times that, and down as soon as they are slow.
func (q *queuePublisher) adapt() {
	if q.fixed > 0 || q.batch == 1 && q.sent%shm.MaxBatch != 0 {
		return
	}
	now := time.Now()
	if q.began.IsZero() {
		q.began, q.first = now, q.sent
	}
	n, in := q.sent-q.first, now.Sub(q.began)
	fit := func(n uint64) int {
		return int(min(max(float64(n)*quickly.Seconds()/max(in.Seconds(), 1e-9), 1), shm.MaxBatch))
	}
	held := uint64(q.Slots() * q.batch)
	switch {
	case n >= 4*held:
		q.batch = fit(n - held)
	case in > 100*quickly && fit(n) < q.batch:
		q.batch = fit(n)
	default:
		return
	}
	q.began, q.first = now, q.sent
}

func (a *app) pub(ctx context.Context, o pubOptions) error {
	r, err := a.attach(ctx, "shmctl pub", []string{o.channel}, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	to, err := a.publisher(r, o)
	if err != nil {
		return err
	}
	defer to.close()
	p := &pubRun{o: o, to: to, ctx: ctx, began: time.Now()}
	show := a.showProgress(func(took time.Duration) string { return transferred(p.shown.sent.Load(), p.shown.bytes.Load(), took) })
	switch {
	case o.message != nil:
		err = p.repeat([]byte(*o.message))
	case o.raw:
		err = p.whole(r, a.stdin)
	default:
		err = p.lines(r, a.stdin)
	}
	show.close()
	if flushed := p.to.flush(p.ctx); err == nil || errors.Is(err, errEnough) {
		err = flushed
	}
	switch {
	case errors.Is(err, shm.ErrQuit):
		err = stopped(fmt.Sprintf("%s sent, the rest not", count(int(p.sent), "message")))
	case errors.Is(err, shm.ErrDraining), errors.Is(err, shm.ErrNotPublisher):
		err = fmt.Errorf("%w; %s sent, the rest not", err, count(int(p.sent), "message"))
	case errors.Is(err, context.Canceled):
		err = fmt.Errorf("interrupted: %s sent, the rest not", count(int(p.sent), "message"))
	case ctx.Err() != nil:
		why := "standard input has not ended"
		switch {
		case p.full:
			why = fmt.Sprintf("channel %q is full: shmctl ch info %s shows who is slow", o.channel, o.channel)
		case o.rate > 0 && o.message != nil:
			why = "--rate allowed no more"
		}
		err = explain(context.Cause(ctx), fmt.Sprintf("%s sent; %s", count(int(p.sent), "message"), why))
	}
	if err == nil && a.json() {
		return a.printJSON(struct {
			Schema   int    `json:"schema"`
			Channel  string `json:"channel"`
			Messages uint64 `json:"messages"`
			Bytes    uint64 `json:"bytes"`
		}{schema, o.channel, p.sent, p.bytes})
	}
	return err
}

// errEnough ends pub at --count.
var errEnough = errors.New("enough")

// pubRun is one run of pub.
type pubRun struct {
	o           pubOptions
	to          publisher
	ctx         context.Context
	began       time.Time
	due         uint64 // messages that --rate allows so far
	full        bool   // what failed was to send, not to read
	sent, bytes uint64

	shown struct{ sent, bytes atomic.Uint64 } // what progress shows of them: once in a while, as each store would cost as much as the message
}

// often is how many messages go between two looks of progress.
const often = 256

// show tells progress how far it is.
func (p *pubRun) show() {
	p.shown.sent.Store(p.sent)
	p.shown.bytes.Store(p.bytes)
}

// send sends one message, when --rate allows it. It returns errEnough when --count is reached.
func (p *pubRun) send(m []byte) error {
	if p.o.count >= 0 && p.sent >= uint64(p.o.count) {
		return errEnough
	}
	if p.o.rate > 0 {
		if err := p.pace(); err != nil {
			return err
		}
	}
	if err := p.commit(m); err != nil {
		return err
	}
	p.bytes += uint64(len(m))
	if p.sent++; p.sent%often == 0 || p.o.rate > 0 {
		p.show()
	}
	return nil
}

// commit sends a message, and all before it if --rate says when.
func (p *pubRun) commit(m []byte) error {
	err := p.to.send(p.ctx, m)
	if err == nil && p.o.rate > 0 {
		err = p.to.flush(p.ctx)
	}
	p.full = err != nil
	return err
}

// pace waits until the next message is due. It looks at the clock only when those are sent that were due at the last look.
func (p *pubRun) pace() error {
	n := p.sent
	for n >= p.due {
		elapsed := time.Since(p.began)
		p.due = uint64(elapsed.Seconds()*p.o.rate) + 1
		if n < p.due {
			break
		}
		next := time.Duration(float64(n) / p.o.rate * float64(time.Second))
		select {
		case <-time.After(max(next-elapsed, time.Microsecond)):
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
	}
	return nil
}

// repeat sends a message once, or --count times.
func (p *pubRun) repeat(m []byte) error {
	for range max(p.o.count, 1) {
		if err := p.send(m); err != nil {
			return err
		}
	}
	return nil
}

// whole sends all input as one message.
func (p *pubRun) whole(r *shm.Region, in io.Reader) error {
	var m []byte
	for chunk := range read(p.ctx, r, in) {
		if chunk.err != nil {
			return chunk.err
		}
		if m = append(m, chunk.b...); len(m) > p.to.SlotSize() {
			return fmt.Errorf("standard input is too large for one message: a slot of channel %q holds %d bytes; nothing was sent", p.o.channel, p.to.SlotSize())
		}
		chunk.done()
	}
	return p.send(m)
}

// lines sends each line of the input.
func (p *pubRun) lines(r *shm.Region, in io.Reader) error {
	if p.o.count == 0 {
		return nil
	}
	end := byte('\n')
	if p.o.nul {
		end = 0
	}
	limit := p.to.SlotSize()
	number := uint64(1) // of the line
	tooLarge := func(n int, more string) error {
		line := "line"
		if p.o.nul {
			line = "message"
		}
		return fmt.Errorf("%s %d of standard input is too large: %d bytes%s, and a slot of channel %q holds %d; %s before it sent, nothing after it",
			line, number, n, more, p.o.channel, limit, count(int(number-1), line))
	}
	var begun []byte // a line whose end is not read yet
	for chunk := range read(p.ctx, r, in) {
		if chunk.err != nil {
			return chunk.err
		}
		for b := chunk.b; len(b) > 0; {
			i := bytes.IndexByte(b, end)
			if i < 0 {
				if begun = append(begun, b...); len(begun) > limit {
					return tooLarge(len(begun), " or more")
				}
				break
			}
			m := b[:i]
			b = b[i+1:]
			if len(begun) > 0 {
				begun = append(begun, m...)
				m, begun = begun, begun[:0]
			}
			if len(m) > limit {
				return tooLarge(len(m), "")
			}
			if err := p.send(m); err != nil {
				return err
			}
			number++
			if p.o.count >= 0 && p.sent == uint64(p.o.count) {
				return nil
			}
		}
		chunk.done()
		if err := p.to.flush(p.ctx); err != nil { // the next may take its time
			p.full = true
			return err
		}
	}
	if len(begun) > 0 {
		return p.send(begun)
	}
	return nil
}
