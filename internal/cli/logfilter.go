package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/pflag"

	"github.com/shmd/shmd/internal/attrs"
	"github.com/shmd/shmd/pkg/protocol"
)

// selection says which records are asked for: the flags that logs and events have in common, and what became of them.
type selection struct {
	follow       bool
	lines        string
	sinceText    string
	untilText    string
	priority     string
	grep         string
	last         int // -1: all
	since, until time.Time
	most, least  int // priorities: from the most urgent to the least
	pattern      *regexp.Regexp
	only         []int    // indexes of workers; nil for everything
	kinds        []string // of events; none for all
}

// register adds the flags; some are for logs alone.
func (s *selection) register(f *pflag.FlagSet, what string) {
	f.BoolVarP(&s.follow, "follow", "f", false, "go on with what comes from now on")
	f.StringVarP(&s.lines, "lines", "n", "", "only the last `N` "+what+", or all; with -f and without -S it is 10 by default")
	f.StringVarP(&s.sinceText, "since", "S", "", "from this `time` on: \"2026-01-31 18:00\", 18:00, today, yesterday, -1h, \"10min ago\", @SECONDS")
	f.StringVarP(&s.untilText, "until", "U", "", "up to this `time`, likewise")
}

// priorities are the names of syslog's priorities, by number.
var priorities = strings.Fields("emerg alert crit err warning notice info debug")

func parsePriority(s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n < len(priorities) {
		return n, nil
	}
	switch s {
	case "error":
		s = "err"
	case "warn":
		s = "warning"
	}
	if i := slices.Index(priorities, s); i >= 0 {
		return i, nil
	}
	return 0, usagef("-p %s: there are %s, or 0 to 7, or a range of two, err..info", cut(s), strings.Join(priorities, ", "))
}

// parse checks the flags.
func (s *selection) parse(now time.Time) (err error) {
	switch s.last = -1; {
	case s.lines == "all":
	case s.lines != "":
		if s.last, err = strconv.Atoi(s.lines); err != nil || s.last < 0 {
			return usagef("-n %s: give the number of records, 0 or more, or all", cut(s.lines))
		}
	case s.follow && s.sinceText == "":
		s.last = 10
	}
	if s.sinceText != "" {
		if s.since, err = parseWhen(s.sinceText, now); err != nil {
			return usagef("-S: %v", err)
		}
	}
	if s.untilText != "" {
		if s.until, err = parseWhen(s.untilText, now); err != nil {
			return usagef("-U: %v", err)
		}
	}
	s.most, s.least = 0, len(priorities)
	if s.priority != "" {
		from, to, ranged := strings.Cut(s.priority, "..")
		if s.least, err = parsePriority(from); err != nil {
			return err
		}
		if ranged {
			s.most = s.least
			if s.least, err = parsePriority(to); err != nil {
				return err
			}
			s.most, s.least = min(s.most, s.least), max(s.most, s.least)
		}
	}
	if s.grep != "" {
		pattern := s.grep
		if !strings.ContainsFunc(pattern, unicode.IsUpper) {
			pattern = "(?i)" + pattern
		}
		if s.pattern, err = regexp.Compile(pattern); err != nil {
			return usagef("-g: %v", err)
		}
	}
	return nil
}

// passes reports whether a record is asked for.
func (s *selection) passes(r protocol.Record) bool {
	return (len(s.kinds) == 0 || slices.Contains(s.kinds, r.Text)) && (s.only == nil || slices.Contains(s.only, r.Worker)) && r.Level >= s.most && r.Level <= s.least &&
		(s.since.IsZero() || !r.Time.Before(s.since)) && (s.until.IsZero() || !r.Time.After(s.until)) &&
		(s.pattern == nil || s.pattern.MatchString(textOf(r)))
}

// textOf is a record's text with its attributes, for people.
func textOf(r protocol.Record) string {
	if r.Attrs == "" {
		return r.Text
	}
	list, err := attrs.Parse(r.Attrs)
	if err != nil {
		return r.Text + " " + fmt.Sprintf("attrs=%q", r.Attrs)
	}
	return r.Text + " " + attrs.Text(list)
}
