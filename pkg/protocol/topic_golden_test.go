package protocol

import (
	"errors"
	"strings"
	"testing"
)

// makeTopic leaves slots READY (a second time), SKIP and WRITING, and cursors that are open, evicted and free again.
func makeTopic(t *testing.T) []byte {
	o := TopicOptions{Slots: 4, SlotSize: 48, Cursors: 4, EvictAfter: 5_000_000_000}
	size, err := TopicSize(o)
	noErr(t, err)
	b := make([]byte, size)
	c, err := FormatTopic(b, goldenHeader("news"), o)
	noErr(t, err)
	p, err := c.Publisher(7)
	noErr(t, err)
	slow, err := c.Subscribe(9, FromNew)
	noErr(t, err)
	quick, err := c.Subscribe(10, FromNew)
	noErr(t, err)
	gone, err := c.Subscribe(11, FromNew)
	noErr(t, err)
	noErr(t, c.Evict(gone.index))
	noErr(t, gone.Close()) // it was noted
	noErr(t, p.TryPublish([]byte("m0")))
	l, err := p.TryLoan()
	noErr(t, err)
	noErr(t, p.Abort(l)) // position 1
	noErr(t, p.TryPublish([]byte("m2: größe")))
	noErr(t, p.TryPublish([]byte(strings.Repeat("m3", 24)))) // fills the slot
	for _, want := range []string{"m0", "m2: größe"} {
		got, err := quick.Next()
		noErr(t, err)
		wantEqual(t, string(got), want)
		noErr(t, quick.Done())
	}
	quick.Flush()
	noErr(t, c.Evict(slow.index))
	noErr(t, p.TryPublish([]byte("m4")))
	_, err = p.TryLoan() // position 5, never committed
	noErr(t, err)
	c.Receivers.Register()
	return b
}

func readTopic(t *testing.T, b []byte) {
	checkHeader(t, b, KindTopic, "news")
	c, err := OpenTopic(b)
	noErr(t, err)
	st := c.Stat()
	wantEqual(t, len(st.Subscribers), 2)
	type cursor struct {
		row      int
		owner    uint16
		phase    CursorPhase
		position uint64
	}
	var cursors []cursor
	for _, s := range st.Subscribers {
		cursors = append(cursors, cursor{s.Row, s.Owner, s.Phase, s.Position})
	}
	wantEqual(t, cursors, []cursor{{0, 9, CursorPhaseEvicted, 0}, {1, 10, CursorPhaseOpen, 3}})
	wantEqual(t, []uint64{st.Tail, st.Published, st.Skipped, st.Evicted, st.Received}, []uint64{6, 4, 1, 2, 3})
	wantEqual(t, []int{st.Writing, st.Receivers, c.Slots(), c.SlotSize()}, []int{1, 1, 4, 48})
	s, err := c.Subscribe(12, FromOldest)
	noErr(t, err)
	for _, want := range []string{"m2: größe", strings.Repeat("m3", 24), "m4"} {
		got, err := s.Next()
		noErr(t, err)
		wantEqual(t, string(got), want)
		noErr(t, s.Done())
	}
	if _, err := s.Next(); !errors.Is(err, ErrEmpty) {
		t.Error(err)
	}
}
