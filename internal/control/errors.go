package control

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

var (
	// ErrNoRegion: no living process holds the region's memory.
	ErrNoRegion = errors.New("no living process of the region")
	// ErrPermission: the region belongs to another user, so its memory cannot be taken from its processes.
	ErrPermission = errors.New("permission denied")
	// ErrDamaged: what was read of a trusted segment does not make sense; see DamagedError.
	ErrDamaged = errors.New("the region's memory is damaged")
	// ErrNoSuchWorker: a name is neither a worker nor a group; see NoSuchWorkerError.
	ErrNoSuchWorker = errors.New("unknown worker")
	// ErrNotRunning: a worker that was to be stopped has no process and none is coming.
	ErrNotRunning = errors.New("not running")
	// ErrStillRunning: a process did not end.
	ErrStillRunning = errors.New("still running")
	// ErrDaemonAlive: the region has a living daemon, so what it left is not left over.
	ErrDaemonAlive = errors.New("the region's daemon is alive")
)

// A DamagedError says what is wrong with the memory of a region whose processes live. errors.Is(err, ErrDamaged).
type DamagedError struct {
	Region string
	Pids   []int // processes that hold it
	Err    error // what is wrong
}

func (e *DamagedError) Error() string {
	next := "stop what runs in it and start the region anew"
	if len(e.Pids) > 0 {
		next = "end the processes that hold it (kill " + joinInts(e.Pids) + "), then start the region anew"
	}
	return fmt.Sprintf("region %q: %v: %v; %s", e.Region, ErrDamaged, e.Err, next)
}

func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

func (e *DamagedError) Unwrap() error { return e.Err }

// outOfFiles reports whether err says that this process, or the machine, has no descriptor left: then nothing is known of what was to be opened.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// notTaken is the error of taking a region, which only owner's user and root can, from the processes that hold it. Damage is what was read and does not
// make sense; what the kernel refused says nothing of the memory.
func notTaken(region string, pids []int, owner uint32, err error) error {
	var errno syscall.Errno
	switch {
	case outOfFiles(err):
		return fmt.Errorf("region %q: take its memory from its processes: %w: raise the limit of this process (ulimit -n in a shell, LimitNOFILE= in a unit)", region, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("region %q: %w: its memory can be taken only by user %d and root (%v)", region, ErrPermission, owner, err)
	case errors.As(err, &errno):
		return fmt.Errorf("region %q: take its memory from its processes: %w", region, err)
	}
	return &DamagedError{region, pids, err}
}

// A NoSuchWorkerError says which names there are. errors.Is(err, ErrNoSuchWorker).
type NoSuchWorkerError struct {
	Name    string
	Have    []string // groups with their instances, for people
	Suggest string   // the nearest name, "" if none is near
}

func (e *NoSuchWorkerError) Error() string {
	text := fmt.Sprintf("%v %q; ", ErrNoSuchWorker, e.Name)
	if len(e.Have) == 0 {
		return text + "the region has no workers"
	}
	text += "there are: " + strings.Join(e.Have, ", ")
	if e.Suggest != "" {
		text += fmt.Sprintf("; did you mean %q?", e.Suggest)
	}
	return text
}

func (e *NoSuchWorkerError) Is(target error) bool { return target == ErrNoSuchWorker }

func joinInts(ns []int) string {
	return strings.Trim(fmt.Sprint(ns), "[]")
}

// ErrNotHeld: no living process has a segment that the roster's directory names. It is among the reasons in Living.Missing.
var ErrNotHeld = errors.New("no living process holds it")
