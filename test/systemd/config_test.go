package systemd

import (
	"os"
	"strings"
	"testing"
)

// A configuration that is broken, or does not fit, costs nothing when the daemon dies: the next one goes on with the one that the region ran with, says so, and takes a mended file by
// a reload.
func TestRefusedConfigurationCostsNothing(t *testing.T) {
	const path = "/etc/shmd/default.toml"
	s := start(t, unit, "default")
	s.waitReady()
	fine := read(t, path)
	set := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.WriteFile(path, []byte(fine), 0o644) }) // of all tests here
	waiting := func() string { return strings.TrimSpace(s.shmctl("ch", "info", "jobs", "-o", "json")) }
	run(t, "sh", "-c", "seq 100 | shmctl pub --batch 1 jobs")
	if !strings.Contains(waiting(), `"depth":100`) {
		t.Fatal(waiting())
	}
	for _, c := range []struct{ name, text, says string }{
		{"no TOML", fine + "\ngarbage\n", "the configuration has 1 problem"},
		{"another region", strings.Replace(fine, `name = "default"`, `name = "web"`, 1), "the configuration has 1 problem"},
		{"other slots", strings.Replace(fine, "slots = 1024", "slots = 256", 1), `has slots = 1024`},
		{"another log", strings.Replace(fine, "[region]\n", "[region]\nlog_size = \"4MiB\"\n", 1), `log_size "1MiB" → "4MiB"`},
		{"other deliveries", strings.Replace(fine, "max_deliveries = 5", "max_deliveries = 6", 1), `max_deliveries 5 → 6`},
		{"no file", "", "cannot read the configuration"},
	} {
		if c.text == fine {
			t.Fatalf("%s: the shipped configuration does not have what is replaced", c.name)
		}
		if set(c.text); c.text == "" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if out, code := try("shmctl", "reload"); code == 0 {
			t.Errorf("%s: reload takes it:\n%s", c.name, out)
		}
		for range 2 { // the second daemon has it from the first
			before, was := s.workers(), s.invocation()
			run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
			s.waitStarted(was)
			s.expectSame(before)
			s.waitJournal(c.name+": the daemon says what is wrong", func(e entry) bool {
				return e.str("_PID") == s.show("MainPID") && strings.HasPrefix(e.str("MESSAGE"), "the configuration is refused") && strings.Contains(e.str("REASON"), c.says)
			})
			s.poll("STATUS says it", func() (string, bool) {
				text := s.show("StatusText")
				return text, strings.Contains(text, "the configuration is refused")
			})
			if out := s.shmctl("status"); !strings.Contains(out, "its file is refused") {
				t.Errorf("%s: status says nothing:\n%s", c.name, out)
			}
			if !strings.Contains(waiting(), `"depth":100`) {
				t.Fatalf("%s: after the daemon's death %s", c.name, waiting())
			}
		}
		set(fine)
		s.shmctl("reload")
		s.poll("STATUS says no more", func() (string, bool) {
			text := s.show("StatusText")
			return text, !strings.Contains(text, "refused")
		})
		if out := s.shmctl("status"); strings.Contains(out, "refused") {
			t.Errorf("%s: status after a reload:\n%s", c.name, out)
		}
	}
	// What is reloaded is what the next one goes on with.
	set(strings.Replace(fine, "count = 2", "count = 3", 1))
	s.shmctl("reload")
	s.waitReady()
	set("garbage")
	before, was := s.workers(), s.invocation()
	if len(before) != 3 {
		t.Fatalf("workers are %v", before)
	}
	run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
	s.waitStarted(was)
	s.expectSame(before)
	// A stop leaves nothing, and a start then refuses it.
	run(t, "systemctl", "stop", unit)
	if n := s.show("NFileDescriptorStore"); n != "0" {
		t.Errorf("after the stop the fd store has %s descriptors", n)
	}
	if _, code := try("systemctl", "start", unit); code == 0 || s.show("ExecMainStatus") != "78" {
		t.Errorf("a start with a broken configuration: exit code %d, status %s", code, s.show("ExecMainStatus"))
	}
	run(t, "systemctl", "reset-failed", unit)
}
