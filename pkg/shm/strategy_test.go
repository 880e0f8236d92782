package shm_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// looked is a context that says how often it was looked at: who spins does so all the time, who sleeps does not.
type looked struct {
	context.Context
	looks atomic.Int64
	much  chan struct{} // closed when it was looked at far more often than who sleeps in the end does
}

const muchLooked = 5000 // 80 000 looks at what is waited for: the adaptive end makes a thousand

func newLooked(ctx context.Context) *looked {
	return &looked{Context: ctx, much: make(chan struct{})}
}

func (l *looked) Err() error {
	if l.looks.Add(1) == muchLooked {
		close(l.much)
	}
	return l.Context.Err()
}

// waits are all ends that wait: how to say in which way, the wait itself, what ends it, and how many are registered as sleepers meanwhile.
type waits struct {
	name     string
	set      func(shm.Wait)
	wait     func(context.Context) error
	end      func(context.Context) error
	sleepers func() int
	after    func() // undoes what a cancelled wait left
}

func allWaits(t *testing.T, d *testregion.Region) []waits {
	t.Helper()
	all := []string{"a", "b", "value", "news", "ask"}
	r := d.Attach(shm.Options{Produce: all, Consume: all})
	peer := d.Attach(shm.Options{Produce: all, Consume: all})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a, ourB, theirB := queue(t, r, "a"), queue(t, r, "b"), queue(t, peer, "b")
	producer, err := theirB.Producer()
	must(err)
	consumer, err := ourB.Consumer()
	must(err)
	t.Cleanup(func() { producer.Close(); consumer.Close() })
	news := topic(t, r)
	paper := subscribe(t, news, shm.FromNew)
	value, err := r.Latest("value")
	must(err)
	ask, err := r.Call("ask")
	must(err)
	theirs, err := peer.Call("ask")
	must(err)
	version := uint64(0)

	return []waits{
		{"receive", a.SetWait, func(ctx context.Context) error {
			_, err := a.ReceiveCopy(ctx, nil)
			return err
		}, func(ctx context.Context) error { return a.Send(ctx, []byte("x")) }, func() int { s, _ := a.Stat(); return s.Receivers }, nil},
		{"send", a.SetWait, func(ctx context.Context) error {
			for range 3 { // two fill it
				if err := a.Send(ctx, []byte("x")); err != nil {
					return err
				}
			}
			return nil
		}, func(ctx context.Context) error {
			for range 3 {
				if _, err := a.ReceiveCopy(ctx, nil); err != nil {
					return err
				}
			}
			return nil
		}, func() int { s, _ := a.Stat(); return s.Senders }, func() {
			for range 2 {
				a.ReceiveCopy(context.Background(), nil)
			}
		}},
		{"lane", consumer.SetWait, func(ctx context.Context) error {
			_, err := consumer.ReceiveCopy(ctx, nil)
			return err
		}, func(ctx context.Context) error { return producer.Send(ctx, []byte("x")) }, func() int { s, _ := ourB.Stat(); return s.Receivers }, nil},
		{"subscription", paper.SetWait, func(ctx context.Context) error {
			_, err := paper.ReceiveCopy(ctx, nil)
			return err
		}, func(ctx context.Context) error { return news.Publish(ctx, []byte("x")) }, func() int { s, _ := news.Stat(); return s.Receivers }, nil},
		{"latest", value.SetWait, func(ctx context.Context) (err error) {
			v, err := value.Wait(ctx, version)
			if err == nil {
				version = v
			}
			return err
		}, func(context.Context) error { _, err := value.Put([]byte("x")); return err }, nil, nil},
		{"accept", ask.SetWait, func(ctx context.Context) error {
			in, err := ask.Accept(ctx)
			if err != nil {
				return err
			}
			return in.Answer(0)
		}, func(ctx context.Context) error { _, err := theirs.Do(ctx, nil, nil); return err }, func() int { s, _ := ask.Stat(); return s.Servers }, nil},
		{"select", a.SetWait, func(ctx context.Context) error {
			_, err := r.Select(ctx, a.CaseReceive(func(m *shm.Message) { m.Ack() }), value.CaseChange(version, func(v uint64) { version = v }))
			return err
		}, func(ctx context.Context) error { return a.Send(ctx, []byte("x")) }, func() int { s, _ := a.Stat(); return s.Receivers }, nil},
		{"answer", theirs.SetWait, func(ctx context.Context) error {
			_, err := theirs.Do(ctx, []byte("x"), nil)
			return err
		}, func(ctx context.Context) error {
			in, err := ask.Accept(ctx)
			if err != nil {
				return err
			}
			return in.Answer(0)
		}, nil, func() {
			if in, err := ask.TryAccept(); err == nil {
				in.Answer(0)
			}
		}},
		{"slot", theirs.SetWait, func(ctx context.Context) error { // both are held until Accept, or given back
			var held []*shm.Request
			defer func() {
				for _, q := range held {
					q.Abort()
				}
			}()
			for range 2 {
				q, err := theirs.Request(context.Background())
				if err != nil {
					return err
				}
				held = append(held, q)
			}
			got := make(chan error, 1)
			go func() {
				q, err := theirs.Request(ctx)
				if err == nil {
					q.Abort()
				}
				got <- err
			}()
			select {
			case err := <-got:
				return err
			case <-giveBack:
				held[0].Abort()
				return <-got
			}
		}, func(context.Context) error { giveBack <- struct{}{}; return nil }, nil, nil},
	}
}

var giveBack = make(chan struct{})

// Each end in each way: what ends the wait is seen, by a cancelled context too; who spins does not sleep, who blocks does.
func TestWaits(t *testing.T) {
	d := testregion.Start(t, allKinds)
	for _, w := range allWaits(t, d) {
		for _, how := range []shm.Wait{shm.WaitAdaptive, shm.WaitBlock, shm.WaitSpin, shm.WaitUsual} {
			t.Run(fmt.Sprint(w.name, " ", how), func(t *testing.T) {
				w.set(how)
				defer w.set(shm.WaitUsual)
				for _, cancelled := range []bool{false, true} {
					inner, cancel := context.WithCancel(within(t))
					ctx := newLooked(inner)
					done := make(chan error, 1)
					go func() { done <- w.wait(ctx) }()
					switch {
					case how == shm.WaitSpin:
						select {
						case <-ctx.much:
						case err := <-done:
							t.Fatalf("ended: %v", err)
						case <-inner.Done():
							t.Fatalf("the context was looked at %d times: it sleeps", ctx.looks.Load())
						}
						if w.sleepers != nil && w.sleepers() != 0 {
							t.Errorf("%d sleepers", w.sleepers())
						}
					case w.sleepers != nil:
						for w.sleepers() == 0 && inner.Err() == nil {
							runtime.Gosched()
						}
					}
					var want error
					if cancelled {
						want = context.Canceled
						cancel()
					} else if err := w.end(within(t)); err != nil {
						t.Fatal(err)
					}
					if err := <-done; !errors.Is(err, want) {
						t.Errorf("cancelled %v: %v", cancelled, err)
					}
					cancel()
					if n := ctx.looks.Load(); how != shm.WaitSpin && n >= muchLooked {
						t.Errorf("looked at %d times", n)
					}
				}
				if w.after != nil {
					w.after()
				}
			})
		}
	}
}

// Close ends a wait that spins.
func TestCloseEndsSpinning(t *testing.T) {
	d := testregion.Start(t, allKinds)
	r := d.Attach(shm.Options{Consume: []string{"a", "b"}, Wait: shm.WaitSpin})
	a, b := queue(t, r, "a"), queue(t, r, "b")
	consumer, err := b.Consumer()
	if err != nil {
		t.Fatal(err)
	}
	one, two := newLooked(within(t)), newLooked(within(t))
	done := make(chan error, 2)
	go func() { _, err := a.Receive(one); done <- err }()
	go func() { _, err := consumer.Receive(two); consumer.Close(); done <- err }()
	<-one.much
	<-two.much
	r.Close()
	for range 2 {
		if err := <-done; !errors.Is(err, shm.ErrClosed) {
			t.Error(err)
		}
	}
}

func TestWaitNames(t *testing.T) {
	for _, w := range []shm.Wait{shm.WaitAdaptive, shm.WaitBlock, shm.WaitSpin} {
		if got, err := shm.ParseWait(w.String()); got != w || err != nil {
			t.Errorf("%v: %v, %v", w, got, err)
		}
	}
	if w, err := shm.ParseWait(""); w != shm.WaitUsual || err != nil {
		t.Error(w, err)
	}
	if _, err := shm.ParseWait("poll"); err == nil || !strings.Contains(err.Error(), "adaptive, block and spin") {
		t.Error(err)
	}
	t.Setenv(shm.WaitEnv, "poll")
	if _, err := shm.Attach(within(t), shm.Options{}); err == nil || !strings.Contains(err.Error(), "$SHMD_WAIT") {
		t.Error(err)
	}
}
