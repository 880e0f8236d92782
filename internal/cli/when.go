package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// units of a span of time, as journalctl has them.
var spanUnits = []struct {
	names string
	is    time.Duration
}{
	{"us usec µs", time.Microsecond}, {"ms msec", time.Millisecond}, {"s sec second seconds", time.Second}, {"m min minute minutes", time.Minute},
	{"h hr hour hours", time.Hour}, {"d day days", 24 * time.Hour}, {"w week weeks", 7 * 24 * time.Hour},
}

// parseSpan reads a span of time such as 90s, 1h30min, "2 days", or 5 for seconds.
func parseSpan(s string) (time.Duration, error) {
	var sum float64
	rest := strings.TrimSpace(s)
	if rest == "" {
		return 0, fmt.Errorf("it is empty")
	}
	for rest != "" {
		n := strings.IndexFunc(rest, func(c rune) bool { return (c < '0' || c > '9') && c != '.' })
		if n < 0 {
			n = len(rest)
		}
		number, err := strconv.ParseFloat(rest[:n], 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) { // out of range it is +Inf, and too long below
			return 0, fmt.Errorf("%q is no span of time: write 90s, 5min, 1h30min or 2days", s)
		}
		rest = strings.TrimLeft(rest[n:], " ")
		n = strings.IndexFunc(rest, func(c rune) bool { return c >= '0' && c <= '9' || c == ' ' })
		if n < 0 {
			n = len(rest)
		}
		unit := time.Duration(0)
		if rest[:n] == "" {
			unit = time.Second
		}
		for _, u := range spanUnits {
			for _, name := range strings.Fields(u.names) {
				if name == rest[:n] {
					unit = u.is
				}
			}
		}
		if unit == 0 {
			return 0, fmt.Errorf("%q is no unit of time; there are us, ms, s, min, h, d, w", rest[:n])
		}
		if sum += number * float64(unit); sum > 1<<62 {
			return 0, fmt.Errorf("%q is too long: 146 years are the most", cut(s))
		}
		rest = strings.TrimLeft(rest[n:], " ")
	}
	return time.Duration(sum), nil
}

// parseWhen reads a point in time as journalctl does: "2026-01-31 18:00:05", a date, a time of today, now, today, yesterday, tomorrow, -1h,
// +5min, "10 min ago", @SECONDS, or what -o json prints. Without UTC or an offset it is local time.
func parseWhen(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	switch s {
	case "now":
		return now, nil
	case "today":
		return midnight, nil
	case "yesterday":
		return midnight.AddDate(0, 0, -1), nil
	case "tomorrow":
		return midnight.AddDate(0, 0, 1), nil
	}
	span, sign := "", time.Duration(-1)
	switch before, ago := strings.CutSuffix(s, " ago"); {
	case ago:
		span = before
	case strings.HasPrefix(s, "-"):
		span = s[1:]
	case strings.HasPrefix(s, "+"):
		span, sign = s[1:], 1
	}
	if span != "" {
		d, err := parseSpan(span)
		if err != nil {
			return time.Time{}, err
		}
		return now.Add(sign * d), nil
	}
	if at, ok := strings.CutPrefix(s, "@"); ok {
		seconds, err := strconv.ParseFloat(at, 64)
		if err != nil || seconds < 0 || seconds > 1<<33 {
			return time.Time{}, fmt.Errorf("%q is no number of seconds", at)
		}
		return time.Unix(0, int64(seconds*1e9)), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	where := now.Location()
	text := s
	if before, utc := strings.CutSuffix(s, " UTC"); utc {
		text, where = before, time.UTC
	}
	for _, layout := range []string{"2006-01-02 15:04:05.999999999", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, where); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04:05.999999999", "15:04"} {
		if t, err := time.ParseInLocation(layout, text, where); err == nil {
			day := now.In(where)
			return time.Date(day.Year(), day.Month(), day.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), where), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no point in time: write \"2026-01-31 18:00:05\", 18:00, today, yesterday, -1h, \"10min ago\" or @1769882405", s)
}
