package crashpoint

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestReload kills a daemon while one reload removes a channel and the next one adds a channel of that name, at messages to the fd store and at stores, and has systemd hear nothing from
// a message on. The next daemon has the channel that the directory names, whichever the fd store has under its name.
func TestReload(t *testing.T) {
	runtime.LockOSThread() // it traces
	defer runtime.UnlockOSThread()
	count := newTally(t)
	defer count.report("a channel removed and added, daemon killed")
	adoptOrphans(t)
	d := newDomainOf(t, newFDStore(t), team{"stay", 2, ""})
	names := []string{"stay.0", "stay.1"}
	d.populate(names)
	path := filepath.Join(d.Dir, "shmd.toml")
	without := string(must(os.ReadFile(path)))
	with := without + "[channel.extra]\nslots = 4\nslot_size = \"64B\"\nmax_deliveries = 0\n"
	write := func(conf string) { check(os.WriteFile(path, []byte(conf), 0o644)) }
	write(with)
	d.anew, d.also = true, d.current
	d.stir = func() {
		write(without)
		d.Shmctl("reload") // the daemon may be killed meanwhile
		write(with)
		d.Shmctl("reload")
	}
	r := &trial{domain: d, count: count, names: names, survivors: names, before: func() {}, after: func() {}}
	var points []point
	for _, p := range r.first() {
		if strings.HasSuffix(p.what, stirredUp) {
			points = append(points, p)
		}
	}
	sent, stores := messagesOf(points)
	sent = slices.DeleteFunc(sent, func(p point) bool { return !strings.Contains(p.what, "segment") }) // shmctl attaches
	if len(sent) != 3 {                                                                                // a removal; a removal in case, and what is new
		t.Fatalf("systemd was told %v", sent)
	}
	if !torture() {
		stores = chosen(stores, 5)
	}
	if r.kill(points, append(slices.Clone(sent), stores...)) && r.unheard(sent) {
		d.follow()
	}
}
