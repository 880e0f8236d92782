package storm

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// logging is what a logger does until it is killed: it numbers its records.
func logging() error {
	r, err := shm.Attach(context.Background(), shm.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	log := slog.New(r.Log())
	log.Info("beat", "n", 1)
	r.Ready()
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for n := 2; ; n++ {
		select {
		case <-r.Quit().Done():
			return shm.ErrQuit
		case <-t.C:
			log.Info("beat", "n", n)
		}
	}
}

// told is a line of shmctl logs -f or events -f.
type told struct {
	Lost                    uint64
	Number                  uint64
	Kind, Cause, Worker, To string
	Pid                     int
	Attrs                   struct{ N int }
}

// follow hands each line of a shmctl that follows to fn, until it ends.
func follow(t *testing.T, d *testregion.Region, fn func(told), args ...string) (wait func()) {
	t.Helper()
	c := exec.Command(filepath.Join(testregion.Binaries(t), "shmctl"), append(args, "-f", "-n", "all", "-o", "json")...)
	c.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+d.Dir, "SHMCTL_REGION="+d.Name)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var l told
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				t.Errorf("%s: %q: %v", args[0], lines.Text(), err)
			}
			fn(l)
		}
	}()
	return func() {
		<-done
		if err := c.Wait(); err != nil {
			t.Errorf("shmctl %s: %v", args[0], err)
		}
	}
}

// TestLogStorm kills workers that log: every change of state is told once, in order, and of each worker every record is there from the first to the last that it
// wrote.
func TestLogStorm(t *testing.T) {
	kills := number(t, "SHMD_KILLS", 2000) / 20
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := testregion.Start(t, fmt.Sprintf(`[region]
name = "test"
[worker.log]
command = [%q]
count = 4
ready = "call"
env.STORM_ROLE = "logger"
backoff_min = "1ms"
backoff_max = "1ms"
crash_limit = 0
`, self))
	var next, lost uint64 = 1, 0
	exits := map[int]int{}
	events := follow(t, d, func(e told) {
		if lost += e.Lost; e.Lost == 0 && e.Number != next {
			t.Errorf("event %d comes after %d", e.Number, next-1)
		}
		next = e.Number + 1
		if e.Kind == "state" && e.Cause == "exit" {
			exits[e.Pid]++
		}
	}, "events")
	last, records := map[int]int{}, 0
	logs := follow(t, d, func(r told) {
		if lost += r.Lost; r.Attrs.N != last[r.Pid]+1 {
			t.Errorf("process %d: record %d comes after %d", r.Pid, r.Attrs.N, last[r.Pid])
		}
		last[r.Pid] = r.Attrs.N
		records++
	}, "logs", "-g", "^beat n=")
	random := rand.New(rand.NewPCG(1, 2))
	killed := map[int]bool{}
	for range kills {
		i := random.IntN(4)
		ws := d.WaitWorkers("one that is ready", func(ws []protocol.Worker) bool { return ws[i].State == protocol.StateReady && !killed[ws[i].Pid] })
		killed[ws[i].Pid] = true
		if err := syscall.Kill(ws[i].Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	d.WaitReady()
	d.Shmctl("stop")
	events()
	logs()
	for pid := range killed {
		if exits[pid] != 1 || last[pid] == 0 {
			t.Errorf("process %d was killed: %d events, %d records", pid, exits[pid], last[pid])
		}
	}
	if lost > 0 {
		t.Errorf("%d were lost", lost)
	}
	t.Logf("%d kills, %d events, %d records: none lost", kills, next-1, records)
}
