package supervise

import (
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// A Member is an instance of a group in a rolling restart, as its row says.
type Member struct {
	State   protocol.State
	Granted bool // its turn has come
	Carried bool // and what runs since, or tries to, was started for it
	Tried   bool // it has been ready for Trial, or has said itself that it is
	Clean   bool // of one that has exited: by itself and with code 0
	Stopped bool // of one that has exited: it was stopped, and is about to be started
}

// Trial is how long an instance that counts as ready as soon as its command runs has to run before its rolling restart goes on: a command that cannot do its
// work mostly ends at once.
const Trial = time.Second

// RolloutAborted is the note of a rolling restart that an operator ended.
const RolloutAborted = "ended by an operator"

// Rollout takes the next step of a rolling restart of instances that are all wanted: grant are those whose turn it is now, failed is one that was started
// anew and did not become ready, or not for Trial, -1 for none. done: all have had their turn and are ready.
//
// An instance that is not ready anyway has its turn at once. One that is ready has it, in order, while fewer than most are missing. All of this
// is seen from the rows, so that another daemon goes on with it.
func Rollout(members []Member, most int) (grant []int, done bool, failed int) {
	missing, left := 0, 0
	for i, m := range members {
		fine := m.State == protocol.StateReady || m.State == protocol.StateExited && m.Clean
		switch {
		case !m.Granted && !fine:
			grant = append(grant, i)
			missing++
		case !m.Granted:
			left++
		case !m.Carried:
			missing++
		case m.State == protocol.StateBackoff, m.State == protocol.StateFailed, m.State == protocol.StateExited && !m.Clean && !m.Stopped:
			return nil, false, i
		case !fine, m.State == protocol.StateReady && !m.Tried:
			missing++
		}
	}
	if missing == 0 && left == 0 {
		return nil, true, -1
	}
	for i, m := range members {
		if missing >= max(most, 1) {
			break
		}
		if !m.Granted && (m.State == protocol.StateReady || m.State == protocol.StateExited && m.Clean) {
			grant = append(grant, i)
			missing++
		}
	}
	return grant, false, -1
}
