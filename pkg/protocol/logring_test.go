package protocol_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// The next writer numbers on behind the last complete record, wherever the ring has wrapped.
func TestLogResume(t *testing.T) {
	const ring = 64 << 10
	for _, records := range []int{0, 1, 3, 7, 2000} {
		b := make([]byte, protocol.LogSize(ring, ring))
		l, err := protocol.FormatLog(b, protocol.Header{Region: "r", Name: "log", Generation: 1}, ring, ring)
		if err != nil {
			t.Fatal(err)
		}
		for i := range records {
			l.Write(protocol.Record{Text: strings.Repeat("x", i%300) + fmt.Sprint(i)})
		}
		next, err := protocol.OpenLog(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := next.Resume(); err != nil {
			t.Fatalf("after %d records: %v", records, err)
		}
		next.Write(protocol.Record{Text: "of the next"})
		var last protocol.Record
		for c := next.Oldest(); ; {
			r, lost, ok, err := c.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if lost != 0 {
				t.Errorf("after %d records %d are missing before number %d", records, lost, r.Seq)
			}
			last = r
		}
		if last.Seq != uint64(records+1) || last.Text != "of the next" {
			t.Errorf("after %d records the next is number %d: %q", records, last.Seq, last.Text)
		}
	}
}
