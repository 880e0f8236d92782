package shm

import (
	"encoding/binary"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// A daemon that died while it wrote the row of one worker keeps no other from attaching.
func TestOwnRow(t *testing.T) {
	c := protocol.RosterConfig{Segments: 1, Groups: 1, Workers: 3, Attachments: 3}
	b := make([]byte, protocol.RosterSize(c))
	roster, err := protocol.FormatRoster(b, protocol.Header{Name: "roster", Region: "test"}, c)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range []protocol.Worker{
		{Name: "a.0", State: protocol.StateReady, Attachment: 1},
		{Name: "b.0", State: protocol.StateStarting, Attachment: 2},
		{Name: "c.0", State: protocol.StateGone},
	} {
		if err := roster.SetWorker(i, w); err != nil {
			t.Fatal(err)
		}
	}
	tear := func(i int) {
		seq := b[roster.WorkerOffset(i)+protocol.OffsetofWorkerRowSeq:]
		binary.LittleEndian.PutUint32(seq, binary.LittleEndian.Uint32(seq)|1)
	}
	tear(0)
	if i, w, err := ownRow(roster, "b.0"); i != 1 || w.Attachment != 2 || err != nil {
		t.Errorf("%d, %+v, %v", i, w, err)
	}
	for _, name := range []string{"c.0", "d.0"} {
		if i, _, err := ownRow(roster, name); i != -1 || err != nil {
			t.Errorf("%s: %d, %v", name, i, err)
		}
	}
	if _, _, err := ownRow(roster, "a.0"); err == nil {
		t.Error("half a row is believed")
	}
}
