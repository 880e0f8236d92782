package daemon

import (
	"strings"
	"testing"
	"time"
)

// What an earlier daemon wrote down has no monotonic clock; here it gets one, so that a clock that is set later changes nothing.
func TestSinceWhen(t *testing.T) {
	now := time.Now()
	for _, c := range []struct{ ago, want time.Duration }{{time.Hour, time.Hour}, {-time.Hour, 0}, {0, 0}} {
		got := sinceWhen(time.Unix(0, now.Add(-c.ago).UnixNano()), now)
		if d := now.Sub(got) - c.want; d.Abs() > time.Microsecond || !strings.Contains(got.String(), " m=") {
			t.Errorf("%v ago: %v, which is %v ago", c.ago, got, now.Sub(got))
		}
	}
}
