// Bench measures shmd beside the limits of the machine and beside its peers, and says which of the project's targets are met.
//
//	make bench                                     # everything: table, docs/bench.md, docs/bench-*.svg, docs/bench.json
//	make bench BENCH='asleep' BENCHFLAGS='-n 9'    # some of it, with more rounds: the table alone
//
// docs/bench.md says how to read what it prints.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "end" {
		e, err := newEnd(os.Args[2:])
		if err == nil {
			err = e.run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench end:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		stop()
		os.Exit(1)
	}
}

type options struct {
	run    *regexp.Regexp
	rounds int
	quick  bool
	output string
	write  string
	list   bool
}

func bench(ctx context.Context, args []string) error {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	run := f.String("run", "", "measure only contests whose name matches this `regexp`")
	f.IntVar(&o.rounds, "n", 5, "rounds at least")
	f.BoolVar(&o.quick, "quick", false, "one round of few messages: whether it works, not how fast")
	f.StringVar(&o.output, "o", "table", "what is printed: table or json")
	f.StringVar(&o.write, "w", "", "write bench.md, bench.json and bench-*.svg into this `directory`")
	f.BoolVar(&o.list, "list", false, "print the names of the contests")
	page := f.Bool("page", false, "measure nothing: write the page and the pictures anew from the bench.json in the directory of -w")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.output != "table" && o.output != "json":
		return fmt.Errorf("-o %s: table or json", o.output)
	case o.rounds < 1:
		return errors.New("-n: at least 1")
	}
	if o.run, err = regexp.Compile(*run); err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	if o.quick {
		o.rounds = 1
	}
	if *page {
		doc, err := readDocument(o.write)
		if err != nil {
			return err
		}
		return doc.write(o.write)
	}
	var chosen []*contest
	for _, c := range contests() {
		if o.run.MatchString(c.name) {
			chosen = append(chosen, c)
		}
	}
	var growing []*growth
	for _, g := range growths() {
		if o.run.MatchString(g.name) {
			growing = append(growing, g)
		}
	}
	if o.list {
		for _, c := range chosen {
			fmt.Println(c.name)
		}
		for _, g := range growing {
			fmt.Println(g.name)
		}
		return nil
	}
	if len(chosen)+len(growing) == 0 {
		return fmt.Errorf("-run %q matches no contest; -list names them", *run)
	}
	l, err := newLab()
	if err != nil {
		return err
	}
	defer l.close()
	doc, err := measure(ctx, l, chosen, growing, o)
	if err != nil {
		return err
	}
	if o.write != "" && !o.quick { // its figures are no figures
		if err := doc.write(o.write); err != nil {
			return err
		}
	}
	if o.output == "json" {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(doc)
	}
	doc.print(os.Stdout)
	return nil
}

// measure runs contests and returns what they gave.
func measure(ctx context.Context, l *lab, chosen []*contest, growing []*growth, o options) (*document, error) {
	if _, err := os.Stat("c/probe.c"); err != nil {
		return nil, errors.New("run it in the directory bench of the source: make bench does")
	}
	p := newProgress()
	defer p.end()
	p.say("building")
	if err := l.build(ctx); err != nil {
		return nil, err
	}
	doc := newDocument(ctx)
	gone := map[string]string{}
	begin, all := time.Now(), len(chosen)+len(growing)
	for i, c := range chosen {
		if o.quick {
			c.quicken()
		}
		started := time.Now()
		rounds, err := c.run(ctx, l, o.rounds, gone, func(what string) { p.say(fmt.Sprintf("[%d/%d] %s", i+1, all, what)) })
		if err != nil {
			return nil, err
		}
		rows, err := c.compute(rounds, min(o.rounds, 3))
		if err != nil {
			return nil, err
		}
		doc.add(rows)
		p.done(fmt.Sprintf("[%d/%d] %s: %d rounds, %.0f s", i+1, all, c.name, len(rounds), time.Since(started).Seconds()))
	}
	for i, g := range growing {
		started, i := time.Now(), len(chosen)+i
		samples, err := g.run(ctx, l, min(o.rounds, 3), o.quick, func(what string) { p.say(fmt.Sprintf("[%d/%d] %s", i+1, all, what)) })
		if err != nil {
			return nil, err
		}
		doc.Growth = append(doc.Growth, samples...)
		p.done(fmt.Sprintf("[%d/%d] %s: %.0f s", i+1, all, g.name, time.Since(started).Seconds()))
	}
	doc.Seconds = time.Since(begin).Seconds()
	doc.Absent = gone
	return doc, nil
}

// quicken makes a contest short.
func (c *contest) quicken() {
	for i := range c.entries {
		p := &c.entries[i].p
		p.count = max(p.count/50, min(p.count, 2))
		if p.pace != 0 {
			p.count = 30
		}
		p.warm = max(p.warm/10, min(p.warm, 5))
	}
}

// A progress shows on standard error what is going on: in one line if that is a terminal.
type progress struct {
	terminal bool
	last     string
}

func newProgress() *progress {
	info, err := os.Stderr.Stat()
	return &progress{terminal: err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"}
}

func (p *progress) say(what string) {
	if p.terminal && what != p.last {
		fmt.Fprintf(os.Stderr, "\r\033[K%s", what)
		p.last = what
	}
}

// done tells in a line of its own that something is over.
func (p *progress) done(what string) {
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\033[K")
	}
	fmt.Fprintln(os.Stderr, what)
}

func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\033[K")
	}
}
