package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// clockRole is a worker that answers each job with its name and its clock.
func clockRole() {
	r, err := shm.Attach(context.Background(), shm.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	in, err1 := r.Queue("jobs-" + os.Getenv("CLOCK"))
	out, err2 := r.Queue("results")
	if err := errors.Join(err1, err2); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	r.Ready()
	for m, err := range in.Messages(context.Background()) {
		if err != nil {
			break
		}
		ctx, cancel := context.WithTimeout(context.Background(), testregion.Limit) // by this process's own clock
		out.Send(ctx, fmt.Appendf(nil, "%s %s %d", os.Getenv("CLOCK"), m.Bytes(), sys.MonotonicNs()))
		cancel()
		m.Ack()
	}
	r.Close()
}

// TestClocks: two workers, one with a monotonic clock that is three years ahead of the daemon's and one with a clock that is behind it.
// Nothing that they share compares times: messages flow, nothing is taken for late, nobody is started again, and a stop is obeyed.
func TestClocks(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const ahead = 100_000_000 // seconds
	behind := -(sys.MonotonicNs()/int64(time.Second) - 1)
	toml := "[region]\nname = \"test\"\n[channel.results]\n"
	clocks := map[string]int64{"ahead": ahead, "behind": behind}
	for name, offset := range clocks {
		toml += fmt.Sprintf(`[channel.jobs-%[1]s]
[worker.%[1]s]
command = ["unshare", "--time", "--fork", "--monotonic", "%[2]d", "--boottime", "%[2]d", %[3]q]
consume = ["jobs-%[1]s"]
produce = ["results"]
ready = "call"
env = { FAULTS_ROLE = "clock", CLOCK = %[1]q }
`, name, offset, exe)
	}
	d := testregion.Start(t, toml)
	r := d.Attach(shm.Options{Produce: []string{"jobs-ahead", "jobs-behind"}, Consume: []string{"results"}})
	results, err := r.Queue("results")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testregion.Limit)
	defer cancel()
	for i := range 100 {
		for name := range clocks {
			q, err := r.Queue("jobs-" + name)
			if err != nil {
				t.Fatal(err)
			}
			if err := q.Send(ctx, fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
			m, err := results.Receive(ctx)
			if err != nil {
				t.Fatalf("no answer of %s: %v", name, err)
			}
			var who string
			var n int
			var ns int64
			fmt.Sscan(string(m.Bytes()), &who, &n, &ns)
			off := time.Duration(ns-sys.MonotonicNs()) - time.Duration(clocks[name])*time.Second
			if who != name || n != i || off.Abs() > testregion.Limit {
				t.Fatalf("%q; want one of %s, job %d, with its clock %d s off", m.Bytes(), name, i, clocks[name])
			}
			if err := m.Ack(); err != nil {
				t.Fatal(err)
			}
		}
	}

	// An operator with another clock sees them, and his stop of one of them is obeyed; then ours.
	elsewhere := exec.Command("unshare", "--time", "--fork", "--monotonic", fmt.Sprint(ahead), "--boottime", fmt.Sprint(ahead),
		filepath.Join(testregion.Binaries(t), "shmctl"), "-r", d.Name, "-s", d.Socket, "ps")
	if out, err := elsewhere.CombinedOutput(); err != nil || strings.Count(string(out), "ready") != 2 {
		t.Errorf("shmctl ps with another clock: %v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	for _, w := range d.WaitReady() {
		if w.Restarts != 0 {
			t.Errorf("%s was started again: %s", w.Name, w.Reason)
		}
	}
	var stopped struct {
		Workers []struct {
			Name, How string
			Ack       int64 `json:"ack_ns"`
		}
	}
	d.JSON(&stopped, "stop", "ahead", "behind")
	for _, w := range stopped.Workers {
		if w.How != "flag" {
			t.Errorf("stop: %+v", w)
		}
	}
	t.Logf("%+v", stopped)
}
