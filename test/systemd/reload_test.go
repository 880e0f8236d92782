package systemd

import (
	"strings"
	"syscall"
	"testing"
)

// systemctl reload returns when the difference is applied, and fails with the reason in the journal if it cannot be. A daemon that is killed afterwards gets
// the new segments back from the fd store too.
func TestReload(t *testing.T) {
	configure(t, "default", "")
	s := start(t, unit, "default")
	s.waitReady()
	before := s.workers()["idle.0"]
	pid := s.show("MainPID")
	path := "/etc/shmd/default.toml"
	was := read(t, path)

	write(t, path, was+"\n[channel.more]\n[worker.more]\nbuiltin = \"idle\"\ncount = 2\nconsume = [\"more\"]\n")
	if out, code := try("systemctl", "reload", unit); code != 0 {
		t.Fatalf("systemctl reload: exit code %d\n%s", code, out)
	}
	s.expectWorkers("idle.0", "idle.1", "more.0", "more.1")
	if now := s.workers()["idle.0"]; now != before || s.show("MainPID") != pid {
		t.Errorf("idle.0 was %+v, is %+v", before, now)
	}

	write(t, path, was+"\n[channel.more]\nslots = 2\n[worker.more]\nbuiltin = \"idle\"\ncount = 2\nconsume = [\"more\"]\n")
	if _, code := try("systemctl", "reload", unit); code == 0 {
		t.Error("systemctl reload of what is impossible: exit code 0")
	}
	if got := s.show("ActiveState"); got != "active" {
		t.Errorf("ActiveState %q after a reload that failed", got)
	}
	s.waitJournal("the reason", func(e entry) bool { return strings.Contains(e.str("MESSAGE"), "its memory was made so") })

	write(t, path, was+"\n[channel.more]\n[worker.more]\nbuiltin = \"idle\"\ncount = 2\nconsume = [\"more\"]\n")
	more := s.workers()["more.1"]
	invocation := s.invocation()
	run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
	s.waitStarted(invocation)
	s.waitReady()
	if now := s.workers()["more.1"]; now.Pid != more.Pid {
		t.Errorf("more.1 was %+v, and is %+v after the daemon's death", more, now)
	}
	s.expectOneRegion()

	write(t, path, was)
	run(t, "systemctl", "reload", unit)
	s.expectWorkers("idle.0", "idle.1")
	if err := syscall.Kill(more.Pid, 0); err == nil && !strings.HasPrefix(procStatus(more.Pid)["State"], "Z") {
		t.Errorf("more.1 lives: %v", procStatus(more.Pid))
	}
	if out := s.shmctl("ch", "ls"); strings.Contains(out, "more") {
		t.Errorf("the channel is there still:\n%s", out)
	}
}
