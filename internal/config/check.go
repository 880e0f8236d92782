package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/shmd/shmd/internal/cgroup"
	"github.com/shmd/shmd/internal/sys"
)

// Check finds what only the system can tell, and what Parse finds (for a Config made by hand):
//
//   - commands that are not there or that the group's user cannot execute, looked up in the
//     group's dir and in PATH of its env, as at the start of the worker
//   - scripts whose interpreter is not there
//   - directories, users and CPUs that are not there
//   - limits of open files above what the kernel lets any process have
//   - other limits above those of the calling process, if it may not raise them and the region has no
//     systemd unit, which has limits of its own
//   - segments that do not fit into memory, as far as is known before they are made
//   - limits of cgroups that the machine or the region's systemd unit has not
//   - more descriptors than the daemon may have open, or than fit into the fd store of its systemd unit
//
// It looks at the system as it is now and to the user that calls: a daemon may find another.
// For a user other than the caller it reads mode bits and knows no ACLs.
func (c *Config) Check() []Problem {
	s := host()
	if _, _, unit := s.store(c.Region.Name); unit {
		s.hard = nil
	}
	return c.check(s)
}

// system is what Check asks; tests put their own in.
type system struct {
	self      identity
	path      string // PATH of the daemon
	user      func(name string) (identity, error)
	hasUser   func(name string) error
	hasGroup  func(name string) error
	memory    func() (limit int64, source string, err error)
	hugePages func() (n int, size int64, err error)
	nofile    func() (most uint64, err error)
	nrOpen    func() (most int64, err error) // of open files, for any process
	hard      func(name string) (most uint64, raise bool, err error)
	store     func(region string) (unit string, most int, ok bool)
	cpus      func() ([]int, error) // that are there

	controllers func() ([]string, error)                   // of cgroup v2
	delegates   func(region string) (unit string, ok bool) // whether the region's unit may have cgroups; "": there is none
}

func host() system {
	groups, _ := os.Getgroups()
	return system{
		self:      identity{name: "this user", uid: uint32(os.Geteuid()), gids: append(groups, os.Getegid()), self: true},
		path:      os.Getenv("PATH"),
		user:      lookupUser,
		hasUser:   func(name string) error { _, err := findUser(name); return err },
		hasGroup:  func(name string) error { _, err := user.LookupGroup(name); return err },
		memory:    sys.MemoryLimit,
		hugePages: sys.HugePagesFree,
		nofile:    nofile,
		nrOpen:    nrOpen,
		hard:      hardLimit,
		store:     unitStore,
		cpus:      onlineCPUs,

		controllers: cgroup.Controllers,
		delegates:   unitDelegates,
	}
}

// CheckLimits finds limits of groups that this process, the daemon, cannot give to workers.
func (c *Config) CheckLimits() []Problem {
	v := validator{c: c}
	for i := range c.Groups {
		v.limitsOnHost(&c.Groups[i], host())
	}
	v.errs.sort()
	return v.errs
}

// CheckName finds out whether the configuration is that of the region that is wanted.
func (c *Config) CheckName(want string) []Problem {
	v := validator{c: c}
	if have := c.Region.Name; have != want {
		v.fail(path{"region", "name"}, "the region is %q, and %q is to run, which the unit's reload and stop look for; write name = %q, or call the file %s.toml and start %s", have, want, want, have, unitOf(have))
	}
	return v.errs
}

// CheckStarts is Check without the memory: what a running region needs to start other workers. The calling process is the daemon.
func (c *Config) CheckStarts() []Problem {
	v := validator{c: c, errs: c.validate()}
	v.starts(host())
	v.errs.sort()
	return v.errs
}

// CheckMemory finds out whether the channels among tables ("[channel.NAME]"), and the groups ("[worker.NAME]"), fit into memory beside what there is already, as
// far as is known before they are made.
func (c *Config) CheckMemory(tables []string) []Problem { return c.checkMemory(tables, host()) }

func (c *Config) checkMemory(tables []string, s system) []Problem {
	part := *c
	part.Channels, part.Groups = nil, nil
	part.Region.LogSize, part.Region.EventsSize = 0, 0
	for _, ch := range c.Channels {
		if slices.Contains(tables, "[channel."+ch.Name+"]") && !ch.Sparse {
			ch.MaxDeliveries = 0 // its dead letters are sparse, and may come much later
			part.Channels = append(part.Channels, ch)
		}
	}
	for _, g := range c.Groups {
		if slices.Contains(tables, "[worker."+g.Name+"]") {
			part.Groups = append(part.Groups, g)
		}
	}
	v := validator{c: &part}
	v.memory(s, "what is new")
	return v.errs
}

func (c *Config) check(s system) []Problem {
	v := validator{c: c, errs: c.validate()}
	v.starts(s)
	v.memory(s, "the region")
	v.descriptors(s)
	v.cgroupsOnHost(s)
	v.errs.sort()
	return v.errs
}

// starts checks programs, directories and users.
func (v *validator) starts(s system) {
	c := v.c
	for i := range c.Groups {
		v.onHost(&c.Groups[i], s)
		v.cpusOnHost(&c.Groups[i], s)
		v.limitsOnHost(&c.Groups[i], s)
	}
	v.people(path{"access", "observe"}, c.Access.Observe, s)
	v.people(path{"access", "operate"}, c.Access.Operate, s)
	for i := range c.Channels {
		ch := &c.Channels[i]
		at := path{"channel", ch.Name}
		v.people(at.key("allow_produce"), ch.AllowProduce, s)
		v.people(at.key("allow_consume"), ch.AllowConsume, s)
	}
}

// onHost checks one group against the system.
func (v *validator) onHost(g *Group, s system) {
	at := path{"worker", g.Name}
	id := s.self
	if g.User != "" {
		found, err := s.user(g.User)
		if err != nil {
			v.fail(at.key("user"), "%v; create it (useradd --system NAME), or name another", err)
			return // whose rights would count is unknown
		}
		if id = found; id.uid == s.self.uid {
			id.self = true
		}
	}
	base := g.Dir
	if base != "" {
		if why := id.enter(base); why != "" {
			v.fail(at.key("dir"), "%s", why)
			return
		}
	} else if wd, err := os.Getwd(); err == nil {
		base = wd
	}
	if len(g.Command) > 0 && g.Command[0] != "" {
		search, ok := g.Env["PATH"]
		if !ok {
			search = s.path
		}
		if why := id.find(g.Command[0], base, search); why != "" {
			v.fail(at.key("command"), "%s", why)
		}
	}
}

// people checks that users and groups of a list exist. A bare uid needs no entry.
func (v *validator) people(p path, list []string, s system) {
	for _, who := range list {
		name, group := strings.CutPrefix(who, "@")
		if who == "*" || badUser(name) != "" {
			continue
		}
		if _, err := strconv.ParseUint(name, 10, 32); err == nil {
			continue
		}
		has := s.hasUser
		if group {
			has = s.hasGroup
		}
		if err := has(name); err != nil {
			v.fail(p, "%v; create it, or remove %q", err, who)
		}
	}
}

// identity is whose rights count.
type identity struct {
	name string
	uid  uint32
	gids []int
	self bool // the calling process: the kernel can be asked
}

func findUser(name string) (*user.User, error) {
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		return user.LookupId(name)
	}
	return user.Lookup(name)
}

func lookupUser(name string) (identity, error) {
	u, err := findUser(name)
	if err != nil {
		return identity{}, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return identity{}, fmt.Errorf("user %s has the uid %q", name, u.Uid)
	}
	id := identity{name: "user " + name, uid: uint32(uid)}
	groups, err := u.GroupIds()
	if err != nil {
		groups = []string{u.Gid}
	}
	for _, g := range groups {
		if n, err := strconv.Atoi(g); err == nil {
			id.gids = append(id.gids, n)
		}
	}
	return id, nil
}

// mayExecute tells whether the execute bit of a file, or the search bit of a directory, is there
// for this identity.
func (id identity) mayExecute(p string, st fs.FileInfo) bool {
	if id.self {
		const xOK = 1
		return syscall.Access(p, xOK) == nil
	}
	mode := st.Mode().Perm()
	owner, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !ok || id.uid == 0:
		return st.IsDir() || mode&0o111 != 0
	case owner.Uid == id.uid:
		return mode&0o100 != 0
	case slices.Contains(id.gids, int(owner.Gid)):
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}

// enter says why the identity cannot work in a directory; "" if it can.
func (id identity) enter(dir string) string {
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("cannot look at %s: permission denied; run shmd check as root", dir)
	case err != nil:
		return fmt.Sprintf("no directory %s; create it", dir)
	case !st.IsDir():
		return fmt.Sprintf("%s is a file; give a directory", dir)
	case !id.mayExecute(dir, st):
		return fmt.Sprintf("%s may not enter %s (%v); chmod or chown it", id.name, dir, st.Mode().Perm())
	}
	return id.reach(dir)
}

// reach says which directory above p the identity may not enter; "" if it may enter all.
func (id identity) reach(p string) string {
	if real, err := filepath.EvalSymlinks(p); err == nil {
		p = real
	}
	for dir := filepath.Dir(p); ; dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err == nil && !id.mayExecute(dir, st) {
			return fmt.Sprintf("%s may not enter %s (%v); chmod or chown it", id.name, dir, st.Mode().Perm())
		}
		if dir == "/" || dir == "." {
			return ""
		}
	}
}

// find says why a worker cannot execute a program; "" if it can. A name with a slash is relative
// to base, one without is looked up in the directories of search.
func (id identity) find(name, base, search string) string {
	abs := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(base, p)
	}
	if strings.Contains(name, "/") {
		why, _ := id.execute(abs(name))
		return why
	}
	first := ""
	for _, dir := range filepath.SplitList(search) {
		why, there := id.execute(filepath.Join(abs(dir), name))
		if why == "" {
			return ""
		}
		if there && first == "" {
			first = why
		}
	}
	if first != "" {
		return first
	}
	if search == "" {
		return fmt.Sprintf("%q cannot be looked up, PATH is empty; give its full path", name)
	}
	return fmt.Sprintf("no program %q in PATH (%s); install it, or give its full path", name, search)
}

// execute says why a file cannot be executed, and whether there is one at all.
func (id identity) execute(p string) (why string, there bool) {
	st, err := os.Stat(p)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("cannot look at %s: permission denied; run shmd check as root", p), true
	case err != nil:
		return fmt.Sprintf("no program %s; install it, or correct the path", p), false
	case st.IsDir():
		return fmt.Sprintf("%s is a directory; give a program", p), true
	case !st.Mode().IsRegular():
		return fmt.Sprintf("%s is no regular file; give a program", p), true
	case !id.mayExecute(p, st):
		if st.Mode().Perm()&0o111 == 0 {
			return fmt.Sprintf("%s is not executable (%v); chmod +x it", p, st.Mode().Perm()), true
		}
		return fmt.Sprintf("%s may not execute %s (%v); chmod or chown it", id.name, p, st.Mode().Perm()), true
	}
	if why := id.reach(p); why != "" {
		return why, true
	}
	return interpreter(p), true
}

// interpreter says that the interpreter in the first line of a script is not there: the kernel
// says of the script itself that it does not exist.
func interpreter(p string) string {
	f, err := os.Open(p)
	if err != nil {
		return "" // executable need not be readable
	}
	defer f.Close()
	head := make([]byte, 256)
	n, _ := f.Read(head)
	line, ok := strings.CutPrefix(string(head[:n]), "#!")
	if !ok {
		return ""
	}
	line, _, _ = strings.Cut(line, "\n")
	words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(words) == 0 {
		return fmt.Sprintf("the first line of %s names no interpreter after #!; correct it", p)
	}
	if strings.HasSuffix(words[0], "\r") {
		return fmt.Sprintf("the lines of %s end in CR LF, so its interpreter is not found; convert it to Unix lines", p)
	}
	if _, err := os.Stat(words[0]); errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("the interpreter of %s, %s, is not there; install it, or correct the first line", p, words[0])
	}
	return ""
}

// Sizes of what a channel costs beside payload. They are the least: the memory itself is checked
// when it is made.
const (
	slotOverhead = 16
	deadOverhead = 64
	callOverhead = 32
	pageOverhead = 4096 // an instance's page in the group segment
	metricRow    = 256  // a row of an instance's metric table
)

// least returns the least that a channel and its dead letters take when they are made.
func (ch *Channel) least() int64 {
	if ch.Sparse || ch.Slots < 0 || ch.Slots > MaxSlots || ch.SlotSize < 0 || ch.SlotSize > MaxSlotSize {
		return 0
	}
	if ch.Kind == KindCall {
		return int64(ch.Slots) * (2*ch.SlotSize + callOverhead)
	}
	n := int64(ch.Slots) * (ch.SlotSize + slotOverhead)
	if ch.Kind == KindQueue && ch.MaxDeliveries > 0 && 0 < ch.DeadSlots && ch.DeadSlots <= MaxSlots {
		n += int64(ch.DeadSlots) * (ch.SlotSize + slotOverhead + deadOverhead)
	}
	return n
}

// least returns the least that a group's instances take when they are made.
func (g *Group) least() int64 {
	return saturate(0, int64(max(g.Count, 0))*(pageOverhead+g.LogSize+metricRow*int64(max(g.Metrics, 0))))
}

// memory compares the segments, which are those of what, with what there is.
func (v *validator) memory(s system, what string) {
	need := saturate(v.c.Region.LogSize, v.c.Region.EventsSize)
	var channels, most int64
	var at path
	var largest, next string
	for i := range v.c.Channels {
		ch := &v.c.Channels[i]
		channels = saturate(channels, ch.least())
		if n := ch.least(); n > most || at == nil {
			most, largest, at, next = n, ch.Name, path{"channel", ch.Name, "slots"}, "use fewer or smaller slots, or sparse = true"
		}
	}
	if v.c.Region.HugePages && len(v.c.Channels) > 0 {
		huge := path{"region", "huge_pages"}
		switch n, size, err := s.hugePages(); {
		case err != nil:
			v.fail(huge, "cannot tell how many huge pages are free: %v", err)
		case size == 0:
			v.fail(huge, "this kernel has no huge pages; remove the key")
		case channels/size >= int64(n):
			v.fail(huge, "the channels need more than %d huge pages of %s and %d are free; reserve them (sysctl vm.nr_hugepages=N), or remove the key",
				channels/size, FormatSize(size), n)
		}
		return
	}
	need = saturate(need, channels)
	for i := range v.c.Groups {
		g := &v.c.Groups[i]
		need = saturate(need, g.least())
		if n := g.least(); n > most || at == nil {
			most, largest, at, next = n, g.Name, path{"worker", g.Name, "log_size"}, "use a smaller log_size, or fewer instances"
		}
	}
	if at == nil {
		return
	}
	switch limit, source, err := s.memory(); {
	case err != nil && len(v.c.Channels) > 0:
		v.fail(at, "cannot tell how much memory is left: %v", err)
	case err == nil && need > limit:
		v.fail(at, "%s needs more than %s of memory, %s of it for %s, and %s are left (%s); %s",
			what, roughSize(need), roughSize(most), largest, roughSize(limit), source, next)
	}
}

// saturate adds two sizes; too much stays the most there is.
func saturate(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + max(b, 0)
}
