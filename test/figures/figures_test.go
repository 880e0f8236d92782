// Package figures measures a region of 64 idle workers, and one of 1,000: start, idle cost, stop, scale. These are benchmarks, no tests:
//
//	go test ./test/figures -run '^$' -bench . -benchtime 5x
package figures

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

const workers = 64

const idle = "[region]\nname = \"test\"\n[channel.jobs]\nslots = 1024\nslot_size = \"4KiB\"\n[worker.idle]\nbuiltin = \"idle\"\ncount = 64\nconsume = [\"jobs\"]\n"

func TestMain(m *testing.M) {
	if socket := os.Getenv("FIGURES_HOLD"); socket != "" {
		if err := hold(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	testregion.Cleanup()
	os.Exit(code)
}

// BenchmarkStart64 measures from exec of shmd to the last of 64 workers being ready.
func BenchmarkStart64(b *testing.B) {
	testregion.Binaries(b)
	var times []time.Duration
	for range b.N {
		begin := time.Now()
		d := testregion.Start(b, idle)
		times = append(times, time.Since(begin))
		d.Stop()
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "ms/start-median")
	b.ReportMetric(float64(times[len(times)-1].Microseconds())/1000, "ms/start-max")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkStop64 measures shmctl stop of 64 idle workers: from the store of each worker's flag to its acknowledgement and exit.
func BenchmarkStop64(b *testing.B) {
	var acks, exits, lasts []int64
	for range b.N {
		d := testregion.Start(b, idle)
		var stopped struct {
			Workers []struct {
				Ack  int64  `json:"ack_ns"`
				Exit int64  `json:"exit_ns"`
				How  string `json:"how"`
			} `json:"workers"`
		}
		d.JSON(&stopped, "stop", "idle")
		var last int64
		for _, w := range stopped.Workers {
			if w.How != "flag" {
				b.Fatalf("a worker was stopped by %s", w.How)
			}
			acks, exits, last = append(acks, w.Ack), append(exits, w.Exit), max(last, w.Exit)
		}
		if len(stopped.Workers) != workers {
			b.Fatalf("%d workers", len(stopped.Workers))
		}
		lasts = append(lasts, last)
		d.Stop()
	}
	report := func(name string, v []int64, q float64) {
		slices.Sort(v)
		b.ReportMetric(float64(v[int(q*float64(len(v)-1))])/1000, name)
	}
	report("µs/ack-p50", acks, 0.5)
	report("µs/ack-p99", acks, 0.99)
	report("µs/exit-p50", exits, 0.5)
	report("µs/last-exit-median", lasts, 0.5)
	report("µs/last-exit-max", lasts, 1)
	b.ReportMetric(0, "ns/op")
}

// BenchmarkIdle64 lets a region of 64 workers alone for 10 s and measures the run time of all its processes, from
// /proc/PID/schedstat, and the memory of the daemon.
func BenchmarkIdle64(b *testing.B) {
	var worst, rss float64
	for range b.N {
		d := testregion.Start(b, idle)
		r := d.Attach(shm.Options{Name: "figures"})
		ws, err := r.Workers()
		if err != nil {
			b.Fatal(err)
		}
		pids := []int{d.Cmd.Process.Pid}
		for _, w := range ws {
			pids = append(pids, w.Pid)
		}
		if err := quiet(r); err != nil {
			b.Fatal(err)
		}
		before := runTime(b, pids)
		time.Sleep(10 * time.Second) // the thing that is measured: nothing happens for so long
		worst = max(worst, float64(runTime(b, pids)-before)/1e6)
		rss = max(rss, status(b, d.Cmd.Process.Pid, "VmRSS:"))
		r.Close()
		d.Stop()
	}
	b.ReportMetric(worst, "ms/10s-max")
	b.ReportMetric(rss/1024, "MiB/daemon-RSS")
	b.ReportMetric(0, "ns/op")
}

// quiet waits until the start is over: no process of the region has run for a second.
func quiet(r *shm.Region) error {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := r.WaitChange(ctx)
		cancel()
		if err != nil { // nothing changed for two seconds
			return nil
		}
		if _, err := r.Workers(); err != nil {
			return err
		}
	}
}

// runTime returns the run time of all threads of some processes, in ns.
func runTime(b *testing.B, pids []int) (ns int64) {
	for _, pid := range pids {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			b.Fatal(err)
		}
		for _, t := range tasks {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
			if err != nil {
				b.Fatal(err)
			}
			var n int64
			fmt.Sscan(string(text), &n)
			ns += n
		}
	}
	return ns
}

// status returns a number of /proc/PID/status.
func status(b *testing.B, pid int, key string) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			var n float64
			fmt.Sscan(rest, &n)
			return n
		}
	}
	b.Fatalf("no %s", key)
	return 0
}

// BenchmarkRepair measures from SIGKILL of a consumer that holds a message to another consumer having it: death seen, queue repaired,
// consumer woken.
func BenchmarkRepair(b *testing.B) {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	d := testregion.Start(b, "[region]\nname = \"test\"\nmax_attachments = 64\n[channel.jobs]\nslots = 64\nslot_size = \"64B\"\nmax_deliveries = 0\n[worker.idle]\nbuiltin = \"idle\"\n")
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	var times []time.Duration
	for range b.N {
		if err := q.Send(ctx, []byte("held")); err != nil {
			b.Fatal(err)
		}
		holder := exec.Command(exe)
		holder.Env = append(os.Environ(), "FIGURES_HOLD="+d.Socket)
		out, err := holder.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := holder.Start(); err != nil {
			b.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		begin := make(chan time.Time, 1)
		go func() {
			for s, _ := q.Stat(); s.Receivers == 0; s, _ = q.Stat() { // until the other consumer sleeps
				runtime.Gosched()
			}
			begin <- time.Now()
			holder.Process.Kill()
		}()
		m, err := q.Receive(ctx)
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(<-begin))
		m.Ack()
		holder.Wait()
	}
	slices.Sort(times)
	at := func(p float64) float64 { return float64(times[int(p*float64(len(times)-1))].Microseconds()) / 1000 }
	b.ReportMetric(at(0.5), "ms/p50")
	b.ReportMetric(at(0.999), "ms/p99.9")
	b.ReportMetric(at(1), "ms/max")
	b.ReportMetric(0, "ns/op")
}

// hold takes a message and keeps it until it is killed.
func hold(socket string) error {
	ctx := context.Background()
	r, err := shm.Attach(ctx, shm.Options{Socket: socket, Consume: []string{"jobs"}})
	if err != nil {
		return err
	}
	q, err := r.Queue("jobs")
	if err != nil {
		return err
	}
	if _, err := q.Receive(ctx); err != nil {
		return err
	}
	fmt.Println("holding")
	<-r.Quit().Done()
	return nil
}
