package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/outfile"
	"github.com/shmd/shmd/pkg/shm"
)

// benchOptions is the command line of bench.
type benchOptions struct {
	kinds []string
	size  string
	bytes int64
	time  time.Duration
	count int64
	batch int
	wait  waitValue
	plot  string
}

// benchKinds are what bench measures.
var benchKinds = []string{benchQueueKind, benchLane, benchTopic, benchCall}

// benchLargest is the largest message that bench measures.
const benchLargest = 64 << 20

func (a *app) benchCommand() *cobra.Command {
	o := benchOptions{wait: waitValue(shm.WaitAdaptive)}
	c := a.verb(cobra.Command{
		Use:   "bench [--size N] [--time D|--count N] [--batch N] [--wait HOW] [--plot FILE.svg] [KIND...]",
		Short: "measure round trips and throughput of channels on this machine",
		Long: `bench measures how long a message takes there and back between two processes,
and how many go one way, for each KIND of channel: queue, lane (a queue with
producers = 1 and consumers = 1), topic, call; without one, for queue and call.
The channels are scratch memory of its own: it needs no daemon, touches no
region, and leaves nothing behind, however it ends.

A round trip is one message of --size bytes, written, read and answered by a
copy in the other process, and one look at the clock. Its picture has a bar for
all trips that took so long. Throughput is messages one after the other, read by
the other process; with --batch N, N with one call; of calls, 8 under way at
once.

Each measurement takes --time, or goes on for --count messages, after a tenth
more to warm up. --wait says how the ends wait: adaptive looks for some 100 µs
and then sleeps, as the library does by itself; block sleeps at once; spin never
sleeps. Which processors the two processes run on is the
kernel's choice, and decides much: use taskset(1), and compare within one run.

--plot draws the same as an SVG picture. make bench, in the sources, compares
with C and with other systems.`,
		Example: `  shmctl bench
  shmctl bench --size 1KiB --time 5s queue lane topic call
  shmctl bench --batch 64 --plot bench.svg queue
  shmctl bench -o json --count 100000 | jq '.kinds[].round_trip.p99_ns'
  taskset -c 0 shmctl bench --wait block queue`,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			left := slices.DeleteFunc(slices.Clone(benchKinds), func(k string) bool { return slices.Contains(args, k) })
			return left, cobra.ShellCompDirectiveNoFileComp
		},
	}, func(cmd *cobra.Command, args []string) (err error) {
		if o.kinds = args; len(args) == 0 {
			o.kinds = []string{benchQueueKind, benchCall}
		}
		return o.check(cmd)
	}, func(ctx context.Context, _ []string) error { return a.bench(ctx, o) })
	f := c.Flags()
	f.StringVar(&o.size, "size", "64B", "`bytes` of a message: 64B, 4KiB, 1MiB")
	f.DurationVar(&o.time, "time", 2*time.Second, "how `long` each measurement takes")
	f.Int64Var(&o.count, "count", 0, "measure `N` messages, however long that takes")
	f.IntVar(&o.batch, "batch", 1, "send `N` messages with one call, where throughput is measured; not of calls")
	f.Var(&o.wait, "wait", "`how` the ends wait: adaptive, block or spin")
	f.StringVar(&o.plot, "plot", "", "draw the result into `FILE`, as SVG")
	c.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions(waitNames, cobra.ShellCompDirectiveNoFileComp))
	c.RegisterFlagCompletionFunc("plot", cobra.FixedCompletions([]string{"svg"}, cobra.ShellCompDirectiveFilterFileExt))
	for _, name := range []string{"size", "time", "count", "batch"} {
		c.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return c
}

func (o *benchOptions) check(cmd *cobra.Command) (err error) {
	for i, k := range o.kinds {
		switch {
		case !slices.Contains(benchKinds, k):
			return usagef("bench: kind %q: there are %s", cut(k), strings.Join(benchKinds, ", "))
		case slices.Contains(o.kinds[:i], k):
			return usagef("bench: %s is there twice", k)
		}
	}
	if o.bytes, err = config.ParseSize(o.size); err != nil {
		return usagef("bench: --size %s: give a whole number and its unit, 1B to %s", cut(o.size), config.FormatSize(benchLargest))
	}
	flags := cmd.Flags()
	switch {
	case o.bytes < 1 || o.bytes > benchLargest:
		return usagef("bench: --size %s: give 1B to %s", o.size, config.FormatSize(benchLargest))
	case o.time <= 0 || o.time > time.Hour:
		return usagef("bench: --time %v: give more than 0s, and 1h at most", o.time)
	case flags.Changed("count") && o.count < 1:
		return usagef("bench: --count %d: give 1 or more", o.count)
	case flags.Changed("count") && flags.Changed("time"):
		return usagef("bench: --time and --count both say when to end: one of them")
	case o.batch < 1 || o.batch > shm.MaxBatch:
		return usagef("bench: --batch %d: give 1 to %d", o.batch, shm.MaxBatch)
	case o.bytes*int64(o.batch) > benchLargest:
		return usagef("bench: --size and --batch: %d messages of %s are more than %s", o.batch, o.size, config.FormatSize(benchLargest))
	}
	return nil
}

// benchJSON is the result of bench.
type benchJSON struct {
	Schema int             `json:"schema"`
	CPUs   int             `json:"cpus"`
	Size   int64           `json:"size"`
	Batch  int             `json:"batch"`
	Wait   string          `json:"wait"`
	Kinds  []benchKindJSON `json:"kinds"`
}

type benchKindJSON struct {
	Kind      string `json:"kind"`
	RoundTrip struct {
		Count     int64          `json:"count"`
		P50       int64          `json:"p50_ns"`
		P90       int64          `json:"p90_ns"`
		P99       int64          `json:"p99_ns"`
		P999      int64          `json:"p99_9_ns"`
		Max       int64          `json:"max_ns"`
		Histogram []histogramRow `json:"histogram"`
	} `json:"round_trip"`
	Throughput struct {
		Messages int64   `json:"messages"`
		Seconds  float64 `json:"seconds"`
		Rate     float64 `json:"messages_per_second"`
		Bytes    float64 `json:"bytes_per_second"`
	} `json:"throughput"`

	trips *histogram
}

func (a *app) bench(ctx context.Context, o benchOptions) error {
	all := benchJSON{Schema: schema, CPUs: runtime.NumCPU(), Size: o.bytes, Batch: o.batch, Wait: o.wait.String()}
	var plot *outfile.File
	if o.plot != "" { // before the work, and as a file of its own: an interrupt leaves what was there
		var err error
		if plot, err = outfile.Create(ctx, o.plot, 0o644); err != nil {
			return err
		}
		defer plot.Discard()
	}
	if !a.json() {
		if _, err := fmt.Fprintf(a.stdout, "two processes, %s, messages of %s, wait %s\n", count(all.CPUs, "CPU"), config.FormatSize(o.bytes), o.wait.String()); err != nil {
			return err
		}
	}
	for _, kind := range o.kinds {
		k, err := a.benchKind(ctx, o, kind)
		if err != nil {
			return err
		}
		all.Kinds = append(all.Kinds, k)
		if !a.json() {
			if err := a.printBench(o, k); err != nil {
				return err
			}
		}
	}
	if plot != nil {
		if _, err := plot.WriteString(all.svg()); err != nil {
			return err
		}
		if err := plot.Commit(); err != nil {
			return err
		}
	}
	if a.json() {
		return a.printJSON(all)
	}
	return nil
}

func (a *app) benchKind(ctx context.Context, o benchOptions, kind string) (k benchKindJSON, err error) {
	k.Kind = kind
	for _, measure := range []string{benchTrip, benchFlow} {
		e := benchSpec{Kind: kind, Measure: measure, Size: int(o.bytes), Batch: 1, Wait: shm.Wait(o.wait), Time: o.time, Count: o.count}
		what := "round trips"
		if measure == benchFlow {
			if what = "throughput"; kind != benchCall {
				e.Batch = o.batch
			}
		}
		show := a.showProgress(func(t time.Duration) string {
			if o.count > 0 {
				return fmt.Sprintf("%s: %s: %s", kind, what, t.Round(time.Second))
			}
			return fmt.Sprintf("%s: %s: %s of %v", kind, what, t.Round(time.Second), o.time)
		})
		r, err := runBench(ctx, e)
		show.close()
		if err != nil {
			return k, fmt.Errorf("bench: %s: %s: %w", kind, what, explain(err, kind+" was being measured"))
		}
		if measure == benchTrip {
			h := r.Trips
			k.trips = h
			t := &k.RoundTrip
			t.Count, t.P50, t.P90, t.P99, t.P999, t.Max = h.Count, h.quantile(0.5), h.quantile(0.9), h.quantile(0.99), h.quantile(0.999), h.Max
			t.Histogram = h.rows()
			continue
		}
		t := &k.Throughput
		t.Messages, t.Seconds = r.Messages, float64(r.Ns)/1e9
		t.Rate = float64(r.Messages) / max(t.Seconds, 1e-9)
		t.Bytes = t.Rate * float64(o.bytes)
	}
	return k, nil
}

func (a *app) printBench(o benchOptions, k benchKindJSON) error {
	t := k.RoundTrip
	ns := func(v int64) string { return took(time.Duration(v)) }
	batch := ""
	if o.batch > 1 && k.Kind != benchCall {
		batch = fmt.Sprintf(", batches of %d", o.batch)
	}
	_, err := fmt.Fprintf(a.stdout, "\n%s  round trip, %s\n  p50 %s  p90 %s  p99 %s  p99.9 %s  max %s\n%s  throughput %s, %s/s%s\n",
		a.paint(bold, k.Kind), count(int(t.Count), "message"), ns(t.P50), ns(t.P90), ns(t.P99), ns(t.P999), ns(t.Max), k.trips.picture(a.paint),
		perSecond(k.Throughput.Rate), size(int64(k.Throughput.Bytes)), batch)
	return err
}

// perSecond is a rate: 8.31 M messages/s.
func perSecond(rate float64) string {
	switch {
	case rate >= 1e6:
		return fmt.Sprintf("%.3g M messages/s", rate/1e6)
	case rate >= 1e3:
		return fmt.Sprintf("%.3g k messages/s", rate/1e3)
	}
	return fmt.Sprintf("%.3g messages/s", rate)
}

// benchProcess is one of the two processes of a measurement: shmctl itself.
type benchProcess struct {
	cmd   *exec.Cmd
	in    io.Closer // its end is that of the process
	lines chan string
	errs  bytes.Buffer
}

// benchPatience is how long an end has to be ready, and to end.
const benchPatience = 10 * time.Second

func startBench(ctx context.Context, m *benchMemory, e benchSpec, index int) (*benchProcess, error) {
	e.Server = index == 1
	spec, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	p := &benchProcess{cmd: exec.CommandContext(ctx, "/proc/self/exe"), lines: make(chan string)}
	p.cmd.Args = []string{"shmctl-bench"}
	p.cmd.Env = append(append(os.Environ(), m.environ(index)...), benchVariable+"="+string(spec))
	p.cmd.ExtraFiles = m.files()
	p.cmd.Stderr = &p.errs
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.in = in
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(bufio.NewReaderSize(out, 1<<20)); ; {
			s.Buffer(nil, 16<<20)
			for s.Scan() {
				p.lines <- s.Text()
			}
			return
		}
	}()
	return p, nil
}

// end ends the process and waits for it.
func (p *benchProcess) end() {
	p.in.Close()
	kill := time.AfterFunc(benchPatience, func() { p.cmd.Process.Kill() })
	defer kill.Stop()
	for range p.lines {
	}
	p.cmd.Wait()
}

// failed says why a process ended that should not have.
func (p *benchProcess) failed(ctx context.Context) error {
	p.cmd.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	text := strings.TrimSpace(p.errs.String())
	if text == "" {
		text = p.cmd.ProcessState.String()
	}
	return fmt.Errorf("one of its two processes failed: %s", text)
}

// runBench runs one measurement. Whatever happens, its processes have ended and its memory is gone when it returns.
func runBench(ctx context.Context, e benchSpec) (*benchReport, error) {
	m, err := newBenchMemory(e)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	server, err := startBench(ctx, m, e, 1)
	if err != nil {
		return nil, err
	}
	defer server.end()
	select {
	case line, ok := <-server.lines:
		if !ok || line != "ready" {
			return nil, server.failed(ctx)
		}
	case <-time.After(benchPatience):
		return nil, fmt.Errorf("its process was not ready within %v", benchPatience)
	}
	client, err := startBench(ctx, m, e, 0)
	if err != nil {
		return nil, err
	}
	defer client.end()
	measures, other := client, server
	if e.Measure == benchFlow && e.Kind != benchCall {
		measures, other = server, client
	}
	for {
		select {
		case line, ok := <-measures.lines:
			if !ok {
				return nil, measures.failed(ctx)
			}
			var r benchReport
			err := json.Unmarshal([]byte(line), &r)
			return &r, err
		case _, ok := <-other.lines: // what a sender says when it is done
			if !ok {
				return nil, other.failed(ctx)
			}
		}
	}
}
