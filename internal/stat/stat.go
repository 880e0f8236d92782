// Package stat reads what a region is doing from its memory: workers, channels, attachments, and what workers count. shmctl status, stat
// and top, and the daemon's /metrics, all read it here, and so say the same. It stores nothing and asks nobody, so it works beside a
// daemon that hangs, and after its death.
package stat

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// Source is the memory that is read. Its segments must stay open.
type Source struct {
	Set control.Set
	// Channel returns a channel of the roster's directory. It is called once for each, and again while it returns an error.
	Channel func(name string) (protocol.Channel, error)
	// Kept reports whether a daemon keeps the roster up. If not, the processes are looked at.
	Kept func() bool
}

// Reader takes snapshots of one region. It remembers what it saw, so that the next snapshot knows how long leases have lasted. It is used
// by one goroutine at a time.
type Reader struct {
	source   Source
	channels map[string]protocol.Channel
	seen     map[string]map[leaseKey]time.Time // when each lease was seen first, by channel
	topics   map[string]counted
}

// counted is what a topic had counted at the last snapshot.
type counted struct {
	of *protocol.Topic
	protocol.Summary
}

type leaseKey struct {
	slot  int
	owner uint16
	stamp uint64
}

// NewReader returns a Reader.
func NewReader(s Source) *Reader {
	return &Reader{source: s, channels: map[string]protocol.Channel{}, seen: map[string]map[leaseKey]time.Time{}, topics: map[string]counted{}}
}

// Look has the next snapshot read other segments of the same region. What was seen is remembered.
func (r *Reader) Look(s Source) { r.source, r.channels = s, map[string]protocol.Channel{} }

// Part is a part of a snapshot that costs more than the rest.
type Part int

// Parts.
const (
	Leases  Part = 1 << iota // who holds the oldest lease of each channel, and for how long at least
	Metrics                  // what workers count
)

// Snapshot is a region at a time. Its parts are read one after the other while the region goes on, so they need not add up to one instant;
// each number is one that was there, and no counter ever goes back.
type Snapshot struct {
	Taken       time.Time
	Region      string
	Header      protocol.Header
	Daemon      protocol.DaemonInfo
	Status      control.DaemonStatus
	Groups      []Group // by row; one without a name is none
	Workers     []Worker
	Channels    []Channel
	Attachments map[protocol.Role]int // processes that hold memory, the daemon included
	Segments    int
	Bytes       int64   // of all segments
	Problems    []error // rows that could not be read
	Damaged     []error // rows of the directory that no daemon wrote like that, or that could not be read
}

// Group is a group of workers.
type Group struct {
	protocol.Group
	States [protocol.StateGone]int // instances by state, 0: new
	// Stalled are filters that do not answer. Restarts are of all instances, by cause, also of those that are gone.
	Stalled  int
	Restarts [protocol.NumCauses]uint64
}

// Channel is a channel. Err says why there are no numbers.
type Channel struct {
	Name            string
	Kind            protocol.Kind
	Slots, SlotSize int
	protocol.Summary
	DeadLetters bool                // it is the dead-letter channel of a queue
	Draining    bool                // it takes no messages
	Wedged      bool                // all slots wait for room in the dead-letter channel
	Waiting     int                 // of a full one: slots of its queue whose messages are to be moved here, and have no room
	Topic       *protocol.TopicStat // of a topic
	Oldest      *Lease              // the lease that lasts longest of those seen; nil if there is none
	Leases      int                 // that were seen
	Err         error
}

// Lease is a lease that somebody holds.
type Lease struct {
	Holder  string // name in the attachment table
	Pid     int
	AtLeast time.Duration // since it was seen first; the first snapshot of a Reader knows nothing
}

// Snapshot reads the memory.
func (r *Reader) Snapshot(parts Part) *Snapshot {
	set := r.source.Set
	s := &Snapshot{Taken: time.Now(), Header: set.Roster.Header(), Daemon: set.Roster.Daemon(), Status: set.Daemon(), Attachments: map[protocol.Role]int{}}
	s.Region = s.Header.Region
	problem := func(err error) {
		if err != nil {
			s.Problems = append(s.Problems, err)
		}
	}
	groups, err := set.Roster.Groups()
	problem(err)
	for _, g := range groups {
		s.Groups = append(s.Groups, Group{Group: g})
	}
	kept := r.source.Kept()
	now := sys.MonotonicNs()
	for i := range set.Roster.WorkerCount() {
		w, err := ReadWorker(set, i, kept)
		if err != nil {
			problem(err)
			continue
		}
		if w.State == protocol.StateGone {
			continue
		}
		w.look(set, now, parts)
		s.Workers = append(s.Workers, w)
		if w.Worker.Group >= 0 && w.Worker.Group < len(s.Groups) {
			s.Groups[w.Worker.Group].add(w)
		}
	}
	s.addGone(set.Groups)
	names := map[uint16]protocol.Attachment{}
	for id := 1; id < set.Roster.AttachmentCap() && id <= 0xffff; id++ {
		if a, err := set.Roster.Attachment(uint16(id)); err == nil && a.State != protocol.AttachmentFree {
			names[uint16(id)] = a
			s.Attachments[a.Role]++
		}
	}
	for i := range set.Roster.SegmentCount() {
		g, err := set.Roster.Segment(i)
		if why := g.Damage(); why != "" && err == nil {
			err = fmt.Errorf("roster: segment %d, %.40q, %s", i, g.Name, why)
		}
		if err != nil {
			s.Damaged = append(s.Damaged, err)
			continue
		}
		if g.Name == "" { // free
			continue
		}
		s.Segments++
		s.Bytes += g.Size
		if protocol.IsChannel(g.Kind) {
			s.Channels = append(s.Channels, r.channel(g, names, parts, s.Taken))
		}
	}
	wedged := map[string]bool{}
	for i := range s.Channels {
		c := &s.Channels[i]
		if q, ok := r.channels[c.Name].(*protocol.Queue); ok {
			c.Draining = q.Draining()
		}
		if q, ok := r.channels[strings.TrimSuffix(c.Name, ".dead")].(*protocol.Queue); ok && c.DeadLetters && c.Depth >= c.Slots {
			st := q.Stat()
			c.Waiting = st.Dead + st.Moving
			if c.Waiting >= q.Slots() {
				wedged[q.Header().Name] = true
			}
		}
	}
	for i := range s.Channels {
		s.Channels[i].Wedged = wedged[s.Channels[i].Name]
	}
	return s
}

// addGone adds to the restarts of groups those of instances that are gone: a group that is scaled down has not restarted less often.
func (s *Snapshot) addGone(groups []*protocol.GroupSegment) {
	type instance struct{ group, number int }
	there := map[instance]bool{}
	for _, w := range s.Workers {
		there[instance{w.Group, w.Instance}] = true
	}
	for i, seg := range groups {
		if seg == nil || i >= len(s.Groups) || s.Groups[i].Name == "" {
			continue
		}
		for n := range seg.Instances() {
			if there[instance{i, n}] { // its row counts
				continue
			}
			for c, k := range seg.Restarts(n) {
				s.Groups[i].Restarts[c] += uint64(k)
			}
		}
	}
}

func (g *Group) add(w Worker) {
	g.States[min(w.State, protocol.StateGone-1)]++
	if w.Stalled {
		g.Stalled++
	}
	for c, n := range w.RestartsBy {
		g.Restarts[c] += uint64(n)
	}
}

// Ready is how many instances are ready.
func (g *Group) Ready() int { return g.States[protocol.StateReady] }

// channel reads one channel.
func (r *Reader) channel(g protocol.Segment, names map[uint16]protocol.Attachment, parts Part, now time.Time) Channel {
	c := Channel{Name: g.Name, Kind: g.Kind}
	ch := r.channels[g.Name]
	if ch == nil {
		if ch, c.Err = r.source.Channel(g.Name); c.Err != nil {
			return c
		}
		r.channels[g.Name] = ch
	}
	c.Slots, c.SlotSize, c.Summary = ch.Slots(), ch.SlotSize(), ch.Summary()
	switch ch := ch.(type) {
	case *protocol.Topic:
		st := ch.Stat()
		c.Topic, c.Summary = &st, r.onward(g.Name, ch, c.Summary)
	case *protocol.Queue:
		c.DeadLetters = ch.Flags()&protocol.QueueFlagDeadLetter != 0
	}
	if parts&Leases != 0 {
		c.Oldest, c.Leases = r.oldest(g.Name, ch, names, now)
	}
	return c
}

// onward holds the counters of a topic where they were when they go back: what a subscriber that ends has read is in neither its row nor the sum
// for a moment, and stays so if it is killed there. Memory that takes the place of other memory begins anew.
func (r *Reader) onward(name string, t *protocol.Topic, now protocol.Summary) protocol.Summary {
	if last := r.topics[name]; last.of == t {
		now.Sent, now.Received, now.Lost = max(now.Sent, last.Sent), max(now.Received, last.Received), max(now.Lost, last.Lost)
	}
	r.topics[name] = counted{t, now}
	return now
}

// oldest finds the lease that was there before all others that are there now.
func (r *Reader) oldest(name string, c protocol.Channel, names map[uint16]protocol.Attachment, now time.Time) (*Lease, int) {
	before, seen := r.seen[name], map[leaseKey]time.Time{}
	var oldest *Lease
	var owner uint16
	protocol.Leases(c, func(h protocol.Held) {
		k := leaseKey{h.Slot, h.Owner, h.Stamp}
		first, ok := before[k]
		if !ok {
			first = now
		}
		seen[k] = first
		if age := now.Sub(first); oldest == nil || age > oldest.AtLeast {
			oldest, owner = &Lease{AtLeast: age}, h.Owner
		}
	})
	r.seen[name] = seen
	if oldest != nil {
		a := names[owner]
		oldest.Holder, oldest.Pid = a.Name, a.Pid
		if a.Name == "" {
			oldest.Holder = fmt.Sprintf("attachment %d", owner)
		}
	}
	return oldest, len(seen)
}

// Counted reports whether anything is counted by workers.
func (s *Snapshot) Counted() bool {
	return slices.ContainsFunc(s.Workers, func(w Worker) bool { return len(w.Metrics) > 0 })
}
