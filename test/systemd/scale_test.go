package systemd

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// The size at which everything is to come back: the most that the units are made for.
const (
	manyWorkers  = 1000
	manyChannels = 200
)

// large is a region of that size.
func large() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[region]\nname = \"large\"\n[worker.nap]\nbuiltin = \"idle\"\ncount = %d\nready_timeout = \"5m\"\n", manyWorkers)
	for i := range manyChannels {
		fmt.Fprintf(&b, "[channel.c%03d]\nkind = \"queue\"\nslots = 4\nslot_size = \"64B\"\n", i)
	}
	return b.String()
}

// 1,000 workers and 200 channels come back from the fd store after a kill -9, all of them, with nothing missing and no limit met.
func TestManyComeBack(t *testing.T) {
	write(t, "/etc/shmd/large.toml", large())
	s := start(t, "shmd@large.service", "large")
	began := time.Now()
	run(t, "shmctl", "-r", "large", "wait", "--for=ready", "--timeout=300s")
	t.Logf("%d workers were ready after %v", manyWorkers, time.Since(began).Round(time.Millisecond))
	segments := 4 + 2*manyChannels                   // roster, command, log, group, and each queue has its dead letters
	want := fmt.Sprint(3*manyWorkers + segments + 1) // and the configuration
	s.poll("all is stored", func() (string, bool) { n := s.show("NFileDescriptorStore"); return n, n == want })
	before := s.workers()
	for range 3 {
		was := s.invocation()
		run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", s.unit)
		s.waitStarted(was)
		pid := s.show("MainPID")
		killed := s.waitJournal("the kill", func(e entry) bool {
			return e.str("UNIT") == s.unit && e.str("INVOCATION_ID") == was && e.str("EXIT_STATUS") == "9"
		})
		e := s.waitJournal("the region is adopted", func(e entry) bool {
			return e.str("_PID") == pid && strings.HasPrefix(e.str("MESSAGE"), "region adopted")
		})
		if e.str("LIVING") != fmt.Sprint(manyWorkers) || e.str("FROM") != "the fd store" {
			t.Errorf("adopted from %q: %s live", e.str("FROM"), e.str("LIVING"))
		}
		t.Logf("kill -9 to adopted: %v", at(e).Sub(at(killed)).Round(time.Millisecond))
		env, err := os.ReadFile("/proc/" + pid + "/environ")
		if err != nil {
			t.Fatal(err)
		}
		for v := range strings.SplitSeq(string(env), "\x00") {
			if names, ok := strings.CutPrefix(v, "LISTEN_FDNAMES="); ok {
				t.Logf("LISTEN_FDNAMES has %d bytes of 131072", len(names))
			}
		}
		s.expectSame(before)
	}
	if n := s.show("NFileDescriptorStore"); n != want {
		t.Errorf("the fd store has %s descriptors, not %s", n, want)
	}
	s.expectNoneMissing()
	began = time.Now()
	run(t, "systemctl", "stop", s.unit)
	t.Logf("stopped within %v", time.Since(began).Round(time.Millisecond))
	if n := s.show("NFileDescriptorStore"); n != "0" {
		t.Errorf("after the stop the fd store has %s descriptors", n)
	}
}

// expectNoneMissing: no daemon of this unit found less in the fd store than it should have.
func (s service) expectNoneMissing() {
	s.t.Helper()
	journal.mu.Lock()
	defer journal.mu.Unlock()
	for _, e := range journal.entries {
		if e.str("_SYSTEMD_UNIT") == s.unit && at(e).After(s.since) && strings.Contains(e.str("MESSAGE"), "fd store") && e.str("PRIORITY") < "5" {
			s.t.Errorf("%s", e.str("MESSAGE"))
		}
	}
}

// What the fd store has not is told, by name, and found elsewhere.
func TestFullStoreIsTold(t *testing.T) {
	dropIn(t, "shmd.service.d", "small.conf", "[Service]\nFileDescriptorStoreMax=10\n")
	s := start(t, unit, "default")
	s.waitReady()
	before, main := s.workers(), s.show("MainPID")
	s.waitJournal("the store is too small", func(e entry) bool {
		return e.str("_PID") == main && strings.Contains(e.str("MESSAGE"), "the fd store does not have all") && e.str("MISSING") != ""
	})
	was := s.invocation()
	run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
	s.waitStarted(was)
	main = s.show("MainPID")
	s.waitJournal("what is missing", func(e entry) bool {
		return e.str("_PID") == main && strings.Contains(e.str("MESSAGE"), "were not in the fd store") && strings.Contains(e.str("NAMES"), "idle.")
	})
	s.waitReady()
	s.expectSame(before)
}
