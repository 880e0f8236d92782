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

	"github.com/shmd/shmd/pkg/protocol"
)

const (
	benchText   = "request served, and the answer was sent back"
	benchAttrs  = `"method":"GET","path":"/index.html","status":200,"bytes":18231`
	benchSource = "server/handler.go:231"
)

// BenchmarkLogRecord measures a record of 168 bytes, beside a C program that copies the same bytes (x-of-C), which runs before and after.
func BenchmarkLogRecord(b *testing.B) {
	twin := filepath.Join(b.TempDir(), "twin")
	if out, err := exec.Command("cc", "-O2", "-o", twin, "testdata/logtwin.c").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	c := func(n int) float64 {
		out, err := exec.Command(twin, benchText, benchAttrs, benchSource, fmt.Sprint(max(n, 1_000_000))).Output()
		if err != nil {
			b.Fatal(err)
		}
		ns, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		if err != nil {
			b.Fatal(err)
		}
		return ns
	}
	measure := func(name string, record func(l *Log) func()) {
		b.Run(name, func(b *testing.B) {
			l, _ := newTestLog(b, 64<<10)
			fn := record(l)
			before := c(b.N)
			begun := time.Now()
			for b.Loop() {
				fn()
			}
			own := float64(time.Since(begun).Nanoseconds()) / float64(b.N)
			after := c(b.N)
			b.ReportMetric(min(before, after), "C-ns/op")
			b.ReportMetric(own/min(before, after), "x-of-C")
		})
	}
	measure("ring", func(l *Log) func() {
		e := &protocol.LogEntry{UnixNs: time.Now().UnixNano(), Level: 6, Text: benchText, Attrs: []byte(benchAttrs), Source: benchSource}
		return func() { l.ring.w.Write(e) }
	})
	measure("slog", func(l *Log) func() {
		log := slog.New(l)
		return func() {
			log.LogAttrs(b.Context(), slog.LevelInfo, benchText, slog.String("method", "GET"), slog.String("path", "/index.html"), slog.Int("status", 200), slog.Int("bytes", 18231))
		}
	})
	measure("slog.With", func(l *Log) func() {
		log := slog.New(l).With("method", "GET", "path", "/index.html", "status", 200)
		return func() { log.LogAttrs(b.Context(), slog.LevelInfo, benchText, slog.Int("bytes", 18231)) }
	})
}
