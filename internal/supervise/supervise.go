// Package supervise is the logic of the supervisor as a pure state machine: events go in, actions come out. It has no clock, no timers,
// no processes and no memory to write to: time and randomness are given to it, what is to be done is told to the caller. The daemon
// carries the actions out (internal/daemon/supervisor.go); a simulation does the same with a virtual clock (simulation_test.go).
//
// The states of one instance are those of its row in the roster:
//
//	                   Launch                    it says so, or its command runs
//	new, exited, ────────────────► starting ──────────────────────────────────► ready
//	waiting,                         │    │ not in time                           │ stop or restart asked for, the watchdog,
//	backoff, failed                  │    └──────────────► stopping ◄─────────────┤ the reset of its group
//	       ▲                         │                        │                   │
//	       │ no process any more     │                        │                   │
//	       └───── Repair ◄───────────┴────────────────────────┴───────────────────┘ it ends
//
// Without a process it is in one of these:
//
//	exited    none is wanted: it was stopped, or it ended and its group's policy says that this is all
//	waiting   it is started when the groups that its own comes after are ready, and no reset of its group is under way
//	backoff   it is started again when its timer is due
//	failed    it is given up; shmctl start or restart starts it again
//
// A stop goes through stages: the quit flag, SIGTERM, SIGKILL, each after the group's stop timeout; that of a hung process through SIGABRT
// and SIGKILL. Each instance has one timer at most, and what it is for follows from the state: in starting the time to become ready, in
// ready the next look at the heartbeat, in stopping the next stage, in backoff the next start.
//
// What is wanted is level-triggered: Desired says how it is, not what changed, so one that is missed, doubled or early does no harm.
//
// Groups come after groups (Policy.After): an instance is started when each of them has a ready instance, or one that ended as it should;
// of what is stopped together, it stops first. A crash may reset a group (Policy.ResetGroup): all its instances stop, and when none has a
// process any more and the one that crashed may start again, all of them do.
package supervise

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// Policy is what the configuration says of a group.
type Policy struct {
	Name         string
	After        []int // groups that have to be ready before an instance is started, by the numbers that AddGroup gave; no circle
	ResetGroup   bool  // a crash of one instance ends the others too
	Restart      protocol.Restart
	ReadyAtExec  bool          // ready as soon as the command runs; else when it says so
	ReadyTimeout time.Duration // from start to ready; 0: no limit
	StopTimeout  time.Duration // between the stages of a stop
	BackoffMin   time.Duration // the delay before a restart: it doubles from the one to the other
	BackoffMax   time.Duration
	CrashLimit   int // restarts within CrashWindow before it is given up; 0: never
	CrashWindow  time.Duration
	Watchdog     time.Duration // a ready process that is silent for so long is hung; 0: never
}

// Steady is how long an instance must have run for its end not to count as one of a series.
const Steady = 10 * time.Second

// Stopped is the reason of an instance that was asked to stop and has. The roster's row has it, and by it a next daemon knows the
// instance from one that ended by itself: it is started as soon as it is wanted again.
const Stopped = "stopped"

// Cause is the kind of a change's cause; the reason is its text.
type Cause string

// Causes of changes of state.
const (
	CauseStart      Cause = "start"       // it is to run: a first start, a start after a stop, after a backoff
	CauseReady      Cause = "ready"       // it said so, or its command runs
	CauseStop       Cause = "stop"        // it is not wanted any more
	CauseRestart    Cause = "restart"     // a restart was asked for
	CauseNotReady   Cause = "not-ready"   // it was not ready in time
	CauseHang       Cause = "hang"        // its heartbeat stopped
	CauseExit       Cause = "exit"        // it ended by itself
	CauseNoStart    Cause = "no-start"    // there was no process, or its command never ran
	CauseCrashLimit Cause = "crash-limit" // it ended too often
	CauseWait       Cause = "wait"        // another group has to be ready first
	CauseReset      Cause = "reset"       // another instance of its group crashed
	CauseAdoption   Cause = "adoption"    // another daemon took over
)

// Change is a change of an instance's state.
type Change struct {
	Worker   int // as in Step
	From, To protocol.State
	Cause    Cause
	Reason   string // for people; becomes the reason of the row. May be empty
	At       time.Time
}

// Event is something that happened to an instance.
type Event interface{ event() }

// Events. Prepare is answered by Prepared, Unwanted or NoStart, Launch by Started or NoStart, Look by Pulse; the answer is the next event of
// that instance.
type (
	// Desired says what is wanted of it.
	Desired struct {
		Run     bool
		Restart uint32 // how often a restart was asked for
	}
	// Prepared: the quit flag is down and it is wanted still; it has an attachment id and an empty page.
	Prepared struct {
		Restart uint32 // as it was before the flag was taken down
	}
	// Unwanted: it is not wanted any more, and nothing was prepared.
	Unwanted struct {
		Restart uint32 // as in Prepared
	}
	// NoStart: there is no process, and no attachment id that anybody holds.
	NoStart struct{ Why string }
	// Started: there is a process.
	Started struct{}
	// Running: its command was executed.
	Running struct{}
	// SaidReady: it said that it is ready.
	SaidReady struct{}
	// Deaf: it is not attached, so it does not see the quit flag that was set.
	Deaf struct{}
	// Exited: its process has ended and was reaped, its process group was killed.
	Exited struct {
		Desired
		Flagged bool   // its quit flag is set
		Clean   bool   // exit code 0
		How     string // for people
		Never   string // why its command never ran; "" if it did
	}
	// Due: the timer that was set with this number is due. Numbers of timers that were stopped do no harm.
	Due struct{ Timer uint32 }
	// Pulse answers Look. A process that sleeps in the library, or that has never shown a heartbeat, is Asleep: it is asked to say when it
	// wakes up (Awake).
	Pulse struct {
		Alive  bool // it has shown a heartbeat since the last Look
		Asleep bool
	}
	// Awake: it is not asleep any more, or it was stopped by a signal and cannot say so.
	Awake struct{}
	// Hurry: a stop that is under way ends in SIGKILL now.
	Hurry struct{}
	// Adopted is the first event of an instance that an earlier daemon supervised. All but Alive and Desired is from its row.
	Adopted struct {
		Desired
		State     protocol.State
		Reason    string
		Restarts  uint64
		Restarted uint32
		Since     time.Time
		Clean     bool // its last process ended with exit code 0
		Alive     bool // its process lives
		Ended     bool // its process ended while nobody watched: Exited follows
	}
	// Altered: the policy of its group is another than it was before. What holds for processes that run holds for this one from now on: its timer is that
	// of the new policy, and begins anew, if the time that it is for has changed.
	Altered struct{ Before Policy }
	// Resumed follows when all instances have been adopted, and before Exited: a reset of its group that was under way goes on.
	Resumed struct{}
)

func (Desired) event()   {}
func (Prepared) event()  {}
func (Unwanted) event()  {}
func (NoStart) event()   {}
func (Started) event()   {}
func (Running) event()   {}
func (SaidReady) event() {}
func (Deaf) event()      {}
func (Exited) event()    {}
func (Due) event()       {}
func (Pulse) event()     {}
func (Awake) event()     {}
func (Hurry) event()     {}
func (Adopted) event()   {}
func (Altered) event()   {}
func (Resumed) event()   {}

// Do is what is to be done.
type Do int

// Things to do.
const (
	Write     Do = iota // write the row: Change, Restarts, Restarted
	Prepare             // take down the quit flag, unless it is not wanted; take an attachment id
	Launch              // start a process
	SetFlag             // set the quit flag; answered by Deaf if nobody sees it
	Look                // read the heartbeat, and ask for another
	Abort               // send SIGABRT, and SIGCONT for one that is stopped
	Terminate           // send SIGTERM
	Kill                // send SIGKILL
	Repair              // give back what the dead process held, then its attachment id
	SetTimer            // be Due after a while
	StopTimer           // not any more
)

var doNames = []string{"write", "prepare", "launch", "set-flag", "look", "abort", "terminate", "kill", "repair", "set-timer", "stop-timer"}

// String returns the name in lower case.
func (d Do) String() string { return doNames[d] }

// Action is something to do for an instance. Actions are to be done in order.
type Action struct {
	Do        Do
	Worker    int
	Change    Change        // Write
	Restarts  uint64        // Write: how often it was started again
	Restarted uint32        // Write: the count of restarts asked for that was carried out last
	Why       string        // Abort, Terminate, Kill
	Timer     uint32        // SetTimer, StopTimer
	After     time.Duration // SetTimer
}

// stage is how far a stop has gone.
type stage int

const (
	notStopping stage = iota
	flagged           // quit flag set
	aborted           // hung: SIGABRT sent
	terminated        // SIGTERM sent
	killed            // SIGKILL sent
)

// instance is the state of one instance.
type instance struct {
	id        int
	name      string
	group     *group
	state     protocol.State // 0: it is new
	reason    string
	restarts  uint64
	restarted uint32

	desired   Desired // as it was told last
	preparing bool    // Prepare or Launch is not answered
	process   bool    // there is one, or there is about to be
	ended     bool    // of an adopted one: Exited is on its way
	resetBy   string  // of an adopted one: whose crash it stopped for, or waited
	started   time.Time
	stage     stage
	cause     Cause       // of the stop under way
	unwanted  bool        // the stop under way was an operator's, not a restart
	held      bool        // it is to stop when what comes after it has
	done      bool        // it ended by itself, as it should
	timer     uint32      // number of the timer that is set; 0: none
	due       time.Time   // of that timer
	silent    time.Time   // of a ready process: since when no heartbeat was seen; zero: it was
	crashes   []time.Time // within the crash window
	delay     time.Duration
}

// group is the state of one group.
type group struct {
	*Policy
	members []*instance
	good    int       // members for which what comes after the group may start
	leader  *instance // whose crash resets the group; nil: no reset is under way
}

// Machine is the state of a region's instances and groups. It is for one goroutine.
type Machine struct {
	random    *rand.Rand // for the jitter of delays
	groups    []*group
	instances []*instance
	ending    bool   // everything is to stop
	blocked   int    // instances that wait or are held: what happens to others may be what they wait for
	timers    uint32 // numbers given out
	now       time.Time
	out       []Action
}

// New returns a machine without instances.
func New(random *rand.Rand) *Machine { return &Machine{random: random} }

// AddGroup adds a group without instances and returns its number, which counts from 0. The policy is the caller's: what changes in it
// holds from the next event on.
func (m *Machine) AddGroup(p *Policy) int {
	m.groups = append(m.groups, &group{Policy: p})
	return len(m.groups) - 1
}

// Add adds a new instance to a group and returns its number, which counts from 0.
func (m *Machine) Add(group int, name string) int {
	w := &instance{id: len(m.instances), name: name, group: m.groups[group]}
	w.group.members = append(w.group.members, w)
	m.instances = append(m.instances, w)
	return w.id
}

// Remove takes an instance that has no process, and of which none is wanted, out of its group. Its number stays, for Reuse.
func (m *Machine) Remove(worker int) {
	w := m.instances[worker]
	m.hold(w, false)
	if w.good() {
		w.group.good--
	}
	w.group.members = slices.DeleteFunc(w.group.members, func(o *instance) bool { return o == w })
}

// Reuse makes a new instance of a group, with the number of one that was removed.
func (m *Machine) Reuse(worker, group int, name string) {
	w := &instance{id: worker, name: name, group: m.groups[group]}
	w.group.members = append(w.group.members, w)
	m.instances[worker] = w
}

// Count says how often an instance that is new was started again when it was there before.
func (m *Machine) Count(worker int, restarts uint64) { m.instances[worker].restarts = restarts }

// State returns the state of an instance, 0 for one that is new.
func (m *Machine) State(worker int) protocol.State { return m.instances[worker].state }

// Want takes down what is wanted of an instance without a step: where several of them are to stop, each is told before the first step, so
// that they stop in the order of their groups.
func (m *Machine) Want(worker int, d Desired) { m.instances[worker].desired = d }

// Step takes an event of an instance in and returns what is to be done, valid until the next call.
func (m *Machine) Step(now time.Time, worker int, e Event) []Action {
	m.now, m.out = now, m.out[:0]
	w := m.instances[worker]
	switch e := e.(type) {
	case Desired:
		w.desired = e
		m.reconcile(w)
	case Prepared:
		w.restarted = e.Restart
		w.process, w.stage, w.unwanted = true, notStopping, false
		m.change(w, protocol.StateStarting, CauseStart, "")
		m.do(w, Action{Do: Launch})
	case Unwanted:
		w.restarted, w.preparing, w.desired.Run = e.Restart, false, false
		m.change(w, protocol.StateExited, CauseStop, Stopped)
	case NoStart:
		w.process, w.preparing = false, false
		m.again(w, CauseNoStart, "could not be started: "+e.Why)
	case Started:
		w.started, w.preparing = now, false
		m.setTimer(w, w.group.ReadyTimeout)
		if w.group.leader != nil {
			m.stop(w, CauseReset, w.group.leader.name+isReset)
		}
	case Running:
		if w.group.ReadyAtExec {
			m.ready(w)
		}
	case SaidReady:
		m.ready(w)
	case Deaf:
		if w.process && w.stage == flagged {
			m.escalate(w, "it is not attached, so it cannot see the quit flag")
		}
	case Exited:
		w.desired = e.Desired
		m.exited(w, e)
	case Due:
		if e.Timer == w.timer && e.Timer != 0 {
			w.timer = 0
			m.dueNow(w)
		}
	case Pulse:
		m.pulse(w, e)
	case Awake:
		m.awake(w)
	case Hurry:
		if w.process {
			w.stage = terminated
			m.escalate(w, "the daemon was told twice to stop")
		}
	case Adopted:
		w.desired = e.Desired
		m.adopt(w, e)
	case Altered:
		m.altered(w, &e.Before)
	case Resumed:
		m.resume(w)
	}
	if m.blocked > 0 {
		m.release()
	}
	return m.out
}
