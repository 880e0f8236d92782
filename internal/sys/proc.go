package sys

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// An ExitInfo says how a process ended: Code is its exit status, or Signal is what
// killed it (Code is 0 then).
type ExitInfo struct {
	Code   int            // 0…255
	Signal syscall.Signal // 0: it exited by itself
	Core   bool           // a core was dumped
}

// Reap collects exactly this child if it has ended; false if it lives. ECHILD if pid is
// no child of this process (any more), EINVAL if pid is not positive. It does not wait.
func Reap(pid int) (ExitInfo, bool, error) {
	if pid <= 0 {
		return ExitInfo{}, false, fail("wait4", unix.EINVAL)
	}
	var ws unix.WaitStatus
	var got int
	err := retry(func() (err error) {
		got, err = unix.Wait4(pid, &ws, unix.WNOHANG|unix.WALL, nil)
		return err
	})
	if err != nil {
		return ExitInfo{}, false, fail("wait4", err)
	}
	if got != pid {
		return ExitInfo{}, false, nil
	}
	return exitInfo(ws), true, nil
}

// ReapOrphans collects ended children that nobody waits for: those that a subreaper
// inherits. It looks at one ended child after the other without collecting it, and
// stops at the first that known admits (that one belongs to somebody's Reap; call
// again after it). It returns how many it collected. known must admit every child that
// this program started and has not reaped.
func ReapOrphans(known func(pid int) bool) int {
	n := 0
	for {
		pid := peekChild()
		if pid == 0 || known(pid) {
			return n
		}
		if _, ok, err := Reap(pid); err != nil || !ok {
			return n
		}
		n++
	}
}

// SetSubreaper makes this process the parent of its descendants whose own parents end
// (PR_SET_CHILD_SUBREAPER); they need ReapOrphans then. It survives exec.
func SetSubreaper() error {
	return fail("prctl PR_SET_CHILD_SUBREAPER", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// StartTicks returns when the process started, in clock ticks (10 ms) after boot: with
// the pid it identifies a process for as long as the boot lasts. fs.ErrNotExist if there
// is no such process. It is the same in every time namespace.
func StartTicks(pid int) (uint64, error) {
	fields, err := procStat(pid)
	if err != nil {
		return 0, err
	}
	ticks, err := strconv.ParseUint(fields[startTicksField-stateField], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("/proc/%d/stat: start time: %w", pid, err)
	}
	return ticks - bootOffset(), nil
}

// bootOffset is how many ticks the boot lies back further in this process's time namespace than it does on the machine: /proc
// shows times so to whoever reads.
var bootOffset = sync.OnceValue(func() uint64 {
	b, _ := os.ReadFile("/proc/self/timens_offsets") // none: a kernel without time namespaces
	_, rest, _ := strings.Cut(string(b), "boottime")
	var s, ns int64
	fmt.Sscan(rest, &s, &ns)
	return uint64(s*100 + ns/10_000_000)
})

// Parent returns the pid of the process's parent. fs.ErrNotExist if there is no such process.
func Parent(pid int) (int, error) {
	fields, err := procStat(pid)
	if err != nil {
		return 0, err
	}
	parent, err := strconv.Atoi(fields[parentField-stateField])
	if err != nil {
		return 0, fmt.Errorf("/proc/%d/stat: parent: %w", pid, err)
	}
	return parent, nil
}

// Suspendable reports whether SIGTSTP stops this process, so that a shell with job control can let it go on. The kernel drops that signal where nobody would: in
// a process group in which no process has a parent in the same session but another group, as that of a session's leader.
func Suspendable() bool {
	if signal.Ignored(syscall.SIGTSTP) {
		return false
	}
	session, err := unix.Getsid(0)
	for pid := os.Getpid(); err == nil; {
		var parent, group, of int
		if parent, err = Parent(pid); err != nil || parent == 0 {
			return false
		}
		if group, err = unix.Getpgid(parent); err == nil && group != unix.Getpgrp() {
			of, err = unix.Getsid(parent)
			return err == nil && of == session
		}
		pid = parent
	}
	return false
}

// ProcState returns the state letter of the process: 'R' running, 'S' asleep, 'D' in
// the kernel, 'T' stopped, 't' traced, 'Z' dead but not reaped, 'X' going. fs.ErrNotExist
// if there is no such process.
//
// The kernel tells that of the main thread, which may have ended alone: for a moment in each execve that another thread calls. The
// process lives then, and is 'R'.
func ProcState(pid int) (byte, error) {
	fields, err := procStat(pid)
	if err != nil {
		return 0, err
	}
	state := fields[0][0]
	if state != 'Z' && state != 'X' {
		return state, nil
	}
	p, err := PidfdOpen(pid)
	if err != nil { // it is reaped by now, or it cannot be known
		return state, nil
	}
	defer p.Close()
	if ended, err := PidfdReadable(p); err == nil && !ended {
		return 'R', nil
	}
	return state, nil
}

// Numbers of fields of /proc/PID/stat as proc(5) counts them.
const (
	stateField      = 3
	parentField     = 4
	startTicksField = 22
	exitCodeField   = 52
)

// procStat returns the fields from the state on. The second field is the command's name
// in parentheses, which may itself hold spaces and parentheses: the last one counts.
func procStat(pid int) ([]string, error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	b, err := os.ReadFile(path)
	if errors.Is(err, unix.ESRCH) { // it ended between open and read
		err = &os.PathError{Op: "read", Path: path, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) <= startTicksField-stateField {
		return nil, fmt.Errorf("%s: %d fields after the name, want more than %d", path, len(fields), startTicksField-stateField)
	}
	return fields, nil
}

// BootID returns the identity of this boot of the kernel, which marks memory and stamps
// of an earlier boot as stale.
func BootID() (id [16]byte, err error) {
	const path = "/proc/sys/kernel/random/boot_id"
	text, err := os.ReadFile(path)
	if err != nil {
		return id, err
	}
	digits := strings.ReplaceAll(strings.TrimSpace(string(text)), "-", "")
	if len(digits) != 2*len(id) {
		return id, fmt.Errorf("%s: %q is no UUID", path, text)
	}
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return id, fmt.Errorf("%s: %w", path, err)
	}
	return id, nil
}

// KernelRelease returns what uname -r prints, "" if the kernel does not say.
func KernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// Setuser gives up the rights of this process for those of a user: supplementary groups
// (none if groups is empty), then real, effective and saved gid, then uid, in all
// threads. There is no way back. EPERM without CAP_SETGID and CAP_SETUID.
func Setuser(uid, gid int, groups []int) error {
	// The syscall package's versions act on all threads.
	if err := syscall.Setgroups(groups); err != nil {
		return fail("setgroups", err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fail("setresgid", err)
	}
	return fail("setresuid", syscall.Setresuid(uid, uid, uid))
}

// SetDumpable lets processes of the same user look into this one again, as after an exec: a change of the user takes that away.
func SetDumpable() error {
	return fail("prctl PR_SET_DUMPABLE", unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
}

// DropAmbient empties the ambient capability set of the calling thread, so that its next Exec drops all capabilities
// (unless it is root). had says whether there were any. Lock the goroutine to its thread before.
func DropAmbient() (had bool, err error) {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return false, err
	}
	_, rest, _ := strings.Cut(string(status), "\nCapAmb:")
	set, _, _ := strings.Cut(rest, "\n")
	if strings.Trim(set, "\t 0") == "" {
		return false, nil
	}
	return true, fail("prctl PR_CAP_AMBIENT", unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
}

// SetAffinity binds the calling thread to the given CPUs (numbers from 0). An Exec from
// the same thread takes it along: lock the goroutine to its thread before. EINVAL if
// none of the CPUs exists.
func SetAffinity(cpus []int) error {
	var set unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	return fail("sched_setaffinity", unix.SchedSetaffinity(0, &set))
}

// SetNice sets the nice value of every thread in this process's group, -20 (first) to 19 (last). EACCES to go below what it is without CAP_SYS_NICE.
func SetNice(n int) error { return fail("setpriority", unix.Setpriority(unix.PRIO_PGRP, 0, n)) }

// Exec replaces this program by another; it returns only with an error (a *os.PathError).
// The limit of open files that Go raised for itself at start is put back before, unless
// Setrlimit set it.
func Exec(path string, argv, env []string) error {
	return &os.PathError{Op: "exec", Path: path, Err: unix.Exec(path, argv, env)}
}
