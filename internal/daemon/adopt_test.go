package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// byName finds a worker's row.
func byName(t *testing.T, ws []protocol.Worker, name string) protocol.Worker {
	t.Helper()
	for _, w := range ws {
		if w.Name == name {
			return w
		}
	}
	t.Fatalf("no worker %q in %+v", name, ws)
	return protocol.Worker{}
}

func everyone([]protocol.Worker) bool { return true }

// A daemon takes over the region of one that was killed: memory, workers, what they hold and what was asked for meanwhile.
func TestAdoption(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+idle("w", "count = 5", "restart = \"always\"")+shell("ext", "while read -r line; do echo \"said $line\"; done <\"$FIFO\"; exec sleep 1000", "env.FIFO = \"FIFO\"")+
		group(t, "hold", "hold", "consume = [\"jobs\"]", "produce = [\"jobs\"]", "restart = \"never\"")+idle("calm"))
	_ = d
	shmctl(t, d, "stop", "calm")
	awaitState(d, "calm.0", protocol.StateExited)
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	ws := d.WaitWorkers("as wanted", everyone)
	before := generations(t, d)

	d.Kill()
	killed, stopped, restarted := watch(t, byName(t, ws, "w.1").Pid), watch(t, byName(t, ws, "w.2").Pid), watch(t, byName(t, ws, "w.3").Pid)
	syscall.Kill(killed.pid, syscall.SIGKILL)
	killed.ended(t)
	shmctl(t, d, "stop", "w.2") // shmctl does it itself
	stopped.ended(t)
	if err := q.Send(within(t), []byte("while nobody watches")); err != nil {
		t.Errorf("an outsider sends: %v", err)
	}
	d.Again()
	d.WaitLog("region adopted", `"ended":2`, `"outsiders":1`)
	after := d.WaitWorkers("the killed one runs again", func(ws []protocol.Worker) bool {
		w := byName(t, ws, "w.1")
		return w.State == protocol.StateReady && w.Pid != killed.pid
	})
	for _, w := range after {
		old := byName(t, ws, w.Name)
		switch w.Name {
		case "w.1":
			if w.Restarts != old.Restarts+1 {
				t.Errorf("killed while no daemon lived: %+v", w)
			}
		case "w.2":
			if w.State != protocol.StateExited || w.Reason != "stopped" {
				t.Errorf("stopped while no daemon lived: %+v", w)
			}
		default:
			if w != old {
				t.Errorf("%+v became %+v", old, w)
			}
		}
	}
	if now := generations(t, d); len(now) != 1 || len(before) != 1 || now[0] != before[0] {
		t.Errorf("generations %v, then %v", before, now)
	}
	if err := q.Send(within(t), []byte("and after")); err != nil {
		t.Errorf("an outsider sends: %v", err)
	}

	d.Kill() // the outsider lives on: the next daemon knows its death
	shmctl(t, d, "restart", "--no-wait", "w.3")
	d.Again()
	restarted.ended(t)
	d.WaitWorkers("the restart that nobody was there for is carried out", func(ws []protocol.Worker) bool {
		w := byName(t, ws, "w.3")
		return w.State == protocol.StateReady && w.Pid != restarted.pid
	})
	r.Close()
}

// A worker's output is read by the next daemon: what it wrote while none lived, and what it writes then.
func TestAdoptedOutput(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(testregion.Dir(t), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	d := testregion.Start(t, named+shell("ext", "echo begins; while read -r line; do echo \"said $line\"; done <'"+fifo+"'"))
	say, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer say.Close()
	d.WaitLog("begins")
	d.Kill()
	say.WriteString("to nobody\n")
	d.Again()
	d.WaitLog("said to nobody", `"worker":"ext.0"`)
	say.WriteString("to somebody\n")
	d.WaitLog("said to somebody")
}

// A region that does not fit to the configuration is refused with the reason, and set aside: its workers quit, and a new one begins.
func TestAdoptionRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ was, is, reason string }{
		{"[channel.c]\nkind = \"queue\"\nslots = 4\nslot_size = \"64B\"\n" + idle("w", `consume = ["c"]`), "[channel.c]\nkind = \"queue\"\nslots = 8\nslot_size = \"64B\"\n" + idle("w", `consume = ["c"]`), `its channel \"c\" has slots = 4 and slot_size = 64, in the configuration 8 and 64`},
	} {
		d := testregion.Start(t, named+c.was)
		p := watch(t, d.WaitReady()[0].Pid)
		before := generations(t, d)
		d.Kill()
		path := filepath.Join(d.Dir, "shmd.toml")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(text), c.was, c.is, 1)
		if changed == string(text) {
			t.Fatalf("the configuration is the same:\n%s", text)
		}
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		d.Again()
		d.WaitLog("cannot be adopted", c.reason)
		p.ended(t)
		d.WaitReady()
		if now := generations(t, d); len(now) != 1 || now[0] == before[0] {
			t.Errorf("generations %v, then %v", before, now)
		}
	}
}
