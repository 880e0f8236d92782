// Package top is the live view of a region: a model that takes snapshots, log lines and keys in, and frames of text that it gives out. It
// reads nothing and stops nothing itself: internal/cli samples, and does what the model asks for. program.go puts it on a terminal.
package top

import (
	"fmt"
	"slices"
	"time"

	"github.com/shmd/shmd/internal/stat"
	"github.com/shmd/shmd/pkg/protocol"
)

// Sample is what the region says at one time.
type Sample struct {
	Snapshot *stat.Snapshot
	Log      []LogLine     // what came since the sample before
	Trouble  string        // why there is no snapshot, or what is to be said about this one
	Took     time.Duration // to take it
}

// LogLine is a line of the log.
type LogLine struct {
	Time   time.Time
	Worker string // "": the daemon
	Text   string
	Bad    bool // a warning, an error, or standard error
}

// Request is something that the user wants done, and has confirmed if it needs that.
type Request struct {
	What    What
	Name    string // of a worker, a group, or a channel
	Count   int    // Scale: how many instances
	Cursor  int    // Evict: row of the subscriber
	Subject string // for people
}

// What is done by a request.
type What int

// What can be asked for.
const (
	Stop What = iota
	Restart
	Scale
	Evict
)

var verbs = [...]string{"stop", "restart", "scale", "evict"}

// String returns the verb.
func (w What) String() string { return verbs[w] }

// Options say how the view looks.
type Options struct {
	Interval time.Duration
	Colored  bool
	ASCII    bool   // no characters beyond ASCII
	ReadOnly string // why nothing can be asked for; "" if it can
}

// pane is a part of the screen with a selected row.
type pane int

const (
	workersPane pane = iota
	channelsPane
	logPane
	panes
)

// row is a row of a pane: a group or one of its instances, a channel or one of its subscribers.
type row struct {
	group   int // index in the snapshot; of a channel the channel
	member  int // index of the worker in the snapshot, or of the subscriber; -1: the group or the channel itself
	subject string
}

// history is how many rates are kept for a sparkline.
const history = 120

// Model is the state of the view. It is used by one goroutine at a time.
type Model struct {
	o             Options
	width, height int

	now, before *stat.Snapshot
	trouble     string
	rows        [panes][]row
	log         []LogLine
	sent        map[string][]float64 // by channel: messages a second
	counted     map[string][]float64 // by group: what its instances count first, a second

	focus     pane
	cursor    [panes]int
	offset    [panes]int
	folded    map[string]bool // groups whose instances are not shown
	zoomed    bool
	problems  bool // only what is not as it should be
	paused    bool
	help      bool
	confirm   *Request
	message   string
	failed    bool // the message is an error
	pageLines int  // rows of the focused pane in the last frame
}

// New returns a model of a screen of w times h cells.
func New(o Options, w, h int) *Model {
	return &Model{o: o, width: w, height: h, sent: map[string][]float64{}, counted: map[string][]float64{}, folded: map[string]bool{}}
}

// Resize tells the size of the screen.
func (m *Model) Resize(w, h int) { m.width, m.height = w, h }

// Take takes a sample in.
func (m *Model) Take(s Sample) {
	m.log = append(m.log, s.Log...)
	if n := len(m.log) - 1000; n > 0 {
		m.log = slices.Delete(m.log, 0, n)
	}
	m.trouble = s.Trouble
	if s.Snapshot == nil || m.paused {
		return
	}
	m.before, m.now = m.now, s.Snapshot
	if m.before != nil && m.before.Header.Generation != m.now.Header.Generation {
		m.before = nil // another region
	}
	if m.before != nil {
		for i := range m.now.Channels {
			c := &m.now.Channels[i]
			push(m.sent, c.Name, m.channelRate(c, func(c *stat.Channel) uint64 { return c.Sent }))
		}
		sums := make([]float64, len(m.now.Groups))
		for i := range m.now.Workers {
			if w := &m.now.Workers[i]; w.Group >= 0 && w.Group < len(sums) {
				_, v, _ := m.workerRate(i)
				sums[w.Group] += v
			}
		}
		for i, g := range m.now.Groups {
			push(m.counted, g.Name, sums[i])
		}
	}
	m.build()
}

func push(m map[string][]float64, name string, v float64) {
	h := append(m[name], v)
	if n := len(h) - history; n > 0 {
		h = slices.Delete(h, 0, n)
	}
	m[name] = h
}

// seconds is the time between the two snapshots.
func (m *Model) seconds() float64 {
	if m.before == nil {
		return 0
	}
	return m.now.Taken.Sub(m.before.Taken).Seconds()
}

func (m *Model) channelRate(c *stat.Channel, of func(*stat.Channel) uint64) float64 {
	if m.before == nil || c.Err != nil {
		return 0
	}
	for i := range m.before.Channels {
		if b := &m.before.Channels[i]; b.Name == c.Name && b.Err == nil {
			return perSecond(of(c), of(b), m.seconds())
		}
	}
	return 0
}

func perSecond(now, before uint64, seconds float64) float64 {
	if now <= before || seconds <= 0 {
		return 0
	}
	return float64(now-before) / seconds
}

// workerRate is how fast the worker's first counter goes, and what that counts.
func (m *Model) workerRate(i int) (what string, v float64, ok bool) {
	w := &m.now.Workers[i]
	for k := range w.Metrics {
		c := &w.Metrics[k]
		if c.Kind != protocol.MetricKindCounter {
			continue
		}
		if m.before == nil || i >= len(m.before.Workers) || m.before.Workers[i].Index != w.Index {
			return c.Name, 0, true
		}
		for _, b := range m.before.Workers[i].Metrics {
			if b.Name == c.Name && b.Kind == c.Kind && b.Unit == c.Unit {
				return c.Name, perSecond(c.Count, b.Count, m.seconds()), true
			}
		}
		return c.Name, 0, true
	}
	return "", 0, false
}

// wrong reports whether a worker is not as it should be.
func wrong(w *stat.Worker) bool {
	switch w.State {
	case protocol.StateReady:
		return w.Stalled
	case protocol.StateExited:
		return w.Desired == protocol.DesiredRun && w.Cause != protocol.CauseExit
	}
	return true
}

// build makes the rows of the panes anew, and stays on what is selected.
func (m *Model) build() {
	if m.now == nil {
		return
	}
	var selected [panes]string
	for p := range panes {
		if r, ok := m.selected(p); ok {
			selected[p] = r.subject
		}
	}
	members := make([][]int, len(m.now.Groups))
	for i := range m.now.Workers {
		if w := &m.now.Workers[i]; w.Group >= 0 && w.Group < len(members) && (!m.problems || wrong(w)) {
			members[w.Group] = append(members[w.Group], i)
		}
	}
	m.rows[workersPane] = m.rows[workersPane][:0]
	for g := range m.now.Groups {
		name := m.now.Groups[g].Name
		if name == "" || m.problems && len(members[g]) == 0 { // free, or fine
			continue
		}
		m.rows[workersPane] = append(m.rows[workersPane], row{g, -1, name})
		if m.folded[name] {
			continue
		}
		for _, i := range members[g] {
			m.rows[workersPane] = append(m.rows[workersPane], row{g, i, m.now.Workers[i].Name})
		}
	}
	m.rows[channelsPane] = m.rows[channelsPane][:0]
	for i := range m.now.Channels {
		c := &m.now.Channels[i]
		m.rows[channelsPane] = append(m.rows[channelsPane], row{i, -1, c.Name})
		if c.Topic != nil && !m.folded["channel "+c.Name] {
			for k, u := range c.Topic.Subscribers {
				m.rows[channelsPane] = append(m.rows[channelsPane], row{i, k, fmt.Sprintf("%s subscriber %d", c.Name, u.Row)})
			}
		}
	}
	for p := range logPane {
		m.cursor[p] = min(m.cursor[p], max(len(m.rows[p])-1, 0))
		if i := slices.IndexFunc(m.rows[p], func(r row) bool { return r.subject == selected[p] }); i >= 0 {
			m.cursor[p] = i
		}
	}
}

// selected is the row that the cursor of a pane is on.
func (m *Model) selected(p pane) (row, bool) {
	if m.now == nil || m.cursor[p] >= len(m.rows[p]) {
		return row{}, false
	}
	return m.rows[p][m.cursor[p]], true
}

// Key takes a key in, by the name that bubbletea gives it. It returns what is to be done, and whether the user has seen enough.
func (m *Model) Key(key string) (do *Request, quit bool) {
	if key == "ctrl+c" {
		return nil, true
	}
	if c := m.confirm; c != nil {
		m.confirm = nil
		if key == "y" {
			m.say(false, "%s %s …", c.What, c.Subject)
			return c, false
		}
		m.say(false, "%s is left as it is", c.Subject)
		return nil, false
	}
	if m.help {
		m.help = false
		return nil, key == "q"
	}
	m.message = ""
	switch key {
	case "q":
		return nil, true
	case "?", "h", "f1":
		m.help = true
	case "tab":
		m.focus = (m.focus + 1) % panes
	case "shift+tab":
		m.focus = (m.focus + panes - 1) % panes
	case "z":
		m.zoomed = !m.zoomed
	case "space", " ":
		m.paused = !m.paused
	case "p":
		m.problems = !m.problems
		m.build()
	case "enter", "left", "right":
		m.fold(key)
	case "up", "k", "down", "j", "pgup", "pgdown", "home", "g", "end", "G":
		m.move(key)
	case "s", "r", "e", "+", "=", "-":
		m.ask(key)
	}
	return nil, false
}

// move moves the cursor of the focused pane; in the log it scrolls back from the end.
func (m *Model) move(key string) {
	p, n := m.focus, len(m.rows[m.focus])
	page := max(m.pageLines-1, 1)
	by := map[string]int{"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -page, "pgdown": page, "home": -1 << 30, "g": -1 << 30, "end": 1 << 30, "G": 1 << 30}[key]
	if p == logPane {
		m.offset[p] = min(max(m.offset[p]-by, 0), max(len(m.log)-m.pageLines, 0))
		return
	}
	m.cursor[p] = min(max(m.cursor[p]+by, 0), max(n-1, 0))
}

// fold hides the instances of the selected group, or shows them again; so with a topic's subscribers.
func (m *Model) fold(key string) {
	r, ok := m.selected(m.focus)
	if !ok || m.focus == logPane {
		return
	}
	var name string
	if m.focus == workersPane {
		name = m.now.Groups[r.group].Name
	} else {
		name = "channel " + m.now.Channels[r.group].Name
	}
	m.folded[name] = key == "left" || key == "enter" && !m.folded[name]
	if r.member >= 0 { // the cursor goes to the group
		m.cursor[m.focus] = slices.IndexFunc(m.rows[m.focus], func(o row) bool { return o.group == r.group && o.member < 0 })
	}
	m.build()
}

// ask prepares what a key asks for, and has the user confirm it.
func (m *Model) ask(key string) {
	r, ok := m.selected(m.focus)
	switch {
	case m.o.ReadOnly != "":
		m.say(true, "%s", m.o.ReadOnly)
		return
	case !ok || m.focus == logPane:
		m.say(true, "select a worker, a group or a subscriber first (tab)")
		return
	case key == "e" && (m.focus != channelsPane || r.member < 0):
		m.say(true, "evict ends a subscriber of a topic: select one")
		return
	case key != "e" && m.focus != workersPane:
		m.say(true, "that is for workers and groups: select one (tab)")
		return
	}
	if m.focus == channelsPane {
		c := &m.now.Channels[r.group]
		u := c.Topic.Subscribers[r.member]
		m.confirm = &Request{What: Evict, Name: c.Name, Cursor: u.Row, Subject: fmt.Sprintf("subscriber %d of %s", u.Row, c.Name)}
		return
	}
	g := &m.now.Groups[r.group]
	q := &Request{Name: r.subject, Subject: r.subject}
	if r.member < 0 {
		q.Subject = fmt.Sprintf("all %d of %s", g.Count, g.Name)
	}
	switch key {
	case "s":
		q.What = Stop
	case "r":
		q.What = Restart
	case "+", "=", "-":
		q.What, q.Name, q.Count = Scale, g.Name, g.Count+1
		if key == "-" {
			q.Count = g.Count - 1
		}
		if q.Count < 1 {
			m.say(true, "a group has at least one instance; s stops all of it")
			return
		}
		q.Subject = fmt.Sprintf("%s from %d to %d", g.Name, g.Count, q.Count)
	}
	m.confirm = q
}

// Done tells what became of a request.
func (m *Model) Done(q Request, err error) {
	if err != nil {
		m.say(true, "%s %s: %v", q.What, q.Subject, err)
		return
	}
	m.say(false, "%s %s: done", q.What, q.Subject)
}

func (m *Model) say(failed bool, format string, args ...any) {
	m.message, m.failed = fmt.Sprintf(format, args...), failed
}
