package shm_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

func batchOf(t *testing.T, b *shm.Batch) (out []string) {
	t.Helper()
	for p := range b.All() {
		out = append(out, string(p))
	}
	if len(out) != b.Len() {
		t.Errorf("%d messages, Len says %d", len(out), b.Len())
	}
	return out
}

// ends runs a test on a queue for any number of ends, and on a lane.
func ends(t *testing.T, test func(t *testing.T, toml string, lane bool)) {
	toml := region1 + "[worker.idle]\nbuiltin = \"idle\"\n"
	t.Run("queue", func(t *testing.T) { test(t, toml, false) })
	t.Run("lane", func(t *testing.T) {
		test(t, strings.Replace(toml, "[channel.jobs]\n", "[channel.jobs]\nproducers = 1\nconsumers = 1\n", 1), true)
	})
}

func TestBatches(t *testing.T) { ends(t, testBatches) }

func testBatches(t *testing.T, toml string, _ bool) {
	d := testregion.Start(t, toml)
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q := queue(t, r, "jobs")
	ctx := within(t)

	var messages [][]byte
	for i := range 40 { // more than fit into one slot
		messages = append(messages, fmt.Appendf(nil, "message %d", i))
	}
	if n, err := q.SendBatch(ctx, messages); n != len(messages) || err != nil {
		t.Fatal(n, err)
	}
	if s, _ := q.Stat(); s.Messages != len(messages) || s.Ready >= len(messages) {
		t.Errorf("%+v", s)
	}
	next := 0
	for next < 10 { // in place, by the slot
		b, err := q.ReceiveBatch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range batchOf(t, b) {
			if m != string(messages[next]) {
				t.Fatalf("%q after %d", m, next)
			}
			next++
		}
		if err := b.Ack(); err != nil {
			t.Fatal(err)
		}
		if b.Ack() != shm.ErrLost || b.Nack() != shm.ErrLost {
			t.Error("ended twice")
		}
	}
	for m, err := range q.Messages(ctx) { // one by one
		if err != nil || string(m.Bytes()) != string(messages[next]) {
			t.Fatalf("%v, %q after %d", err, m.Bytes(), next)
		}
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
		if next++; next == len(messages) {
			break
		}
	}
	if s, _ := q.Stat(); s.Free != s.Slots || s.Acked != uint64(len(messages)) {
		t.Errorf("%+v", s)
	}

	var large *shm.TooLargeError
	if n, err := q.SendBatch(ctx, [][]byte{[]byte("a"), make([]byte, q.SlotSize()), make([]byte, q.SlotSize()+1)}); n != 2 || !errors.As(err, &large) {
		t.Error(n, err)
	}
	for _, size := range []int{1, q.SlotSize()} {
		if b, err := q.ReceiveCopy(ctx, nil); err != nil || len(b) != size {
			t.Error(len(b), err)
		}
	}

	l, err := q.LoanBatch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if l.Next(q.SlotSize()-8) == nil || l.Next(1) != nil || l.Len() != 1 {
		t.Error("a batch has room for one message of SlotSize - 8 bytes, and here for no more")
	}
	if err := l.Abort(); err != nil || l.Commit() != shm.ErrLost {
		t.Error(err)
	}
	if l, err = q.LoanBatch(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(); err != nil { // nothing in it
		t.Error(err)
	}
	if _, err := q.TryReceiveBatch(); !errors.Is(err, shm.ErrEmpty) {
		t.Error(err)
	}
}

// Messages of one batch end in any order; what was nacked comes back alone.
func TestBatchOneByOne(t *testing.T) { ends(t, testBatchOneByOne) }

func testBatchOneByOne(t *testing.T, toml string, lane bool) {
	d := testregion.Start(t, toml)
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q := queue(t, r, "jobs")
	other := q
	if !lane { // which has one consumer
		other = queue(t, d.Attach(shm.Options{Consume: []string{"jobs"}}), "jobs")
	}
	if queue(t, r, "jobs") != q {
		t.Error("a process has one Queue of a channel")
	}
	ctx := within(t)
	take := func(q *shm.Queue, want string, deliveries int) *shm.Message {
		t.Helper()
		m, err := q.TryReceive()
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Bytes()) != want || m.Deliveries() != deliveries {
			t.Fatalf("%q, delivered %d times; want %q, %d", m.Bytes(), m.Deliveries(), want, deliveries)
		}
		return m
	}
	if _, err := q.SendBatch(ctx, [][]byte{[]byte("a"), []byte("b"), []byte("c"), []byte("d")}); err != nil {
		t.Fatal(err)
	}
	a, b, c := take(q, "a", 0), take(q, "b", 0), take(q, "c", 0)
	if !lane {
		if _, err := other.TryReceive(); !errors.Is(err, shm.ErrEmpty) {
			t.Error("d is in the same batch:", err)
		}
	}
	c.Ack()
	b.Nack()
	if _, err := q.TryReceive(); !errors.Is(err, shm.ErrEmpty) {
		t.Error("after a nack no more of the batch is handed out:", err)
	}
	a.Ack() // the last that was out
	b = take(other, "b", 1)
	if _, err := q.TryReceive(); !errors.Is(err, shm.ErrEmpty) {
		t.Error("one at a time now:", err)
	}
	b.Ack()
	take(q, "d", 0).Ack()
	if s, _ := q.Stat(); s.Free != s.Slots || s.Acked != 4 || s.Redelivered != 1 {
		t.Errorf("%+v", s)
	}

	// What was not handed out goes back when the process closes its end, and counts as never delivered.
	q.SendBatch(ctx, [][]byte{[]byte("e"), []byte("f")})
	if lane {
		var end *protocol.EndError
		if _, err := queue(t, d.Attach(shm.Options{Consume: []string{"jobs"}}), "jobs").TryReceive(); !errors.As(err, &end) || end.Owner != r.AttachmentID() {
			t.Error(err)
		}
		for _, want := range []string{"e", "f"} {
			if b, err := q.ReceiveCopy(ctx, nil); err != nil || string(b) != want {
				t.Errorf("%q, %v", b, err)
			}
		}
		r.Close() // the ends are free then
		other := queue(t, d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}}), "jobs")
		if err := other.Send(ctx, []byte("g")); err != nil {
			t.Error(err)
		}
		take(other, "g", 0).Ack()
		return
	}
	r2 := d.Attach(shm.Options{Consume: []string{"jobs"}})
	take(queue(t, r2, "jobs"), "e", 0).Ack()
	if err := r2.Close(); err != nil {
		t.Fatal(err)
	}
	take(q, "f", 0).Ack()
}

// The ends of a lane for one goroutine.
func TestProducerAndConsumer(t *testing.T) {
	ends(t, func(t *testing.T, toml string, lane bool) {
		d := testregion.Start(t, toml)
		r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
		q := queue(t, r, "jobs")
		ctx := within(t)
		if !lane {
			if _, err := q.Producer(); !errors.Is(err, shm.ErrNoLane) {
				t.Error(err)
			}
			if _, err := q.Consumer(); !errors.Is(err, shm.ErrNoLane) {
				t.Error(err)
			}
			return
		}
		q.SendBatch(ctx, [][]byte{[]byte("a"), []byte("b"), []byte("c")})
		p, err1 := q.Producer()
		c, err2 := q.Consumer()
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if _, err := q.Producer(); !errors.Is(err, shm.ErrHeld) {
			t.Error(err)
		}
		if err := q.Send(ctx, nil); !errors.Is(err, shm.ErrHeld) {
			t.Error(err)
		}
		if _, err := q.TryLoan(); !errors.Is(err, shm.ErrHeld) {
			t.Error(err)
		}
		if _, err := q.ReceiveCopy(ctx, nil); !errors.Is(err, shm.ErrHeld) {
			t.Error(err)
		}
		var large *shm.TooLargeError
		if err := p.Send(ctx, make([]byte, 65)); !errors.As(err, &large) {
			t.Error(err)
		}
		for _, want := range []string{"a", "b"} { // of the batch
			if b, err := c.ReceiveCopy(ctx, nil); err != nil || string(b) != want {
				t.Errorf("%q, %v", b, err)
			}
		}
		if s, _ := q.Stat(); s.Messages != 1 || s.Acked != 2 {
			t.Errorf("%+v", s)
		}
		c.Close() // c goes back
		if _, err := c.ReceiveCopy(ctx, nil); !errors.Is(err, shm.ErrClosed) {
			t.Error(err)
		}
		if c, err2 = q.Consumer(); err2 != nil {
			t.Fatal(err2)
		}
		if b, err := c.ReceiveCopy(ctx, nil); err != nil || string(b) != "c" {
			t.Errorf("%q, %v", b, err)
		}
		done := make(chan error, 1)
		go func() {
			for i := range 5000 { // both sides come to sleep
				if err := p.Send(ctx, fmt.Append(nil, i)); err != nil {
					done <- err
					return
				}
			}
			done <- p.Close()
		}()
		var b []byte
		for i := range 5000 {
			var err error
			if b, err = c.ReceiveCopy(ctx, b[:0]); err != nil || string(b) != fmt.Sprint(i) {
				t.Fatalf("%d: %q, %v", i, b, err)
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := q.Send(ctx, []byte("d")); err != nil { // the end is free again
			t.Error(err)
		}
		d.Shmctl("stop")
		<-r.Quit().Done()
		if _, err := c.ReceiveCopy(ctx, nil); !errors.Is(err, shm.ErrQuit) {
			t.Error(err)
		}
		c.Close()
	})
}
