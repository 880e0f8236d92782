// Package launcher is what shmd becomes in a worker's process: it takes the worker's identity and then execs the command, or
// stays to be one of the built-in workers.
package launcher

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/shmd/shmd/internal/launcher/spec"
	"github.com/shmd/shmd/internal/sys"
)

// Exit codes, as the shell has them.
const (
	exitFailed   = 1
	exitCannot   = 126 // found and could not be executed
	exitNotFound = 127
)

// Run does what the environment's spec says. ok is false when there is none: then this process is not a launcher.
// It returns the exit code of the process; it does not return when it execs.
func Run() (code int, ok bool) {
	s, ok, err := spec.FromEnviron()
	if !ok {
		return 0, false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "shmd launcher:", err)
		return exitFailed, true
	}
	status := os.NewFile(uintptr(s.Status), "status")
	fail := func(code int, err error) (int, bool) {
		fmt.Fprint(status, err)
		fmt.Fprintln(os.Stderr, "shmd launcher:", err)
		return code, true
	}
	if err := sys.SetCloexec(s.Status); err != nil { // the exec closes it: that is how the daemon knows
		return fail(exitFailed, fmt.Errorf("status pipe: %w", err))
	}
	if s.Dir != "" {
		if err := os.Chdir(s.Dir); err != nil {
			return fail(exitCannot, fmt.Errorf("working directory: %w", err))
		}
	}
	if u := s.User; u != nil {
		if err := sys.Setuser(u.UID, u.GID, u.Groups); err != nil {
			return fail(exitCannot, fmt.Errorf("cannot become user %d: %w; the daemon needs CAP_SETUID and CAP_SETGID for the key \"user\"", u.UID, err))
		}
	}
	if s.Builtin != "" {
		status.Close()
		if err := builtin(s); err != nil {
			fmt.Fprintln(os.Stderr, "shmd worker:", err)
			return exitFailed, true
		}
		return 0, true
	}
	path, err := exec.LookPath(s.Command[0])
	if err != nil {
		return fail(exitNotFound, fmt.Errorf("command %q: %w", s.Command[0], err))
	}
	err = sys.Exec(path, s.Command, os.Environ())
	return fail(exitCannot, fmt.Errorf("exec %q: %w", path, err))
}
