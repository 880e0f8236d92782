package control

import (
	"fmt"
	"os"
	"time"

	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// StopTakes returns how long the stop of a region may take, by what its roster says of its groups.
func StopTakes(r *protocol.Roster) time.Duration {
	groups, _ := r.Groups() // of a damaged row nothing is known
	return supervise.StopTakes(len(groups), func(i int) (int, time.Duration) {
		if t := groups[i].StopTimeout; t > 0 && t <= maxStopTimeout {
			return groups[i].Rank, t
		}
		return groups[i].Rank, defaultStopTimeout
	})
}

// MayTake is what is said to systemd to make it wait for so long from now on, if it would have waited for less.
func MayTake(long time.Duration) string {
	return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", long.Microseconds())
}

// AskForTime asks systemd, where this process is a command of a unit that listens to those (NotifyAccess=exec: ExecStop=), for the time that the stop of a region may take. It waits for
// nobody, and who is not heard has the time that the unit gives.
func AskForTime(r *protocol.Roster) {
	if socket := os.Getenv("NOTIFY_SOCKET"); socket != "" {
		go sys.SendDatagram(socket, []byte(MayTake(StopTakes(r)))) // blocks while systemd does not read
	}
}
