package crashpoint

import "testing"

// handoverMutants are for the order of a daemon's stores; handoverHunters hunt them.
var handoverMutants = []mutant{
	{"handover: the row has its new name before Drained is its own", "handover", true, "../../internal/daemon/groups.go", "			w.row = protocol.Worker{State: protocol.StateGone, Since: old.row.Since}\n			d.writeRow(w)\n			d.mem.roster.SetDrained(w.index, g.drain.end(instance), 0)\n		}\n		w.row = row\n		w.row.State = protocol.StateGone // who reads the row while its owner changes, or finds it torn, sees nobody\n		d.writeRow(w)\n",
		"			w.row = row\n			w.row.State = protocol.StateGone\n			d.writeRow(w)\n			d.mem.roster.SetDrained(w.index, g.drain.end(instance), 0)\n		}\n"},
	{"handover: enlisted after its row is there", "handover", false, "../../internal/daemon/groups.go", enlist + enlisted, enlisted + enlist},
	{"start: the row has the process before the attachment is there", "handover", false, "../../internal/daemon/supervisor.go", "	d.setAttachment(id, protocol.Attachment{State: protocol.AttachmentLive, Pid: p.pid, UID: d.workerUID(w), StartTicks: p.ticks,\n		Worker: w.index, Role: protocol.RoleWorker, Name: w.row.Name})\n	d.writeRow(w)\n",
		"	d.writeRow(w)\n	d.setAttachment(id, protocol.Attachment{State: protocol.AttachmentLive, Pid: p.pid, UID: d.workerUID(w), StartTicks: p.ticks,\n		Worker: w.index, Role: protocol.RoleWorker, Name: w.row.Name})\n"},
	{"adoption: who died is free before the repair", "adoption", false, "../../internal/daemon/adopt.go", "			a.ended = append(a.ended, w)\n			d.giveBack(id, w.conf.Channels())\n", "			a.ended = append(a.ended, w)\n			w.row.Attachment = 0\n			d.writeRow(w)\n			d.setAttachment(id, protocol.Attachment{})\n			d.giveBack(id, w.conf.Channels())\n"},
	{"adoption: a torn group is left torn", "adoption", false, "../../internal/daemon/adoptgroups.go", "		case broken != nil && g != nil:\n			d.writeGroup(g)\n", "		case broken != nil && g != nil:\n"},
	{"adoption: a torn row of the directory is no segment", "adoption", false, "../../internal/daemon/adopt.go", "		if s := segments[row.Name]; s != nil && s.Inode() == row.Inode {\n", "		if s := segments[row.Name]; false && s != nil {\n"},
	{"adoption: a torn row is believed", "adoption", false, "../../internal/daemon/adoptgroups.go", "			torn[i] = true //", "			_ = i //"},
	{"fd store: a pidfd of whom nobody knows is the attachment's", "fdstore", false, "../../internal/daemon/adopt.go", "pid <= 0 && !lives(a)", "pid <= 0"},
	{"fd store: what belongs to nothing stays", "fdstore", false, "../../internal/daemon/adopt.go", "	d.dropStored()\n", ""},
	{"fd store: pipes are believed without a pidfd", "fdstore", false, "../../internal/daemon/adopt.go", "left != nil && e.sure[id] {", "left != nil {"},
	{"fd store: a pipe that was found is not put there", "fdstore", false, "../../internal/daemon/adopt.go", "	d.systemd.remove(name)\n	d.systemd.store(name, own)\n", ""},
	{"reset: the crash is written down before the others are asked", "reset", false, "../../internal/supervise/instance.go", "		if !e.Clean {\n			m.reset(w)\n		}\n		m.again(w, CauseExit, e.How)\n",
		"		m.again(w, CauseExit, e.How)\n		if !e.Clean {\n			m.reset(w)\n		}\n"},
	{"reset: who was not asked before is not asked", "reset", false, "../../internal/supervise/group.go", "			if o.process && !o.preparing {\n				m.stop(o, CauseReset, l.name+isReset)\n", "			if false {\n				m.stop(o, CauseReset, l.name+isReset)\n"},
	{"fd store: what has the name is the segment", "reload", false, "../../internal/daemon/store.go", "	e.choose(roster)\n", ""},
	{"end: the roster leaves the fd store, too", "end", false, "../../internal/daemon/store.go", "	for _, name := range d.systemd.all() {\n		if name != rosterName {\n", "	for _, name := range d.systemd.all() {\n		if name != \"\" {\n"},
	{"end: the daemon that ends for one that was killed leaves no roster", "end", false, "../../internal/daemon/store.go", "		if !restarted || name != rosterName {\n", "		if name != \"\" {\n"},
}

// Two stores of addInstance.
const (
	enlist   = "	d.mem.command.Enlist(w.index)\n"
	enlisted = `	row.Rolled, _ = d.mem.command.GroupRollout(g.index)
	row.Restarted = d.mem.command.RestartCount(w.index) + row.Rolled
	if instance < g.segment.Instances() { // it may have been there before
		row.RestartsBy = g.segment.Restarts(instance)
		for _, n := range row.RestartsBy {
			row.Restarts += uint64(n)
		}
		d.machine.Count(w.index, row.Restarts)
	}
	w.row = row
	d.writeRow(w)
`
)

var handoverHunters = []hunter{
	{"handover", "./test/crashpoint", "^TestHandOver$"},
	{"adoption", "./test/crashpoint", "^TestAdoptionStores$"},
	{"reload", "./test/crashpoint", "^TestReload$"},
	{"end", "./test/crashpoint", "^TestEnd$"},
	{"reset", "./test/crashpoint", "^TestReset$"},
	{"fdstore", "./test/crashpoint", "^TestFDStore$"},
}

// TestHandOverMutants is TestMutants for daemons.
func TestHandOverMutants(t *testing.T) { hunt(t, handoverMutants, handoverHunters) }
