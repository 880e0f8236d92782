package shm_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// allKinds is a region with a channel of each kind, and a lane.
const allKinds = `
[region]
name = "test"
[channel.a]
slots = 2
slot_size = "64B"
[channel.b]
slots = 2
slot_size = "64B"
producers = 1
consumers = 1
[channel.value]
kind = "latest"
slot_size = "64B"
[channel.news]
kind = "topic"
slots = 4
slot_size = "64B"
[channel.ask]
kind = "call"
slots = 2
slot_size = "64B"
[worker.idle]
builtin = "idle"
`

func TestSelect(t *testing.T) {
	d := testregion.Start(t, allKinds)
	all := []string{"a", "b", "value", "ask", "news"}
	r := d.Attach(shm.Options{Produce: all, Consume: all})
	ctx := within(t)
	a, b := queue(t, r, "a"), queue(t, r, "b")
	value, err1 := r.Latest("value")
	ask, err2 := r.Call("ask")
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	news := topic(t, r)
	paper := subscribe(t, news, shm.FromNew)
	var got string
	take := func(m *shm.Message) { got = string(m.Bytes()); m.Ack() }
	seen := uint64(0)
	serve := func(m *shm.Incoming) { got = string(m.Bytes()); m.Answer(copy(m.Room(), "yes")) }
	receive := func(want string) {
		t.Helper()
		i, err := r.Select(ctx, a.CaseReceive(take), b.CaseReceive(take),
			value.CaseChange(seen, func(v uint64) { seen = v; got = fmt.Sprint("version ", v) }), ask.CaseAccept(serve),
			paper.CaseReceive(func(m *shm.TopicMessage) { got = string(m.Bytes()); m.Done() }))
		if err != nil {
			t.Fatal(err)
		}
		if got = fmt.Sprint(i, " ", got); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}

	a.Send(ctx, []byte("x"))
	receive("0 x")
	b.Send(ctx, []byte("y"))
	receive("1 y")
	value.Put([]byte("z"))
	receive("2 version 1")
	news.Publish(ctx, []byte("n"))
	receive("4 n")

	// Asleep: what comes later, whichever it is. Another consumer of the same channel must not be kept asleep by a wake that went here.
	for i := range 50 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			switch i % 5 {
			case 0:
				a.Send(ctx, []byte("x"))
			case 1:
				b.Send(ctx, []byte("y"))
			case 2:
				value.Put(nil)
			case 3:
				if p, err := ask.Do(ctx, []byte("sure?"), nil); err != nil || string(p) != "yes" {
					t.Error(string(p), err)
				}
			case 4:
				news.Publish(ctx, []byte("n"))
			}
		}()
		receive([]string{"0 x", "1 y", fmt.Sprint("2 version ", seen+1), "3 sure?", "4 n"}[i%5])
		<-done
	}

	// None starves: both are always ready.
	turns := map[int]int{}
	for range 40 {
		a.TrySend([]byte("x"))
		b.TrySend([]byte("y"))
		i, err := r.Select(ctx, a.CaseReceive(take), b.CaseReceive(take))
		if err != nil {
			t.Fatal(err)
		}
		turns[i]++
	}
	if turns[0] < 15 || turns[1] < 15 {
		t.Error(turns)
	}
	for range 2 {
		a.TrySend([]byte("x"))
		b.TrySend([]byte("y"))
	}
	if i, err := r.Select(ctx, a.CaseSend([]byte("x")), b.CaseReceive(take)); i != 1 || err != nil { // a is full
		t.Error(i, err)
	}
	var large *shm.TooLargeError
	if i, err := r.Select(ctx, b.CaseReceive(take), a.CaseSend(make([]byte, 65))); i == 1 && !errors.As(err, &large) {
		t.Error(i, err)
	}

	// It ends with its context, the quit flag, and the region.
	for a.TrySend(nil) == nil {
	}
	short, cancel := context.WithCancel(ctx)
	errs := make(chan error, 1)
	go func() {
		_, err := r.Select(short, a.CaseSend(nil))
		errs <- err
	}()
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	go func() {
		_, err := r.Select(ctx, a.CaseSend(nil), ask.CaseAccept(serve))
		errs <- err
	}()
	d.Shmctl("stop")
	if err := <-errs; !errors.Is(err, shm.ErrQuit) {
		t.Error(err)
	}
	if i, err := r.Select(ctx); i != -1 || !errors.Is(err, shm.ErrQuit) {
		t.Error(i, err)
	}
}

// A wake-up may reach a Select that then takes something else: another consumer of that channel must not sleep on.
func TestSelectPassesWakesOn(t *testing.T) {
	d := testregion.Start(t, allKinds+"[channel.c]\nslots = 2\nslot_size = \"64B\"\n")
	all := []string{"a", "c"}
	r, other, sender := d.Attach(shm.Options{Consume: all}), d.Attach(shm.Options{Consume: all}), d.Attach(shm.Options{Produce: all})
	ctx := within(t)
	a, c := queue(t, r, "a"), queue(t, r, "c")
	otherC, toA, toC := queue(t, other, "c"), queue(t, sender, "a"), queue(t, sender, "c")
	asleep := func(q *shm.Queue, n int) {
		for {
			if s, err := q.Stat(); err != nil || s.Receivers == n {
				return
			}
			if ctx.Err() != nil {
				t.Fatal("nobody went to sleep")
			}
			runtime.Gosched()
		}
	}
	for range 100 {
		got := make(chan int, 1)
		go func() {
			i, err := r.Select(ctx, a.CaseReceive(func(m *shm.Message) { m.Ack() }), c.CaseReceive(func(m *shm.Message) { m.Ack() }))
			if err != nil {
				t.Error(err)
			}
			got <- i
		}()
		asleep(toC, 1)
		received := make(chan error, 1)
		go func() {
			_, err := otherC.ReceiveCopy(ctx, nil)
			received <- err
		}()
		asleep(toC, 2)
		toC.Send(ctx, []byte("for either"))
		toA.Send(ctx, []byte("for Select"))
		if i := <-got; i == 1 { // it took what the other waits for
			if _, err := a.ReceiveCopy(ctx, nil); err != nil {
				t.Fatal(err)
			}
			toC.Send(ctx, []byte("for the other"))
		}
		if err := <-received; err != nil {
			t.Fatal(err)
		}
	}
}

// CasePublish: at once, after a wait, and after an eviction; of a topic and of a publishing end. What it shares a Select with comes first if it is there.
func TestSelectPublish(t *testing.T) {
	for name, evict := range map[string]bool{"waits": false, "evicts": true} {
		t.Run(name, func(t *testing.T) {
			keys := ""
			if evict {
				keys = "evict_after = \"50ms\"\n"
			}
			d := testregion.Start(t, topicRegion(keys)+"[channel.a]\nslots = 2\nslot_size = \"64B\"\n")
			all := []string{"news", "a"}
			r := d.Attach(shm.Options{Produce: all, Consume: all})
			ctx := within(t)
			news, a := topic(t, r), queue(t, r, "a")
			pub, err := news.Publisher()
			if err != nil {
				t.Fatal(err)
			}
			defer pub.Close()
			take := func(m *shm.Message) { m.Ack() }
			slow := subscribe(t, news, shm.FromNew)
			n := 0 // published
			for ; ; n++ {
				if err := news.TryPublish([]byte("x")); errors.Is(err, shm.ErrFull) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			a.Send(ctx, []byte("y"))
			if i, err := r.Select(ctx, news.CasePublish([]byte("x")), a.CaseReceive(take)); i != 1 || err != nil {
				t.Fatal(i, err)
			}
			done := make(chan error, 1)
			for _, c := range []shm.Case{news.CasePublish([]byte("one")), pub.CasePublish([]byte("two"))} {
				go func() {
					i, err := r.Select(ctx, a.CaseReceive(take), c)
					if err == nil && i != 1 {
						err = fmt.Errorf("case %d", i)
					}
					done <- err
				}()
				if !evict {
					if m, err := slow.Receive(ctx); err != nil {
						t.Fatal(err)
					} else if err := m.Done(); err != nil {
						t.Fatal(err)
					}
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			st, err := news.Stat()
			if err != nil {
				t.Fatal(err)
			}
			if evict {
				if _, err := slow.Receive(ctx); !errors.Is(err, shm.ErrEvicted) || st.Evicted != 1 {
					t.Error(err, st.Evicted)
				}
				return
			}
			for i := 2; ; i++ {
				b, err := slow.ReceiveCopy(ctx, nil)
				if err != nil {
					t.Fatal(err)
				}
				if want := map[int]string{n: "one", n + 1: "two"}[i]; want != "" && string(b) != want {
					t.Errorf("message %d is %q", i, b)
				}
				if i == n+1 {
					break
				}
			}
			var large *shm.TooLargeError
			if i, err := r.Select(ctx, news.CasePublish(make([]byte, 65))); i != 0 || !errors.As(err, &large) {
				t.Error(i, err)
			}
		})
	}
}

// A panic of what a case gives its message to, which the caller survives, leaves nobody counted as asleep.
func TestSelectPanic(t *testing.T) {
	d := testregion.Start(t, allKinds)
	r := d.Attach(shm.Options{Produce: []string{"a", "b"}, Consume: []string{"a", "b"}})
	a, b := queue(t, r, "a"), queue(t, r, "b")
	a.SetWait(shm.WaitBlock)
	b.SetWait(shm.WaitBlock)
	ended := make(chan any)
	go func() {
		defer func() { ended <- recover() }()
		panics := func(m *shm.Message) { m.Ack(); panic("x") }
		r.Select(within(t), a.CaseReceive(panics), b.CaseReceive(panics))
	}()
	asleep := func(channel, n string) bool {
		out, errs, code := d.Shmctl("ch", "info", channel, "-o", "json")
		if code != 0 {
			t.Fatal(errs)
		}
		return strings.Contains(out, `"receivers_asleep":`+n+",")
	}
	for !asleep("a", "1") || !asleep("b", "1") {
	}
	if err := a.Send(within(t), []byte("1")); err != nil {
		t.Fatal(err)
	}
	if x := <-ended; x != "x" {
		t.Fatalf("it ended with %v", x)
	}
	if !asleep("a", "0") || !asleep("b", "0") {
		t.Error("somebody seems to sleep")
	}
}

func TestSelectOfNothing(t *testing.T) {
	d := testregion.Start(t, "[region]\nname = \"test\"\n[channel.jobs]\nslots = 2\nslot_size = \"64B\"\n")
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	if i, err := r.Select(t.Context(), q.CaseSend(nil), shm.Case{}); i != -1 || err == nil || !strings.Contains(err.Error(), "case 1 is empty") {
		t.Errorf("an empty case: %d, %v", i, err)
	}
	if n, err := q.Stat(); err != nil || n.Messages != 0 {
		t.Errorf("it sent something: %+v, %v", n, err)
	}
	l, err := q.LoanBatch(within(t))
	if err != nil {
		t.Fatal(err)
	}
	copy(l.Next(5), "hello")
	if err := l.Commit(); err != nil {
		t.Fatal(err)
	}
	if b := l.Next(5); b != nil || l.Len() != 1 {
		t.Errorf("after Commit there is room for %d bytes more; %d messages", len(b), l.Len())
	}
}
