package daemon_test

import (
	le "encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
	"github.com/shmd/shmd/pkg/shm"
)

// change has fn write to the memory of a segment of a region without a daemon.
func change(t *testing.T, d *testregion.Region, segment string, fn func(b []byte)) {
	t.Helper()
	l, err := control.Find(d.Name, d.Dir, uint32(os.Geteuid()))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", l.Segments[segment].File().Fd()), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := region.Open(f, region.OpenOptions{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	fn(s.Bytes())
	s.Close()
}

// A damaged head of what workers may write costs that segment, and a restart of those that use it: the rest of the region is adopted.
func TestAdoptionOfDamage(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+"[channel.other]\nkind = \"queue\"\nslots = 4\nslot_size = \"64B\"\n"+
		idle("user", "count = 2", `consume = ["jobs"]`)+idle("free", `consume = ["other"]`)+idle("torn"))
	r := d.Attach(shm.Options{Produce: []string{"jobs", "other"}})
	other, err := r.Queue("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Send(within(t), []byte("kept")); err != nil {
		t.Fatal(err)
	}
	before, generation := d.WaitReady(), generations(t, d)
	d.Kill()
	for _, name := range []string{"jobs", "group/torn"} {
		change(t, d, name, func(b []byte) { copy(b, strings.Repeat("\xa5", 64)) })
	}
	d.Again()
	d.WaitLog("a segment was damaged", `"segment":"jobs"`)
	d.WaitLog("a segment was damaged", `"segment":"group/torn"`)
	after := d.WaitWorkers("the users run anew", func(ws []protocol.Worker) bool {
		for _, name := range []string{"user.0", "user.1", "torn.0"} {
			if w := byName(t, ws, name); w.State != protocol.StateReady || w.Pid == byName(t, before, name).Pid {
				return false
			}
		}
		return true
	})
	if now := byName(t, after, "free.0"); now.Pid != byName(t, before, "free.0").Pid {
		t.Errorf("a worker that uses nothing that was damaged was restarted: %+v", now)
	}
	if now := generations(t, d); len(now) != 1 || now[0] != generation[0] {
		t.Errorf("generations %v, then %v", generation, now)
	}
	again := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs", "other"}})
	q, err := again.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Send(within(t), []byte("new")); err != nil {
		t.Error(err)
	}
	if other, err = again.Queue("other"); err != nil {
		t.Fatal(err)
	}
	m, err := other.Receive(within(t))
	if err != nil || string(m.Bytes()) != "kept" {
		t.Errorf("%v, %v", m, err)
	}
	m.Ack()
}

// Keys that lie in the memory stay what they are, and that is told.
func TestChangedKeysAreTold(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+"[channel.c]\nkind = \"queue\"\nslots = 4\nslot_size = \"64B\"\nmax_deliveries = 5\n[channel.t]\nkind = \"topic\"\nslots = 4\nslot_size = \"64B\"\noverflow = \"block\"\n"+idle("w", `consume = ["c", "t"]`))
	d.Kill()
	path := filepath.Join(d.Dir, "shmd.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer("max_deliveries = 5", "max_deliveries = 3", `overflow = "block"`, `overflow = "drop-oldest"`, "[region]\n", "[region]\nlog_size = \"4MiB\"\n").Replace(string(text))
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Again()
	d.WaitLog("the region keeps what its memory says", `"key":"log_size"`, `"is":"1MiB"`, `"configured":"4MiB"`)
	d.WaitLog("keeps what its memory says", `"channel":"c"`, `"key":"max_deliveries"`, `"is":5`, `"configured":3`)
	d.WaitLog("keeps what its memory says", `"channel":"t"`, `"key":"overflow = \"drop-oldest\""`, `"is":false`, `"configured":true`)
	d.WaitLog("region adopted")
}

// An outsider that detaches while no daemon lives is none for the next.
func TestOutsiderThatDetachedMeanwhile(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+idle("w"))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Name: "leaver"})
	d.Kill()
	r.Close()
	d.Again()
	d.WaitLog("an outsider holds nothing of the region any more", `"name":"leaver"`)
	d.WaitLog("region adopted", `"outsiders":0`)
	text, errs, code := d.Shmctl("events", "detach", "-o", "json")
	if code != 0 || !strings.Contains(text, `"while no daemon lived"`) || !strings.Contains(text, `"leaver"`) {
		t.Errorf("events: %s%s", text, errs)
	}
}

// A set over which three daemons have died in a row is set aside.
func TestThreeDeathsInAdoption(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w"))
	p, generation := watch(t, d.WaitReady()[0].Pid), generations(t, d)
	adopting := func(n int) {
		change(t, d, "roster", func(b []byte) {
			roster, err := protocol.OpenRoster(b)
			if err != nil {
				t.Fatal(err)
			}
			for range n {
				roster.Adopting()
			}
		})
	}
	d.Kill()
	adopting(2)
	d.Again()
	d.WaitLog("region adopted")
	d.Kill()
	adopting(3) // the one that came through has set it to 0
	d.Again()
	d.WaitLog("cannot be adopted", "3 daemons in a row died while they adopted it")
	p.ended(t)
	d.WaitReady()
	if now := generations(t, d); len(now) != 1 || now[0] == generation[0] {
		t.Errorf("generations %v, then %v", generation, now)
	}
}

// A daemon that died while it wrote a worker's row left it torn: the next one believes nothing of it, and finds the process all the same.
func TestAdoptionOfTornRow(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w", "count = 3"))
	before := d.WaitReady()
	d.Kill()
	change(t, d, "roster", func(b []byte) {
		at := le.LittleEndian.Uint64(b[protocol.SizeofSegmentHeader+protocol.OffsetofRosterInfoWorkerOffset:]) + protocol.SizeofWorkerRow + protocol.OffsetofWorkerRowSeq
		le.LittleEndian.PutUint32(b[at:], le.LittleEndian.Uint32(b[at:])|1)
	})
	d.Again()
	d.WaitLog("region adopted", `"living":3`)
	for _, w := range d.WaitReady() {
		if old := byName(t, before, w.Name); w.Pid != old.Pid || w.Attachment != old.Attachment {
			t.Errorf("%+v became %+v", old, w)
		}
	}
}
