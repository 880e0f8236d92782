package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/wordcount"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// pipeline is the run: plan, feed and merge, measure, print.
func pipeline(whole context.Context, c config, stdout, stderr io.Writer) error {
	r, jobs, results, err := attach(whole, c)
	if err != nil {
		return err
	}
	defer r.Close()
	ctx, cancel := context.WithCancelCause(whole)
	defer cancel(nil)

	began := time.Now()
	p, err := plan(ctx, c.dir, jobs.SlotSize())
	if err != nil {
		return err
	}
	crew := &crew{region: r, group: c.group, killed: map[int]bool{}}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		if err := feed(ctx, p, jobs); err != nil {
			cancel(err)
		}
	}()
	go crew.watch(ctx, cancel)
	m, err := merge(ctx, p, results, crew, c.kill, newProgress(stderr, p.Bytes))
	took := time.Since(began)
	cancel(nil)
	<-fed
	if err != nil {
		return err
	}

	rep := newReport(p, m, took, c.top)
	rep.Kills = len(crew.killed)
	if rep.Memory, err = measure(p, crew); err != nil {
		return err
	}
	if c.report != "" {
		err = rep.write(c.report)
	} else {
		err = rep.print(stdout, c.output)
	}
	if err == nil && c.keep {
		fmt.Fprintln(stderr, "wordcount: stays attached until a signal or the end of the region")
		select {
		case <-whole.Done():
		case <-r.Quit().Done():
		}
	}
	return err
}

// feed sends all jobs. The queue holds fewer than there may be: it waits for room.
func feed(ctx context.Context, p *wordcount.Plan, jobs *shm.Queue) error {
	for _, msg := range p.Jobs {
		if err := jobs.Send(ctx, msg); err != nil {
			return fmt.Errorf("send a job: %w", err)
		}
	}
	return nil
}

// merge adds up results until every job has one. Of n kills, number k comes when k/(n+1) of the jobs are
// done; the merger waits for it, so that there are as many as were asked for.
func merge(ctx context.Context, p *wordcount.Plan, results *shm.Queue, crew *crew, kills int, bar progress) (*wordcount.Merger, error) {
	defer bar.end()
	m := wordcount.NewMerger(p.Run, len(p.Jobs))
	var msg []byte
	for k := 1; ; {
		for ; k <= kills && len(p.Jobs)-m.Left() >= k*len(p.Jobs)/(kills+1); k++ {
			if err := crew.kill(ctx); err != nil {
				return nil, cause(ctx, err)
			}
		}
		if m.Left() == 0 {
			return m, nil
		}
		var err error
		if msg, err = results.ReceiveCopy(ctx, msg[:0]); err != nil {
			return nil, cause(ctx, fmt.Errorf("receive a result: %w", err))
		}
		if _, err = m.Accept(msg); err != nil {
			return nil, fmt.Errorf("channel %q: %w; does another program send to it?", results.Name(), err)
		}
		bar.set(int64(m.Bytes))
	}
}

// cause prefers why ctx was ended to that it was.
func cause(ctx context.Context, err error) error {
	switch c := context.Cause(ctx); {
	case errors.Is(err, shm.ErrQuit), errors.Is(c, shm.ErrQuit):
		return errors.New("the region was stopped before the count was done; start it again and run this again")
	case c != nil && !errors.Is(c, context.Canceled):
		return c
	case c != nil:
		return errors.New("interrupted")
	}
	return err
}

// crew is the group of workers that count. It reads the roster; only one goroutine calls kill.
type crew struct {
	region *shm.Region
	group  string
	killed map[int]bool // pids
}

// An outsider cannot sleep on the roster, so it looks now and then.
const (
	lookForReady = 5 * time.Millisecond
	lookForEnd   = time.Second
)

func (c *crew) workers() ([]protocol.Worker, error) {
	all, err := c.region.Workers()
	var group []protocol.Worker
	for _, w := range all {
		if strings.HasPrefix(w.Name, c.group+".") {
			group = append(group, w)
		}
	}
	if err == nil && len(group) == 0 {
		err = fmt.Errorf("region %q has no group %q; run this on a region of examples/wordcount/shmd.toml", c.region.Name(), c.group)
	}
	return group, err
}

// kill ends one worker that is ready, at random, with SIGKILL; if there is none it waits for one.
func (c *crew) kill(ctx context.Context) error {
	tick := time.NewTicker(lookForReady)
	defer tick.Stop()
	for {
		workers, err := c.workers()
		if err != nil {
			return err
		}
		for _, i := range rand.Perm(len(workers)) {
			done, err := c.killOne(workers[i])
			if done || err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// killOne kills the process of a worker if it is ready and still the same.
func (c *crew) killOne(w protocol.Worker) (done bool, err error) {
	if w.State != protocol.StateReady || w.Pid <= 0 || c.killed[w.Pid] {
		return false, nil
	}
	p, err := os.FindProcess(w.Pid) // holds the process itself (a pidfd), so that the pid cannot come to mean another
	if err != nil {
		return false, nil
	}
	defer p.Release()
	now, err := c.workers()
	if err != nil {
		return false, err
	}
	for _, n := range now {
		if n.Name != w.Name || n.Pid != w.Pid || n.StartTicks != w.StartTicks {
			continue
		}
		switch err := p.Kill(); {
		case errors.Is(err, os.ErrProcessDone):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("kill worker %s (pid %d): %w; run this as the daemon's user, or with --kill 0", w.Name, w.Pid, err)
		}
		c.killed[w.Pid] = true
		return true, nil
	}
	return false, nil
}

// watch ends the run when no worker is left that could ever count.
func (c *crew) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(lookForEnd)
	defer tick.Stop()
	for {
		workers, err := c.workers()
		if err != nil {
			cancel(err)
			return
		}
		if reason, over := allEnded(workers); over {
			cancel(fmt.Errorf("no worker of group %q runs: %s; see shmctl ps", c.group, reason))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func allEnded(workers []protocol.Worker) (reason string, over bool) {
	for _, w := range workers {
		if w.State != protocol.StateFailed && w.State != protocol.StateExited {
			return "", false
		}
		reason = fmt.Sprintf("%s is %v (%s)", w.Name, w.State, w.Reason)
	}
	return reason, true
}
