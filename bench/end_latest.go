package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/shmd/shmd/pkg/shm"
)

func init() {
	roles["latest-write"] = latestWrite
	roles["latest-put"] = latestPut
	roles["latest-read"] = latestRead
	roles["latest-poll"] = latestPoll
}

func (e *end) latest(produce, consume []string) (*shm.Region, *shm.Latest, error) {
	r, err := e.attach(produce, consume)
	if err != nil {
		return nil, nil, err
	}
	l, err := r.Latest(e.channel)
	return r, l, err
}

// latestWrite puts as fast as it can until it is told to stop. Each value is one of the source's: the same word everywhere plus the place of the word.
func latestWrite(e *end) error {
	r, l, err := e.latest([]string{e.channel}, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	src := newSource(e.size)
	if _, err := l.Put(src.message(0)); err != nil {
		return err
	}
	var stop atomic.Bool
	context.AfterFunc(e.stopped(), func() { stop.Store(true) })
	e.ready()
	n := 0
	for ; !stop.Load(); n++ {
		if _, err := l.Put(src.message(n)); err != nil {
			return err
		}
	}
	report(result{"puts": float64(n)})
	return nil
}

// latestPut puts a number of values and says what one cost.
func latestPut(e *end) error {
	r, l, err := e.latest([]string{e.channel}, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	src := newSource(e.size)
	var begin int64
	for i := range e.total() {
		if i == e.warm {
			begin = cpuNs()
		}
		if _, err := l.Put(src.message(i)); err != nil {
			return err
		}
	}
	report(result{"cpu_ns": float64(cpuNs()-begin) / float64(e.count)})
	return nil
}

// latestRead takes the time of reads. A value must be whole: its words go up by one.
func latestRead(e *end) error {
	r, l, err := e.latest(nil, []string{e.channel})
	if err != nil {
		return err
	}
	defer r.Close()
	in, err := l.Reader()
	if err != nil {
		return err
	}
	defer in.Close()
	// The loop does no more than that of c/probe.c: what it costs is part of the time.
	t, buf := e.trips(), make([]byte, 0, e.size)
	times := make([]uint32, e.total())
	words := uint64(e.size/8 - 1)
	overtaken, versions, seen := 0, 0, uint64(0)
	for i, last := 0, ticks(); i < len(times); {
		b, version, err := in.Get(buf)
		if err != nil {
			if errors.Is(err, shm.ErrOvertaken) && overtaken < e.total() { // its time counts: the reader comes again
				overtaken++
				continue
			}
			return err
		}
		now := ticks()
		times[i] = uint32(now - last)
		i, last = i+1, now
		if first, end := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[len(b)-8:]); end-first != words {
			return fmt.Errorf("version %d is torn: its first word is %d, its last %d", version, first, end)
		}
		if version != seen {
			versions++
		}
		seen = version
	}
	t.t = times[e.warm:]
	res := t.result()
	res["overtaken"], res["versions"] = float64(overtaken), float64(versions)
	report(res)
	return nil
}

// latestPoll reads once a millisecond until it is told to stop.
func latestPoll(e *end) error {
	r, l, err := e.latest(nil, []string{e.channel})
	if err != nil {
		return err
	}
	defer r.Close()
	ctx, buf, n := e.stopped(), make([]byte, 0, e.size), 0
	e.ready()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			report(result{"reads": float64(n)})
			return nil
		case <-tick.C:
		}
		if _, _, err := l.Get(buf); err != nil && !errors.Is(err, shm.ErrEmpty) && !errors.Is(err, shm.ErrOvertaken) {
			return err
		}
		n++
	}
}
