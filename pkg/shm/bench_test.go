package shm_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// Benchmarks between two processes, each beside a Unix stream socket in the same run:
//
//	go test ./pkg/shm -run '^$' -bench . -count 10 | tee new.txt && benchstat -col /over new.txt

// lane is what the configuration says of a channel with one producer and one consumer.
const lane = "producers = 1\nconsumers = 1\n"

func benchToml(channel string) string {
	return "[region]\nname = \"test\"\n[channel.jobs]\nslots = 1024\nslot_size = \"1KiB\"\n" + channel + "[channel.results]\nslots = 1024\nslot_size = \"1KiB\"\n" + channel
}

// sizes of payloads, in bytes.
var sizes = []int{8, 64, 1024}

func init() {
	roles["sink"] = sink
	roles["socket"] = socketPeer
}

// sink takes messages; one that begins with 1 is answered.
func sink() error {
	ctx := context.Background()
	r, err := shm.Attach(ctx, shm.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	jobs, err := r.Queue("jobs")
	if err != nil {
		return err
	}
	results, err := r.Queue("results")
	if err != nil {
		return err
	}
	r.Ready()
	for {
		m, err := jobs.Receive(ctx)
		if errors.Is(err, shm.ErrQuit) {
			return nil
		}
		if err != nil {
			return err
		}
		if b := m.Bytes(); b[0] == 1 {
			if err := results.Send(ctx, b); err != nil {
				return err
			}
		}
		if err := m.Ack(); err != nil {
			return err
		}
	}
}

// socketPeer does the same over a Unix stream socket that it inherits as descriptor 3, with messages of a fixed size.
func socketPeer() error {
	c, err := net.FileConn(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	defer c.Close()
	var size int
	fmt.Sscan(os.Getenv("SHM_TEST_SIZE"), &size)
	in := bufio.NewReaderSize(c, 64<<10)
	b := make([]byte, size)
	for {
		if _, err := io.ReadFull(in, b); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if b[0] == 1 {
			if _, err := c.Write(b); err != nil {
				return err
			}
		}
	}
}

// overQueue returns functions that send a message and receive an answer through two queues.
func overQueue(b *testing.B, channel string) (send func([]byte), receive func([]byte)) {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	d := testregion.Start(b, benchToml(channel)+fmt.Sprintf("[worker.sink]\ncommand = [%q]\nenv = { SHM_TEST_ROLE = \"sink\" }\nconsume = [\"jobs\"]\nproduce = [\"results\"]\n", exe))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"results"}})
	jobs, err1 := r.Queue("jobs")
	results, err2 := r.Queue("results")
	if err1 != nil || err2 != nil {
		b.Fatal(err1, err2)
	}
	ctx := context.Background()
	return func(p []byte) {
			if err := jobs.Send(ctx, p); err != nil {
				b.Fatal(err)
			}
		}, func(p []byte) {
			m, err := results.Receive(ctx)
			if err != nil {
				b.Fatal(err)
			}
			copy(p, m.Bytes())
			if err := m.Ack(); err != nil {
				b.Fatal(err)
			}
		}
}

// overSocket does so through a Unix stream socket.
func overSocket(b *testing.B, size int) (send func([]byte), receive func([]byte)) {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("unix", b.TempDir()+"/s")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	f, err := peer.(*net.UnixConn).File()
	if err != nil {
		b.Fatal(err)
	}
	peer.Close()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "SHM_TEST_ROLE=socket", fmt.Sprint("SHM_TEST_SIZE=", size))
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	f.Close()
	b.Cleanup(func() { c.Close(); cmd.Wait() })
	return func(p []byte) {
			if _, err := c.Write(p); err != nil {
				b.Fatal(err)
			}
		}, func(p []byte) {
			if _, err := io.ReadFull(c, p); err != nil {
				b.Fatal(err)
			}
		}
}

func both(b *testing.B, fn func(b *testing.B, size int, send, receive func([]byte))) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("size=%d/over=queue", size), func(b *testing.B) {
			send, receive := overQueue(b, "")
			fn(b, size, send, receive)
		})
		b.Run(fmt.Sprintf("size=%d/over=lane", size), func(b *testing.B) {
			send, receive := overQueue(b, lane)
			fn(b, size, send, receive)
		})
		b.Run(fmt.Sprintf("size=%d/over=socket", size), func(b *testing.B) {
			send, receive := overSocket(b, size)
			fn(b, size, send, receive)
		})
	}
}

// BenchmarkRoundTrip sends a message and waits for its answer.
func BenchmarkRoundTrip(b *testing.B) {
	both(b, func(b *testing.B, size int, send, receive func([]byte)) {
		p := make([]byte, size)
		p[0] = 1
		for b.Loop() {
			send(p)
			receive(p)
		}
	})
}

// BenchmarkOneWay sends messages one at a time and waits for the answer to the last.
func BenchmarkOneWay(b *testing.B) {
	both(b, func(b *testing.B, size int, send, receive func([]byte)) {
		p := make([]byte, size)
		b.SetBytes(int64(size))
		b.ResetTimer()
		for i := 0; i < b.N; i++ {
			p[0] = 0
			if i == b.N-1 {
				p[0] = 1
			}
			send(p)
		}
		receive(p)
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mmsg/s")
	})
}

// BenchmarkSameProcess is the cost of the slot machine alone: one goroutine sends, receives and acks.
func BenchmarkSameProcess(b *testing.B) {
	b.Run("over=queue", func(b *testing.B) { sameProcess(b, "") })
	b.Run("over=lane", func(b *testing.B) { sameProcess(b, lane) })
}

func sameProcess(b *testing.B, channel string) {
	d := testregion.Start(b, benchToml(channel)+"[worker.idle]\nbuiltin = \"idle\"\n")
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 64)
	ctx := context.Background()
	for b.Loop() {
		if err := q.Send(ctx, p); err != nil {
			b.Fatal(err)
		}
		m, err := q.Receive(ctx)
		if err != nil {
			b.Fatal(err)
		}
		m.Ack()
	}
}
