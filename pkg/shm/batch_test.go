package shm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
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

// In place and in runs, at the ends of a lane.
func TestRuns(t *testing.T) {
	toml := "[region]\nname = \"test\"\n[channel.jobs]\nslots = 2\nslot_size = \"64B\"\nproducers = 1\nconsumers = 1\n[worker.idle]\nbuiltin = \"idle\"\n"
	d := testregion.Start(t, toml)
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q, ctx := queue(t, r, "jobs"), within(t)
	p, err1 := q.Producer()
	c, err2 := q.Consumer()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	var large *shm.TooLargeError
	if _, err := p.SendRun(ctx, make([]byte, 65), 65); !errors.As(err, &large) {
		t.Error(err)
	}
	for _, size := range []int{-1, 0, 4} {
		if _, err := p.SendRun(ctx, []byte("abc"), size); err == nil {
			t.Errorf("messages of %d bytes in 3", size)
		}
	}
	if err := p.Commit(65); !errors.As(err, &large) {
		t.Error(err)
	}
	if err1, err2 := p.Commit(1), p.Abort(); err1 != shm.ErrLost || err2 != shm.ErrLost {
		t.Error(err1, err2)
	}
	if err1, err2 := c.Ack(), c.Nack(); err1 != shm.ErrLost || err2 != shm.ErrLost {
		t.Error(err1, err2)
	}
	run := func(want string, count int) {
		t.Helper()
		if b, n, err := c.ReceiveRun(ctx); err != nil || string(b) != want || n != count {
			t.Errorf("%d messages in %q, %v; want %d in %q", n, b, err, count, want)
		}
	}
	one := func(want string) {
		t.Helper()
		if b, err := c.Receive(ctx); err != nil || string(b) != want {
			t.Errorf("%q, %v; want %q", b, err, want)
		}
	}
	end := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}

	if n, err := p.SendRun(ctx, []byte("aabbcc"), 2); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	run("aabbcc", 3)
	if _, err := c.Receive(ctx); err == nil {
		t.Error("received two things at once")
	}
	if _, err := c.ReceiveCopy(ctx, nil); err == nil {
		t.Error("received two things at once")
	}
	end(c.Nack()) // then one by one
	for _, want := range []string{"aa", "bb", "cc"} {
		run(want, 1)
		end(c.Ack())
	}
	if s, _ := q.Stat(); s.Messages != 0 || s.Acked != 3 || s.Sent != 3 {
		t.Errorf("%+v", s)
	}

	b, err := p.Loan(ctx)
	if err != nil || len(b) != 64 {
		t.Fatal(len(b), err)
	}
	copy(b, "loan")
	if again, err := p.Loan(ctx); err != nil || string(again[:4]) != "loan" {
		t.Error(err)
	}
	end(p.Send(ctx, []byte("sent"))) // overtakes the loan
	end(p.Commit(4))
	one("loan")
	end(c.Ack())
	one("sent")
	end(c.Ack())
	p.Loan(ctx)
	end(p.Abort())

	p.SendRun(ctx, []byte("xyz"), 1)
	q0, _ := q.Stat()
	one("x")
	end(c.Ack())
	one("y")
	end(c.Close()) // y and z go back
	if s, _ := q.Stat(); s.Messages != q0.Messages-1 {
		t.Errorf("%+v", s)
	}
	if _, _, err := c.ReceiveRun(ctx); !errors.Is(err, shm.ErrClosed) {
		t.Error(err)
	}
	if c, err2 = q.Consumer(); err2 != nil {
		t.Fatal(err2)
	}
	run("y", 1)
	end(c.Ack())
	if b, err := c.ReceiveCopy(ctx, nil); err != nil || string(b) != "z" {
		t.Errorf("%q, %v", b, err)
	}

	// Both sides wait, in a ring of two slots: whatever is read is what was sent.
	const runs = 20000
	done := make(chan error, 1)
	defer c.Close() // Region.Close waits for the ends
	go func() {
		defer p.Close()
		b := make([]byte, 56)
		for i := range runs {
			for k := range b {
				b[k] = byte(i)
			}
			if _, err := p.SendRun(ctx, b, 28); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	var buf []byte
	for i := range runs {
		for n := 0; n < 2; {
			b, count, err := buf, 1, error(nil)
			switch i % 3 {
			case 0:
				b, err = c.ReceiveCopy(ctx, buf[:0])
				buf = b
			case 1:
				b, err = c.Receive(ctx)
			default:
				b, count, err = c.ReceiveRun(ctx)
			}
			if err != nil || len(b) != 28*count || bytes.Count(b, []byte{byte(i)}) != len(b) {
				t.Fatalf("run %d: %v, %v", i, b, err)
			}
			if n += count; i%3 != 0 {
				end(c.Ack())
			}
		}
	}
	end(<-done)
	end(c.Close())
}

// A Producer's batches arrive whole and in order, whatever sizes they mix, and share slots as far as they fit.
func TestProducerBatch(t *testing.T) {
	toml := "[region]\nname = \"test\"\n[channel.jobs]\nslots = 8\nslot_size = \"256B\"\nproducers = 1\nconsumers = 1\n[worker.idle]\nbuiltin = \"idle\"\n"
	r := testregion.Start(t, toml).Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q, ctx := queue(t, r, "jobs"), within(t)
	p, err1 := q.Producer()
	c, err2 := q.Consumer()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	defer c.Close()
	defer p.Close()
	message := func(size, seed int) []byte {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(seed + i)
		}
		return b
	}
	for _, sizes := range [][]int{
		{}, {0}, {5}, {256}, {0, 0, 0}, {8, 8, 8}, {64, 64, 64}, {64, 64, 64, 64}, {64, 64, 3}, {1, 2, 3, 4, 5}, {200, 200}, {248, 1}, {249, 1}, {256, 256, 1}, {0, 248}, {120, 120, 8},
		{100, 100, 36}, {100, 100, 37}, slices.Repeat([]int{1}, 130), append(slices.Repeat([]int{1}, 63), 2, 2, 2),
	} {
		var msgs [][]byte
		for i, size := range sizes {
			msgs = append(msgs, message(size, i))
		}
		if n, err := p.SendBatch(ctx, msgs); n != len(msgs) || err != nil {
			t.Fatalf("%v: %d, %v", sizes, n, err)
		}
		for i := range msgs {
			if b, err := c.ReceiveCopy(ctx, nil); err != nil || !bytes.Equal(b, msgs[i]) {
				t.Fatalf("%v: message %d is %v, %v; want %v", sizes, i, b, err, msgs[i])
			}
		}
		if _, err := c.TryReceiveCopy(nil); err != shm.ErrEmpty {
			t.Fatalf("%v: %v after the last", sizes, err)
		}
	}

	if n, err := p.SendBatch(ctx, [][]byte{message(64, 1), message(64, 2)}); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if b, n, err := c.ReceiveRun(ctx); n != 2 || len(b) != 128 || err != nil {
		t.Fatalf("%d messages in %d bytes, %v: those of one size lie one after another", n, len(b), err)
	}
	c.Ack()
	var large *shm.TooLargeError
	if n, err := p.SendBatch(ctx, [][]byte{message(64, 1), message(257, 2), message(1, 3)}); n != 1 || !errors.As(err, &large) {
		t.Errorf("%d, %v: those before the one that is too large are sent", n, err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if n, err := p.SendBatch(ended, slices.Repeat([][]byte{message(256, 1)}, 9)); n != 7 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d, %v: eight slots hold eight", n, err)
	}
	sent := make(chan error, 1)
	go func() { // waits for room
		_, err := p.SendBatch(ctx, slices.Repeat([][]byte{message(256, 7)}, 20))
		sent <- err
	}()
	for i := range 28 {
		if b, err := c.ReceiveCopy(ctx, nil); err != nil || i > 0 && len(b) != 256 {
			t.Fatal(i, len(b), err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	p.Close()
	if _, err := p.SendBatch(ctx, [][]byte{nil}); err != shm.ErrClosed {
		t.Error(err)
	}
}
