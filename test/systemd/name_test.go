package systemd

import (
	"strings"
	"testing"
)

// A unit refuses the configuration of another region than the one that its reload and stop look for, and says where and what to do.
func TestConfigurationOfAnotherRegion(t *testing.T) {
	write(t, "/etc/shmd/two.toml", "[region]\nname = \"other\"\n")
	t.Cleanup(func() {
		try("systemctl", "stop", "shmd@two.service")
		try("systemctl", "reset-failed", "shmd@two.service")
	})
	if out, code := try("systemctl", "start", "shmd@two.service"); code == 0 {
		t.Errorf("it was started:\n%s", out)
	}
	s := service{t: t, unit: "shmd@two.service", region: "other"}
	if status, n := s.show("ExecMainStatus"), s.show("NRestarts"); status != "78" || n != "0" {
		t.Errorf("exit status %s, restarted %s times", status, n)
	}
	s.waitJournal("why", func(e entry) bool {
		return strings.Contains(e.str("MESSAGE"), `/etc/shmd/two.toml:2:1: name in [region]: the region is "other", and "two" is to run`)
	})
	s.expectNothingLeft()
}
