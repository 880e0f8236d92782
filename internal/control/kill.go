package control

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// Signalled is a process that got a signal.
type Signalled struct {
	Name string `json:"name"` // of the worker
	Pid  int    `json:"pid"`  // of a filter, the filter's
}

// Kill sends a signal to the processes of workers, and of all workers of groups, that run: of a filter to the filter, not to its shim.
// Desired state does not change, so what the daemon does when a process ends of it is what it does after every death. It needs no daemon.
//
// All processes are looked up before the first signal: if a name stands for nothing that runs, nobody gets one. What was signalled is
// returned beside an error. Errors: *NoSuchWorkerError; ErrNotRunning; fs.ErrPermission around the kernel's no.
func Kill(s Set, names []string, sig syscall.Signal) ([]Signalled, error) {
	_, each, err := resolve(s.Roster, names)
	if err != nil {
		return nil, err
	}
	type aim struct {
		Signalled
		*process
	}
	var aims []aim
	defer func() {
		for _, a := range aims {
			a.close()
		}
	}()
	inodes := s.inodes()
	taken := map[int]bool{} // rows
	for k, rows := range each {
		runs := false
		for _, i := range rows {
			if taken[i] {
				runs = true
				continue
			}
			w, err := s.Roster.Worker(i)
			if err != nil {
				return nil, fmt.Errorf("%w: whether worker %d runs is not known; look with shmctl ps", err, i)
			}
			p, err := s.runningProcess(w, inodes)
			if errors.Is(err, errGone) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("worker %s: %w", w.Name, err)
			}
			runs, taken[i] = true, true
			aims = append(aims, aim{Signalled{w.Name, p.pid}, p})
		}
		if !runs {
			return nil, fmt.Errorf("worker %q is %w: it has no process; start it with shmctl start %s", names[k], ErrNotRunning, names[k])
		}
	}
	done := []Signalled{}
	var first error
	for _, a := range aims {
		err := sys.PidfdSignal(a.pidfd, sig)
		switch {
		case errors.Is(err, syscall.ESRCH): // it has ended since
		case err != nil && first == nil:
			first = fmt.Errorf("worker %s (pid %d): %w", a.Name, a.pid, err)
		case err == nil:
			done = append(done, a.Signalled)
		}
	}
	return done, first
}

// runningProcess opens the process of a worker that people mean by it: of a filter the filter itself. It is one that holds memory of the
// region, or the child of one. errGone: none runs.
func (s Set) runningProcess(w protocol.Worker, inodes map[string]uint64) (*process, error) {
	p, err := openProcess(w.Process(), w.StartTicks)
	if err != nil {
		return nil, err
	}
	if ok, err := holds(p.pid, s.region(), inodes); err != nil || !ok {
		defer p.close()
		ready, perr := sys.PollReadable([]*os.File{p.pidfd}, 0)
		if perr == nil && ready[0] {
			return nil, errGone
		}
		if err == nil {
			err = fmt.Errorf("pid %d holds no memory of the region any more, so it is left alone", p.pid)
		}
		return nil, err
	}
	if w.ShimPid == 0 || w.Pid == w.ShimPid || w.Pid == 0 {
		return p, nil
	}
	defer p.close()
	filter, err := openProcess(w.Pid, 0)
	if err != nil {
		return nil, err
	}
	// The number is the filter's as long as its parent is the shim, and neither has ended since that was read.
	if parent, err := sys.Parent(w.Pid); err != nil || parent != w.ShimPid {
		filter.close()
		return nil, errGone
	}
	for _, x := range []*process{p, filter} {
		if ended, err := x.ended(); err != nil || ended {
			filter.close()
			return nil, errGone
		}
	}
	return filter, nil
}
