package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// doneJSON is what ch drain, purge, trim and evict did.
type doneJSON struct {
	Schema   int    `json:"schema"`
	Channel  string `json:"channel"`
	Messages *int   `json:"messages,omitempty"`
	Bytes    *int64 `json:"bytes,omitempty"`
	Draining *bool  `json:"draining,omitempty"`
}

// done tells of what was done: a line, or a document.
func (a *app) done(v doneJSON, format string, args ...any) error {
	if a.json() {
		v.Schema = schema
		return a.printJSON(v)
	}
	if a.quiet {
		return nil
	}
	_, err := fmt.Fprintf(a.stdout, format+"\n", args...)
	return err
}

// queue attaches to a queue.
func (a *app) queue(ctx context.Context, verb, channel string, produce bool) (*shm.Region, *shm.Queue, error) {
	r, err := a.attachOne(ctx, verb, channel, produce)
	if err != nil {
		return nil, nil, err
	}
	if kind := r.Kind(channel); kind != protocol.KindQueue {
		r.Close()
		return nil, nil, wrongKind(verb, channel, kind, "this is for queues")
	}
	q, err := r.Queue(channel)
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, q, nil
}

func (a *app) chDrainCommand() *cobra.Command {
	var off, noWait bool
	c := a.verb(cobra.Command{
		Use:   "drain [--no-wait | --off] CHANNEL",
		Short: "let no message in, and wait until consumers have finished",
		Long: `drain closes a queue for new messages: whoever sends gets an error. Consumers
go on; drain waits until nothing is left, that is no message waits, is being
worked on, or could yet come. Then each sub that reads the channel ends.

The channel stays closed, whatever becomes of drain, until drain --off opens it
again. --timeout bounds the wait (exit code 124).`,
		Example: `  shmctl ch drain --timeout 1m jobs
  shmctl ch drain --off jobs`,
		ValidArgsFunction: a.ofKind(protocol.KindQueue),
	}, func(cmd *cobra.Command, args []string) error {
		if off && noWait {
			return usagef("ch drain: --off waits for nothing; leave --no-wait out")
		}
		return oneChannel(cmd, args)
	}, func(ctx context.Context, args []string) error { return a.chDrain(ctx, args[0], off, noWait) })
	c.Flags().BoolVar(&off, "off", false, "open the channel again")
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until nothing is left")
	return c
}

func (a *app) chDrain(ctx context.Context, channel string, off, noWait bool) error {
	r, q, err := a.queue(ctx, "ch drain", channel, true)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := q.Drain(!off); err != nil {
		return err
	}
	draining := !off
	v := doneJSON{Channel: channel, Draining: &draining}
	switch {
	case off:
		return a.done(v, "channel %q is open again", channel)
	case noWait:
		return a.done(v, "channel %q takes no messages; %s left", channel, a.left(q))
	}
	show := a.showProgress(func(time.Duration) string { return fmt.Sprintf("channel %q: %s left", channel, a.left(q)) })
	err = q.WaitDrained(ctx)
	show.close()
	if err != nil {
		return ended(ctx, err, fmt.Sprintf("channel %q takes no messages, but %s left; ch drain --off opens it again", channel, a.left(q)))
	}
	return a.done(v, "channel %q takes no messages, and nothing is left", channel)
}

// left says what is still in a queue that is being drained.
func (a *app) left(q *shm.Queue) string {
	st, err := q.Stat()
	if err != nil {
		return "something is"
	}
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{st.Ready, "ready"}, {st.Reading, "leased"}, {st.Writing, "being written"}, {st.Dead + st.Moving, "dead, which wait for room in " + q.Name() + ".dead"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if len(parts) == 0 {
		return "nothing is"
	}
	return strings.Join(parts, ", ") + " are"
}

func (a *app) chPurgeCommand() *cobra.Command {
	return a.verb(cobra.Command{
		Use:   "purge CHANNEL",
		Short: "drop the messages that wait in a channel",
		Long: `purge drops the messages that wait in a queue, and says how many. Those that a
consumer is at stay its own, and those that are sent meanwhile stay. They count
as received and acked. A purge that is killed has dropped a part.`,
		Example: `  shmctl ch purge jobs
  shmctl ch purge jobs.dead`,
		ValidArgsFunction: a.ofKind(protocol.KindQueue),
	}, oneChannel, func(ctx context.Context, args []string) error {
		r, q, err := a.queue(ctx, "ch purge", args[0], false)
		if err != nil {
			return err
		}
		defer r.Close()
		n, err := q.Purge()
		if err != nil && n == 0 {
			return err
		}
		if err != nil {
			return fmt.Errorf("%w; %s dropped before", err, count(n, "message"))
		}
		return a.done(doneJSON{Channel: args[0], Messages: &n}, "%s dropped", count(n, "message"))
	})
}

func (a *app) chTrimCommand() *cobra.Command {
	return a.verb(cobra.Command{
		Use:   "trim CHANNEL",
		Short: "give the memory of free slots back to the system",
		Long: `trim gives the memory of the free slots of a sparse queue back to the system,
and says how much it was. What is in the other slots stays, and messages may
come and go meanwhile. Of each slot the first page stays, so that slots of less
than 4 KiB have nothing to give. Channels of other kinds, and queues with
producers = 1 and consumers = 1, have nothing that may be taken: trim says why.`,
		Example:           `  shmctl ch trim frames`,
		ValidArgsFunction: a.ofKind(protocol.KindQueue),
	}, oneChannel, func(ctx context.Context, args []string) error {
		r, err := a.attachOne(ctx, "ch trim", args[0], true)
		if err != nil {
			return err
		}
		defer r.Close()
		if kind := r.Kind(args[0]); kind != protocol.KindQueue {
			return wrongKind("ch trim", args[0], kind, untrimmed(kind))
		}
		q, err := r.Queue(args[0])
		if err != nil {
			return err
		}
		n, err := q.Trim()
		if err != nil {
			return err
		}
		return a.done(doneJSON{Channel: args[0], Bytes: &n}, "%s given back", size(n))
	})
}

// untrimmed says why a channel of a kind has no memory to give back.
func untrimmed(kind protocol.Kind) string {
	switch kind {
	case protocol.KindLatest:
		return "readers may be at any of its versions, and each Put writes the next one; nothing is free for long: declare fewer slots"
	case protocol.KindTopic:
		return "what subscribers have read stays as history for those that come, until it is overwritten: declare fewer slots"
	case protocol.KindCall:
		return "its slots are used in turn, and a free one is the next caller's: declare fewer slots"
	}
	return "only queues can be trimmed"
}

func (a *app) chEvictCommand() *cobra.Command {
	return a.verb(cobra.Command{
		Use:   "evict CHANNEL SUBSCRIBER",
		Short: "end the subscription of a slow subscriber of a topic",
		Long: `evict ends a subscription of a topic: publishers do not wait for it any more,
and its process gets an error with the next message. SUBSCRIBER is a number of
the table that ch info shows, or a process's name or pid, and then all its
subscriptions.`,
		Example: `  shmctl ch info news
  shmctl ch evict news viewer.1`,
		ValidArgsFunction: a.ofKind(protocol.KindTopic),
	}, func(cmd *cobra.Command, args []string) error {
		if len(args) != 2 || args[0] == "" || args[1] == "" {
			return usagef("ch evict: which subscriber of which channel? shmctl ch info CHANNEL lists them")
		}
		return nil
	}, func(ctx context.Context, args []string) error { return a.chEvict(ctx, args[0], args[1]) })
}

func (a *app) chEvict(ctx context.Context, channel, who string) error {
	r, err := a.attachOne(ctx, "ch evict", channel, true)
	if err != nil {
		return err
	}
	defer r.Close()
	if kind := r.Kind(channel); kind != protocol.KindTopic {
		return wrongKind("ch evict", channel, kind, "only a topic has subscribers")
	}
	t, err := r.Topic(channel)
	if err != nil {
		return err
	}
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	st, err := t.Stat()
	if err != nil {
		return err
	}
	n := 0
	var there []string
	for _, c := range st.Subscribers {
		at, _ := s.Roster.Attachment(c.Owner)
		there = append(there, fmt.Sprintf("%d (%s, pid %d)", c.Row, printable(at.Name), at.Pid))
		if who != strconv.Itoa(c.Row) && who != at.Name && who != strconv.Itoa(at.Pid) {
			continue
		}
		if err := t.Evict(c.Row); err == nil { // ErrLost: it has just ended
			n++
		}
	}
	switch {
	case n > 0:
		return a.done(doneJSON{Channel: channel, Messages: nil}, "%s evicted", count(n, "subscriber"))
	case len(there) == 0:
		return fmt.Errorf("channel %q has no subscriber", channel)
	}
	return fmt.Errorf("channel %q has no subscriber %q; there are: %s", channel, cut(who), strings.Join(there, ", "))
}

// deadOptions is the command line of ch dead.
type deadOptions struct {
	read, putBack, drop string // positions, or "all"
}

func (a *app) chDeadCommand() *cobra.Command {
	var o deadOptions
	c := a.verb(cobra.Command{
		Use:   "dead [--read N | --put-back N|all | --drop N|all] CHANNEL",
		Short: "list the dead letters of a channel, read or put them back",
		Long: `dead lists the dead letters of a queue: messages that were delivered
max_deliveries times without an ack. Of a batch whose consumer dies the first
one that it has not acked counts as delivered, whether it had come to that or
not. POSITION identifies a letter; of a message that came in a batch it has a
second number.

--read N prints one, as it was sent, and leaves it where it is. --put-back sends
one, or all, to the queue again, where its deliveries begin anew, and waits for
room there; a kill in the middle may do so twice, never lose one. --drop drops
one, or all.`,
		Example: `  shmctl ch dead jobs
  shmctl ch dead jobs --read 4711
  shmctl ch dead jobs --put-back all`,
		ValidArgsFunction: a.ofKind(protocol.KindQueue),
	}, func(cmd *cobra.Command, args []string) error {
		n := 0
		for _, f := range []struct {
			name, value string
			all         bool
		}{{"read", o.read, false}, {"put-back", o.putBack, true}, {"drop", o.drop, true}} {
			if !cmd.Flags().Changed(f.name) {
				continue
			}
			n++
			if f.value == "all" && f.all {
				continue
			}
			if _, _, err := letterID(f.value); err != nil {
				return usagef("ch dead: --%s %s: %v", f.name, cut(f.value), err)
			}
		}
		if n > 1 {
			return usagef("ch dead: --read, --put-back and --drop: one of them")
		}
		return oneChannel(cmd, args)
	}, func(ctx context.Context, args []string) error {
		name := strings.TrimSuffix(args[0], deadSuffix)
		switch {
		case o.putBack != "":
			return a.moveLetters(ctx, name, o.putBack, true)
		case o.drop != "":
			return a.moveLetters(ctx, name, o.drop, false)
		}
		return a.chDead(ctx, name, o.read)
	})
	f := c.Flags()
	f.StringVar(&o.read, "read", "", "print the letter with position `N`")
	f.StringVar(&o.putBack, "put-back", "", "send the letter with position `N`, or all, to the channel again")
	f.StringVar(&o.drop, "drop", "", "drop the letter with position `N`, or all")
	for _, name := range []string{"read", "put-back", "drop"} {
		c.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return c
}

// deadSuffix is what the name of a dead-letter channel ends with.
const deadSuffix = ".dead"

// letterID reads the identity of a letter: POSITION, or POSITION.INDEX.
func letterID(s string) (position uint64, index int, err error) {
	p, i, batch := strings.Cut(s, ".")
	if position, err = strconv.ParseUint(p, 10, 64); err == nil && batch {
		index, err = strconv.Atoi(i)
	}
	if err != nil {
		return 0, 0, errors.New("give a position, as ch dead lists it")
	}
	return position, index, nil
}

func letterName(d protocol.DeadInfo) string { return positionName(d.Position, d.Index) }

// positionName is the identity of a message: its position and, in a batch, its number there.
func positionName(position uint64, index int) string {
	if index > 0 {
		return fmt.Sprintf("%d.%d", position, index)
	}
	return fmt.Sprint(position)
}

// isLetter reports whether id, which was checked, means the letter.
func isLetter(id string, d protocol.DeadInfo) bool {
	position, index, err := letterID(id)
	return id == "all" || err == nil && position == d.Position && index == d.Index
}

// noLetters says why a channel has no dead-letter channel beside it.
func (s *session) noLetters(name string) string {
	segments, _ := s.Roster.Segments()
	for _, g := range segments {
		if g.Name == name && g.Kind != protocol.KindQueue {
			return fmt.Sprintf("it is of kind %v, and only queues give a message up after a number of deliveries", g.Kind)
		}
	}
	return "max_deliveries = 0 in its table says that no message is given up"
}

// letterJSON is a dead letter.
type letterJSON struct {
	Position   uint64 `json:"position"`
	Index      int    `json:"index"`
	Deliveries int    `json:"deliveries"`
	Reason     string `json:"reason"`
	Moved      string `json:"moved"`
	Leased     bool   `json:"leased"` // somebody reads it
	payloadJSON
}

func (a *app) chDead(ctx context.Context, name, read string) error {
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	seg := s.segments[name+deadSuffix]
	if seg == nil {
		if why := s.missing[name+deadSuffix]; why != nil {
			return fmt.Errorf("channel %q: %w", name+deadSuffix, why)
		}
		switch names := channelNames(s); {
		case !slices.Contains(names, name):
			return fmt.Errorf("region %q has no channel %q; there are: %s", s.name(), name, strings.Join(names, ", "))
		case !slices.Contains(names, name+deadSuffix):
			return fmt.Errorf("channel %q has no dead letters: %s", name, s.noLetters(name))
		}
		return fmt.Errorf("channel %q: its memory is for root and the daemon's user: %w", name+deadSuffix, os.ErrPermission)
	}
	q, err := protocol.OpenQueue(seg.Bytes())
	if err != nil {
		return err
	}
	letters, err := q.Letters()
	if err != nil {
		return err
	}
	a.warnUnmoved(s, name, len(letters) >= q.Slots())
	slices.SortFunc(letters, func(a, b protocol.Letter) int {
		return cmp.Or(a.Moved.Compare(b.Moved), cmp.Compare(a.Position, b.Position), cmp.Compare(a.Index, b.Index))
	})
	if read != "" {
		for _, l := range letters {
			if isLetter(read, l.DeadInfo) {
				return a.printLetter(l)
			}
		}
		return fmt.Errorf("channel %q has no dead letter at position %s; shmctl ch dead %s lists them", name, read, name)
	}
	if a.json() {
		list := []letterJSON{}
		for _, l := range letters {
			list = append(list, asJSON(l))
		}
		return a.printJSON(struct {
			Schema  int          `json:"schema"`
			Region  string       `json:"region"`
			Channel string       `json:"channel"`
			Letters []letterJSON `json:"letters"`
		}{schema, s.name(), name, list})
	}
	t := a.newTable("POSITION", "DELIVERIES", "REASON", "AGE", "SIZE", "STATE")
	for _, l := range letters {
		state := "waits"
		if l.Phase == protocol.PhaseReading {
			state = "leased"
		}
		t.add(letterName(l.DeadInfo), l.Deliveries, l.Reason, age(time.Since(l.Moved)), size(int64(len(l.Payload))), state)
	}
	return t.print()
}

// warnUnmoved says how many letters are not in their channel yet, as it is full or no daemon moves them.
func (a *app) warnUnmoved(s *session, name string, full bool) {
	seg := s.segments[name]
	if seg == nil || !full && s.kept() && !s.Daemon().Stopped {
		return
	}
	if q, err := protocol.OpenQueue(seg.Bytes()); err == nil {
		st := q.Stat()
		until := "a daemon moves them"
		if full {
			until = "there is room"
		}
		if n := st.Dead + st.Moving; n > 0 {
			noun, verb := "letters", "wait"
			if n == 1 {
				noun, verb = "letter", "waits"
			}
			a.warn("%d more dead %s %s in %s until %s", n, noun, verb, name, until)
		}
	}
}

func asJSON(l protocol.Letter) letterJSON {
	return letterJSON{l.Position, l.Index, l.Deliveries, l.Reason.String(), timestamp(l.Moved), l.Phase == protocol.PhaseReading, payload(l.Payload)}
}

func (a *app) printLetter(l protocol.Letter) error {
	if a.json() {
		return a.printJSON(struct {
			Schema int `json:"schema"`
			letterJSON
		}{schema, asJSON(l)})
	}
	b := l.Payload
	if isatty.IsTerminal(a.stdout.Fd()) {
		b = append(b, '\n')
	}
	_, err := a.stdout.Write(b)
	return err
}

// wedged returns an error if a queue that is full can only have room again when letters have left its dead-letter channel.
func wedged(q *shm.Queue) error {
	st, err := q.Stat()
	if err != nil || st.Free+st.Writing+st.Ready+st.Reading > 0 {
		return err
	}
	return fmt.Errorf("all %d slots of channel %q hold messages that are to be dead letters, and wait for room in %s: first save a letter (shmctl ch dead %[2]s --read N >FILE) and drop it (--drop N), or have %[3]s received", st.Slots, q.Name(), q.Name()+deadSuffix)
}

// moveLetters takes one letter, or all that are there, and sends them to their channel again, or drops them. It leases them one after
// the other; those that are not meant it gives back unread at the end.
func (a *app) moveLetters(ctx context.Context, name, which string, back bool) error {
	verb := "ch dead"
	var produce []string
	if back {
		produce = []string{name}
	}
	r, err := a.attach(ctx, "shmctl "+verb, produce, []string{name + deadSuffix})
	if err != nil {
		return err
	}
	defer r.Close()
	from, err := r.Queue(name + deadSuffix)
	if err != nil {
		return err
	}
	var to *shm.Queue
	if back {
		if to, err = r.Queue(name); err != nil {
			return err
		}
	}
	n := 0
	var others []*shm.Message
	defer func() {
		for _, m := range others {
			m.Return()
		}
	}()
	for range from.Slots() { // no more than there were: they may become dead again meanwhile
		m, err := from.TryReceive()
		if errors.Is(err, shm.ErrEmpty) {
			break
		}
		if err != nil {
			return err
		}
		info, b, err := m.Dead()
		if err != nil {
			others = append(others, m)
			return err
		}
		if !isLetter(which, info) {
			others = append(others, m)
			continue
		}
		if back {
			err := to.TrySend(b)
			if err == shm.ErrFull {
				if err = wedged(to); err == nil {
					err = to.Send(ctx, b)
				}
			}
			if err != nil {
				others = append(others, m)
				return fmt.Errorf("%w; %s put back before", ended(ctx, err, fmt.Sprintf("channel %q is full", name)), count(n, "letter"))
			}
		}
		m.Ack() // after it was sent: a kill in between sends it twice
		n++
		if which != "all" {
			break
		}
	}
	if n == 0 && which != "all" {
		return fmt.Errorf("channel %q has no dead letter at position %s that nobody reads; shmctl ch dead %s lists them", name, which, name)
	}
	what := "dropped"
	if back {
		what = "put back"
	}
	return a.done(doneJSON{Channel: name, Messages: &n}, "%s %s", count(n, "letter"), what)
}
