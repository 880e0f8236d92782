package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/supervise"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// The supervisor is one goroutine (Daemon.supervise) that runs posted functions one after the other. Everything in this file runs
// there. What is to be done is decided in internal/supervise, without any input or output; this file tells it what happens and does
// what it says. It reconciles what is (processes) with what is wanted (the command segment): level-triggered, so a ring that was missed,
// doubled or early does no harm.

// step tells the machine what happened to a worker, and does what it says. What that brings about is the next step.
func (d *Daemon) step(w *worker, e supervise.Event) {
	d.events = append(d.events, happened{w, e})
	if d.stepping {
		return
	}
	d.stepping = true
	for len(d.events) > 0 {
		next := d.events[0]
		d.events = d.events[1:]
		for _, a := range d.machine.Step(time.Now(), next.worker.index, next.event) {
			d.do(d.workers[a.Worker], a)
		}
	}
	d.stepping = false
}

// settle tells of what has changed, after each posted function.
func (d *Daemon) settle() {
	if d.unsettled {
		d.unsettled = false
		d.scale()
		d.reportStatus()
		d.checkStopped()
	}
	if d.heldMore && !d.stopping {
		d.heldMore = false
		d.renewGuard()
	}
}

// happened is an event that the machine does not know of yet.
type happened struct {
	worker *worker
	event  supervise.Event
}

// do carries an action out.
func (d *Daemon) do(w *worker, a supervise.Action) {
	switch a.Do {
	case supervise.Write:
		d.changed(w, a)
	case supervise.Prepare:
		d.step(w, d.arm(w))
	case supervise.Launch:
		d.step(w, d.start(w))
	case supervise.SetFlag:
		if !protocol.Flagged(d.mem.command.WorkerQuit(w.index)) {
			d.mem.command.Flag(w.index)
		}
		if w.page().AttachedPid.Load() == 0 {
			d.step(w, supervise.Deaf{})
		}
	case supervise.Look:
		d.step(w, d.look(w))
	case supervise.Abort:
		d.log.Error("worker hangs: it gets SIGABRT", "worker", w.row.Name, "group", w.conf.Name, "pid", w.proc.pid, "why", a.Why)
		d.signal(w, syscall.SIGABRT)
		w.proc.signal(syscall.SIGCONT) // one that is stopped does not end before
	case supervise.Terminate:
		level := hclog.Warn
		if w.page().AttachedPid.Load() == 0 { // it is how such a program ends
			level = hclog.Info
		}
		d.log.Log(level, "worker gets SIGTERM", "worker", w.row.Name, "pid", w.proc.pid, "why", a.Why)
		d.signal(w, syscall.SIGTERM)
	case supervise.Kill:
		d.log.Warn("worker gets SIGKILL", "worker", w.row.Name, "pid", w.proc.pid, "why", a.Why)
		d.signal(w, syscall.SIGKILL)
	case supervise.Repair:
		id := w.row.Attachment
		d.giveBack(id, w.conf.Channels())
		d.forget(id)
		w.row.Attachment = 0
	case supervise.SetTimer:
		w.timer = time.AfterFunc(a.After, func() { d.post(func() { d.step(w, supervise.Due{Timer: a.Timer}) }) })
	case supervise.StopTimer:
		w.timer.Stop()
	}
}

// signal sends a signal to a worker. A daemon that is not root may not do so to one that became another user by itself, a setuid program: nothing but the
// worker ends it then, or somebody who may.
func (d *Daemon) signal(w *worker, sig syscall.Signal) {
	if !errors.Is(w.proc.signal(sig), syscall.EPERM) {
		return
	}
	const why = "it became another user, whom the daemon may not signal"
	d.log.Error("worker cannot be signalled", "worker", w.row.Name, "pid", w.proc.pid, "signal", sys.SignalName(sig), "why", why, "next", fmt.Sprintf("as root: kill -KILL %d", w.proc.pid))
	w.row.Reason = fmt.Sprintf("%s: end it as root, kill -KILL %d", why, w.proc.pid)
	d.writeRow(w)
}

// changed writes a worker's new state down, and tells of it.
func (d *Daemon) changed(w *worker, a supervise.Action) {
	c := a.Change
	w.row.State, w.row.Reason, w.row.Since = c.To, c.Reason, c.At
	switch {
	case c.Cause == supervise.CauseHang:
		w.row.Cause = protocol.CauseWatchdog
	case c.Cause == supervise.CauseNotReady:
		w.row.Cause = protocol.CauseNotReady
	case c.Cause == supervise.CauseNoStart:
		w.row.Cause = protocol.CauseNotStarted
	case c.To == protocol.StateStopping && c.Cause == supervise.CauseReset:
		w.row.Cause = protocol.CauseReset
	case c.To == protocol.StateStopping && c.Cause != supervise.CauseAdoption: // at an adoption the row says what the stop is for
		w.row.Cause = protocol.CauseOperator
	}
	if n := uint32(a.Restarts - w.row.Restarts); n > 0 {
		w.row.RestartsBy[w.row.Cause] += n
		w.keepRestarts()
	}
	w.row.Restarts, w.row.Restarted = a.Restarts, a.Restarted
	w.row.Trial = c.To == protocol.StateReady && d.rolling(w) && w.group.onTrial()
	d.stateEvent(w, c)
	d.unsettled = true
	if c.To == protocol.StateFailed {
		d.dumpFailure(w, c.Reason)
	}
	w.group.noteStart(w, c)
	switch {
	case c.To == protocol.StateReady:
		w.readySince = c.At
		d.log.Info("worker ready", "worker", w.row.Name, "group", w.conf.Name, "pid", w.proc.pid, "after", c.At.Sub(w.proc.started).Round(time.Microsecond).String())
	case c.To == protocol.StateStopping:
		d.log.Info("worker asked to quit", "worker", w.row.Name, "pid", w.proc.pid, "why", c.Reason)
	case c.Cause == supervise.CauseCrashLimit:
		d.log.Error("worker given up", "worker", w.row.Name, "reason", c.Reason, "next", "shmctl -r "+d.conf.Region.Name+" start "+w.row.Name)
	}
}

// reconcileAll looks at every worker.
func (d *Daemon) reconcileAll() {
	if !d.stopping && d.mem.command.RegionDesired() != protocol.DesiredRun {
		d.beginShutdown("shmctl stop")
	}
	d.scale()
	for _, w := range d.workers {
		if !w.gone() {
			d.machine.Want(w.index, d.desired(w))
		}
	}
	for _, w := range d.workers {
		d.reconcile(w)
	}
}

// reconcile tells the machine what is wanted of a worker and what the worker says of itself.
func (d *Daemon) reconcile(w *worker) {
	if w.gone() {
		return
	}
	if w.proc == nil && d.starts >= startsAtOnce && !d.stopping {
		d.later()
		return
	}
	d.step(w, d.desired(w))
	d.notice(w)
}

// startsAtOnce is how many processes are started in a row. Then it is the turn of others who wait for the supervisor: an attachment, or the
// sign of life for systemd. A start takes a millisecond, and on a busy machine many of them.
const startsAtOnce = 16

// later looks at every worker again, after what has been posted by now.
func (d *Daemon) later() {
	if d.deferred {
		return
	}
	d.deferred = true
	go d.post(func() { // a goroutine, since it is the supervisor itself that makes room
		d.deferred = false
		d.reconcileAll()
	})
}

// desired is what is wanted of a worker.
func (d *Daemon) desired(w *worker) supervise.Desired {
	command := d.mem.command
	return supervise.Desired{
		Run:     !d.stopping && !w.leaving && command.Wanted(w.index, w.group.index),
		Restart: command.RestartCount(w.index) + w.row.Rolled,
	}
}

// notice takes over what a worker's process has said of itself since.
func (d *Daemon) notice(w *worker) {
	if w.proc == nil {
		return
	}
	d.noticeFilter(w)
	d.noticeReady(w)
	d.noticeAwake(w)
}

// noticeReady tells the machine that a worker's command runs, and that it said it is ready.
func (d *Daemon) noticeReady(w *worker) {
	if w.row.State != protocol.StateStarting {
		return
	}
	if w.proc.running {
		d.step(w, supervise.Running{})
	}
	if w.page().Ready.Load() != 0 {
		d.step(w, supervise.SaidReady{})
	}
}

// arm prepares a launch: the quit flag, an attachment id, an empty page.
func (d *Daemon) arm(w *worker) supervise.Event {
	g := w.group
	w.row.Rolled, _ = d.mem.command.GroupRollout(g.index) // whatever it is started for
	restart := d.mem.command.RestartCount(w.index) + w.row.Rolled
	if !d.mem.command.Arm(w.index, g.index) {
		return supervise.Unwanted{Restart: restart}
	}
	id, err := d.ids.take()
	if err != nil {
		return d.startFailed(w, err)
	}
	if err := d.allocatePage(w); err != nil {
		d.ids.free(id)
		return d.startFailed(w, err)
	}
	g.segment.Reset(w.instance)
	w.row.Attachment = id
	w.conf, w.row.ConfigHash = g.conf, g.hash
	w.limit = newRateLimit(g.conf, w.row.Name, d.log)
	g.drain.limit(w)
	return supervise.Prepared{Restart: restart}
}

// start launches a worker that is prepared.
func (d *Daemon) start(w *worker) supervise.Event {
	id := w.row.Attachment
	d.starts++
	d.admit(id, w.conf.Produce)
	p, err := d.launch(w)
	if err != nil {
		d.admit(0, w.conf.Produce)
		d.ids.free(id)
		w.row.Attachment = 0
		return d.startFailed(w, err)
	}
	w.proc = p
	w.row.Pid, w.row.StartTicks, w.lastPid = p.pid, p.ticks, p.pid
	if w.conf.Filter() {
		w.row.ShimPid = p.pid
	}
	d.setAttachment(id, protocol.Attachment{State: protocol.AttachmentLive, Pid: p.pid, UID: d.workerUID(w), StartTicks: p.ticks,
		Worker: w.index, Role: protocol.RoleWorker, Name: w.row.Name})
	d.writeRow(w)
	d.remember(id, p)
	d.watchWorker(w)
	d.log.Info("worker started", "worker", w.row.Name, "group", w.conf.Name, "pid", p.pid)
	return supervise.Started{}
}

// watchWorker watches for the end of a worker's process. One that cannot be watched as others are is killed, and a thread waits for it.
func (d *Daemon) watchWorker(w *worker) {
	p := w.proc
	err := d.deaths.Add(p.pidfd, tokenOf(w.row.Attachment))
	if err == nil {
		return
	}
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

// startFailed is what happened when a start did not even make a process.
func (d *Daemon) startFailed(w *worker, err error) supervise.Event {
	err = d.conf.OutOfFiles(err)
	d.log.Error("worker could not be started", "worker", w.row.Name, "error", err)
	return supervise.NoStart{Why: err.Error()}
}

// launched is called when the launcher has execed the command, or said why it could not; then its exit follows.
func (d *Daemon) launched(w *worker, p *process) {
	if w.proc != p || p.heard() != "" {
		return
	}
	p.running = true
	d.notice(w)
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
	w.proc, w.lastPid = nil, p.pid
	sys.ReapOrphans(d.isWorker)
	w.group.drain.ended(w)
	d.lines.ended(p.pid)

	how, clean := d.describeEnd(w, exit)+d.outOfMemory(w, exit), exit.Code == 0 && exit.Signal == 0
	fields := []any{"worker", w.row.Name, "group", w.conf.Name, "pid", p.pid, "how", how, "ran", time.Since(p.started).Round(time.Millisecond).String()}
	if clean || w.row.State == protocol.StateStopping || !d.desired(w).Run {
		d.log.Info("worker ended", fields...)
	} else {
		d.log.Warn("worker died", fields...)
	}
	w.row.Pid, w.row.ShimPid, w.row.StartTicks, w.row.Stalled, w.row.ConfigHash = 0, 0, 0, false, 0
	w.row.ExitCode, w.row.ExitSignal = exit.Code, int(exit.Signal)
	flagged := protocol.Flagged(d.mem.command.WorkerQuit(w.index))
	switch {
	case w.row.State == protocol.StateStopping: // it ended by what the stop was for, whatever its exit says
	case flagged:
		w.row.Cause = protocol.CauseOperator
	default:
		w.row.Cause = causeOf(exit)
	}
	d.step(w, supervise.Exited{Desired: d.desired(w), Flagged: flagged, Clean: clean, How: how, Never: failure})
}

// causeOf says why a process ended, as far as its exit tells.
func causeOf(e sys.ExitInfo) protocol.Cause {
	switch {
	case e.Code == protocol.ExitUnknown:
		return protocol.CauseUnknown
	case e.Signal != 0:
		return protocol.CauseSignal
	case e.Code != 0:
		return protocol.CauseFailure
	}
	return protocol.CauseExit
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

// mayPublish says why an outsider may not produce on channels that have one publisher at a time, if so.
func (d *Daemon) mayPublish(produce []string) error {
	for _, t := range d.mem.single(produce) {
		name := t.Header().Name
		if groups := d.producers(name); len(groups) > 0 {
			return fmt.Errorf("channel %q has publishers = 1, and that is worker %s.0", name, groups[0])
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
	d.repair(id, a, channels)
	d.setAttachment(id, protocol.Attachment{})
	d.ids.free(id)
}

// repair gives back what the dead process of an attachment held of channels.
func (d *Daemon) repair(id uint16, a protocol.Attachment, channels []string) {
	for _, name := range channels {
		c := d.mem.channels[name]
		if c == nil { // it was removed, so nobody held anything of it
			continue
		}
		r := c.Repair(func(owner uint16) bool { return owner == id })
		if c.topic != nil {
			d.tellEvictions(name, c)
		}
		if r != (protocol.Repaired{}) {
			d.log.Info("channel repaired", "channel", name, "dead", a.Name, "pid", a.Pid, "loans", r.Loans, "leases", r.Leases, "moves", r.Moves)
			d.event(eventRepair, name, "death", "dead", a.Name, "pid", a.Pid, "loans", r.Loans, "leases", r.Leases, "moves", r.Moves)
		}
	}
}

// beginShutdown stops everything; the daemon ends when the last worker has.
func (d *Daemon) beginShutdown(why string) {
	if d.stopping {
		return
	}
	d.stopping = true
	d.log.Info("region stops", "why", why)
	d.event(eventRegion, d.conf.Region.Name, "stop", "why", why)
	d.setDaemonState(protocol.DaemonStateStopping)
	d.sayReady()
	d.systemd.notify("STOPPING=1\n" + control.MayTake(control.StopTakes(d.mem.roster))) // or it would kill the daemon, and nobody would end the workers
	var workers, groups []int
	for _, w := range d.workers {
		if !w.gone() {
			workers = append(workers, w.index)
		}
	}
	for _, g := range d.living() {
		groups = append(groups, g.index)
	}
	if d.ordered() { // the machine asks one after the other, and outsiders come last
		d.mem.command.Want(workers, groups, true)
		d.machine.End()
	} else {
		d.mem.command.Stop(workers, groups, true)
	}
	for _, w := range d.workers {
		d.reconcile(w)
	}
	d.checkStopped()
}

// ordered reports whether some groups come after others.
func (d *Daemon) ordered() bool {
	return slices.ContainsFunc(d.living(), func(g *group) bool { return len(g.policy.After) > 0 })
}

// killAll is the second signal to a daemon that is stopping: it waits no longer.
func (d *Daemon) killAll() {
	for _, w := range d.workers {
		d.step(w, supervise.Hurry{})
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
	if !protocol.Flagged(d.mem.command.RegionQuit()) { // outsiders: their workers stopped in order
		d.mem.command.Stop(nil, nil, true)
	}
	d.setDaemonState(protocol.DaemonStateStopped)
	d.finish()
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
