package crashpoint

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// TestDeadLetters kills a daemon that adopts a region in which the first message of a batch, and a message alone, are dead, and moves them to the dead-letter channel. The next daemon
// has what the one before held given back: each dead letter is there once, and the rest of the batch can be received.
func TestDeadLetters(t *testing.T) {
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	count := newTally(t)
	defer count.report("dead letters moved, daemon killed")
	adoptOrphans(t)
	d := newDomainOf(t, nil, team{"stay", 2, "consume = [\"letters\"]\nproduce = [\"letters\"]\n[channel.letters]\nslots = 4\nslot_size = \"64B\"\ndead_slots = 4"})
	names := []string{"stay.0", "stay.1"}
	d.populate(names)
	letters, dead := must(protocol.OpenQueue(d.mem["letters"])), must(protocol.OpenQueue(d.mem["letters.dead"]))
	const who = 900 // no attachment has this id
	lease := func(q *protocol.Queue) protocol.Lease { return must(q.TryReceive(who)) }
	r := &trial{domain: d, count: count, names: names, survivors: names, before: func() {
		l := must(letters.TryLoan(who))
		w := protocol.NewFrame(letters.LoanBytes(l))
		for i := range 3 {
			copy(w.Next(1), fmt.Sprint(i))
		}
		check(letters.CommitFrame(l, &w))
		l = must(letters.TryLoan(who))
		check(letters.Commit(l, copy(letters.LoanBytes(l), "alone")))
		for range 2 {
			check(letters.Reject(lease(letters), 63))
		}
	}, after: func() {
		for _, q := range []*protocol.Queue{letters, dead} {
			for {
				l, err := q.TryReceive(who)
				if errors.Is(err, protocol.ErrEmpty) {
					break
				}
				check(err)
				check(q.Ack(l))
			}
		}
	}}
	d.also = func(map[string]protocol.Worker) error {
		if s := letters.Stat(); s.Ready != 1 || s.Rest() != 1 {
			return fmt.Errorf("the queue has %+v, not the rest of the batch", s)
		}
		if s := dead.Stat(); s.Ready != 2 || s.Rest() != 2 {
			return fmt.Errorf("the dead-letter channel has %+v, not two letters", s)
		}
		return nil
	}
	all := r.first()
	moves := 0
	var picked []point
	for _, p := range all {
		if len(p.what) >= 7 && p.what[:7] == "letters" {
			moves++
			picked = append(picked, p)
		}
	}
	if moves == 0 {
		t.Fatalf("nothing was moved: %v", all)
	}
	r.kill(all, picked)
	d.follow()
}
