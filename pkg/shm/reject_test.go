package shm_test

import (
	"fmt"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// Messages that are given up go to the dead letters with the reason, whether they were sent alone or in a batch; the others of the batch do not.
func TestReject(t *testing.T) { ends(t, testReject) }

func testReject(t *testing.T, toml string, _ bool) {
	d := testregion.Start(t, toml)
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs", "jobs.dead"}})
	q, dead := queue(t, r, "jobs"), queue(t, r, "jobs.dead")
	ctx := within(t)
	var batch [][]byte
	for i := range 6 {
		batch = append(batch, fmt.Append(nil, i))
	}
	if _, err := q.SendBatch(ctx, batch); err != nil {
		t.Fatal(err)
	}
	if err := q.Send(ctx, []byte("6")); err != nil {
		t.Fatal(err)
	}
	bad := map[string]bool{"0": true, "3": true, "4": true, "6": true}
	seen := map[string]bool{}
	for len(seen) < 7-len(bad) {
		m, err := q.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		p := string(m.Bytes())
		if bad[p] {
			err = m.Reject(protocol.DeadReasonAnswer)
		} else {
			seen[p] = true
			err = m.Ack()
		}
		if err != nil {
			t.Fatal(p, err)
		}
	}
	for len(bad) > 0 { // of a batch one at a time becomes dead: the next is rejected when it comes again
		if m, err := q.TryReceive(); err == nil {
			if p := string(m.Bytes()); !bad[p] {
				t.Errorf("%q came again", p)
			}
			if err := m.Reject(protocol.DeadReasonAnswer); err != nil {
				t.Fatal(err)
			}
		}
		m, err := dead.TryReceive()
		if err != nil {
			if ctx.Err() != nil {
				t.Fatalf("dead letters are missing: %v", bad)
			}
			continue
		}
		info, payload, err := m.Dead()
		if err != nil || info.Reason != protocol.DeadReasonAnswer || !bad[string(payload)] {
			t.Errorf("dead letter %q %+v %v", payload, info, err)
		}
		delete(bad, string(payload))
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
	}
}
