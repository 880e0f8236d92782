package supervise

import (
	"math/rand/v2"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// A rolling restart of any group, whose instances get ready in any order and may die meanwhile, never misses more than it may of those that were ready,
// ends, and has given each its turn; and it stops at the first replacement that fails.
func TestRollout(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		members := make([]Member, 1+r.IntN(12))
		down := 0
		for i := range members {
			members[i].State = protocol.StateReady
			if r.IntN(5) == 0 {
				members[i].State, down = protocol.StateBackoff, down+1
			}
		}
		most, bad := 1+r.IntN(4), -1
		if r.IntN(3) == 0 {
			bad = r.IntN(len(members))
		}
		exec, left := r.IntN(2) == 0, 0 // ready as soon as they run: a bad one fails after that
		for _, m := range members {
			if m.State == protocol.StateReady {
				left++
			}
		}
		ended := false
		for step := 0; step < 10000 && !ended; step++ {
			grant, done, failed := Rollout(members, most)
			for _, i := range grant {
				if members[i].Granted {
					t.Fatalf("seed %d: %d has its turn twice", seed, i)
				}
				if members[i].State != protocol.StateReady {
					down--
				}
				members[i].Granted, members[i].Tried = true, false
				if members[i].State == protocol.StateReady {
					members[i].State = protocol.StateStopping
				} else {
					members[i].State, members[i].Carried = protocol.StateStarting, true
				}
			}
			missing := 0
			for _, m := range members {
				if m.State != protocol.StateReady || m.Granted && !m.Tried {
					missing++
				}
			}
			if missing > max(most, len(members)) || missing > most && len(grant) > 0 && missing-len(grant) >= most && anyReady(members, grant) {
				t.Fatalf("seed %d: %d of %d are missing, %d may: %+v", seed, missing, len(members), most, members)
			}
			if done || failed >= 0 {
				ended = true
				for i, m := range members {
					if done && (!m.Granted || !m.Carried || m.State != protocol.StateReady) {
						t.Fatalf("seed %d: done, and %d is %+v", seed, i, m)
					}
				}
				if fine := len(members) - missing; failed >= 0 && fine < left-most {
					t.Fatalf("seed %d: given up with %d left of %d, and %d may be missing: %+v", seed, fine, left, most, members)
				}
				if (failed >= 0) != (bad >= 0) || failed != bad {
					t.Fatalf("seed %d: failed %d, not %d", seed, failed, bad)
				}
				continue
			}
			i := r.IntN(len(members)) // something happens to one
			switch m := &members[i]; {
			case m.State == protocol.StateStopping:
				m.State, m.Carried = protocol.StateStarting, true
			case m.State == protocol.StateStarting && i == bad && !exec, m.State == protocol.StateReady && m.Granted && !m.Tried && i == bad:
				m.State = protocol.StateBackoff
			case m.State == protocol.StateStarting:
				m.State, m.Tried = protocol.StateReady, !exec
			case m.State == protocol.StateReady && m.Granted:
				m.Tried = true
			}
		}
		if !ended {
			t.Fatalf("seed %d: it does not end: %+v", seed, members)
		}
	}
}

// anyReady reports whether one of those whose turn has just come was ready before it.
func anyReady(members []Member, grant []int) bool {
	for _, i := range grant {
		if members[i].State == protocol.StateStopping {
			return true
		}
	}
	return false
}
