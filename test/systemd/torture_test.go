package systemd

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/shm"
)

// T9: the daemon is killed again and again under traffic; nothing is lost, nothing comes twice, no worker is restarted. 30 times, in `make torture` 1,000.
func TestDaemonKilledUnderTraffic(t *testing.T) {
	kills := 30
	if os.Getenv("SHMD_TEST_TORTURE") != "" {
		kills = 1000
	}
	configure(t, "default", relays)
	s := start(t, unit, "default")
	s.waitReady()
	before := s.workers()
	traffic := pass(s, "numbers", "out")
	took := killDaemon(s, kills, traffic.flows)
	traffic.end()
	s.expectSame(before)
	s.expectOneRegion()
	if n := s.show("NRestarts"); n != fmt.Sprint(kills) {
		t.Errorf("the daemon was restarted %s times", n)
	}
	s.expectNoneMissing()
	t.Logf("%d kills: killed to adopted %v median, %v at most, of which 100 ms are RestartSec=", kills, middle(took), slices.Max(took))
}

// killDaemon kills the daemon n times, each time after ready, and returns how long it took from the kill until the next one had adopted the region.
func killDaemon(s service, n int, ready func()) (took []time.Duration) {
	s.t.Helper()
	pid, err := strconv.Atoi(s.show("MainPID"))
	if err != nil {
		s.t.Fatal(err)
	}
	for range n {
		ready()
		killed := time.Now()
		kill(s.t, pid, syscall.SIGKILL)
		e := s.waitJournal("the region is adopted", func(e entry) bool {
			return strings.HasPrefix(e.str("MESSAGE"), "region adopted") && e.str("_SYSTEMD_UNIT") == s.unit && at(e).After(killed)
		})
		took = append(took, at(e).Sub(killed))
		if pid, err = strconv.Atoi(e.str("_PID")); err != nil {
			s.t.Fatal(err)
		}
	}
	return took
}

func middle(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// Figures, one run each: go test ./test/systemd -run '^$' -bench . -benchtime 1x

// BenchmarkAdoption measures from the kill of a daemon with six workers under traffic until the next one has adopted the region, 50 times.
func BenchmarkAdoption(b *testing.B) {
	configure(b, "default", relays)
	s := start(b, unit, "default")
	s.waitReady()
	traffic := pass(s, "numbers", "out")
	took := killDaemon(s, 50, traffic.flows)
	lost, twice := traffic.end()
	b.ReportMetric(float64(middle(took).Microseconds())/1000, "ms-median")
	b.ReportMetric(float64(slices.Max(took).Microseconds())/1000, "ms-max")
	b.ReportMetric(float64(lost), "lost")
	b.ReportMetric(float64(twice), "twice")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkUpgrade measures round trips (a queue to a worker, and one back) for some seconds, without an upgrade, and with one after the other: beside the pause
// itself there is the CPU that upgrades take.
func BenchmarkUpgrade(b *testing.B) {
	configure(b, "default", strings.Replace(relays, "count = 4", "count = 1", 1))
	s := start(b, unit, "default")
	s.waitReady()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	r, err := shm.Attach(ctx, shm.Options{Region: "default", Socket: "/run/shmd/default.sock", Name: "pair", Produce: []string{"numbers"}, Consume: []string{"out"}})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	there, err := r.Queue("numbers")
	if err != nil {
		b.Fatal(err)
	}
	back, err := r.Queue("out")
	if err != nil {
		b.Fatal(err)
	}
	trips := func(until func() bool) (all []time.Duration) {
		for !until() {
			began := time.Now()
			if err := there.Send(ctx, []byte("ping")); err != nil {
				b.Fatal(err)
			}
			m, err := back.Receive(ctx)
			if err != nil {
				b.Fatal(err)
			}
			if err := m.Ack(); err != nil {
				b.Fatal(err)
			}
			all = append(all, time.Since(began))
		}
		slices.Sort(all)
		return all
	}
	const run = 5 * time.Second
	began := time.Now()
	calm := trips(func() bool { return time.Since(began) > run })
	done := make(chan []time.Duration, 1)
	go func() {
		var pauses []time.Duration
		for began := time.Now(); time.Since(began) < run; {
			var u struct {
				PauseNs int64 `json:"pause_ns"`
			}
			s.shmctlJSON(&u, "upgrade")
			pauses = append(pauses, time.Duration(u.PauseNs))
		}
		done <- pauses
	}()
	var pauses []time.Duration
	busy := trips(func() bool {
		select {
		case pauses = <-done:
			return true
		default:
			return false
		}
	})
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	b.ReportMetric(float64(len(pauses)), "upgrades")
	b.ReportMetric(us(middle(pauses))/1000, "ms-pause-median")
	b.ReportMetric(us(slices.Max(pauses))/1000, "ms-pause-max")
	b.ReportMetric(us(calm[len(calm)*999/1000]), "us-p99.9-without")
	b.ReportMetric(us(busy[len(busy)*999/1000]), "us-p99.9-with")
	b.ReportMetric(us(calm[len(calm)/2]), "us-p50-without")
	b.ReportMetric(us(busy[len(busy)/2]), "us-p50-with")
	b.ReportMetric(0, "ns/op")
}
