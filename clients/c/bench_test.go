package c_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkLogRecord measures a record of 168 bytes in C (bench_log.c), in multiples of the least that it can cost.
func BenchmarkLogRecord(b *testing.B) {
	program := filepath.Join(b.TempDir(), "bench_log")
	if out, err := exec.Command("gcc", "-std=gnu11", "-O2", "-I.", "-o", program, "bench_log.c", "-lpthread").CombinedOutput(); err != nil {
		b.Fatalf("gcc: %v\n%s", err, out)
	}
	out, err := exec.Command(program, "request served, and the answer was sent back", `"method":"GET","path":"/index.html","status":200,"bytes":18231`, "server/handler.go:231", "30000").Output()
	if err != nil {
		b.Fatal(err)
	}
	var least, entry, fields, clock float64
	if _, err := fmt.Sscan(strings.ReplaceAll(string(out), "\n", " "), &least, &entry, &fields, &clock); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(least, "least-ns/op")
	b.ReportMetric(entry/least, "entry-x")
	b.ReportMetric(fields/least, "fields-x")
	b.ReportMetric(clock/least, "clock-x")
	b.ReportMetric(0, "ns/op") // the program took the time
}
