package top

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
)

// Terminal is where the view is shown.
type Terminal struct {
	In  io.Reader
	Out *os.File
	// Suspendable reports whether a stop by Ctrl-Z can be ended: that a shell with job control is there.
	Suspendable func() bool
}

// Run shows the region on a terminal until the user has seen enough or ctx ends. sample and do are called on goroutines of their own,
// sample by one at a time.
func Run(ctx context.Context, o Options, t Terminal, sample func() Sample, do func(context.Context, Request) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // what was asked for and is not done: the memory says what is wanted
	p := &program{ctx: ctx, m: New(o, 80, 24), interval: o.Interval, sample: sample, do: do, suspendable: t.Suspendable}
	options := []tea.ProgramOption{tea.WithContext(ctx), tea.WithInput(t.In), tea.WithOutput(t.Out), tea.WithoutSignalHandler(), tea.WithFPS(30)}
	if o.Colored {
		options = append(options, tea.WithColorProfile(colorprofile.ANSI))
	} else {
		options = append(options, tea.WithColorProfile(colorprofile.ASCII))
	}
	_, err := tea.NewProgram(p, options...).Run()
	if errors.Is(err, context.Canceled) || errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}

// program is the model as bubbletea wants it.
type program struct {
	ctx      context.Context
	m        *Model
	interval time.Duration
	sample   func() Sample
	do       func(context.Context, Request) error

	suspendable func() bool
}

// What comes in beside keys and sizes.
type (
	tick struct{}
	done struct {
		q   Request
		err error
	}
)

// Init implements tea.Model.
func (p *program) Init() tea.Cmd { return p.look }

func (p *program) look() tea.Msg {
	began := time.Now()
	s := p.sample()
	s.Took = time.Since(began)
	return s
}

// Update implements tea.Model.
func (p *program) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		p.m.Resize(msg.Width, msg.Height)
	case tea.KeyPressMsg:
		if msg.String() == "ctrl+z" { // a question stays open meanwhile
			if p.suspendable() {
				return p, tea.Suspend
			}
			p.m.say(true, "ctrl+z is for a shell that lets it go on (fg), and there is none here; q leaves")
			return p, nil
		}
		q, quit := p.m.Key(msg.String())
		switch {
		case quit:
			return p, tea.Quit
		case q != nil:
			return p, func() tea.Msg { return done{*q, p.do(p.ctx, *q)} }
		}
	case done:
		p.m.Done(msg.q, msg.err)
	case Sample:
		p.m.Take(msg)
		return p, tea.Tick(max(p.interval, 9*msg.Took), func(time.Time) tea.Msg { return tick{} }) // never more than a tenth of a processor
	case tick:
		return p, p.look
	}
	return p, nil
}

// View implements tea.Model.
func (p *program) View() tea.View {
	v := tea.NewView(p.m.Frame())
	v.AltScreen = true
	return v
}
