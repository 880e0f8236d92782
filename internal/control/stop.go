package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// How a worker was ended.
const (
	HowFlag = "flag" // it obeyed the quit flag
	HowTerm = "term" // by SIGTERM
	HowKill = "kill" // by SIGKILL
)

// HowExit is how a daemon ends that ends by itself.
const HowExit = "exit"

// StopOptions say what to stop. The zero value stops the region, and takes it that no daemon answers.
type StopOptions struct {
	// Names of workers and groups; none: the region, daemon included.
	Names []string
	// DaemonAnswers: a daemon works and sends the signals to workers that do not obey. Stop then only waits, and takes
	// over if the daemon dies or falls behind its own timeouts.
	DaemonAnswers bool
	// DaemonGrace is how long a daemon that is stopped or hung may take to end after the last worker of a region stop
	// has. Default 1 s. A daemon that answers and is not stopped gets ten times that.
	DaemonGrace time.Duration
	// Known: the roster is one that this process has from the region's daemon, so its word of who a worker is, by pid and start time, is as good as what a
	// process holds. Else only who holds memory of the region gets signals.
	Known bool
	// Dismiss leaves the region wanted: its processes end, and a daemon that finds its memory goes on with it. No daemon may come meanwhile.
	Dismiss bool
	// Socket and Lock are the daemon's files, removed after a region stop if they are this user's and nobody uses them:
	// what a killed daemon leaves behind.
	Socket, Lock string
}

// Report says what a stop did.
type Report struct {
	Workers  []WorkerReport `json:"workers"`          // those that had a process
	Daemon   *DaemonReport  `json:"daemon,omitempty"` // of a region stop with a living daemon
	Warnings []string       `json:"warnings,omitempty"`
}

// WorkerReport is the end of one worker. Times are nanoseconds after its quit flag was set.
type WorkerReport struct {
	Name   string `json:"name"`
	Pid    int    `json:"pid"`
	AckNs  int64  `json:"ack_ns"`  // until it saw the flag; 0: it did not say
	ExitNs int64  `json:"exit_ns"` // until its process had ended; 0: it runs on
	How    string `json:"how"`     // HowFlag, HowTerm or HowKill; "": it runs on
}

// DaemonReport is the end of the daemon.
type DaemonReport struct {
	Pid    int    `json:"pid"`
	ExitNs int64  `json:"exit_ns"` // nanoseconds after the region's quit flag was set; 0: it runs on
	How    string `json:"how"`     // HowExit, HowTerm or HowKill; "": it runs on
}

const (
	defaultStopTimeout = 5 * time.Second // for a group whose own is not known
	maxStopTimeout     = 24 * time.Hour  // more is damage
	killPatience       = 10 * time.Second
	defaultGrace       = time.Second
)

// daemonSlack is how far a daemon may fall behind before Stop takes over. Tests shorten it.
var daemonSlack = 2 * time.Second

// Stop stops workers, or the region with its daemon, through the memory: desired state, flag, wake. Then it waits for
// the processes to end, and if no daemon does it, escalates: SIGTERM after the group's stop timeout (at once for a worker
// that never attached and so cannot see the flag), SIGKILL after the same time again. Once the workers of a region
// have ended, a daemon that does not end is killed: there is nothing left that could be lost.
//
// The report is filled in also beside an error. Errors: *NoSuchWorkerError (nothing was done); ErrNotRunning if all of
// what a name stands for has no process and none is coming (it is still marked as stopped); ErrStillRunning, around ctx's
// error if that ended the wait.
func Stop(ctx context.Context, s Set, o StopOptions) (Report, error) {
	st := &stopper{Set: s, o: o, inodes: s.inodes(), escalates: !o.DaemonAnswers}
	return st.stop(ctx)
}

type stopper struct {
	Set
	o         StopOptions
	inodes    map[string]uint64
	escalates bool // nobody else does
	ep        *sys.Epoll
	targets   []*target
	early     map[int]*target // those of later waves, by row, as they were before the first was asked
	wave      int             // the present one
	left      int             // targets whose process runs
	daemon    *process        // nil: dead, or not to be stopped
	all       bool            // the region is to stop
	guard     *process        // nil: there is none, or none was looked for
	began     int64           // before the first flag was set
	started   int64           // the same of the present wave
	report    Report
}

// target is one process that is to end. Times are of CLOCK_MONOTONIC.
type target struct {
	*process
	name     string
	shown    int                    // its pid for people: of a filter, the filter's
	index    int                    // of its row; -1 for one that the roster does not list
	wave     int                    // in which it is asked to quit
	page     *protocol.InstancePage // nil: unknown
	timeout  time.Duration
	flagged  int64
	asked    int64  // before the first flag of its wave was set
	stage    string // the last that was done to it, as in How; "": its wave has not come
	deadline int64  // of the stage; 0: none
	exit     int64  // 0: runs
	listed   bool   // the roster says which process it is
	doubted  bool   // it was found to hold nothing: it is ending, or has closed what it had
	handed   int64  // left to the guard at that time; 0: not
	trouble  string // why it could not be signalled
}

// daemonToken is the epoll token of the daemon; those of targets are their indexes plus one.
const daemonToken = 0

func (s *stopper) stop(ctx context.Context) (Report, error) {
	targets, each, err := resolve(s.Roster, s.o.Names)
	if err != nil {
		return s.report, err
	}
	for _, i := range targets.Workers {
		if i >= s.Command.Workers() {
			return s.report, fmt.Errorf("roster has a worker row %d, the command segment only %d", i, s.Command.Workers())
		}
	}
	for _, i := range targets.Groups {
		if i >= s.Command.Groups() {
			return s.report, fmt.Errorf("roster has a group row %d, the command segment only %d", i, s.Command.Groups())
		}
	}
	if s.ep, err = sys.NewEpoll(); err != nil {
		return s.report, err
	}
	defer s.ep.Close()
	defer func() {
		for _, t := range s.targets {
			t.close()
		}
		for _, t := range s.early {
			t.close()
		}
		for _, p := range []*process{s.daemon, s.guard} {
			if p != nil {
				p.close()
			}
		}
	}()
	s.all = targets.Region
	if err := s.watchDaemon(targets.Region); err != nil {
		return s.report, err
	}

	// The wait ends with the context.
	waitEnded := make(chan struct{})
	endWait := context.AfterFunc(ctx, func() { s.ep.Close(); close(waitEnded) })
	defer func() {
		if !endWait() {
			<-waitEnded
		}
	}()
	coming := map[int]bool{} // no process, but one was to come
	for _, i := range targets.Workers {
		if w, err := s.Roster.Worker(i); err != nil {
			s.warn("%v: what runs there is found by what it holds", err)
		} else {
			coming[i] = w.State == protocol.StateBackoff || w.State == protocol.StateStarting || w.State == protocol.StateWaiting
		}
	}
	s.began = sys.MonotonicNs()
	timeouts := s.timeouts()
	waves := s.waves(targets.Workers)
	if len(waves) > 1 {
		if err = s.note(waves, timeouts); err != nil {
			return s.report, err
		}
		if !s.o.Dismiss {
			s.Command.Want(targets.Workers, targets.Groups, targets.Region) // so that none of them is started again
		}
		if err = s.note(waves, timeouts); err != nil { // the daemon may have been in the middle of a launch
			return s.report, err
		}
	}
	for i, wave := range waves {
		s.wave = i
		last := i == len(waves)-1
		stop := func() {
			switch {
			case s.o.Dismiss && last:
				s.Command.Dismiss(wave)
			case s.o.Dismiss:
				for _, w := range wave {
					s.Command.Flag(w)
				}
			case last:
				s.Command.Stop(targets.Workers, targets.Groups, targets.Region)
			default:
				s.Command.Stop(wave, nil, false)
			}
		}
		if err = s.ask(wave, stop, timeouts); err == nil {
			err = s.wait()
		}
		if err != nil {
			break
		}
	}
	if err == nil && targets.Region && s.left == s.handed() && s.escalates {
		err = s.stopStrays(timeouts)
	}
	if err == nil && targets.Region && s.left == s.handed() { // only then is there nothing that a killed daemon could lose
		if err = s.waitDaemon(); err == nil {
			if s.guard == nil && s.escalates { // no daemon ends it: it ends by itself, when it has seen the flag
				s.guard = s.findGuard()
			}
			err = s.waitGuard()
		}
		if err == nil && s.left == 0 {
			s.removeFiles()
		}
	}
	s.sweep()
	s.settle()
	s.fill()
	if errors.Is(err, sys.ErrClosed) && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if running := s.running(); err != nil && running != "" {
		return s.report, fmt.Errorf("%w: %s: %w", ErrStillRunning, running, err)
	} else if err != nil {
		return s.report, err
	} else if running != "" {
		return s.report, fmt.Errorf("%w: %s", ErrStillRunning, running)
	}

	for k, rows := range each {
		ran := false
		for _, i := range rows {
			ran = ran || coming[i] || s.watched(i)
		}
		if !ran {
			return s.report, fmt.Errorf("worker %q is %w: it has no process, and none will be started until shmctl start %s", s.o.Names[k], ErrNotRunning, s.o.Names[k])
		}
	}
	return s.report, nil
}

// watchDaemon notes the daemon's process: its death leaves the escalation to us, and a region stop ends it.
func (s *stopper) watchDaemon(stop bool) error {
	d := s.Roster.Daemon()
	p, err := openProcess(d.Pid, d.StartTicks)
	if errors.Is(err, errGone) {
		s.escalates = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	s.daemon = p
	if stop {
		s.report.Daemon = &DaemonReport{Pid: p.pid}
	}
	return s.ep.Add(p.pidfd, daemonToken)
}

// watch makes a target of a worker's process, unless it has none, or is one already.
func (s *stopper) watch(i int, w protocol.Worker) error {
	if t := s.early[i]; t != nil { // it may have ended since
		delete(s.early, i)
		if err := s.add(t); err != nil {
			return err
		}
	}
	for _, t := range s.targets {
		if t.index == i && t.pid == w.Process() {
			return nil
		}
	}
	t, err := s.open(i, w)
	if t == nil || err != nil {
		return err
	}
	return s.add(t)
}

// open makes a target of a worker's process, which is none of s.targets yet; nil if it has none.
func (s *stopper) open(i int, w protocol.Worker) (*target, error) {
	if w.Process() <= 0 {
		return nil, nil
	}
	p, err := openProcess(w.Process(), w.StartTicks)
	if errors.Is(err, errGone) {
		return nil, nil // the roster has not noticed yet, or nobody is left to notice
	}
	if err != nil {
		return nil, fmt.Errorf("worker %s: %w", w.Name, err)
	}
	return &target{process: p, name: w.Name, shown: w.Pid, index: i, page: s.page(w), listed: w.StartTicks != 0}, nil
}

func (s *stopper) add(t *target) error {
	t.wave = s.wave
	s.targets = append(s.targets, t)
	s.left++
	if err := s.ep.Add(t.pidfd, uint64(len(s.targets))); err != nil {
		return fmt.Errorf("worker %s: %w", t.name, err)
	}
	return nil
}

func (s *stopper) watched(i int) bool {
	for _, t := range s.targets {
		if t.index == i {
			return true
		}
	}
	return false
}

// timeouts are the stop timeouts by group.
func (s *stopper) timeouts() map[string]time.Duration {
	groups, _ := s.Roster.Groups()
	m := make(map[string]time.Duration, len(groups))
	for _, g := range groups {
		if g.StopTimeout > 0 && g.StopTimeout <= maxStopTimeout {
			m[g.Name] = g.StopTimeout
		}
	}
	return m
}

// timeoutOf is the stop timeout of a worker's group.
func timeoutOf(worker string, timeouts map[string]time.Duration) time.Duration {
	group := worker
	if i := strings.LastIndexByte(worker, '.'); i >= 0 {
		group = worker[:i]
	}
	return cmp.Or(timeouts[group], defaultStopTimeout)
}

// begin starts the clock of a target whose flag was set.
func (s *stopper) begin(t *target, timeouts map[string]time.Duration, earlier map[int]int64) {
	t.timeout = timeoutOf(t.name, timeouts)
	t.stage, t.flagged, t.asked = HowFlag, s.started, s.started
	if t.index >= 0 {
		t.flagged = s.Command.WorkerFlaggedNs(t.index)
	}
	if t.page != nil {
		if seen := int64(t.page.QuitSeenNs.Load()); seen != 0 && seen < t.flagged && seen >= s.started {
			t.flagged = s.started // it saw the region's or the group's flag, which came first
		}
	}
	if at, ok := earlier[t.index]; ok {
		t.flagged = at
		if at >= s.began { // by the daemon, which knows since then that it is to stop
			t.asked = at
		}
	}
	t.deadline = max(t.flagged, s.started) + int64(t.timeout)
	if t.deaf() {
		t.deadline = s.started
	}
}

// deaf reports that a worker cannot see the flag, as it never attached.
func (t *target) deaf() bool { return t.page != nil && t.page.AttachedPid.Load() == 0 }

// wait runs the escalation until all targets have ended, or nothing more can be done for those that are left.
// sys.ErrClosed: the context has ended.
func (s *stopper) wait() error {
	for s.left > 0 {
		timeout := time.Duration(-1)
		now := sys.MonotonicNs()
		waiting := false
		for _, t := range s.targets {
			if t.exit != 0 || t.deadline == 0 {
				continue
			}
			left := time.Duration(t.deadline - now)
			if !s.escalates {
				left += daemonSlack
			}
			if left <= 0 {
				s.escalate(t, now)
				if t.deadline == 0 {
					continue // given up
				}
				left = time.Duration(t.deadline - now)
			}
			waiting = true
			if timeout < 0 || left < timeout {
				timeout = left
			}
		}
		if !waiting {
			return nil // all that are left were given up
		}
		tokens, err := s.ep.Wait(timeout)
		if err != nil {
			return err
		}
		if err := s.ended(tokens); err != nil {
			return err
		}
	}
	return nil
}

// ended notes which processes have ended.
func (s *stopper) ended(tokens []uint64) error {
	now := sys.MonotonicNs()
	for _, token := range tokens {
		if token == daemonToken {
			if err := s.ep.Remove(s.daemon.pidfd); err != nil {
				return err
			}
			if d := s.report.Daemon; d != nil {
				d.ExitNs = max(now-s.began, 1)
				if d.How == "" {
					d.How = HowExit
				}
			}
			s.daemon.close()
			s.daemon = nil
			s.escalates = true
			continue
		}
		t := s.targets[token-1]
		if err := s.ep.Remove(t.pidfd); err != nil {
			return err
		}
		t.exit = now
		s.left--
	}
	return nil
}

// sweep notes who has ended without having been noticed, when the wait ends early.
func (s *stopper) sweep() {
	for _, t := range s.targets {
		if t.exit != 0 {
			continue
		}
		if ended, err := t.ended(); err == nil && ended {
			t.exit = sys.MonotonicNs()
			s.left--
		}
	}
}

// escalate takes the next, harder step for a worker that did not obey in time.
func (s *stopper) escalate(t *target, now int64) {
	var sig syscall.Signal
	var next string
	switch t.stage {
	case HowFlag:
		sig, next = syscall.SIGTERM, HowTerm
	case HowTerm:
		sig, next = syscall.SIGKILL, HowKill
	default:
		t.trouble, t.deadline = fmt.Sprintf("it has not ended %v after SIGKILL", killPatience), 0
		return
	}
	ended, err := s.signal(t.process, sig, s.o.Known && t.listed, 0)
	if ended {
		t.deadline = now + int64(t.timeout) // its end is about to be reported
		return
	}
	if err != nil && !t.doubted { // an ending process holds nothing any more, a moment before it has ended
		t.doubted, t.deadline = true, now+int64(endPatience)
		return
	}
	if errors.Is(err, errHoldsNothing) && s.hand(t, now) {
		return
	}
	t.stage = next
	if err != nil {
		t.stage = HowFlag // what it ends by, if it does
		t.trouble = err.Error()
		t.deadline = 0
		if !s.escalates && s.daemon != nil { // the daemon may yet succeed
			t.deadline = now + int64(killPatience)
			t.stage = next
		}
		return
	}
	wait := t.timeout
	if next == HowKill {
		wait = killPatience
	}
	t.deadline = now + int64(wait)
}

// errHoldsNothing: a process holds no memory of the region, so nothing but the roster says that it is a worker.
var errHoldsNothing = errors.New("it holds no memory of the region any more, so it is left alone")

// endPatience is how long a process that holds nothing any more may take to be seen to have ended.
const endPatience = 100 * time.Millisecond

// signal sends sig to a process if it holds memory of the region, or is known. ended: there was no need; one that holds nothing gets as long as patience says to end.
func (s *stopper) signal(p *process, sig syscall.Signal, known bool, patience time.Duration) (ended bool, err error) {
	ok, err := known, error(nil)
	if !known {
		ok, err = holds(p.pid, s.region(), s.inodes)
	}
	if !ok || err != nil {
		ready, perr := sys.PollReadable([]*os.File{p.pidfd}, patience)
		if perr == nil && ready[0] {
			return true, nil
		}
		if err == nil {
			err = errHoldsNothing
		}
		return false, fmt.Errorf("no signal was sent: %w", err)
	}
	if ended, err := p.ended(); ended || err != nil { // else what was looked at was this process
		return ended, err
	}
	err = sys.PidfdSignal(p.pidfd, sig)
	if errors.Is(err, syscall.ESRCH) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("it could not be signalled: %w", err)
	}
	return false, nil
}

// stopStrays ends worker processes that the roster does not list: a daemon that is killed between the start of a worker
// and the line in the roster leaves one, and children of a worker that closed nothing live on with its memory.
func (s *stopper) stopStrays(timeouts map[string]time.Duration) error {
	for deadline := time.Now().Add(newbornPatience); ; time.Sleep(time.Millisecond) {
		newborn, err := s.findStrays(timeouts)
		if err != nil {
			return err
		}
		if err := s.wait(); err != nil {
			return err
		}
		if !newborn || time.Now().After(deadline) {
			return nil
		}
	}
}

// newbornPatience is how long the child of a daemon that died during a launch may take to become a worker.
const newbornPatience = 2 * time.Second

// findStrays makes targets of the strays that were not found before. newborn: the daemon died during a launch, and there is a
// process that holds the memory and may be its child that has yet to exec: it looks like the daemon.
func (s *stopper) findStrays(timeouts map[string]time.Duration) (newborn bool, err error) {
	descriptors, err := scan(s.region(), false)
	if err != nil {
		return false, err
	}
	var pids []int
	for _, h := range descriptors {
		if inode, ok := s.inodes[h.segment]; ok && inode == h.stat.Inode {
			pids = append(pids, h.pid)
		}
	}
	rows := map[string]protocol.Worker{}
	launching := false
	for i := range min(s.Roster.WorkerCount(), s.Command.Workers()) {
		if w, err := s.Roster.Worker(i); err == nil {
			rows[w.Name] = w
			launching = launching || s.daemon == nil && w.State == protocol.StateStarting && w.Pid == 0
		}
	}
	for _, pid := range unique(pids) {
		if s.daemon != nil && pid == s.daemon.pid || s.isOutsider(pid) || s.isTarget(pid) {
			continue
		}
		name := environ(pid, "SHMD_WORKER")
		if name == "" || environ(pid, "SHMD_REGION") != s.region() {
			newborn = newborn || launching
			continue
		}
		p, err := openProcess(pid, 0)
		if errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return false, err
		}
		t := &target{process: p, name: name, shown: p.pid, index: -1}
		if err := s.add(t); err != nil {
			return false, err
		}
		if w, ok := rows[name]; ok {
			if page := s.page(w); page != nil && int(page.AttachedPid.Load()) == pid {
				t.page = page
			}
		}
		s.begin(t, timeouts, nil)
		if t.page == nil {
			t.deadline = s.started // nobody can say that it sees the flag
		}
	}
	return newborn, nil
}

// isTarget reports whether a process is one that is to end and has not.
func (s *stopper) isTarget(pid int) bool {
	for _, t := range s.targets {
		if t.pid == pid && t.exit == 0 {
			return true
		}
	}
	return false
}

// isOutsider reports whether a process attached through the socket: a worker may well run shmctl.
func (s *stopper) isOutsider(pid int) bool {
	ticks, err := sys.StartTicks(pid)
	if err != nil {
		return false
	}
	for id := 1; id < s.Roster.AttachmentCap() && id <= 0xffff; id++ {
		a, err := s.Roster.Attachment(uint16(id))
		if err == nil && a.State != protocol.AttachmentFree && a.Pid == pid && a.StartTicks == ticks {
			return a.Worker < 0
		}
	}
	return false
}

// waitDaemon waits for the daemon's end; one that is stopped or hangs gets SIGTERM, and in the end SIGKILL.
func (s *stopper) waitDaemon() error {
	d := s.report.Daemon
	grace := s.o.DaemonGrace
	if grace <= 0 {
		grace = defaultGrace
	}
	begun := time.Now()
	patience := 10 * grace
	for asked, killed := false, false; s.daemon != nil; {
		// A stopped daemon shows as such only by looking.
		alive, stopped := Alive(d.Pid, s.Roster.Daemon().StartTicks)
		if !killed && (!s.o.DaemonAnswers || stopped) {
			patience = grace
		}
		left := patience - time.Since(begun)
		if left <= 0 {
			if killed {
				d.How = ""
				s.warn("the daemon (pid %d) has not ended %v after SIGKILL", d.Pid, killPatience)
				return nil
			}
			// SIGTERM and SIGCONT first: to systemd, death by SIGKILL is a failure, and it would bring the region back.
			if !asked && alive {
				asked, begun, patience = true, time.Now(), grace
				if _, err := s.signal(s.daemon, syscall.SIGTERM, false, endPatience); err == nil {
					s.signal(s.daemon, syscall.SIGCONT, false, endPatience)
					d.How = HowTerm
					state := "did not answer"
					if stopped {
						state = "was stopped"
					}
					s.warn("the daemon (pid %d) %s and got SIGTERM and SIGCONT after its last worker had ended", d.Pid, state)
					continue
				}
			}
			ended, err := s.signal(s.daemon, syscall.SIGKILL, false, endPatience)
			switch {
			case err != nil:
				s.warn("the daemon (pid %d) does not end: %v", d.Pid, err)
				return nil
			case !ended && alive:
				d.How = HowKill
				s.warn("the daemon (pid %d) did not end by SIGTERM and was killed", d.Pid)
			}
			killed, begun, patience = true, time.Now(), killPatience
			continue
		}
		tokens, err := s.ep.Wait(min(left, grace))
		if err != nil {
			return err
		}
		if err := s.ended(tokens); err != nil {
			return err
		}
	}
	return nil
}

func (s *stopper) warn(format string, args ...any) {
	s.report.Warnings = append(s.report.Warnings, fmt.Sprintf(format, args...))
}
