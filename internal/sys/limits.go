package sys

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Limit is a kind of resource limit (getrlimit(2)).
type Limit int

const (
	LimitNofile  Limit = unix.RLIMIT_NOFILE  // open descriptors of the process
	LimitMemlock Limit = unix.RLIMIT_MEMLOCK // bytes locked by Mlock
	LimitNproc   Limit = unix.RLIMIT_NPROC   // threads of the user
	LimitCore    Limit = unix.RLIMIT_CORE    // bytes of a core dump
	LimitAS      Limit = unix.RLIMIT_AS      // bytes of address space
	LimitData    Limit = unix.RLIMIT_DATA    // bytes of data, and of private writable mappings
	LimitStack   Limit = unix.RLIMIT_STACK   // bytes of the main thread's stack
	LimitFsize   Limit = unix.RLIMIT_FSIZE   // bytes of a file that is written
)

// LimitNamed returns the limit of a name as the shell's and systemd's are, in lower case: "nofile"; ok is false for an unknown one.
func LimitNamed(name string) (l Limit, ok bool) {
	l, ok = map[string]Limit{"nofile": LimitNofile, "memlock": LimitMemlock, "nproc": LimitNproc, "core": LimitCore, "as": LimitAS, "data": LimitData,
		"stack": LimitStack, "fsize": LimitFsize}[name]
	return l, ok
}

// Unlimited is the value of a limit that is none.
const Unlimited uint64 = unix.RLIM_INFINITY

// Getrlimit returns the limit in force and the most it can be raised to. Go raises the
// open files of its own process to the most at start.
func Getrlimit(kind Limit) (cur, max uint64, err error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(int(kind), &r); err != nil {
		return 0, 0, fail("getrlimit", err)
	}
	return r.Cur, r.Max, nil
}

// MayRaiseLimits reports whether Setrlimit may raise the hard limits of this process: CAP_SYS_RESOURCE, and that not only in a user namespace.
func MayRaiseLimits() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil || data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		return false
	}
	users, err := os.ReadFile("/proc/self/uid_map") // of the first namespace all users are themselves
	return err != nil || slices.Equal(strings.Fields(string(users)), []string{"0", "0", "4294967295"})
}

// Setrlimit sets both limits of this process and of what it execs. EPERM to raise max
// without CAP_SYS_RESOURCE, EINVAL if cur > max.
func Setrlimit(kind Limit, cur, max uint64) error {
	return fail("setrlimit", unix.Setrlimit(int(kind), &unix.Rlimit{Cur: cur, Max: max}))
}

// SpareFiles is nil if this process can open four descriptors more. With fewer Go's runtime ends it, with a trace of its own insides, as soon as it wants its
// poller, which any file, socket and pipe may make it want: so a program asks before. What is missing for its work then is an error at that place.
func SpareFiles() error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for range 4 {
		fd, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3) // the runtime has opened 0 to 2 where they were closed
		switch {
		case err == nil:
			fds = append(fds, fd)
		case errors.Is(err, unix.EMFILE):
			return fmt.Errorf("%w: %d more may be opened, and that is too few even to say what for; raise the limit (LimitNOFILE= in the unit, ulimit -n in a shell)", err, len(fds))
		}
	}
	return nil
}

// HugePagesFree returns how many huge pages of the default size (in bytes) are free and
// promised to nobody. n is 0 where none are configured, size 0 where the kernel has none.
func HugePagesFree() (n int, size int64, err error) {
	m, err := meminfo(os.ReadFile)
	if err != nil {
		return 0, 0, err
	}
	return int(max(m["HugePages_Free"]-m["HugePages_Rsvd"], 0)), m["Hugepagesize"] << 10, nil
}

// MemoryLimit returns how many bytes this process could still allocate before something
// gives, and what that something is: the least of MemAvailable and, for its memory cgroup
// and each one above it that is visible, the limit less the use. Page cache that the
// kernel would drop first does not count as use. Both versions of cgroups; never negative.
// A hint: others allocate too.
func MemoryLimit() (limit int64, source string, err error) {
	return memoryLimit(os.ReadFile)
}

type readFile func(path string) ([]byte, error)

func memoryLimit(read readFile) (limit int64, source string, err error) {
	m, err := meminfo(read)
	if err != nil {
		return 0, "", err
	}
	available, ok := m["MemAvailable"]
	if !ok {
		return 0, "", fmt.Errorf("/proc/meminfo has no MemAvailable")
	}
	limit, source = available<<10, "/proc/meminfo MemAvailable"

	cgroups, err := read("/proc/self/cgroup")
	if err != nil {
		return limit, source, nil // a kernel without cgroups
	}
	mounts, err := read("/proc/self/mountinfo")
	if err != nil {
		return 0, "", err
	}
	for _, c := range memoryCgroups(string(cgroups), string(mounts)) {
		for dir := c.dir; ; dir = path.Dir(dir) {
			if left, ok := c.kind.left(read, dir); ok && left < limit {
				limit, source = left, path.Join(dir, c.kind.limit)
			}
			if dir == c.mount || dir == "/" || dir == "." {
				break
			}
		}
	}
	return limit, source, nil
}

// cgroupKind says where a version of cgroups keeps its numbers.
type cgroupKind struct {
	limit, usage string
	cache        string // key in memory.stat of the page cache that goes first
}

var (
	cgroupV1 = cgroupKind{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}
	cgroupV2 = cgroupKind{"memory.max", "memory.current", "inactive_file"}
)

// left returns what the limit of one cgroup leaves; false if it has none.
func (k cgroupKind) left(read readFile, dir string) (int64, bool) {
	limit, ok := readNumber(read, path.Join(dir, k.limit))
	if !ok || limit > math.MaxInt64/2 { // v1 writes "none" as a number near 2^63
		return 0, false
	}
	usage, ok := readNumber(read, path.Join(dir, k.usage))
	if !ok {
		return 0, false
	}
	if stat, err := read(path.Join(dir, "memory.stat")); err == nil {
		usage -= statNumber(stat, k.cache)
	}
	return max(limit-max(usage, 0), 0), true
}

// readNumber reads a file of one number; false for "max" and for no file.
func readNumber(read readFile, p string) (int64, bool) {
	b, err := read(p)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	return n, err == nil
}

func statNumber(stat []byte, key string) int64 {
	for line := range strings.Lines(string(stat)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

type memoryCgroup struct {
	kind       cgroupKind
	mount, dir string // where the hierarchy begins, and this process's place in it
}

// memoryCgroups finds this process's memory cgroups: lines "ID:CONTROLLERS:PATH" of
// /proc/self/cgroup say which, /proc/self/mountinfo where they are to be found.
func memoryCgroups(cgroups, mounts string) []memoryCgroup {
	var found []memoryCgroup
	for line := range strings.Lines(cgroups) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		fstype, controller, kind := "cgroup", "memory", cgroupV1
		if f[0] == "0" && f[1] == "" {
			fstype, controller, kind = "cgroup2", "", cgroupV2
		} else if !contains(f[1], "memory") {
			continue
		}
		if root, mount, ok := findMount(mounts, fstype, controller); ok {
			// The mount shows the tree below root; a path outside of it is not to be seen.
			rel := ""
			if root == "/" {
				rel = f[2]
			} else if rest, ok := strings.CutPrefix(f[2], root); ok && (rest == "" || rest[0] == '/') {
				rel = rest
			}
			found = append(found, memoryCgroup{kind, mount, path.Join(mount, path.Join("/", rel))})
		}
	}
	return found
}

// findMount finds a mount by type and, unless "", by an option of its super block.
//
//	36 35 98:0 /root /mount rw,noatime master:1 - fstype source options
func findMount(mounts, fstype, option string) (root, mount string, ok bool) {
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(line, " - ")
		if !ok {
			continue
		}
		f, g := strings.Fields(before), strings.Fields(after)
		if len(f) < 6 || len(g) < 3 || g[0] != fstype || option != "" && !contains(g[2], option) {
			continue
		}
		return unescape(f[3]), unescape(f[4]), true
	}
	return "", "", false
}

func contains(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// unescape undoes the octal escapes of mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// meminfo reads /proc/meminfo as it stands there: kB, or counts of huge pages.
func meminfo(read readFile) (map[string]int64, error) {
	b, err := read("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	m := make(map[string]int64)
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		key, rest, _ := strings.Cut(s.Text(), ":")
		if f := strings.Fields(rest); len(f) > 0 {
			if n, err := strconv.ParseInt(f[0], 10, 64); err == nil {
				m[key] = n
			}
		}
	}
	return m, nil
}
