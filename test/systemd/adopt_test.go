package systemd

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

const relays = `
[channel.numbers]
kind = "queue"
slots = 1024
slot_size = "64B"

[channel.out]
kind = "queue"
slots = 1024
slot_size = "64B"

[worker.relay]
builtin = "echo"
count = 4
consume = ["numbers"]
produce = ["out"]
`

// A daemon that is killed while four workers pass messages is replaced by one that has the same memory and the same workers, and of the
// messages none is lost and none comes twice.
func TestKilledDaemonIsAdopted(t *testing.T) {
	configure(t, "default", relays)
	s := start(t, unit, "default")
	s.waitReady()
	before := s.workers()

	pub, sub := exec.Command("shmctl", "pub", "numbers"), exec.Command("shmctl", "sub", "out")
	in, err := pub.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := sub.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*exec.Cmd{pub, sub} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	}
	var enough atomic.Bool
	var received atomic.Int64
	sent := make(chan int, 1)
	go func() {
		w, n := bufio.NewWriter(in), 0
		for !enough.Load() {
			n++
			fmt.Fprintln(w, n)
		}
		w.Flush()
		in.Close()
		sent <- n
	}()
	seen := make(chan []byte, 1) // how often each number came
	go func() {
		var times []byte
		for lines := bufio.NewScanner(out); lines.Scan(); {
			n, err := strconv.Atoi(lines.Text())
			if err != nil || n < 1 {
				t.Errorf("received %q", lines.Text())
				break
			}
			for len(times) <= n {
				times = append(times, 0)
			}
			times[n]++
			received.Add(1)
		}
		seen <- times
	}()

	for range 3 {
		at := received.Load()
		s.poll("messages flow", func() (string, bool) { return fmt.Sprint(received.Load()), received.Load() > at })
		was := s.invocation()
		run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
		s.waitStarted(was)
		s.waitReady()
		pid := s.show("MainPID")
		s.waitJournal("the region is adopted, from the fd store", func(e entry) bool {
			return e.str("_PID") == pid && strings.HasPrefix(e.str("MESSAGE"), "region adopted") && e.str("FROM") == "the fd store" && e.str("LIVING") == "6"
		})
	}
	enough.Store(true)
	n := <-sent
	if err := pub.Wait(); err != nil {
		t.Errorf("shmctl pub: %v", err)
	}
	s.poll("all are received", func() (string, bool) { return fmt.Sprintf("%d of %d", received.Load(), n), received.Load() >= int64(n) })
	s.poll("and nothing is left", func() (string, bool) {
		var ls struct {
			Channels []struct {
				Name  string
				Depth int
			}
		}
		s.shmctlJSON(&ls, "ch", "ls")
		for _, c := range ls.Channels {
			if c.Depth != 0 {
				return fmt.Sprintf("%+v", ls), false
			}
		}
		return "", true
	})
	sub.Process.Signal(os.Interrupt)
	times := <-seen
	lost, twice := 0, 0
	for i := 1; i <= n; i++ {
		switch {
		case i >= len(times) || times[i] == 0:
			lost++
		case times[i] > 1:
			twice++
		}
	}
	t.Logf("%d messages, %d lost, %d twice", n, lost, twice)
	if lost+twice > 0 {
		t.Errorf("of %d messages %d were lost and %d came twice", n, lost, twice)
	}
	after := s.workers()
	for name, w := range before {
		if after[name] != w {
			t.Errorf("%+v became %+v", w, after[name])
		}
	}
	s.expectOneRegion()
	if n := s.show("NRestarts"); n != "3" {
		t.Errorf("the daemon was restarted %s times", n)
	}
}
