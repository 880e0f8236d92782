package daemon_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// A reload that makes much memory holds nobody up: what dies meanwhile is started again meanwhile.
func TestReloadBesideTheSupervisor(t *testing.T) {
	t.Parallel()
	d := testregion.Launch(t, named+shell("loops", "exit 1", `backoff_min = "1ms"`, `backoff_max = "1ms"`, "crash_limit = 0"))
	d.WaitLog("worker died")
	path := filepath.Join(d.Dir, "shmd.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, "[channel.large]\nslots = 128\nslot_size = \"4MiB\"\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	shmctl(t, d, "reload")
	begun, done, starts := false, false, 0
	for line := range strings.Lines(d.Log()) {
		var e struct {
			Message string `json:"@message"`
		}
		if json.Unmarshal([]byte(line), &e) != nil {
			continue
		}
		switch e.Message {
		case "segments are made for the new configuration":
			begun = true
		case "configuration reloaded":
			done = true
		case "worker started":
			if begun && !done {
				starts++
			}
		}
	}
	if !begun || !done || starts == 0 {
		t.Errorf("begun %v, done %v, and %d starts meanwhile", begun, done, starts)
	}
}

// Who asks for a channel at the moment at which a reload removes it gets it before, or is told that there is none.
func TestAttachBesideAReload(t *testing.T) {
	t.Parallel()
	d := testregion.Launch(t, named)
	path := filepath.Join(d.Dir, "shmd.toml")
	without, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	operator, err := attach.DialWait(ctx, d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Close()
	reload := func(text string) (applied bool) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		reply, err := operator.Reload(ctx, false)
		if err != nil {
			t.Fatal(err)
		}
		return reply.Applied
	}
	over := make(chan struct{})
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			c, err := attach.DialWait(ctx, d.Socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			for {
				select {
				case <-over:
					return
				default:
				}
				got, err := c.Attach(ctx, attach.Request{Role: attach.RoleObserve, Name: "client", Produce: []string{"jobs"}})
				if refused := (*attach.RefusedError)(nil); errors.As(err, &refused) && refused.Code == attach.CodeNoChannel {
					continue
				}
				if err == nil {
					got.Close()
					err = c.Detach(ctx)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for removed := 0; removed < 30 && !t.Failed(); {
		reload(string(without) + jobs)
		if reload(string(without)) { // nobody had it
			removed++
		}
	}
	close(over)
	clients.Wait()
}

// Of two reloads at once the one that read the file later is the one that holds, however long the other took to read.
func TestReloadsInOrder(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+idle("w", "count = 1"))
	path := filepath.Join(d.Dir, "shmd.toml")
	one, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	count := func(n string) []byte { return []byte(strings.Replace(string(one), "count = 1", "count = "+n, 1)) }
	file := filepath.Join(d.Dir, "new.toml")
	replace := func(made error) {
		t.Helper()
		if err := errors.Join(made, os.Rename(file, path)); err != nil {
			t.Fatal(err)
		}
	}
	replace(syscall.Mkfifo(file, 0o600)) // a file that takes its time
	reload := func() (done chan struct{}) {
		done = make(chan struct{})
		go func() {
			defer close(done)
			c, err := attach.DialWait(within(t), d.Socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, err := c.Reload(within(t), false); err != nil {
				t.Error(err)
			}
		}()
		return done
	}
	first := reload()
	slow, err := os.OpenFile(path, os.O_WRONLY, 0) // when the daemon has it open
	if err != nil {
		t.Fatal(err)
	}
	replace(os.WriteFile(file, count("3"), 0o600))
	second := reload()
	select {
	case <-second: // that is what must not be; it waits, and of that no event tells
	case <-time.After(time.Second):
	}
	_, err = slow.Write(count("2"))
	if err := errors.Join(err, slow.Close()); err != nil {
		t.Fatal(err)
	}
	<-first
	<-second
	d.WaitWorkers("three of them", func(ws []protocol.Worker) bool {
		return len(ws) == 3 && ws[2].State == protocol.StateReady
	})
}

// What an outsider of an earlier daemon uses is seen by what it holds: a channel that it does not can be removed.
func TestReloadBesideAnOutsiderOfAnEarlierDaemon(t *testing.T) {
	t.Parallel()
	const queue = "[channel.%]\nslots = 8\nslot_size = \"64B\"\n"
	d := testregion.Start(t, named+strings.ReplaceAll(queue, "%", "used")+strings.ReplaceAll(queue, "%", "free")+idle("w"))
	r := d.Attach(shm.Options{Consume: []string{"used"}})
	defer r.Close()
	d.Kill()
	d.Again()
	path := filepath.Join(d.Dir, "shmd.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	without := func(name string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), strings.ReplaceAll(queue, "%", name), "")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	without("used")
	out, err := exec.CommandContext(within(t), filepath.Join(testregion.Binaries(t), "shmctl"), "-s", d.Socket, "reload", "--dry-run").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "uses it: end that first") {
		t.Errorf("%v\n%s", err, out)
	}
	without("free")
	if out := shmctl(t, d, "reload"); !strings.Contains(out, "[channel.free]") {
		t.Errorf("%s", out)
	}

	// One that went out of the file while no daemon lived goes when its last user does.
	sub := exec.Command(filepath.Join(testregion.Binaries(t), "shmctl"), "-s", d.Socket, "sub", "used")
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	d.WaitLog("attached", `"name":"shmctl sub"`)
	r.Close()
	d.Kill()
	without("used")
	d.Again()
	if out := shmctl(t, d, "ch", "ls"); !strings.Contains(out, "used") {
		t.Errorf("it went beside its user:\n%s", out)
	}
	sub.Process.Kill()
	sub.Wait()
	d.WaitLog("channel removed", `"channel":"used"`)
}
