package daemon

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// The supervisor is one goroutine (Daemon.supervise) that runs posted functions one after the other. Everything in this file runs
// there. It reconciles what is (processes) with what is wanted (the command segment): level-triggered, so a ring that was missed,
// doubled or early does no harm.

// reconcileAll looks at every worker.
func (d *Daemon) reconcileAll() {
	if !d.stopping && d.mem.command.RegionDesired() != protocol.DesiredRun {
		d.beginShutdown("shmctl stop")
	}
	for _, w := range d.workers {
		d.reconcile(w)
	}
}

// wanted reports whether a worker is to run.
func (d *Daemon) wanted(w *worker) bool {
	return !d.stopping && d.mem.command.RegionDesired() == protocol.DesiredRun && d.mem.command.WorkerDesired(w.index) == protocol.DesiredRun
}

// reconcile takes the next step for one worker.
func (d *Daemon) reconcile(w *worker) {
	wanted := d.wanted(w)
	restart := d.mem.command.RestartCount(w.index) != w.row.Restarted
	switch {
	case w.proc != nil && !wanted:
		w.unwanted = true
		d.beginStop(w, "stop asked for")
	case w.proc != nil && restart:
		d.beginStop(w, "restart asked for")
	case w.proc != nil:
		d.noticeFilter(w)
		d.noticeReady(w)
	case !wanted:
		if w.row.State != protocol.StateExited {
			d.cancelTimer(w)
			d.setState(w, protocol.StateExited, "stopped")
			d.reportStatus()
		}
	case restart:
		w.crashes, w.delay = nil, 0
		d.start(w)
	case w.row.State == protocol.StateExited && w.row.Reason == "stopped", w.row.State == 0: // it was stopped or is new, and is wanted now
		d.start(w)
	}
}

// start launches a worker that has no process.
func (d *Daemon) start(w *worker) {
	d.cancelTimer(w)
	w.row.Restarted = d.mem.command.RestartCount(w.index)
	if !d.mem.command.Arm(w.index, w.group) {
		d.setState(w, protocol.StateExited, "stopped")
		return
	}
	id, err := d.ids.take()
	if err != nil {
		d.startFailed(w, err)
		return
	}
	d.mem.groups[w.group].Reset(w.instance)
	w.row.Attachment = id
	w.stopping, w.unwanted = notStopping, false
	d.setState(w, protocol.StateStarting, "")
	d.admit(id, w.conf.Produce)
	p, err := d.launch(w)
	if err != nil {
		d.admit(0, w.conf.Produce)
		d.ids.free(id)
		w.row.Attachment = 0
		d.startFailed(w, err)
		return
	}
	w.proc = p
	w.row.Pid, w.row.StartTicks = p.pid, p.ticks
	if w.conf.Filter() {
		w.row.ShimPid = p.pid
	}
	d.setAttachment(id, protocol.Attachment{State: protocol.AttachmentLive, Pid: p.pid, UID: d.workerUID(w), StartTicks: p.ticks,
		Worker: w.index, Role: protocol.RoleWorker, Name: w.row.Name})
	d.writeRow(w)
	d.remember(id, p)
	if err := d.deaths.Add(p.pidfd, tokenOf(id)); err != nil {
		d.log.Error("cannot watch a worker's pidfd: it is killed", "worker", w.row.Name, "pid", p.pid, "error", err)
		p.signal(syscall.SIGKILL)
		go func() {
			sys.PollReadable([]*os.File{p.pidfd}, -1)
			d.post(func() {
				if w.proc == p {
					d.workerDied(w)
				}
			})
		}()
	}
	d.log.Info("worker started", "worker", w.row.Name, "group", w.conf.Name, "pid", p.pid)
	d.after(w, w.conf.ReadyTimeout, func() {
		if w.row.State == protocol.StateStarting {
			d.beginStop(w, fmt.Sprintf("not ready after %v", w.conf.ReadyTimeout))
		}
	})
}

// startFailed counts a start that did not even make a process as a crash.
func (d *Daemon) startFailed(w *worker, err error) {
	d.log.Error("worker could not be started", "worker", w.row.Name, "error", err)
	d.again(w, "could not be started: "+err.Error())
	d.reportStatus()
}

// launched is called when the launcher has execed the command, or said why it could not; then its exit follows.
func (d *Daemon) launched(w *worker, p *process) {
	if w.proc != p || p.heard() != "" {
		return
	}
	p.running = true
	d.noticeFilter(w)
	d.noticeReady(w)
}

// noticeReady moves a worker from starting to ready: when it said so, or when its command runs and is not going to say so.
func (d *Daemon) noticeReady(w *worker) {
	if w.row.State != protocol.StateStarting {
		return
	}
	said := d.mem.groups[w.group].Page(w.instance).Ready.Load() != 0
	if !said && !(w.conf.ReadyAtExec() && w.proc.running) {
		return
	}
	d.cancelTimer(w)
	d.setState(w, protocol.StateReady, "")
	d.readyGroups[w.group] = true
	d.log.Info("worker ready", "worker", w.row.Name, "group", w.conf.Name, "pid", w.proc.pid, "after", time.Since(w.proc.started).Round(time.Microsecond).String())
	d.reportStatus()
}

// beginStop asks a running worker to quit: flag, then SIGTERM, then SIGKILL, each after the group's stop timeout. A worker that
// never attached cannot see the flag and gets SIGTERM at once.
func (d *Daemon) beginStop(w *worker, why string) {
	if w.stopping != notStopping {
		return
	}
	w.stopping = flagged
	d.cancelTimer(w)
	d.setState(w, protocol.StateStopping, why)
	if !protocol.Flagged(d.mem.command.WorkerQuit(w.index)) {
		d.mem.command.Flag(w.index)
	}
	d.log.Info("worker asked to quit", "worker", w.row.Name, "pid", w.proc.pid, "why", why)
	if d.mem.groups[w.group].Page(w.instance).AttachedPid.Load() == 0 {
		d.escalate(w, "it is not attached, so it cannot see the quit flag")
		return
	}
	d.after(w, w.conf.StopTimeout, func() { d.escalate(w, fmt.Sprintf("it did not obey the quit flag within %v", w.conf.StopTimeout)) })
}

// escalate takes the next, harder step of a stop.
func (d *Daemon) escalate(w *worker, why string) {
	if w.proc == nil {
		return
	}
	switch w.stopping {
	case flagged:
		w.stopping = terminated
		d.log.Warn("worker gets SIGTERM", "worker", w.row.Name, "pid", w.proc.pid, "why", why)
		w.proc.signal(syscall.SIGTERM)
		d.after(w, w.conf.StopTimeout, func() { d.escalate(w, fmt.Sprintf("it did not obey SIGTERM within %v", w.conf.StopTimeout)) })
	case terminated:
		w.stopping = killed
		d.log.Warn("worker gets SIGKILL", "worker", w.row.Name, "pid", w.proc.pid, "why", why)
		w.proc.signal(syscall.SIGKILL)
	}
}

// workerDied is called when the pidfd of a worker's process has become readable.
func (d *Daemon) workerDied(w *worker) {
	p := w.proc
	exit := d.collect(w)
	failure := p.heard()
	if p.pid == 0 {
		failure = "the daemon died while it started it"
	}
	if failure == "" { // it ran, if perhaps for less time than it took to notice
		p.running = true
		d.noticeReady(w)
	}
	d.endFilter(p)
	if p.pidfd != nil {
		d.deaths.Remove(p.pidfd)
		p.pidfd.Close()
	}
	d.cancelTimer(w)
	w.proc = nil
	id := w.row.Attachment
	d.giveBack(id, w.conf.Channels())
	d.forget(id)
	sys.ReapOrphans(d.isWorker)

	how, stopped := d.describeEnd(w, exit), w.stopping != notStopping
	flagged := !stopped && protocol.Flagged(d.mem.command.WorkerQuit(w.index)) // and wanted: a stop, and a start before it was seen here
	took := time.Since(p.started)
	w.row.Pid, w.row.ShimPid, w.row.StartTicks, w.row.Attachment, w.row.Stalled = 0, 0, 0, 0, false
	w.row.ExitCode, w.row.ExitSignal = exit.Code, int(exit.Signal)
	w.stopping = notStopping
	clean := exit.Code == 0 && exit.Signal == 0
	fields := []any{"worker", w.row.Name, "group", w.conf.Name, "pid", p.pid, "how", how, "ran", took.Round(time.Millisecond).String()}
	if clean || stopped {
		d.log.Info("worker ended", fields...)
	} else {
		d.log.Warn("worker died", fields...)
	}

	switch reason := how; {
	case !d.wanted(w):
		d.setState(w, protocol.StateExited, "stopped")
	case w.unwanted || flagged || d.mem.command.RestartCount(w.index) != w.row.Restarted: // and is wanted again by now
		w.row.Restarts++
		w.crashes, w.delay = nil, 0
		d.start(w)
	case failure != "": // the command never ran
		d.again(w, failure)
	case stopped: // it was not ready in time: however it ended, it failed
		d.again(w, w.row.Reason+"; "+how)
	case w.conf.Restart == "never", w.conf.Restart == "on-failure" && clean:
		d.setState(w, protocol.StateExited, reason)
	case clean && took >= steady:
		w.row.Restarts++
		d.start(w)
	default:
		if took >= steady {
			w.delay = 0
		}
		d.again(w, reason)
	}
	d.reportStatus()
	d.checkStopped()
}

// collect kills what a dead worker left in its process group, and says how it ended.
func (d *Daemon) collect(w *worker) sys.ExitInfo {
	p := w.proc
	if p.adopted { // somebody else's child: it is reaped already, or will be
		if p.pidfd != nil {
			sys.PidfdSignalGroup(p.pidfd, syscall.SIGKILL)
			if e, ok := sys.ExitOf(p.pidfd, p.pid, p.ticks); ok {
				return e
			}
		}
		return sys.ExitInfo{Code: protocol.ExitUnknown}
	}
	syscall.Kill(-p.pid, syscall.SIGKILL) // the number is nobody else's before the reaping
	exit, ok, err := sys.Reap(p.pid)
	if err != nil || !ok {
		d.log.Error("cannot reap a worker", "worker", w.row.Name, "pid", p.pid, "error", err)
	}
	return exit
}

// steady is how long a worker must have run for its end not to count as one of a series.
const steady = 10 * time.Second

// again starts a worker again after a delay that doubles from try to try, or gives it up when it crashed too often.
func (d *Daemon) again(w *worker, reason string) {
	if w.conf.Restart == "never" {
		d.setState(w, protocol.StateFailed, reason)
		return
	}
	now := time.Now()
	w.crashes = slices.DeleteFunc(w.crashes, func(t time.Time) bool { return now.Sub(t) > w.conf.CrashWindow })
	w.crashes = append(w.crashes, now)
	if limit := w.conf.CrashLimit; limit > 0 && len(w.crashes) > limit {
		d.setState(w, protocol.StateFailed, fmt.Sprintf("ended %d times within %v, last: %s", len(w.crashes), w.conf.CrashWindow, reason))
		d.log.Error("worker given up", "worker", w.row.Name, "reason", w.row.Reason, "next", "shmctl start "+w.row.Name)
		return
	}
	w.delay = min(max(2*w.delay, w.conf.BackoffMin), w.conf.BackoffMax)
	delay := w.delay + time.Duration(rand.Int64N(int64(w.delay)/4+1)) // jitter: not all at once
	d.setState(w, protocol.StateBackoff, fmt.Sprintf("%s; starts again in %v", reason, delay.Round(time.Millisecond)))
	d.after(w, delay, func() {
		if w.proc == nil && w.row.State == protocol.StateBackoff {
			w.row.Restarts++
			d.start(w)
		}
	})
}

// mayPublish says why an outsider may not produce on channels that have one publisher at a time, if so.
func (d *Daemon) mayPublish(produce []string) error {
	for _, t := range d.mem.single(produce) {
		name := t.Header().Name
		for _, g := range d.conf.Groups {
			if slices.Contains(g.Produce, name) {
				return fmt.Errorf("channel %q has publishers = 1, and that is worker %s.0", name, g.Name)
			}
		}
		if id := t.PublisherID(); id != 0 {
			a, err := d.mem.roster.Attachment(id)
			if err != nil {
				return err
			}
			return fmt.Errorf("channel %q has publishers = 1, and that is %q (pid %d) now: wait for its end, or remove publishers", name, a.Name, a.Pid)
		}
	}
	return nil
}

// admit makes an attachment the publisher of those of the channels that have one at a time.
func (d *Daemon) admit(id uint16, produce []string) {
	for _, t := range d.mem.single(produce) {
		t.Admit(id)
	}
}

// giveBack repairs every channel that a dead process could use, and only then lets its id be used again.
func (d *Daemon) giveBack(id uint16, channels []string) {
	if id == 0 { // it was done at the adoption
		return
	}
	a, err := d.mem.roster.Attachment(id)
	if err != nil {
		d.log.Error("attachment table", "error", err)
	}
	a.State = protocol.AttachmentRepairing
	d.setAttachment(id, a)
	for _, name := range channels {
		r := d.mem.channels[name].Repair(func(owner uint16) bool { return owner == id })
		if r != (protocol.Repaired{}) {
			d.log.Info("channel repaired", "channel", name, "dead", a.Name, "pid", a.Pid, "loans", r.Loans, "leases", r.Leases)
		}
	}
	d.setAttachment(id, protocol.Attachment{})
	d.ids.free(id)
}

// beginShutdown stops everything; the daemon ends when the last worker has.
func (d *Daemon) beginShutdown(why string) {
	if d.stopping {
		return
	}
	d.stopping = true
	d.log.Info("region stops", "why", why)
	d.setDaemonState(protocol.DaemonStateStopping)
	d.systemd.notify("STOPPING=1")
	var workers, groups []int
	for _, w := range d.workers {
		workers = append(workers, w.index)
	}
	for i := range d.conf.Groups {
		groups = append(groups, i)
	}
	d.mem.command.Stop(workers, groups, true)
	for _, w := range d.workers {
		d.reconcile(w)
	}
	d.checkStopped()
}

// killAll is the second signal to a daemon that is stopping: it waits no longer.
func (d *Daemon) killAll() {
	for _, w := range d.workers {
		if w.proc != nil {
			w.stopping = terminated
			d.escalate(w, "the daemon was told twice to stop")
		}
	}
}

// checkStopped ends the supervisor when the region stops and no worker runs any more.
func (d *Daemon) checkStopped() {
	if !d.stopping {
		return
	}
	for _, w := range d.workers {
		if w.proc != nil {
			return
		}
	}
	d.setDaemonState(protocol.DaemonStateStopped)
	d.finish()
}

func (d *Daemon) setState(w *worker, s protocol.State, reason string) {
	w.row.State, w.row.Reason, w.row.Since = s, reason, time.Now()
	d.writeRow(w)
}

func (d *Daemon) writeRow(w *worker) {
	if err := d.mem.roster.SetWorker(w.index, w.row); err != nil {
		d.log.Error("roster", "error", err)
	}
}

func (d *Daemon) setAttachment(id uint16, a protocol.Attachment) {
	if err := d.mem.roster.SetAttachment(id, a); err != nil {
		d.log.Error("roster", "error", err)
	}
}

// after runs fn in the supervisor when the time has come, unless the worker's timer was cancelled or set anew meanwhile.
func (d *Daemon) after(w *worker, delay time.Duration, fn func()) {
	d.cancelTimer(w)
	if delay <= 0 {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(delay, func() {
		d.post(func() {
			if w.timer == t {
				fn()
			}
		})
	})
	w.timer = t
}

func (d *Daemon) cancelTimer(w *worker) {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

func (d *Daemon) isWorker(pid int) bool {
	return slices.ContainsFunc(d.workers, func(w *worker) bool { return w.proc != nil && w.proc.pid == pid })
}

func describeExit(e sys.ExitInfo) string {
	if e.Code == protocol.ExitUnknown {
		return "ended while it was no child of this daemon: exit status unknown"
	}
	if e.Signal != 0 {
		return fmt.Sprintf("killed by signal %d (%v)", int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("exit code %d", e.Code)
}
