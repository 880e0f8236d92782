package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// idle: what waiting costs.
func idle() *contest {
	n := &contest{name: "idle consumers, 64 for 10 s", apart: true, where: "any", channels: queueTOML("there", 1024, 4096, "")}
	n.entries = []entry{{key: "shmd", p: params{count: 10}, run: idleRun}}
	n.rows = []rowSpec{{
		measure: n.name + ", run time of all processes", unit: "ms", reference: "5 ms", needs: []string{"shmd"}, target: "<= 1",
		value: func(r map[string]result) float64 { return r["shmd"]["run_ms"] }, against: func(map[string]result) float64 { return 5 },
	}}
	return n
}

// idleEnds starts n consumers that wait. It returns their process ids, then those of the daemon and its workers.
func (l *lab) idleEnds(ctx context.Context, p params, n int) (pids []int, stop func(), err error) {
	var all []*process
	stop = func() {
		for _, e := range all {
			e.kill()
		}
	}
	for range n {
		e, err := l.end(ctx, l.cpus[:], nil, "queue-wait", p)
		if err != nil {
			return nil, stop, err
		}
		all = append(all, e)
	}
	for _, e := range all {
		if err := e.await(); err != nil {
			return nil, stop, err
		}
		pids = append(pids, e.cmd.Process.Pid)
	}
	more, err := l.region.pids()
	return append(pids, more...), stop, err
}

// idleRun lets 64 consumers wait for p.count seconds.
func idleRun(ctx context.Context, l *lab, p params) (result, error) {
	pids, stop, err := l.idleEnds(ctx, p, 64)
	defer stop()
	if err != nil {
		return nil, err
	}
	if err := settled(ctx, pids); err != nil {
		return nil, err
	}
	before, err := runTime(pids)
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(time.Duration(p.count) * time.Second): // what is measured: nothing happens for so long
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	after, err := runTime(pids)
	return result{"run_ms": float64(after-before) / 1e6}, err
}

// settled waits until no process has run for half a second.
func settled(ctx context.Context, pids []int) error {
	last := int64(-1)
	for range 60 {
		now, err := runTime(pids)
		if err != nil {
			return err
		}
		if now-last < 500_000 && last >= 0 {
			return nil
		}
		last = now
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("idle processes do not come to rest within 30 s")
}

// memory: what a daemon and a client take beside the channels.
func memory() *contest {
	n := &contest{name: "memory", apart: true, where: "any", channels: queueTOML("there", 1024, 4096, "")}
	n.entries = []entry{{key: "shmd", p: params{count: 1}, run: memoryRun}}
	for _, who := range []string{"daemon", "client"} {
		n.rows = append(n.rows, rowSpec{
			measure: fmt.Sprintf("memory of the %s beyond the channels, PSS", who), unit: "MiB", reference: "16 MiB", needs: []string{"shmd"}, target: "<= 1",
			value: func(r map[string]result) float64 { return r["shmd"][who] }, against: func(map[string]result) float64 { return 16 },
		})
	}
	return n
}

// memoryRun starts p.count clients, and takes the largest; a process alone bears its program's pages alone.
func memoryRun(ctx context.Context, l *lab, p params) (result, error) {
	pids, stop, err := l.idleEnds(ctx, p, p.count)
	defer stop()
	if err != nil {
		return nil, err
	}
	there := fmt.Sprintf("shmd:%s:there", l.region.name)
	res := result{}
	for _, pid := range pids[:p.count] {
		n, err := pss(pid, there)
		if err != nil {
			return nil, err
		}
		res["client"] = max(res["client"], float64(n)/(1<<20))
	}
	n, err := pss(l.region.cmd.Process.Pid, there)
	res["daemon"] = float64(n) / (1 << 20)
	return res, err
}
