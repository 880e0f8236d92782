package daemon_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// ends are the workers in the order in which their processes ended.
func ends(t *testing.T, d *testregion.Region) (names []string) {
	for _, r := range records(t, d, func(r record) bool { return r.Message == "worker ended" || r.Message == "worker died" }) {
		names = append(names, r.Worker)
	}
	return names
}

func TestGroupsAfterGroups(t *testing.T) {
	t.Parallel()
	toml := named + jobs +
		group(t, "web", "ready", "after = [\"api\"]", "count = 2") +
		group(t, "api", "ready", "after = [\"db\", \"init\"]") +
		shell("init", "exit 0", "restart = \"on-failure\"") +
		group(t, "db", "late", "consume = [\"jobs\"]")
	d := testregion.Launch(t, toml)
	awaitState(d, "db.0", protocol.StateStarting)
	for name, reason := range map[string]string{"api.0": "waits for group db", "web.1": "waits for group api"} {
		if w := awaitState(d, name, protocol.StateWaiting); w.Reason != reason || w.Pid != 0 {
			t.Errorf("%+v", w)
		}
	}
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Send(within(t), nil); err != nil { // db is ready then
		t.Fatal(err)
	}
	w := awaitState(d, "web.1", protocol.StateReady)
	awaitState(d, "web.0", protocol.StateReady)

	shmctl(t, d, "stop", "db") // alone: the others go on
	if again := awaitState(d, "web.1", protocol.StateReady); again.Pid != w.Pid {
		t.Errorf("%+v", again)
	}
	shmctl(t, d, "restart", "--no-wait", "api.0") // but it cannot start now
	awaitState(d, "api.0", protocol.StateWaiting)
	shmctl(t, d, "start", "--no-wait", "db")
	if err := q.Send(within(t), nil); err != nil {
		t.Fatal(err)
	}
	awaitState(d, "api.0", protocol.StateReady)
	for _, how := range []string{"signal", "shmctl", "shmctl without a daemon"} {
		before := len(ends(t, d))
		switch how {
		case "signal":
			d.Cmd.Process.Signal(syscall.SIGTERM)
		case "shmctl":
			shmctl(t, d, "stop")
		default:
			d.Kill()
			shmctl(t, d, "stop")
			return
		}
		d.WaitLog("region stopped")
		if got := fmt.Sprint(ends(t, d)[before:]); got != "[web.0 web.1 api.0 db.0]" && got != "[web.1 web.0 api.0 db.0]" {
			t.Errorf("%s: ended in the order %s", how, got)
		}
		d = testregion.Launch(t, strings.ReplaceAll(toml, "late", "ready"))
		awaitState(d, "web.0", protocol.StateReady)
		awaitState(d, "web.1", protocol.StateReady)
	}
}

// A crash of one ends all of its group, and all are started again, when none of them has a process any more.
func TestResetGroup(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w", "count = 4", "on_crash = \"reset-group\"", "backoff_min = \"1ms\"", "crash_limit = 2")+idle("other"))
	before := d.WaitReady()
	for range 2 {
		w := awaitState(d, "w.2", protocol.StateReady)
		syscall.Kill(w.Pid, syscall.SIGKILL)
		for i := range 4 {
			old := before[i]
			before[i] = await(d, old.Name, func(w protocol.Worker) bool { return w.State == protocol.StateReady && w.Pid != old.Pid })
			if before[i].Restarts != old.Restarts+1 {
				t.Errorf("%+v", before[i])
			}
		}
	}
	ending := false
	for running, all := 0, records(t, d, func(r record) bool { return r.Group == "w" }); len(all) > 0; all = all[1:] {
		switch all[0].Message {
		case "worker started":
			if ending && running > 0 {
				t.Errorf("%s was started while %d of its group were there still", all[0].Worker, running)
			}
			running++
			ending = false
		case "worker died", "worker ended":
			running--
			ending = true
		}
	}
	w := awaitState(d, "w.2", protocol.StateReady)
	syscall.Kill(w.Pid, syscall.SIGKILL)
	awaitState(d, "w.2", protocol.StateFailed)
	for _, name := range []string{"w.0", "w.1", "w.3"} {
		if w := awaitState(d, name, protocol.StateFailed); !strings.HasPrefix(w.Reason, "w.2 was given up, and with it its group: ended 3 times") {
			t.Errorf("%+v", w)
		}
	}
	if w := awaitState(d, "other.0", protocol.StateReady); w.Restarts != 0 {
		t.Errorf("%+v", w)
	}
	shmctl(t, d, "start", "w")
	for _, name := range []string{"w.0", "w.1", "w.2", "w.3"} {
		awaitState(d, name, protocol.StateReady)
	}
}

func init() {
	// ready attaches, is ready, and waits.
	roles["ready"] = func() error {
		r, err := shm.Attach(context.Background(), shm.Options{})
		if err != nil {
			return err
		}
		r.Ready()
		return r.WaitQuit(context.Background())
	}
}
