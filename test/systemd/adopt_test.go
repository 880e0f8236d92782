package systemd

import (
	"strings"
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

	traffic := pass(s, "numbers", "out")
	for range 3 {
		traffic.flows()
		was := s.invocation()
		run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
		s.waitStarted(was)
		s.waitReady()
		pid := s.show("MainPID")
		s.waitJournal("the region is adopted, from the fd store", func(e entry) bool {
			return e.str("_PID") == pid && strings.HasPrefix(e.str("MESSAGE"), "region adopted") && e.str("FROM") == "the fd store" && e.str("LIVING") == "6"
		})
	}
	traffic.end()
	s.expectSame(before)
	s.expectOneRegion()
	if n := s.show("NRestarts"); n != "3" {
		t.Errorf("the daemon was restarted %s times", n)
	}
}
