package top

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

// style is an SGR parameter, "" for none.
type style string

const (
	plain   style = ""
	bold    style = "1"
	faint   style = "2"
	inverse style = "7"
	red     style = "31"
	green   style = "32"
	yellow  style = "33"
)

// line is a line of a frame: its text and which parts of it are styled.
type line struct {
	spans []span
	width int
	all   style // of the whole line, over what the spans say
}

type span struct {
	text  string
	style style
}

// add appends text as it is.
func (l *line) add(s style, text string) *line {
	l.spans = append(l.spans, span{text, s})
	l.width += ansi.StringWidth(text)
	return l
}

// left appends text in a column of n cells, and a cell behind it.
func (l *line) left(s style, n int, text string) *line {
	text = fit(text, n)
	return l.add(s, text).add(plain, strings.Repeat(" ", n+1-ansi.StringWidth(text)))
}

// right is left with the text at the right end of the column.
func (l *line) right(s style, n int, text string) *line {
	text = fit(text, n)
	return l.add(plain, strings.Repeat(" ", n-ansi.StringWidth(text))).add(s, text).add(plain, " ")
}

// fit cuts a text to n cells.
func fit(text string, n int) string {
	text = printable(text)
	if ansi.StringWidth(text) <= n {
		return text
	}
	return ansi.Truncate(text, max(n, 0), "…")
}

// middle cuts a name to n cells in its middle: its end says which instance it is.
func middle(name string, n int) string {
	const end = 6
	name = printable(name)
	w := ansi.StringWidth(name)
	if w <= n || n < 2*end {
		return fit(name, n)
	}
	return ansi.Truncate(name, n-end-1, "") + "…" + ansi.TruncateLeft(name, w-end, "")
}

// render returns the line, at most w cells wide.
func (l *line) render(w int, colored bool) string {
	var b strings.Builder
	left := w
	for _, s := range l.spans {
		text := s.text
		n := ansi.StringWidth(text)
		if n > left {
			text = ansi.Truncate(text, left, "")
			n = ansi.StringWidth(text)
		}
		left -= n
		if colored && s.style != plain && l.all == plain && strings.TrimSpace(text) != "" {
			text = "\x1b[" + string(s.style) + "m" + text + "\x1b[0m"
		}
		b.WriteString(text)
	}
	if l.all == plain || !colored {
		return strings.TrimRight(b.String(), " ")
	}
	return "\x1b[" + string(l.all) + "m" + b.String() + strings.Repeat(" ", left) + "\x1b[0m"
}

// printable replaces what would garble a terminal: text out of the memory is written by others.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError {
			return '\uFFFD'
		}
		return r
	}, s)
}

// bar draws a part of a whole in n cells, in eighths of a cell.
func bar(part, whole, n int, ascii bool) string {
	if whole <= 0 {
		return strings.Repeat(" ", n)
	}
	eighths := min(max(part*n*8/whole, 0), n*8)
	if part > 0 {
		eighths = max(eighths, 1)
	}
	full, rest := eighths/8, eighths%8
	if ascii {
		if rest > 0 {
			full++
		}
		return strings.Repeat("#", full) + strings.Repeat(".", n-full)
	}
	s := strings.Repeat("█", full)
	if rest > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[rest-1])
		full++
	}
	return s + strings.Repeat("·", n-full)
}

// sparkline draws the last n values, the newest at the right, the largest of them at full height.
func sparkline(values []float64, n int, ascii bool) string {
	levels := []rune("▁▂▃▄▅▆▇█")
	if ascii {
		levels = []rune("_.-=+*#@")
	}
	if len(values) > n {
		values = values[len(values)-n:]
	}
	top := 0.0
	for _, v := range values {
		top = max(top, v)
	}
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", n-len(values)))
	for _, v := range values {
		i := 0
		if top > 0 && v > 0 {
			i = min(int(v/top*float64(len(levels)-1)+0.5), len(levels)-1)
		}
		b.WriteRune(levels[i])
	}
	return b.String()
}

// rate is a number by the second in at most five cells: 0, 0.25, 12, 1.2k, 34M.
func rate(v float64) string {
	switch {
	case v <= 0:
		return "0"
	case v < 10:
		return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
	case v < 1000:
		return fmt.Sprintf("%.0f", v)
	}
	for _, unit := range []string{"k", "M", "G", "T"} {
		if v /= 1000; v < 999.5 || unit == "T" {
			if v < 9.95 {
				return fmt.Sprintf("%.1f%s", v, unit)
			}
			return fmt.Sprintf("%.0f%s", v, unit)
		}
	}
	return ""
}

// age is a duration in its largest unit or two: 3d4h, 2h5m, 7m9s, 12s.
func age(d time.Duration) string {
	s := int(max(d, 0).Seconds())
	switch {
	case s >= 86400:
		return fmt.Sprintf("%dd%dh", s/86400, s/3600%24)
	case s >= 3600:
		return fmt.Sprintf("%dh%dm", s/3600, s/60%60)
	case s >= 60:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	}
	return strconv.Itoa(s) + "s"
}
