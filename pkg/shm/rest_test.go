package shm_test

import (
	"context"
	"slices"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// What Receive has left of a batch is had by whatever receives next in this process, in order.
func TestRestOfBatch(t *testing.T) { ends(t, testRestOfBatch) }

func testRestOfBatch(t *testing.T, toml string, _ bool) {
	d := testregion.Start(t, toml)
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q := queue(t, r, "jobs")
	ctx := within(t)
	for _, how := range []struct {
		name string
		next func() (*shm.Batch, error)
	}{{"ReceiveBatch", func() (*shm.Batch, error) { return q.ReceiveBatch(ctx) }}, {"TryReceiveBatch", q.TryReceiveBatch}} {
		if _, err := q.SendBatch(ctx, [][]byte{[]byte("1"), []byte("2"), []byte("3"), []byte("4")}); err != nil {
			t.Fatal(err)
		}
		if err := q.Send(ctx, []byte("5")); err != nil {
			t.Fatal(err)
		}
		m, err := q.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for len(got) < 2 {
			b, err := how.next()
			if err != nil {
				t.Fatalf("%s after %q: %v", how.name, got, err)
			}
			got = append(got, batchOf(t, b)...)
			if b.Deliveries() != 0 {
				t.Errorf("%s: delivered %d times before", how.name, b.Deliveries())
			}
			if err := b.Ack(); err != nil {
				t.Fatal(err)
			}
			if err := b.Ack(); err == nil {
				t.Error("Ack twice")
			}
		}
		b, err := how.next() // given back, it comes again, behind what was sent
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Nack(); err != nil {
			t.Fatal(err)
		}
		for len(got) < 4 {
			b, err := how.next()
			if err != nil {
				t.Fatalf("%s after %q: %v", how.name, got, err)
			}
			got = append(got, batchOf(t, b)...)
			b.Ack()
		}
		slices.Sort(got)
		if want := []string{"2", "3", "4", "5"}; !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", how.name, got, want)
		}
		if st, _ := q.Stat(); st.Depth() != 0 {
			t.Errorf("%s: %d are left", how.name, st.Depth())
		}
	}
}

// A batch serves all goroutines that wait: each gets a message while the others hold theirs.
func TestBatchWakesGoroutines(t *testing.T) { ends(t, testBatchWakesGoroutines) }

func testBatchWakesGoroutines(t *testing.T, toml string, lane bool) {
	d := testregion.Start(t, toml)
	ctx := within(t)
	for _, wait := range []shm.Wait{shm.WaitAdaptive, shm.WaitBlock, shm.WaitSpin} {
		r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}, Wait: wait})
		q := queue(t, r, "jobs")
		got, hold, ended := make(chan string), make(chan struct{}), make(chan error)
		receive := func(ctx context.Context) (string, func() error, error) {
			m, err := q.Receive(ctx)
			if err != nil {
				return "", nil, err
			}
			return string(m.Bytes()), m.Ack, nil
		}
		pick := func(ctx context.Context) (text string, ack func() error, err error) {
			_, err = r.Select(ctx, q.CaseReceive(func(m *shm.Message) { text, ack = string(m.Bytes()), m.Ack }))
			return text, ack, err
		}
		copied := func(ctx context.Context) (string, func() error, error) {
			b, err := q.ReceiveCopy(ctx, nil)
			return string(b), func() error { return nil }, err
		}
		hows := []func(context.Context) (string, func() error, error){receive, pick, copied, receive}
		for _, how := range hows {
			go func() {
				text, ack, err := how(ctx)
				if err != nil {
					ended <- err
					return
				}
				got <- text
				<-hold
				ended <- ack()
			}()
		}
		if wait == shm.WaitBlock {
			for {
				if st, err := q.Stat(); err != nil || st.Receivers == len(hows) {
					break
				}
			}
		}
		if _, err := q.SendBatch(ctx, [][]byte{[]byte("1"), []byte("2"), []byte("3"), []byte("4")}); err != nil {
			t.Fatal(err)
		}
		var all []string
		for range hows {
			select {
			case text := <-got:
				all = append(all, text)
			case err := <-ended:
				t.Fatalf("wait %v: after %q: %v", wait, all, err)
			}
		}
		close(hold)
		for range hows {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		slices.Sort(all)
		if want := []string{"1", "2", "3", "4"}; !slices.Equal(all, want) {
			t.Errorf("wait %v: %q, want %q", wait, all, want)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Who takes the receiving end of a lane gets what Receive has left of a batch; not while a message of it is in somebody's hands.
func TestConsumerAfterReceive(t *testing.T) {
	d := testregion.Start(t, "[region]\nname = \"test\"\n[channel.jobs]\nslots = 4\nslot_size = \"64B\"\nproducers = 1\nconsumers = 1\n")
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q := queue(t, r, "jobs")
	ctx := within(t)
	if _, err := q.SendBatch(ctx, [][]byte{[]byte("1"), []byte("2"), []byte("3")}); err != nil {
		t.Fatal(err)
	}
	m, err := q.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := q.Consumer(); err == nil {
		c.Close()
		t.Fatal("the end is had while a message is read")
	}
	if err := m.Ack(); err != nil {
		t.Fatal(err)
	}
	c, err := q.Consumer()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, want := range []string{"2", "3"} {
		if b, err := c.ReceiveCopy(ctx, nil); err != nil || string(b) != want {
			t.Errorf("%q, %v; want %q", b, err, want)
		}
	}
}
