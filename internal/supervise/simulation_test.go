package supervise

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the one simulation to run; 0: a fixed one and a new one")
	eventsFlag = flag.Int("events", 1_000_000, "events of a simulation")
)

// The simulation is a world of groups and instances in virtual time: processes that become ready, or not, that crash, hang, disobey and
// sleep; launches that fail; operators who stop, start and restart at any time, also while no daemon lives; a daemon that dies between any
// two actions and is followed by one that has the rows only. After each event the world is compared with what the machine promises.
func TestSimulation(t *testing.T) {
	seeds := []uint64{*seedFlag}
	if *seedFlag == 0 {
		seeds = []uint64{1, rand.Uint64()}
	}
	for _, seed := range seeds {
		s := newWorld(seed)
		s.run(*eventsFlag)
		t.Logf("seed %d: %s", seed, s.counts())
		if s.wrong != "" {
			s = newWorld(seed) // the same again, with notes
			s.notes = true
			s.run(*eventsFlag)
			t.Errorf("event %d: %s\nthe last of it:\n%s\nagain: go test ./internal/supervise -run Simulation -seed %d -events %d",
				s.steps, s.wrong, strings.Join(s.trace, "\n"), seed, *eventsFlag)
			continue
		}
		for _, c := range []string{"launch", "crash", "hang", "adoption", "backoff", "failed", "waiting", "reset", "reset goes on", "held", "kill", "unwanted", "no id", "no process", "never ran", "anew", "altered"} {
			if s.seen[c] == 0 {
				t.Errorf("seed %d: never: %s", seed, c)
			}
		}
	}
}

// world is what the machine supervises.
type world struct {
	random  *rand.Rand
	m       *Machine
	now     time.Time
	agenda  agenda
	seq     int
	steps   int
	groups  []*simGroup
	workers []*simWorker
	ids     []*simWorker // who holds an id that is not repaired
	nextID  int
	alive   bool // the daemon
	partway bool // it has not looked at everybody yet
	ending  bool
	timers  map[uint32]int // set and not stopped, of this daemon: the worker
	queue   []answer
	seen    map[string]int
	notes   bool
	trace   []string
	wrong   string
}

type answer struct {
	worker int
	event  Event
}

type simGroup struct {
	policy  *Policy
	workers []*simWorker
	old     []*simProcess // that a reset ends
}

type simWorker struct {
	id    int
	group *simGroup

	goesOn  bool // it was stopping for the reset of its group when a daemon died
	run     bool // desired
	restart uint32
	flag    bool

	row    row // in the memory
	next   row // what the daemon knows and has not written
	held   int // attachment id
	proc   *simProcess
	told   Desired // what the machine was told last
	timer  uint32
	due    time.Time
	series []time.Time   // failures since somebody asked for a start
	last   time.Duration // delay before the last restart of the series
	anew   bool          // its last process ran long enough for the delay to begin anew
}

// row is what a next daemon finds.
type row struct {
	state     protocol.State
	reason    string
	restarts  uint64
	restarted uint32
	since     time.Time
	id        int
	clean     bool
}

type simProcess struct {
	born                       time.Time
	ran, ready                 bool
	deaf, stubborn, hung, busy bool // does not see the flag; does not obey SIGTERM; answers nothing; does not sleep
	hungAt                     time.Time
	answered, ring, aborted    bool
	dead, clean                bool
	never                      string
}

// An appointment is something that happens later.
type appointment struct {
	at  time.Time
	seq int
	fn  func()
}

type agenda []appointment

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at.Before(a[j].at) || a[i].at.Equal(a[j].at) && a[i].seq < a[j].seq
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(appointment)) }
func (a *agenda) Pop() any {
	x := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return x
}

func newWorld(seed uint64) *world {
	s := &world{random: rand.New(rand.NewPCG(seed, 17)), now: time.Unix(1e9, 0), alive: true, timers: map[uint32]int{}, seen: map[string]int{}, ids: make([]*simWorker, 60)}
	for g := range 12 {
		p := &Policy{Name: fmt.Sprintf("g%d", g), Restart: protocol.RestartAlways, StopTimeout: s.span(time.Second, 5*time.Second), ReadyTimeout: s.span(time.Second, 10*time.Second),
			BackoffMin: 100 * time.Millisecond, BackoffMax: s.span(time.Second, 30*time.Second), CrashLimit: s.random.IntN(8), CrashWindow: time.Minute}
		switch s.random.IntN(5) {
		case 0:
			p.Restart = protocol.RestartOnFailure
		case 1:
			p.Restart = protocol.RestartNever
		}
		p.ReadyAtExec = s.chance(0.2)
		p.ResetGroup = p.Restart != protocol.RestartNever && s.chance(0.4)
		if s.chance(0.6) {
			p.Watchdog = s.span(2*time.Second, 10*time.Second)
		}
		switch g { // what each world has
		case 1:
			p.Restart, p.ResetGroup = protocol.RestartAlways, true
		case 2:
			p.Watchdog = 3 * time.Second
		}
		for before := range g {
			if s.chance(0.15) || g == 3 && before == 2 {
				p.After = append(p.After, before)
			}
		}
		group := &simGroup{policy: p}
		s.groups = append(s.groups, group)
		for range 1 + s.random.IntN(5) + min(g%4, 1) {
			w := &simWorker{id: len(s.workers), group: group, run: true}
			group.workers = append(group.workers, w)
			s.workers = append(s.workers, w)
		}
	}
	s.newMachine()
	return s
}

func (s *world) newMachine() {
	s.m = New(rand.New(rand.NewPCG(s.random.Uint64(), 18)))
	for i, g := range s.groups {
		s.m.AddGroup(g.policy)
		for k := range g.workers {
			s.m.Add(i, fmt.Sprintf("%s.%d", g.policy.Name, k))
		}
	}
}

func (s *world) chance(p float64) bool { return s.random.Float64() < p }

func (s *world) span(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(s.random.Int64N(int64(hi-lo)))
}

func (s *world) after(d time.Duration, fn func()) {
	s.seq++
	heap.Push(&s.agenda, appointment{s.now.Add(d), s.seq, fn})
}

func (s *world) fail(w *simWorker, format string, args ...any) {
	if s.wrong == "" {
		s.wrong = fmt.Sprintf("worker %d of %s: ", w.id, w.group.policy.Name) + fmt.Sprintf(format, args...)
	}
}

func (s *world) note(format string, args ...any) {
	if !s.notes {
		return
	}
	s.trace = append(s.trace, fmt.Sprintf("%v ", s.now.Sub(time.Unix(1e9, 0)))+fmt.Sprintf(format, args...))
	if len(s.trace) > 60 {
		s.trace = s.trace[1:]
	}
}

func (s *world) counts() string {
	var parts []string
	for k, n := range s.seen {
		parts = append(parts, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(parts)
	return fmt.Sprintf("%d events in %v of virtual time, %d workers: %s", s.steps, s.now.Sub(time.Unix(1e9, 0)).Round(time.Second), len(s.workers), strings.Join(parts, ", "))
}

// run lives for so many events, then quietly until all is as it is wanted, then ends the region.
func (s *world) run(events int) {
	s.bell(0)
	s.after(0, s.operate)
	s.after(time.Second, s.daemonDies)
	s.after(time.Second, s.reload)
	for s.steps < events && s.wrong == "" {
		s.next()
	}
	s.quiet(10*time.Minute, func() {
		for _, w := range s.workers {
			s.settled(w)
		}
	})
	s.quiet(10*time.Minute, func() {
		for _, w := range s.workers {
			if w.proc != nil && !w.proc.dead {
				s.fail(w, "lives after the end of the region, in %v", w.row.state)
			}
		}
		if n := len(s.timers); n != 0 && s.wrong == "" {
			s.wrong = fmt.Sprintf("%d timers are left after the end of the region", n)
		}
	})
}

func (s *world) next() {
	a := heap.Pop(&s.agenda).(appointment)
	s.now = a.at
	a.fn()
}

// quiet lets time pass without operators, deaths of daemons or deaths of processes that are new, then looks, then ends the region.
func (s *world) quiet(d time.Duration, look func()) {
	if s.wrong != "" {
		return
	}
	calm := s.seen["calm"] > 0
	s.seen["calm"]++
	if calm {
		s.ending = true
		for _, w := range s.workers {
			w.run = false
		}
		if s.alive {
			s.m.End()
		}
	}
	until := s.now.Add(d)
	s.bell(time.Millisecond)
	for len(s.agenda) > 0 && s.agenda[0].at.Before(until) && s.wrong == "" {
		s.next()
	}
	look()
}

// settled: when nothing disturbs it any more, an instance is where it is wanted.
func (s *world) settled(w *simWorker) {
	living := w.proc != nil && !w.proc.dead
	switch {
	case !w.run && (living || w.row.state != protocol.StateExited):
		s.fail(w, "is stopped and in %v, process: %v", w.row.state, living)
	case w.run && (w.row.state == 0 || w.row.state == protocol.StateStopping || w.row.state == protocol.StateStarting && w.group.policy.ReadyTimeout > 0):
		s.fail(w, "is wanted and in %v for minutes", w.row.state)
	case w.run && w.row.state == protocol.StateExited && w.row.reason == Stopped:
		s.fail(w, "is wanted and stays stopped")
	case w.run && living && w.restart != w.row.restarted:
		s.fail(w, "restart %d was asked for, %d carried out", w.restart, w.row.restarted)
	}
}

// operate is an operator: the desired state, the flag, the bell, each of which may be the last that the daemon learns for a while.
func (s *world) operate() {
	if s.seen["calm"] > 0 {
		return
	}
	some := []*simWorker{s.workers[s.random.IntN(len(s.workers))]}
	if s.chance(0.3) {
		some = some[0].group.workers
	}
	kind := s.random.IntN(10)
	for _, w := range some {
		switch {
		case kind < 2:
			w.run = false
			s.setFlag(w)
		case kind < 7:
			w.run = true
			if s.chance(0.3) { // as shmctl start does for what is failed
				w.restart++
			}
		default:
			w.run, w.restart = true, w.restart+1
		}
	}
	s.note("operator: %d on %d of %s", kind, some[0].id, some[0].group.policy.Name)
	if s.chance(0.9) { // else it dies before it rings
		s.bell(s.span(0, 2*time.Millisecond))
	}
	s.after(s.span(0, 400*time.Millisecond), s.operate)
}

// reload changes how long things may take, for what runs too.
func (s *world) reload() {
	if s.seen["calm"] > 0 {
		return
	}
	g := s.groups[s.random.IntN(len(s.groups))]
	before, p := *g.policy, g.policy
	p.StopTimeout, p.ReadyTimeout = s.span(time.Second, 5*time.Second), s.span(time.Second, 10*time.Second)
	if p.Watchdog = 0; s.chance(0.7) {
		p.Watchdog = s.span(2*time.Second, 10*time.Second)
	}
	s.note("reload of %s: %+v", p.Name, *p)
	s.partway = true
	for _, w := range g.workers {
		if w.proc != nil && s.alive {
			w.proc.ring = false // it is looked at, and asked once more
			if w.proc.hung {    // and has the whole time from now on
				w.proc.hungAt = s.now
			}
		}
		s.seen["altered"]++
		s.tell(w, Altered{before})
	}
	s.partway = false
	for _, w := range s.workers {
		s.check(w)
	}
	s.after(s.span(0, time.Minute), s.reload)
}

// bell makes the daemon look at what is wanted of everybody.
func (s *world) bell(d time.Duration) {
	s.after(d, s.look)
}

func (s *world) look() {
	s.partway = true
	for _, w := range s.workers {
		if s.alive {
			s.m.Want(w.id, Desired{w.run, w.restart})
		}
	}
	for _, w := range s.workers {
		s.tell(w, Desired{w.run, w.restart})
	}
	s.partway = false
	for _, w := range s.workers {
		s.check(w)
	}
}

// tell gives an event to the machine, if there is a daemon, and carries out what it says.
func (s *world) tell(w *simWorker, e Event) {
	if !s.alive || s.wrong != "" {
		return
	}
	s.queue = append(s.queue[:0], answer{w.id, e})
	for len(s.queue) > 0 && s.alive && s.wrong == "" {
		next := s.queue[0]
		s.queue = s.queue[1:]
		w, e := s.workers[next.worker], next.event
		switch e := e.(type) {
		case Desired:
			w.told = e
		case Exited:
			w.told = e.Desired
		case Prepared:
			w.told.Restart = e.Restart
		}
		s.note("  %d %T%+v", w.id, e, e)
		s.steps++
		for _, a := range s.m.Step(s.now, w.id, e) {
			if s.alive && s.chance(0.0005) && s.seen["calm"] == 0 {
				s.daemonDied()
			}
			if !s.alive || s.wrong != "" {
				return
			}
			s.do(s.workers[a.Worker], a)
		}
		if len(s.queue) == 0 {
			s.check(w)
		}
	}
	if s.steps%64 == 0 && s.alive {
		for _, w := range s.workers {
			s.check(w)
		}
	}
}

func (s *world) answer(w *simWorker, e Event) { s.queue = append(s.queue, answer{w.id, e}) }
