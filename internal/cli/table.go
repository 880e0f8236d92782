package cli

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mattn/go-isatty"

	"github.com/shmd/shmd/pkg/protocol"
)

// table is text in columns. text/tabwriter counts the bytes of colours as width, so this does it itself.
type table struct {
	a    *app
	rows [][]cell
}

type cell struct {
	text  string
	color color
}

// color is a SGR parameter, "" for none.
type color string

const (
	plain  color = ""
	bold   color = "1"
	faint  color = "2"
	red    color = "31"
	green  color = "32"
	yellow color = "33"
)

// newTable begins a table with its header; a table without header has no arguments.
func (a *app) newTable(header ...string) *table {
	t := &table{a: a}
	if len(header) > 0 {
		row := make([]cell, len(header))
		for i, h := range header {
			row[i] = cell{h, bold}
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// add appends a row: cells, or values that are printed as fmt does.
func (t *table) add(values ...any) {
	row := make([]cell, len(values))
	for i, v := range values {
		if c, ok := v.(cell); ok {
			row[i] = c
			continue
		}
		row[i] = cell{text: fmt.Sprint(v)}
	}
	for i := range row {
		row[i].text = printable(row[i].text)
		if row[i].text == "" {
			row[i].text = "-"
		}
	}
	t.rows = append(t.rows, row)
}

// print writes the table to standard output, with two spaces between columns and none at the end of a line.
func (t *table) print() error {
	var width []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c.text))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		for i, c := range row {
			b.WriteString(t.a.paint(c.color, c.text))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		b.WriteByte('\n')
	}
	_, err := t.a.stdout.WriteString(b.String())
	return err
}

// paint colours text if standard output wants colour.
func (a *app) paint(c color, text string) string {
	if c == plain || !a.colored() {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// colored reports whether standard output is a terminal and nobody said that it should be plain.
func (a *app) colored() bool {
	if a.noColor || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	return isatty.IsTerminal(a.stdout.Fd())
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

// stateCell is a worker's state with its colour.
func stateCell(s protocol.State) cell {
	c := cell{text: s.String()}
	switch s {
	case protocol.StateReady:
		c.color = green
	case protocol.StateStarting, protocol.StateStopping, protocol.StateBackoff, protocol.StateWaiting:
		c.color = yellow
	case protocol.StateFailed:
		c.color = red
	case protocol.StateExited:
		c.color = faint
	case 0:
		c.text = "new"
	}
	return c
}

// took is a short duration with three digits and its unit: 8.31 µs, 12.3 ms, 1.25 s.
func took(d time.Duration) string {
	digits := func(v float64) string {
		switch {
		case v < 10:
			return fmt.Sprintf("%.2f", v)
		case v < 100:
			return fmt.Sprintf("%.1f", v)
		}
		return fmt.Sprintf("%.0f", v)
	}
	switch {
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d.Nanoseconds())
	case d < time.Millisecond:
		return digits(float64(d)/1e3) + " µs"
	case d < time.Second:
		return digits(float64(d)/1e6) + " ms"
	case d < time.Minute:
		return digits(d.Seconds()) + " s"
	}
	return d.Round(time.Second).String()
}

// age is a long duration in its two largest units: 3d4h, 2h5m, 7m9s, 12s.
func age(d time.Duration) string {
	d = max(d, 0)
	days, hours, minutes, seconds := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh%dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%ds", minutes, seconds)
	}
	return fmt.Sprintf("%ds", seconds)
}

// size is a number of bytes with its unit: 512 B, 4 KiB, 1.5 MiB.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for v >= unit && i < 5 {
		v, i = v/unit, i+1
	}
	text := strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	return fmt.Sprintf("%s %ciB", text, "KMGTPE"[i])
}

// count is a number with its noun: 1 worker, 2 workers.
func count(n int, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "s"):
		return fmt.Sprintf("%d %ses", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
