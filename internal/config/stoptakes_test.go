package config

import (
	"strings"
	"testing"
	"time"
)

func TestParseTimespan(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"1min": time.Minute, "1min 30s": 90 * time.Second, "2h 500ms": 2*time.Hour + 500*time.Millisecond, "1.5s": 1500 * time.Millisecond, "infinity": -1, "": -1, "1d": -1, "5min x": -1,
	} {
		got, ok := parseTimespan(text)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %v, %v", text, got, ok)
		}
	}
}

// A configuration whose stop may take longer than its unit gives is told of, with what to write.
func TestStopNote(t *testing.T) {
	t.Parallel()
	c := Default()
	c.Groups = []Group{{Name: "a", StopTimeout: 50 * time.Second}, {Name: "b", StopTimeout: 50 * time.Second, After: []string{"a"}}}
	note := c.stopNote("shmd.service", "1min")
	for _, want := range []string{"a stop may take 3m45s", "TimeoutStopSec= of shmd.service is 1min", "/etc/systemd/system/shmd.service.d/stop.conf", "[Service]\nTimeoutStopSec=226s"} {
		if !strings.Contains(note, want) {
			t.Errorf("no %q in %q", want, note)
		}
	}
	for _, enough := range []string{"4min", "infinity", ""} {
		if note := c.stopNote("shmd.service", enough); note != "" {
			t.Errorf("%q: %s", enough, note)
		}
	}
}
