// Package launcher is what shmd becomes in a worker's process: it takes the worker's identity and then execs the command, or
// stays to be one of the built-in workers.
package launcher

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"github.com/shmd/shmd/internal/launcher/spec"
	"github.com/shmd/shmd/internal/sys"
)

// Exit codes, as the shell has them.
const (
	exitFailed   = 1
	exitCannot   = 126 // found and could not be executed
	exitNotFound = 127
)

// setuser makes this process the user's. One that stays a builtin or a filter's shim, and does not exec, is then as open to other processes of the user as a command is: shmctl kill
// of that user looks into it.
func setuser(u *spec.User) error {
	if err := sys.Setuser(u.UID, u.GID, u.Groups); err != nil {
		return err
	}
	return sys.SetDumpable()
}

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
	runtime.LockOSThread() // of DropAmbient
	status := os.NewFile(uintptr(s.Status), "status")
	fail := func(code int, err error) (int, bool) {
		if n, own := s.Limits["nofile"]; own && errors.Is(err, syscall.EMFILE) {
			err = fmt.Errorf("%w: its group's limit nofile = %d is too low to start it", err, n)
		}
		fmt.Fprint(status, err)
		fmt.Fprintln(os.Stderr, "shmd launcher:", err)
		return code, true
	}
	if err := sys.SetCloexec(s.Status); err != nil { // the exec closes it: that is how the daemon knows
		return fail(exitFailed, fmt.Errorf("status pipe: %w", err))
	}
	if _, own := s.Limits["nofile"]; own {
		os.Unsetenv(softVariable)
	}
	if err := confine(s); err != nil { // with the rights of the daemon
		return fail(exitCannot, err)
	}
	if u := s.User; u != nil {
		if err := setuser(u); err != nil {
			return fail(exitCannot, fmt.Errorf("cannot become user %s: %w; the daemon needs CAP_SETUID and CAP_SETGID for the key \"user\"", u.Name, err))
		}
	}
	if s.Dir != "" { // with the rights of the user
		if err := os.Chdir(s.Dir); err != nil {
			return fail(exitCannot, fmt.Errorf("working directory: %w; see \"dir\" in the configuration", err))
		}
	}
	// Capabilities that the daemon has (AmbientCapabilities= of the unit) are not the worker's. Only an exec drops them.
	switch had, err := sys.DropAmbient(); {
	case err != nil:
		return fail(exitCannot, fmt.Errorf("cannot drop capabilities: %w", err))
	case had, len(s.CPUs) > 0 && (s.Builtin != "" || s.Filter != nil): // and the CPUs are this thread's alone so far
		if err := sys.ClearCloexec(s.Status); err != nil {
			return fail(exitCannot, fmt.Errorf("status pipe: %w", err))
		}
		s.Dir, s.User, s.Nice, s.CPUs, s.OOMScoreAdj, s.Cgroup = "", nil, 0, nil, 0, ""
		s.Limits = maps.Clone(s.Limits)
		maps.DeleteFunc(s.Limits, func(name string, _ int64) bool { return !late[name] })
		return fail(exitCannot, sys.Exec("/proc/self/exe", os.Args, append(os.Environ(), s.String())))
	}
	if err := limit(s, true); err != nil {
		return fail(exitCannot, err)
	}
	if s.Builtin != "" {
		runtime.UnlockOSThread()
		status.Close()
		if err := builtin(s); err != nil {
			fmt.Fprintln(os.Stderr, "shmd worker:", err)
			return exitFailed, true
		}
		return 0, true
	}
	if err := softNofile(); err != nil {
		return fail(exitCannot, err)
	}
	if s.Filter != nil { // the thread stays locked: see filter.Run
		code, err := runFilter(s, status)
		if err != nil {
			return fail(cannotRun(s.Command[0], "", err))
		}
		return code, true
	}
	path, err := exec.LookPath(s.Command[0])
	if err == nil {
		err = sys.Exec(path, s.Command, os.Environ())
	}
	return fail(cannotRun(s.Command[0], path, err))
}

// cannotRun says why a command cannot run, and which exit code that is.
func cannotRun(command, path string, err error) (code int, _ error) {
	var lookup *exec.Error
	if errors.As(err, &lookup) {
		err = lookup.Err
	}
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	code, next := exitCannot, "see \"command\" in the configuration"
	switch {
	case errors.Is(err, exec.ErrNotFound):
		code, next = exitNotFound, "install it, or give its full path"
	case errors.Is(err, fs.ErrNotExist) && path == "":
		code, next = exitNotFound, "install it, or correct the path"
	case errors.Is(err, fs.ErrNotExist): // the file was found
		next = "the interpreter in its first line, or its loader, is not there"
	case errors.Is(err, fs.ErrPermission):
		next = "the worker's user may not execute it"
	case errors.Is(err, syscall.ENOEXEC):
		next = "a script begins with #! and its interpreter"
	}
	return code, fmt.Errorf("cannot run %q: %w; %s", command, err, next)
}

// softVariable is set by the unit, and does not hold for a group that has a limit of its own.
const softVariable = "SHMD_SOFT_NOFILE"

// softNofile sets the soft limit of open files to SHMD_SOFT_NOFILE, if that is set and less: the unit of the daemon has a high one, which programs that
// use select() cannot bear.
func softNofile() error {
	text, ok := os.LookupEnv(softVariable)
	if !ok {
		return nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return fmt.Errorf("%s=%q: not a number of open files", softVariable, text)
	}
	cur, hard, err := sys.Getrlimit(sys.LimitNofile)
	if err == nil && n < cur {
		err = sys.Setrlimit(sys.LimitNofile, n, hard)
	}
	return err
}
