// Package supervise is the logic of the supervisor as a pure state machine: events go in, actions come out. It has no clock, no timers,
// no processes and no memory to write to: time and randomness are given to it, what is to be done is told to the caller. The daemon
// carries the actions out (internal/daemon/supervisor.go); a simulation does the same with a virtual clock (simulation_test.go).
//
// The states of one instance are those of its row in the roster:
//
//	                  Launch                    it says so, or its command runs
//	new, exited, ───────────────► starting ──────────────────────────────────► ready
//	backoff, failed                 │    │ not in time                           │
//	      ▲                         │    └──────────────► stopping ◄─────────────┤ stop or restart asked for
//	      │ no process any more     │                        │                   │
//	      └───── Repair ◄───────────┴────────────────────────┴───────────────────┘ it ends
//
// Without a process it is in one of these:
//
//	exited    none is wanted: it was stopped, or it ended and its group's policy says that this is all
//	backoff   it is started again when its timer is due
//	failed    it is given up; shmctl start or restart starts it again
//
// A stop goes through stages: the quit flag, SIGTERM, SIGKILL, each after the group's stop timeout. Each instance has one timer at most, and
// what it is for follows from the state: in starting the time to become ready, in stopping the next stage, in backoff the next start.
//
// What is wanted is level-triggered: Desired says how it is, not what changed, so one that is missed, doubled or early does no harm.
package supervise

import (
	"math/rand/v2"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// Policy is what the configuration says of the instances of a group.
type Policy struct {
	Restart      protocol.Restart
	ReadyAtExec  bool          // ready as soon as the command runs; else when it says so
	ReadyTimeout time.Duration // from start to ready; 0: no limit
	StopTimeout  time.Duration // between the stages of a stop
	BackoffMin   time.Duration // the delay before a restart: it doubles from the one to the other
	BackoffMax   time.Duration
	CrashLimit   int // restarts within CrashWindow before it is given up; 0: never
	CrashWindow  time.Duration
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
	CauseExit       Cause = "exit"        // it ended by itself
	CauseNoStart    Cause = "no-start"    // there was no process, or its command never ran
	CauseCrashLimit Cause = "crash-limit" // it ended too often
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

// Events. Prepare is answered by Prepared, Unwanted or NoStart, Launch by Started or NoStart; the answer is the next event of that instance.
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
		Alive     bool // its process lives
		Ended     bool // its process ended while nobody watched: Exited follows
	}
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
func (Hurry) event()     {}
func (Adopted) event()   {}

// Do is what is to be done.
type Do int

// Things to do.
const (
	Write     Do = iota // write the row: Change, Restarts, Restarted
	Prepare             // take down the quit flag, unless it is not wanted; take an attachment id
	Launch              // start a process
	SetFlag             // set the quit flag; answered by Deaf if nobody sees it
	Terminate           // send SIGTERM
	Kill                // send SIGKILL
	Repair              // give back what the dead process held, then its attachment id
	SetTimer            // be Due after a while
	StopTimer           // not any more
)

var doNames = []string{"write", "prepare", "launch", "set-flag", "terminate", "kill", "repair", "set-timer", "stop-timer"}

// String returns the name in lower case.
func (d Do) String() string { return doNames[d] }

// Action is something to do for an instance. Actions are to be done in order.
type Action struct {
	Do        Do
	Worker    int
	Change    Change        // Write
	Restarts  uint64        // Write: how often it was started again
	Restarted uint32        // Write: the count of restarts asked for that was carried out last
	Why       string        // Terminate, Kill
	Timer     uint32        // SetTimer, StopTimer
	After     time.Duration // SetTimer
}

// stage is how far a stop has gone.
type stage int

const (
	notStopping stage = iota
	flagged           // quit flag set
	terminated        // SIGTERM sent
	killed            // SIGKILL sent
)

// instance is the state of one instance.
type instance struct {
	id        int
	policy    *Policy
	state     protocol.State // 0: it is new
	reason    string
	restarts  uint64
	restarted uint32

	process  bool // there is one, or there is about to be
	started  time.Time
	stage    stage
	unwanted bool        // the stop under way was an operator's, not a restart
	timer    uint32      // number of the timer that is set; 0: none
	crashes  []time.Time // within the crash window
	delay    time.Duration
}

// Machine is the state of the instances of a region. It is for one goroutine.
type Machine struct {
	random    *rand.Rand // for the jitter of delays
	instances []*instance
	timers    uint32 // numbers given out
	now       time.Time
	out       []Action
}

// New returns a machine without instances.
func New(random *rand.Rand) *Machine { return &Machine{random: random} }

// Add adds a new instance and returns its number, which counts from 0. The policy is the caller's: what changes in it holds from the
// next event on.
func (m *Machine) Add(p *Policy) int {
	m.instances = append(m.instances, &instance{id: len(m.instances), policy: p})
	return len(m.instances) - 1
}

// State returns the state of an instance, 0 for one that is new.
func (m *Machine) State(worker int) protocol.State { return m.instances[worker].state }

// Step takes an event of an instance in and returns what is to be done, valid until the next call.
func (m *Machine) Step(now time.Time, worker int, e Event) []Action {
	m.now, m.out = now, m.out[:0]
	w := m.instances[worker]
	switch e := e.(type) {
	case Desired:
		m.reconcile(w, e)
	case Prepared:
		w.restarted = e.Restart
		w.process, w.stage, w.unwanted = true, notStopping, false
		m.change(w, protocol.StateStarting, CauseStart, "")
		m.do(w, Action{Do: Launch})
	case Unwanted:
		w.restarted = e.Restart
		m.change(w, protocol.StateExited, CauseStop, Stopped)
	case NoStart:
		w.process = false
		m.again(w, CauseNoStart, "could not be started: "+e.Why)
	case Started:
		w.started = now
		m.setTimer(w, w.policy.ReadyTimeout)
	case Running:
		if w.policy.ReadyAtExec {
			m.ready(w)
		}
	case SaidReady:
		m.ready(w)
	case Deaf:
		if w.process && w.stage == flagged {
			m.escalate(w, "it is not attached, so it cannot see the quit flag")
		}
	case Exited:
		m.exited(w, e)
	case Due:
		if e.Timer == w.timer && e.Timer != 0 {
			w.timer = 0
			m.due(w)
		}
	case Hurry:
		if w.process {
			w.stage = terminated
			m.escalate(w, "the daemon was told twice to stop")
		}
	case Adopted:
		m.adopt(w, e)
	}
	return m.out
}
