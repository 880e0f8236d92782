// Package cgroup gives worker groups cgroups of their own, below the one that was delegated to the daemon (cgroup v2).
//
//	UNIT                      delegated: systemd's Delegate=yes
//	├── shmd:REGION           the daemon, its guard, and the workers of groups without a cgroup
//	├── shmd:REGION:GROUP     the workers of a group, with its limits
//
// The kernel lets no process be in a cgroup whose controllers are passed on to those below it, so the daemon leaves UNIT before it sets the first
// limit. If it then dies, systemd could not put the next daemon into UNIT: LetIn, run after the end of each, makes that possible.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// prefix begins the names of all cgroups that are made here.
const prefix = "shmd:"

// Tree is the cgroup that is delegated to a daemon. It is for one goroutine.
type Tree struct {
	base    string // its directory
	region  string
	sub     bool // whoever starts the daemon puts it below base (DelegateSubgroup=)
	comes   bool // systemd could start the daemon again: lets said so
	lets    func(unit string) error
	settled bool             // nobody is in base
	killed  map[string]int64 // by group: of whom the kernel's OOM killer has killed there it was told
}

// Open finds what is delegated to this process. Of a systemd unit, lets says why LetIn is not run after the end of the daemon, nil if it is. Errors say what
// is missing, and what to do.
func Open(region string, lets func(unit string) error) (*Tree, error) {
	m, err := find()
	if err != nil {
		return nil, err
	}
	return open(region, m, lets)
}

func open(region string, m place, lets func(unit string) error) (*Tree, error) {
	t := &Tree{base: m.dir, region: region, lets: lets}
	parent := filepath.Dir(m.dir)
	switch name := filepath.Base(m.dir); {
	case m.dir == m.mount:
	case name == filepath.Base(t.leaf()): // an upgrade
		t.base = parent
	case strings.HasSuffix(parent, ".service"):
		t.base, t.sub = parent, true
	}
	if err := t.delegated(m.mount); err != nil {
		return nil, fmt.Errorf("the cgroup of %s is not delegated: %w; set Delegate=yes and ProtectControlGroups=no in the unit (see workers.conf)", filepath.Base(t.base), err)
	}
	return t, nil
}

// delegated says why the cgroup is not this process's own.
func (t *Tree) delegated(mount string) error {
	const wOK = 2
	for _, path := range []string{t.base, filepath.Join(t.base, "cgroup.procs"), filepath.Join(t.base, "cgroup.subtree_control")} {
		if err := syscall.Access(path, wOK); err != nil {
			return err
		}
	}
	if t.base == mount || syscall.Access(filepath.Dir(t.base), wOK) != nil {
		return nil
	}
	// What is above may be written too, by root, or by a user below the user's own systemd: it says by an attribute what it leaves alone.
	value := make([]byte, 1)
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		if n, err := syscall.Getxattr(t.base, name, value); err == nil && n == 1 && value[0] == '1' {
			return nil
		}
	}
	return errors.New("it belongs to systemd")
}

func (t *Tree) leaf() string { return filepath.Join(t.base, prefix+t.region) }

func (t *Tree) dir(group string) string {
	return filepath.Join(t.base, prefix+t.region+":"+group)
}

// Base is the directory of the cgroup that is delegated.
func (t *Tree) Base() string { return t.base }

// Check says why a group could not have these limits.
func (t *Tree) Check(limits map[string]int64) error {
	have, err := words(filepath.Join(t.base, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, name := range sorted(limits) {
		l, err := limitNamed(name)
		if err != nil {
			return err
		}
		if !slices.Contains(have, l.controller) {
			return fmt.Errorf("%s needs the controller %q, and %s has: %s; see Delegate= of the unit, and whether it is in cgroup v1 (/proc/cgroups)",
				name, l.controller, filepath.Base(t.base), list(have))
		}
	}
	if len(limits) == 0 || t.sub || t.comes || !strings.HasSuffix(t.base, ".service") {
		return nil
	}
	if err := t.lets(filepath.Base(t.base)); err != nil {
		return fmt.Errorf("with cgroup_limits systemd could not start a killed daemon again: %w; set ExecStopPost=shmd let-in in the unit (see workers.conf)", err)
	}
	t.comes = true
	return nil
}

// Set makes the cgroup of a group with these limits and no others, and returns its directory. What is so already stays. -1: unlimited.
func (t *Tree) Set(group string, limits map[string]int64) (dir string, err error) {
	if err := t.Check(limits); err != nil {
		return "", err
	}
	if err := t.settle(); err != nil {
		return "", err
	}
	dir = t.dir(group)
	if err := makeDir(dir); err != nil {
		return "", err
	}
	on, err := words(filepath.Join(t.base, "cgroup.subtree_control"))
	if err != nil {
		return "", err
	}
	for _, name := range sorted(limits) {
		l, _ := limitNamed(name)
		if slices.Contains(on, l.controller) {
			continue
		}
		if err := put(filepath.Join(t.base, "cgroup.subtree_control"), "+"+l.controller); err != nil {
			return "", fmt.Errorf("controller %q cannot be passed on (is another process in this cgroup?): %w", l.controller, err)
		}
		on = append(on, l.controller)
	}
	for _, l := range all {
		value, given := limits[l.name]
		path := filepath.Join(dir, l.file())
		text := l.none
		if given && value >= 0 {
			text = l.text(value)
		}
		was, err := os.ReadFile(path)
		switch {
		case !given && err != nil, err == nil && strings.TrimSpace(string(was)) == text:
			continue // there is no such controller, or it is so
		}
		if err := put(path, text); err != nil {
			return "", fmt.Errorf("cannot set %s = %s: %w", l.name, text, err)
		}
	}
	if _, ok := t.killed[group]; !ok { // who was killed before is not this daemon's to tell
		if t.killed == nil {
			t.killed = map[string]int64{}
		}
		t.killed[group] = t.kills(group)
	}
	return dir, nil
}

// kills is how many processes of a group's cgroup the kernel's OOM killer has killed; 0 where the kernel does not count that.
func (t *Tree) kills(group string) int64 {
	b, _ := os.ReadFile(filepath.Join(t.dir(group), "memory.events"))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// Killed reports whether the kernel's OOM killer has killed a process of a group that this has not reported yet: the one whose death by SIGKILL is looked
// at, unless that was somebody else's SIGKILL after one of its children had been the victim. The kernel counts, and names nobody.
func (t *Tree) Killed(group string) bool {
	told, ok := t.killed[group]
	if !ok || t.kills(group) <= told {
		return false
	}
	t.killed[group]++
	return true
}

// settle takes this process out of base, and in a unit whoever else is there: that are workers.
func (t *Tree) settle() error {
	if t.settled {
		return nil
	}
	if err := makeDir(t.leaf()); err != nil {
		return err
	}
	into := filepath.Join(t.leaf(), "cgroup.procs")
	if err := put(into, "0"); err != nil {
		return fmt.Errorf("the daemon cannot leave the cgroup %s: %w", t.base, err)
	}
	for range 100 { // who is there may be forking
		pids, err := words(filepath.Join(t.base, "cgroup.procs"))
		if err != nil {
			return err
		}
		if len(pids) == 0 || !strings.HasSuffix(t.base, ".service") {
			t.settled = true
			return nil
		}
		for _, pid := range pids {
			if err := put(into, pid); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("pid %s cannot be moved out of the cgroup %s: %w", pid, t.base, err)
			}
		}
	}
	return fmt.Errorf("processes come into the cgroup %s faster than they can be moved out", t.base)
}

// Remove removes the cgroup of a group once no process is in it. It reports whether it is gone.
func (t *Tree) Remove(group string) bool {
	if err := syscall.Rmdir(t.dir(group)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	delete(t.killed, group) // the next one counts from 0
	return true
}

// Groups lists the groups that have a cgroup.
func (t *Tree) Groups() (names []string) {
	entries, _ := os.ReadDir(t.base)
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), prefix+t.region+":"); ok && e.IsDir() {
			names = append(names, name)
		}
	}
	return names
}

// Leave removes everything that is empty, and takes this process back to where it came from: the end of a region. What cannot be removed stays.
func (t *Tree) Leave() {
	for _, group := range t.Groups() {
		t.Remove(group)
	}
	release(t.base)
	if put(filepath.Join(t.base, "cgroup.procs"), "0") == nil {
		syscall.Rmdir(t.leaf())
	}
}

// LetIn makes the unit of this process, which systemd has put into a cgroup below it (ExecStopPost=), fit for the start of a daemon: it takes the
// controllers back from the cgroups that a killed daemon left there with its workers. The next one passes them on again. Limits do not hold meanwhile.
func LetIn() error {
	m, err := find()
	if err != nil {
		return err
	}
	base := filepath.Dir(m.dir)
	if m.dir == m.mount || !strings.HasSuffix(base, ".service") {
		return fmt.Errorf("this process is in the cgroup %s, and not in one below a unit: this is for ExecStopPost= of a unit with Delegate=yes (see workers.conf)", m.dir)
	}
	return release(base)
}

// release takes all controllers back from the cgroups below base.
func release(base string) error {
	path := filepath.Join(base, "cgroup.subtree_control")
	on, err := words(path)
	for _, controller := range on {
		if err == nil {
			err = put(path, "-"+controller)
		}
	}
	return err
}

// Join moves the calling process into a cgroup.
func Join(dir string) error {
	if err := put(filepath.Join(dir, "cgroup.procs"), "0"); err != nil {
		return fmt.Errorf("cannot enter its cgroup: %w", err)
	}
	return nil
}

// Of returns the cgroup of a process as the kernel names it, if it is one that a daemon made for a group; else "".
func Of(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	if path, _ := unified(string(b)); strings.HasPrefix(filepath.Base(path), prefix) && strings.Count(filepath.Base(path), ":") == 2 {
		return path
	}
	return ""
}

// ---- the file system

func makeDir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// put writes to a file of the kernel, which is there.
func put(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

func words(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	return strings.Fields(string(b)), err
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// place is where a process is in the hierarchy of cgroup v2.
type place struct{ mount, dir string }

// Controllers lists the controllers that cgroup v2 has on this machine, as far as this process sees it. Those that it has not are in cgroup v1, or not in
// the kernel.
func Controllers() ([]string, error) {
	m, err := find()
	if err != nil {
		return nil, err
	}
	return words(filepath.Join(m.mount, "cgroup.controllers"))
}

func find() (place, error) {
	cgroups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return place{}, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return place{}, err
	}
	return locate(string(cgroups), string(mounts))
}

// unified returns the path of a process in cgroup v2, from its /proc/PID/cgroup.
func unified(cgroups string) (string, bool) {
	for line := range strings.Lines(cgroups) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return strings.TrimSuffix(path, " (deleted)"), true
		}
	}
	return "", false
}

func locate(cgroups, mounts string) (place, error) {
	path, ok := unified(cgroups)
	if !ok {
		return place{}, errors.New("this kernel has no cgroup v2: boot it with systemd.unified_cgroup_hierarchy=1")
	}
	for line := range strings.Lines(mounts) { // ID PARENT DEVICE ROOT MOUNT OPTIONS... - TYPE SOURCE OPTIONS
		f := strings.Fields(line)
		i := slices.Index(f, "-")
		if i < 6 || i+1 >= len(f) || f[i+1] != "cgroup2" {
			continue
		}
		root, mount := unescape(f[3]), unescape(f[4])
		rest, ok := path, true
		if root != "/" {
			rest, ok = strings.CutPrefix(path, root)
		}
		if !ok || rest != "" && !strings.HasPrefix(rest, "/") || strings.HasPrefix(rest, "/..") {
			continue // it shows another part of the tree
		}
		return place{filepath.Clean(mount), filepath.Join(mount, rest)}, nil
	}
	return place{}, fmt.Errorf("no mount of cgroup v2 shows the cgroup %s of this process: mount -t cgroup2 none /sys/fs/cgroup", path)
}

// unescape undoes what mountinfo does to spaces and backslashes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
