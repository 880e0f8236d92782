package config

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/supervise"
)

// StopTakes returns how long a stop of the region may take.
func (c *Config) StopTakes() time.Duration {
	return supervise.StopTakes(len(c.Groups), func(i int) (int, time.Duration) { return c.Rank(&c.Groups[i]), c.Groups[i].StopTimeout })
}

// StopNote says that a stop may take longer than the region's unit gives by itself, and what can be written into the unit; "" if it may not, or if there is no unit. It is no
// problem: the daemon and shmctl ask for the time.
func (c *Config) StopNote() string {
	unit, settings := askUnit(c.Region.Name, "TimeoutStopUSec")
	return c.stopNote(unit, settings["TimeoutStopUSec"])
}

func (c *Config) stopNote(unit, timeout string) string {
	takes := c.StopTakes()
	given, ok := parseTimespan(timeout)
	if !ok || given >= takes {
		return ""
	}
	return fmt.Sprintf("a stop may take %v by stop_timeout of the groups, one after the other where they have after, and TimeoutStopSec= of %s is %s: shmd and shmctl ask systemd for the rest.\n"+
		"To have it in the unit too, write into /etc/systemd/system/%s.d/stop.conf\n[Service]\nTimeoutStopSec=%ds", takes, unit, timeout, unit, int(takes.Seconds()+1))
}

var timespan = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?)(us|ms|s|min|h)$`)

// parseTimespan reads a time as systemd shows it: "1min 30s". ok is false for one without an end, or of days, which is enough for everything.
func parseTimespan(text string) (d time.Duration, ok bool) {
	for _, field := range strings.Fields(text) {
		m := timespan.FindStringSubmatch(field)
		if m == nil {
			return 0, false
		}
		part, err := time.ParseDuration(m[1] + strings.Replace(m[2], "min", "m", 1))
		if err != nil {
			return 0, false
		}
		d, ok = d+part, true
	}
	return d, ok
}
