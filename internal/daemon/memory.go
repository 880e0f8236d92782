package daemon

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// memory is the region: every segment that the daemon has made. It is built once, before the first worker, and closed
// after the last.
type memory struct {
	header   protocol.Header // what all segments have in common
	roster   *protocol.Roster
	command  *protocol.Command
	log      *protocol.Log
	groups   []*protocol.GroupSegment // as in the configuration
	channels map[string]*channel
	names    []string // of the channels, in the order of the configuration, each with its dead-letter channel behind it

	segments map[string]*segment
}

// segment is a mapped segment with the two descriptors that are handed out.
type segment struct {
	*region.Segment
	readOnly *os.File
}

// channel is a channel of whichever kind and, for a queue, where its dead letters go.
type channel struct {
	protocol.Channel
	conf  config.Channel
	queue *protocol.Queue // nil for another kind
	topic *protocol.Topic // nil for another kind
	dead  *protocol.Queue // nil: no limit of deliveries, or this is a dead-letter channel itself
}

// deadSuffix is what the name of a dead-letter channel ends in.
const deadSuffix = ".dead"

// daemonID is the attachment id of the daemon itself.
const daemonID = 1

// newMemory makes all the segments that the configuration asks for. On error it has undone everything.
func newMemory(c *config.Config, dir string, now time.Time) (m *memory, err error) {
	boot, err := sys.BootID()
	if err != nil {
		return nil, err
	}
	var generation [8]byte
	rand.Read(generation[:])
	m = &memory{
		header:   protocol.Header{Generation: binary.LittleEndian.Uint64(generation[:]) | 1, BootID: boot, Region: c.Region.Name, Created: now},
		channels: map[string]*channel{}, segments: map[string]*segment{},
	}
	made := m // a return of nil clears m
	defer func() {
		if err != nil {
			made.Close()
			err = fmt.Errorf("create region %q: %w", c.Region.Name, err)
		}
	}()

	workers := 0
	for _, g := range c.Groups {
		workers += g.Count
	}
	size := protocol.RosterConfig{Segments: 3 + len(c.Groups) + 2*len(c.Channels), Groups: len(c.Groups), Workers: workers,
		Attachments: daemonID + workers + c.Region.MaxAttachments, Dir: control.CanonicalDir(dir)}
	b, h, err := m.create(c.Region, "roster", protocol.RosterSize(size), false)
	if err != nil {
		return nil, err
	}
	if m.roster, err = protocol.FormatRoster(b, h, size); err != nil {
		return nil, err
	}
	if b, h, err = m.create(c.Region, "command", protocol.CommandSize(len(c.Groups), workers), false); err != nil {
		return nil, err
	}
	if m.command, err = protocol.FormatCommand(b, h, len(c.Groups), workers); err != nil {
		return nil, err
	}
	if b, h, err = m.create(c.Region, "log", protocol.LogSize(c.Region.LogSize), false); err != nil {
		return nil, err
	}
	if m.log, err = protocol.FormatLog(b, h, c.Region.LogSize); err != nil {
		return nil, err
	}
	for _, g := range c.Groups {
		if b, h, err = m.create(c.Region, "group/"+g.Name, protocol.GroupSize(g.Count), false); err != nil {
			return nil, err
		}
		s, err := protocol.FormatGroup(b, h, g.Count)
		if err != nil {
			return nil, err
		}
		m.groups = append(m.groups, s)
	}
	for _, ch := range c.Channels {
		if err := m.addChannel(c.Region, ch); err != nil {
			return nil, err
		}
	}
	return m, m.describe(c)
}

// create makes one segment and maps it.
func (m *memory) create(r config.Region, name string, size int64, sparse bool) ([]byte, protocol.Header, error) {
	s, err := region.Create(region.Options{
		Name: "shmd:" + r.Name + ":" + name, Size: size, Sparse: sparse,
		HugePages: r.HugePages && !sparse, Mlock: r.Mlock && !sparse, Prefault: r.Prefault && !sparse, DontDump: r.DontDump,
	})
	if err != nil {
		return nil, protocol.Header{}, err // names the segment
	}
	ro, err := s.ReadOnly()
	if err != nil {
		s.Close()
		return nil, protocol.Header{}, fmt.Errorf("segment %q: %w", name, err)
	}
	m.segments[name] = &segment{s, ro}
	h := m.header
	h.Name = name
	return s.Bytes(), h, nil
}

// addChannel makes the segments of a channel.
func (m *memory) addChannel(r config.Region, c config.Channel) error {
	switch c.Kind {
	case config.KindQueue:
		return m.addQueue(r, c)
	case config.KindLatest:
		return m.addLatest(r, c)
	case config.KindCall:
		return m.addCall(r, c)
	case config.KindTopic:
		return m.addTopic(r, c)
	}
	return fmt.Errorf("channel %q: no such kind of channel: %q", c.Name, c.Kind)
}

func (m *memory) add(c *channel) {
	m.channels[c.conf.Name] = c
	m.names = append(m.names, c.conf.Name)
}

func (m *memory) addQueue(r config.Region, c config.Channel) error {
	make := func(name string, o protocol.QueueOptions) (*protocol.Queue, error) {
		size, err := protocol.QueueSize(o)
		if err != nil {
			return nil, fmt.Errorf("channel %q: %w", name, err)
		}
		b, h, err := m.create(r, name, size, o.Sparse)
		if err != nil {
			return nil, err
		}
		return protocol.FormatQueue(b, h, o)
	}
	q, err := make(c.Name, protocol.QueueOptions{Slots: c.Slots, SlotSize: int(c.SlotSize), MaxDeliveries: c.MaxDeliveries, MaxLeases: c.MaxLeases, Sparse: c.Sparse,
		Lane: c.Lane() && sys.RegisterFence() == nil}) // else a plain queue does the same, slower
	if err != nil {
		return err
	}
	ch := &channel{Channel: q, conf: c, queue: q}
	m.add(ch)
	if c.MaxDeliveries == 0 {
		return nil
	}
	// Dead letters are rare: their channel is always sparse, so it costs what is in it.
	name := c.Name + deadSuffix
	ch.dead, err = make(name, protocol.QueueOptions{Slots: c.DeadSlots, SlotSize: int(c.SlotSize) + protocol.SizeofDeadLetter, Sparse: true, DeadLetter: true})
	if err != nil {
		return err
	}
	m.add(&channel{Channel: ch.dead, conf: config.Channel{Name: name, Kind: c.Kind, AllowConsume: c.AllowConsume}, queue: ch.dead})
	return nil
}

func (m *memory) addLatest(r config.Region, c config.Channel) error {
	o := protocol.LatestOptions{Slots: c.Slots, SlotSize: int(c.SlotSize), Sparse: c.Sparse}
	size, err := protocol.LatestSize(o)
	if err != nil {
		return fmt.Errorf("channel %q: %w", c.Name, err)
	}
	b, h, err := m.create(r, c.Name, size, o.Sparse)
	if err != nil {
		return err
	}
	l, err := protocol.FormatLatest(b, h, o)
	if err != nil {
		return err
	}
	m.add(&channel{Channel: l, conf: c})
	return nil
}

func (m *memory) addCall(r config.Region, c config.Channel) error {
	o := protocol.CallOptions{Slots: c.Slots, SlotSize: int(c.SlotSize), MaxDeliveries: c.MaxDeliveries, FailOnDeath: c.OnServerDeath == config.OnServerDeathFail, Sparse: c.Sparse}
	size, err := protocol.CallSize(o)
	if err != nil {
		return fmt.Errorf("channel %q: %w", c.Name, err)
	}
	b, h, err := m.create(r, c.Name, size, o.Sparse)
	if err != nil {
		return err
	}
	call, err := protocol.FormatCall(b, h, o)
	if err != nil {
		return err
	}
	m.add(&channel{Channel: call, conf: c})
	return nil
}

func (m *memory) addTopic(r config.Region, c config.Channel) error {
	o := protocol.TopicOptions{Slots: c.Slots, SlotSize: int(c.SlotSize), Cursors: c.Subscribers, DropOldest: c.Overflow == config.OverflowDropOldest,
		Single: c.Publishers == 1, Sparse: c.Sparse, Fenced: sys.RegisterFence() == nil, EvictAfter: c.EvictAfter}
	size, err := protocol.TopicSize(o)
	if err != nil {
		return fmt.Errorf("channel %q: %w", c.Name, err)
	}
	b, h, err := m.create(r, c.Name, size, o.Sparse)
	if err != nil {
		return err
	}
	t, err := protocol.FormatTopic(b, h, o)
	if err != nil {
		return err
	}
	m.add(&channel{Channel: t, conf: c, topic: t})
	return nil
}

// single returns the topics among the channels that admit one publisher at a time.
func (m *memory) single(channels []string) []*protocol.Topic {
	var all []*protocol.Topic
	for _, name := range channels {
		if t := m.channels[name].topic; t != nil && t.Flags()&protocol.TopicFlagSingle != 0 {
			all = append(all, t)
		}
	}
	return all
}

// describe fills the roster's directory and the group table.
func (m *memory) describe(c *config.Config) error {
	names := []string{"roster", "command", "log"}
	for _, g := range c.Groups {
		names = append(names, "group/"+g.Name)
	}
	for _, name := range append(names, m.names...) {
		s := m.segments[name]
		h, err := protocol.ReadHeader(s.Bytes())
		if err != nil {
			return err
		}
		if err := m.roster.AddSegment(protocol.Segment{Name: name, Kind: h.Kind, Size: s.Size(), Inode: s.Inode()}); err != nil {
			return err
		}
	}
	return nil
}

// Close unmaps and closes everything.
func (m *memory) Close() {
	for _, s := range m.segments {
		s.readOnly.Close()
		s.Close()
	}
}
