package crashpoint

import (
	"encoding/binary"
	"fmt"
	"maps"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// tellEvictions tells of a topic's evictions, as the daemon does, and adds them to a count by cause and subscriber.
func tellEvictions(t *protocol.Topic, told map[string]int) {
	for _, e := range t.Evictions() {
		told[fmt.Sprint(e.Cause, " of ", e.Owner)] += e.Count
		t.Telling(e, 1)
		t.ToldOf(e)
	}
}

// cursorState is where the state word of row 0 lies.
func cursorState(image []byte) []byte {
	at := binary.LittleEndian.Uint64(image[256+protocol.OffsetofTopicInfoCursorsOffset:])
	return image[at+protocol.OffsetofTopicCursorState:][:8]
}

// TestTopicEvictor stops the victim, which evicts, or frees a row that somebody evicted who was killed before it counted, at every instruction. At each, it may have
// been killed: what there is to tell is one eviction or none, as the row says. Or it goes on after the daemon told, the row was given back, and others had it and were evicted
// from it, up to where the places of the records come round: each is told of once then, with who it was and why.
func TestTopicEvictor(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("topic, evictor")
	for _, s := range topicStates(topicStarts()[0]) {
		if s.name != "a subscriber that lags" || s.single || s.drop {
			continue
		}
		for _, op := range []uint64{opEvict, opRestore} {
			image := append([]byte(nil), s.image...)
			if op == opRestore { // the evictor died right after K
				state := cursorState(image)
				w := binary.LittleEndian.Uint64(state)&^15 | uint64(protocol.CursorPhaseEvicted) | uint64(protocol.EvictCauseTooSlow)<<20
				binary.LittleEndian.PutUint64(state, w)
			}
			first := map[uint64]string{opEvict: fmt.Sprint("operator of ", peer), opRestore: fmt.Sprint("too-slow of ", peer)}[op]
			for _, others := range []int{-1, 0, 1, 3, 4, 5, 9} { // -1: nobody else does anything
				copy(mem[queueAt:], image)
				x.begin(op, victim, 0)
				set(x.mem, wordDead, peer)
				x.everyPoint(func(i int) {
					copy(scratch, mem)
					count.point(evictorKilled(openTopic(scratch), first), "%s killed at %d", opNames[op], i)

					c, told, want := openTopic(mem), map[string]int{}, map[string]int{first: 1}
					if others >= 0 {
						c.Evict(0) // perhaps it is already
						tellEvictions(c, told)
						c.Repair(func(o uint16) bool { return o == peer })
					}
					for range others {
						tellEvictions(c, told) // the last of them is told of when the victim has gone on
						sub := must(c.Subscribe(other, protocol.FromNew))
						check(c.Evict(0))
						check(sub.Close())
						want[fmt.Sprint("operator of ", other)]++
					}
					x.finish()
					tellEvictions(c, told)
					tellEvictions(c, told)
					var err error
					if !maps.Equal(told, want) {
						err = fmt.Errorf("told %v, want %v", told, want)
					}
					count.point(err, "%s parked at %d, %d evictions meanwhile", opNames[op], i, others)
				})
			}
		}
	}
}

// evictorKilled looks at what a killed evictor of row 0 left.
func evictorKilled(c *protocol.Topic, first string) error {
	evicted := false
	for _, row := range c.Cursors() {
		evicted = evicted || row.Phase == protocol.CursorPhaseEvicted
	}
	free := len(c.Cursors()) == 0
	told := map[string]int{}
	c.Repair(func(o uint16) bool { return o == victim })
	tellEvictions(c, told)
	c.Repair(func(o uint16) bool { return o == peer })
	tellEvictions(c, told)
	want := map[string]int{}
	if evicted || free {
		want[first] = 1
	}
	if !maps.Equal(told, want) {
		return fmt.Errorf("told %v, want %v", told, want)
	}
	return nil
}
