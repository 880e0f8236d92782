package shm_test

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// Loops end with their context although more is waiting: here it ends in the first turn, and there is no second one.
func TestLoopsEndWithTheirContext(t *testing.T) {
	d := testregion.Start(t, allKinds)
	all := []string{"a", "b", "value", "ask", "news"}
	r := d.Attach(shm.Options{Produce: all, Consume: all})
	long := within(t)
	for _, name := range []string{"a", "b"} {
		q := queue(t, r, name)
		for range 2 {
			if err := q.Send(long, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(long)
		turns := 0
		for m, err := range q.Messages(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			turns++
			m.Ack()
			cancel()
		}
		cancel()
		if s, err := q.Stat(); turns != 1 || err != nil || s.Messages != 1 {
			t.Errorf("%s: %d turns, %+v, %v", name, turns, s, err)
		}
	}

	news := topic(t, r)
	paper := subscribe(t, news, shm.FromNew)
	for range 3 {
		if err := news.Publish(long, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(long)
	defer cancel()
	turns := 0
	for _, err := range paper.Messages(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		turns++
		cancel()
	}
	if turns != 1 {
		t.Errorf("news: %d turns", turns)
	}

	value, err := r.Latest("value")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := value.Put([]byte("1")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(long)
	defer cancel()
	turns = 0
	for _, err := range value.Values(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		turns++
		cancel()
		if _, err := value.Put([]byte("2")); err != nil { // the next turn would find it
			t.Fatal(err)
		}
	}
	if turns != 1 {
		t.Errorf("value: %d turns", turns)
	}

	ask, err := r.Call("ask")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(long)
	defer cancel()
	callers, leave := context.WithCancel(long)
	defer leave()
	left := make(chan error, 2)
	for range 2 { // both are waiting when the first is served
		go func() {
			_, err := ask.Do(callers, []byte("?"), nil)
			left <- err
		}()
	}
	for s, err := ask.Stat(); s.Waiting < 2; s, err = ask.Stat() {
		if err != nil || long.Err() != nil {
			t.Fatalf("%+v, %v", s, err)
		}
		runtime.Gosched()
	}
	turns = 0
	err = ask.Serve(ctx, func([]byte, *shm.Answer) error { turns++; cancel(); return nil })
	if turns != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("ask: %d turns, %v", turns, err)
	}
	leave()
	<-left
	<-left
}

// A reason that a slot's state has no room for is refused, and only dead letters have a head.
func TestReasonsAndHeads(t *testing.T) {
	d := testregion.Start(t, allKinds)
	r := d.Attach(shm.Options{Produce: []string{"a"}, Consume: []string{"a"}})
	q, ctx := queue(t, r, "a"), within(t)
	if err := q.Send(ctx, []byte("x")); err != nil {
		t.Fatal(err)
	}
	m, err := q.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Dead(); err == nil || err.Error() != `channel "a" is no dead-letter channel: its messages have no head to read` {
		t.Error(err)
	}
	for _, reason := range []uint32{0, 64, 255} {
		if err := m.Reject(protocol.DeadReason(reason)); err == nil || errors.Is(err, shm.ErrLost) {
			t.Errorf("%d: %v", reason, err)
		}
	}
	if err := m.Reject(63); err != nil {
		t.Error(err)
	}
}
