package filter_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/pkg/protocol"
)

// kinds of death.
var victims = []struct {
	name string
	kill func(w protocol.Worker)
}{
	{"filter", func(w protocol.Worker) { syscall.Kill(w.Pid, syscall.SIGKILL) }},
	{"shim", func(w protocol.Worker) { syscall.Kill(w.ShimPid, syscall.SIGKILL) }},
	{"both", func(w protocol.Worker) {
		syscall.Kill(w.Pid, syscall.SIGKILL)
		syscall.Kill(w.ShimPid, syscall.SIGKILL)
	}},
}

// A death in the middle of a message: the message comes again, and each of the two dies with the other.
func TestDeathInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, v := range victims {
		for _, window := range []int{1, 4} {
			t.Run(fmt.Sprint(v.name, window), func(t *testing.T) {
				t.Parallel()
				mark := filepath.Join(t.TempDir(), "mark")
				// Holds the line "hold" until it is killed, the first time.
				b := start(t, []string{"sh", "-c", `
while read -r line; do
	if [ "$line" = hold ] && ! [ -e "$0" ]; then
		: >"$0"
		echo holding >&2
		kill -STOP $$
	fi
	echo "done $line"
done`, mark}, both+fmt.Sprintf("filter_window = %d\n", window))
				b.send("a", "b", "hold", "c", "d")
				b.want("done a", "done b")
				b.d.WaitLog(`"@message":"holding"`)
				w := b.running()
				v.kill(w)
				b.want("done hold", "done c", "done d")
				ended(t, w.Pid)
				ended(t, w.ShimPid)
				b.settled()
				s, err := b.jobs.Stat()
				if err != nil {
					t.Fatal(err)
				}
				if want := uint64(min(window, 3)); s.Redelivered != want {
					t.Errorf("%d messages were given back, want %d", s.Redelivered, want)
				}
				after := b.worker("a new one", func(n protocol.Worker) bool {
					return n.State == protocol.StateReady && n.ShimPid != w.ShimPid && n.Pid != n.ShimPid
				})
				if after.Restarts == 0 {
					t.Errorf("%+v", after)
				}
			})
		}
	}
}

// Kills at random moments under load: every message is answered, and twice only where a lease was open.
func TestLedger(t *testing.T) {
	t.Parallel()
	for _, window := range []int{1, 64} {
		t.Run(fmt.Sprint(window), func(t *testing.T) {
			t.Parallel()
			const (
				messages = 4000
				kills    = 30
				seed     = 7
			)
			random := rand.New(rand.NewPCG(seed, uint64(window)))
			b := startWith(t, "max_deliveries = 63\n", []string{"sed", "-u", "s/^/done /"}, both+"count = 2\n"+fmt.Sprintf("filter_window = %d\n", window))
			b.d.WaitReady()
			go func() {
				for i := range messages {
					b.jobs.Send(b.ctx, fmt.Append(nil, i))
				}
			}()
			answers := map[string]int{}
			duplicates, killed := 0, 0
			for len(answers) < messages {
				got := b.receive()
				if !strings.HasPrefix(got, "done ") {
					t.Fatalf("torn: %q", got)
				}
				if answers[got]++; answers[got] > 1 {
					duplicates++
				}
				if killed < kills && len(answers) >= (killed+1)*messages/(kills+1) {
					ws := b.d.WaitWorkers("ready, one of them", func(ws []protocol.Worker) bool {
						for _, w := range ws {
							if w.State == protocol.StateReady && w.Pid != w.ShimPid {
								return true
							}
						}
						return false
					})
					i := random.IntN(2)
					if w := ws[i]; w.State != protocol.StateReady || w.Pid == w.ShimPid {
						i = 1 - i
					}
					victims[random.IntN(len(victims))].kill(ws[i])
					killed++
				}
			}
			b.settled()
			for i := range messages {
				if answers[fmt.Sprint("done ", i)] == 0 {
					t.Errorf("message %d was lost", i)
				}
			}
			// Only answers that were committed and not acked when the shim died are given twice: those of one batch, which is no larger
			// than the window.
			if duplicates > kills*window {
				t.Errorf("%d answers came twice, with %d kills", duplicates, kills)
			}
			t.Logf("%d messages, %d kills, %d duplicates", messages, killed, duplicates)
		})
	}
}

// A filter that pays attention to nothing dies with its shim, though no daemon lives that could kill it.
func TestFilterDiesWithoutDaemon(t *testing.T) {
	t.Parallel()
	b := start(t, []string{"sh", "-c", "trap '' TERM HUP PIPE; echo deaf >&2; exec setsid sleep 1000"}, both)
	b.d.WaitLog(`"@message":"deaf"`)
	w := b.running()
	b.send("x")
	b.d.Kill()
	syscall.Kill(w.ShimPid, syscall.SIGKILL)
	ended(t, w.Pid)
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", w.ShimPid)); err == nil {
		ended(t, w.ShimPid)
	}
	b.d.Again()
}
