package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A lab is where measurements are made: a temporary directory with the programs, the CPUs, the clock.
type lab struct {
	dir   string // of the programs, sockets and the daemon
	self  string // this program
	cpus  [2]int
	tick  float64
	runs  int             // so far; names sockets
	ready map[string]bool // peers that were prepared

	region *region // of the contest at hand, or nil
	roudi  *process
	broker *process // of NATS
	addr   string   // where it listens
}

// A result is what a run measured: p50 and p99 in ns, rate a second, and so on, by name.
type result map[string]float64

// params say how a run is done. Zero values: the default of the end.
type params struct {
	size, warm, count int
	batch             int
	footprint         int // bytes of the slots of a ring
	pace              time.Duration
	sleep             bool // wait in the kernel
	untouched         bool
	one               bool   // both ends on one CPU
	busy              bool   // adaptive: wait as the library waits
	channel           string // the one that an end of ours uses; "": "there"
	peers             int    // how many of what grows
	ring              string // the channel whose memory is the footprint of a ring in C
}

func (l *lab) args(p params) []string {
	b := func(v bool) int {
		if v {
			return 1
		}
		return 0
	}
	a := []string{
		fmt.Sprint("size=", p.size), fmt.Sprint("warm=", p.warm), fmt.Sprint("count=", p.count), fmt.Sprint("batch=", max(p.batch, 1)),
		fmt.Sprint("pace=", p.pace.Nanoseconds()), fmt.Sprint("sleep=", b(p.sleep || p.busy)), fmt.Sprint("touch=", b(!p.untouched)),
		fmt.Sprint("tick=", l.tick), fmt.Sprint("dir=", l.dir), fmt.Sprint("id=run", l.runs),
	}
	if p.footprint != 0 {
		a = append(a, fmt.Sprint("footprint=", p.footprint))
	}
	return a
}

// on returns the CPUs of both ends.
func (l *lab) on(p params) [2]int {
	if p.one {
		return [2]int{l.cpus[0], l.cpus[0]}
	}
	return l.cpus
}

func newLab() (_ *lab, err error) {
	cpus, err := allowedCPUs()
	if err != nil {
		return nil, err
	}
	if len(cpus) < 2 {
		return nil, errors.New("the measurements need two CPUs, and this process may use one")
	}
	l := &lab{ready: map[string]bool{}, cpus: [2]int{cpus[0], cpus[1]}}
	if l.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if l.dir, err = os.MkdirTemp("", "shmd-bench-"); err != nil {
		return nil, err
	}
	l.tick = tickNs()
	return l, nil
}

func (l *lab) close() {
	l.stopRegion()
	for _, p := range []*process{l.roudi, l.broker} {
		if p != nil {
			p.kill()
		}
	}
	os.RemoveAll(l.dir)
}

// build makes the probe, the daemon and the ends.
func (l *lab) build(ctx context.Context) error {
	if err := l.compile(ctx, "gcc", "probe", "c/probe.c"); err != nil {
		return err
	}
	for _, b := range []struct{ in, out, tags, what string }{{"..", "shmd", "", "./cmd/shmd"}, {".", "end", "slim", "."}} {
		cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-tags", b.tags, "-o", filepath.Join(l.dir, b.out), b.what)
		cmd.Dir = b.in
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", b.what, err, out)
		}
	}
	return nil
}

// compile makes a program of the directory's own sources.
func (l *lab) compile(ctx context.Context, compiler, name string, args ...string) error {
	args = append([]string{"-O2", "-march=native", "-Ic", "-o", filepath.Join(l.dir, name)}, args...)
	if out, err := exec.CommandContext(ctx, compiler, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", compiler, strings.Join(args, " "), err, out)
	}
	return nil
}

// A process is a program that a measurement runs.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs bytes.Buffer
	wait func() error
}

// start starts a program on some CPUs. It ends with ctx.
//
// A Go program sees as many CPUs as it may run on, and does without spinning on one. An end that is pinned to one CPU of two because its peer is on the
// other must do as it does on the whole machine.
func (l *lab) start(ctx context.Context, cpus []int, files []*os.File, procs int, name string, args ...string) (*process, error) {
	p := &process{name: strings.Join(append([]string{filepath.Base(name)}, args...), " ")}
	p.cmd = exec.CommandContext(ctx, name, args...)
	p.cmd.Env = append(os.Environ(), fmt.Sprint("GOMAXPROCS=", procs))
	p.cmd.ExtraFiles = files
	p.cmd.Stderr = &p.errs
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := startOn(p.cmd, cpus...); err != nil {
		return nil, err
	}
	p.wait = sync.OnceValue(p.cmd.Wait)
	return p, nil
}

// end starts an end of this program.
func (l *lab) end(ctx context.Context, cpus []int, files []*os.File, role string, p params) (*process, error) {
	args := append([]string{"end", role}, l.args(p)...)
	if p.channel != "" {
		args = append(args, "channel="+p.channel)
	}
	if p.peers != 0 {
		args = append(args, fmt.Sprint("peers=", p.peers))
	}
	if l.region != nil {
		args = append(args, "region="+l.region.name, "socket="+l.region.socket)
	}
	if l.addr != "" {
		args = append(args, "addr="+l.addr)
	}
	name := filepath.Join(l.dir, "end")
	if strings.HasPrefix(role, "nats-") {
		name = l.self
	}
	procs := 2
	if p.one {
		procs = 1
	}
	return l.start(ctx, cpus, files, procs, name, args...)
}

// line reads the next line of a process.
func (p *process) line() (string, error) {
	s, err := p.out.ReadString('\n')
	if err != nil {
		return "", p.failed(err)
	}
	return strings.TrimSpace(s), nil
}

// await reads the line "ready".
func (p *process) await() error {
	s, err := p.line()
	if err == nil && s != "ready" {
		err = fmt.Errorf("%s: %q instead of ready", p.name, s)
	}
	return err
}

// result reads the line with the result and waits for the end of the process.
func (p *process) result() (result, error) {
	s, err := p.line()
	if err != nil {
		return nil, err
	}
	var r result
	if err := json.Unmarshal([]byte(s), &r); err != nil {
		return nil, fmt.Errorf("%s: %q is no result: %w", p.name, s, err)
	}
	p.in.Close()
	if err := p.wait(); err != nil {
		return nil, p.failed(err)
	}
	return r, nil
}

// failed says why a process did not do what it should.
func (p *process) failed(err error) error {
	p.kill()
	return fmt.Errorf("%s: %w: %s", p.name, err, strings.TrimSpace(p.errs.String()))
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.wait()
}

// patience bounds a run.
const patience = 2 * time.Minute

// program runs a C program that is both ends.
func (l *lab) program(ctx context.Context, name, measure string, p params) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cpus := l.on(p)
	args := append([]string{measure}, l.args(p)...)
	args = append(args, fmt.Sprint("cpu0=", cpus[0]), fmt.Sprint("cpu1=", cpus[1]))
	if p.peers != 0 {
		args = append(args, fmt.Sprint("peers=", p.peers))
	}
	c, err := l.start(ctx, l.cpus[:], nil, 2, filepath.Join(l.dir, name), args...)
	if err != nil {
		return nil, err
	}
	return c.result()
}

// pair runs two ends of this program: the first one says that it is ready before the second is started. It runs on the second CPU
// if it serves, on the first if it receives: the one that measures is on the first.
func (l *lab) pair(ctx context.Context, p params, first, second string, pipes bool) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cpus := l.on(p)
	if strings.HasSuffix(first, "-server") {
		cpus[0], cpus[1] = cpus[1], cpus[0]
	}
	var files [2][]*os.File
	if pipes {
		r1, w1, err1 := os.Pipe()
		r2, w2, err2 := os.Pipe()
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		files[0], files[1] = []*os.File{r1, w2}, []*os.File{r2, w1}
		defer func() {
			for _, f := range []*os.File{r1, w1, r2, w2} {
				f.Close()
			}
		}()
	}
	a, err := l.end(ctx, cpus[:1], files[0], first, p)
	if err != nil {
		return nil, err
	}
	defer a.kill()
	if err := a.await(); err != nil {
		return nil, err
	}
	b, err := l.end(ctx, cpus[1:], files[1], second, p)
	if err != nil {
		return nil, err
	}
	defer b.kill()
	// Either may end first, and the error of either must not leave the other waiting.
	type outcome struct {
		r   result
		err error
	}
	done := make(chan outcome, 2)
	for _, e := range []*process{a, b} {
		go func() {
			r, err := e.result()
			done <- outcome{r, err}
		}()
	}
	both, errs := result{}, []error(nil)
	for range 2 {
		o := <-done
		if o.err != nil {
			errs = append(errs, o.err)
			cancel()
		}
		maps.Copy(both, o.r)
	}
	return both, errors.Join(errs...)
}

// ping measures the distance between the two CPUs.
func (l *lab) ping(ctx context.Context) (ns float64, err error) {
	r, err := l.program(ctx, "probe", "line", params{size: 8, warm: 2000, count: 20000})
	return r["p50"], err
}

// placement names a distance, as ../docs/bench.md explains.
func placement(ns float64) string {
	switch {
	case ns < 85:
		return "siblings"
	case ns < 300:
		return "near"
	}
	return "far"
}
