package control

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// LeftBehind is a process that a worker left behind and that was killed.
type LeftBehind struct {
	Pid    int
	Worker string // whose it was
}

// KillLeftBehind kills what workers of a region left behind, whoever is its parent by now: processes with the environment of one of the region's workers that
// hold its memory, both. Outsiders, which workers may have started too, are left alone. It is for the end of the region, when no worker runs any more, and waits
// for the ends until the deadline.
func KillLeftBehind(roster *protocol.Roster, deadline time.Time) (killed []LeftBehind) {
	s := &stopper{Set: Set{Roster: roster}}
	s.inodes = s.Set.inodes()
	for found := true; found && time.Now().Before(deadline); { // again: one may have started another
		found = false
		pids, err := processes()
		if err != nil {
			return killed
		}
		for _, pid := range pids {
			if name := workerOf(pid, s.region()); name != "" && s.killHolder(pid, deadline) {
				killed, found = append(killed, LeftBehind{pid, name}), true
			}
		}
	}
	return killed
}

// workerOf returns the worker of the region whose environment a process has, "" for none.
func workerOf(pid int, region string) (name string) {
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return "" // it has ended, or is another user's
	}
	of := false
	for _, kv := range bytes.Split(environ, []byte{0}) {
		switch k, v, _ := bytes.Cut(kv, []byte("=")); string(k) {
		case "SHMD_WORKER":
			name = string(v)
		case "SHMD_REGION":
			of = string(v) == region
		}
	}
	if !of {
		return ""
	}
	return name
}

// killHolder kills a process that holds memory of the region and is no outsider. It reports whether it did.
func (s *stopper) killHolder(pid int, deadline time.Time) bool {
	p, err := openProcess(pid, 0)
	if err != nil {
		return false
	}
	defer p.close()
	if workerOf(pid, s.region()) == "" || s.isOutsider(pid) { // again: it is this process now
		return false
	}
	if ended, err := s.signal(p, syscall.SIGKILL, false, 0); ended || err != nil { // it holds nothing
		return false
	}
	sys.PollReadable([]*os.File{p.pidfd}, time.Until(deadline))
	return true
}
