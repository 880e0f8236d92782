package stat

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/internal/unit"
	"github.com/shmd/shmd/pkg/protocol"
)

// Notice is something that is not as it should be, or that somebody wanted otherwise than the configuration says.
type Notice struct {
	Grave  bool   // something does not work; else it may be on purpose, or is being mended
	Of     string // a worker, a channel, or the daemon
	What   string // what is the matter, and why
	Next   string // what to do next; empty if there is nothing to do but wait
	Worker int    // index of the worker's row, or -1
}

// Attention lists what is not as it should be, the grave first, each with what to do next. It needs a snapshot without parts.
func (s *Snapshot) Attention() []Notice {
	var grave, rest []Notice
	add := func(n Notice) {
		if n.Grave {
			grave = append(grave, n)
		} else {
			rest = append(rest, n)
		}
	}
	shmctl := unit.Shmctl(s.Region)
	switch {
	case !s.Status.Alive && !slices.ContainsFunc(s.Workers, func(w Worker) bool { return w.Process() > 0 }):
		add(Notice{true, "shmd", fmt.Sprintf("the daemon (pid %d) is dead, and no worker runs: nobody starts one, or gives back what the dead held", s.Daemon.Pid), unit.Start(s.Region) + ": it takes the region over", -1})
	case !s.Status.Alive:
		add(Notice{true, "shmd", fmt.Sprintf("the daemon (pid %d) is dead: workers go on, and nobody repairs or restarts what dies", s.Daemon.Pid), unit.Start(s.Region) + ": it takes the region over", -1})
	case s.Status.Stopped:
		add(Notice{true, "shmd", "the daemon is stopped by a signal, or a debugger", fmt.Sprintf("kill -CONT %d", s.Daemon.Pid), -1})
	}
	if s.Status.Alive && s.Daemon.ConfigRefused {
		add(Notice{true, "shmd", "its file is refused: the region goes on with the configuration of the daemon before", shmctl + "doctor; then " + shmctl + "reload", -1})
	}
	for _, err := range s.Problems {
		add(Notice{true, "roster", err.Error(), "the daemon writes it again when it starts the worker: " + shmctl + "restart --all", -1})
	}
	if n := len(s.Damaged); n > 0 {
		what := s.Damaged[0].Error()
		if n > 1 {
			what += fmt.Sprintf(", and %d more rows", n-1)
		}
		add(Notice{true, "roster", "the directory is damaged: " + what, shmctl + "verify; then " + shmctl + "stop, and start the daemon: a new region", -1})
	}
	for _, g := range s.Groups {
		switch {
		case g.Name == "" || g.RolloutState != protocol.RolloutStopped:
		case g.RolloutNote == supervise.RolloutAborted:
			add(Notice{false, g.Name, "its rolling restart was " + g.RolloutNote + ": some instances are from before", shmctl + "restart --rolling " + g.Name, -1})
		default:
			add(Notice{true, g.Name, "its rolling restart was given up: " + g.RolloutNote, shmctl + "logs " + g.Name + ", then " + shmctl + "restart --rolling " + g.Name, -1})
		}
	}
	for i := range s.Workers {
		w := &s.Workers[i]
		n, ok := w.notice(shmctl)
		switch {
		case ok && w.Unattended && w.Desired == protocol.DesiredRun:
			n = s.unattended(w, n)
		case ok && w.State == protocol.StateWaiting:
			n.What, n.Next = s.Waits(w)
		}
		if ok {
			add(n)
		}
	}
	daemon := 0
	if s.Status.Alive {
		daemon = s.Daemon.Pid
	}
	for i := range s.Channels {
		if n, ok := s.Channels[i].notice(shmctl, daemon); ok {
			add(n)
		}
	}
	return append(grave, rest...)
}

// waitsForGroup begins the reason of a worker whose group comes after another one, which has to be ready first; its name follows.
const waitsForGroup = "waits for group "

// Waits says what a worker in state waiting waits for. next is what to do if that does not come by itself, "" if it may.
func (s *Snapshot) Waits(w *Worker) (what, next string) {
	name, ok := strings.CutPrefix(w.Reason, waitsForGroup)
	if !ok {
		return "waits: " + w.Reason, ""
	}
	what = w.Reason
	for range s.Groups { // a group may wait for one that waits, and so on; in a circle only if rows are damaged
		state, then := s.lacks(name)
		switch state {
		case "":
			return what, ""
		case "failed":
			return what + ", which has failed", fmt.Sprintf("%slogs %s, then %[1]sstart %[2]s", unit.Shmctl(s.Region), name)
		case "ended":
			return what + ", which has ended, and is not started again", fmt.Sprintf("%slogs %s, then %[1]sstart %[2]s", unit.Shmctl(s.Region), name)
		case "stopped":
			return what + ", which is stopped", unit.Shmctl(s.Region) + "start " + name
		}
		what += ", which " + waitsForGroup + then
		name = then
	}
	return what, ""
}

// lacks says why a group does not get ready by itself: it is stopped, has failed or ended, or waits for the group then. "": it may.
func (s *Snapshot) lacks(group string) (state, then string) {
	rank := 0
	worse := func(r int, as string) {
		if r > rank {
			rank, state = r, as
		}
	}
	for _, w := range s.Workers {
		if w.Worker.Group < 0 || w.Worker.Group >= len(s.Groups) || s.Groups[w.Worker.Group].Name != group {
			continue
		}
		stopped := w.Desired == protocol.DesiredStop
		switch name, waits := strings.CutPrefix(w.Reason, waitsForGroup); {
		case w.State == protocol.StateFailed:
			worse(3, "failed")
		case stopped:
			worse(1, "stopped")
		case w.State == protocol.StateExited && w.Reason != "stopped" && w.Cause != protocol.CauseExit:
			worse(2, "ended")
		case w.State == protocol.StateWaiting && waits:
			worse(4, "waits")
			then = name
		default:
			return "", ""
		}
	}
	return state, then
}

// unattended is the notice of a worker whose end no daemon has seen: what the next does is what the group's restart policy says.
func (s *Snapshot) unattended(w *Worker, n Notice) Notice {
	if w.Worker.Group < 0 || w.Worker.Group >= len(s.Groups) {
		return n
	}
	who := "the next daemon"
	if s.Status.Alive {
		who = "the daemon, when it goes on,"
	}
	switch s.Groups[w.Worker.Group].Restart {
	case protocol.RestartAlways:
		n.What, n.Next = fmt.Sprintf("%s: %s starts it again", w.Reason, who), ""
	case protocol.RestartOnFailure:
		n.What, n.Next = fmt.Sprintf("%s: %s starts it again, unless it is known to have done its work", w.Reason, who), ""
	}
	return n
}

func (w *Worker) notice(shmctl string) (Notice, bool) {
	n := Notice{Of: w.Name, What: w.Reason, Worker: w.Index}
	switch w.State {
	case protocol.StateFailed:
		n.Grave, n.What, n.Next = true, "failed: "+w.Reason, shmctl+"logs "+w.Name+", then "+shmctl+"start "+w.Name
	case protocol.StateBackoff:
		n.What, n.Next = "waits to be started again: "+w.Reason, shmctl+"logs "+w.Name
	case protocol.StateWaiting: // Waits says for what
	case protocol.StateStarting:
		if time.Since(w.Since) < 5*time.Second {
			return n, false
		}
		n.What, n.Next = fmt.Sprintf("is not ready yet, %s after its start", time.Since(w.Since).Round(time.Second)), shmctl+"logs "+w.Name
	case protocol.StateStopping:
		n.What = "is asked to quit: " + w.Reason
	case protocol.StateExited:
		switch {
		case w.Desired == protocol.DesiredStop:
			n.What, n.Next = "is stopped", shmctl+"start "+w.Name
		case w.Cause == protocol.CauseExit && !w.Unattended: // else that is how an earlier process of it ended
			return n, false // it has done what it is for
		default:
			n.Grave, n.What, n.Next = true, "has ended, and is not started again: "+w.Reason, shmctl+"logs "+w.Name+", then "+shmctl+"start "+w.Name
		}
	case protocol.StateReady:
		if !w.Stalled {
			return n, false
		}
		n.Grave, n.What, n.Next = true, "does not answer: "+w.Reason, "it has to write and flush a line for each (docs/filters.md), or "+shmctl+"restart "+w.Name
	default:
		return n, false
	}
	return n, true
}

func (c *Channel) notice(shmctl string, pid int) (Notice, bool) {
	n := Notice{Of: c.Name, Worker: -1}
	if c.Err != nil {
		if !damaged(c.Err) {
			return n, false // its numbers are not ours
		}
		n.Grave, n.What = true, "the head of its memory is damaged: "+c.Err.Error()
		n.Next = shmctl + "verify; a daemon that takes the region over makes the channel anew, empty"
		if pid > 0 {
			n.Next += fmt.Sprintf(": kill -9 %d, and start another (systemd does)", pid)
		}
		return n, true
	}
	if c.Topic != nil {
		for _, u := range c.Topic.Subscribers {
			if u.Blocks {
				n.Grave, n.What = true, fmt.Sprintf("publishers wait, or are about to, for subscriber %d, which is %d messages behind", u.Row, u.Lag)
				n.Next = fmt.Sprintf("%sch info %s, and to end it %sch evict %s %d", shmctl, c.Name, shmctl, c.Name, u.Row)
				return n, true
			}
		}
		return n, false
	}
	switch {
	case c.DeadLetters && c.Depth > 0:
		queue := strings.TrimSuffix(c.Name, ".dead")
		n.Grave, n.What, n.Next = c.Depth >= c.Slots, fmt.Sprintf("%s, of at most %d", letters(c.Depth), c.Slots), shmctl+"ch dead "+queue
		if c.Waiting > 0 {
			n.What += fmt.Sprintf(": %d more wait in %s, and keep their slots, until there is room", c.Waiting, queue)
		}
		return n, true
	case c.Draining:
		n.What, n.Next = "takes no messages: it is being drained, or was", shmctl+"ch drain --off "+c.Name
		if c.Depth > 0 {
			n.What += fmt.Sprintf("; %s not done yet", messages(c.Depth))
		}
		return n, true
	case c.Wedged:
		n.Grave, n.What, n.Next = true, fmt.Sprintf("takes no messages: all its slots hold messages that wait for room in %s.dead", c.Name), shmctl+"ch dead "+c.Name
		return n, true
	case c.Kind == protocol.KindQueue && c.Depth >= c.Slots && c.Slots > 0:
		n.Grave, n.What, n.Next = true, "is full: producers wait until messages are done", shmctl+"ch info "+c.Name
		return n, true
	}
	return n, false
}

// damaged reports whether an error of opening a channel tells of its memory, not of who may look.
func damaged(err error) bool {
	var corrupt *protocol.CorruptError
	var kind *protocol.KindError
	var version *protocol.VersionError
	var feature *protocol.FeatureError
	return errors.Is(err, protocol.ErrForeign) || errors.Is(err, protocol.ErrNotReady) || errors.Is(err, protocol.ErrTooShort) ||
		errors.As(err, &corrupt) || errors.As(err, &kind) || errors.As(err, &version) || errors.As(err, &feature)
}

func messages(n int) string {
	if n == 1 {
		return "1 message is"
	}
	return fmt.Sprintf("%d messages are", n)
}

func letters(n int) string {
	if n == 1 {
		return "1 dead letter"
	}
	return fmt.Sprintf("%d dead letters", n)
}
