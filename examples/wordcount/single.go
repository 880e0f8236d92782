package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/shmd/shmd/internal/wordcount"
)

// singleSlot is the size of the messages that a plan is made of when no queue sets it.
const singleSlot = 1 << 14

// single counts the same text with the same kernel in one thread of one process, and lets wc -w read it too:
// what the pipeline is to be compared with.
func single(ctx context.Context, c config) (*report, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	began := time.Now()
	p, err := plan(ctx, c.dir, singleSlot)
	if err != nil {
		return nil, err
	}
	m, err := p.Count(ctx)
	if err != nil {
		return nil, err
	}
	rep := newReport(p, m, time.Since(began), c.top)
	rep.Wc, err = wc(ctx, p)
	return rep, err
}

// wc times `wc -w` on the files of a plan. Files that it cannot read are no failure, as they are none here.
func wc(ctx context.Context, p *wordcount.Plan) (*timing, error) {
	var names strings.Builder
	for _, msg := range p.Jobs {
		job, err := wordcount.DecodeJob(msg)
		if err != nil {
			return nil, err
		}
		for _, r := range job.Ranges {
			if r.Offset == 0 {
				names.WriteString(r.Path + "\x00")
			}
		}
	}
	cmd := exec.CommandContext(ctx, "wc", "-w", "--files0-from=-")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = strings.NewReader(names.String())
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if exit := (*exec.ExitError)(nil); err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		return nil, fmt.Errorf("wc -w: %w", err)
	}
	return &timing{took.Seconds(), mbps(uint64(p.Bytes), took)}, nil
}
