package shm_test

import (
	"errors"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// A message that is returned was not delivered, whether it was sent alone or in a batch; those that were received with it end as they end.
func TestReturn(t *testing.T) { ends(t, testReturn) }

func testReturn(t *testing.T, toml string, _ bool) {
	d := testregion.Start(t, toml)
	q := queue(t, d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}}), "jobs")
	ctx := within(t)
	receive := func() *shm.Message {
		t.Helper()
		m, err := q.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for range 100 { // more than max_deliveries
		if err := q.Send(ctx, []byte("alone")); err != nil {
			t.Fatal(err)
		}
		if _, err := q.SendBatch(ctx, [][]byte{[]byte("a"), []byte("b"), []byte("c")}); err != nil {
			t.Fatal(err)
		}
		seen := ""
		for range 20 {
			m := receive()
			if m.Deliveries() != 0 || m.Suspect() {
				t.Fatalf("%q was returned: deliveries %d, suspect %v", m.Bytes(), m.Deliveries(), m.Suspect())
			}
			if string(m.Bytes()) == "b" {
				seen += "b"
				m.Ack()
				continue
			}
			if err := m.Return(); err != nil {
				t.Fatal(err)
			}
			if err := m.Return(); !errors.Is(err, shm.ErrLost) {
				t.Fatalf("returned twice: %v", err)
			}
		}
		for range 4 - len(seen) {
			m := receive()
			seen += string(m.Bytes()[:1])
			m.Ack()
		}
		if s, err := q.Stat(); err != nil || s.Depth() != 0 || s.DeadLettered != 0 {
			t.Fatalf("after %q: %+v, %v", seen, s, err)
		}
	}
}
