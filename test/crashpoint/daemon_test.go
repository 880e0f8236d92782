package crashpoint

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// estateConf is a region of four groups. Its workers are this test binary.
const estateConf = `[region]
name = "test"
log_size = "4MiB"
[channel.jobs]
slots = 16
slot_size = "64B"
max_deliveries = 0
`

const estateGroup = `[worker.%s]
command = [%q]
env = {SHMD_CRASHPOINT_ROLE = "worker", GOMAXPROCS = "2"}
count = %d
ready = "call" # when it has logged: one that is ready when it is executed may end before it has
metrics = 4
backoff_min = "1ms"
backoff_max = "2ms"
crash_limit = 0
%s
`

const (
	estateMessages = 5
	estateRecords  = 3 // that a process logs
)

// workerMain is a worker: it counts itself, logs, holds a message and a slot, says that it is ready, and quits when it is told to.
func workerMain() {
	r := must(shm.Attach(context.Background(), shm.Options{}))
	must(r.Counter("starts", "", "processes of this instance")).Add(1)
	log := slog.New(r.Log())
	for k := range estateRecords {
		attr := ""
		if strings.HasPrefix(r.Worker(), "left") { // so that no position in the log of left.1 is one in that of right.1
			attr = strings.Repeat("x", 500)
		}
		log.Info(fmt.Sprintf("%s %d %d", r.Worker(), os.Getpid(), k), "x", attr)
	}
	if q, err := r.Queue("jobs"); err == nil {
		q.TryReceive() // there may be none
		must(q.TryLoan())
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	go func() {
		for n := 1; ; n++ {
			<-asked
			fmt.Println(printed(r.Worker(), os.Getpid(), n))
		}
	}()
	check(r.Ready())
	r.WaitQuit(context.Background())
	os.Exit(0)
}

// printed is what a process prints when it gets SIGUSR1 for the n-th time.
func printed(name string, pid, n int) string {
	return fmt.Sprintf("%s %d prints for the %d. time", name, pid, n)
}

// domain is a region whose daemons die, seen from outside: its memory is mapped here.
type domain struct {
	*testregion.Region
	t       *testing.T
	mem     map[string][]byte
	inodes  map[string]uint64
	roster  *protocol.Roster
	command *protocol.Command
	jobs    *protocol.Queue
	groups  map[string]int   // by name
	shape   *protocol.Roster // a copy, which tells where in a roster what lies
	anew    bool             // the daemons make regions of their own: the memory is mapped when it is there

	names  map[identity]string // whose a process is
	seen   map[int]string      // processes that were ready
	before map[int]string      // those of them whose records were seen by the end of a round: later they may be overwritten
	starts map[string]uint64   // of each instance, as they were counted
	again  map[string]uint64   // its restarts
	bad    error               // what a reader saw, first
	nobody atomic.Uint32       // that nobody rings

	stir    func()                                 // what happens to a traced daemon when it has settled; nil: it is killed
	ends0   bool                                   // that is the end of the daemon, with exit code 0
	stirred atomic.Bool                            // it has
	also    func(map[string]protocol.Worker) error // what else is to be so before the region is settled after that

	store  *fdStore    // of the systemd that starts the daemons; nil: there is none
	prints map[int]int // how often processes were told to print something
}

// identity is a process that was.
type identity struct {
	pid   int
	ticks uint64
}

func newDomain(t *testing.T) *domain { return newDomainUnder(t, nil) }

// newDomainUnder is newDomain under a systemd, if there is one.
func newDomainUnder(t *testing.T, systemd *fdStore) *domain {
	return newDomainOf(t, systemd, team{"stay", 1, ""}, team{"left", 2, ""}, team{"right", 1, ""}, team{"user", 1, useJobs})
}

// team is a group of a region, with further keys.
type team struct {
	name  string
	count int
	keys  string
}

// useJobs are the keys of a group that uses the queue.
const useJobs = "consume = [\"jobs\"]\nproduce = [\"jobs\"]"

func newDomainOf(t *testing.T, systemd *fdStore, groups ...team) *domain {
	exe := must(os.Executable())
	conf := estateConf
	for _, g := range groups {
		conf += fmt.Sprintf(estateGroup, g.name, exe, g.count, g.keys)
	}
	d := &domain{Region: testregion.Launch(t, conf, systemd.env()...), store: systemd, prints: map[int]int{}, t: t, groups: map[string]int{}, names: map[identity]string{}}
	if systemd != nil {
		d.Store = systemd.handed
	}
	t.Cleanup(d.unmap)
	if err := d.open(d.Cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	d.shape = must(protocol.OpenRoster(slices.Clone(d.mem["roster"])))
	return d
}

// open maps the memory of a daemon, instead of what was mapped before. Not if it has not made it yet.
func (d *domain) open(pid int) error {
	mem, inodes := map[string][]byte{}, map[string]uint64{}
	unmap := func() {
		for _, b := range mem {
			unix.Munmap(b)
		}
	}
	fds := fmt.Sprintf("/proc/%d/fd/", pid)
	entries, err := os.ReadDir(fds)
	if err != nil {
		return err
	}
	for _, e := range entries {
		to, _ := os.Readlink(fds + e.Name())
		name, ok := strings.CutPrefix(to, "/memfd:"+d.segments())
		name = strings.TrimSuffix(name, " (deleted)")
		if !ok || mem[name] != nil {
			continue
		}
		f, err := os.OpenFile(fds+e.Name(), os.O_RDWR, 0)
		if err != nil {
			unmap()
			return err
		}
		st := must(f.Stat())
		b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		f.Close()
		if err != nil { // it has no size yet
			unmap()
			return err
		}
		mem[name], inodes[name] = b, st.Sys().(*syscall.Stat_t).Ino
	}
	roster, err := protocol.OpenRoster(mem["roster"])
	if err == nil && roster.Daemon().Pid != pid {
		err = fmt.Errorf("its daemon is %d, not %d", roster.Daemon().Pid, pid)
	}
	if err != nil {
		unmap()
		return err
	}
	if d.roster == nil || d.roster.Header().Generation != roster.Header().Generation {
		d.seen, d.before, d.starts, d.again = map[int]string{}, map[int]string{}, map[string]uint64{}, map[string]uint64{}
	}
	d.unmap()
	d.mem, d.inodes, d.roster = mem, inodes, roster
	d.command, d.jobs = must(protocol.OpenCommand(d.mem["command"])), must(protocol.OpenQueue(d.mem["jobs"]))
	for i, g := range must(d.roster.Groups()) {
		d.groups[g.Name] = i
	}
	return nil
}

func (d *domain) unmap() {
	for _, b := range d.mem {
		unix.Munmap(b)
	}
	d.mem = nil
}

// follow starts another daemon.
func (d *domain) follow() { d.Again(d.store.env()...) }

// segments is how the names of the region's memfds begin.
func (d *domain) segments() string { return "shmd:" + d.Name + ":" }

// seq is the word of a row that is odd while the row is written.
func (d *domain) seq(offset int64) *atomic.Uint32 { return word32(d.mem["roster"], offset) }

func (d *domain) workerSeq(i int) *atomic.Uint32 {
	return d.seq(d.roster.WorkerOffset(i) + protocol.OffsetofWorkerRowSeq)
}

func (d *domain) attachments() int64 {
	return d.roster.WorkerOffset(0) + int64(d.roster.WorkerCap())*protocol.SizeofWorkerRow
}

func (d *domain) attachmentSeq(id uint16) *atomic.Uint32 {
	return d.seq(d.attachments() + int64(id)*protocol.SizeofAttachmentRow + protocol.OffsetofAttachmentRowSeq)
}

// rosterTables is where the directory lies; the groups are behind it, then the workers.
const rosterTables = 4096

func (d *domain) segmentSeq(i int) *atomic.Uint32 {
	return d.seq(rosterTables + int64(i)*protocol.SizeofSegmentRow + protocol.OffsetofSegmentRowSeq)
}

func (d *domain) groupSeq(i int) *atomic.Uint32 {
	return d.seq(d.roster.WorkerOffset(0) - int64(d.roster.GroupCap()-i)*protocol.SizeofGroupRow + protocol.OffsetofGroupRowSeq)
}

// adopting is how many daemons have begun to adopt it in a row.
func (d *domain) adopting() uint32 {
	return d.seq(protocol.SizeofSegmentHeader + protocol.OffsetofRosterInfoAdopting).Load()
}

// worker is a row as a reader gets it at once; not if it is being written.
func (d *domain) worker(i int) (protocol.Worker, bool) {
	if d.workerSeq(i).Load()&1 != 0 {
		return protocol.Worker{}, false
	}
	w, err := d.roster.Worker(i)
	return w, err == nil
}

// workers are the instances by name; not ok while a row is being written, or if one is there twice.
func (d *domain) workers() (all map[string]protocol.Worker, rows map[string]int, err error) {
	all, rows = map[string]protocol.Worker{}, map[string]int{}
	for i := range d.roster.WorkerCount() {
		w, ok := d.worker(i)
		if !ok {
			return nil, nil, fmt.Errorf("row %d is torn", i)
		}
		if w.State == protocol.StateGone {
			continue
		}
		if _, twice := all[w.Name]; twice {
			return nil, nil, fmt.Errorf("%s has two rows, %d and %d", w.Name, rows[w.Name], i)
		}
		all[w.Name], rows[w.Name] = w, i
	}
	return all, rows, nil
}

// headOfRoster is where waiters are told, and where the daemon says who it is.
const headOfRoster = "the roster's head"

// place says where a store goes to.
func (d *domain) place(segment string, offset int64) place {
	if strings.HasPrefix(segment, "group/") && offset == protocol.SizeofSegmentHeader+protocol.OffsetofGroupInfoLogNap {
		return place{} // it depends on the time how often
	}
	if segment != "roster" {
		return place{fmt.Sprintf("%s, from %d on", segment, offset&^1023), -1}
	}
	workers := d.shape.WorkerOffset(0)
	attachments := workers + int64(d.shape.WorkerCap())*protocol.SizeofWorkerRow
	switch i := (offset - workers) / protocol.SizeofWorkerRow; {
	case offset >= attachments:
		return place{"attachment row", -1} // whichever: ids are given out in turn
	case offset >= workers:
		if at := offset - d.shape.WorkerOffset(int(i)); at == protocol.OffsetofWorkerRowDrained || at == protocol.OffsetofWorkerRowDrainedNumber {
			return place{fmt.Sprintf("worker row %d, drained", i), int(i)}
		}
		return place{fmt.Sprintf("worker row %d", i), int(i)}
	}
	if groups := workers - int64(d.shape.GroupCap())*protocol.SizeofGroupRow; offset >= groups {
		return place{fmt.Sprintf("group row %d", (offset-groups)/protocol.SizeofGroupRow), -1}
	} else if offset >= rosterTables {
		return place{fmt.Sprintf("directory row %d", (offset-rosterTables)/protocol.SizeofSegmentRow), -1}
	}
	return place{headOfRoster, -1}
}

// owner is the worker that a process is, "" if that cannot be known.
func (d *domain) owner(pid int, ticks uint64) string {
	id := identity{pid, ticks}
	if d.names[id] == "" {
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		now, err := sys.StartTicks(pid)
		if name, ok := variable(string(environ), "SHMD_WORKER"); ok && err == nil && now == ticks {
			d.names[id] = name
		}
	}
	return d.names[id]
}

func groupOfName(worker string) string { return worker[:strings.IndexByte(worker, '.')] }

func variable(environ, name string) (string, bool) {
	_, rest, ok := strings.Cut("\x00"+environ, "\x00"+name+"=")
	v, _, _ := strings.Cut(rest, "\x00")
	return v, ok
}

// look is a reader of one row: who is there has never another's process.
func (d *domain) look(i int) error {
	w, ok := d.worker(i)
	if !ok || w.State == protocol.StateGone || w.Process() == 0 {
		return nil
	}
	if is := d.owner(w.Process(), w.StartTicks); is != "" && is != w.Name {
		return fmt.Errorf("row %d says that %s is process %d, which is %s", i, w.Name, w.Process(), is)
	}
	return nil
}

// settled reports whether a daemon has done everything: these are the instances, all of them are ready, and what they have logged is in the region's log.
func (d *domain) settled(pid int, names []string) error {
	if is := d.roster.Daemon().Pid; is != pid {
		return fmt.Errorf("its daemon is %d, not %d", is, pid)
	}
	if n := d.adopting(); n != 0 {
		return fmt.Errorf("%d daemons are adopting it", n)
	}
	ws, rows, err := d.workers()
	if err != nil {
		return err
	}
	if have := slices.Sorted(maps.Keys(ws)); !slices.Equal(have, names) {
		return fmt.Errorf("workers are %v, not %v", have, names)
	}
	for _, w := range ws {
		if w.State != protocol.StateReady {
			return fmt.Errorf("%s is %v: %s", w.Name, w.State, w.Reason)
		}
		if d.before[w.Pid] != w.Name {
			d.seen[w.Pid] = w.Name
		}
		if is := d.owner(w.Process(), w.StartTicks); is != w.Name {
			return fmt.Errorf("%s is process %d, which is %q", w.Name, w.Pid, is)
		}
		drained, _ := d.roster.Drained(rows[w.Name])
		if head := must(protocol.OpenGroup(d.mem["group/"+groupOfName(w.Name)])).Log(w.Instance).Head(); drained != head {
			return fmt.Errorf("the log of %s is carried up to %d, and goes to %d", w.Name, drained, head)
		}
	}
	if d.also != nil && d.stirred.Load() {
		if err := d.also(ws); err != nil {
			return err
		}
	}
	return d.logged()
}

// logged says what is wrong with the region's log: each record of a worker is there once.
func (d *domain) logged() error {
	type written struct {
		text string
		at   int64 // by the worker: a pid comes again, with the same name and number, where much else is started meanwhile
	}
	n, once := map[string]int{}, map[written]bool{}
	for c := must(protocol.OpenLog(d.mem["log"])).Oldest(); ; {
		r, _, ok, err := c.Next()
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		if !ok {
			break
		}
		if r.Stream != protocol.StreamLog {
			continue
		}
		w := written{r.Text, r.Time.UnixNano()}
		if once[w] {
			return permanent{fmt.Errorf("the log has %q of %v twice", r.Text, r.Time)}
		}
		once[w] = true
		n[r.Text]++
	}
	for pid, name := range d.seen {
		for k := range estateRecords {
			if text := fmt.Sprintf("%s %d %d", name, pid, k); n[text] == 0 {
				return fmt.Errorf("the log does not have %q, but %v", text, slices.Sorted(maps.Keys(n)))
			}
		}
	}
	return nil
}

// permanent is an error that does not go away.
type permanent struct{ error }

// settle waits until the region is settled; stop ends it.
func (d *domain) settle(pid int, names []string, stop *atomic.Bool) error {
	mapped := !d.anew
	for end := time.Now().Add(patienceWithDaemon); ; {
		var err error
		if !mapped {
			err = d.open(pid)
			mapped = err == nil
		}
		word := &d.nobody
		if mapped {
			word = d.roster.ChangeWord()
		}
		v := word.Load()
		if mapped {
			err = d.settled(pid, names)
		}
		if _, ever := err.(permanent); err == nil || ever || stop.Load() || time.Now().After(end) {
			return err
		}
		sys.FutexWait(word, v, 5*time.Millisecond) // the log rings nobody here
	}
}

// stirredUp is behind the names of places after something has happened to a daemon.
const stirredUp = ", afterwards"

// traced runs a daemon until the region is settled, or until it is killed at a point. From a message at the point parked on systemd hears nothing of it.
func (d *domain) traced(at, parked point, names []string) (*storeTracer, error) {
	x := &storeTracer{segments: d.segments(), place: d.place, at: at, park: parked}
	argv := []string{filepath.Join(testregion.Binaries(d.t), "shmd"), "-c", d.Dir + "/shmd.toml"}
	env := append(os.Environ(), "RUNTIME_DIRECTORY="+d.Dir)
	if d.stir != nil {
		x.phase = func() string {
			if d.stirred.Load() {
				return stirredUp
			}
			return ""
		}
	}
	d.stirred.Store(d.stir == nil)
	if d.store != nil {
		x.notify = d.store.path
		x.files = d.store.files()
		argv = testregion.Activated(argv, d.store.names())
		env = append(slices.DeleteFunc(env, func(kv string) bool {
			return strings.HasPrefix(kv, "NOTIFY_SOCKET=") || strings.HasPrefix(kv, "INVOCATION_ID=")
		}), d.store.env()...)
	}
	last := -1
	x.visit = func(p point) {
		for _, i := range []int{p.row, last} {
			if i >= 0 && d.bad == nil && !d.anew {
				if err := d.look(i); err != nil {
					d.bad = fmt.Errorf("%v: %w", p, err)
				}
			}
		}
		last = p.row
	}
	out := must(os.CreateTemp(d.Dir, "log"))
	defer out.Close()
	defer os.Remove(out.Name())
	var stop atomic.Bool
	settled := make(chan error, 1)
	err := x.run(argv, env, out, func(pid int) {
		go func() {
			err := d.settle(pid, names, &stop)
			if err == nil && d.stir != nil && !stop.Load() {
				d.stirred.Store(true)
				if d.stir(); !d.ends0 {
					err = d.settle(pid, names, &stop)
				}
			}
			if !d.ends0 || err != nil {
				syscall.Kill(pid, syscall.SIGKILL) // it is reaped only when this has been seen
			}
			settled <- err
		}()
	})
	if d.ends0 && err == errExit0 { // its unit is down, so systemd gives up the store
		err = nil
		d.store.sync()
		d.store.drop()
	}
	stop.Store(true)
	if !d.anew { // else it may be about to be unmapped
		sys.FutexWake(d.roster.ChangeWord(), 1<<30)
	}
	if serr := <-settled; err == nil && !x.hit {
		err = serr
	}
	if err == nil {
		err = d.bad
	}
	d.bad = nil
	if err != nil {
		b, _ := os.ReadFile(out.Name())
		err = fmt.Errorf("%w; the daemon's log:\n%s", err, b)
	}
	return x, err
}

// next starts a daemon that nobody disturbs, and checks what it makes of the region.
func (d *domain) next(names []string, survivors map[string]int) error {
	if d.store != nil { // what they print while no daemon lives waits in their pipes
		d.store.sync()
		for _, pid := range survivors {
			d.prints[pid]++
			syscall.Kill(pid, syscall.SIGUSR1)
		}
	}
	d.follow()
	var never atomic.Bool
	if err := d.settle(d.Cmd.Process.Pid, names, &never); err != nil {
		return fmt.Errorf("%w; the log of the daemon that follows:\n%s", err, d.Log())
	}
	ws, rows, err := d.workers()
	if err != nil {
		return err
	}
	for name, pid := range survivors {
		if ws[name].Pid != pid {
			return fmt.Errorf("%s was process %d, and is %d", name, pid, ws[name].Pid)
		}
	}
	for name, i := range rows {
		if err := d.look(i); err != nil {
			return err
		}
		w := ws[name]
		group := groupOfName(name)
		if w.Group != d.groups[group] || fmt.Sprintf("%s.%d", group, w.Instance) != name {
			return fmt.Errorf("%s is instance %d of group %d", name, w.Instance, w.Group)
		}
		starts := uint64(0)
		for _, m := range must(protocol.OpenGroup(d.mem["group/"+group])).Metrics(w.Instance).Read() {
			if m.Name == "starts" {
				starts = m.Count
			}
		}
		known := uint64(0)
		for _, pids := range []map[int]string{d.seen, d.before} {
			for _, of := range pids {
				if of == name {
					known++
				}
			}
		}
		if starts < d.starts[name] || starts < known {
			return fmt.Errorf("%d processes of %s have counted themselves, %d are known, and the count was %d", starts, name, known, d.starts[name])
		}
		if w.Restarts < d.again[name] {
			return fmt.Errorf("%s had %d restarts, and has %d", name, d.again[name], w.Restarts)
		}
		d.starts[name], d.again[name] = starts, w.Restarts
	}
	if err := d.processes(ws); err != nil {
		return err
	}
	for _, s := range must(d.roster.Segments()) {
		if s.Inode != d.inodes[s.Name] {
			return fmt.Errorf("the segment %q is another one now", s.Name)
		}
	}
	if d.store != nil {
		if err := d.kept(survivors); err != nil {
			return err
		}
	}
	if text, errs, code := d.Shmctl("verify"); code != 0 {
		return fmt.Errorf("verify: %s%s", text, errs)
	}
	maps.Copy(d.before, d.seen)
	clear(d.seen)
	return nil
}

// noProcessBut checks that no instance has another process than it should have.
func (d *domain) noProcessBut(ws map[string]protocol.Worker) error {
	for _, e := range must(os.ReadDir("/proc")) {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environ, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		name, ok := variable(string(environ), "SHMD_WORKER")
		if region, _ := variable(string(environ), "SHMD_REGION"); ok && region == d.Name && ws[name].Pid != pid {
			return fmt.Errorf("there is a process %d of %s, which is process %d", pid, name, ws[name].Pid)
		}
	}
	return nil
}

// processes checks that each instance has one process, and each process that holds the region an attachment of its own.
func (d *domain) processes(ws map[string]protocol.Worker) error {
	if err := d.noProcessBut(ws); err != nil {
		return err
	}
	for id := uint16(1); int(id) < d.roster.AttachmentCap(); id++ {
		if d.attachmentSeq(id).Load()&1 != 0 {
			return fmt.Errorf("attachment %d is torn", id)
		}
		a, err := d.roster.Attachment(id)
		switch {
		case err != nil:
			return err
		case a.State == 0, a.Role == protocol.RoleDaemon && a.Pid == d.Cmd.Process.Pid:
			continue
		}
		if w := ws[a.Name]; a.State != protocol.AttachmentLive || w.Attachment != id || w.Pid != a.Pid || w.StartTicks != a.StartTicks {
			return fmt.Errorf("attachment %d is %+v, and that worker %+v", id, a, w)
		}
	}
	for _, w := range ws {
		if a, err := d.roster.Attachment(w.Attachment); err != nil || a.Pid != w.Pid {
			return fmt.Errorf("worker %+v has attachment %+v, %w", w, a, err)
		}
	}
	return nil
}

// state is what the region is like, but for what differs from one process to the next.
func (d *domain) state() string {
	ws, rows, err := d.workers()
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n", err)
	for _, name := range slices.Sorted(maps.Keys(ws)) {
		w := ws[name]
		fmt.Fprintf(&b, "%s: row %d, %v, group %d, instance %d, stalled %v, wanted %v, flag %d\n", name, rows[name], w.State, w.Group, w.Instance, w.Stalled,
			d.command.Wanted(rows[name], w.Group), d.command.WorkerQuit(rows[name]).Load())
	}
	for i := range d.roster.GroupCount() {
		g, err := d.roster.Group(i)
		fmt.Fprintf(&b, "%+v %v\n", g, err)
	}
	info := d.roster.Daemon()
	fmt.Fprintf(&b, "daemon %v; adopting %d\n", info.State, d.adopting())
	q := d.jobs.Stat()
	fmt.Fprintf(&b, "jobs: %d messages, %d ready, %d read, %d written\n", q.Messages, q.Ready, q.Reading, q.Writing)
	return b.String()
}

// pids are the processes of workers.
func (d *domain) pids(names ...string) map[string]int {
	ws, _, err := d.workers()
	if err != nil {
		d.t.Fatal(err)
	}
	out := map[string]int{}
	for _, name := range names {
		out[name] = ws[name].Pid
	}
	return out
}

// ends waits for the end of a process.
func (d *domain) ends(pid int) {
	f, err := sys.PidfdOpen(pid)
	if err != nil {
		return
	}
	defer f.Close()
	if ended, err := sys.PollReadable([]*os.File{f}, patienceWithDaemon); err != nil || !ended[0] {
		d.t.Fatalf("process %d does not end: %v", pid, err)
	}
}
