package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) logsCommand() *cobra.Command {
	var sel selection
	c := a.verb(cobra.Command{
		Use:   "logs [-f] [-n N] [-S TIME] [-U TIME] [-p PRIORITY] [-g REGEXP] [-o short|cat|json] [NAME...]",
		Short: "print what workers logged and wrote, and what the daemon logged",
		Long: `logs prints the log that the region keeps in its memory: records that workers
logged through the library, what they wrote to standard output and standard
error, line by line, and what the daemon logged. The log is a ring: it keeps the
newest records (log_size in [region]); the daemon's own log, or the journal,
keeps all. With names it prints what is from or about those workers and groups.

A line reads TIME WORKER[PID] TEXT KEY=VALUE...; ! in front of the text marks
standard error, warnings and errors. Where the ring overtook the reader it says
"lost N". -o cat prints text and attributes alone, -o json one object a line.

-f, -n, -S, -U, -p and -g are those of journalctl: -p takes a priority (err,
warning, info, debug) and shows it and what is more urgent, or a range; -g a
regular expression, of which case matters only if it has a capital letter.

It reads memory, and also works while the daemon hangs or is dead: then the
records that it has not seen come from the workers' own rings. -f goes on over
restarts of workers and of the daemon, until the region has stopped or its last
process has ended.`,
		Example: `  shmctl logs -f
  shmctl logs -n 20 -p warning parser
  shmctl logs -S -10min -g 'timeout|refused'
  shmctl logs -o json | jq -r 'select(.attrs.status == 500) | .text'`,
		ValidArgsFunction: a.complete(workerNames),
	}, func(cmd *cobra.Command, names []string) error {
		if err := sel.parse(time.Now()); err != nil {
			return err
		}
		return anyNames(cmd, names)
	}, func(ctx context.Context, names []string) error { return a.logs(ctx, names, sel) })
	sel.register(c.Flags(), "records")
	c.Flags().StringVarP(&sel.priority, "priority", "p", "", "only of this `priority` and more urgent ones, or a range: err..info")
	c.Flags().StringVarP(&sel.grep, "grep", "g", "", "only whose text or attributes match this `regexp`")
	return c
}

func (a *app) logs(ctx context.Context, names []string, sel selection) error {
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	log, err := s.log(protocol.OpenLog)
	if err != nil {
		return err
	}
	targets, err := control.Resolve(s.Roster, names)
	if err != nil {
		return err
	}
	p := &logPrinter{a: a, out: bufio.NewWriter(a.stdout), sel: sel, log: log, cursor: log.Oldest()}
	p.print = p.record
	p.learn(s)
	if len(names) > 0 {
		p.sel.only = append([]int{}, targets.Workers...) // not nil, also for a group without instances
	}
	p.rings = newRings(s, p.workers)
	return p.run(ctx, s)
}

// log opens one of the rings of the region's log segment.
func (s *session) log(open func([]byte) (*protocol.Log, error)) (*protocol.Log, error) {
	seg := s.segments["log"]
	if seg == nil {
		why := s.missing["log"]
		if why == nil {
			why = errors.New("the daemon did not hand it out: see observe in [access]")
		}
		return nil, fmt.Errorf("log of region %q: %w", s.name(), why)
	}
	return open(seg.Bytes())
}

// line is a record, or the number of records that were lost.
type line struct {
	protocol.Record
	lost uint64
}

// logPrinter prints records of a log.
type logPrinter struct {
	a       *app
	out     *bufio.Writer
	sel     selection
	log     *protocol.Log
	cursor  *protocol.LogCursor
	rings   *rings // of the workers; nil: what they log is not asked for
	print   func(line) error
	workers []protocol.Worker
	groups  []protocol.Group
}

// learn takes the names of workers and groups from the roster.
func (p *logPrinter) learn(s *session) {
	workers, err := s.Roster.Workers()
	if err != nil {
		p.a.warn("%v", err)
	}
	p.workers = workers
	if groups, err := s.Roster.Groups(); err == nil {
		p.groups = groups
	}
}

// run prints what is asked for.
func (p *logPrinter) run(ctx context.Context, s *session) error {
	// What is there already, of which the last N are kept back until all of it is known.
	last := p.sel.last
	var kept []line
	each := func(l line) error {
		if last < 0 {
			return p.print(l)
		}
		if kept = append(kept, l); len(kept)-last > last+64 {
			kept = slices.Delete(kept, 0, len(kept)-last)
		}
		return nil
	}
	err := p.drain(each)
	if err == nil {
		err = p.undrained(each, 0)
	}
	for _, l := range kept[max(len(kept)-max(last, 0), 0):] {
		if err == nil {
			err = p.print(l)
		}
	}
	if flushed := p.out.Flush(); err == nil {
		err = flushed
	}
	if err != nil || !p.sel.follow {
		return err
	}
	return p.goOn(ctx, s)
}

// drain hands over what the log has, as far as it is asked for.
func (p *logPrinter) drain(each func(line) error) error {
	for {
		r, lost, ok, err := p.cursor.Next()
		if err != nil {
			p.a.warn("%v; going on with the next record", err)
			return nil
		}
		if !ok {
			return nil
		}
		if lost > 0 {
			if err := each(line{lost: lost}); err != nil {
				return err
			}
		}
		if p.rings.known(r) || !p.sel.passes(r) {
			continue
		}
		if err := each(line{Record: r}); err != nil {
			return err
		}
	}
}

// undrained hands over what workers have logged, longer than the time ago, and the daemon has not put into the log.
func (p *logPrinter) undrained(each func(line) error, since time.Duration) error {
	for _, l := range p.rings.take(since) {
		if l.lost == 0 && !p.sel.passes(l.Record) {
			continue
		}
		if err := each(l); err != nil {
			return err
		}
	}
	return nil
}

// hung is how long a record may wait in a worker's ring for a daemon that lives.
const hung = time.Second

// goOn prints what comes, until the region has stopped, or nobody is left who could write anything, or who reads it.
func (p *logPrinter) goOn(ctx context.Context, s *session) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer onHangup(p.a.stdout, func() { cancel(errHungUp) })()
	for {
		bell := p.log.Bell().Load()
		alive := s.Daemon().Alive // before the last look at what it wrote
		more := alive || s.lives()
		if err := p.drain(p.print); err != nil {
			return err
		}
		patience := hung
		if !alive {
			patience = 0
		}
		if err := p.undrained(p.print, patience); err != nil {
			return err
		}
		if err := p.out.Flush(); err != nil {
			return err
		}
		if !more {
			return nil
		}
		err := sys.FutexWait(p.log.Bell(), bell, look)
		if err != nil && !errors.Is(err, sys.ErrAgain) && !errors.Is(err, sys.ErrTimedOut) {
			return err
		}
		switch cause := context.Cause(ctx); {
		case ctx.Err() == nil:
		case errors.Is(cause, errHungUp):
			return cause
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return explain(cause, "the region has not stopped")
		default: // the user has seen enough
			return nil
		}
	}
}

// lives reports whether a worker of a region lives whose daemon has died: the next one may go on with it.
func (s *session) lives() bool {
	if s.Roster.Daemon().State == protocol.DaemonStateStopped {
		return false
	}
	workers, _ := s.Roster.Workers()
	for _, w := range workers {
		if w.Process() == 0 {
			continue
		}
		if alive, _ := control.Alive(w.Process(), w.StartTicks); alive {
			return true
		}
	}
	return false
}

// recordJSON is a record in a stream of objects.
type recordJSON struct {
	Time   string          `json:"time"`
	Seq    uint64          `json:"seq"` // 0: it comes from the worker's ring, the daemon has not numbered it
	Level  string          `json:"level"`
	Stream string          `json:"stream"`
	Worker string          `json:"worker"` // "": the daemon
	Group  string          `json:"group"`
	Pid    int             `json:"pid"`
	Text   string          `json:"text"`
	Source string          `json:"source,omitempty"`
	Attrs  json.RawMessage `json:"attrs,omitempty"`
}

func (p *logPrinter) object(v any) error {
	e := json.NewEncoder(p.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// lost prints that records are missing.
func (p *logPrinter) lost(n uint64) error {
	if p.a.json() {
		return p.object(struct {
			Lost uint64 `json:"lost"`
		}{n})
	}
	_, err := fmt.Fprintln(p.out, p.a.paint(yellow, fmt.Sprintf("lost %d", n)))
	return err
}

// attrsJSON is a record's attributes as an object, or as a text if they are none: a worker may write anything there.
func attrsJSON(r protocol.Record) json.RawMessage {
	if r.Attrs == "" {
		return nil
	}
	if o := "{" + r.Attrs + "}"; json.Valid([]byte(o)) {
		return json.RawMessage(o)
	}
	text, _ := json.Marshal(r.Attrs)
	return text
}

// record prints a record.
func (p *logPrinter) record(l line) error {
	if l.lost > 0 {
		return p.lost(l.lost)
	}
	worker, group := p.names(l.Record)
	if p.a.json() {
		return p.object(recordJSON{timestamp(l.Time), l.Seq, levelName(l.Level), l.Stream.String(), worker, group, l.Pid, l.Text, l.Source, attrsJSON(l.Record)})
	}
	text := printable(strings.ReplaceAll(textOf(l.Record), "\t", "    "))
	if p.a.output == "cat" {
		_, err := fmt.Fprintln(p.out, text)
		return err
	}
	if worker == "" {
		worker = "shmd"
	}
	mark := ""
	c := plain
	switch {
	case l.Level <= 3:
		mark, c = "! ", red
	case l.Level == 4:
		mark, c = "! ", yellow
	case l.Stream == protocol.StreamStderr:
		mark, c = "! ", yellow
	case l.Level >= 7:
		c = faint
	}
	_, err := fmt.Fprintf(p.out, "%s %s %s\n", p.a.paint(faint, l.Time.Format("15:04:05.000")), p.a.paint(bold, fmt.Sprintf("%s[%d]", printable(worker), l.Pid)),
		p.a.paint(c, mark+text))
	return err
}

// names are those of the worker that a record is from or about, and of its group.
func (p *logPrinter) names(r protocol.Record) (worker, group string) {
	if r.Worker < 0 || r.Worker >= len(p.workers) {
		return "", ""
	}
	w := p.workers[r.Worker]
	if w.Group >= 0 && w.Group < len(p.groups) {
		group = p.groups[w.Group].Name
	}
	return w.Name, group
}

// levelName is the name of a syslog priority.
func levelName(level int) string {
	switch {
	case level <= 3:
		return "error"
	case level == 4:
		return "warning"
	case level <= 6:
		return "info"
	}
	return "debug"
}
