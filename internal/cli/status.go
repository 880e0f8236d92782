package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/cgroup"
	"github.com/shmd/shmd/internal/stat"
	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) statusCommand() *cobra.Command {
	return a.verb(cobra.Command{
		Use:   "status",
		Short: "show the region at a glance",
		Long: `status shows the daemon, how many workers are in which state, how much waits
in the channels, and how large the memory is. Below that it lists what is not
as it should be, the worst first, with the reason and what to do next. It reads
the memory, so it also answers while the daemon hangs or is dead; then a warning
on standard error says so.`,
		Example: `  shmctl status
  shmctl -r web status -o json | jq .workers.ready`,
	}, noArgs, func(ctx context.Context, _ []string) error { return a.status(ctx) })
}

type statusJSON struct {
	Schema     int         `json:"schema"`
	Region     string      `json:"region"`
	Generation string      `json:"generation"`
	Created    string      `json:"created"`
	Daemon     daemonJSON  `json:"daemon"`
	Workers    countsJSON  `json:"workers"`
	Groups     []groupJSON `json:"groups"`
	Channels   struct {
		Count int  `json:"count"`
		Depth *int `json:"depth"` // messages committed and not done; null if a channel could not be read
	} `json:"channels"`
	Attention []noticeJSON `json:"attention"`
	Outsiders int          `json:"outsiders"`
	Memory    struct {
		Segments int   `json:"segments"`
		Bytes    int64 `json:"bytes"`
		Held     int64 `json:"held"` // what of it has memory: all but what nobody touched of sparse segments; 0: not known
	} `json:"memory"`
}

// noticeJSON is something that is not as it should be.
type noticeJSON struct {
	Grave bool   `json:"grave"` // something does not work; else it may be on purpose, or is being mended
	Of    string `json:"of"`    // a worker, a channel, shmd
	What  string `json:"what"`
	Next  string `json:"next"` // what to do; "": nothing but wait
}

type daemonJSON struct {
	Pid      int    `json:"pid"`
	Alive    bool   `json:"alive"`
	Answers  bool   `json:"answers"`
	Stopped  bool   `json:"stopped"` // by SIGSTOP or a debugger
	State    string `json:"state"`
	Version  string `json:"version"`
	Config   string `json:"config"` // "": the embedded one
	Started  string `json:"started"`
	UptimeNs int64  `json:"uptime_ns"` // 0: dead
}

type countsJSON struct {
	Total    int `json:"total"`
	New      int `json:"new"`
	Starting int `json:"starting"`
	Ready    int `json:"ready"`
	Stopping int `json:"stopping"`
	Exited   int `json:"exited"`
	Backoff  int `json:"backoff"`
	Waiting  int `json:"waiting"`
	Failed   int `json:"failed"`
	Stalled  int `json:"stalled"` // filters, counted above too, that do not answer
}

type groupJSON struct {
	Name          string `json:"name"`
	Count         int    `json:"count"`
	Ready         int    `json:"ready"`
	Restart       string `json:"restart"`
	StopTimeoutNs int64  `json:"stop_timeout_ns"`
	Command       string `json:"command"`
	Rollout       string `json:"rollout"` // the last rolling restart: none, running, done or stopped
	RolloutNote   string `json:"rollout_note"`
	Cgroup        string `json:"cgroup"` // of its instances, as in /proc/PID/cgroup; "": none of their own, or none runs
}

func (a *app) status(ctx context.Context) error {
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	var doc statusJSON
	h, info, d := s.Roster.Header(), s.Roster.Daemon(), s.Daemon()
	doc.Schema, doc.Region, doc.Generation, doc.Created = schema, s.name(), fmt.Sprintf("%016x", h.Generation), timestamp(h.Created)
	doc.Daemon = daemonJSON{Pid: info.Pid, Alive: d.Alive, Answers: s.answers(), Stopped: d.Stopped, State: info.State.String(),
		Version: info.Version, Config: info.Config, Started: timestamp(info.Started)}
	if d.Alive {
		doc.Daemon.UptimeNs = int64(time.Since(info.Started))
	} else {
		doc.Daemon.State = "dead"
	}
	now := s.reader().Snapshot(0)
	for _, err := range slices.Concat(now.Problems, now.Damaged) {
		a.warn("%v", err)
	}
	doc.Groups, doc.Attention = []groupJSON{}, []noticeJSON{}
	for i, g := range now.Groups {
		if g.Name == "" { // free
			continue
		}
		doc.Groups = append(doc.Groups, groupJSON{g.Name, g.Count, g.Ready(), g.Restart.String(), int64(g.StopTimeout), g.Command, g.RolloutState.String(), g.RolloutNote, cgroupOf(now, i)})
	}
	for _, w := range now.Workers {
		doc.Workers.add(w.State)
		if w.Stalled {
			doc.Workers.Stalled++
		}
	}
	depth, unread := 0, []string{}
	doc.Channels.Count, doc.Memory.Segments, doc.Memory.Bytes = len(now.Channels), now.Segments, now.Bytes
	for _, seg := range s.segments {
		doc.Memory.Held += seg.Held()
	}
	for _, c := range now.Channels {
		depth += c.Depth
		if c.Err != nil {
			unread = append(unread, c.Name)
			if s.segments[c.Name] != nil {
				a.warn("channel %q: %v", c.Name, c.Err)
			}
		}
	}
	if len(unread) == 0 {
		doc.Channels.Depth = &depth
	} else if !s.answers() {
		a.warn("no living process holds %s: what waited there is gone", strings.Join(unread, ", "))
	}
	for _, n := range now.Attention() {
		doc.Attention = append(doc.Attention, noticeJSON{n.Grave, n.Of, n.What, n.Next})
	}
	if s.lockRemoved() {
		doc.Attention = append(doc.Attention, noticeJSON{false, "shmd", "somebody has removed its lock file: all works, and nothing but the memory keeps a second daemon out",
			fmt.Sprintf("when it suits, kill -9 %d, and start another, which takes the region over", d.Pid)})
	}
	if s.silent() {
		doc.Attention = append([]noticeJSON{{true, "shmd", "does not answer: workers go on, and nobody repairs or restarts what dies", "if it hangs, " + replaceIt(d.Pid)}}, doc.Attention...)
	}
	doc.Outsiders = len(s.outsiders())
	if a.json() {
		return a.printJSON(doc)
	}
	return a.printStatus(doc, d.Alive, s.removed())
}

// startsWithin is how long a daemon that takes over may be silent without anybody having to do something.
const startsWithin = 10 * time.Second

// silent reports whether the daemon should answer, and does not.
func (s *session) silent() bool {
	d := s.Daemon()
	if !errors.Is(s.why, attach.ErrSilent) || !d.Alive || d.Stopped { // of one that is stopped the snapshot says so
		return false
	}
	return !s.comesUp() || time.Since(s.Roster.Daemon().Started) > startsWithin
}

// lockRemoved reports whether the lock file of a daemon that runs is not in its runtime directory, as far as this process can see that.
func (s *session) lockRemoved() bool {
	dir := s.Roster.Dir()
	if !s.answers() || s.Roster.Daemon().State != protocol.DaemonStateRunning {
		return false
	}
	if _, err := os.Stat(filepath.Join(dir, s.name()+".sock")); err != nil { // another file system than the daemon's, perhaps
		return false
	}
	_, err := os.Stat(filepath.Join(dir, s.name()+".lock"))
	return errors.Is(err, fs.ErrNotExist) && s.Roster.Daemon().State == protocol.DaemonStateRunning
}

// cgroupOf is the cgroup that the instances of a group have to themselves.
func cgroupOf(now *stat.Snapshot, group int) string {
	for _, w := range now.Workers {
		if w.Group == group && w.Pid > 0 {
			return cgroup.Of(w.Pid)
		}
	}
	return ""
}

func (a *app) printStatus(doc statusJSON, alive, removed bool) error {
	config := doc.Daemon.Config
	if config == "" {
		config = "embedded"
	}
	daemon := cell{fmt.Sprintf("%s, pid %d, up %s", doc.Daemon.State, doc.Daemon.Pid, age(time.Duration(doc.Daemon.UptimeNs))), green}
	switch {
	case !alive:
		daemon = cell{fmt.Sprintf("dead (was pid %d)", doc.Daemon.Pid), red}
	case doc.Daemon.Stopped:
		daemon = cell{fmt.Sprintf("stopped by a signal, pid %d, up %s", doc.Daemon.Pid, age(time.Duration(doc.Daemon.UptimeNs))), yellow}
	case removed:
		daemon.text, daemon.color = daemon.text+", its socket was removed", red
	case !doc.Daemon.Answers:
		daemon.text, daemon.color = daemon.text+", does not answer", yellow
	}
	t := a.newTable()
	t.add("region", doc.Region)
	t.add("daemon", daemon)
	t.add("version", doc.Daemon.Version)
	t.add("config", config)
	t.add("workers", doc.Workers.cell())
	waiting := "depth unknown"
	if doc.Channels.Depth != nil {
		waiting = count(*doc.Channels.Depth, "message") + " waiting"
	}
	for _, g := range doc.Groups {
		switch note := g.Name + ": " + g.Rollout; g.Rollout {
		case protocol.RolloutRunning.String():
			t.add("rolling restart", cell{note, yellow})
		case protocol.RolloutStopped.String():
			color := red
			if g.RolloutNote == supervise.RolloutAborted {
				color = yellow
			}
			t.add("rolling restart", cell{note + ", " + g.RolloutNote, color})
		}
	}
	for _, g := range doc.Groups {
		if g.Cgroup != "" {
			t.add("cgroup", g.Name+": "+g.Cgroup)
		}
	}
	t.add("channels", fmt.Sprintf("%d, %s", doc.Channels.Count, waiting))
	t.add("outsiders", doc.Outsiders)
	memory := fmt.Sprintf("%s in %s", size(doc.Memory.Bytes), count(doc.Memory.Segments, "segment"))
	if doc.Memory.Held > 0 {
		memory = size(doc.Memory.Held) + " of " + memory
	}
	t.add("memory", memory)
	if err := t.print(); err != nil || len(doc.Attention) == 0 {
		return err
	}
	a.stdout.WriteString("\n")
	t = a.newTable("ATTENTION", "WHAT", "NEXT")
	for i, n := range doc.Attention {
		if i == maxNotices {
			t.add("…", fmt.Sprintf("%d more", len(doc.Attention)-i), "shmctl ps; shmctl status -o json")
			break
		}
		of := cell{n.Of, yellow}
		if n.Grave {
			of.color = red
		}
		t.add(of, n.What, n.Next)
	}
	return t.print()
}

// maxNotices is how many notices are worth printing: who has a thousand failed workers has one problem.
const maxNotices = 12

func (c *countsJSON) add(s protocol.State) {
	c.Total++
	switch s {
	case protocol.StateStarting:
		c.Starting++
	case protocol.StateReady:
		c.Ready++
	case protocol.StateStopping:
		c.Stopping++
	case protocol.StateExited:
		c.Exited++
	case protocol.StateBackoff:
		c.Backoff++
	case protocol.StateWaiting:
		c.Waiting++
	case protocol.StateFailed:
		c.Failed++
	default:
		c.New++
	}
}

// cell says the counts that are not 0.
func (c countsJSON) cell() cell {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{c.Ready, "ready"}, {c.New, "new"}, {c.Starting, "starting"}, {c.Stopping, "stopping"}, {c.Waiting, "waiting"}, {c.Backoff, "backoff"}, {c.Failed, "failed"}, {c.Exited, "exited"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if c.Stalled > 0 {
		parts = append(parts, fmt.Sprintf("%d stalled", c.Stalled))
	}
	out := cell{text: fmt.Sprint(c.Total)}
	if len(parts) > 0 {
		out.text += ": " + strings.Join(parts, ", ")
	}
	switch {
	case c.Failed > 0:
		out.color = red
	case c.Stalled > 0:
		out.color = yellow
	case c.Ready == c.Total:
		out.color = green
	}
	return out
}
