package cli

import (
	"crypto/rand"
	"encoding/binary"
	"os"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
	"github.com/shmd/shmd/pkg/shm"
)

// benchMemory is the memory of one measurement: a region of two workers and its channels, made as a daemon makes it, in memory that only
// shmctl and its two ends hold. It is gone with the last of them, however they end.
type benchMemory struct {
	names    []string
	segments []*region.Segment
}

// Names in that region.
const (
	benchRegion  = "bench"
	benchWorkers = "bench." // and the index
	benchThere   = "there"
	benchBack    = "back"

	benchFirst = 2 // attachment of bench.0, which sends there; the next one answers, and sends back
)

// benchFootprint is what the slots of a channel take at most: what fits the caches that processors share.
const benchFootprint = 4 << 20

// benchSlots returns the slots of a channel, and the size of each.
func benchSlots(e benchSpec) (slots, size int) {
	size = e.Size
	if e.Batch > 1 {
		size = e.Batch * (e.Size + benchFrame)
	}
	for slots = 1024; slots > 8 && slots*size > benchFootprint; slots /= 2 {
	}
	return slots, size
}

// benchFrame is more than what a message takes in a slot beside its bytes if it shares the slot.
const benchFrame = 64

func newBenchMemory(e benchSpec) (_ *benchMemory, err error) {
	boot, err := sys.BootID()
	if err != nil {
		return nil, err
	}
	var generation [8]byte
	rand.Read(generation[:])
	h := protocol.Header{Generation: binary.LittleEndian.Uint64(generation[:]) | 1, BootID: boot, Region: benchRegion, Created: time.Now()}
	m := &benchMemory{}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	add := func(name string, size int64, format func(b []byte, h protocol.Header) error) error {
		s, err := region.Create(region.Options{Name: "shmctl:bench:" + name, Size: size, Prefault: true})
		if err != nil {
			return err
		}
		m.names, m.segments = append(m.names, name), append(m.segments, s)
		h.Name = name
		return format(s.Bytes(), h)
	}
	config := protocol.RosterConfig{Segments: 8, Groups: 1, Workers: 2, Attachments: 8}
	err = add("roster", protocol.RosterSize(config), func(b []byte, h protocol.Header) error {
		r, err := protocol.FormatRoster(b, h, config)
		for i := 0; i < 2 && err == nil; i++ {
			err = r.SetWorker(i, protocol.Worker{Name: benchWorkers + string(rune('0'+i)), Instance: i, State: protocol.StateStarting, Attachment: benchFirst + uint16(i)})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = add("command", protocol.CommandSize(1, 2), func(b []byte, h protocol.Header) error { _, err := protocol.FormatCommand(b, h, 1, 2); return err })
	if err != nil {
		return nil, err
	}
	err = add("group", protocol.GroupSize(protocol.GroupConfig{Instances: 2}), func(b []byte, h protocol.Header) error {
		_, err := protocol.FormatGroup(b, h, protocol.GroupConfig{Instances: 2})
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, name := range []string{benchThere, benchBack} {
		size, format, err := benchChannel(e, benchFirst+uint16(i))
		if err == nil {
			err = add(name, size, format)
		}
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

// benchChannel returns the size of a channel's segment, and what formats it. sender is the attachment that sends there.
func benchChannel(e benchSpec, sender uint16) (int64, func([]byte, protocol.Header) error, error) {
	slots, slotSize := benchSlots(e)
	fenced := sys.RegisterFence() == nil
	switch e.Kind {
	case benchCall:
		o := protocol.CallOptions{Slots: slots, SlotSize: slotSize}
		size, err := protocol.CallSize(o)
		return size, func(b []byte, h protocol.Header) error { _, err := protocol.FormatCall(b, h, o); return err }, err
	case benchTopic:
		o := protocol.TopicOptions{Slots: slots, SlotSize: slotSize, Cursors: 4, Single: true, Fenced: fenced}
		size, err := protocol.TopicSize(o)
		return size, func(b []byte, h protocol.Header) error {
			t, err := protocol.FormatTopic(b, h, o)
			if err == nil {
				t.Admit(sender)
			}
			return err
		}, err
	}
	o := protocol.QueueOptions{Slots: slots, SlotSize: slotSize, Lane: e.Kind == benchLane && fenced}
	size, err := protocol.QueueSize(o)
	return size, func(b []byte, h protocol.Header) error { _, err := protocol.FormatQueue(b, h, o); return err }, err
}

// files returns the descriptors for an end, in the order of names.
func (m *benchMemory) files() []*os.File {
	var files []*os.File
	for _, s := range m.segments {
		files = append(files, s.File())
	}
	return files
}

// environ is what an end finds in its environment to attach as a worker.
func (m *benchMemory) environ(index int) []string {
	return []string{"SHMD_FDS=" + strings.Join(m.names, ","), "SHMD_REGION=" + benchRegion, "SHMD_WORKER=" + benchWorkers + string(rune('0'+index))}
}

func (m *benchMemory) Close() {
	for _, s := range m.segments {
		s.Close()
	}
}

// benchSender and benchReceiver are the ends of a channel of whichever kind.
type benchSender interface {
	send(ctx benchContext, p []byte) error
	sendMany(ctx benchContext, msgs [][]byte) error
	close()
}

type benchReceiver interface {
	receive(ctx benchContext, buf []byte) ([]byte, error)
	each(ctx benchContext, buf []byte, fn func(p []byte)) error
	close()
}

func benchSenderOf(r *shm.Region, e benchSpec, name string) (benchSender, error) {
	if e.Kind == benchTopic {
		t, err := r.Topic(name)
		if err != nil {
			return nil, err
		}
		p, err := t.Publisher()
		return benchPublisher{p}, err
	}
	q, err := r.Queue(name)
	if err != nil {
		return nil, err
	}
	if e.Kind == benchLane && e.Batch == 1 {
		p, err := q.Producer()
		return benchProducer{q, p}, err
	}
	return benchQueue{q}, nil
}

func benchReceiverOf(r *shm.Region, e benchSpec, name string) (benchReceiver, error) {
	if e.Kind == benchTopic {
		t, err := r.Topic(name)
		if err != nil {
			return nil, err
		}
		s, err := t.Subscribe(shm.SubscribeOptions{})
		return benchSubscriber{s}, err
	}
	q, err := r.Queue(name)
	if err != nil {
		return nil, err
	}
	if e.Kind == benchLane && e.Batch == 1 {
		c, err := q.Consumer()
		return benchConsumer{q, c}, err
	}
	return benchQueue{q}, nil
}
