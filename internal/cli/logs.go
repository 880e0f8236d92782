package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	var last int
	c := a.verb(cobra.Command{
		Use:   "logs [-f] [-n N] [-o short|json] [NAME...]",
		Short: "print what workers wrote and the daemon logged",
		Long: `logs prints the log that the region keeps in its memory: what workers wrote to
standard output and standard error, line by line, and what the daemon logged.
The log is a ring: it keeps the newest records (log_size in [region]); the
daemon's own log, or the journal, keeps all. With names it prints what those
workers and groups wrote, and what the daemon logged about them.

A line reads TIME WORKER[PID] TEXT; ! in front of the text marks standard
error, and the daemon's warnings and errors. Where the ring overtook the
reader it says "lost N". -o json prints one object a line.

With -f it goes on with what is written, until the daemon has ended. It reads
memory, and also works while the daemon hangs or is dead.`,
		Example: `  shmctl logs -f
  shmctl logs -n 20 parser
  shmctl logs -o json | jq -r 'select(.level == "error") | .text'`,
		ValidArgsFunction: a.complete(workerNames),
	}, func(cmd *cobra.Command, names []string) error {
		if last < -1 || last == -1 && cmd.Flags().Changed("lines") {
			return usagef("-n %d: give the number of records, 0 or more", last)
		}
		return anyNames(cmd, names)
	}, func(ctx context.Context, names []string) error { return a.logs(ctx, names, follow, last) })
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is written from now on")
	c.Flags().IntVarP(&last, "lines", "n", -1, "only the last `N` records; without it all that are kept")
	return c
}

func (a *app) logs(ctx context.Context, names []string, follow bool, last int) error {
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	log, err := s.log()
	if err != nil {
		return err
	}
	targets, err := control.Resolve(s.Roster, names)
	if err != nil {
		return err
	}
	workers, err := s.Roster.Workers()
	if err != nil {
		a.warn("%v", err)
	}
	p := logPrinter{a: a, out: bufio.NewWriter(a.stdout), workers: workers}
	if groups, err := s.Roster.Groups(); err == nil {
		p.groups = groups
	}
	if len(names) > 0 {
		p.only = append([]int{}, targets.Workers...) // not nil, also for a group without instances
	}

	// What is there already, of which the last N are kept back until all of it is known.
	cursor := log.Oldest()
	if last == 0 {
		cursor = log.Newest()
	}
	var kept []line
	err = p.drain(cursor, func(l line) error {
		if last < 0 {
			return p.print(l)
		}
		if kept = append(kept, l); len(kept) >= last && len(kept)-last > last+64 {
			kept = slices.Delete(kept, 0, len(kept)-last)
		}
		return nil
	})
	for _, l := range kept[max(len(kept)-max(last, 0), 0):] {
		if err == nil {
			err = p.print(l)
		}
	}
	if flushed := p.out.Flush(); err == nil {
		err = flushed
	}
	if err != nil || !follow {
		return err
	}
	return p.follow(ctx, s, log, cursor)
}

// log is the region's log.
func (s *session) log() (*protocol.Log, error) {
	seg := s.segments["log"]
	if seg == nil {
		why := s.missing["log"]
		if why == nil {
			why = errors.New("the daemon did not hand it out: see observe in [access]")
		}
		return nil, fmt.Errorf("log of region %q: %w", s.name(), why)
	}
	return protocol.OpenLog(seg.Bytes())
}

// line is a record, or the number of records that were lost.
type line struct {
	protocol.Record
	lost uint64
}

// logPrinter prints records.
type logPrinter struct {
	a       *app
	out     *bufio.Writer
	workers []protocol.Worker
	groups  []protocol.Group
	only    []int // indexes of workers; nil for everything
}

// drain hands over what the cursor has, as far as it is asked for.
func (p *logPrinter) drain(c *protocol.LogCursor, each func(line) error) error {
	for {
		r, lost, ok, err := c.Next()
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
		if p.only != nil && !slices.Contains(p.only, r.Worker) {
			continue
		}
		if err := each(line{Record: r}); err != nil {
			return err
		}
	}
}

// follow prints what comes, until the daemon has ended.
func (p *logPrinter) follow(ctx context.Context, s *session, log *protocol.Log, c *protocol.LogCursor) error {
	for {
		bell := log.Bell().Load()
		alive := s.Daemon().Alive // before the last look at what it wrote
		if err := p.drain(c, p.print); err != nil {
			return err
		}
		if err := p.out.Flush(); err != nil {
			return err
		}
		if !alive {
			return nil
		}
		err := sys.FutexWait(log.Bell(), bell, look)
		if err != nil && !errors.Is(err, sys.ErrAgain) && !errors.Is(err, sys.ErrTimedOut) {
			return err
		}
		switch cause := context.Cause(ctx); {
		case ctx.Err() == nil:
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return explain(cause, "the daemon has not ended")
		default: // the user has seen enough
			return nil
		}
	}
}

// recordJSON is a record in a stream of objects.
type recordJSON struct {
	Time   string `json:"time"`
	Seq    uint64 `json:"seq"`
	Level  string `json:"level"`
	Stream string `json:"stream"`
	Worker string `json:"worker"` // "": the daemon
	Group  string `json:"group"`
	Pid    int    `json:"pid"`
	Text   string `json:"text"`
}

func (p *logPrinter) print(l line) error {
	if p.a.json() {
		var v any = struct {
			Lost uint64 `json:"lost"`
		}{l.lost}
		if l.lost == 0 {
			worker, group := p.names(l.Record)
			v = recordJSON{timestamp(l.Time), l.Seq, levelName(l.Level), l.Stream.String(), worker, group, l.Pid, l.Text}
		}
		e := json.NewEncoder(p.out)
		e.SetEscapeHTML(false)
		return e.Encode(v)
	}
	if l.lost > 0 {
		_, err := fmt.Fprintln(p.out, p.a.paint(yellow, fmt.Sprintf("lost %d", l.lost)))
		return err
	}
	worker, _ := p.names(l.Record)
	if worker == "" {
		worker = "shmd"
	}
	text, mark := l.Text, ""
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
	text = printable(strings.ReplaceAll(text, "\t", "    "))
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
