package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// startOn starts a process whose threads run on some CPUs only: a process inherits the set of the thread that forks it.
func startOn(cmd *exec.Cmd, cpus ...int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		return fmt.Errorf("sched_getaffinity: %w", err)
	}
	for _, c := range cpus {
		set.Set(c)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to CPU %v: %w", cpus, err)
	}
	err := cmd.Start()
	if again := unix.SchedSetaffinity(0, &old); again != nil {
		return fmt.Errorf("sched_setaffinity: %w", again)
	}
	return err
}

// allowedCPUs returns the CPUs that this process may use.
func allowedCPUs() (cpus []int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	for c := range len(set) * 64 {
		if set.IsSet(c) {
			cpus = append(cpus, c)
		}
	}
	return cpus, nil
}

// cpuNs returns the CPU time of all threads of this process.
func cpuNs() int64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) != nil {
		return 0
	}
	return t.Nano()
}

// runTime returns the time that all threads of some processes have run, in ns, from schedstat.
func runTime(pids []int) (ns int64, err error) {
	for _, pid := range pids {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return 0, err
		}
		for _, t := range tasks {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
			if err != nil {
				return 0, err
			}
			var n int64
			if _, err := fmt.Sscan(string(text), &n); err != nil {
				return 0, fmt.Errorf("schedstat of %d: %w", pid, err)
			}
			ns += n
		}
	}
	return ns, nil
}

// pss returns the proportional share of memory of a process in bytes, without its mappings of the segments that skip names; it must have all of them.
func pss(pid int, skip ...string) (bytes int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, err
	}
	counts, seen := true, map[string]bool{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case len(f) >= 5 && strings.Contains(f[0], "-"): // the head of a mapping
			counts = len(f) < 6 || !slices.Contains(skip, strings.TrimPrefix(f[5], "/memfd:"))
			if !counts {
				seen[f[5]] = true
			}
		case f[0] == "Pss:" && counts:
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("smaps of %d: %w", pid, err)
			}
			bytes += n << 10
		}
	}
	if len(seen) != len(skip) {
		return 0, fmt.Errorf("smaps of %d has %d of the mappings %q: what is to be left out would be counted", pid, len(seen), skip)
	}
	return bytes, nil
}
