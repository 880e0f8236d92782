package top

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/stat"
	"github.com/shmd/shmd/pkg/protocol"
)

// Frame draws the screen: as many lines as it is high, none wider than it is. Only the rows that show are drawn.
func (m *Model) Frame() string {
	var lines []*line
	add := func(l ...*line) { lines = append(lines, l...) }
	add(m.header())
	body := max(m.height-2, 0)
	switch {
	case m.help:
		add(m.helpText()...)
	case m.now == nil:
		add(new(line), new(line).add(plain, "  "+m.trouble))
	default:
		heights := m.heights(body)
		for p, h := range heights {
			add(m.pane(pane(p), h)...)
		}
	}
	for len(lines) < body+1 {
		add(new(line))
	}
	lines = append(lines[:min(len(lines), body+1)], m.footer())
	var b strings.Builder
	for i, l := range lines[:min(len(lines), max(m.height, 1))] {
		if i > 0 {
			b.WriteByte('\n')
		}
		text := l.render(m.width, m.o.Colored)
		if m.o.ASCII {
			text = strings.Map(toASCII, text)
		}
		b.WriteString(text)
	}
	return b.String()
}

// toASCII replaces what is no ASCII, also in names out of the memory.
func toASCII(r rune) rune {
	switch {
	case r == '…':
		return '~'
	case r > '~':
		return '?'
	}
	return r
}

// heights gives each pane its lines: the log a fifth, the channels what they need up to a third, the workers the rest. What the workers do
// not need goes to the others.
func (m *Model) heights(body int) [panes]int {
	var h [panes]int
	if m.zoomed || body < 9 { // there is no room for all
		h[m.focus] = body
		return h
	}
	h[logPane] = min(max(body/5, 3), body)
	h[channelsPane] = min(len(m.rows[channelsPane])+1, max((body-h[logPane])/2, 3))
	h[workersPane] = body - h[logPane] - h[channelsPane]
	if spare := h[workersPane] - len(m.rows[workersPane]) - 1; spare > 0 {
		h[workersPane] -= spare
		more := min(spare, len(m.rows[channelsPane])+1-h[channelsPane])
		h[channelsPane] += more
		h[logPane] += spare - more
	}
	for p := range h {
		h[p] = max(h[p], 0)
	}
	return h
}

// header is the first line: the daemon, and how the workers are.
func (m *Model) header() *line {
	l := new(line)
	if m.now == nil {
		return l.add(bold, "shmd")
	}
	s := m.now
	l.add(bold, "shmd "+printable(s.Region)).add(plain, "  ")
	switch {
	case !s.Status.Alive:
		l.add(red, fmt.Sprintf("daemon dead (was pid %d)", s.Daemon.Pid))
	case s.Status.Stopped:
		l.add(yellow, fmt.Sprintf("daemon stopped by a signal, pid %d", s.Daemon.Pid))
	default:
		l.add(green, s.Daemon.State.String()).add(plain, fmt.Sprintf(" pid %d up %s", s.Daemon.Pid, age(s.Taken.Sub(s.Daemon.Started))))
	}
	var states [protocol.StateGone]int
	stalled := 0
	for _, g := range s.Groups {
		for st, n := range g.States {
			states[st] += n
		}
		stalled += g.Stalled
	}
	workers := " workers"
	if len(s.Workers) == 1 {
		workers = " worker"
	}
	l.add(plain, "  ").add(bold, strconv.Itoa(len(s.Workers))).add(plain, workers)
	for _, st := range []protocol.State{protocol.StateReady, protocol.StateStarting, protocol.StateStopping, protocol.StateBackoff, protocol.StateWaiting, protocol.StateFailed, protocol.StateExited, 0} {
		if states[st] > 0 {
			l.add(plain, " ").add(stateStyle(st), fmt.Sprintf("%d %s", states[st], stat.StateName(st)))
		}
	}
	if stalled > 0 {
		l.add(plain, " ").add(yellow, fmt.Sprintf("%d stalled", stalled))
	}
	clock := s.Taken.Format("15:04:05")
	if m.paused {
		clock = "paused " + clock
	}
	if space := m.width - l.width - len(clock); space > 0 {
		l.add(plain, strings.Repeat(" ", space)).add(faint, clock)
	}
	return l
}

// footer is the last line: a question, a message, or the keys.
func (m *Model) footer() *line {
	l := new(line)
	switch {
	case m.confirm != nil:
		l.add(bold, fmt.Sprintf("%s %s? y for yes, any other key for no", m.confirm.What, printable(m.confirm.Subject)))
	case m.message != "":
		s := plain
		if m.failed {
			s = red
		}
		l.add(s, printable(strings.ReplaceAll(m.message, "\n", " ")))
	case m.trouble != "" && m.now != nil:
		l.add(yellow, printable(m.trouble))
	default:
		keys := []string{"q quit", "? help", "tab pane", "↑↓ move", "s stop", "r restart", "+- scale", "e evict", "p problems", "z zoom", "enter fold"}
		if m.o.ReadOnly != "" {
			keys = []string{"read-only", "q quit", "? help", "tab pane", "↑↓ move", "p problems", "z zoom", "enter fold"}
		}
		text := strings.Join(keys, "  ")
		if m.o.ASCII {
			text = strings.ReplaceAll(text, "↑↓", "up/down")
		}
		l.add(faint, text)
	}
	return l
}

func (m *Model) helpText() []*line {
	var lines []*line
	for _, t := range []string{"",
		"  tab         the next pane: workers, channels, log",
		"  up, down    move (also j and k, page up and down, home and end)",
		"  enter       fold and unfold a group, or the subscribers of a topic",
		"  p           show only what is not as it should be, or everything",
		"  z           the pane alone, or all of them",
		"  space       stop the picture, or let it go on",
		"  s           stop the selected worker or group; r restarts it",
		"  +, -        one instance more, or less, of the selected group",
		"  e           evict the selected subscriber of a topic",
		"  q           leave; the region goes on",
		"  ctrl+z      suspend; fg goes on",
		"",
		"  RATE        what the worker counts first, a second; of a group the sum",
		"  DEPTH       messages that wait, and a bar of how full the channel is",
		"  SENT/s, DLV/s  messages a second in and out; the line is of SENT/s",
		"",
		"  any key     back",
	} {
		lines = append(lines, new(line).add(plain, t))
	}
	return lines
}

// pane draws a pane of h lines, its title included.
func (m *Model) pane(p pane, h int) []*line {
	if h == 0 {
		return nil
	}
	var lines []*line
	rows := m.rows[p]
	if p != logPane {
		m.offset[p] = min(max(m.offset[p], m.cursor[p]-h+2), m.cursor[p], max(len(rows)-h+1, 0))
	}
	title := m.title(p, h)
	if p == m.focus {
		title.all = inverse
		m.pageLines = h - 1
		if !m.o.Colored {
			title.spans[0].text = ">"
		}
	}
	lines = append(lines, title)
	if p == logPane {
		return append(lines, m.logLines(h-1)...)
	}
	for i := m.offset[p]; i < min(m.offset[p]+h-1, len(rows)); i++ {
		l := new(line)
		mark := " "
		if p == m.focus && i == m.cursor[p] {
			l.all = inverse
			if !m.o.Colored {
				mark = ">"
			}
		}
		l.add(plain, mark)
		switch r := rows[i]; {
		case p == channelsPane && r.member < 0:
			m.channel(l, &m.now.Channels[r.group])
		case p == channelsPane:
			m.subscriber(l, &m.now.Channels[r.group], r.member)
		case r.member < 0:
			m.group(l, r.group)
		default:
			m.worker(l, r.member)
		}
		lines = append(lines, l)
	}
	for len(lines) < h {
		lines = append(lines, new(line))
	}
	return lines
}

// wide is how many cells the names get.
func (m *Model) wide() int { return 18 + min(max((m.width-80)/4, 0), 22) }

// rest is how many cells are left of a line.
func (m *Model) rest(l *line) int { return max(m.width-l.width, 0) }

// sparks is how long the lines of rates are.
func (m *Model) sparks() int { return 10 + min(max((m.width-80)/4, 0), 46) }

// title is the first of the h lines of a pane. It says which of its rows are there, if not all are.
func (m *Model) title(p pane, h int) *line {
	l := new(line).add(plain, " ")
	part := ""
	switch n := len(m.rows[p]); {
	case p == logPane || n < h:
	case h > 1:
		part = fmt.Sprintf(" %d-%d/%d", m.offset[p]+1, m.offset[p]+h-1, n)
	default:
		part = fmt.Sprintf(" 0/%d", n)
	}
	name := m.wide()
	switch p {
	case workersPane:
		what := "WORKER"
		if m.problems {
			what = "WORKER (problems)"
		}
		l.left(bold, name, what+part).left(bold, 8, "STATE").right(bold, 7, "PID").right(bold, 5, "RST").right(bold, 6, "SINCE").right(bold, 6, "RATE").add(bold, "REASON")
	case channelsPane:
		l.left(bold, name, "CHANNEL"+part).left(bold, 6, "KIND").left(bold, 15, "DEPTH").right(bold, 6, "SENT/s").right(bold, 6, "DLV/s").add(bold, "TREND")
	default:
		l.add(bold, "LOG")
		if m.offset[logPane] > 0 {
			l.add(plain, fmt.Sprintf("  %d lines below", m.offset[logPane]))
		}
	}
	return l
}

func stateStyle(s protocol.State) style {
	switch s {
	case protocol.StateReady:
		return green
	case protocol.StateStarting, protocol.StateStopping, protocol.StateBackoff, protocol.StateWaiting:
		return yellow
	case protocol.StateFailed:
		return red
	}
	return faint
}

func (m *Model) group(l *line, i int) {
	g := &m.now.Groups[i]
	name := m.wide()
	sign := "▾ "
	switch folded := m.folded[g.Name]; {
	case m.o.ASCII && folded:
		sign = "+ "
	case m.o.ASCII:
		sign = "- "
	case folded:
		sign = "▸ "
	}
	ready := green
	if g.Ready() < g.Count {
		ready = yellow
	}
	restarts := uint64(0)
	for _, n := range g.Restarts {
		restarts += n
	}
	l.left(bold, name, sign+g.Name).left(ready, 8, fmt.Sprintf("%d/%d", g.Ready(), g.Count)).right(plain, 7, "").right(plain, 5, number(restarts)).right(plain, 6, "")
	if h := m.counted[g.Name]; len(h) > 0 && busy(h) {
		l.right(plain, 6, rate(h[len(h)-1])).add(plain, sparkline(h, min(m.rest(l), m.sparks()), m.o.ASCII))
	}
}

func busy(h []float64) bool {
	for _, v := range h {
		if v > 0 {
			return true
		}
	}
	return false
}

// number is a count in five cells.
func number(n uint64) string {
	if n < 100000 {
		return strconv.FormatUint(n, 10)
	}
	return rate(float64(n))
}

func (m *Model) worker(l *line, i int) {
	w := &m.now.Workers[i]
	name := m.wide()
	pid := ""
	if w.Pid > 0 {
		pid = strconv.Itoa(w.Pid)
	}
	state, s := stat.StateName(w.State), stateStyle(w.State)
	reason := w.Reason
	if w.Stalled {
		state, s = "stalled", yellow
	}
	text := ""
	what, v, ok := m.workerRate(i)
	if ok {
		text = rate(v)
		if reason == "" {
			reason = what + "/s"
		}
	}
	l.left(plain, name, "  "+middle(w.Name, name-2)).left(s, 8, state).right(plain, 7, pid).right(plain, 5, number(w.Restarts)).right(plain, 6, age(m.now.Taken.Sub(w.Since))).right(plain, 6, text)
	if wrong(w) {
		l.add(s, fit(reason, m.rest(l)))
	} else {
		l.add(faint, fit(reason, m.rest(l)))
	}
}

func (m *Model) channel(l *line, c *stat.Channel) {
	name := m.wide()
	sign := ""
	if c.Topic != nil && len(c.Topic.Subscribers) > 0 {
		switch folded := m.folded["channel "+c.Name]; {
		case m.o.ASCII && folded:
			sign = "+ "
		case m.o.ASCII:
			sign = "- "
		case folded:
			sign = "▸ "
		default:
			sign = "▾ "
		}
	}
	l.left(plain, name, sign+c.Name).left(faint, 6, c.Kind.String())
	if c.Err != nil {
		l.add(faint, fit(c.Err.Error(), m.rest(l)))
		return
	}
	fill := green
	switch {
	case c.Depth >= c.Slots:
		fill = red
	case c.Depth > c.Slots/2:
		fill = yellow
	}
	if c.Kind == protocol.KindLatest {
		l.left(plain, 15, "")
	} else {
		l.add(fill, bar(c.Depth, c.Slots, 8, m.o.ASCII)).add(plain, " ").right(plain, 6, number(uint64(c.Depth)))
	}
	l.right(plain, 6, rate(m.channelRate(c, func(c *stat.Channel) uint64 { return c.Sent }))).right(plain, 6, rate(m.channelRate(c, func(c *stat.Channel) uint64 { return c.Received })))
	if h := m.sent[c.Name]; busy(h) {
		l.add(plain, sparkline(h, m.sparks(), m.o.ASCII)).add(plain, " ")
	} else {
		l.add(plain, strings.Repeat(" ", m.sparks()+1))
	}
	var notes []string
	if c.Dead > 0 {
		notes = append(notes, number(c.Dead)+" dead")
	}
	if c.Lost > 0 {
		notes = append(notes, number(c.Lost)+" lost")
	}
	if c.Oldest != nil && c.Oldest.AtLeast >= 5*time.Second {
		notes = append(notes, c.Oldest.Holder+" "+age(c.Oldest.AtLeast))
	}
	l.add(yellow, fit(strings.Join(notes, ", "), m.rest(l)))
}

func (m *Model) subscriber(l *line, c *stat.Channel, i int) {
	u := c.Topic.Subscribers[i]
	name := m.wide()
	l.left(plain, name, middle(fmt.Sprintf("  %d %s", u.Row, m.holder(u.Owner)), name)).left(faint, 6, u.Phase.String())
	fill := green
	if u.Blocks {
		fill = red
	}
	l.add(fill, bar(int(min(u.Lag, 1<<40)), c.Slots, 8, m.o.ASCII)).add(plain, " ").right(plain, 6, number(u.Lag))
	if u.Blocks {
		l.add(red, "publishers wait for it  ")
	}
	if u.Lost > 0 {
		l.add(yellow, number(u.Lost)+" lost")
	}
}

// holder is the name of an attachment.
func (m *Model) holder(id uint16) string {
	for i := range m.now.Workers {
		if m.now.Workers[i].Attachment == id {
			return m.now.Workers[i].Name
		}
	}
	return "attachment " + strconv.Itoa(int(id))
}

// logLines are the newest lines of the log, or older ones where the user has scrolled back.
func (m *Model) logLines(h int) []*line {
	var lines []*line
	m.offset[logPane] = min(m.offset[logPane], max(len(m.log)-h, 0))
	end := len(m.log) - m.offset[logPane]
	for _, r := range m.log[max(end-h, 0):end] {
		who := r.Worker
		if who == "" {
			who = "shmd"
		}
		s := plain
		if r.Bad {
			s = yellow
		}
		l := new(line).add(plain, " ").add(faint, r.Time.Format("15:04:05")).add(plain, " ").add(bold, printable(who)).add(plain, " ")
		lines = append(lines, l.add(s, printable(strings.ReplaceAll(r.Text, "\t", " "))))
	}
	for len(lines) < h {
		lines = append(lines, new(line))
	}
	return lines
}
