// Package storm kills workers with SIGKILL while messages flow, and keeps a ledger of every message.
//
//	SHMD_KILLS=N     how many kills (default 2000)
//	SHMD_SEED=N      who is killed, and when (default 1)
package storm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("STORM_ROLE"); role != "" {
		if err := work(role); err != nil && !errors.Is(err, shm.ErrQuit) {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	testregion.Cleanup()
	os.Exit(code)
}

// work is what a producer and a consumer do until they are killed.
func work(role string) error {
	ctx := context.Background()
	l, closeLedger, err := openLedger(os.Getenv("STORM_LEDGER"))
	if err != nil {
		return err
	}
	defer closeLedger()
	r, err := shm.Attach(ctx, shm.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	if role == "setter" || role == "watcher" {
		v, err := r.Latest("value")
		if err != nil {
			return err
		}
		r.Ready()
		if role == "setter" {
			return setting(v, l, r)
		}
		return watching(v, l, r)
	}
	q, err := r.Queue("jobs")
	if err != nil {
		return err
	}
	r.Ready()
	if role == "producer" {
		return produce(ctx, q, l, r)
	}
	return consume(ctx, q, l)
}

// fill writes message n: its number, and the rest derived from it, over a length that depends on it too.
func fill(p []byte, n uint64) int {
	size := 16 + int(n%6)*8
	for i := 0; i < size; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], n*0x9e3779b97f4a7c15+uint64(i))
	}
	binary.LittleEndian.PutUint64(p, n)
	return size
}

// holds is how many loans a producer and how many leases a consumer holds at a time, so that a kill finds some.
const holds = 3

func produce(ctx context.Context, q *shm.Queue, l *ledger, r *shm.Region) error {
	for r.Quit().Err() == nil {
		var loans [holds]*shm.Loan
		var numbers [holds]uint64
		taken := 0
		for ; taken < holds; taken++ {
			loan, err := q.TryLoan()
			if taken == 0 && errors.Is(err, shm.ErrFull) {
				loan, err = q.Loan(ctx)
			}
			if errors.Is(err, shm.ErrFull) {
				break
			}
			if err != nil {
				return err
			}
			loans[taken], numbers[taken] = loan, l.next.Add(1)-1
			if numbers[taken] >= maxMessages {
				loan.Abort()
				return errors.New("the ledger is full")
			}
		}
		for i := taken - 1; i >= 0; i-- { // not in the order of the claims
			n := numbers[i]
			size := fill(loans[i].Bytes(), n)
			l.words[n].Or(intended)
			if err := loans[i].Commit(size); err != nil {
				return err
			}
			l.words[n].Or(committed)
		}
	}
	return nil
}

func consume(ctx context.Context, q *shm.Queue, l *ledger) error {
	for {
		m, err := q.Receive(ctx)
		if err != nil {
			return err
		}
		ms := []*shm.Message{m}
		for len(ms) < holds {
			if m, err = q.TryReceive(); err != nil {
				break
			}
			ms = append(ms, m)
		}
		for _, m := range ms {
			note(m, l)
		}
		for _, m := range ms {
			n := binary.LittleEndian.Uint64(m.Bytes())
			if err := m.Ack(); err != nil {
				return err
			}
			if n < maxMessages {
				l.words[n].Add(acked)
			}
		}
	}
}

// note judges a message that was received.
func note(m *shm.Message, l *ledger) {
	var want [64]byte
	n := binary.LittleEndian.Uint64(m.Bytes())
	if n >= maxMessages || string(m.Bytes()) != string(want[:fill(want[:], n)]) {
		l.bad[torn].Add(1)
		return
	}
	w := l.words[n].Add(received)
	if w&intended == 0 {
		l.bad[neverSent].Add(1)
	}
	if w>>16 != 0 {
		l.bad[afterAck].Add(1)
	}
}

func number(t *testing.T, name string, def int) int {
	v := os.Getenv(name)
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func TestStorm(t *testing.T) { storm(t, number(t, "SHMD_KILLS", 2000), 3, "") }

// TestLaneStorm is TestStorm for a queue with one producer and one consumer: each of them has to become the end anew.
func TestLaneStorm(t *testing.T) {
	storm(t, number(t, "SHMD_KILLS", 2000)/8, 1, "producers = 1\nconsumers = 1\n")
}

func storm(t *testing.T, kills, count int, ends string) {
	seed := number(t, "SHMD_SEED", 1)
	path := t.TempDir() + "/ledger"
	l, closeLedger, err := openLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	defer closeLedger()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	group := func(name, channels string) string {
		return fmt.Sprintf("[worker.%s]\ncommand = [%q]\ncount = %d\n%s = [\"jobs\"]\nbackoff_min = \"1ms\"\nbackoff_max = \"1ms\"\ncrash_limit = 0\nenv = { STORM_ROLE = %q, STORM_LEDGER = %q }\n",
			name, exe, count, channels, name, path)
	}
	d := testregion.Start(t, "[region]\nname = \"test\"\n[channel.jobs]\nslots = 32\nslot_size = \"56B\"\nmax_deliveries = 0\n"+ends+group("producer", "produce")+group("consumer", "consume"))
	r := d.Attach(shm.Options{Name: "storm", Consume: []string{"jobs"}, Operate: true})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()

	rng := rand.New(rand.NewPCG(uint64(seed), 0))
	begin := time.Now()
	killed := map[string]int{}
	for n := 0; n < kills; {
		ws, err := r.Workers()
		if err != nil {
			t.Fatal(err)
		}
		var ready []protocol.Worker
		for _, w := range ws {
			if w.State == protocol.StateReady {
				ready = append(ready, w)
			}
		}
		if len(ready) == 0 {
			if err := r.WaitChange(ctx); err != nil {
				t.Fatalf("no worker became ready: %v\n%s", err, tail(d.Log()))
			}
			continue
		}
		w := ready[rng.IntN(len(ready))]
		if kill(w) {
			killed[strings.TrimRight(w.Name, ".012")]++
			if n++; n%500 == 0 {
				t.Logf("%d kills, %d messages, %v", n, l.next.Load(), time.Since(begin).Round(time.Second))
			}
		}
		// A moment of traffic before the next: until some messages more have been numbered, or somebody changed state.
		for until, spin := l.next.Load()+uint64(rng.IntN(200)), 0; l.next.Load() < until && spin < 1_000; spin++ {
			syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
	took := time.Since(begin)

	// The storm is over: producers stop, consumers finish what is there.
	if _, errs, code := d.Shmctl("stop", "producer"); code != 0 {
		t.Fatalf("stop: %s", errs)
	}
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(testregion.Limit); ; {
		s, err := q.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if s.Free == s.Slots {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("wedged: the queue does not drain: %+v\n%s", s, tail(d.Log()))
		}
		syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
	}
	if _, errs, code := d.Shmctl("stop", "consumer"); code != 0 {
		t.Fatalf("stop: %s", errs)
	}

	var sent, lost, again, unsure int
	for n := range min(l.next.Load(), maxMessages) {
		w := l.words[n].Load()
		if w&committed != 0 {
			sent++
			if w>>8&0xff == 0 {
				lost++
			}
		}
		if w>>8&0xff > 1 {
			again++
		}
		if w>>8&0xff > 0 && w>>16 == 0 {
			unsure++ // its consumer was killed between the ack and the note of it
		}
	}
	s, _ := q.Stat()
	t.Logf("%d kills in %v (%v), %d messages committed, %d received more than once, %d redeliveries; lost %d, torn %d, never sent %d, again after the ack %d",
		kills, took.Round(time.Millisecond), killed, sent, again, s.Redelivered, lost, l.bad[torn].Load(), l.bad[neverSent].Load(), l.bad[afterAck].Load())
	switch {
	case lost != 0:
		t.Errorf("%d committed messages were lost", lost)
	case l.bad[torn].Load() != 0:
		t.Errorf("%d messages were torn", l.bad[torn].Load())
	case l.bad[neverSent].Load() != 0:
		t.Errorf("%d messages were seen that nobody had sent", l.bad[neverSent].Load())
	case l.bad[afterAck].Load() != 0:
		t.Errorf("%d messages came again after their ack", l.bad[afterAck].Load())
	case again > holds*killed["consumer"]:
		t.Errorf("%d messages were received more than once, with %d kills of consumers", again, killed["consumer"])
	case unsure > holds*killed["consumer"]:
		t.Errorf("%d messages were received and not acked, with %d kills of consumers", unsure, killed["consumer"])
	case sent < kills:
		t.Errorf("only %d messages in %d kills: there was no traffic", sent, kills)
	}
}

// kill kills the process that the roster names, and nothing else.
func kill(w protocol.Worker) bool {
	p, err := sys.PidfdOpen(w.Pid)
	if err != nil {
		return false
	}
	defer p.Close()
	if ticks, err := sys.StartTicks(w.Pid); err != nil || ticks != w.StartTicks {
		return false
	}
	if ended, err := sys.PidfdReadable(p); err != nil || ended {
		return false
	}
	return sys.PidfdSignal(p, syscall.SIGKILL) == nil
}

func tail(s string) string { return s[max(0, len(s)-4000):] }
