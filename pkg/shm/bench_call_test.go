package shm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

func init() { roles["answer"] = answer }

// answer answers with what it got.
func answer() error {
	ctx := context.Background()
	r, err := shm.Attach(ctx, shm.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	c, err := r.Call("service")
	if err != nil {
		return err
	}
	r.Ready()
	err = c.Serve(ctx, func(req []byte, reply *shm.Answer) error {
		_, err := reply.Write(req)
		return err
	})
	if errors.Is(err, shm.ErrQuit) {
		return nil
	}
	return err
}

func benchCall(b *testing.B, size int) *shm.Call {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	d := testregion.Start(b, fmt.Sprintf("[region]\nname = \"test\"\n[channel.service]\nkind = \"call\"\nslot_size = %d\n"+
		"[worker.answer]\ncommand = [%q]\nenv = { SHM_TEST_ROLE = \"answer\" }\nconsume = [\"service\"]\n", max(size, 64), exe))
	return callOf(b, d.Attach(shm.Options{Produce: []string{"service"}}), "service")
}

// BenchmarkCall is a round trip between two processes that are both busy; p50 and p99 are over calls.
func BenchmarkCall(b *testing.B) {
	for _, size := range append(sizes, 64<<10) {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			c := benchCall(b, size)
			req, buf := make([]byte, size), make([]byte, 0, size)
			ctx := context.Background()
			took := make([]int64, 0, 1<<20)
			b.ReportAllocs()
			for b.Loop() {
				t := sys.MonotonicNs()
				var err error
				if buf, err = c.Do(ctx, req, buf[:0]); err != nil {
					b.Fatal(err)
				}
				if len(took) < cap(took) {
					took = append(took, sys.MonotonicNs()-t)
				}
			}
			percentiles(b, took)
		})
	}
}

// BenchmarkCallAsleep is a round trip where both ends sleep: each call is made a millisecond after the last.
func BenchmarkCallAsleep(b *testing.B) {
	for _, size := range sizes[:2] {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			c := benchCall(b, size)
			req, buf := make([]byte, size), make([]byte, 0, size)
			ctx := context.Background()
			pace := time.NewTicker(time.Millisecond)
			defer pace.Stop()
			var took []int64
			b.ResetTimer()
			for range b.N {
				<-pace.C
				t := sys.MonotonicNs()
				var err error
				if buf, err = c.Do(ctx, req, buf[:0]); err != nil {
					b.Fatal(err)
				}
				took = append(took, sys.MonotonicNs()-t)
			}
			percentiles(b, took)
		})
	}
}

// BenchmarkCallMany is many goroutines that call at once.
func BenchmarkCallMany(b *testing.B) {
	for _, n := range []int{4, 64, 1000} {
		b.Run(fmt.Sprintf("callers=%d", n), func(b *testing.B) {
			c := benchCall(b, 64)
			ctx := context.Background()
			b.SetParallelism(n)
			b.RunParallel(func(p *testing.PB) {
				req, buf := make([]byte, 64), make([]byte, 0, 64)
				for p.Next() {
					var err error
					if buf, err = c.Do(ctx, req, buf[:0]); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func percentiles(b *testing.B, ns []int64) {
	slices.Sort(ns)
	b.ReportMetric(float64(ns[len(ns)/2]), "p50-ns")
	b.ReportMetric(float64(ns[len(ns)*99/100]), "p99-ns")
}
