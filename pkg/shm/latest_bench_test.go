package shm_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

func init() {
	roles["putter"] = func() error { // puts at full speed until quit
		r, err := shm.Attach(context.Background(), shm.Options{})
		if err != nil {
			return err
		}
		defer r.Close()
		l, err := r.Latest("price")
		if err != nil {
			return err
		}
		r.Ready()
		p := make([]byte, l.SlotSize())
		for r.Quit().Err() == nil {
			if _, err := l.Put(p); err != nil {
				return err
			}
		}
		return nil
	}
}

// benchLatest returns a value of a size; busy: beside a process that puts at full speed.
func benchLatest(b *testing.B, size int, busy bool) *shm.Latest {
	toml := fmt.Sprintf("[region]\nname = \"test\"\n[channel.price]\nkind = \"latest\"\nslot_size = %d\n[worker.idle]\nbuiltin = \"idle\"\n", size)
	if busy {
		exe, err := os.Executable()
		if err != nil {
			b.Fatal(err)
		}
		toml += fmt.Sprintf("[worker.putter]\ncommand = [%q]\nenv = { SHM_TEST_ROLE = \"putter\" }\nproduce = [\"price\"]\n", exe)
	}
	d := testregion.Start(b, toml)
	l := latest(b, d.Attach(shm.Options{Produce: []string{"price"}, Consume: []string{"price"}}), "price")
	if _, err := l.Put(make([]byte, size)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(size))
	return l
}

// BenchmarkLatestPut puts values that nobody reads.
func BenchmarkLatestPut(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			l, p := benchLatest(b, size, false), make([]byte, size)
			for b.Loop() {
				if _, err := l.Put(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLatestGet copies the newest value, alone and beside a writer at full speed.
func BenchmarkLatestGet(b *testing.B) {
	for _, size := range append(sizes, 64<<10, 1<<20) {
		for _, writer := range []string{"none", "busy"} {
			b.Run(fmt.Sprintf("size=%d/writer=%s", size, writer), func(b *testing.B) {
				l := benchLatest(b, size, writer == "busy")
				var buf []byte
				for b.Loop() {
					var err error
					if buf, _, err = l.Get(buf[:0]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
