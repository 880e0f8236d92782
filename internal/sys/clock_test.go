package sys

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMonotonicNsIsTheKernelsClock(t *testing.T) {
	var worst int64
	best := int64(1 << 62)
	for range 1000 {
		var a, b unix.Timespec
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &a)
		ns := MonotonicNs()
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &b)
		// off is how far ns lies outside of [a, b].
		off := max(a.Nano()-ns, ns-b.Nano(), 0)
		worst = max(worst, off)
		best = min(best, off)
	}
	if worst > 5_000 {
		t.Errorf("MonotonicNs is up to %d ns off the kernel's clock, want a few µs at most", worst)
	}
}

// Each process finds its own offset at start: they have to agree.
func TestMonotonicNsAcrossProcesses(t *testing.T) {
	for range 5 {
		before := MonotonicNs()
		out := runHelper(t, "clock", nil)
		after := MonotonicNs()
		ns, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
		if err != nil || ns < before-5_000 || ns > after+5_000 {
			t.Errorf("the other process read %q (%v), not within [%d, %d]", out, err, before, after)
		}
	}
}

func init() {
	helpers["clock"] = func() {
		w := bufio.NewWriter(os.Stdout)
		fmt.Fprintln(w, MonotonicNs())
		w.Flush()
	}
}

func TestPause(t *testing.T) {
	before := MonotonicNs()
	for range 1000 {
		Pause()
	}
	if took := MonotonicNs() - before; took <= 0 {
		t.Errorf("1000 pauses took %d ns", took)
	}
}

func BenchmarkMonotonicNs(b *testing.B) {
	for b.Loop() {
		MonotonicNs()
	}
}

func BenchmarkPause(b *testing.B) {
	for b.Loop() {
		Pause()
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
