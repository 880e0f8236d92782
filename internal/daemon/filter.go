package daemon

import (
	"syscall"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/launcher/spec"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// filterSpec is what the shim of a filter is told.
func filterSpec(g *config.Group) *spec.Filter {
	delimiter := byte('\n')
	if g.Delimiter == config.DelimiterNUL {
		delimiter = 0
	}
	return &spec.Filter{Stdin: g.Stdin, Stdout: g.Stdout, Window: g.FilterWindow, Written: g.Ack == config.AckWritten, Delimiter: delimiter,
		StopTimeout: g.StopTimeout, StallTimeout: g.StallTimeout}
}

// noticeFilter takes over what the shim of a filter says of it: its pid, and whether it answers.
func (d *Daemon) noticeFilter(w *worker) {
	if !w.conf.Filter() {
		return
	}
	page, row := w.page(), w.row
	if row.Stalled = page.Stalled.Load() != 0; row.State == protocol.StateReady {
		row.Reason = protocol.Text(page.Note[:])
	}
	row.Pid = w.proc.pid
	if d.findFilter(w.proc, int(int32(page.FilterPid.Load()))) {
		row.Pid = w.proc.filter
	}
	if row == w.row {
		return
	}
	before := w.row
	w.row = row
	d.writeRow(w)
	fields := []any{"worker", row.Name, "group", w.conf.Name, "pid", row.Pid, "shim", row.ShimPid}
	switch {
	case row.Stalled && !before.Stalled:
		d.log.Warn("filter does not answer", append(fields, "reason", row.Reason)...)
		d.event(eventStall, row.Name, "no-answer", "reason", row.Reason, "pid", row.Pid)
	case !row.Stalled && before.Stalled:
		d.log.Info("filter answers again", fields...)
		d.event(eventStall, row.Name, "answers", "pid", row.Pid)
	case row.Pid != before.Pid && row.Pid != w.proc.pid:
		d.log.Info("filter runs", fields...)
	}
}

// findFilter takes down which process the filter is, if it is a child of the shim: the shim's word alone is not enough, since the
// filter is killed with it.
func (d *Daemon) findFilter(p *process, pid int) bool {
	if pid == p.filter {
		return pid != 0
	}
	p.forgetFilter()
	if pid <= 0 {
		return false
	}
	fd, err := sys.PidfdOpen(pid)
	if err != nil { // it has ended
		return false
	}
	if parent, err := sys.Parent(pid); err != nil || parent != p.pid { // asked after the opening: the pidfd is of that process
		fd.Close()
		return false
	}
	p.filter, p.filterFD = pid, fd
	return true
}

// endFilter kills the filter of a shim that has died. The kernel does that too, unless the filter has become another user; and it
// may have left the shim's process group.
func (d *Daemon) endFilter(p *process) {
	if p.filterFD != nil {
		sys.PidfdSignal(p.filterFD, syscall.SIGKILL)
	}
	p.forgetFilter()
}

func (p *process) forgetFilter() {
	if p.filterFD != nil {
		p.filterFD.Close()
	}
	p.filter, p.filterFD = 0, nil
}

// describeEnd says how the process of a worker ended, and what the shim of a filter had to say of it.
func (d *Daemon) describeEnd(w *worker, e sys.ExitInfo) string {
	how := describeExit(e)
	if !w.conf.Filter() {
		return how
	}
	if note := protocol.Text(w.page().Note[:]); note != "" && e.Signal == 0 {
		how += ": " + note
	}
	return how
}
