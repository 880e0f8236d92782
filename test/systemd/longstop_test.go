package systemd

import "testing"

// stubborn are three groups that stop one after the other, each by SIGKILL: eight seconds and more in all.
const stubborn = `
[worker.last]
command = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
stop_timeout = "2s"

[worker.middle]
command = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
stop_timeout = "2s"
after = ["last"]

[worker.first]
command = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
stop_timeout = "2s"
after = ["middle"]
`

// A stop may take as long as the groups' stop_timeout, one after the other, whatever the unit's TimeoutStopSec= is: nothing is left, and it is no failure.
func TestStopLongerThanTimeoutStop(t *testing.T) {
	dropIn(t, "shmd.service.d", "stop.conf", "[Service]\nTimeoutStopSec=2s\n")
	configure(t, "default", stubborn)
	s := start(t, unit, "default")
	for _, c := range []struct {
		what string
		stop func()
	}{
		{"systemctl stop", func() { run(t, "systemctl", "stop", unit) }},
		{"shmctl stop", func() { s.shmctl("stop") }},
		{"SIGTERM", func() { run(t, "systemctl", "kill", "-s", "TERM", "--kill-whom=main", unit) }},
		{"systemctl stop of a daemon that hangs", func() {
			run(t, "systemctl", "kill", "-s", "STOP", "--kill-whom=main", unit)
			run(t, "systemctl", "stop", unit)
		}},
	} {
		run(t, "systemctl", "start", unit)
		s.waitReady()
		invocation := s.invocation()
		c.stop()
		s.waitDeactivated(invocation)
		if state, result := s.show("ActiveState"), s.show("Result"); state != "inactive" || result != "success" {
			t.Errorf("%s: the unit is %s, result %s", c.what, state, result)
		}
		s.expectNothingLeft()
	}
}
