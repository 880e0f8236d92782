package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) psCommand() *cobra.Command {
	var all bool
	c := a.verb(cobra.Command{
		Use:   "ps [-a] [NAME...]",
		Short: "list workers with state and pid",
		Long: `ps lists the workers of the region, or those of the given names: a worker
(parser.2), or a group (parser). It reads the roster, and asks nobody; while
no daemon keeps the roster up, it also looks at the processes.

-a adds the other processes that are attached. ROLE says what one may do with
the workers: observe, or operate (stop and start them); CHANNELS, which channels
it produces to or consumes from: it holds their memory writable. "?" if the
process is another user's: root sees all.

States: starting, ready, stopping, exited (no process, and none is wanted),
backoff (no process; it is started again after a delay), failed (given up; the
reason says why).`,
		Example: `  shmctl ps
  shmctl ps parser
  shmctl ps -o json | jq -r '.workers[] | select(.state != "ready") | .name'`,
		ValidArgsFunction: a.complete(workerNames),
	}, anyNames, func(ctx context.Context, names []string) error { return a.ps(ctx, names, all) })
	c.Flags().BoolVarP(&all, "all", "a", false, "list attached processes that are no workers as well")
	return c
}

// attachmentJSON is an attached process that is no worker.
type attachmentJSON struct {
	ID    uint16 `json:"id"`
	Name  string `json:"name"`
	Pid   int    `json:"pid"`
	UID   uint32 `json:"uid"`
	Role  string `json:"role"` // over workers
	State string `json:"state"`

	Channels []string `json:"channels"` // that it may produce to or consume from; null: the process could not be looked into
}

func (a *app) ps(ctx context.Context, names []string, all bool) error {
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	targets, err := control.Resolve(s.Roster, names)
	if err != nil {
		return err
	}
	list, err := s.workers(targets.Workers)
	if err != nil {
		a.warn("%v", err) // the rows before it are worth having
	}
	var others []attachmentJSON
	if all {
		others = s.outsiders()
		s.findChannels(others)
	}
	if a.json() {
		doc := struct {
			workersJSON
			Attachments *[]attachmentJSON `json:"attachments,omitempty"`
		}{workersJSON: s.workersJSON(list)}
		if all {
			doc.Attachments = &others
		}
		return a.printJSON(doc)
	}
	t := a.newTable("NAME", "STATE", "PID", "RESTARTS", "SINCE", "REASON")
	for _, w := range list {
		pid := any("")
		if w.Pid > 0 {
			pid = w.Pid
		}
		t.add(w.Name, stateCell(w.State), pid, w.Restarts, age(time.Since(w.Since)), w.Reason)
	}
	if err := t.print(); err != nil || !all {
		return err
	}
	if _, err := a.stdout.WriteString("\n"); err != nil {
		return err
	}
	t = a.newTable("ATTACHMENT", "NAME", "PID", "UID", "ROLE", "CHANNELS", "STATE")
	for _, o := range others {
		channels := strings.Join(o.Channels, ",")
		if o.Channels == nil {
			channels = "?"
		}
		t.add(o.ID, o.Name, o.Pid, o.UID, o.Role, channels, o.State)
	}
	return t.print()
}

// outsiders lists the attached processes that are no workers, this one not counted.
func (s *session) outsiders() []attachmentJSON {
	list := []attachmentJSON{}
	for id := 1; id < s.Roster.AttachmentCap() && id <= 0xffff; id++ {
		at, err := s.Roster.Attachment(uint16(id))
		if err != nil || at.State == protocol.AttachmentFree || at.Worker >= 0 || at.Role == protocol.RoleDaemon || uint16(id) == s.attachment {
			continue
		}
		list = append(list, attachmentJSON{uint16(id), at.Name, at.Pid, at.UID, at.Role.String(), at.State.String(), nil})
	}
	return list
}

// findChannels finds out which channels outsiders may use: whoever was let in to one holds its segment writable, for both directions.
// The memory does not say so; a process that ends meanwhile, or is another user's, stays without.
func (s *session) findChannels(list []attachmentJSON) {
	names := map[uint64]string{} // by inode
	directory, _ := s.Roster.Segments()
	for _, g := range directory {
		if protocol.IsChannel(g.Kind) {
			names[g.Inode] = g.Name
		}
	}
	for i := range list {
		held, err := heldBy(list[i].Pid, []byte("/memfd:shmd:"+s.name()+":"))
		if err != nil || len(held) == 0 { // without any memory of the region it is another process by now
			continue
		}
		list[i].Channels = []string{}
		for inode, writable := range held {
			if name := names[inode]; writable && name != "" {
				list[i].Channels = append(list[i].Channels, name)
			}
		}
		slices.Sort(list[i].Channels)
	}
}
