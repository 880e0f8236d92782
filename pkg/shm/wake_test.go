package shm_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// TestWakeBeyondMaxLeases: a sleeper that is woken and may not take the message, since its process holds as many as max_leases allows, passes the wake on: else
// a message lies beside a consumer that sleeps.
func TestWakeBeyondMaxLeases(t *testing.T) {
	for name, receive := range map[string]func(*shm.Region, *shm.Queue) (*shm.Message, error){
		"Receive": func(_ *shm.Region, q *shm.Queue) (*shm.Message, error) { return q.Receive(context.Background()) },
		"Select": func(r *shm.Region, q *shm.Queue) (m *shm.Message, err error) {
			_, err = r.Select(context.Background(), q.CaseReceive(func(got *shm.Message) { m = got }))
			return m, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := testregion.Start(t, strings.Replace(region1, "[channel.results]", "max_leases = 1\n[channel.results]", 1)+"[worker.idle]\nbuiltin = \"idle\"\n")
			producer := queue(t, d.Attach(shm.Options{Produce: []string{"jobs"}}), "jobs")
			type result struct {
				m   *shm.Message
				err error
			}
			sleepers := 0
			sleep := func(r *shm.Region, got chan result) { // they are woken in the order in which they lie down, as a rule
				q := queue(t, r, "jobs")
				go func() {
					m, err := receive(r, q)
					got <- result{m, err}
				}()
				sleepers++
				for {
					if s, err := producer.Stat(); err != nil {
						t.Fatal(err)
					} else if s.Receivers == sleepers {
						return
					}
					runtime.Gosched()
				}
			}
			one := d.Attach(shm.Options{Consume: []string{"jobs"}, Wait: shm.WaitBlock})
			other := d.Attach(shm.Options{Consume: []string{"jobs"}, Wait: shm.WaitBlock})
			ones, others := make(chan result, 2), make(chan result, 1)
			sleep(one, ones)
			sleep(one, ones)
			sleep(other, others)
			ctx := within(t)
			send := func(text string) {
				if err := producer.Send(ctx, []byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			for full := false; !full; {
				send("a")
				select {
				case got := <-ones:
					if got.err != nil {
						t.Fatal(got.err)
					}
					defer got.m.Ack()
					full = true
				case got := <-others: // who counts as a sleeper lies down a moment later
					if got.err != nil {
						t.Fatal(got.err)
					}
					got.m.Ack()
					sleepers--
					sleep(other, others)
				}
			}
			send("b")
			for {
				select {
				case got := <-others:
					if got.err != nil || string(got.m.Bytes()) != "b" {
						t.Fatal(got)
					}
					got.m.Ack()
					return
				case got := <-ones:
					if !errors.Is(got.err, shm.ErrLeases) {
						t.Fatal(got)
					}
				case <-ctx.Done():
					t.Fatal("b lies there, and a consumer sleeps beside it")
				}
			}
		})
	}
}
