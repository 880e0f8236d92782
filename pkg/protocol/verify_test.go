package protocol

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// verified are sound segments with something in them, and for each word that can be wrong what makes it so and the rule that has to notice.
func verified(t testing.TB) map[string][]byte {
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	q := newQueue(t, QueueOptions{Slots: 4, SlotSize: 48, MaxDeliveries: 3})
	for v := range uint64(3) {
		must(send(t, q, 1, v))
	}
	_, err := q.TryReceive(2)
	must(err)
	_, err = q.TryLoan(1)
	must(err)

	n, err := TopicSize(TopicOptions{Slots: 4, SlotSize: 32, Cursors: 2, DropOldest: true})
	must(err)
	topic, err := FormatTopic(heap(n), header("topic"), TopicOptions{Slots: 4, SlotSize: 32, Cursors: 2, DropOldest: true})
	must(err)
	pub, err := topic.Publisher(1)
	must(err)
	_, err = topic.Subscribe(2, FromNew)
	must(err)
	for range 3 {
		must(pub.TryPublish([]byte("x")))
	}
	_, err = pub.TryLoan()
	must(err)

	n, err = LatestSize(LatestOptions{Slots: 4, SlotSize: 32})
	must(err)
	latest, err := FormatLatest(heap(n), header("latest"), LatestOptions{Slots: 4, SlotSize: 32})
	must(err)
	_, err = latest.Put(1, []byte("x"))
	must(err)
	_, err = latest.TryDraft(1)
	must(err)

	n, err = CallSize(CallOptions{Slots: 4, SlotSize: 32, MaxDeliveries: 2})
	must(err)
	call, err := FormatCall(heap(n), header("call"), CallOptions{Slots: 4, SlotSize: 32, MaxDeliveries: 2})
	must(err)
	for range 2 {
		r, err := call.TryRequest(1, 0)
		must(err)
		must(call.SendCopy(&r, []byte("x")))
	}
	_, err = call.TryAccept(2, 0)
	must(err)

	all := map[string][]byte{"queue": q.b, "topic": topic.b, "latest": latest.b, "call": call.b}
	for _, g := range goldens {
		if all[g.name] == nil {
			tt, ok := t.(*testing.T)
			if !ok {
				continue
			}
			all[g.name] = g.make(tt)
		}
	}
	return all
}

// slotWith is where the first slot in a phase lies.
func slotWith(t *testing.T, b []byte, offset, stride int64, phase uint64) int64 {
	for at := offset; at < int64(len(b)); at += stride {
		if binary.LittleEndian.Uint64(b[at:])&15 == phase {
			return at
		}
	}
	t.Fatalf("no slot is in phase %d", phase)
	return 0
}

func TestVerify(t *testing.T) {
	known := func(id uint16) bool { return id == 1 || id == 2 }
	for name, b := range verified(t) {
		if list := Verify(b, VerifyOptions{}); len(list) > 0 {
			t.Errorf("%s is sound, and verify says %v", name, list)
		}
	}
	at := func(o uint64) func(*testing.T, []byte) int64 {
		return func(*testing.T, []byte) int64 { return int64(o) }
	}
	queueSlot := func(p Phase) func(*testing.T, []byte) int64 {
		return func(t *testing.T, b []byte) int64 { return slotWith(t, b, queueSlots, 64, uint64(p)) }
	}
	topicSlot := func(p Phase) func(*testing.T, []byte) int64 {
		return func(t *testing.T, b []byte) int64 { return slotWith(t, b, 4096, 64, uint64(p)) }
	}
	latestSlot := func(p Phase) func(*testing.T, []byte) int64 {
		return func(t *testing.T, b []byte) int64 { return slotWith(t, b, latestSlots, 64, uint64(p)) }
	}
	callSlot := func(p CallPhase) func(*testing.T, []byte) int64 {
		return func(t *testing.T, b []byte) int64 { return slotWith(t, b, callSlots, 128, uint64(p)) }
	}
	set := func(v uint64) func(uint64) uint64 { return func(uint64) uint64 { return v } }
	owner := func(id uint16) func(uint64) uint64 {
		return func(w uint64) uint64 { return w&^(0xffff<<SlotOwnerShift) | uint64(id)<<SlotOwnerShift }
	}
	xor := func(v uint64) func(uint64) uint64 { return func(w uint64) uint64 { return w ^ v } }
	for _, c := range []struct {
		segment, rule string
		at            func(*testing.T, []byte) int64
		change        func(uint64) uint64
	}{
		{"queue", "header", at(OffsetofSegmentHeaderMagic), set(0)},
		{"queue", "geometry", at(bodyOffset + OffsetofQueueInfoSlots), set(3)},
		{"queue", "queue.head", at(bodyOffset + OffsetofQueueInfoHead), set(9)},
		{"queue", "queue.lost", at(bodyOffset + OffsetofQueueInfoHead), set(3)},
		{"queue", "owner.none", queueSlot(PhaseReading), owner(0)},
		{"queue", "owner.unknown", queueSlot(PhaseWriting), owner(7)},
		{"queue", "owner.unknown", at(bodyOffset + OffsetofQueueInfoSendOwner), set(9)},
		{"queue", "slot.owner", queueSlot(PhaseReady), owner(1)},
		{"queue", "slot.phase", queueSlot(PhaseReady), xor(15 ^ uint64(PhaseReady))},
		{"queue", "slot.lap", queueSlot(PhaseReady), xor(4 << SlotLapShift)},
		{"queue", "slot.deliveries", queueSlot(PhaseReady), xor(4 << SlotDeliveriesShift)},
		{"queue", "slot.length", func(t *testing.T, b []byte) int64 { return queueSlot(PhaseReady)(t, b) + OffsetofSlotHeaderLength }, set(49)},
		{"topic", "owner.none", topicSlot(PhaseWriting), owner(0)},
		{"topic", "slot.phase", topicSlot(PhaseReady), xor(15 ^ uint64(PhaseReady))},
		{"topic", "slot.lap", topicSlot(PhaseReady), xor(4 << SlotLapShift)},
		{"topic", "slot.length", func(t *testing.T, b []byte) int64 { return topicSlot(PhaseReady)(t, b) + OffsetofSlotHeaderLength }, set(33)},
		{"topic", "topic.floor", at(bodyOffset + OffsetofTopicInfoFloor), set(9)},
		{"topic", "owner.unknown", at(topicCursors), owner(9)},
		{"topic", "cursor.phase", at(topicCursors), xor(15 ^ uint64(CursorPhaseOpen))},
		{"topic", "cursor.position", at(topicCursors + OffsetofTopicCursorPosition), set(99)},
		{"latest", "latest.slot", at(bodyOffset + OffsetofLatestInfoCurrent), xor(100)},
		{"latest", "latest.lost", at(bodyOffset + OffsetofLatestInfoCurrent), xor(1 << 20)},
		{"latest", "owner.unknown", latestSlot(PhaseWriting), owner(9)},
		{"latest", "slot.phase", latestSlot(PhaseWriting), xor(15 ^ uint64(PhaseWriting))},
		{"latest", "slot.length", func(t *testing.T, b []byte) int64 { return latestSlot(PhaseReady)(t, b) + OffsetofLatestSlotLength }, set(33)},
		{"call", "owner.none", callSlot(CallPhaseRequest), owner(0)},
		{"call", "owner.unknown", callSlot(CallPhaseServing), xor(8 << CallSlotServerShift)},
		{"call", "slot.phase", callSlot(CallPhaseServing), xor(15 ^ uint64(CallPhaseServing))},
		{"call", "slot.deliveries", callSlot(CallPhaseServing), xor(3 << CallSlotDeliveriesShift)},
		{"call", "slot.length", func(t *testing.T, b []byte) int64 { return callSlot(CallPhaseRequest)(t, b) + OffsetofCallSlotRequest }, set(33 << CallSlotLengthShift)},
		{"command", "command.desired", at(bodyOffset + OffsetofCommandInfoDesired), set(7)},
		{"command", "command.desired", at(commandRows + OffsetofCommandRowDesired), set(7)},                      // a group's row
		{"command", "command.desired", at(commandRows + 4*SizeofCommandRow + OffsetofCommandRowDesired), set(7)}, // the last worker's row
		{"log", "log.record", func(t *testing.T, b []byte) int64 {
			l, err := OpenLog(b)
			if err != nil {
				t.Fatal(err)
			}
			return int64(l.info.RingOffset.Load()) + int64(l.info.Tail.Load()&(l.info.RingSize.Load()-1))
		}, set(1 << 31)},
	} {
		b := bytes.Clone(verified(t)[c.segment])
		b = aligned(b)
		o := c.at(t, b)
		w := binary.LittleEndian.Uint64(b[o:])
		new := c.change(w)
		if o%64 != 0 && w>>32 != 0 && new>>32 == 0 { // a word of 32 bits and its neighbour
			new |= w &^ (1<<32 - 1)
		}
		binary.LittleEndian.PutUint64(b[o:], new)
		found := false
		for _, v := range Verify(b, VerifyOptions{InUse: known}) {
			lost := strings.HasSuffix(c.rule, ".lost") // told of at what is lost
			found = found || v.Rule == c.rule && (v.Offset == o || lost)
		}
		if !found {
			t.Errorf("%s, %#x changed from %#x to %#x: %v, not %q there", c.segment, o, w, new, Verify(b, VerifyOptions{InUse: known}), c.rule)
		}
	}
}

// FuzzVerify: whatever lies in a segment, verify ends, reads nothing outside, and says at most a few things of each slot and row.
func FuzzVerify(f *testing.F) {
	all := verified(f)
	names := []string{"queue", "topic", "latest", "call"}
	for i := range names {
		f.Add(byte(i), uint16(256), []byte{1}, uint16(4096), []byte{255})
	}
	f.Fuzz(func(t *testing.T, which byte, at1 uint16, p1 []byte, at2 uint16, p2 []byte) {
		b := aligned(all[names[int(which)%len(names)]])
		corrupt(b, at1, p1)
		corrupt(b, at2, p2)
		if n := len(Verify(b, VerifyOptions{InUse: func(id uint16) bool { return id < 3 }})); n > len(b)/8 {
			t.Fatalf("%d violations in %d bytes", n, len(b))
		}
		Verify(b, VerifyOptions{Copy: true})
	})
}

// What is wrong with the ring of events is told once.
func TestVerifyEvents(t *testing.T) {
	b := aligned(make([]byte, LogSize(4*MaxLogText, 4*MaxLogText)))
	if _, err := FormatLog(b, Header{Name: "log", Region: "test"}, 4*MaxLogText, 4*MaxLogText); err != nil {
		t.Fatal(err)
	}
	events, err := OpenEvents(b)
	if err != nil {
		t.Fatal(err)
	}
	events.Write(Record{Text: "ready"})
	events.word(0).Store(1 << 31) // its length
	if list := Verify(b, VerifyOptions{}); len(list) != 1 || list[0].Offset != events.at {
		t.Errorf("%v", list)
	}
}
