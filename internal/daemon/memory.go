package daemon

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
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
	events   *protocol.Log
	groups   map[string]*protocol.GroupSegment // by name of the group
	channels map[string]*channel
	names    []string // of the channels, in the order of the configuration, each with its dead-letter channel behind it

	segments map[string]*segment
	left     map[string]*region.Segment // by name: what a dead daemon left and is still to be taken over
	unlocked []error                    // why segments of the adopted region are not locked into memory
	anew     []string                   // segments of the adopted region that nobody held any more, and that were made anew
}

// segment is a mapped segment with the two descriptors that are handed out.
type segment struct {
	*region.Segment
	readOnly *os.File
}

// channel is a channel of whichever kind and, for a queue, where its dead letters go.
type channel struct {
	protocol.Channel
	conf    config.Channel
	queue   *protocol.Queue // nil for another kind
	topic   *protocol.Topic // nil for another kind
	telling *sync.Mutex     // of a topic: evictions are being told of
	retired bool            // it is not in the configuration any more, and goes when nobody uses it and it is empty
	dead    *protocol.Queue // nil: no limit of deliveries, or this is a dead-letter channel itself
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
	return makeMemory(c, dir, protocol.Header{Generation: binary.LittleEndian.Uint64(generation[:]) | 1, BootID: boot, Region: c.Region.Name, Created: now}, nil)
}

// makeMemory makes all segments of a region but those that are left, by name, which it takes over. On error it has closed everything but those
// that it did not come to.
func makeMemory(c *config.Config, dir string, header protocol.Header, left map[string]*region.Segment) (m *memory, err error) {
	m = &memory{header: header, groups: map[string]*protocol.GroupSegment{}, channels: map[string]*channel{}, segments: map[string]*segment{}, left: left}
	made := m // a return of nil clears m
	defer func() {
		if err != nil {
			made.Close()
			if left == nil {
				err = fmt.Errorf("create region %q: %w", c.Region.Name, err)
			}
		}
	}()

	size := regionRows(c)
	size.Dir = control.CanonicalDir(dir)
	m.roster, err = build(m, c.Region, "roster", protocol.RosterSize(size), false, func(b []byte, h protocol.Header) (*protocol.Roster, error) {
		return protocol.FormatRoster(b, h, size)
	}, protocol.OpenRoster)
	if err != nil {
		return nil, err
	}
	m.command, err = build(m, c.Region, "command", protocol.CommandSize(size.Groups, size.Workers), false, func(b []byte, h protocol.Header) (*protocol.Command, error) {
		return protocol.FormatCommand(b, h, size.Groups, size.Workers)
	}, protocol.OpenCommand)
	if err != nil {
		return nil, err
	}
	m.log, err = build(m, c.Region, "log", protocol.LogSize(c.Region.LogSize, c.Region.EventsSize), false, func(b []byte, h protocol.Header) (*protocol.Log, error) {
		return protocol.FormatLog(b, h, c.Region.LogSize, c.Region.EventsSize)
	}, protocol.OpenLog)
	if err != nil {
		return nil, err
	}
	if m.events, err = protocol.OpenEvents(m.segments["log"].Bytes()); err != nil {
		return nil, err
	}
	for i := range c.Groups {
		if err := m.addGroup(c.Region, &c.Groups[i]); err != nil {
			return nil, err
		}
	}
	for _, ch := range c.Channels {
		if err := m.addChannel(c.Region, ch); err != nil {
			return nil, err
		}
	}
	if left != nil { // the directory is corrected when those are asked to restart who have what was there before
		return m, nil
	}
	return m, m.describe(c)
}

// build makes a segment and what lies in it, or takes it over from a dead daemon.
func build[T any](m *memory, r config.Region, name string, size int64, sparse bool, format func([]byte, protocol.Header) (T, error), open func([]byte) (T, error)) (T, error) {
	if s := m.left[name]; s != nil {
		t, err := open(s.Bytes())
		if err != nil {
			return t, fmt.Errorf("segment %q: %w", name, err)
		}
		ro, err := s.ReadOnly()
		if err != nil {
			return t, fmt.Errorf("segment %q: %w", name, err)
		}
		delete(m.left, name)
		m.segments[name] = &segment{s, ro}
		if r.Mlock && !sparse {
			m.lock(name, 0, size)
		}
		return t, nil
	}
	if m.left != nil {
		m.anew = append(m.anew, name)
	}
	b, h, err := m.create(r, name, size, sparse)
	if err != nil {
		var none T
		return none, err
	}
	return format(b, h)
}

// lock keeps a part of a segment that was taken over in memory: a lock is that of a process. Without it the region is adopted all the same.
func (m *memory) lock(name string, offset, size int64) {
	if err := m.segments[name].Lock(offset, size); err != nil {
		m.unlocked = append(m.unlocked, err)
	}
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

// addGroup makes the segment of a group. It has room for as many instances as a region can have, and memory for those that are configured: it can
// grow under the eyes of who has mapped it.
func (m *memory) addGroup(r config.Region, g *config.Group) error {
	name := groupSegment(g.Name)
	size := protocol.GroupConfig{Instances: config.MaxWorkers, Metrics: g.Metrics, LogSize: g.LogSize}
	s, err := build(m, r, name, protocol.GroupSize(size), true, func(b []byte, h protocol.Header) (*protocol.GroupSegment, error) {
		if err := m.segments[name].Allocate(0, int64(sys.PageSize()), r.Mlock); err != nil { // the head
			return nil, err
		}
		s, err := protocol.FormatGroup(b, h, size)
		if err != nil {
			return nil, err
		}
		s.SetInstances(0)
		return s, m.allocate(s, g.Count, r.Mlock)
	}, protocol.OpenGroup)
	if err != nil {
		return err
	}
	if m.groups[g.Name] = s; r.Mlock && m.left != nil { // what was made here is locked already, which does no harm
		m.lock(name, 0, int64(sys.PageSize()))
		for _, p := range s.Parts(0, s.Instances()) {
			m.lock(name, p.Offset, p.Size)
		}
	}
	return nil
}

// allocate gives memory to the pages and tables of the first n instances of a group.
func (m *memory) allocate(s *protocol.GroupSegment, n int, lock bool) error {
	for _, p := range s.Parts(s.Instances(), n) {
		if err := m.segments[s.Header().Name].Allocate(p.Offset, p.Size, lock); err != nil {
			return err
		}
	}
	s.SetInstances(n)
	return nil
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
		return build(m, r, name, size, o.Sparse, func(b []byte, h protocol.Header) (*protocol.Queue, error) { return protocol.FormatQueue(b, h, o) }, protocol.OpenQueue)
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
	l, err := build(m, r, c.Name, size, o.Sparse, func(b []byte, h protocol.Header) (*protocol.Latest, error) { return protocol.FormatLatest(b, h, o) }, protocol.OpenLatest)
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
	call, err := build(m, r, c.Name, size, o.Sparse, func(b []byte, h protocol.Header) (*protocol.Call, error) { return protocol.FormatCall(b, h, o) }, protocol.OpenCall)
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
	t, err := build(m, r, c.Name, size, o.Sparse, func(b []byte, h protocol.Header) (*protocol.Topic, error) { return protocol.FormatTopic(b, h, o) }, protocol.OpenTopic)
	if err != nil {
		return err
	}
	m.add(&channel{Channel: t, conf: c, topic: t, telling: new(sync.Mutex)})
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

// describe fills the roster's directory.
func (m *memory) describe(c *config.Config) error {
	names := []string{"roster", "command", "log"}
	for _, g := range c.Groups {
		names = append(names, groupSegment(g.Name))
	}
	for _, name := range append(names, m.names...) {
		if _, err := m.list(name); err != nil {
			return err
		}
	}
	return nil
}

// list writes the row of a segment into the directory: the one that it had, a free one, or the next. It returns the row's index.
func (m *memory) list(name string) (int, error) {
	rows, _ := m.roster.Segments() // what lies in a row that a daemon died over is as good as free
	i := slices.IndexFunc(rows, func(r protocol.Segment) bool { return r.Name == name })
	if i < 0 {
		i = slices.IndexFunc(rows, func(r protocol.Segment) bool { return r.Name == "" })
	}
	if i < 0 {
		i = len(rows)
	}
	return m.listAt(i, name)
}

// listAt is list for row i.
func (m *memory) listAt(i int, name string) (int, error) {
	s := m.segments[name]
	h, err := protocol.ReadHeader(s.Bytes())
	if err != nil {
		return 0, err
	}
	return i, m.roster.SetSegment(i, protocol.Segment{Name: name, Kind: h.Kind, Size: s.Size(), Inode: s.Inode()})
}

// describeAnew corrects the directory where a segment was made anew.
func (m *memory) describeAnew() error {
	for _, name := range m.anew {
		if _, err := m.list(name); err != nil {
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
