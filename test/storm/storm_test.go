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
	if role == "logger" {
		return logging()
	}
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
	switch role {
	case "feeder":
		return feed(ctx, r, l)
	case "collector":
		return collect(ctx, r, l)
	case "setter", "watcher":
		v, err := r.Latest("value")
		if err != nil {
			return err
		}
		r.Ready()
		if role == "setter" {
			return setting(v, l, r)
		}
		return watching(v, l, r)
	case "caller", "server":
		c, err := r.Call("work")
		if err != nil {
			return err
		}
		r.Ready()
		if role == "caller" {
			return calling(ctx, c, l, r)
		}
		return serving(ctx, c, l)
	case "publisher", "subscriber":
		t, err := r.Topic("news")
		if err != nil {
			return err
		}
		if role == "publisher" {
			return publishing(ctx, t, l, r)
		}
		return subscribing(ctx, t, l, r)
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
	sc := begin(t, 0, "[channel.jobs]\nslots = 32\nslot_size = \"56B\"\nmax_deliveries = 0\n"+ends,
		group{"producer", "produce", "jobs", count}, group{"consumer", "consume", "jobs", count})
	r, l := sc.r, sc.l
	took := sc.rampage(kills, 200)
	killed := sc.killed

	// The storm is over: producers stop, consumers finish what is there.
	sc.stop("producer")
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	sc.until("the queue does not drain", func() bool {
		s, err := q.Stat()
		return err == nil && s.Free == s.Slots
	})
	sc.stop("consumer")

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

// scene is a region with workers that are killed, and their ledger.
type scene struct {
	t      *testing.T
	d      *testregion.Region
	r      *shm.Region
	l      *ledger
	ctx    context.Context
	rng    *rand.Rand
	killed map[string]int // by group
}

// group is a group of workers: its name is also its role.
type group struct {
	name, end, channel string // end: produce or consume
	count              int
}

// begin starts a region with one channel and its workers. Stream tells this test's chances from another's with the same seed.
func begin(t *testing.T, stream uint64, channel string, groups ...group) *scene {
	path := t.TempDir() + "/ledger"
	l, closeLedger, err := openLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeLedger)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	toml := "[region]\nname = \"test\"\n" + channel
	for _, g := range groups {
		toml += fmt.Sprintf("[worker.%s]\ncommand = [%q]\ncount = %d\n%s = [%q]\nbackoff_min = \"1ms\"\nbackoff_max = \"1ms\"\ncrash_limit = 0\nenv = { STORM_ROLE = %q, STORM_LEDGER = %q }\n",
			g.name, exe, g.count, g.end, g.channel, g.name, path)
	}
	d := testregion.Start(t, toml)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute+time.Duration(number(t, "SHMD_KILLS", 2000))*30*time.Millisecond)
	t.Cleanup(cancel)
	return &scene{t, d, d.Attach(shm.Options{Name: "storm", Consume: []string{groups[0].channel}, Operate: true}), l, ctx,
		rand.New(rand.NewPCG(uint64(number(t, "SHMD_SEED", 1)), stream)), map[string]int{}}
}

// rampage kills workers, with up to gap messages between two kills, and returns how long it took.
func (sc *scene) rampage(kills, gap int) time.Duration {
	t := sc.t
	begin := time.Now()
	for n := 0; n < kills; {
		ws, err := sc.r.Workers()
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
			if err := sc.r.WaitChange(sc.ctx); err != nil {
				t.Fatalf("no worker became ready: %v\n%s", err, tail(sc.d.Log()))
			}
			continue
		}
		w := ready[sc.rng.IntN(len(ready))]
		if kill(w) {
			sc.killed[strings.TrimRight(w.Name, ".012")]++
			if n++; n%500 == 0 {
				t.Logf("%d kills, %d messages, %v", n, sc.l.next.Load(), time.Since(begin).Round(time.Second))
			}
		}
		// A moment of traffic before the next: until some messages more have been numbered, or not even that. Of eight kills one waits for them
		// however long they take: that there is traffic at all must not hang on how fast workers start beside what else the machine does.
		until, patient := sc.l.next.Load()+uint64(sc.rng.IntN(gap)), sc.rng.IntN(8) == 0
		for spin := 0; sc.l.next.Load() < until && (patient || spin < 1_000); spin++ {
			if sc.ctx.Err() != nil {
				t.Fatalf("after %d kills no message comes any more\n%s", n, tail(sc.d.Log()))
			}
			yield()
		}
	}
	return time.Since(begin)
}

// until waits for what has to happen by itself.
func (sc *scene) until(what string, ok func() bool) {
	for deadline := time.Now().Add(testregion.Limit); !ok(); yield() {
		if time.Now().After(deadline) {
			sc.t.Fatalf("wedged: %s\n%s", what, tail(sc.d.Log()))
		}
	}
}

func (sc *scene) stop(groups ...string) {
	for _, g := range groups {
		if _, errs, code := sc.d.Shmctl("stop", g); code != 0 {
			sc.t.Fatalf("stop: %s", errs)
		}
	}
}

func yield() { syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }

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
