package filter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/shm"
)

// Options say what to run, and how. There is a Stdin or a Stdout, or both.
type Options struct {
	Command      []string
	Stdin        string // channel whose messages the filter reads; "": its standard input is empty
	Stdout       string // channel to which its lines go; "": they go to the log
	Window       int    // messages in flight
	Written      bool   // a message is acked when it was written
	Delimiter    byte
	StopTimeout  time.Duration // for the filter to end when it is asked to, and again after SIGTERM
	StallTimeout time.Duration // how long a filter may take to answer before it is reported; 0: for ever
}

// What a filter does that ends it.
var (
	errExtra = errors.New("the filter wrote a line that no message asked for; one that drops or multiplies lines wants ack = \"written\"")
	errDeaf  = errors.New("the filter closed its standard input")
	errMute  = errors.New("the filter closed its standard output")

	errForeign = errors.New("the filter became another user, whom its shim may not signal: the daemon ends it, if it may")
)

// shim is one run of a filter.
type shim struct {
	o       Options
	r       *shm.Region
	in, out *shm.Queue // nil for none

	proc          *os.Process
	stdin, stdout *os.File // our ends of the pipes; nil for none
	inFlight      *flight

	mu     sync.Mutex // of what follows
	status shm.FilterStatus
	told   time.Time
	untold int

	sending atomic.Bool   // an answer is there, and waits for a place in the channel out
	stalled atomic.Uint64 // 1 + the number of the message that is reported as not answered; 0: none is
}

// Run runs the filter until it ends or the worker is asked to quit, and returns the exit code for the process: the filter's own, 128
// and the signal if one ended it, 1 if the filter did what it may not. started is called once the filter runs.
//
// The calling goroutine must be locked to its thread, and must keep the thread until the process ends: the kernel kills the filter
// when the thread that started it ends. Errors: the filter could not be started; those of the channels.
func Run(r *shm.Region, o Options, started func()) (code int, err error) {
	s := &shim{o: o, r: r}
	if o.Stdin != "" {
		if s.in, err = r.Queue(o.Stdin); err != nil {
			return 1, err
		}
	}
	if o.Stdout != "" {
		if s.out, err = r.Queue(o.Stdout); err != nil {
			return 1, err
		}
	}
	s.inFlight = newFlight(s.most())
	if err := s.start(); err != nil {
		return 1, err
	}
	started()
	s.report(func() { s.status.Pid = s.proc.Pid })
	if err := r.Ready(); err != nil {
		return 1, err
	}
	return s.serve(), nil
}

// most is how many messages may be in flight.
func (s *shim) most() int {
	if s.o.Written {
		return mostLeft
	}
	return s.o.Window
}

// start starts the filter.
func (s *shim) start() error {
	path, err := exec.LookPath(s.o.Command[0])
	if err != nil {
		return err
	}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err == nil {
			sys.SetPipeSize(r, pipeSize) // as large as this user may: it decides how often the two take turns
		}
		return r, w, err
	}
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	if s.in != nil {
		if files[0], s.stdin, err = pipe(); err != nil {
			return err
		}
		theirs = append(theirs, files[0])
	}
	if s.out != nil {
		if s.stdout, files[1], err = pipe(); err != nil {
			return err
		}
		theirs = append(theirs, files[1])
	}
	s.proc, err = os.StartProcess(path, s.o.Command, &os.ProcAttr{
		Files: files,
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	return err
}

// pipeSize is enough for the answers of a window to wait while the next is written.
const pipeSize = 256 << 10

// ended is how a filter ended.
type ended struct {
	state *os.ProcessState
	err   error
}

// collected is what collect returned.
type collected struct {
	rest []byte
	err  error
}

// serve moves the lines until the filter has ended, and returns the exit code.
func (s *shim) serve() int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	exits := make(chan ended, 1)
	go func() {
		state, err := s.proc.Wait()
		exits <- ended{state, err}
	}()
	receiving, stopReceiving := context.WithCancel(context.Background())
	defer stopReceiving()
	sending, stopSending := context.WithCancel(context.Background())
	defer stopSending()
	var fed chan error // nil: there is nothing to wait for
	var collects chan collected
	if s.in != nil {
		fed = make(chan error, 1)
		done := fed
		go func() { done <- s.feed(receiving) }()
		if s.o.StallTimeout > 0 {
			go s.watch(receiving)
		}
	}
	if s.out != nil {
		collects = make(chan collected, 1)
		done := collects
		go func() {
			rest, err := s.collect(sending)
			done <- collected{rest, err}
		}()
	}

	var (
		why      error // why it ends; nil if it was asked to quit, or ended by itself
		ending   bool
		quitting bool
		timer    <-chan time.Time
		next     = syscall.SIGTERM // what the filter gets when timer fires
		exit     ended
		got      collected
	)
	signal := func(sig syscall.Signal) {
		if err := s.proc.Signal(sig); sig == syscall.SIGKILL && errors.Is(err, syscall.EPERM) {
			exit.err = errForeign
		}
	}
	end := func(cause error) {
		if ending {
			return
		}
		ending, why = true, cause
		stopReceiving()
		timer = time.After(s.o.StopTimeout)
		switch {
		case errors.Is(cause, errExtra): // what it writes answers nothing any more
			signal(syscall.SIGKILL)
		case s.in == nil: // there is no end of its input that it could see
			signal(syscall.SIGTERM)
		}
	}
	quit := s.r.Quit().Done()
	ask := func() {
		quitting, quit = true, nil
		time.AfterFunc(s.o.StopTimeout, stopSending)
		end(nil)
	}
	for exit == (ended{}) {
		select {
		case <-quit:
			ask()
		case sig := <-signals:
			if quitting {
				s.proc.Signal(sig)
			} else {
				ask()
			}
		case err := <-fed:
			if fed = nil; err != nil {
				end(err)
			}
		case got = <-collects:
			if collects = nil; got.err == nil {
				got.err = errMute
			}
			end(got.err)
		case <-timer:
			signal(next)
			next, timer = syscall.SIGKILL, time.After(s.o.StopTimeout)
		case exit = <-exits:
		}
	}
	if (why == errMute || why == errDeaf) && next == syscall.SIGTERM { // that was its end
		why = nil
	}

	// What the filter wrote is in the pipe: nothing is added to it, though a descendant may hold it open for ever.
	stopReceiving()
	s.report(func() { s.status.Pid = 0 })
	if s.stdin != nil {
		s.stdin.Close()
	}
	if s.stdout != nil {
		s.stdout.SetReadDeadline(time.Unix(1, 0))
	}
	for fed != nil || collects != nil {
		select {
		case <-quit:
			ask()
		case <-signals:
			stopSending()
		case err := <-fed:
			if fed = nil; why == nil && !errors.Is(err, errDeaf) && !errors.Is(err, os.ErrClosed) {
				why = err
			}
		case got = <-collects:
			if collects = nil; why == nil {
				why = got.err
			}
		}
	}
	if len(got.rest) > 0 {
		s.lastLine(sending, got.rest, exit)
	}
	return s.finish(exit, why, quitting)
}

// lastLine takes what the filter wrote last, without a delimiter. If it ended as it should, that is a line; else it was torn.
func (s *shim) lastLine(ctx context.Context, rest []byte, exit ended) {
	torn := exit.err != nil || !exit.state.Success()
	if torn && (s.in == nil || s.o.Written) {
		s.log("the filter ended in the middle of a line, which was dropped: %.40q", rest)
	}
	if torn {
		return
	}
	if err := s.answer(ctx, [][]byte{rest}); err != nil {
		s.log("the last line: %v", err)
	}
}

// finish gives back what the filter did not answer, says how it ended, and returns the exit code.
func (s *shim) finish(exit ended, why error, quitting bool) int {
	back := 0
	for m := s.inFlight.take(); m != nil; m = s.inFlight.take() {
		if err := m.Nack(); err != nil {
			s.log("a message could not be given back: %v", err)
		}
		back++
	}
	code, how := describe(exit)
	switch {
	case why != nil:
		code, how = 1, why.Error()
	case quitting && code == 128+int(syscall.SIGTERM):
		code = 0
	}
	if back > 0 {
		how += fmt.Sprintf("; unanswered messages given back: %d", back)
	}
	s.report(func() { s.status = shm.FilterStatus{} })
	if !quitting || why != nil || back > 0 {
		s.log("%s", how)
		s.report(func() { s.status.Note = how })
	}
	return code
}

// describe says how the filter ended, and which exit code that is.
func describe(e ended) (code int, how string) {
	if e.err != nil {
		return 1, e.err.Error()
	}
	if ws, ok := e.state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), fmt.Sprintf("the filter was killed by signal %d (%v)", int(ws.Signal()), ws.Signal())
	}
	return e.state.ExitCode(), fmt.Sprintf("the filter ended, exit code %d", e.state.ExitCode())
}

// report changes what the daemon is told of the filter.
func (s *shim) report(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.r.SetFilterStatus(s.status)
}

// watch reports a filter that does not answer, until ctx ends. While nothing is in flight it sleeps.
func (s *shim) watch(ctx context.Context) {
	wait := func(c <-chan struct{}, t time.Duration) bool {
		var timeout <-chan time.Time
		if t > 0 {
			timeout = time.After(t)
		}
		select {
		case <-c:
		case <-timeout:
		case <-ctx.Done():
		}
		return ctx.Err() == nil
	}
	for wait(s.inFlight.begun, 0) {
		for {
			number, age, position, ok := s.inFlight.oldest(time.Now())
			if !ok {
				break
			}
			if age >= s.o.StallTimeout {
				s.stall(number, age, position)
				age = 0 // what is in flight next may stall as well
			}
			if !wait(nil, s.o.StallTimeout-age) {
				return
			}
		}
	}
}

// stall reports that the oldest message in flight was not answered. While an answer waits for a place in its channel, the filter is not to blame.
func (s *shim) stall(number uint64, age time.Duration, position uint64) {
	if s.sending.Load() {
		return
	}
	s.stalled.Store(number + 1)
	if n, _, _, ok := s.inFlight.oldest(time.Now()); !ok || n != number { // answered meanwhile, perhaps unseen
		s.answered()
		return
	}
	s.report(func() {
		s.status.Stalled = true
		s.status.Note = fmt.Sprintf("stalled since %s: no answer to the message at position %d; %s", time.Now().Add(-age).Format(time.TimeOnly), position, hint(s.o.Command))
	})
	if s.stalled.Load() == 0 {
		s.report(s.well)
	}
}

// well is the status of a filter that answers.
func (s *shim) well() { s.status.Stalled, s.status.Note = false, "" }

// answered is called after a message has left.
func (s *shim) answered() {
	if s.stalled.Load() != 0 && s.stalled.Swap(0) != 0 {
		s.report(s.well)
	}
}

// log writes a line to the worker's standard error, which is the daemon's log.
func (s *shim) log(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "shmd filter: "+format+"\n", args...)
}

// complain logs what may happen with every message, once a second.
func (s *shim) complain(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.told) < time.Second {
		s.untold++
		return
	} else {
		s.told = now
	}
	if s.untold > 0 {
		format += fmt.Sprintf(" (and %d like it)", s.untold)
		s.untold = 0
	}
	s.log(format, args...)
}
