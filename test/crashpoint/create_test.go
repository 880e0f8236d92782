package crashpoint

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// opCreate and the index of a kind of creations make that segment.
const opCreate = 4000

// createRoom is the memory that is made a segment; those of logs and groups lie where logs lie.
const createRoom = queueRoom + deadRoom

var createHeader = protocol.Header{Name: "jobs of everybody", Region: "crashpoint", Generation: 7, Created: time.Unix(1, 2), BootID: [16]byte{1, 2, 3, 15: 16}}

// creations are the segments that are made.
var creations = []struct {
	name   string
	create func(b []byte) error
	open   func(b []byte) error
}{
	{"roster", func(b []byte) error {
		_, err := protocol.FormatRoster(b, createHeader, protocol.RosterConfig{Segments: 2, Groups: 1, Workers: 2, Attachments: 3, Dir: "/run/shmd/crashpoint"})
		return err
	}, func(b []byte) error { return errOf(protocol.OpenRoster(b)) }},
	{"command", func(b []byte) error { return errOf(protocol.FormatCommand(b, createHeader, 1, 2)) }, func(b []byte) error { return errOf(protocol.OpenCommand(b)) }},
	{"group", func(b []byte) error {
		return errOf(protocol.FormatGroup(b, createHeader, protocol.GroupConfig{Instances: 2, Metrics: 2, LogSize: protocol.MinInstanceLog}))
	}, func(b []byte) error { return errOf(protocol.OpenGroup(b)) }},
	{"queue", func(b []byte) error {
		return errOf(protocol.FormatQueue(b, createHeader, protocol.QueueOptions{Slots: 4, SlotSize: 64, MaxDeliveries: 3, MaxLeases: 2, Start: 9}))
	}, openedQueue},
	{"dead-letter queue", func(b []byte) error {
		return errOf(protocol.FormatQueue(b, createHeader, protocol.QueueOptions{Slots: 4, SlotSize: 64 + protocol.SizeofDeadLetter, DeadLetter: true}))
	}, openedQueue},
	{"lane", func(b []byte) error {
		return errOf(protocol.FormatQueue(b, createHeader, protocol.QueueOptions{Slots: 4, SlotSize: 64, Lane: true, Sparse: true, Start: 9}))
	}, openedQueue},
	{"topic", func(b []byte) error {
		return errOf(protocol.FormatTopic(b, createHeader, protocol.TopicOptions{Slots: 4, SlotSize: 64, Cursors: 4, DropOldest: true, Start: 9, EvictAfter: time.Second}))
	}, openedTopic},
	{"topic of one publisher", func(b []byte) error {
		return errOf(protocol.FormatTopic(b, createHeader, protocol.TopicOptions{Slots: 4, SlotSize: 64, Cursors: 4, Single: true, Start: 9}))
	}, openedTopic},
	{"latest", func(b []byte) error {
		return errOf(protocol.FormatLatest(b, createHeader, protocol.LatestOptions{Slots: 4, SlotSize: 64, Sparse: true, Start: 9}))
	}, func(b []byte) error { return errOf(protocol.OpenLatest(b)) }},
	{"call", func(b []byte) error {
		return errOf(protocol.FormatCall(b, createHeader, protocol.CallOptions{Slots: 4, SlotSize: 64, MaxDeliveries: 3, FailOnDeath: true, Start: 9}))
	}, func(b []byte) error { return errOf(protocol.OpenCall(b)) }},
	{"log", func(b []byte) error { return errOf(protocol.FormatLog(b, createHeader, logRing, logRing)) }, openedLog},
}

func errOf[T any](_ T, err error) error { return err }

func openedQueue(b []byte) error {
	q, err := protocol.OpenQueue(b)
	if err == nil && q.Stat().Free != q.Slots() {
		err = fmt.Errorf("%+v", q.Stat())
	}
	return err
}

func openedLog(b []byte) error {
	if _, err := protocol.OpenLog(b); err != nil {
		return err
	}
	return errOf(protocol.OpenEvents(b))
}

func openedTopic(b []byte) error { return errOf(protocol.OpenTopic(b)) }

func createMemory(b []byte, op uint64) []byte {
	if name := creations[op-opCreate].name; name == "log" || name == "group" {
		return logMemory(b)
	}
	return b[queueAt : queueAt+createRoom : queueAt+createRoom]
}

func warmUpCreate(b []byte) {
	for i := range uint64(len(creations)) {
		clear(createMemory(b, opCreate+i))
		operateCreate(b, opCreate+i)
	}
}

func operateCreate(b []byte, op uint64) uint64 {
	return result(creations[op-opCreate].create(createMemory(b, op)))
}

// TestCreateKill kills the creator of a segment, of every kind, at every instruction: whoever opens it is told that it is not ready, or gets all of it.
func TestCreateKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("create, kill")
	for k, c := range creations {
		op := opCreate + uint64(k)
		b := createMemory(mem, op)
		want := make([]byte, len(b))
		if err := c.create(want); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		clear(b)
		x.begin(op, victim, 0)
		set(mem, wordNoRuntime, 1)
		notReady, ready := 0, 0
		var last uint64
		judge := func() error {
			_, err := protocol.ReadHeader(b)
			if errors.Is(err, protocol.ErrNotReady) && ready == 0 {
				notReady++
				for what, err := range map[string]error{"its own": c.open(b), "any channel": errOf(protocol.OpenChannel(b)), "the check": protocol.Check(protocol.KindQueue, 7)(b)} {
					if !errors.Is(err, protocol.ErrNotReady) {
						return fmt.Errorf("opened by %s: %w", what, err)
					}
				}
				return nil
			}
			if err != nil {
				return fmt.Errorf("after %d images that were not ready and %d that were: %w", notReady, ready, err)
			}
			ready++
			if err := c.open(b); err != nil {
				return err
			}
			if !bytes.Equal(b, want) {
				i := 0
				for b[i] == want[i] {
					i++
				}
				return fmt.Errorf("opened, and byte %#x is %#x, in the end %#x", i, b[i], want[i])
			}
			return nil
		}
		after := 0
		for i, more := 0, true; more; i++ {
			if h := maphash.Bytes(seed, b[:8192]); i == 0 || h != last {
				last = h
				count.point(judge(), "%s, create killed at %d", c.name, i)
			} else {
				count.point(nil, "")
			}
			if i == 200 && !quick() { // dies in truth: nothing else comes of it
				image := bytes.Clone(b)
				x.kill()
				count.killed++
				if !bytes.Equal(image, b) {
					t.Errorf("%s: the memory changed when its creator was killed", c.name)
				}
				x.start()
				clear(b)
				x.begin(op, victim, 0)
				set(mem, wordNoRuntime, 1)
				x.steps(i)
			}
			if ready > 0 { // what is left only reads
				if after++; after > 100 {
					break
				}
			}
			more = x.step()
		}
		r, _ := x.finish()
		err := judge()
		if err == nil && (r != resultOK || notReady < 10 || ready == 0) {
			err = fmt.Errorf("result %d, %d images that were not ready, %d that were", r, notReady, ready)
		}
		count.point(err, "%s, after create", c.name)
	}
}
