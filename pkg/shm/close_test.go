package shm_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

func init() {
	roles["closer"] = func() error { // closes the region beside goroutines that sleep in it
		ctx := context.Background()
		r, err := shm.Attach(ctx, shm.Options{Wait: shm.WaitBlock})
		if err != nil {
			return err
		}
		jobs, err := r.Queue("jobs")
		if err != nil {
			return err
		}
		r.Ready()
		const sleepers = 16
		ended := make(chan error, sleepers)
		for range sleepers {
			go func() {
				_, err := jobs.Receive(ctx)
				ended <- err
			}()
		}
		for { // until somebody sleeps; the others are on their way
			s, err := jobs.Stat()
			if err != nil {
				return err
			}
			if s.Receivers > 0 {
				break
			}
		}
		if err := r.Close(); err != nil {
			return err
		}
		for range sleepers {
			if err := <-ended; !errors.Is(err, shm.ErrClosed) {
				return fmt.Errorf("a receiver ended with %v", err)
			}
		}
		return nil
	}
}

// TestCloseBesideSleepers: a worker that sleeps writes into the group segment when it wakes up, so that one has to be mapped until nobody sleeps any more.
func TestCloseBesideSleepers(t *testing.T) {
	d := testregion.Launch(t, region1+"[worker.closer]\ncount = 24\nconsume = [\"jobs\"]\nrestart = \"never\"\n"+worker("closer", ""))
	d.WaitWorkers("exited", func(ws []protocol.Worker) bool {
		for _, w := range ws {
			if w.State == protocol.StateFailed || w.ExitCode != 0 || w.ExitSignal != 0 {
				t.Fatalf("worker %s: exit code %d, %s; the daemon's log:\n%s", w.Name, w.ExitCode, w.Reason, d.Log())
			}
			if w.State != protocol.StateExited {
				return false
			}
		}
		return true
	})
}

// A worker that is asked to quit takes no more, not even the rest of a batch; Close gives that back.
func TestQuitEndsABatch(t *testing.T) { ends(t, testQuitEndsABatch) }

func testQuitEndsABatch(t *testing.T, toml string, _ bool) {
	d := testregion.Start(t, toml)
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q := queue(t, r, "jobs")
	if _, err := q.SendBatch(within(t), [][]byte{[]byte("a"), []byte("b"), []byte("c")}); err != nil {
		t.Fatal(err)
	}
	m, err := q.TryReceive()
	if err != nil {
		t.Fatal(err)
	}
	d.Cmd.Process.Signal(syscall.SIGTERM) // the region stops: outsiders are told too
	<-r.Quit().Done()
	if more, err := q.TryReceive(); !errors.Is(err, shm.ErrQuit) {
		t.Errorf("one more: %v", err)
		more.Nack()
	}
	if err := m.Ack(); err != nil {
		t.Error(err)
	}
	if s, err := q.Stat(); err != nil || s.Messages != 2 || s.Acked != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

// What is asked for after Close touches no memory.
func TestQueueAfterClose(t *testing.T) { ends(t, testQueueAfterClose) }

func testQueueAfterClose(t *testing.T, toml string, _ bool) {
	d := testregion.Start(t, toml)
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	q := queue(t, r, "jobs")
	if err := q.Send(within(t), []byte("a")); !errors.Is(err, shm.ErrClosed) {
		t.Errorf("Send: %v", err)
	}
	if _, err := q.ReceiveCopy(within(t), nil); !errors.Is(err, shm.ErrClosed) {
		t.Errorf("ReceiveCopy: %v", err)
	}
}

// TestCloseBesideProducer is for the race detector: Close tells a goroutine that sends without a lock.
func TestCloseBesideProducer(t *testing.T) {
	toml := strings.Replace(region1, "[channel.jobs]\n", "[channel.jobs]\nproducers = 1\nconsumers = 1\n", 1)
	d := testregion.Start(t, toml+"[worker.idle]\nbuiltin = \"idle\"\n")
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	p, err := queue(t, r, "jobs").Producer()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		defer p.Close()
		for {
			switch err := p.TrySend([]byte("a")); err {
			case nil, shm.ErrFull:
			default:
				ended <- err
				return
			}
		}
	}()
	closed := make(chan error)
	go func() { closed <- r.Close() }()
	if err := <-ended; !errors.Is(err, shm.ErrClosed) {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// Close waits for each batch that is out, and nothing is taken after it.
func TestCloseWaitsForBatches(t *testing.T) { ends(t, testCloseWaitsForBatches) }

func testCloseWaitsForBatches(t *testing.T, toml string, _ bool) {
	d := testregion.Start(t, toml)
	for _, what := range []string{"batch", "batch, two", "loan", "nothing"} {
		r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
		q := queue(t, r, "jobs")
		ctx := within(t)
		for { // what the last one left
			b, err := q.TryReceiveBatch()
			if err != nil {
				break
			}
			b.Ack()
		}
		for range 2 {
			if _, err := q.SendBatch(ctx, [][]byte{[]byte("a"), []byte("b")}); err != nil {
				t.Fatal(err)
			}
		}
		receive := func() *shm.Batch {
			b, err := q.TryReceiveBatch()
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		first := receive()
		var end []func() error
		switch what {
		case "batch":
			end = append(end, receive().Ack)
		case "batch, two":
			second := receive()
			end = append(end, second.Nack, first.Ack)
		case "loan":
			l, err := q.LoanBatch(ctx)
			if err != nil {
				t.Fatal(err)
			}
			copy(l.Next(1), "c")
			end = append(end, l.Commit)
		}
		if what != "batch, two" {
			if err := first.Ack(); err != nil {
				t.Fatal(err)
			}
		}
		closed := make(chan error, 1)
		go func() { closed <- r.Close() }()
		<-r.Quit().Done()
		for {
			l, err := q.LoanBatch(ctx)
			if errors.Is(err, shm.ErrClosed) {
				break
			}
			l.Abort()
		}
		for _, f := range end {
			select {
			case err := <-closed:
				t.Fatalf("%s: Close did not wait: %v", what, err)
			default:
			}
			if err := f(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if _, err := q.ReceiveBatch(ctx); !errors.Is(err, shm.ErrClosed) {
			t.Errorf("ReceiveBatch: %v", err)
		}
		if _, err := q.LoanBatch(ctx); !errors.Is(err, shm.ErrClosed) {
			t.Errorf("LoanBatch: %v", err)
		}
	}
}
