package supervise

import (
	"testing"
	"time"
)

func TestStopTakes(t *testing.T) {
	t.Parallel()
	type group struct {
		rank    int
		timeout time.Duration
	}
	for _, c := range []struct {
		what   string
		groups []group
		want   time.Duration
	}{
		{"no group", nil, stopMargin},
		{"together: the longest", []group{{0, time.Second}, {0, 50 * time.Second}}, 100*time.Second + waveMargin + stopMargin},
		{"one after the other: the sum", []group{{0, 50 * time.Second}, {1, 50 * time.Second}, {2, 50 * time.Second}, {1, time.Second}}, 300*time.Second + 3*waveMargin + stopMargin},
	} {
		got := StopTakes(len(c.groups), func(i int) (int, time.Duration) { return c.groups[i].rank, c.groups[i].timeout })
		if got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}
