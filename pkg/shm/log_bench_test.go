package shm

import (
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	benchText   = "request served, and the answer was sent back"
	benchAttrs  = `"method":"GET","path":"/index.html","status":200,"bytes":18231`
	benchSource = "server/handler.go:231"
)

// BenchmarkLogRecord measures a record of 168 bytes, beside a C program that copies the same bytes (x-of-C), which runs before and after. Both give the least of slices
// of 5,000 records, so that a busy machine makes them neither slower nor faster than the other.
func BenchmarkLogRecord(b *testing.B) {
	twin := filepath.Join(b.TempDir(), "twin")
	if out, err := exec.Command("cc", "-O2", "-o", twin, "testdata/logtwin.c").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	const slices = 400
	c := func(more ...string) float64 {
		out, err := exec.Command(twin, append([]string{benchText, benchAttrs, benchSource, fmt.Sprint(slices)}, more...)...).Output()
		if err != nil {
			b.Fatal(err)
		}
		ns, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		if err != nil {
			b.Fatal(err)
		}
		return ns
	}
	measure := func(name string, records func(b *testing.B, l *Log) func(n int), clock ...string) {
		b.Run(name, func(b *testing.B) {
			l, _ := newTestLog(b, 64<<10)
			fn := records(b, l)
			least, ofC := time.Hour, c(clock...)
			for range slices {
				begun := time.Now()
				fn(5000)
				least = min(least, time.Since(begun))
			}
			ofC = min(ofC, c(clock...))
			b.ResetTimer()
			fn(b.N)
			b.ReportMetric(float64(least)/5000, "least-ns/op")
			b.ReportMetric(ofC, "C-ns/op")
			b.ReportMetric(float64(least)/5000/ofC, "x-of-C")
		})
	}
	entry := func() *LogEntry {
		return &LogEntry{UnixNs: time.Now().UnixNano(), Level: 6, Text: benchText, Attrs: []byte(benchAttrs), Source: benchSource}
	}
	writer := func(b *testing.B, l *Log) *LogWriter {
		w, err := l.Writer()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(w.Close)
		return w
	}
	measure("writer", func(b *testing.B, l *Log) func(int) {
		w, e := writer(b, l), entry()
		return func(n int) {
			for range n {
				w.Write(e)
			}
		}
	})
	measure("writer+clock", func(b *testing.B, l *Log) func(int) {
		w, e := writer(b, l), entry()
		return func(n int) {
			for range n {
				e.UnixNs = time.Now().UnixNano()
				w.Write(e)
			}
		}
	}, "clock")
	measure("ring", func(_ *testing.B, l *Log) func(int) {
		e := entry()
		return func(n int) {
			for range n {
				l.ring.w.Write(e)
			}
		}
	})
	measure("slog", func(b *testing.B, l *Log) func(int) {
		log := slog.New(l)
		return func(n int) {
			for range n {
				log.LogAttrs(b.Context(), slog.LevelInfo, benchText, slog.String("method", "GET"), slog.String("path", "/index.html"), slog.Int("status", 200), slog.Int("bytes", 18231))
			}
		}
	}, "clock")
	measure("slog.With", func(b *testing.B, l *Log) func(int) {
		log := slog.New(l).With("method", "GET", "path", "/index.html", "status", 200)
		return func(n int) {
			for range n {
				log.LogAttrs(b.Context(), slog.LevelInfo, benchText, slog.Int("bytes", 18231))
			}
		}
	}, "clock")
}
