package filter_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// Messages a second from one queue through a filter into another, and the filter alone between two pipes, with the same lines.
func BenchmarkFilter(b *testing.B) {
	const line = "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz01" // 64 bytes
	for _, command := range [][]string{{"sed", "-u", "s/a/A/"}, {"cat"}} {
		for _, window := range []int{1, 16, 64, 1024} {
			b.Run(fmt.Sprintf("%s/window=%d", command[0], window), func(b *testing.B) {
				through(b, command, window, line)
			})
		}
		b.Run(command[0]+"/pipes", func(b *testing.B) {
			alone(b, command, line)
		})
	}
}

func through(b *testing.B, command []string, window int, line string) {
	ctx := context.Background()
	quoted := ""
	for _, c := range command {
		quoted += fmt.Sprintf("%q, ", c)
	}
	d := testregion.Start(b, "[region]\nname = \"test\"\n[channel.jobs]\nslots = 4096\n[channel.results]\nslots = 4096\n"+
		fmt.Sprintf("[worker.f]\ncommand = [%s]\nfilter_window = %d\n", quoted, window)+both)
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"results"}})
	jobs, err := r.Queue("jobs")
	if err != nil {
		b.Fatal(err)
	}
	results, err := r.Queue("results")
	if err != nil {
		b.Fatal(err)
	}
	batch := make([][]byte, shm.MaxBatch)
	for i := range batch {
		batch[i] = []byte(line)
	}
	b.ResetTimer()
	go func() {
		for sent := 0; sent < b.N; sent += len(batch) {
			jobs.SendBatch(ctx, batch[:min(len(batch), b.N-sent)])
		}
	}()
	for got := 0; got < b.N; {
		m, err := results.ReceiveBatch(ctx)
		if err != nil {
			b.Fatal(err)
		}
		got += m.Len()
		m.Ack()
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

func alone(b *testing.B, command []string, line string) {
	cmd := exec.Command(command[0], command[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	b.ResetTimer()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	go func() {
		var p []byte
		for range 1024 {
			p = append(append(p, line...), '\n')
		}
		for sent := 0; sent < b.N; sent += 1024 {
			in.Write(p[:min(1024, b.N-sent)*(len(line)+1)])
		}
		in.Close()
	}()
	p := make([]byte, 64<<10)
	for got := 0; got < b.N*(len(line)+1); {
		n, err := out.Read(p)
		if err != nil {
			b.Fatal(err)
		}
		got += n
	}
	b.StopTimer()
	cmd.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
