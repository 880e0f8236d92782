package daemon_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// A process that holds all slots of a large channel leaves room in the events for others.
func TestManyStalls(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+"[channel.jobs]\nslots = 1024\nslot_size = \"64B\"\nstall_after = \"100ms\"\n"+idle("w"))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Name: "outsider"})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	for range 1024 {
		l, err := q.TryLoan()
		if err != nil {
			t.Fatal(err)
		}
		defer l.Abort()
	}
	eventually(t, "all are told", func() bool {
		n := 0
		for line := range strings.Lines(d.Log()) {
			var e struct {
				Message string `json:"@message"`
				Slots   int
			}
			if json.Unmarshal([]byte(line), &e) == nil {
				switch e.Message {
				case "a process holds a slot for longer than stall_after":
					n++
				case "a process holds more slots for longer than stall_after":
					n += e.Slots
				}
			}
		}
		return n == 1024
	})
	if n := strings.Count(shmctl(t, d, "events"), "stall jobs"); n > 3*17 { // they were taken between two looks, or three
		t.Errorf("%d events", n)
	}
}

// Who holds slots for too long is told once, by name and pid, and shown; who is done is shown no more.
func TestStalls(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+strings.TrimRight(jobs, "\n")+"\nstall_after = \"300ms\"\n"+group(t, "w", "hold", "consume = [\"jobs\"]"))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}, Name: "outsider"})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := q.Send(within(t), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	d.WaitLog("holding")
	w := await(d, "w.0", func(w protocol.Worker) bool { return w.Stalled })
	if w.Reason != `holds a message of channel "jobs"` && w.Reason != `holds a loan of channel "jobs"` {
		t.Errorf("%+v", w)
	}
	type ch struct {
		Channel struct {
			Stalled *struct {
				Slots     int
				Holder    string
				Pid       int
				AtLeastNs int64 `json:"at_least_ns"`
			}
		}
	}
	var info ch
	eventually(t, "all four are told", func() bool {
		info = ch{}
		d.JSON(&info, "ch", "info", "jobs", "-o", "json")
		return info.Channel.Stalled != nil && info.Channel.Stalled.Slots == 4
	})
	if s := info.Channel.Stalled; s.Holder != "w.0" || s.Pid != w.Pid || s.AtLeastNs < int64(300*time.Millisecond) {
		t.Errorf("%+v", *s)
	}
	if out := shmctl(t, d, "ch", "info", "jobs"); !strings.Contains(out, "4 slots; w.0 (pid ") {
		t.Error(out)
	}
	if out := shmctl(t, d, "status"); !strings.Contains(out, "1 stalled") {
		t.Error(out)
	}

	m, err := q.Receive(within(t)) // an outsider that is slow
	if err != nil {
		t.Fatal(err)
	}
	d.WaitLog("a process holds a slot for longer than stall_after", `"name":"outsider"`)
	if err := m.Ack(); err != nil {
		t.Fatal(err)
	}
	shmctl(t, d, "stop", "w")
	eventually(t, "nobody holds anything", func() bool {
		info = ch{}
		d.JSON(&info, "ch", "info", "jobs", "-o", "json")
		return info.Channel.Stalled == nil
	})
	if n := len(records(t, d, func(r record) bool { return r.Message == "a process holds a slot for longer than stall_after" })); n != 5 {
		t.Errorf("%d stalls were told", n)
	}
}
