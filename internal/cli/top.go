package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/stat"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/top"
	"github.com/shmd/shmd/internal/unit"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) topCommand() *cobra.Command {
	var once bool
	var every time.Duration
	c := a.verb(cobra.Command{
		Use:   "top [--interval TIME] [--once]",
		Short: "watch the region live, and act on it",
		Long: `top shows groups and instances with their states and rates, channels with
their depth, and the newest lines of the log, and goes on. It reads the memory,
also beside a daemon that hangs and after its death. Where the terminal is, is
no matter: it draws what has changed, in 80x24 and more, without colours if
NO_COLOR is set, and in ASCII if the locale is not UTF-8.

s stops the selected worker or group, r restarts it, + and - give a group one
instance more or less, e evicts the selected subscriber of a topic; each asks
first. Whoever may only observe can look. ? lists all keys, q leaves, Ctrl-Z
suspends it (fg goes on).

--once prints one frame, as large as the terminal, or of $COLUMNS times $LINES,
or 80x24.`,
		Example: `  shmctl top
  shmctl top --interval 200ms
  COLUMNS=200 LINES=50 shmctl top --once`,
	}, func(cmd *cobra.Command, args []string) error {
		switch {
		case a.json():
			return usagef("top is for people; for programs: shmctl stat --watch %v -o json", every)
		case every < minWatch:
			return usagef("--interval %v: at least %v", every, minWatch)
		}
		return noArgs(cmd, args)
	}, func(ctx context.Context, _ []string) error { return a.top(ctx, every, once) })
	c.Flags().DurationVar(&every, "interval", time.Second, "`time` between two looks")
	c.Flags().BoolVar(&once, "once", false, "print one frame and end")
	c.RegisterFlagCompletionFunc("interval", cobra.NoFileCompletions)
	return c
}

func (a *app) top(ctx context.Context, every time.Duration, once bool) error {
	if !once && os.Getenv("TERM") == "dumb" {
		return usagef("top moves the cursor, which a terminal with TERM=dumb cannot do; there: shmctl top --once, or shmctl stat --watch %v", every)
	}
	if !once && (!isatty.IsTerminal(a.stdout.Fd()) || !a.inTerminal()) {
		return usagef("top needs a terminal; without one: shmctl top --once, or shmctl stat --watch %v", every)
	}
	w := &watched{a: a}
	if err := w.open(ctx); err != nil {
		return err
	}
	defer w.close()
	o := top.Options{Interval: every, Colored: a.colored(), ASCII: !utf8Locale(), ReadOnly: w.readOnly}
	if once {
		return a.topOnce(o, w, every)
	}
	a.quiet = true // what is to be said goes to the screen
	return explain(top.Run(ctx, o, top.Terminal{In: a.stdin, Out: a.stdout, Suspendable: sys.Suspendable}, w.sample, w.do), "it goes on until q")
}

// inTerminal reports whether standard input is a terminal.
func (a *app) inTerminal() bool {
	f, ok := a.stdin.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// topOnce prints a frame. Rates take two looks.
func (a *app) topOnce(o top.Options, w *watched, every time.Duration) error {
	columns, lines := 80, 24
	if c, l, err := sys.TerminalSize(a.stdout); err == nil && c > 0 && l > 0 {
		columns, lines = c, l
	}
	for name, n := range map[string]*int{"COLUMNS": &columns, "LINES": &lines} {
		if v, err := strconv.Atoi(os.Getenv(name)); err == nil && v > 0 && v <= 10000 {
			*n = v
		}
	}
	m := top.New(o, columns, lines)
	m.Take(w.sample())
	time.Sleep(min(every, 250*time.Millisecond))
	m.Take(w.sample())
	_, err := fmt.Fprintln(a.stdout, m.Frame())
	return err
}

// utf8Locale reports whether the locale's characters are UTF-8.
func utf8Locale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := os.Getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// watched is the region that top shows: the memory of one, and of the next when that has ended.
type watched struct {
	a        *app
	mu       sync.Mutex // held while the memory is looked at: top ends without waiting for that
	over     bool       // it is mapped no more
	s        *session
	reader   *stat.Reader
	readOnly string // why nothing can be asked for
	cursor   *protocol.LogCursor
	printer  logPrinter
}

// open attaches: to operate if this user may, else to observe.
func (w *watched) open(ctx context.Context) error {
	s, err := w.a.open(ctx, true)
	if code := exitCode(err); code == ExitPermission {
		if s, err = w.a.open(ctx, false); err == nil { // its error says what suffices
			w.readOnly = "you may look and not act: this takes operate in [access], the daemon's user, or root"
		}
	}
	if err != nil {
		return err
	}
	w.s, w.reader, w.cursor = s, s.reader(), nil
	if log, err := s.log(protocol.OpenLog); err == nil {
		w.cursor = log.Oldest()
	}
	w.printer = logPrinter{a: w.a}
	w.printer.workers, _ = s.Roster.Workers()
	w.printer.groups, _ = s.Roster.Groups()
	return nil
}

// close waits for a look that is under way, and lets none begin.
func (w *watched) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over = true; w.s != nil {
		w.s.Close()
	}
}

// sample looks at the region. When it has ended it looks for the next one.
func (w *watched) sample() top.Sample {
	var out top.Sample
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return out
	}
	s := w.reader.Snapshot(stat.Leases | stat.Metrics)
	out.Snapshot = s
	switch {
	case s.Status.Alive && s.Daemon.State == protocol.DaemonStateStopping:
		out.Trouble = "the region is stopping"
	case !s.Status.Alive && len(alive(s)) == 0:
		out.Trouble = "the region has ended: waiting for the next one"
		if s.Daemon.State != protocol.DaemonStateStopped {
			out.Trouble = "no daemon, and no worker runs: the next one takes the region over (" + unit.Start(w.s.name()) + ")"
		}
		soon, cancel := context.WithTimeout(context.Background(), look)
		own := *w.a // this is not the goroutine of w.do
		next := &watched{a: &own}
		if err := next.open(soon); err == nil {
			w.s.Close()
			w.s, w.reader, w.readOnly, w.cursor, w.printer = next.s, next.reader, next.readOnly, next.cursor, next.printer
		}
		cancel()
	case !s.Status.Alive:
		out.Trouble = "no daemon: workers go on, and what is asked for is carried out by the next one (" + unit.Start(w.s.name()) + ")"
	case s.Status.Stopped:
		out.Trouble = fmt.Sprintf("the daemon is stopped by a signal: kill -CONT %d", s.Daemon.Pid)
	case len(s.Damaged) > 0:
		out.Trouble = s.Damaged[0].Error()
	case len(s.Problems) > 0:
		out.Trouble = s.Problems[0].Error()
	}
	for w.cursor != nil {
		r, lost, ok, err := w.cursor.Next()
		if err != nil || !ok {
			break
		}
		if lost > 0 {
			out.Log = append(out.Log, top.LogLine{Time: r.Time, Text: fmt.Sprintf("lost %d", lost), Bad: true})
		}
		worker, _ := w.printer.names(r)
		out.Log = append(out.Log, top.LogLine{Time: r.Time, Worker: worker, Text: textOf(r), Bad: r.Level <= 4 || r.Stream == protocol.StreamStderr})
	}
	return out
}

// do does what the user has confirmed, as the verb of that name does it.
func (w *watched) do(ctx context.Context, q top.Request) error {
	silent, err := w.a.silent()
	if err != nil {
		return err
	}
	defer silent.stdout.Close()
	switch q.What {
	case top.Stop:
		err = silent.stop(ctx, []string{q.Name})
	case top.Restart:
		err = silent.start(ctx, []string{q.Name}, true, false)
	case top.Scale:
		err = silent.scale(ctx, []string{fmt.Sprintf("%s=%d", q.Name, q.Count)}, false)
	case top.Evict:
		err = silent.chEvict(ctx, q.Name, strconv.Itoa(q.Cursor))
	}
	if errors.Is(err, control.ErrNotRunning) {
		return errors.New("it is not running")
	}
	return err
}

// silent is a copy of the app that prints nothing.
func (a *app) silent() (*app, error) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	b := *a
	b.stdout, b.stderr, b.quiet, b.output = null, null, true, "table"
	return &b, nil
}
