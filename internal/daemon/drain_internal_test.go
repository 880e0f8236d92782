package daemon

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/shmd/shmd/pkg/protocol"
)

// The supervisor takes a drain's lock at the start and at the end of each worker. It gets it after one instance's turn, not when the logs of all of them
// are carried, which takes seconds where many log all they can.
func TestDrainLetsOthersIn(t *testing.T) {
	const instances, records = 32, drainAtOnce
	header := protocol.Header{Name: "segment", Region: "test", Generation: 1, Created: time.Now()}
	size := protocol.GroupConfig{Instances: instances, LogSize: 1 << 20}
	group, err := protocol.FormatGroup(make([]byte, protocol.GroupSize(size)), header, size)
	if err != nil {
		t.Fatal(err)
	}
	group.SetInstances(instances)
	rows := protocol.RosterConfig{Segments: 1, Groups: 1, Workers: instances, Attachments: 2, Dir: "/run"}
	roster, err := protocol.FormatRoster(make([]byte, protocol.RosterSize(rows)), header, rows)
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	d := &Daemon{mem: &memory{roster: roster}}
	d.log, d.sink = newLogger(null, "test", hclog.Info)
	defer d.sink.spool.end()
	dr := newDrain(d, group)
	text := strings.Repeat("x", 100)
	for i := range instances {
		log := group.Log(i)
		w := log.Resume(1)
		for range records {
			w.Write(&protocol.LogEntry{UnixNs: 1, Level: 6, Text: text})
		}
		dr.carry(&worker{index: i, instance: i}, 0, 0)
	}
	carried := func() (n int) {
		for i := range instances {
			if position, _ := roster.Drained(i); position > 0 {
				n++
			}
		}
		return n
	}
	done := make(chan bool)
	go func() { done <- dr.look(t.Context()) }()
	for carried() == 0 {
		runtime.Gosched()
	}
	dr.mu.Lock()
	n := carried()
	dr.mu.Unlock()
	if n == instances {
		t.Error("all logs were carried before anybody else had a turn")
	}
	if !<-done || carried() != instances {
		t.Errorf("%d of %d logs were carried", carried(), instances)
	}
}
