package daemon_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// shmd runs a shmd that ends by itself.
func shmd(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(within(t), filepath.Join(testregion.Binaries(t), "shmd"), args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestASecondDaemonIsRefused(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+idle("w", "count = 2"))
	before := d.WaitReady()
	for _, stopped := range []bool{false, true} { // a daemon that does not answer is a daemon
		if stopped {
			d.Cmd.Process.Signal(syscall.SIGSTOP)
		}
		_, errs, code := shmd(t, []string{"RUNTIME_DIRECTORY=" + d.Dir}, "-c", filepath.Join(d.Dir, "shmd.toml"))
		want := fmt.Sprintf("shmd: the region already has a daemon: %q is run by pid %d (lock %s); stop it with `shmctl -r %[1]s stop`, or give this one another [region] name\n",
			d.Name, d.Cmd.Process.Pid, filepath.Join(d.Dir, d.Name+".lock"))
		if code != 1 || !strings.HasSuffix(errs, "\n"+want) {
			t.Errorf("exit code %d\n%swant\n%s", code, errs, want)
		}
	}
	d.Cmd.Process.Signal(syscall.SIGCONT)
	for i, w := range d.WaitReady() {
		if w != before[i] {
			t.Errorf("%+v became %+v", before[i], w)
		}
	}
}

// Who kills a daemon and starts another at once need not wait for the kernel.
func TestADaemonThatIsDyingIsAwaited(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+idle("w", "count = 1"))
	before := d.WaitReady()
	for range 30 {
		dying := d.Cmd.Process
		if err := dying.Kill(); err != nil {
			t.Fatal(err)
		}
		d.Again()
		dying.Wait()
	}
	if after := d.WaitReady(); after[0].Pid != before[0].Pid {
		t.Errorf("%+v became %+v", before[0], after[0])
	}
}

// A daemon lives on when somebody removes its runtime directory, as a cleaner of temporary files or the end of a login may. It is the region's daemon still: another one
// that finds no lock does not take its workers.
func TestASecondDaemonIsRefusedWithoutALock(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+idle("w", "count = 2"))
	before := d.WaitReady()
	if err := os.Remove(filepath.Join(d.Dir, d.Name+".lock")); err != nil {
		t.Fatal(err)
	}
	d.WaitLog("without its lock it works as before", d.Name+".lock")
	if out, errs, code := d.Shmctl("status"); code != 0 || !strings.Contains(out, "somebody has removed its lock file") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	_, errs, code := shmd(t, []string{"RUNTIME_DIRECTORY=" + d.Dir}, "-c", filepath.Join(d.Dir, "shmd.toml"))
	want := fmt.Sprintf("is run by pid %d, which lives, though its lock %s was removed; end it alone with `kill -9 %[1]d`", d.Cmd.Process.Pid, filepath.Join(d.Dir, d.Name+".lock"))
	if code != 1 || !strings.Contains(errs, want) {
		t.Errorf("exit code %d\n%swant\n%s", code, errs, want)
	}
	for i, w := range d.WaitReady() {
		if w != before[i] {
			t.Errorf("%+v became %+v", before[i], w)
		}
	}
	d.Kill()
	d.Again()
	for i, w := range d.WaitReady() {
		if w.Pid != before[i].Pid {
			t.Errorf("%s: pid %d became %d", w.Name, before[i].Pid, w.Pid)
		}
	}
}

// A region of the same name in another runtime directory is another region: neither ends, stops or finds what is the other's.
func TestTheSameNameElsewhere(t *testing.T) {
	t.Parallel()
	one := testregion.Start(t, named+idle("w", "count = 2"))
	two := one.Elsewhere()
	before := one.WaitReady()
	theirs := two.WaitReady()
	two.Kill()
	two.Again() // adopts what the dead daemon left there, and nothing else
	for i, w := range two.WaitReady() {
		if w != theirs[i] {
			t.Errorf("%+v became %+v", theirs[i], w)
		}
	}
	two.Kill()
	shmctl(t, two, "stop") // through a living process
	if _, _, code := two.Shmctl("status"); code != 4 {
		t.Errorf("status of what is stopped: exit code %d", code)
	}
	for i, w := range one.WaitReady() {
		if w != before[i] {
			t.Errorf("%+v became %+v", before[i], w)
		}
	}
}

// generations are those of the region that have memory in any process.
func generations(t *testing.T, d *testregion.Region) (list []uint64) {
	t.Helper()
	all, err := control.FindAll(d.Name, d.Dir, uint32(os.Getuid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		list = append(list, l.Generation)
		l.Close()
	}
	return list
}

// A daemon that is killed at any moment of its start leaves nothing that the next cannot adopt, or end.
func TestDaemonsKilledWhileTheyStart(t *testing.T) {
	t.Parallel()
	const seed = 1
	random := rand.New(rand.NewPCG(seed, 0))
	d := testregion.Launch(t, named+jobs+idle("w", "count = 4")+shell("ext", "exec sleep 1000", "count = 4"))
	anew := true
	for i := range 18 {
		switch k := random.IntN(9); {
		case k == 8:
			d.WaitReady()
		case !anew:
			d.WaitLog("region adopted")
		default:
			name := []string{"w", "ext"}[k/4]
			d.WaitLog("worker started", fmt.Sprintf(`"worker":"%s.%d"`, name, k%4))
		}
		d.Kill()
		if anew = i%3 == 2; anew {
			shmctl(t, d, "stop")
		}
		d.Again()
		if g := generations(t, d); len(g) != 1 {
			t.Fatalf("generations %v live", g)
		}
	}
	d.WaitReady()
	eventually(t, "ten processes hold the region: the workers, their daemon, and its guard", func() bool { return len(holders(t, d)) == 10 })
}

// A dead worker's messages come back, with a count, and go to the dead letters in the end.
func TestDeathGivesBack(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+"[channel.jobs]\nslots = 4\nslot_size = \"64B\"\nmax_deliveries = 3\n"+
		group(t, "hold", "hold", "consume = [\"jobs\"]", "produce = [\"jobs\"]", "restart = \"never\"")+idle("w"))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs", "jobs.dead"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	dead, err := r.Queue("jobs.dead")
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	for i := range 3 {
		if err := q.Send(ctx, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	d.WaitLog(`"@message":"holding"`)
	if err := q.TrySend(nil); err != shm.ErrFull {
		t.Errorf("it holds three messages and a loan: %v", err)
	}
	sent := make(chan error, 1)
	go func() { sent <- q.Send(ctx, []byte("waited")) }() // sleeps until there is room
	w := awaitState(d, "hold.0", protocol.StateReady)
	syscall.Kill(w.Pid, syscall.SIGKILL)
	var again []string // in order; where the other comes among them is not promised: it is sent as soon as there is room
	for range 4 {
		m, err := q.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		deliveries := 1
		if string(m.Bytes()) == "waited" {
			deliveries = 0
		} else {
			again = append(again, string(m.Bytes()))
		}
		if m.Deliveries() != deliveries {
			t.Errorf("%q was delivered %d times before", m.Bytes(), m.Deliveries())
		}
		m.Ack()
	}
	if !slices.Equal(again, []string{"0", "1", "2"}) {
		t.Errorf("what comes again is %q", again)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	d.WaitLog("channel repaired") // the receivers are awake before it is logged
	repaired := records(t, d, func(r record) bool { return r.Message == "channel repaired" })
	if len(repaired) != 1 || repaired[0].Channel != "jobs" || repaired[0].Leases != 3 || repaired[0].Loans != 1 {
		t.Errorf("%+v", repaired)
	}
	if _, err := dead.TryReceive(); err != shm.ErrEmpty {
		t.Errorf("dead letters: %v", err)
	}
}

// A message that kills its consumers is a dead letter after max_deliveries.
func TestPoison(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+"[channel.jobs]\nslots = 2\nslot_size = \"64B\"\nmax_deliveries = 3\ndead_slots = 2\n"+
		group(t, "once", "once", "consume = [\"jobs\"]", "count = 2", "backoff_min = \"1ms\"", "crash_limit = 0"))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs.dead"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	dead, err := r.Queue("jobs.dead")
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	const poison = 4 // twice what the dead-letter channel holds
	for i := range poison {
		if err := q.Send(ctx, fmt.Appendf(nil, "poison %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	d.WaitLog("the dead-letter channel is full", `"channel":"jobs.dead"`)
	seen := map[string]bool{}
	for range poison {
		m, err := dead.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		info, payload, err := m.Dead()
		if err != nil || info.Deliveries != 3 || info.Reason != protocol.DeadReasonMaxDeliveries || seen[string(payload)] {
			t.Errorf("%+v, %q, %v", info, payload, err)
		}
		seen[string(payload)] = true
		m.Ack()
	}
	for i := range poison {
		for k := range 3 {
			d.WaitLog(fmt.Sprintf(`"@message":"poison %d has been delivered %d times before"`, i, k))
		}
	}
	eventually(t, "all slots are free", func() bool { s, err := q.Stat(); return err == nil && s.Free == s.Slots })
}
