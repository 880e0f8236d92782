package stat

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

func topic(t *testing.T) (*protocol.Topic, []byte) {
	t.Helper()
	o := protocol.TopicOptions{Slots: 8, SlotSize: 8, Cursors: 2}
	size, err := protocol.TopicSize(o)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	c, err := protocol.FormatTopic(b, protocol.Header{Name: "news", Region: "test", Generation: 1, Created: time.Now()}, o)
	if err != nil {
		t.Fatal(err)
	}
	return c, b
}

// What a subscriber had read is in no count any more if it is killed when it has given its row back and not added it up. The counter stays where it
// was until it goes on.
func TestCountersOfATopicDoNotGoBack(t *testing.T) {
	c, b := topic(t)
	r := NewReader(Source{Channel: func(string) (protocol.Channel, error) { return c, nil }})
	row := protocol.Segment{Name: "news", Kind: protocol.KindTopic}
	want := func(received uint64) {
		t.Helper()
		if got := r.channel(row, nil, 0, time.Now()); got.Received != received {
			t.Errorf("%d received, want %d", got.Received, received)
		}
	}
	p, err := c.Publisher(2)
	if err != nil {
		t.Fatal(err)
	}
	read := func(n int) {
		t.Helper()
		s, err := c.Subscribe(0x7777, protocol.FromNew)
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			if err := p.TryPublish([]byte("message")); err != nil {
				t.Fatal(err)
			}
			if _, err = s.Next(); err != nil {
				t.Fatal(err)
			}
			if err := s.Done(); err != nil {
				t.Fatal(err)
			}
		}
		s.Flush()
	}
	read(3)
	want(3)
	open := binary.LittleEndian.AppendUint64(nil, 1<<32|0x7777<<protocol.SlotOwnerShift|uint64(protocol.CursorPhaseOpen))
	at := bytes.Index(b, open)
	if at < 0 {
		t.Fatal("there is no row of the subscriber")
	}
	binary.LittleEndian.PutUint64(b[at:], 1<<32) // K, and nothing more
	want(3)
	read(2)
	want(3)
	read(4)
	want(6) // what there is, less what is lost
	r.Look(r.source)
	want(6)
	c, _ = topic(t) // other memory
	r.Look(r.source)
	want(0)
}
