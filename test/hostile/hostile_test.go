// Package hostile lets a worker write random bits over its own channels while everybody else works.
//
//	SHMD_SEED=N      what is written (default 1)
//	SHMD_ROUNDS=N    how often every operation is tried on the damaged channels (default 40)
package hostile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
	"github.com/shmd/shmd/pkg/shm"
)

func TestMain(m *testing.M) {
	switch os.Getenv("HOSTILE_ROLE") {
	case "hostile":
		fmt.Fprintln(os.Stderr, "hostile:", flip())
		os.Exit(1)
	case "":
	default:
		os.Exit(2)
	}
	code := m.Run()
	testregion.Cleanup()
	os.Exit(code)
}

func number(name string, otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

const bad = "bad-"

// flip damages every writable segment that the daemon handed down, for ever.
func flip() error {
	var segments [][]byte
	for i, name := range strings.Split(os.Getenv("SHMD_FDS"), ",") {
		if name != "group" && !strings.HasPrefix(name, bad) {
			continue
		}
		f, err := region.FromFD(3+i, name)
		if err != nil {
			return err
		}
		s, err := region.Open(f, region.OpenOptions{Write: true})
		if err != nil {
			return err
		}
		segments = append(segments, s.Bytes())
	}
	if len(segments) < 2 {
		return fmt.Errorf("nothing to damage in %q", os.Getenv("SHMD_FDS"))
	}
	random := rand.New(rand.NewPCG(number("SHMD_SEED", 1), 0))
	values := []uint64{0, 1, 1 << 63, 1<<64 - 1, 1<<31 - 1, 0x0000_0001_0000_0000}
	for n := 0; ; n++ {
		b := segments[random.IntN(len(segments))]
		most := len(b)
		if random.IntN(4) > 0 {
			most = min(most, 6<<10) // the header, the hints, the doorbells, the first slots
		}
		at := random.IntN(most/8) * 8
		switch random.IntN(3) {
		case 0:
			b[at+random.IntN(8)] ^= 1 << random.IntN(8)
		case 1:
			binary.LittleEndian.PutUint64(b[at:], values[random.IntN(len(values))])
		case 2:
			binary.LittleEndian.PutUint64(b[at:], random.Uint64())
		}
		if n%1000 == 0 {
			runtime.Gosched() // the CPUs are for the others, too
		}
	}
}

func config(t *testing.T) string {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := "[region]\nname = \"test\"\n"
	var damaged []string
	for _, c := range []struct{ name, more string }{
		{"queue", "kind = \"queue\"\n"}, {"lane", "kind = \"queue\"\nproducers = 1\nconsumers = 1\n"}, {"topic", "kind = \"topic\"\n"},
		{"drops", "kind = \"topic\"\noverflow = \"drop-oldest\"\n"}, {"latest", "kind = \"latest\"\n"}, {"call", "kind = \"call\"\n"},
	} {
		text += fmt.Sprintf("[channel.%s%s]\nslots = 16\nslot_size = \"256B\"\n%s", bad, c.name, c.more)
		damaged = append(damaged, bad+c.name)
	}
	return text + fmt.Sprintf(`
[channel.in]
slots = 64
slot_size = "64B"
[channel.out]
slots = 64
slot_size = "64B"
[worker.honest]
builtin = "echo"
count = 2
consume = ["in"]
produce = ["out"]
[worker.hostile]
command = [%q]
env = { HOSTILE_ROLE = "hostile", SHMD_SEED = "%d" }
produce = ["%s"]
ready = "exec"
stop_timeout = "100ms"
`, exe, number("SHMD_SEED", 1), strings.Join(damaged, `", "`))
}

func TestHostileWorker(t *testing.T) {
	d := testregion.Start(t, config(t))
	ctx, cancel := context.WithTimeout(context.Background(), 4*testregion.Limit)
	defer cancel()
	d.WaitReady()

	// Honest workers on other channels: everything comes, once.
	r := d.Attach(shm.Options{Produce: []string{"in"}, Consume: []string{"out"}})
	done := make(chan struct{})
	traffic := make(chan error, 1)
	go func() { traffic <- honest(ctx, r, done) }()

	rounds := int(number("SHMD_ROUNDS", 40))
	damaged := make(chan error, 1)
	what := map[string]int{} // errors that readers of the damaged channels got
	go func() { damaged <- readers(d, rounds, what) }()
	for alive := true; alive; {
		for _, verb := range []string{"status", "ps -a", "ch ls", "ch info bad-queue", "ch info bad-lane", "ch info bad-topic", "ch info bad-call", "ch info bad-latest",
			"inspect bad-queue", "inspect bad-topic --hex", "inspect group/hostile", "logs -n 3"} {
			out, stderr, code := d.Shmctl(strings.Fields(verb)...)
			if code < 0 || code > 4 || strings.Contains(stderr+out, "goroutine ") {
				t.Fatalf("shmctl %s: exit code %d\n%s%s", verb, code, out, stderr)
			}
		}
		select {
		case err := <-damaged:
			if err != nil {
				t.Error(err)
			}
			alive = false
		default:
		}
	}
	for _, text := range slices.Sorted(maps.Keys(what)) {
		t.Logf("%6d x %s", what[text], text)
	}
	// The hostile worker ends by force, its channels are repaired, and the region goes on.
	if out, stderr, code := d.Shmctl("stop", "hostile"); code != 0 {
		t.Errorf("shmctl stop hostile: %d\n%s%s", code, out, stderr)
	}
	close(done)
	if err := <-traffic; err != nil {
		t.Error("honest traffic: ", err)
	}
	if out, stderr, code := d.Shmctl("stop"); code != 0 {
		t.Errorf("shmctl stop: %d\n%s%s", code, out, stderr)
	}
}

// honest sends numbers and takes their echoes until done.
func honest(ctx context.Context, r *shm.Region, done chan struct{}) error {
	in, err1 := r.Queue("in")
	out, err2 := r.Queue("out")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	var b []byte
	for n := uint64(0); ; {
		seen := map[uint64]bool{}
		for range 32 {
			if err := in.Send(ctx, binary.LittleEndian.AppendUint64(nil, n)); err != nil {
				return err
			}
			n++
		}
		for range 32 {
			var err error
			if b, err = out.ReceiveCopy(ctx, b[:0]); err != nil {
				return err
			}
			v := binary.LittleEndian.Uint64(b)
			if len(b) != 8 || v < n-32 || v >= n || seen[v] {
				return fmt.Errorf("%d bytes, %d after %d, twice: %v", len(b), v, n, seen[v])
			}
			seen[v] = true
		}
		select {
		case <-done:
			return nil
		default:
		}
	}
}

// readers does everything that can be done with the damaged channels. What comes is nonsense or an error; that it comes back at all
// is the test.
func readers(d *testregion.Region, rounds int, what map[string]int) error {
	note := func(err error) {
		var corrupt *protocol.CorruptError
		switch {
		case err == nil:
		case errors.As(err, &corrupt):
			what["an error with a place"]++
		default:
			what[err.Error()]++
		}
	}
	names := []string{"queue", "lane", "topic", "drops", "latest", "call"}
	for i := range names {
		names[i] = bad + names[i]
	}
	for range rounds {
		dialing, cancel := context.WithTimeout(context.Background(), testregion.Limit)
		r, err := shm.Attach(dialing, shm.Options{Socket: d.Socket, Produce: names, Consume: names})
		cancel()
		if err != nil { // a damaged header: it says which segment
			if !strings.Contains(err.Error(), bad) && !errors.Is(err, shm.ErrPermission) {
				return fmt.Errorf("attach: %w", err)
			}
			what["attach: refused, with the segment's name"]++
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		use(ctx, r, note)
		cancel()
		if err := closes(r); err != nil {
			return err
		}
	}
	return nil
}

func use(ctx context.Context, r *shm.Region, note func(error)) {
	b := make([]byte, 100)
	for _, name := range []string{"queue", "lane"} {
		q, err := r.Queue(bad + name)
		if err != nil {
			note(err)
			continue
		}
		note(q.Send(ctx, b))
		_, err = q.SendBatch(ctx, [][]byte{b, b[:3], nil})
		note(err)
		for range 8 {
			m, err := q.Receive(ctx)
			if note(err); err == nil {
				if len(m.Bytes()) > 0 {
					b[0] = m.Bytes()[len(m.Bytes())-1]
				}
				note(m.Nack())
			}
		}
		_, err = q.ReceiveCopy(ctx, nil)
		note(err)
		if batch, err := q.TryReceiveBatch(); err == nil {
			for p := range batch.All() {
				b[1] = byte(len(p))
			}
			note(batch.Ack())
		}
		_, err = q.Stat()
		note(err)
	}
	for _, name := range []string{"topic", "drops"} {
		top, err := r.Topic(bad + name)
		if err != nil {
			note(err)
			continue
		}
		s, err := top.Subscribe(shm.SubscribeOptions{From: shm.FromOldest})
		note(err)
		note(top.Publish(ctx, b))
		_, err = top.PublishBatch(ctx, [][]byte{b, b})
		note(err)
		if s != nil {
			for range 8 {
				_, err := s.ReceiveCopy(ctx, nil)
				note(err)
			}
			note(s.Close())
		}
	}
	if l, err := r.Latest(bad + "latest"); err == nil {
		_, err := l.Put(b)
		note(err)
		_, _, err = l.Get(nil)
		note(err)
		_, err = l.CompareAndSet(1, b)
		note(err)
		_, err = l.Wait(ctx, 1<<40)
		note(err)
	} else {
		note(err)
	}
	if c, err := r.Call(bad + "call"); err == nil {
		_, err := c.Do(ctx, b, nil)
		note(err)
		if in, err := c.TryAccept(); err == nil {
			note(in.Answer(0))
		}
	} else {
		note(err)
	}
}

// closes closes the region and reports if that does not come to an end.
func closes(r *shm.Region) error {
	done := make(chan error, 1)
	go func() { done <- r.Close() }()
	select {
	case <-done:
		return nil
	case <-time.After(testregion.Limit):
		return errors.New("Close of a region with damaged channels does not return")
	}
}
