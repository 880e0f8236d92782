package shm_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
	"github.com/shmd/shmd/pkg/shm"
)

func init() {
	roles["meter"] = func() error {
		r, err := shm.Attach(context.Background(), shm.Options{})
		if err != nil {
			return err
		}
		if err := useMetrics(r); err != nil {
			return err
		}
		if err := r.Ready(); err != nil {
			return err
		}
		c, err := r.Counter("after_close", "", "counts on when its region is closed")
		if err != nil {
			return err
		}
		<-r.Quit().Done()
		if err := r.Close(); err != nil {
			return err
		}
		before := region.Mapped()
		runtime.GC()
		c.Inc() // the memory is there still
		if n := region.Mapped(); before != 1 || n != 1 {
			return fmt.Errorf("%d and %d mappings while somebody may count", before, n)
		}
		if _, err := r.Counter("late", "", ""); !errors.Is(err, shm.ErrClosed) {
			return fmt.Errorf("defined after Close: %w", err)
		}
		fmt.Println("counted on")
		return nil
	}
}

func init() {
	roles["caller"] = func() error { // calls three times, one of them for an error, and says so
		r, err := shm.Attach(context.Background(), shm.Options{})
		if err != nil {
			return err
		}
		defer r.Close()
		c, err := r.Call("service")
		if err != nil {
			return err
		}
		h, err := r.Histogram("service", "nanoseconds", "round trip of a call")
		if err != nil {
			return err
		}
		c.ObserveTrips(h)
		for _, text := range []string{"a", "fail", "b"} {
			if _, err := c.Do(context.Background(), []byte(text), nil); (err != nil) != (text == "fail") {
				return fmt.Errorf("%s: %w", text, err)
			}
		}
		if err := r.Ready(); err != nil {
			return err
		}
		<-r.Quit().Done()
		return nil
	}
}

// The round trips of calls are in the memory where somebody asked for them.
func TestObserveTrips(t *testing.T) {
	d := testregion.Start(t, callRegion(1)+"[worker.caller]\nproduce = [\"service\"]\n"+worker("caller", ""))
	var got struct {
		Workers []struct {
			Name    string
			Metrics []struct {
				Name, Unit         string
				Count, Sum, Median uint64
			}
		}
	}
	d.JSON(&got, "stat", "caller")
	if len(got.Workers) != 1 || len(got.Workers[0].Metrics) != 1 {
		t.Fatalf("%+v", got)
	}
	if m := got.Workers[0].Metrics[0]; m.Name != "service" || m.Count != 2 || m.Sum == 0 || m.Median > m.Sum {
		t.Errorf("%+v", m)
	}
}

// useMetrics uses the metrics of a region, and returns what is not as it should be.
func useMetrics(r *shm.Region) error {
	c, err := r.Counter("jobs", "", "jobs that are done")
	if err != nil {
		return err
	}
	c.Add(2)
	if again, err := r.Counter("jobs", "", "jobs that are done"); err != nil || again != c {
		return fmt.Errorf("the same again: %v, %w", again == c, err)
	}
	for what, err := range map[string]error{
		"another help": errOf(r.Counter("jobs", "", "others")),
		"another unit": errOf(r.Counter("jobs", "bytes", "jobs that are done")),
		"another kind": errOf(r.Gauge("jobs", "", "jobs that are done")),
	} {
		if !errors.Is(err, shm.ErrMetric) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if _, err := r.Histogram("Jobs", "", ""); !errors.Is(err, protocol.ErrMetricName) {
		return fmt.Errorf("a name that is none: %w", err)
	}
	g, err := r.Gauge("load", "jobs", "jobs at a time")
	if err != nil {
		return err
	}
	g.Set(2.5)
	g.Add(-1)
	h, err := r.Histogram("trip", "nanoseconds", "there and back")
	if err != nil {
		return err
	}
	h.Observe(100)
	h.Since(time.Now())
	return nil
}

func errOf[T any](_ T, err error) error { return err }

// What a worker counts is in the memory of its group, the process goes on counting when its region is closed, and the next process goes on
// from there.
func TestMetrics(t *testing.T) {
	d := testregion.Start(t, region1+"[worker.w]\nmetrics = 12\n"+worker("meter", "ready = \"call\"\nstop_timeout = \"60s\""))
	if _, errs, code := d.Shmctl("restart", "w"); code != 0 { // so the first process has counted on after Close
		t.Fatal(errs)
	}
	var got struct {
		Workers []struct {
			Metrics []struct {
				Name, Kind, Unit, Help string
				Live                   bool
				Count, Sum, Median     uint64
				Value                  float64
			}
		}
	}
	d.JSON(&got, "stat")
	metrics := got.Workers[0].Metrics
	if len(metrics) != 4 {
		t.Fatalf("%+v", metrics)
	}
	if c := metrics[0]; c.Name != "jobs" || c.Kind != "counter" || c.Unit != "" || c.Help != "jobs that are done" || !c.Live || c.Count != 4 {
		t.Errorf("%+v", c)
	}
	if g := metrics[1]; g.Name != "load" || g.Kind != "gauge" || g.Unit != "jobs" || g.Value != 1.5 {
		t.Errorf("%+v", g)
	}
	if h := metrics[2]; h.Name != "trip" || h.Kind != "histogram" || h.Count != 4 || h.Sum < 200 || h.Median == 0 {
		t.Errorf("%+v", h)
	}
	if c := metrics[3]; c.Name != "after_close" || c.Count != 1 {
		t.Errorf("%+v", c)
	}
}

// An outsider, whom nobody watches, counts for itself.
func TestMetricsOfAnOutsider(t *testing.T) {
	d := testregion.Start(t, region1)
	if err := useMetrics(d.Attach(shm.Options{})); err != nil {
		t.Error(err)
	}
}

func TestMetricsFull(t *testing.T) {
	d := testregion.Launch(t, region1+"[worker.w]\nmetrics = 3\n"+worker("meter", "restart = \"never\""))
	d.WaitLog(`the instance's metric table is full: it has 3 rows, and \"trip\" needs 6 more: see metrics in the worker's table of the configuration`)
}

func BenchmarkCounter(b *testing.B) {
	d := testregion.Start(b, region1)
	c, err := d.Attach(shm.Options{}).Counter("jobs", "", "")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c.Inc()
	}
}
