package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// many: several producers and consumers on two CPUs.
func many() *contest {
	n := &contest{name: "queue, many ends, 64 B", channels: queueTOML("there", 1024, 64, "") + queueTOML("lane", 1024, 64, oneToOne)}
	p := params{size: 64, busy: true}
	lane := p.with(50000, 10000000)
	lane.channel = "lane"
	n.entries = []entry{
		pair("shmd 1:1", "queue-receive", "queue-send", p.with(50000, 3000000)),
		pair("shmd 1:1, producers = 1, consumers = 1", "lane-receive", "lane-send", lane),
		crowd("shmd 4:4", 4, 4, p),
		crowd("shmd 1:64", 1, 64, p),
		c("C ring, 64 consumers", "crowd", params{size: 64, peers: 64}.with(1, 1)),
	}
	n.rows = append(n.rows, ratio("queue, 1:64 ends on two CPUs, in total, 64 B", "M/s", "rate", "shmd 1:64", "C ring, 64 consumers", "", ">= 0.5"))
	for _, key := range []string{"shmd 4:4", "shmd 1:64"} {
		n.rows = append(n.rows,
			ratio("queue, "+key[len("shmd "):]+" ends on two CPUs, in total, 64 B", "M/s", "rate", key, "shmd 1:1", "", ">= 0.5"),
			ratio("queue, "+key[len("shmd "):]+" ends on two CPUs, in total, 64 B", "M/s", "rate", key, "shmd 1:1, producers = 1, consumers = 1", "", ">= 0.5"),
			rowSpec{
				measure: "queue, " + key[len("shmd "):] + " ends, messages of the consumer that got least", unit: "messages", reference: "mean of all consumers",
				needs: []string{key}, target: ">= 0.1",
				value: func(r map[string]result) float64 { return r[key]["least"] }, against: func(r map[string]result) float64 { return r[key]["mean"] },
			})
	}
	return n
}

// crowd is a candidate of several producers and consumers, spread over the CPUs.
func crowd(key string, producers, consumers int, p params) entry {
	return entry{key: key, p: p, run: func(ctx context.Context, l *lab, p params) (result, error) {
		return l.crowd(ctx, p, producers, consumers)
	}}
}

// crowdTime is how long a crowd is let run.
const crowdTime = 500 * time.Millisecond

func (l *lab) crowd(ctx context.Context, p params, producers, consumers int) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := func(role string, n int) (ends []*process, err error) {
		for range n {
			e, err := l.end(ctx, l.cpus[:], nil, role, p)
			if err != nil {
				return ends, err
			}
			ends = append(ends, e)
		}
		return ends, nil
	}
	takers, err1 := start("queue-consume", consumers)
	makers, err2 := start("queue-produce", producers)
	all := append(append([]*process{}, takers...), makers...)
	defer func() {
		for _, e := range all {
			e.kill()
		}
	}()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	for _, e := range all {
		if err := e.await(); err != nil {
			return nil, err
		}
	}
	tell := func(ends []*process, what string) error {
		for _, e := range ends {
			if _, err := fmt.Fprintln(e.in, what); err != nil {
				return e.failed(err)
			}
		}
		return nil
	}
	if err := tell(all, "go"); err != nil {
		return nil, err
	}
	begin := time.Now()
	time.Sleep(crowdTime)
	elapsed := time.Since(begin)
	if err := tell(makers, "stop"); err != nil {
		return nil, err
	}
	res := result{"producers": float64(producers), "consumers": float64(consumers)}
	for _, e := range makers {
		r, err := e.result()
		if err != nil {
			return nil, err
		}
		res["sent"] += r["sent"]
	}
	if err := tell(takers, "stop"); err != nil {
		return nil, err
	}
	for i, e := range takers {
		r, err := e.result()
		if err != nil {
			return nil, err
		}
		n := r["received"]
		res["received"] += n
		if i == 0 || n < res["least"] {
			res["least"] = n
		}
		res["most"] = max(res["most"], n)
	}
	res["mean"] = res["received"] / float64(consumers)
	res["rate"] = res["sent"] / elapsed.Seconds()
	return res, nil
}

// A job is a number of ends that do the same.
type job struct {
	role string
	n    int
	cpu  int // index of lab.cpus, or -1: both
}

// beside runs the end role on the first CPU while others do their jobs, and adds up what those report.
func (l *lab) beside(ctx context.Context, p params, role string, jobs ...job) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var all []*process
	defer func() {
		for _, e := range all {
			e.kill()
		}
	}()
	for _, j := range jobs {
		cpus := l.cpus[:]
		if j.cpu >= 0 {
			cpus = cpus[j.cpu : j.cpu+1]
		}
		for range j.n {
			e, err := l.end(ctx, cpus, nil, j.role, p)
			if err != nil {
				return nil, err
			}
			all = append(all, e)
		}
	}
	for _, e := range all {
		if err := e.await(); err != nil {
			return nil, err
		}
	}
	main, err := l.end(ctx, l.cpus[:1], nil, role, p)
	if err != nil {
		return nil, err
	}
	defer main.kill()
	res, err := main.result()
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if _, err := fmt.Fprintln(e.in, "stop"); err != nil {
			return nil, e.failed(err)
		}
	}
	for _, e := range all {
		r, err := e.result()
		if err != nil {
			return nil, err
		}
		for k, v := range r {
			res[k] += v
		}
	}
	return res, nil
}

// alongside is a candidate of an end that runs while others do their jobs.
func alongside(key, role string, p params, jobs ...job) entry {
	return entry{key: key, p: p, run: func(ctx context.Context, l *lab, p params) (result, error) { return l.beside(ctx, p, role, jobs...) }}
}
