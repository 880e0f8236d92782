package figures

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// BenchmarkScale measures shmctl scale of a group of idle workers from 1 to 500, until all are ready, and back, until all are gone: in the
// region's memory, from the store of the number on.
func BenchmarkScale(b *testing.B) {
	var up, down []float64
	for range b.N {
		d := testregion.Start(b, "[region]\nname = \"test\"\n[worker.web]\nbuiltin = \"idle\"\n")
		for _, to := range []struct {
			n     int
			times *[]float64
		}{{500, &up}, {1, &down}} {
			var scaled struct {
				Took int64 `json:"took_ns"`
			}
			d.JSON(&scaled, "scale", fmt.Sprintf("web=%d", to.n))
			*to.times = append(*to.times, float64(scaled.Took)/1e6)
		}
		d.Stop()
	}
	reportMedian(b, up, "ms/1-to-500")
	reportMedian(b, down, "ms/500-to-1")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkThousand measures a region of 1,000 idle workers and 200 channels: its start from exec to the last worker being ready, what it costs while
// nothing happens (run time of all its processes over 10 s, memory of the daemon), shmctl status of it, and stop of all workers.
//
// The daemon takes 2 to 3 ms of the 10 s. What swings is the workers: the monitor thread of Go's runtime sleeps for a minute at most, so each worker wakes
// for some 40 us a minute after the last thing that happened in it, and those that were started together do so together. A timer of their own that
// spreads them costs more than it saves (0.24 ms a worker).
func BenchmarkThousand(b *testing.B) {
	var text strings.Builder
	text.WriteString("[region]\nname = \"test\"\n")
	for i := range 200 {
		fmt.Fprintf(&text, "[channel.c%d]\nslots = 64\nslot_size = \"64B\"\n", i)
	}
	for i := range 10 {
		fmt.Fprintf(&text, "[worker.w%d]\nbuiltin = \"idle\"\ncount = 100\nconsume = [\"c%d\"]\n", i, i)
	}
	testregion.Binaries(b)
	var starts, idles, sizes, looks, stops []float64
	for range b.N {
		begin := time.Now()
		d := testregion.Start(b, text.String())
		starts = append(starts, float64(time.Since(begin).Microseconds())/1000)
		r := d.Attach(shm.Options{Name: "figures"})
		if err := quiet(r); err != nil {
			b.Fatal(err)
		}
		ws, err := r.Workers()
		if err != nil {
			b.Fatal(err)
		}
		pids := []int{d.Cmd.Process.Pid}
		for _, w := range ws {
			pids = append(pids, w.Pid)
		}
		before := runTime(b, pids)
		time.Sleep(10 * time.Second) // the thing that is measured: nothing happens for so long
		idles = append(idles, float64(runTime(b, pids)-before)/1e6)
		sizes = append(sizes, status(b, d.Cmd.Process.Pid, "VmRSS:")/1024)
		for range 5 {
			begin := time.Now()
			if _, errs, code := d.Shmctl("status"); code != 0 {
				b.Fatal(errs)
			}
			looks = append(looks, float64(time.Since(begin).Microseconds())/1000)
		}
		begin = time.Now()
		names := []string{"stop", "-q"}
		for i := range 10 {
			names = append(names, fmt.Sprintf("w%d", i))
		}
		if _, errs, code := d.Shmctl(names...); code != 0 {
			b.Fatal(errs)
		}
		stops = append(stops, float64(time.Since(begin).Microseconds())/1000)
		r.Close()
		d.Stop()
	}
	reportMedian(b, starts, "ms/start")
	reportMedian(b, idles, "ms/10s-idle")
	reportMedian(b, sizes, "MiB/daemon-RSS")
	reportMedian(b, looks, "ms/status")
	reportMedian(b, stops, "ms/stop")
	b.ReportMetric(0, "ns/op")
}

func reportMedian(b *testing.B, v []float64, name string) {
	slices.Sort(v)
	b.ReportMetric(v[len(v)/2], name)
}
