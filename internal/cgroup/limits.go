package cgroup

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// limit is a limit of a cgroup.
type limit struct {
	name       string // in the configuration
	controller string // of the kernel
	file       func() string
	none       string // what the kernel has before anybody says anything
	least      int64
	most       int64 // 0: no bound
	unlimited  bool  // it may be
	text       func(value int64) string
}

func named(name string) func() string { return func() string { return name } }

func plain(v int64) string { return strconv.FormatInt(v, 10) }

// cpuPeriod is the time in which the CPU time of cpu.max is given, in microseconds: the kernel's own choice.
const cpuPeriod = 100_000

// all are the limits that there are.
var all = []limit{
	{"memory_max", "memory", named("memory.max"), "max", 0, 0, true, plain},
	{"memory_high", "memory", named("memory.high"), "max", 0, 0, true, plain},
	{"memory_swap_max", "memory", named("memory.swap.max"), "max", 0, 0, true, plain},
	{"cpu_max", "cpu", named("cpu.max"), fmt.Sprintf("max %d", cpuPeriod), 1, 1_000_000, true,
		func(v int64) string { return fmt.Sprintf("%d %d", v*(cpuPeriod/100), cpuPeriod) }}, // percent of one CPU
	{"cpu_weight", "cpu", named("cpu.weight"), "100", 1, 10_000, false, plain},
	{"pids_max", "pids", named("pids.max"), "max", 1, 0, true, plain},
	{"hugetlb_max", "hugetlb", hugetlb, "max", 0, 0, true, plain},
}

// hugetlb is the file of the limit for huge pages of the usual size.
var hugetlb = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/meminfo")
	size := "2MB"
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Hugepagesize:" {
			if n, err := strconv.ParseInt(f[1], 10, 64); err == nil && n > 0 {
				size = hugeName(n)
			}
		}
	}
	return "hugetlb." + size + ".max"
})

// hugeName writes a size in KiB as the kernel names the files of huge pages.
func hugeName(kib int64) string {
	switch {
	case kib >= 1<<20:
		return fmt.Sprintf("%dGB", kib>>20)
	case kib >= 1<<10:
		return fmt.Sprintf("%dMB", kib>>10)
	}
	return fmt.Sprintf("%dKB", kib)
}

// Names lists the limits that there are.
func Names() []string {
	var names []string
	for _, l := range all {
		names = append(names, l.name)
	}
	return names
}

// Controller is the controller that a limit needs. The limit is one of Names.
func Controller(name string) string {
	l, _ := limitNamed(name)
	return l.controller
}

// Invalid says what is wrong with the value of a limit, "" if nothing. The limit is one of Names; -1: unlimited.
func Invalid(name string, value int64) string {
	l, err := limitNamed(name)
	switch {
	case err != nil:
		return err.Error()
	case value < -1:
		return "it is below 0; write \"unlimited\" for none"
	case value < 0 && !l.unlimited:
		return fmt.Sprintf("it cannot be unlimited; use %d to %d", l.least, l.most)
	case value >= 0 && l.most > 0 && (value < l.least || value > l.most):
		return fmt.Sprintf("%d is out of range; use %d to %d", value, l.least, l.most)
	case value >= 0 && value < l.least:
		return fmt.Sprintf("%d is out of range; use %d or more", value, l.least)
	}
	return ""
}

func limitNamed(name string) (limit, error) {
	if i := slices.IndexFunc(all, func(l limit) bool { return l.name == name }); i >= 0 {
		return all[i], nil
	}
	return limit{}, fmt.Errorf("there is no limit %q of cgroups", name)
}

func sorted(limits map[string]int64) []string { return slices.Sorted(maps.Keys(limits)) }
