package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) chCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ch",
		Short: "look at channels, drain, purge and trim them",
		Long: `ch lists the channels of the region, tells of one, and does to one what is done
to a channel as a whole. The numbers are read from the channel's memory. To a
user who may not read the messages in it (who is neither root nor the daemon's
user) the daemon does not hand that memory out: then there is only what the
socket tells, kind and size.`,
		Example: `  shmctl ch ls
  shmctl ch info jobs
  shmctl ch dead jobs --put-back all`,
		Args:                       a.verbOf,
		RunE:                       a.noVerb,
		SuggestionsMinimumDistance: 2,
	}
	c.AddCommand(
		a.verb(cobra.Command{
			Use:   "ls",
			Short: "list channels with what waits in them",
			Long: `ls lists the channels. DEPTH is what is committed and not done yet: messages of
a queue, requests of a call, what the slowest subscriber of a topic has yet to
read. DONE are acks, answers, what subscribers have read, versions of a value.
The dead letters of a queue are in the channel NAME.dead.`,
			Example: `  shmctl ch ls
  shmctl ch ls -o json | jq '.channels[] | select(.depth > 0)'`,
		}, noArgs, a.chLs),
		a.verb(cobra.Command{
			Use:   "info NAME",
			Short: "tell everything about a channel",
			Long: `info tells the geometry of a channel, its counters, what its slots hold, and
who sleeps on it.

depth is how many messages there are. What follows are slots, of which each
holds one message, or those of one batch: ready waits for a consumer, leased is
being worked on, and dead waits to be moved to NAME.dead. loaned is being
written. Of a topic there is a table of subscribers: who, how far behind, and
whether publishers wait for it. A kill may cost a counter one count; the slots
are the truth.`,
			Example:           `  shmctl ch info jobs`,
			ValidArgsFunction: a.complete(channelNames),
		}, func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("ch info: which channel? Give one name; shmctl ch ls lists them")
			}
			return nil
		}, func(ctx context.Context, args []string) error { return a.chInfo(ctx, args[0]) }),
		a.chDrainCommand(),
		a.chPurgeCommand(),
		a.chTrimCommand(),
		a.chDeadCommand(),
		a.chEvictCommand(),
	)
	return c
}

// channelJSON is a channel. The numbers are absent if its memory could not be had.
type channelJSON struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Slots    int    `json:"slots"`
	SlotSize int    `json:"slot_size"`
	*channelNumbers
	Stalled *stalledJSON `json:"stalled,omitempty"`
	Error   string       `json:"error,omitempty"` // why there are no numbers
}

// stalledJSON tells of slots that are held for longer than stall_after.
type stalledJSON struct {
	Slots     int    `json:"slots"`
	Holder    string `json:"holder"` // of the oldest
	Pid       int    `json:"pid"`
	AtLeastNs int64  `json:"at_least_ns"`
}

type channelNumbers struct {
	Depth           int    `json:"depth"`
	Sent            uint64 `json:"sent"`
	Received        uint64 `json:"received"`
	Acked           uint64 `json:"acked"`
	Redelivered     uint64 `json:"redelivered"`
	Dead            uint64 `json:"dead"`
	Lost            uint64 `json:"lost"` // a queue loses nothing
	Aborted         uint64 `json:"aborted"`
	Ready           int    `json:"ready"`
	Leased          int    `json:"leased"`
	Loaned          int    `json:"loaned"`
	SlotsDead       int    `json:"slots_dead"` // in slots, waiting to be moved
	ReceiversAsleep int    `json:"receivers_asleep"`
	SendersAsleep   int    `json:"senders_asleep"`
	MaxDeliveries   int    `json:"max_deliveries"` // 0: no limit
	Sparse          bool   `json:"sparse"`
	DeadLetters     bool   `json:"dead_letters"` // it is the dead-letter channel of another
	Head            uint64 `json:"head"`
	Tail            uint64 `json:"tail"`
	MaxLeases       int    `json:"max_leases"` // 0: no limit
	Draining        bool   `json:"draining"`
	Version         uint64 `json:"version"` // of a latest value

	*topicNumbers
	Subscribers []subscriberJSON `json:"subscribers,omitzero"` // of a topic, [] if there is none
}

// topicNumbers are what only a topic has.
type topicNumbers struct {
	Kept            uint64 `json:"kept"` // messages
	MostSubscribers int    `json:"most_subscribers"`
	Evicted         uint64 `json:"evicted"`
}

// subscriberJSON is a subscriber of a topic.
type subscriberJSON struct {
	Row      int    `json:"row"`
	ID       uint16 `json:"id"` // of its attachment
	Name     string `json:"name"`
	Pid      int    `json:"pid"`
	State    string `json:"state"`
	Lag      uint64 `json:"lag"`
	Received uint64 `json:"received"`
	Lost     uint64 `json:"lost"`
	Blocks   bool   `json:"blocks"` // publishers wait for it
}

// channels lists all channels, with numbers where their memory is in our hands.
func (a *app) channels(ctx context.Context, s *session) ([]channelJSON, error) {
	list := []channelJSON{}
	segments, err := s.Roster.Segments()
	if err != nil {
		a.warn("%v", err)
	}
	told := map[string]channelJSON{} // by the socket
	for _, g := range segments {
		if !protocol.IsChannel(g.Kind) {
			continue
		}
		if s.segments[g.Name] == nil && s.answers() && len(told) == 0 {
			channels, err := s.conn.Channels(ctx)
			if err != nil {
				return nil, err
			}
			for _, c := range channels {
				told[c.Name] = channelJSON{Name: c.Name, Kind: c.Kind, Slots: int(c.Slots), SlotSize: int(c.SlotSize)}
			}
		}
		c := s.channel(g.Name, g.Kind, told[g.Name])
		if g.Stalled > 0 {
			a, _ := s.Roster.Attachment(g.Staller)
			c.Stalled = &stalledJSON{g.Stalled, a.Name, a.Pid, max(sys.MonotonicNs()-g.StalledNs, 0)}
		}
		list = append(list, c)
	}
	return list, nil
}

// channel tells of one channel: what its memory says, or else what the socket told.
func (s *session) channel(name string, kind protocol.Kind, told channelJSON) channelJSON {
	seg := s.segments[name]
	if seg == nil {
		told.Name, told.Kind, told.Error = name, kind.String(), s.noChannel(name).Error()
		return told
	}
	c := channelJSON{Name: name, Kind: kind.String()}
	ch, err := protocol.OpenChannel(seg.Bytes())
	if err != nil {
		c.Error = err.Error()
		return c
	}
	c.Slots, c.SlotSize = ch.Slots(), ch.SlotSize()
	n := summary(ch.Summary())
	switch ch := ch.(type) {
	case *protocol.Queue:
		st := ch.Stat()
		n.Depth, n.Ready, n.Leased, n.Loaned, n.SlotsDead = st.Depth(), st.Ready, st.Reading, st.Writing, st.Dead+st.Moving
		n.MaxDeliveries, n.MaxLeases, n.Head, n.Tail, n.Draining = st.MaxDeliveries, ch.MaxLeases(), st.Head, st.Tail, ch.Draining()
		n.Sparse, n.DeadLetters = st.Flags&protocol.QueueFlagSparse != 0, st.Flags&protocol.QueueFlagDeadLetter != 0
	case *protocol.Topic:
		st := ch.Stat()
		n.Loaned, n.Head, n.Tail, n.Sparse = st.Writing, st.Oldest, st.Tail, st.Flags&protocol.TopicFlagSparse != 0
		n.topicNumbers, n.Subscribers = &topicNumbers{st.Tail - st.Oldest, st.Cursors, st.Evicted}, []subscriberJSON{}
		n.Acked = n.Received
		for _, c := range st.Subscribers {
			at, _ := s.Roster.Attachment(c.Owner) // a damaged row tells no name
			n.Subscribers = append(n.Subscribers, subscriberJSON{c.Row, c.Owner, at.Name, at.Pid, c.Phase.String(), c.Lag, c.Received, c.Lost, c.Blocks})
		}
	case *protocol.Latest:
		st := ch.Stat()
		n.Version, n.Loaned, n.Sparse = st.Version, st.Held, st.Flags&protocol.LatestFlagSparse != 0
		n.Sent, n.Acked = st.Version, st.Version
	case *protocol.Call:
		st := ch.Stat()
		n.Ready, n.Leased, n.Loaned, n.MaxDeliveries = st.Waiting, st.InService, st.Calling, st.MaxDeliveries
		n.Sparse = st.Flags&protocol.CallFlagSparse != 0
	}
	c.channelNumbers = n
	return c
}

func summary(u protocol.Summary) *channelNumbers {
	return &channelNumbers{Depth: u.Depth, Sent: u.Sent, Received: u.Received, Acked: u.Acked, Redelivered: u.Redelivered, Dead: u.Dead,
		Lost: u.Lost, Aborted: u.Aborted, ReceiversAsleep: u.Receivers, SendersAsleep: u.Senders}
}

func (a *app) chLs(ctx context.Context, _ []string) error {
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	list, err := a.channels(ctx, s)
	if err != nil {
		return err
	}
	if a.json() {
		a.warnNumbers(list)
		return a.printJSON(struct {
			Schema   int           `json:"schema"`
			Region   string        `json:"region"`
			Channels []channelJSON `json:"channels"`
		}{schema, s.name(), list})
	}
	t := a.newTable("NAME", "KIND", "SLOTS", "SLOT SIZE", "DEPTH", "SENT", "DONE", "REDELIVERED", "DEAD", "LOST")
	for _, c := range list {
		row := []any{c.Name, c.Kind, "", "", "", "", "", "", "", ""}
		if c.Slots > 0 {
			row[2], row[3] = c.Slots, size(int64(c.SlotSize))
		}
		if n := c.channelNumbers; n != nil {
			row[4], row[5], row[6], row[7], row[8], row[9] = n.Depth, n.Sent, n.Acked, n.Redelivered, n.Dead, n.Lost
			if n.Dead > 0 {
				row[8] = cell{fmt.Sprint(n.Dead), yellow}
			}
			if n.Lost > 0 {
				row[9] = cell{fmt.Sprint(n.Lost), yellow}
			}
		}
		t.add(row...)
	}
	a.warnNumbers(list)
	return t.print()
}

// warnNumbers says of which channels there are no numbers, and why.
func (a *app) warnNumbers(list []channelJSON) {
	var whys []string
	names := map[string][]string{}
	for _, c := range list {
		if c.Error != "" {
			if names[c.Error] == nil {
				whys = append(whys, c.Error)
			}
			names[c.Error] = append(names[c.Error], c.Name)
		}
	}
	for _, why := range whys {
		a.warn("no numbers of %s: %s", strings.Join(names[why], ", "), why)
	}
}

func (a *app) chInfo(ctx context.Context, name string) error {
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	list, err := a.channels(ctx, s)
	if err != nil {
		return err
	}
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
		if c.Name != name {
			continue
		}
		if c.Error != "" && !s.answers() {
			return fmt.Errorf("channel %q: %s: what waited there is gone", name, c.Error)
		}
		a.warnNumbers([]channelJSON{c})
		if a.json() {
			return a.printJSON(struct {
				Schema  int         `json:"schema"`
				Region  string      `json:"region"`
				Channel channelJSON `json:"channel"`
			}{schema, s.name(), c})
		}
		return a.printChannel(c)
	}
	if len(names) == 0 {
		return fmt.Errorf("unknown channel %q; region %q has none", name, s.name())
	}
	return fmt.Errorf("unknown channel %q; there are: %s", name, strings.Join(names, ", "))
}

func (a *app) printChannel(c channelJSON) error {
	t := a.newTable()
	t.add("name", c.Name)
	t.add("kind", c.Kind)
	if c.Slots > 0 {
		t.add("slots", fmt.Sprintf("%d of %s", c.Slots, size(int64(c.SlotSize))))
	}
	n := c.channelNumbers
	if n == nil {
		return t.print()
	}
	var properties []string
	if n.Sparse {
		properties = append(properties, "sparse")
	}
	if n.DeadLetters {
		properties = append(properties, "dead letters")
	}
	if n.Draining {
		properties = append(properties, "draining")
	}
	t.add("properties", strings.Join(properties, ", "))
	unlimited := func(n int) string {
		if n == 0 {
			return "no limit"
		}
		return fmt.Sprint(n)
	}
	counts := []struct {
		name string
		n    uint64
	}{{"sent", n.Sent}, {"received", n.Received}, {"acked", n.Acked}, {"redelivered", n.Redelivered}, {"dead", n.Dead}, {"lost", n.Lost}, {"aborted", n.Aborted}}
	switch {
	case n.topicNumbers != nil:
		t.add("kept", count(int(n.Kept), "message"))
		t.add("subscribers", fmt.Sprintf("%d of at most %d", len(n.Subscribers), n.MostSubscribers))
		t.add("evicted", n.Evicted)
		counts = slices.Delete(counts, 2, 5)
	case c.Kind == protocol.KindLatest.String():
		t.add("version", n.Version)
		counts = counts[len(counts)-1:]
	case c.Kind == protocol.KindCall.String():
		t.add("max_deliveries", unlimited(n.MaxDeliveries))
		t.add("depth", fmt.Sprintf("%d: %d waiting, %d being served", n.Depth, n.Ready, n.Leased))
		counts[0].name, counts[1].name, counts[3].name, counts[4].name, counts[6].name = "requests", "answers", "tried again", "failed", "callers left"
		counts = slices.Delete(slices.Delete(counts, 5, 6), 2, 3)
	default:
		t.add("max_deliveries", unlimited(n.MaxDeliveries))
		t.add("max_leases", unlimited(n.MaxLeases))
		t.add("depth", fmt.Sprintf("%d: %d ready, %d leased, %d dead", n.Depth, n.Ready, n.Leased, n.SlotsDead))
	}
	t.add("loaned", n.Loaned)
	if s := c.Stalled; s != nil {
		t.add("stalled", cell{text: fmt.Sprintf("%s; %s (pid %d) holds one for %v at least", count(s.Slots, "slot"), s.Holder, s.Pid, time.Duration(s.AtLeastNs).Round(time.Second)), color: yellow})
	}
	t.add("asleep", fmt.Sprintf("%s, %s", count(n.ReceiversAsleep, "receiver"), count(n.SendersAsleep, "sender")))
	for _, row := range counts {
		t.add(row.name, row.n)
	}
	if n.Tail > 0 || n.Head > 0 {
		t.add("head, tail", fmt.Sprintf("%d, %d", n.Head, n.Tail))
	}
	if err := t.print(); err != nil || len(n.Subscribers) == 0 {
		return err
	}
	a.stdout.WriteString("\n")
	t = a.newTable("SUBSCRIBER", "NAME", "PID", "STATE", "LAG", "RECEIVED", "LOST", "BLOCKS")
	for _, u := range n.Subscribers {
		blocks := cell{text: "no"}
		if u.Blocks {
			blocks = cell{"yes", red}
		}
		t.add(u.Row, u.Name, u.Pid, u.State, u.Lag, u.Received, u.Lost, blocks)
	}
	return t.print()
}
