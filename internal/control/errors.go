package control

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrNoRegion: no living process holds the region's memory.
	ErrNoRegion = errors.New("no living process of the region")
	// ErrPermission: the region belongs to another user, so its memory cannot be taken from its processes.
	ErrPermission = errors.New("permission denied")
	// ErrDamaged: a trusted segment is there, but cannot be used; see DamagedError.
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
