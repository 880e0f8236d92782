package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/attrs"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) eventsCommand() *cobra.Command {
	var sel selection
	c := a.verb(cobra.Command{
		Use:   "events [-f] [-n N] [-S TIME] [-U TIME] [KIND...]",
		Short: "print what changed, and why",
		Long: `events prints every change of state of the region, with its cause: workers that
start, become ready, stop and die; what was given back after a death; dead
letters, evictions, stalls; outsiders that attach and detach with channels or to
operate; daemons that take over or are upgraded, reloads, changes of scale,
rolling restarts.
Events are numbered without gaps, also over the deaths of daemons, and kept in
the region's memory (events_size in [region]), the newest of them. With kinds it
prints those alone.

A line reads TIME NUMBER KIND SUBJECT CAUSE KEY=VALUE...; -o json prints one
object a line. Where the ring overtook the reader it says "lost N".

With -f it goes on, also over restarts of the daemon, until the region has
stopped or its last process has ended. It reads memory, and works while the
daemon hangs or is dead.`,
		Example: `  shmctl events -f
  shmctl events -S -1h state repair
  shmctl events -o json | jq -r 'select(.kind == "state" and .to == "failed") | .subject'`,
	}, func(*cobra.Command, []string) error { return sel.parse(time.Now()) }, func(ctx context.Context, kinds []string) error { return a.events(ctx, kinds, sel) })
	sel.register(c.Flags(), "events")
	return c
}

// eventKinds are all there are: the daemon's (internal/daemon/events.go).
var eventKinds = []string{"adopt", "attach", "dead-letter", "detach", "dump", "evict", "region", "reload", "repair", "rollout", "scale", "stall", "state", "upgrade"}

func (a *app) events(ctx context.Context, kinds []string, sel selection) error {
	for _, k := range kinds {
		if !slices.Contains(eventKinds, k) {
			return usagef("events: there is no kind %q; there are: %s", k, strings.Join(eventKinds, ", "))
		}
	}
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	log, err := s.log(protocol.OpenEvents)
	if err != nil {
		return err
	}
	p := &logPrinter{a: a, out: bufio.NewWriter(a.stdout), sel: sel, log: log, cursor: log.Oldest()}
	p.sel.kinds = kinds
	p.print = p.event
	p.learn(s)
	return p.run(ctx, s)
}

// eventJSON is the begin of an event in a stream of objects; its fields follow.
type eventJSON struct {
	Number uint64 `json:"number"`
	Time   string `json:"time"`
	Kind   string `json:"kind"`
	Worker string `json:"worker,omitempty"`
}

// event prints an event.
func (p *logPrinter) event(l line) error {
	if l.lost > 0 {
		return p.lost(l.lost)
	}
	worker, _ := p.names(l.Record)
	if p.a.json() {
		text, err := json.Marshal(eventJSON{l.Seq, timestamp(l.Time), l.Text, worker})
		if err != nil {
			return err
		}
		if l.Attrs != "" { // {"number":…,"kind":…} and the event's own fields in one object
			whole := string(text[:len(text)-1]) + "," + l.Attrs + "}"
			if !json.Valid([]byte(whole)) {
				return fmt.Errorf("event %d makes no sense: %q", l.Seq, l.Attrs)
			}
			text = []byte(whole)
		}
		_, err = fmt.Fprintf(p.out, "%s\n", text)
		return err
	}
	list, _ := attrs.Parse(l.Attrs)
	subject, cause := "", ""
	rest := list[:0]
	for _, f := range list {
		switch f.Key {
		case "subject":
			subject = f.String()
		case "cause":
			cause = f.String()
		default:
			if f.String() != "" {
				rest = append(rest, f)
			}
		}
	}
	c := plain
	switch {
	case l.Level <= 3:
		c = red
	case l.Level == 4:
		c = yellow
	}
	_, err := fmt.Fprintf(p.out, "%s %s %s %s %s %s\n", p.a.paint(faint, l.Time.Format("2006-01-02 15:04:05.000")), p.a.paint(faint, fmt.Sprint(l.Seq)), printable(l.Text),
		p.a.paint(bold, printable(subject)), p.a.paint(c, printable(cause)), printable(attrs.Text(rest)))
	return err
}
