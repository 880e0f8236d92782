package systemd

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
)

// traffic passes numbers, each once, through a region from its start to its end, and keeps the ledger.
type traffic struct {
	s        service
	pub, sub *exec.Cmd
	enough   atomic.Bool
	received atomic.Int64
	sent     chan int
	seen     chan []byte // how often each number came
}

// pass sends to one channel and receives from another.
func pass(s service, from, to string) *traffic {
	t := s.t
	t.Helper()
	x := &traffic{s: s, pub: exec.Command("shmctl", "-r", s.region, "pub", from), sub: exec.Command("shmctl", "-r", s.region, "sub", to), sent: make(chan int, 1), seen: make(chan []byte, 1)}
	in, err := x.pub.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := x.sub.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*exec.Cmd{x.pub, x.sub} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	}
	go func() {
		w, n := bufio.NewWriter(in), 0
		for !x.enough.Load() {
			n++
			fmt.Fprintln(w, n)
		}
		w.Flush()
		in.Close()
		x.sent <- n
	}()
	go x.count(out)
	return x
}

func (x *traffic) count(out io.Reader) {
	var times []byte
	for lines := bufio.NewScanner(out); lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil || n < 1 {
			x.s.t.Errorf("received %q", lines.Text())
			break
		}
		for len(times) <= n {
			times = append(times, 0)
		}
		times[n]++
		x.received.Add(1)
	}
	x.seen <- times
}

// flows waits until a message has come through.
func (x *traffic) flows() {
	x.s.t.Helper()
	at := x.received.Load()
	x.s.poll("messages flow", func() (string, bool) { return fmt.Sprint(x.received.Load()), x.received.Load() > at })
}

// end ends the traffic: none may be lost, none have come twice, and nothing be left in the channels.
func (x *traffic) end() (lost, twice int) {
	t := x.s.t
	t.Helper()
	x.enough.Store(true)
	n := <-x.sent
	if err := x.pub.Wait(); err != nil {
		t.Errorf("shmctl pub: %v", err)
	}
	x.s.poll("all are received", func() (string, bool) {
		return fmt.Sprintf("%d of %d", x.received.Load(), n), x.received.Load() >= int64(n)
	})
	x.s.poll("and nothing is left", func() (string, bool) {
		var ls struct {
			Channels []struct {
				Name  string
				Depth int
			}
		}
		x.s.shmctlJSON(&ls, "ch", "ls")
		for _, c := range ls.Channels {
			if c.Depth != 0 {
				return fmt.Sprintf("%+v", ls), false
			}
		}
		return "", true
	})
	x.sub.Process.Signal(os.Interrupt)
	times := <-x.seen
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
	return lost, twice
}

// expectSame: the workers are those that were there before: pids, states and restarts.
func (s service) expectSame(before map[string]worker) {
	s.t.Helper()
	after := s.workers()
	for name, w := range before {
		if after[name] != w {
			s.t.Errorf("%+v became %+v", w, after[name])
		}
	}
}
