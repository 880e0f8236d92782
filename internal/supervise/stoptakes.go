package supervise

import "time"

// stopMargin is what a stop may take beside its groups' timeouts: the end of processes that got SIGKILL, repair, the last log lines; and waveMargin
// that of each wave: how far a daemon may fall behind before shmctl takes over.
const (
	stopMargin = 15 * time.Second
	waveMargin = 5 * time.Second
)

// StopTakes returns how long a stop of a whole region may take, given its groups' stop timeouts by rank: groups of one rank stop together, the ranks one after the other,
// and each has its timeout from the quit flag to SIGTERM and once more to SIGKILL. It is for who has to say beforehand how long to wait.
func StopTakes(groups int, group func(i int) (rank int, stopTimeout time.Duration)) time.Duration {
	longest := map[int]time.Duration{}
	for i := range groups {
		rank, timeout := group(i)
		longest[rank] = max(longest[rank], timeout)
	}
	takes := stopMargin
	for _, timeout := range longest {
		takes += 2*timeout + waveMargin
	}
	return takes
}
