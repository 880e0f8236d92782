package daemon

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/dump"
	"github.com/shmd/shmd/pkg/protocol"
)

// failureDumps writes a dump when a worker is given up: what its group did is in the memory, and the next start changes it.
type failureDumps struct {
	last    map[string]time.Time
	running bool
	waiting []failure // while one is written; no more than are kept
	ctx     context.Context
	cancel  context.CancelFunc
	writing sync.WaitGroup
}

// failure is a worker that was given up.
type failure struct {
	worker string        // its name
	conf   *config.Group // as it was then
	reason string
}

// failurePause is how long after a dump for a group the next one is written at the earliest: its instances tend to fail together.
const failurePause = time.Minute

func newFailureDumps() *failureDumps {
	f := &failureDumps{last: map[string]time.Time{}}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// end gives up what is being written.
func (f *failureDumps) end() {
	f.cancel()
	f.writing.Wait()
}

// dumpDir is where dumps go: as the configuration says, else below the state directory that systemd made, else nowhere, "".
func dumpDir(configured string) string {
	if configured != "" {
		return configured
	}
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return filepath.Join(dir, "dumps")
	}
	return ""
}

// dumpFailure has a dump written of a worker that was given up: at once, or after those of the groups that failed just before. Where there is to be none, it says
// why. It is called in the supervisor.
func (d *Daemon) dumpFailure(w *worker, reason string) {
	f, r := d.dumps, d.conf.Region
	if dumpDir(r.DumpDir) == "" || r.Dumps == 0 {
		return
	}
	x := failure{w.row.Name, w.conf, reason}
	pending := len(f.waiting)
	if f.running {
		pending++
	}
	now := time.Now()
	last, again := f.last[w.conf.Name]
	switch ago := now.Sub(last); {
	case again && ago < failurePause:
		d.noDump(x, "skipped", fmt.Sprintf("its group's last one was %v ago: there is one in %v at most", ago.Round(time.Millisecond), failurePause), "")
		return
	case pending >= r.Dumps:
		d.noDump(x, "skipped", fmt.Sprintf("%s of other groups come before it, and no more are kept", plural(pending, "dump")), "raise dumps in [region]")
		return
	}
	f.last[w.conf.Name] = now
	if f.running {
		f.waiting = append(f.waiting, x)
		return
	}
	d.writeDump(x)
}

// noDump tells that no dump of a failed group was written.
func (d *Daemon) noDump(x failure, cause, why, next string) {
	const what = "no dump of a failed group"
	if fields := []any{"group", x.conf.Name, "worker", x.worker, "error", why}; next == "" {
		d.log.Info(what, fields...)
	} else {
		d.log.Warn(what, append(fields, "next", next)...)
	}
	d.event(eventDump, x.conf.Name, cause, "worker", x.worker, "reason", why)
}

// endDumps gives up what is being written and what waits, at the end of the daemon, when the supervisor has ended.
func (d *Daemon) endDumps() {
	d.dumps.end()
	for _, x := range d.dumps.waiting {
		d.noDump(x, "skipped", "the daemon ends, and others were written before it", "")
	}
	d.dumps.waiting = nil
}

// writeDump writes a dump beside the supervisor's work, and then the next.
func (d *Daemon) writeDump(x failure) {
	f, r, now := d.dumps, d.conf.Region, time.Now()
	dir := dumpDir(r.DumpDir)
	f.running = true
	h := d.mem.header
	m := dump.Manifest{Region: h.Region, Generation: fmt.Sprintf("%016x", h.Generation), BootID: fmt.Sprintf("%x", h.BootID), Taken: now.UTC(),
		Reason: fmt.Sprintf("worker %s failed: %s", x.worker, x.reason), By: "shmd " + d.version, Layout: fmt.Sprintf("%d.%d", protocol.LayoutMajor, protocol.LayoutMinor),
		Daemon: dump.Daemon{Pid: d.info.Pid, State: d.info.State.String(), Version: d.version, Config: d.info.Config}}
	sources := d.dumpSources(x.conf, r.DumpSize)
	path := filepath.Join(dir, fmt.Sprintf("%s.%s.%s.dump", h.Region, x.conf.Name, m.Taken.Format("20060102T150405Z")))
	f.writing.Go(func() {
		err := os.MkdirAll(dir, 0o700)
		dropUnfinished(dir, h.Region)
		if err == nil {
			_, err = dump.WriteFile(f.ctx, path, m, sources, nil)
		}
		gone := prune(dir, h.Region, r.Dumps)
		if err != nil && f.ctx.Err() != nil {
			d.noDump(x, "skipped", "the daemon ends while it is written", "")
			return
		}
		d.post(func() {
			f.running = false
			if err != nil {
				d.noDump(x, "failed", err.Error(), "mend that, or set dumps = 0 in [region]")
			} else {
				d.log.Info("dump of a failed group", "group", x.conf.Name, "file", path, "removed", gone, "next", "shmctl verify "+path)
				d.event(eventDump, x.conf.Name, "written", "worker", x.worker, "file", path)
			}
			for len(f.waiting) > 0 && !f.running {
				x, f.waiting = f.waiting[0], f.waiting[1:]
				if dumpDir(d.conf.Region.DumpDir) == "" { // a reload took it away
					d.noDump(x, "skipped", "there is no directory for it any more", "set dump_dir in [region]")
					continue
				}
				d.writeDump(x)
			}
		})
	})
}

// dumpSources are the segments for a dump of a failed group, those that say most about it first, as many as have no more than most bytes of memory together.
func (d *Daemon) dumpSources(conf *config.Group, most int64) (list []dump.Source) {
	rank := func(name string) int {
		switch {
		case name == "roster":
			return 0
		case name == "command", name == "log", name == "group/"+conf.Name:
			return 1
		case slices.Contains(conf.Channels(), name):
			return 2
		}
		return 3
	}
	for name, s := range d.mem.segments {
		list = append(list, dump.Source{Segment: dump.Segment{Name: name, Kind: "", Size: s.Size(), Inode: s.Inode()}, R: s.readOnly})
	}
	held := map[string]int64{} // holes cost nothing
	for name, s := range d.mem.segments {
		held[name] = s.Held()
	}
	slices.SortFunc(list, func(a, b dump.Source) int {
		return cmp.Or(cmp.Compare(rank(a.Name), rank(b.Name)), cmp.Compare(held[a.Name], held[b.Name]), cmp.Compare(a.Name, b.Name))
	})
	for i := range list {
		s := &list[i]
		if h, err := protocol.ReadHeader(d.mem.segments[s.Name].Bytes()); err == nil {
			s.Kind = h.Kind.String()
		}
		if held[s.Name] > most {
			s.Missing, s.R = fmt.Sprintf("it would make the dump larger than dump_size = %d in [region]", d.conf.Region.DumpSize), nil
			continue
		}
		most -= held[s.Name]
	}
	return list
}

// dropUnfinished removes what daemons of a region that were killed while they wrote a dump have left: see outfile.Create. There is one daemon, and it writes
// one at a time.
func dropUnfinished(dir, region string) {
	paths, _ := filepath.Glob(filepath.Join(dir, "."+region+".*.[0-9]*T[0-9]*Z.dump.[0-9]*"))
	for _, path := range paths {
		os.Remove(path)
	}
}

// prune removes the oldest automatic dumps of a region, so that keep are left, and returns how many it removed.
func prune(dir, region string, keep int) (gone int) {
	paths, err := filepath.Glob(filepath.Join(dir, region+".*.dump"))
	if err != nil {
		return 0
	}
	when := func(path string) string { return path[strings.LastIndexByte(strings.TrimSuffix(path, ".dump"), '.'):] }
	slices.SortFunc(paths, func(a, b string) int { return cmp.Compare(when(a), when(b)) })
	for len(paths) > keep {
		if os.Remove(paths[0]) == nil {
			gone++
		}
		paths = paths[1:]
	}
	return gone
}
